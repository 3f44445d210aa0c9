//! `to_nsq`: publishes pieces of stdin, each to every nsqd.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesOrdered;
use nsq::{Config, Producer, PublishError};
use nsq_daemon::go_flags::parse_int;
use nsq_daemon::shutdown::StopSignals;
use nsq_protocol::TopicName;
use tokio::sync::mpsc::Receiver;

use super::source::{check_name, set};
use super::{Exit, Line, block_on, user_agent};
use crate::command::publish::source::{self, Reading, Source};
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// Maximum number of messages that wait for their answers.
const MAX_PENDING: usize = 1000;
/// Maximum time for the last answers.
const CLOSE: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
pub struct Flags {
    /// Topic to publish to.
    #[arg(long, default_value = "", hide_default_value = true)]
    topic: String,
    /// TCP address of an nsqd; may be repeated. Every message goes to each of them.
    #[arg(long, value_name = "ADDR")]
    nsqd_tcp_address: Vec<String>,
    /// Byte that separates messages.
    #[arg(long, default_value = "\n")]
    delimiter: String,
    /// Maximum number of messages per second; 0 is no limit.
    #[arg(long, default_value = "0", value_parser = parse_int)]
    rate: i64,
    /// Option of the producers, as NAME,VALUE; may be repeated.
    #[arg(long, value_name = "NAME,VALUE")]
    producer_opt: Vec<String>,
}

pub fn run(line: Line<Flags>) -> Result<ExitCode, Exit> {
    let Line { tool, flags, .. } = line;
    let mut config = Config::new();
    for option in &flags.producer_opt {
        set(&mut config, option)
            .map_err(|error| Exit::WrongFlag(format!("--producer-opt {option}: {error}\n")))?;
    }
    if flags.topic.is_empty() {
        return Err(Exit::fatal("--topic required"));
    }
    check_name("--topic", &flags.topic, TopicName::new(&flags.topic).is_ok())?;
    if flags.delimiter.len() != 1 {
        return Err(Exit::fatal("--delimiter must be a single byte"));
    }
    if flags.nsqd_tcp_address.is_empty() {
        return Err(Exit::fatal("--nsqd-tcp-address required"));
    }
    let pause = match u32::try_from(flags.rate) {
        Ok(rate) if rate > 0 => {
            Output::plain().warning(&format!("to_nsq: publishing at most {rate} messages per second"));
            Duration::from_secs(1) / rate
        }
        _ => Duration::ZERO,
    };
    let reading = Reading {
        is_json_array: false,
        delimiter: flags.delimiter.into_bytes(),
        skip: 0,
        pause,
        drop_final_newline: true,
        keep_empty: false,
    };
    let config = config.user_agent(user_agent(tool));
    block_on(async move {
        let mut signals = StopSignals::catch().map_err(Failure::failed)?;
        let mut addresses = flags.nsqd_tcp_address;
        addresses.sort();
        addresses.dedup();
        let build = |address: &String| Producer::builder().nsqd(address).config(config.clone()).build();
        let producers = addresses.iter().map(build).collect::<Result<Vec<_>, _>>()?;
        let published = tokio::select! {
            published = publish(&producers, &flags.topic, source::read(vec![Source::Stdin], reading)) => published,
            () = signals.wait() => Ok(()),
        };
        futures_util::future::join_all(producers.iter().map(|producer| producer.close(CLOSE))).await;
        published.map(|()| ExitStatus::Done)
    })
}

async fn publish(
    producers: &[Producer],
    topic: &str,
    mut pieces: Receiver<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    let mut pending = FuturesOrdered::new();
    let mut acknowledged: u64 = 0;
    let mut is_open = true;
    while is_open || !pending.is_empty() {
        tokio::select! {
            // Answers free the room for more.
            biased;
            Some(result) = pending.next(), if !pending.is_empty() => {
                let result: Result<_, PublishError> = result;
                result.map_err(|error| Failure::failed(format_args!("message {}: {error}", acknowledged + 1)))?;
                acknowledged += 1;
            }
            piece = pieces.recv(), if is_open && pending.len() < MAX_PENDING => match piece {
                Some(piece) => {
                    let body = piece?;
                    let mut sent = Vec::with_capacity(producers.len());
                    for producer in producers {
                        // Queued now, so that the order is kept at every nsqd.
                        sent.push(match producer.send(topic, body.clone()) {
                            Ok(published) => published,
                            Err(PublishError::Full) => {
                                producer.flush().await;
                                producer.send(topic, body.clone()).map_err(Failure::failed)?
                            }
                            Err(error) => return Err(Failure::failed(error)),
                        });
                    }
                    pending.push_back(try_join_all(sent));
                }
                None => is_open = false,
            },
        }
    }
    Ok(())
}
