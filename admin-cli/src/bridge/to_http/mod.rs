//! `nsq to-http` and `nsq_to_http`: one HTTP request per message. A message is finished after a good answer, and requeued
//! otherwise.
//!
//! In reading order: this file (flags, and what happens to a message), `address`, `sender`.

mod address;
mod sender;

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nsq::{Config, Delivery, Handler, MessageId, Outcome, Requeue, Tls};
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::{Counter, Exposition, Histogram, Kind};
use nsq_daemon::{go_duration, go_flags, info, warn};
use nsq_protocol::{ChannelName, TopicName};
use parking_lot::Mutex;

use super::flags::BridgeFlags;
use super::hosts::{Hosts, Mode};
use super::timing::{MIN_ACCURATE, Timings};
use super::topics::Topics;
use super::touching::while_touching;
use super::{Bridge, Origin, Signals, Start, Work};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};
use address::Address;
use sender::{RequestStyle, SendError, Sender, StatusRange, parse_range};

/// Maximum number of messages of which multicast remembers who has them.
const MAX_REMEMBERED: usize = 10_000;

/// Flags that have the same meaning in `nsq to-http` and `nsq_to_http`.
#[derive(Debug, Args)]
pub struct ToHttpFlags {
    /// Topic to forward.
    #[arg(long, default_value = "", hide_default_value = true)]
    topic: String,
    /// Channel to consume.
    #[arg(long, default_value = "nsq_to_http")]
    channel: String,
    /// Address for POST requests with the message as body; may be repeated.
    #[arg(long, value_name = "URL")]
    post: Vec<String>,
    /// Address for GET requests, in which %s stands for the message; may be repeated.
    #[arg(long, value_name = "URL")]
    get: Vec<String>,
    /// Choice among several addresses: hostpool, round-robin, epsilon-greedy, or multicast, which sends to all.
    #[arg(long, value_name = "MODE", default_value = "hostpool")]
    mode: String,
    /// Maximum number of requests at a time.
    #[arg(short = 'n', long, value_name = "N", default_value = "100", value_parser = go_flags::parse_int)]
    n: i64,
    /// Maximum number of messages in flight.
    #[arg(long, value_name = "N", default_value = "200", value_parser = go_flags::parse_int)]
    max_in_flight: i64,
    /// Share of the messages to send, 0 to 1. The others are finished without a request.
    #[arg(long, value_name = "SHARE", default_value = "1", allow_negative_numbers = true)]
    sample: f64,
    /// Timeout for connecting.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = go_duration::parse)]
    http_client_connect_timeout: Duration,
    /// Timeout for a request and its answer.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = go_duration::parse)]
    http_client_request_timeout: Duration,
    /// Content type of POST requests.
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    content_type: String,
    /// Header of every request, as 'NAME: VALUE', or @FILE with one per line; may be repeated.
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// Log response times after this many requests; 0 logs none.
    #[arg(long, value_name = "N", default_value = "250", value_parser = go_flags::parse_int)]
    status_every: i64,
    /// Send PUT instead of POST requests.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1,
          require_equals = true, default_missing_value = "true", hide_default_value = true)]
    put: bool,
    /// Add the headers X-NSQ-Topic, X-NSQ-ID, X-NSQ-Attempts and X-NSQ-Timestamp (nanoseconds).
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1,
          require_equals = true, default_missing_value = "true", hide_default_value = true)]
    nsq_headers: bool,
    /// Status codes that are success, such as 200-299,304. [default: 200-299, with --get 200]
    #[arg(long, value_name = "CODES", value_delimiter = ',', value_parser = parse_range)]
    success: Vec<StatusRange>,
    /// Status codes after which a message is not sent again, such as 400,413,422: nsqd makes it a dead letter. With NSQ's own
    /// nsqd it is dropped.
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    permanent: Vec<u16>,
    #[command(flatten)]
    bridge: BridgeFlags,
}

/// Flags of `nsq to-http`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nsq to-http --topic orders --post http://127.0.0.1:8080/orders
  nsq to-http --topic orders --post http://127.0.0.1:8080/a --post http://127.0.0.1:8080/b --mode round-robin
  nsq to-http --topic orders --get 'http://127.0.0.1:8080/?order=%s' -n 10 --metrics-address 127.0.0.1:0")]
pub struct Flags {
    #[command(flatten)]
    shared: ToHttpFlags,
}

/// Runs `nsq to-http`.
pub fn run(context: Context, flags: Flags) -> Result<ExitStatus, Failure> {
    let config = context.targets.security.config.clone();
    let from = Origin::Cluster(Box::new(context.targets));
    if flags.shared.mode != "multicast" {
        flags.shared.mode.parse::<Mode>().map_err(|_| {
            wrong("mode", &flags.shared.mode, "expected hostpool, round-robin, epsilon-greedy or multicast")
        })?;
    }
    flags.shared.run(Run { name: "nsq to-http", agent: None, from, config })
}

/// What the two programs choose differently.
#[derive(Debug)]
pub struct Run {
    pub name: &'static str,
    /// The user agent of requests.
    pub agent: Option<String>,
    pub from: Origin,
    pub config: Config,
}

impl ToHttpFlags {
    pub fn run(self, run: Run) -> Result<ExitStatus, Failure> {
        let must_connect = matches!(run.from, Origin::Fixed(_));
        let logger = self.bridge.logger(run.name);
        let agent = run.agent.unwrap_or_else(|| format!("nsq-to-http/{}", env!("CARGO_PKG_VERSION")));
        let forwarder = self.forwarder(&agent, &run.config, &logger)?;
        let max_in_flight = positive("max-in-flight", self.max_in_flight, 1_000_000)?;
        let config = run.config.max_in_flight(max_in_flight).concurrency(positive("n", self.n, 65_536)?);
        let start = Start {
            name: run.name,
            flags: self.bridge,
            from: run.from,
            topics: Topics::named([self.topic]),
            channel: self.channel,
            config,
            must_connect,
        };
        super::run(start, forwarder)
    }

    /// Checks the flags. A wrong one is found before anything is consumed.
    fn forwarder(&self, agent: &str, config: &Config, logger: &Logger) -> Result<Forwarder, Failure> {
        if self.topic.is_empty() || self.channel.is_empty() {
            return Err(Failure::usage("--topic and --channel are required"));
        }
        const NAME: &str = "a name has 1 to 64 characters of a-z A-Z 0-9 . _ -";
        TopicName::new(&self.topic).map_err(|_| wrong("topic", &self.topic, NAME))?;
        ChannelName::new(&self.channel).map_err(|_| wrong("channel", &self.channel, NAME))?;
        let is_content_type_default = self.content_type == "application/octet-stream";
        if !is_content_type_default && self.post.is_empty() {
            return Err(Failure::usage("--content-type only used with --post"));
        }
        let addresses: Result<Vec<Address>, Failure> = match (self.post.is_empty(), self.get.is_empty()) {
            (true, true) => return Err(Failure::usage("--get or --post required")),
            (false, false) => return Err(Failure::usage("use --get or --post not both")),
            (false, true) => self.post.iter().map(|url| address("post", url, Address::for_body)).collect(),
            (true, false) => self.get.iter().map(|url| address("get", url, Address::with_message)).collect(),
        };
        let addresses = addresses?;
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(wrong("sample", self.sample, "--sample must be between 0.0 and 1.0"));
        }
        let mut headers = HeaderMap::new();
        for header in &header_lines(&self.header)? {
            let (name, value) = parse_header(header).map_err(|why| wrong("header", header, &why))?;
            headers.append(name, value);
        }
        let method = match (self.post.is_empty(), self.put) {
            (true, false) => Method::GET,
            (true, true) => return Err(Failure::usage("--put only used with --post")),
            (false, false) => Method::POST,
            (false, true) => Method::PUT,
        };
        let value = |flag: &str, text: &str| {
            HeaderValue::from_str(text)
                .ok()
                .filter(|value| !value.is_empty())
                .ok_or_else(|| wrong(flag, text, "expected visible ASCII characters"))
        };
        let style = RequestStyle {
            method,
            content_type: value("content-type", &self.content_type)?,
            user_agent: value("user-agent", agent)?,
            headers,
            success: self.success.clone(),
            connect_timeout: self.http_client_connect_timeout,
            timeout: self.http_client_request_timeout,
        };
        if let Some(code) = self.permanent.iter().find(|code| StatusCode::from_u16(**code).is_err()) {
            return Err(wrong("permanent", code, "expected status codes, 100 to 999, such as 400,422"));
        }
        let every = usize::try_from(self.status_every).unwrap_or(0).min(1_000_000);
        if (1..MIN_ACCURATE).contains(&every) {
            warn!(
                logger,
                "--status-every {every}: percentiles of fewer than {MIN_ACCURATE} times are not accurate"
            );
        }
        // With one address, its times are those of all.
        let every_of_one = if addresses.len() > 1 { every } else { 0 };
        let of_address = |address: &Address| AddressState {
            timings: Mutex::new(Timings::new(format!("[{address}]:"), every_of_one)),
            counts: Counts::default(),
        };
        let choice = match self.mode.parse() {
            Ok(mode) => Choice::One(Mutex::new(Hosts::new(mode, addresses.len(), Instant::now()))),
            // `nsq to-http` refuses other words than multicast; NSQ's tool takes them for it.
            Err(_) => Choice::All(Mutex::default()),
        };
        let tls = addresses.iter().any(Address::is_https).then(|| Tls::new(config)).transpose()?;
        Ok(Forwarder {
            states: addresses.iter().map(of_address).collect(),
            sender: Sender::new(style, tls.as_ref())?,
            addresses,
            logger: logger.clone(),
            choice,
            sample: self.sample,
            nsq_headers: self.nsq_headers,
            permanent: self.permanent.clone(),
            aggregate: Mutex::new(Timings::new("[aggregate]:".to_owned(), every)),
            seconds: Histogram::default(),
            skipped: Counter::default(),
            given_up: Counter::default(),
        })
    }

    pub fn mode(&self) -> &str {
        &self.mode
    }

    pub fn logger(&self, name: &str) -> Logger {
        self.bridge.logger(name)
    }
}

fn address(
    flag: &str,
    url: &str,
    parse: impl FnOnce(&str) -> Result<Address, String>,
) -> Result<Address, Failure> {
    parse(url).map_err(|why| wrong(flag, url, &why))
}

fn positive(flag: &str, value: i64, max: u32) -> Result<u32, Failure> {
    u32::try_from(value)
        .ok()
        .filter(|value| (1..=max).contains(value))
        .ok_or_else(|| wrong(flag, value, &format!("it must be 1 to {max}")))
}

fn wrong(flag: &str, value: impl std::fmt::Display, why: &str) -> Failure {
    Failure::usage(format_args!("invalid --{flag} {value}: {why}"))
}

/// The headers, with those of files in their place. A file keeps secrets out of the list of processes.
fn header_lines(given: &[String]) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for header in given {
        let Some(path) = header.strip_prefix('@') else {
            lines.push(header.clone());
            continue;
        };
        let text =
            std::fs::read_to_string(path).map_err(|error| wrong("header", header, &error.to_string()))?;
        let wanted = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.extend(wanted.map(str::to_owned));
    }
    Ok(lines)
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'NAME: VALUE'")?;
    let name = HeaderName::from_str(name.trim()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

/// What happens to messages.
#[derive(Debug)]
pub struct Forwarder {
    addresses: Vec<Address>,
    /// Of each address.
    states: Vec<AddressState>,
    choice: Choice,
    sender: Sender,
    logger: Logger,
    sample: f64,
    nsq_headers: bool,
    permanent: Vec<u16>,
    aggregate: Mutex<Timings>,
    seconds: Histogram,
    skipped: Counter,
    given_up: Counter,
}

/// Who gets a message.
#[derive(Debug)]
enum Choice {
    One(Mutex<Hosts>),
    /// Every address, and which messages only some of them have.
    All(Mutex<Partial>),
}

#[derive(Debug)]
struct AddressState {
    timings: Mutex<Timings>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    good: Counter,
    bad: Counter,
}

/// The addresses that have a message which others do not have yet.
#[derive(Debug, Default)]
struct Partial {
    done: BTreeMap<MessageId, Vec<usize>>,
    /// Oldest first.
    order: VecDeque<MessageId>,
}

impl Partial {
    fn get(&self, id: MessageId) -> Vec<usize> {
        self.done.get(&id).cloned().unwrap_or_default()
    }

    fn remember(&mut self, id: MessageId, done: Vec<usize>) {
        if done.is_empty() {
            return;
        }
        if self.done.insert(id, done).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > MAX_REMEMBERED {
            let oldest = self.order.pop_front();
            oldest.and_then(|id| self.done.remove(&id));
        }
    }

    fn forget(&mut self, id: MessageId) {
        if self.done.remove(&id).is_some() {
            self.order.retain(|known| *known != id);
        }
    }
}

impl Forwarder {
    /// Sends a message to one address, or to all that do not have it.
    async fn forward(&self, message: &Delivery, headers: &HeaderMap) -> Result<(), (usize, SendError)> {
        let started_at = Instant::now();
        match &self.choice {
            Choice::One(hosts) => {
                let index = hosts.lock().pick(Instant::now(), fastrand::f64);
                let done = self.send(index, message, headers).await;
                hosts.lock().report(index, done.is_ok(), started_at.elapsed(), Instant::now());
                done.map_err(|error| (index, error))
            }
            Choice::All(partial) => {
                let mut done = partial.lock().get(message.id());
                for index in 0..self.addresses.len() {
                    if done.contains(&index) {
                        continue;
                    }
                    if let Err(error) = self.send(index, message, headers).await {
                        partial.lock().remember(message.id(), done);
                        return Err((index, error));
                    }
                    done.push(index);
                }
                partial.lock().forget(message.id());
                Ok(())
            }
        }
    }

    async fn send(&self, index: usize, message: &Delivery, headers: &HeaderMap) -> Result<(), SendError> {
        let started_at = Instant::now();
        let done = self.sender.send(&self.addresses[index], message.body(), headers).await;
        let took = started_at.elapsed();
        self.seconds.record(took);
        let AddressState { timings, counts } = &self.states[index];
        match done {
            Ok(()) => {
                counts.good.add(1);
                if let Some(summary) = timings.lock().add(took) {
                    info!(self.logger, "{summary}");
                }
            }
            Err(_) => counts.bad.add(1),
        }
        done
    }

    fn headers(&self, topic: &str, message: &Delivery) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.nsq_headers {
            for (name, value) in [
                ("x-nsq-topic", topic.to_owned()),
                ("x-nsq-id", message.id().to_string()),
                ("x-nsq-attempts", message.attempts().to_string()),
                ("x-nsq-timestamp", message.timestamp_ns().to_string()),
            ] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
        }
        headers
    }
}

/// Handles the messages of one topic.
struct ToHttp {
    forwarder: Arc<Forwarder>,
    topic: String,
}

impl Handler for ToHttp {
    type Output = Outcome;

    async fn handle(&self, message: Delivery) -> Outcome {
        let forwarder = &self.forwarder;
        if forwarder.sample < 1.0 && fastrand::f64() >= forwarder.sample {
            forwarder.skipped.add(1);
            return Outcome::Finish;
        }
        let started_at = Instant::now();
        let headers = forwarder.headers(&self.topic, &message);
        let (index, error) = match while_touching(&message, forwarder.forward(&message, &headers)).await {
            Ok(()) => {
                let took = started_at.elapsed();
                if let Some(summary) = forwarder.aggregate.lock().add(took) {
                    info!(forwarder.logger, "{summary}");
                }
                return Outcome::Finish;
            }
            Err(failed) => failed,
        };
        let (id, address) = (message.id(), &forwarder.addresses[index]);
        warn!(forwarder.logger, "message {id} to {address}: {error}");
        match error {
            SendError::Status { status, .. } if forwarder.permanent.contains(&status.as_u16()) => {
                forwarder.given_up.add(1);
                let reason = format!("{address}: {error}");
                match message.can_reject() {
                    true => Outcome::Reject { reason },
                    false => Outcome::give_up(reason),
                }
            }
            SendError::Status { retry_after: Some(pause), .. } => {
                Outcome::Requeue { delay: Requeue::After(pause), backoff: true }
            }
            _ => Outcome::Requeue { delay: Requeue::Auto, backoff: true },
        }
    }
}

impl Work for Forwarder {
    async fn run_topic(
        self: Arc<Self>,
        bridge: Arc<Bridge>,
        topic: String,
        signals: Signals,
    ) -> Result<(), Failure> {
        let handler = ToHttp { forwarder: self, topic: topic.clone() };
        bridge.run_handler(&topic, handler, &signals).await
    }

    fn expose(&self, page: &mut Exposition) {
        let mut family =
            page.family("nsq_to_http_requests_total", Kind::Counter, "Requests, by address and result.");
        for (address, AddressState { counts, .. }) in self.addresses.iter().zip(&self.states) {
            let address = address.to_string();
            family.sample(&[("address", &address), ("result", "ok")], counts.good.get() as f64);
            family.sample(&[("address", &address), ("result", "failed")], counts.bad.get() as f64);
        }
        page.family("nsq_to_http_request_seconds", Kind::Histogram, "Duration of requests.")
            .histogram(&[], &self.seconds.buckets());
        page.counter("nsq_to_http_skipped_total", "Messages that were not sampled.", self.skipped.get());
        let help = "Messages that a --permanent status ended.";
        page.counter("nsq_to_http_given_up_total", help, self.given_up.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_partial_deliveries_are_remembered() {
        let id = |number: usize| MessageId(format!("{number:016}").into_bytes().try_into().unwrap());
        let mut partial = Partial::default();
        for number in 0..=MAX_REMEMBERED {
            partial.remember(id(number), vec![1]);
        }
        partial.remember(id(5), vec![1, 2]);
        assert_eq!((partial.get(id(0)), partial.get(id(5))), (vec![], vec![1, 2]));
        partial.forget(id(5));
        assert_eq!((partial.get(id(5)), partial.order.len(), partial.done.len()), (vec![], 9_999, 9_999));
    }

    #[test]
    fn headers_have_a_colon() {
        assert_eq!(parse_header("A: b:c").unwrap().1, "b:c");
        assert!(
            parse_header("a=b").is_err() && parse_header(": b").is_err() && parse_header("a: \n").is_ok()
        );
        assert!(parse_header("a b: c").is_err());
    }
}
