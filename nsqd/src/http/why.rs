//! `/channel/why`.

use nsq_daemon::http::{HttpError, Request, Response, response};
use nsq_protocol::{WhyCause, WhyResponse};

use super::HttpContext;
use super::admin::channel_parameters;
use super::dead_letters::only;
use crate::why::gather::gather;
use crate::why::rules::{Cause, causes};

const PARAMETERS: [&str; 3] = ["topic", "channel", "id"];

/// `GET /channel/why?topic=&channel=[&id=]`: the channel need not exist.
pub async fn why(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let (topic, channel, id) = {
        let query = request.query_without_body().await?;
        only(&query, &PARAMETERS)?;
        let (topic, channel) = channel_parameters(context, &query)?;
        (topic, channel, super::messages::id(&query)?)
    };
    let mut facts = {
        let channel = channel.clone();
        // An id that another node gave is looked for on disk.
        context.heavy.run(move || gather(&topic, channel.as_str(), id)).await?
    };
    facts.node.max_leases = Some(context.config.max_http_leases);
    let cause = |Cause { code, holds_up, text, command }: Cause| WhyCause {
        code: code.to_owned(),
        holds_up,
        text,
        command,
    };
    let answer = WhyResponse {
        topic_name: facts.topic_name.clone(),
        channel_name: channel.to_string(),
        id: id.map(|id| format!("{id:016x}")),
        causes: causes(&facts).into_iter().map(cause).collect(),
    };
    Ok(response::value(encoding, &answer))
}
