//! Deliveries that no nsqd sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nsq_protocol::headers::HeadersBuf;
use nsq_protocol::{ChannelName, Command, Decoded, Limits, MessageId, TopicName, decode};

use crate::config::Config;
use crate::consumer::{Delivery, Feedback, Link, Message};
use crate::handshake::ServerInfo;
use crate::rdy::ConnectionId;
use crate::time;

/// Makes a [`Delivery`] or [`Message`] for the test of a handler.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use nsq::test_util::FakeDelivery;
/// use nsq::{Delivery, IntoOutcome, Outcome};
///
/// async fn handle(order: Delivery) -> Result<(), std::str::Utf8Error> {
///     std::str::from_utf8(order.body()).map(drop)
/// }
///
/// let good = handle(FakeDelivery::new("1 apple").build()).await;
/// assert_eq!(good.into_outcome(), Outcome::Finish);
/// let bad = handle(FakeDelivery::new(vec![0xff]).attempts(3).build()).await;
/// assert!(matches!(bad.into_outcome(), Outcome::Fail(_)));
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "`build` or `message` makes the delivery"]
pub struct FakeDelivery {
    body: Bytes,
    headers: BTreeMap<String, String>,
    id: u64,
    attempts: u16,
    timestamp_ns: i64,
    msg_timeout: Duration,
    can_reject: bool,
    topic: String,
    channel: String,
}

impl FakeDelivery {
    /// A first delivery of a message with this body, which times out after a minute.
    pub fn new(body: impl Into<Bytes>) -> Self {
        FakeDelivery {
            body: body.into(),
            headers: BTreeMap::new(),
            id: 1,
            attempts: 1,
            timestamp_ns: 1_700_000_000_000_000_000,
            msg_timeout: Duration::from_secs(60),
            can_reject: true,
            topic: "topic".into(),
            channel: "channel".into(),
        }
    }

    /// Adds a header. It may be one of nsqd's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets the id [default: 1].
    pub fn id(mut self, id: u64) -> Self {
        self.id = id;
        self
    }

    /// Sets how often the message was delivered [default: 1].
    pub fn attempts(mut self, attempts: u16) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets when it was published, in nanoseconds since 1970.
    pub fn timestamp_ns(mut self, timestamp_ns: i64) -> Self {
        self.timestamp_ns = timestamp_ns;
        self
    }

    /// Sets the time until the message times out [default: a minute].
    pub fn msg_timeout(mut self, timeout: Duration) -> Self {
        self.msg_timeout = timeout;
        self
    }

    /// Sets whether the nsqd accepts rejections [default: true].
    pub fn can_reject(mut self, can_reject: bool) -> Self {
        self.can_reject = can_reject;
        self
    }

    /// Sets where the message comes from [default: `topic` and `channel`].
    ///
    /// # Panics
    ///
    /// [`build`](FakeDelivery::build) and [`message`](FakeDelivery::message) panic if a name is not valid.
    pub fn from_channel(mut self, topic: impl Into<String>, channel: impl Into<String>) -> Self {
        (self.topic, self.channel) = (topic.into(), channel.into());
        self
    }

    /// Makes the delivery, which a handler receives.
    pub fn build(self) -> Delivery {
        self.message().delivery()
    }

    /// Makes the message, with a record of its answer.
    ///
    /// # Panics
    ///
    /// If the topic, the channel or a header is not valid.
    pub fn message(self) -> FakeMessage {
        let topic = TopicName::new(&self.topic).expect("a valid topic name");
        let channel = ChannelName::new(&self.channel).expect("a valid channel name");
        let headers = match self.headers.is_empty() {
            true => Bytes::new(),
            false => {
                let pairs = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let headers = HeadersBuf::from_pairs(pairs).expect("valid headers");
                Bytes::copy_from_slice(headers.as_headers().as_bytes())
            }
        };
        let server = ServerInfo {
            msg_timeout: self.msg_timeout,
            max_msg_timeout: self.msg_timeout * 15,
            reject: self.can_reject,
            ..ServerInfo::assumed()
        };
        let feedback = Arc::new(Feedback::new(&Config::new(), &self.topic, &self.channel));
        let node = Arc::from("fake:4150");
        let link = Arc::new(Link::new(ConnectionId(0), node, &server, (topic, channel), feedback));
        let message = nsq_protocol::Message {
            timestamp_ns: self.timestamp_ns,
            attempts: self.attempts,
            id: MessageId::from_u64(self.id),
            body: self.body,
        };
        let epoch = crate::backoff::Epoch(0);
        let delivery = Delivery::new(message, headers, time::now(), epoch, Arc::clone(&link));
        link.received(1, time::now());
        FakeMessage { message: Message::new(delivery), link }
    }
}

/// A message that no nsqd sent.
#[must_use = "`into_parts` gives the message and the record of its answers"]
pub struct FakeMessage {
    message: Message,
    link: Arc<Link>,
}

impl FakeMessage {
    /// The message, to be passed to the code under test, and a function that returns what this code has sent so far.
    pub fn into_parts(self) -> (Message, impl Fn() -> Vec<FakeAnswer>) {
        let link = self.link;
        (self.message, move || answers(&link.outbox.copy()))
    }

    fn delivery(self) -> Delivery {
        let delivery = Delivery::clone(&self.message);
        self.message.forget();
        delivery
    }
}

/// What was sent to answer a [`FakeMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FakeAnswer {
    /// The message was finished.
    Finish,
    /// The message was requeued.
    Requeue {
        /// The delay.
        delay: Duration,
    },
    /// The message was rejected.
    Reject {
        /// The reason.
        reason: String,
    },
    /// The message timeout was extended.
    Touch,
}

fn answers(mut sent: &[u8]) -> Vec<FakeAnswer> {
    let mut answers = Vec::new();
    while let Decoded::Command { command, consumed } = decode(sent, &Limits::default()) {
        sent = &sent[consumed..];
        answers.extend(match command {
            Command::Fin { .. } => Some(FakeAnswer::Finish),
            Command::Req { delay_ms, .. } => {
                Some(FakeAnswer::Requeue { delay: Duration::from_millis(delay_ms) })
            }
            Command::Rej { reason, .. } => Some(FakeAnswer::Reject { reason: reason.to_owned() }),
            Command::Touch { .. } => Some(FakeAnswer::Touch),
            _ => None,
        });
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Requeue;

    #[test]
    fn fakes_have_what_a_delivery_has_and_record_answers() {
        let fake = FakeDelivery::new("body").header("nsq-dead-reason", "x").id(7).attempts(2);
        let (message, answers) = fake.from_channel("orders", "billing").message().into_parts();
        assert_eq!((&message.body()[..], message.attempts()), (&b"body"[..], 2));
        assert_eq!((message.topic(), message.channel(), message.node()), ("orders", "billing", "fake:4150"));
        assert_eq!(message.headers().unwrap().get("nsq-dead-reason").as_deref(), Some("x"));
        assert!(answers().is_empty());
        message.touch().unwrap();
        message.requeue(Duration::from_secs(3)).unwrap();
        let requeued = FakeAnswer::Requeue { delay: Duration::from_secs(3) };
        assert_eq!(answers(), [FakeAnswer::Touch, requeued]);

        let (message, answers) = FakeDelivery::new("x").message().into_parts();
        message.reject("no such tenant").unwrap();
        assert_eq!(answers(), [FakeAnswer::Reject { reason: "no such tenant".into() }]);
        let (message, answers) = FakeDelivery::new("x").message().into_parts();
        drop(message);
        assert_eq!(answers(), [FakeAnswer::Requeue { delay: Duration::ZERO }], "dropping requeues");
        let (message, answers) = FakeDelivery::new("x").can_reject(false).message().into_parts();
        message.requeue(Requeue::Auto).unwrap();
        assert_eq!(answers(), [FakeAnswer::Requeue { delay: Duration::from_secs(90) }]);
    }
}
