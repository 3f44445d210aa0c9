//! `nsq peek`, `nsq message` and `nsq why`: look at messages, change one, and find out what holds a channel up.
//! `offline` answers from a data directory, for `nsq stat`, too.

pub mod message;
pub mod offline;
pub mod peek;
pub mod why;

use crate::exit_status::Failure;

/// A message id: 16 hexadecimal digits. nsqd expects lower case.
fn message_id(text: &str) -> Result<String, String> {
    let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_id {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a message id has 16 hexadecimal digits, such as 0a1b2c3d4e5f6071".to_owned()),
    }
}

/// The failure of a command that needs a channel.
fn channel_missing(topic: &str) -> Failure {
    Failure::usage(format_args!("no channel of topic {topic} is given"))
        .hint(format!("use {topic}/CHANNEL; `nsq channel list {topic}` lists the channels"))
}
