//! `nsq peek`.

use clap::{Args, ValueEnum};
use nsq::admin::{AdminError, PeekPage, PeekQuery};
use nsq_protocol::{PeekedMessage, printable};
use nsqd::peek::request::{BodyPattern, PeekRequest, PeekState};
use serde::Serialize;
use serde_json::json;

use super::offline::{Offline, OfflineFlags};
use crate::body::rfc3339;
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::command::Context;
use crate::command::change::unknown;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;

/// Largest page that nsqd returns.
const MAX_PAGE: u64 = 1000;
/// Characters of a body that are shown.
const PREVIEW: usize = 200;

pub const EXAMPLES: &str = "\
Examples:
  nsq peek orders/billing                       # the oldest unfinished messages
  nsq peek orders/billing --state deferred      # what is deferred, and until when
  nsq peek orders/billing --state in_flight     # which consumer holds which message
  nsq peek orders/billing --match 'tenant.*acme' --header color:red
  nsq peek orders --from tail --limit 5 --json  # the newest messages that the topic stores
  nsq peek orders/billing --data /var/lib/nsqd  # in a data directory, while no nsqd runs on it";

/// Where messages stand.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Waiting,
    #[value(name = "in_flight", alias = "in-flight")]
    InFlight,
    Deferred,
    #[value(name = "dead_letter_pending", alias = "dead-letter-pending")]
    DeadLetterPending,
    Finished,
}

impl State {
    fn of_nsqd(self) -> PeekState {
        match self {
            State::Waiting => PeekState::Waiting,
            State::InFlight => PeekState::InFlight,
            State::Deferred => PeekState::Deferred,
            State::DeadLetterPending => PeekState::DeadLetterPending,
            State::Finished => PeekState::Finished,
        }
    }
}

#[derive(Debug, Args)]
pub struct PeekFlags {
    /// A channel, or a topic to see what it stores.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    object: String,
    /// Only messages of the channel in this state. [default: all that are not finished]
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Where to begin: head, tail (newest first), seq:NUMBER, before:NUMBER or time:TIME.
    #[arg(long, value_name = "PLACE", default_value = "head")]
    from: String,
    /// Maximum number of messages to print.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only messages whose body matches this regular expression.
    #[arg(long = "match", value_name = "REGEX")]
    matching: Option<String>,
    /// Only messages with this header; may be repeated.
    #[arg(long = "header", value_name = "NAME[:VALUE]")]
    headers: Vec<String>,
    /// Print whole bodies, instead of their beginnings.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    offline: OfflineFlags,
}

#[derive(Serialize)]
struct OnNode<'a> {
    node: &'a str,
    #[serde(flatten)]
    message: &'a PeekedMessage,
}

pub async fn run(context: &Context, flags: &PeekFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    if object.channel.is_none() && flags.state.is_some() {
        return Err(Failure::usage("--state needs a channel: TOPIC/CHANNEL"));
    }
    let (pages, errors) = match &flags.offline.data {
        Some(path) => {
            let offline = Offline::open(path, context.output)?;
            (vec![(offline.name(), offline.peek(&object, &offline_request(&object, flags)?)?)], Vec::new())
        }
        None => {
            let cluster = Cluster::find(&context.targets).await?;
            let answers =
                cluster.on_nodes("peek", async |node: &Node| pages(node, &object, flags).await).await;
            let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
            if answers.good.is_empty() && errors.is_empty() {
                return Err(unknown(&cluster, &object).await);
            }
            (answers.good, errors)
        }
    };
    show(context.output, &object, flags, &pages, &errors)
}

/// Prints the messages of all nodes by their time.
fn show(
    output: Output,
    object: &Object,
    flags: &PeekFlags,
    pages: &[(String, PeekPage)],
    errors: &[NodeError],
) -> Result<ExitStatus, Failure> {
    let mut messages: Vec<OnNode<'_>> = (pages.iter())
        .flat_map(|(node, page)| page.messages.iter().map(move |message| OnNode { node, message }))
        .collect();
    messages.sort_by_key(|shown| shown.message.timestamp);
    if flags.from == "tail" || flags.from.starts_with("before:") {
        messages.reverse();
    }
    let more = messages.len() as u64 > flags.limit;
    messages.truncate(usize::try_from(flags.limit).unwrap_or(usize::MAX));
    if output.is_json() {
        let ends: Vec<_> =
            (pages.iter()).map(|(node, page)| json!({ "node": node, "end": page.end })).collect();
        let mut document = json!({
            "topic_name": object.topic,
            "messages": messages,
            "ends": ends,
            "node_errors": errors,
        });
        if let Some(channel) = &object.channel {
            document["channel_name"] = channel.as_str().into();
        }
        output.json(&document)?;
    } else {
        output.text(messages.iter().map(|message| shown(message, flags.full)).collect::<String>())?;
        if messages.is_empty() {
            output.note("no message matches");
        }
        for (node, page) in pages {
            let why = match page.end.stopped_by.as_str() {
                "end" => continue,
                "limit" if more || messages.len() as u64 >= flags.limit => "there may be more",
                "limit" => continue,
                "unreadable" => "a message cannot be read from disk; the log of nsqd says why",
                _ => "nsqd stopped looking to limit its work",
            };
            if let Some(next) = &page.end.next {
                output.note(&format!(
                    "{}: {why}; {} examined; continue with --from {next}",
                    printable(node),
                    page.end.examined
                ));
            }
        }
    }
    output.node_errors(errors);
    Ok(verdict(pages.len(), errors))
}

/// The flags as nsqd's parameters.
fn offline_request(object: &Object, flags: &PeekFlags) -> Result<PeekRequest, Failure> {
    let from = flags.from.parse().map_err(|()| {
        Failure::usage(format_args!("invalid --from {}", flags.from)).hint(
            "expected head, tail, seq:NUMBER, before:NUMBER or time:TIME, such as --from time:2030-01-31T12:00:00Z",
        )
    })?;
    let pattern = |text: &String| {
        text.parse::<BodyPattern>().map_err(|reason| {
            Failure::usage(format_args!("invalid --match {text}: {reason}"))
                .hint("expected a regular expression")
        })
    };
    let header = |condition: &String| match condition.split_once(':') {
        Some(("", _)) => {
            Err(Failure::usage(format_args!("invalid --header {condition}: it begins with a name")))
        }
        Some((name, value)) => Ok((name.to_owned(), Some(value.trim().to_owned()))),
        None => Ok((condition.clone(), None)),
    };
    Ok(PeekRequest {
        state: flags.state.map(State::of_nsqd),
        from,
        limit: usize::try_from(flags.limit).unwrap_or(usize::MAX),
        matching: flags.matching.as_ref().map(pattern).transpose()?,
        headers: flags.headers.iter().map(header).collect::<Result<_, _>>()?,
        is_history: object.channel.is_none(),
    })
}

/// The messages of a node that match, up to the limit.
async fn pages(node: &Node, object: &Object, flags: &PeekFlags) -> Result<PeekPage, AdminError> {
    let mut query = PeekQuery {
        state: flags.state.and_then(|state| Some(state.to_possible_value()?.get_name().to_owned())),
        from: Some(flags.from.clone()),
        limit: None,
        matching: flags.matching.clone(),
        headers: flags.headers.clone(),
    };
    let mut all = PeekPage::default();
    loop {
        let left = flags.limit - all.messages.len() as u64;
        query.limit = Some(left.min(MAX_PAGE));
        let page = node.client.peek(&object.topic, object.channel.as_deref(), &query).await?;
        all.messages.extend(page.messages);
        all.end = nsq_protocol::PeekEnd { examined: all.end.examined + page.end.examined, ..page.end };
        let is_full = all.messages.len() as u64 >= flags.limit;
        // Only a full page has a next one: otherwise nsqd stopped to limit its work.
        if is_full || all.end.stopped_by != "limit" || all.end.next.is_none() || all.end.next == query.from {
            return Ok(all);
        }
        query.from = all.end.next.clone();
    }
}

/// A message for people: where it is, its headers, the beginning of its body.
fn shown(shown: &OnNode<'_>, full: bool) -> String {
    let PeekedMessage { id, state, timestamp, attempts, headers, body, body_base64, .. } = shown.message;
    let mut text = format!("{id}  {state}  published {}", rfc3339(*timestamp));
    if let Some(attempts) = attempts.filter(|attempts| *attempts > 0) {
        text += &format!("  attempts {attempts}");
    }
    if let Some(consumer) = &shown.message.consumer {
        text += &format!("  at {} ({})", printable(&consumer.client_id), printable(&consumer.remote_address));
    }
    if let Some(at) = shown.message.deadline_at {
        text += &format!("  until {}", rfc3339(at));
    }
    if let Some(at) = shown.message.due_at {
        text += &format!("  due {}", rfc3339(at));
    }
    text += &format!("  on {}\n", shown.node);
    for (name, value) in headers {
        text += &format!("  {}: {}\n", printable(name), printable(value));
    }
    let body = match (body, body_base64) {
        (Some(body), _) => printable(body).into_owned(),
        (None, Some(base64)) => format!("base64 {base64}"),
        (None, None) => String::new(),
    };
    let is_cut = !full && body.chars().count() > PREVIEW;
    let body = match is_cut {
        true => {
            body.chars().take(PREVIEW).collect::<String>()
                + &format!("... ({} bytes)", shown.message.body_bytes)
        }
        false => body,
    };
    text + "  " + &body + "\n"
}
