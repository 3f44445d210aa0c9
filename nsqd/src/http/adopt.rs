//! `/channel/adopt`: stores messages that a drain of another node moves here. [`crate::drain::wire`] has the requests.

use nsq_daemon::http::{BodyError, HttpError, Query, Request, Response, StatusCode, response};
use nsq_protocol::{ChannelName, TopicName};

use super::admin::{INVALID_TOPIC, find_topic};
use super::dead_letters::{bad_request, only};
use super::publish::BODY_TOO_BIG;
use super::{HttpContext, not_stored, required, topic_parameter};
use crate::drain::receiver::{BEGIN_AGAIN, DRAINING};
use crate::drain::wire::{self, BatchAnswer, BeginAnswer, BeginBody, Phase};
use crate::storage::record::TransferId;
use crate::topic::adopting::{AdoptError, Beginning, Likeness};

const PARAMETERS: [&str; 5] = ["topic", "channel", "transfer", "session", "phase"];
/// Longest body of the first request: names and settings.
const MAX_BEGIN_BYTES: usize = 256 << 10;

/// What a request is about.
struct About {
    topic: TopicName,
    channel: Option<ChannelName>,
    transfer: TransferId,
    session: u64,
    phase: Phase,
}

/// `POST /channel/adopt?topic=[&channel=]&transfer=&session=&phase=begin|batch|end`
pub async fn adopt(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let about = about(&request.query()?)?;
    let limit = match about.phase {
        Phase::Begin | Phase::End => MAX_BEGIN_BYTES,
        Phase::Batch => wire::max_batch_bytes(context.config.max_msg_size),
    };
    let body = request.body.read_limited(limit).await.map_err(|error| match error {
        BodyError::TooBig => BODY_TOO_BIG,
        BodyError::Busy => HttpError::BUSY,
        BodyError::Unreadable(_) => HttpError::INTERNAL_ERROR,
    })?;
    if context.registry.engine().status.is_draining() {
        let reason = format!("{DRAINING}: this nsqd drains, too; choose another one");
        return Err(HttpError { word: reason.into(), ..HttpError::unavailable("") });
    }
    match about.phase {
        Phase::Begin => begin(context, about, &body).await.map(|answer| response::value(encoding, &answer)),
        Phase::Batch => {
            let topic = find_topic(context, about.topic.as_str())
                .map_err(|_| begin_again("the topic was deleted"))?;
            let batch = wire::decode(&body, (about.transfer, about.session), context.config.max_msg_size)
                .map_err(|error| bad_request(format!("BAD_BATCH: {error}")))?;
            context.registry.engine().wait_for_room().await;
            let count = topic.adopt(about.channel, batch).await.map_err(|error| refused(context, error))?;
            Ok(response::value(encoding, &BatchAnswer { stored: count.stored, known: count.known }))
        }
        Phase::End => {
            let topic = find_topic(context, about.topic.as_str())
                .map_err(|_| begin_again("the topic was deleted"))?;
            let ended = topic.end_adoption(about.transfer, about.session).await;
            ended.map_err(|error| refused(context, error))?;
            Ok(response::empty())
        }
    }
}

async fn begin(context: &HttpContext, about: About, body: &[u8]) -> Result<BeginAnswer, HttpError> {
    let body: BeginBody = serde_json::from_slice(body)
        .map_err(|error| bad_request(format!("BAD_BODY: not JSON of the expected form: {error}")))?;
    if body.process == context.drainer.process() {
        return Err(conflict("SAME_NODE: it is this nsqd that drains; choose another one".to_owned()));
    }
    let channel = match (about.channel, &body.channel) {
        (Some(name), Some(like)) => Some((name, Likeness::from(like))),
        (None, None) => None,
        _ => {
            return Err(bad_request(
                "BAD_BODY: the body must describe the channel if one is named".to_owned(),
            ));
        }
    };
    let subject = match &channel {
        Some((name, _)) => format!("{}/{name}", about.topic),
        None => about.topic.to_string(),
    };
    nsq_daemon::info!(
        context.logger,
        "NSQ: adopting messages of {subject} from {} (transfer {})",
        nsq_protocol::printable(&body.source),
        about.transfer
    );
    let beginning = Beginning {
        topic: about.topic,
        like_topic: Likeness::from(&body.topic),
        channel,
        transfer: about.transfer,
        session: about.session,
    };
    let known =
        context.registry.begin_adoption(&beginning).await.map_err(|error| not_stored(context, error))?;
    Ok(known.into())
}

fn about(query: &Query<'_>) -> Result<About, HttpError> {
    only(query, &PARAMETERS)?;
    let topic = TopicName::new(&*topic_parameter(query)?).map_err(|_| INVALID_TOPIC)?;
    let channel = match query.get("channel") {
        None => None,
        Some(name) => {
            Some(ChannelName::new(&*name).map_err(|_| HttpError::bad_request("INVALID_ARG_CHANNEL"))?)
        }
    };
    if topic.is_ephemeral() || channel.as_ref().is_some_and(ChannelName::is_ephemeral) {
        return Err(bad_request(
            "EPHEMERAL: messages of ephemeral topics and channels do not move".to_owned(),
        ));
    }
    let text = required(query, "transfer", "MISSING_ARG_TRANSFER")?;
    let transfer = text
        .parse()
        .map_err(|error| bad_request(format!("INVALID_ARG_TRANSFER: transfer={text}: {error}")))?;
    let text = required(query, "session", "MISSING_ARG_SESSION")?;
    let session = text.parse().map_err(|_| {
        bad_request(format!("INVALID_ARG_SESSION: session={text}: expected a number, such as session=1"))
    })?;
    let text = required(query, "phase", "MISSING_ARG_PHASE")?;
    let phase = Phase::ALL.into_iter().find(|phase| phase.word() == text).ok_or_else(|| {
        bad_request(format!("INVALID_ARG_PHASE: phase={text}: expected begin, batch or end"))
    })?;
    Ok(About { topic, channel, transfer, session, phase })
}

fn refused(context: &HttpContext, error: AdoptError) -> HttpError {
    match error {
        AdoptError::Publish(error) => not_stored(context, error),
        AdoptError::UnknownSession | AdoptError::NoChannel => begin_again(&error.to_string()),
    }
}

fn begin_again(reason: &str) -> HttpError {
    conflict(format!("{BEGIN_AGAIN}: {reason}"))
}

fn conflict(reason: String) -> HttpError {
    HttpError { word: reason.into(), ..HttpError::new(StatusCode::CONFLICT, "") }
}
