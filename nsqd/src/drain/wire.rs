//! Pure: the requests by which a drain moves messages to another nsqd: `POST /channel/adopt`.
//!
//! The body of a batch is a line of JSON, which describes the messages, and then their bytes, back to back.

use std::borrow::Cow;

use bytes::Bytes;
use nsq_protocol::headers::{self, Form};
use serde::{Deserialize, Serialize};

use crate::storage::SequenceRange;
use crate::storage::record::TransferId;
use crate::topic::adopting::{Incoming, IncomingBatch, Likeness};
use crate::topic::adoptions::MOST_MESSAGES;

/// Longest first line of a batch: more than [`MOST_MESSAGES`] with the longest numbers need.
const MAX_HEAD_BYTES: usize = MOST_MESSAGES * 160;
/// Most bytes of messages in a batch, except if one message is longer.
pub const MOST_BYTES: usize = 1 << 20;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A run of a drain begins to send a transfer.
    Begin,
    /// A batch of messages.
    Batch,
    /// The transfer is complete.
    End,
}

impl Phase {
    pub const ALL: [Phase; 3] = [Phase::Begin, Phase::Batch, Phase::End];

    /// The value of the parameter `phase`.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Begin => "begin",
            Phase::Batch => "batch",
            Phase::End => "end",
        }
    }
}

/// The body of [`Phase::Begin`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginBody {
    /// The node that sends, for the log: HTTP address.
    pub source: String,
    /// The process that sends. nsqd does not adopt from itself.
    pub process: String,
    pub topic: LikenessBody,
    /// `None` if messages move that no channel has.
    #[serde(default)]
    pub channel: Option<LikenessBody>,
}

/// What a topic or channel is like. A node that has none of this name creates one like it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LikenessBody {
    /// Its own settings, one `name=value` per line.
    #[serde(default)]
    pub settings: String,
    #[serde(default)]
    pub paused: bool,
}

/// The answer to [`Phase::Begin`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginAnswer {
    /// The messages of the newest batch of this transfer that are stored: first number, and one past the last.
    pub adopted: Vec<(u64, u64)>,
}

/// The answer to [`Phase::Batch`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// Messages that were stored now.
    pub stored: u64,
    /// Messages that had been stored before.
    pub known: u64,
}

/// The first line of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct BatchHead<'a> {
    /// `plain`, or `headers`: each message then begins with the length of its headers (u16, big-endian) and its headers.
    #[serde(borrow)]
    form: Cow<'a, str>,
    messages: Vec<MessageHead>,
}

/// A message of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct MessageHead {
    /// Its number on the node that sends.
    sequence: u64,
    /// Its bytes in the rest of the body.
    bytes: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts: u16,
    #[serde(default, skip_serializing_if = "is_zero")]
    failures: u16,
    /// Wall clock, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<i64>,
}

/// Why a batch is refused. Nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    #[error("the first line is not JSON of the expected form: {0}")]
    Head(String),
    #[error("a batch has 1 to {MOST_MESSAGES} messages, and this one has {0}")]
    Count(usize),
    #[error("the body has {actual} bytes of messages, and its first line says {announced}")]
    Length { announced: usize, actual: usize },
    #[error("the numbers of the messages do not grow: {0} follows {1}")]
    Order(u64, u64),
    #[error("message {sequence} has {bytes} bytes, and --max-msg-size allows {most}")]
    TooBig { sequence: u64, bytes: usize, most: usize },
    #[error("message {0} has invalid headers")]
    Headers(u64),
    #[error("form={0:?}: expected plain or headers")]
    Form(String),
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// Longest body of a batch.
pub fn max_batch_bytes(max_msg_size: usize) -> usize {
    MAX_HEAD_BYTES + MOST_BYTES + max_msg_size + headers::MAX_HEADERS_BYTES + 2
}

/// The body of [`Phase::Batch`].
pub fn encode(batch: &IncomingBatch) -> Bytes {
    let head = BatchHead {
        form: match batch.form {
            Form::Plain => "plain".into(),
            Form::WithHeaders => "headers".into(),
        },
        messages: (batch.messages.iter())
            .map(|message| MessageHead {
                sequence: message.source,
                bytes: message.bytes.len(),
                attempts: message.attempts,
                failures: message.failures,
                due_at: message.due_ns,
            })
            .collect(),
    };
    // Serializing numbers and a word cannot fail.
    let mut body = serde_json::to_vec(&head).unwrap_or_default();
    body.push(b'\n');
    batch.messages.iter().for_each(|message| body.extend_from_slice(&message.bytes));
    body.into()
}

/// Reads what [`encode`] wrote. `max_msg_size` limits the body of each message.
pub fn decode(
    body: &Bytes,
    (transfer, session): (TransferId, u64),
    max_msg_size: usize,
) -> Result<IncomingBatch, InvalidBatch> {
    let end = memchr::memchr(b'\n', &body[..body.len().min(MAX_HEAD_BYTES)]);
    let end = end.ok_or_else(|| InvalidBatch::Head("it does not end".to_owned()))?;
    let head: BatchHead<'_> =
        serde_json::from_slice(&body[..end]).map_err(|error| InvalidBatch::Head(error.to_string()))?;
    let form = match &*head.form {
        "plain" => Form::Plain,
        "headers" => Form::WithHeaders,
        other => return Err(InvalidBatch::Form(other.to_owned())),
    };
    if !(1..=MOST_MESSAGES).contains(&head.messages.len()) {
        return Err(InvalidBatch::Count(head.messages.len()));
    }
    let actual = body.len() - end - 1;
    let announced = head.messages.iter().fold(0_usize, |sum, message| sum.saturating_add(message.bytes));
    if announced != actual {
        return Err(InvalidBatch::Length { announced, actual });
    }
    let (mut at, mut messages, mut before) = (end + 1, Vec::with_capacity(head.messages.len()), None);
    for MessageHead { sequence, bytes, attempts, failures, due_at } in head.messages {
        if let Some(before) = before.filter(|before| *before >= sequence) {
            return Err(InvalidBatch::Order(sequence, before));
        }
        before = Some(sequence);
        let content = body.slice(at..at + bytes);
        at += bytes;
        let body_bytes = match form {
            Form::Plain => bytes,
            Form::WithHeaders => {
                headers::split_published(&content).map_err(|_| InvalidBatch::Headers(sequence))?.1.len()
            }
        };
        if body_bytes > max_msg_size {
            return Err(InvalidBatch::TooBig { sequence, bytes: body_bytes, most: max_msg_size });
        }
        messages.push(Incoming { source: sequence, attempts, failures, due_ns: due_at, bytes: content });
    }
    Ok(IncomingBatch { transfer, session, form, messages })
}

impl From<&Likeness> for LikenessBody {
    fn from(like: &Likeness) -> Self {
        LikenessBody { settings: like.settings.to_string(), paused: like.is_paused }
    }
}

impl From<&LikenessBody> for Likeness {
    /// Settings that this version does not know are left out.
    fn from(body: &LikenessBody) -> Self {
        let (settings, _) = crate::policy::settings::Settings::parse(&body.settings);
        Likeness { settings, is_paused: body.paused }
    }
}

impl From<Vec<SequenceRange>> for BeginAnswer {
    fn from(runs: Vec<SequenceRange>) -> Self {
        BeginAnswer { adopted: runs.into_iter().map(|run| (run.from, run.to)).collect() }
    }
}

impl BeginAnswer {
    pub fn runs(&self) -> impl Iterator<Item = SequenceRange> + '_ {
        self.adopted.iter().map(|&(from, to)| SequenceRange::new(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: (TransferId, u64) = (TransferId(5), 6);

    fn message(source: u64, bytes: &'static [u8]) -> Incoming {
        Incoming { source, attempts: 0, failures: 0, due_ns: None, bytes: Bytes::from_static(bytes) }
    }

    fn batch(form: Form, messages: Vec<Incoming>) -> IncomingBatch {
        IncomingBatch { transfer: ID.0, session: ID.1, form, messages }
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let first = Incoming { attempts: 3, failures: 2, due_ns: Some(-1), ..message(7, b"a\nb") };
        let plain = batch(Form::Plain, vec![first, message(9, b""), message(10, b"{}")]);
        assert_eq!(decode(&encode(&plain), ID, 3), Ok(plain));
        let with_headers = batch(Form::WithHeaders, vec![message(1, b"\0\x07{\"a\":1}body")]);
        assert_eq!(
            decode(&encode(&with_headers), ID, 9),
            Err(InvalidBatch::Headers(1)),
            "values are strings"
        );
        let with_headers = batch(Form::WithHeaders, vec![message(1, b"\0\x09{\"a\":\"1\"}body")]);
        assert_eq!(decode(&encode(&with_headers), ID, 4), Ok(with_headers));
    }

    #[test]
    fn an_invalid_batch_is_refused_with_the_reason() {
        let refused = |body: &'static [u8]| decode(&Bytes::from_static(body), ID, 3).unwrap_err().to_string();
        assert!(refused(b"").contains("does not end"));
        assert!(refused(b"[]\n").contains("expected form"));
        assert_eq!(refused(b"{\"form\":\"x\",\"messages\":[]}\n"), "form=\"x\": expected plain or headers");
        assert!(refused(b"{\"form\":\"plain\",\"messages\":[]}\n").contains("1 to 256 messages"));
        let one = b"{\"form\":\"plain\",\"messages\":[{\"sequence\":1,\"bytes\":2}]}\nabc";
        assert!(refused(one).contains("has 3 bytes of messages, and its first line says 2"));
        let long = b"{\"form\":\"plain\",\"messages\":[{\"sequence\":1,\"bytes\":4}]}\nabcd";
        assert!(refused(long).contains("message 1 has 4 bytes, and --max-msg-size allows 3"));
        let twice = batch(Form::Plain, vec![message(4, b"a"), message(4, b"b")]);
        assert_eq!(decode(&encode(&twice), ID, 3), Err(InvalidBatch::Order(4, 4)));
        let many = batch(Form::Plain, (0..=MOST_MESSAGES as u64).map(|n| message(n, b"")).collect());
        assert_eq!(decode(&encode(&many), ID, 3), Err(InvalidBatch::Count(MOST_MESSAGES + 1)));
    }

    #[test]
    fn the_longest_head_fits() {
        let longest =
            Incoming { attempts: u16::MAX, failures: u16::MAX, due_ns: Some(i64::MIN), ..message(0, b"") };
        let source = |n: usize| u64::MAX - (MOST_MESSAGES - n) as u64;
        let all = (0..MOST_MESSAGES).map(|n| Incoming { source: source(n), ..longest.clone() }).collect();
        let all = batch(Form::Plain, all);
        assert_eq!(decode(&encode(&all), ID, 3), Ok(all));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, at in 0..60_usize, value: u8) {
            let _ = decode(&bytes.into(), ID, 10);
            let mut valid = encode(&batch(Form::Plain, vec![message(3, b"abc"), message(5, b"de")])).to_vec();
            let at = at % valid.len();
            valid[at] = value;
            let _ = decode(&valid.into(), ID, 10);
        }
    }
}
