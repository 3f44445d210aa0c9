//! `/topic/set`, `/channel/set` and `/policy/explain`.
//!
//! A change sets all of its settings or, if one of them is invalid, none: 400 `INVALID_SETTING: ` and the reason.

use std::borrow::Cow;

use nsq_daemon::http::{HttpError, Query, Request, Response, response};
use nsq_protocol::{ChannelName, ExplainedSetting, PolicyExplainResponse, TopicName};

use super::admin::{CHANNEL_NOT_FOUND, INVALID_TOPIC, channel_parameters, find_topic, persisted};
use super::retention::refused;
use super::{HttpContext, topic_parameter};
use crate::policy::effective::{Origin, Subject};
use crate::policy::setting::Setting;
use crate::policy::settings::{Change, InvalidChange, Level, Settings};

/// `POST /topic/set?topic=&KEY=VALUE...`: the value `default` removes a setting.
pub async fn set_topic(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let name = topic_parameter(&query)?;
    if !nsq_protocol::is_valid_name(name.as_bytes()) {
        return Err(INVALID_TOPIC);
    }
    let topic = find_topic(context, &name)?;
    topic.change_settings(&change(Level::Topic, &query, &["topic"])?).map_err(refused)?;
    topic.expire_now().await;
    persisted(context).await
}

/// `POST /channel/set?topic=&channel=&KEY=VALUE...`: the value `default` removes a setting.
pub async fn set_channel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let (topic, name) = channel_parameters(context, &query)?;
    let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
    let change = change(Level::Channel, &query, &["topic", "channel"])?;
    topic.change_channel_settings(&channel, &change).map_err(|error| HttpError {
        word: Cow::Owned(format!("INVALID_SETTING: {error}")),
        ..HttpError::bad_request("")
    })?;
    topic.expire_now().await;
    persisted(context).await
}

fn change(level: Level, query: &Query<'_>, others: &[&str]) -> Result<Change, HttpError> {
    let pairs: Vec<_> = query.iter().filter(|(key, _)| !others.contains(&key.as_ref())).collect();
    let pairs = pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
    Change::parse(level, pairs).map_err(invalid_setting)
}

fn invalid_setting(error: InvalidChange) -> HttpError {
    HttpError { word: Cow::Owned(format!("INVALID_SETTING: {error}")), ..HttpError::bad_request("") }
}

/// `GET /policy/explain?topic=[&channel=]`: works for names that do not exist yet, too.
pub async fn explain(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let topic = TopicName::new(&*topic_parameter(&query)?).map_err(|_| INVALID_TOPIC)?;
    let channel = match query.get("channel") {
        None => None,
        Some(name) => Some(ChannelName::new(&*name).map_err(|_| HttpError::bad_request("INVALID_CHANNEL"))?),
    };
    let found = context.registry.get(topic.as_str());
    let of_topic = found.as_ref().map(|topic| topic.own_settings()).unwrap_or_default();
    let (own, exists) = match &channel {
        None => (Some(of_topic.clone()), found.is_some()),
        Some(name) => {
            let channel = found.and_then(|topic| topic.channel(name.as_str()));
            (channel.as_ref().map(|channel| channel.own_settings()), channel.is_some())
        }
    };
    let subject = match &channel {
        None => Subject::Topic(topic.as_str()),
        Some(channel) => {
            Subject::Channel { topic: topic.as_str(), channel: channel.as_str(), of_topic: &of_topic }
        }
    };
    let answer = PolicyExplainResponse {
        topic_name: topic.to_string(),
        channel_name: channel.as_ref().map(ToString::to_string),
        exists,
        policy_file: Some(&context.config.policy_file)
            .filter(|path| !path.is_empty())
            .map(|path| path.to_string_lossy().into_owned()),
        settings: explained(context, subject, &own.unwrap_or_default()),
    };
    Ok(response::value(encoding, &answer))
}

fn explained(context: &HttpContext, subject: Subject<'_>, own: &Settings) -> Vec<ExplainedSetting> {
    let sources = context.registry.engine().policy_sources();
    let explain = |setting: Setting| {
        let (value, origin) = sources.value(setting, subject, own);
        let (origin, line, flag) = match origin {
            Origin::Api => ("api", None, None),
            Origin::File { line } => ("file", Some(line as u64), None),
            Origin::Topic => ("topic", None, None),
            Origin::Flag(flag) => ("flag", None, Some(flag.to_owned())),
            Origin::Default => ("default", None, None),
        };
        ExplainedSetting {
            name: setting.name().to_owned(),
            value: value.map(|value| value.to_string()),
            origin: origin.to_owned(),
            line,
            flag,
            help: setting.help().to_owned(),
        }
    };
    Setting::all().filter(|setting| subject.has(*setting)).map(explain).collect()
}
