//! Errors, by operation. Each says where it occurred and, for a publish, whether nsqd may have the message. None
//! contains a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// A setting is unknown, malformed, out of range or in conflict with another.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No option has this name.
    #[error("unknown option {name:?}")]
    UnknownOption {
        /// The name as given.
        name: String,
    },
    /// The value is not of the option's type.
    #[error("option {name}: {value:?} is not {expected}")]
    InvalidValue {
        /// The name of the option.
        name: String,
        /// The value as given.
        value: String,
        /// Describes valid values.
        expected: &'static str,
    },
    /// The value is of the right type, but too small or too large.
    #[error("option {name}: {value} is outside of {range}")]
    OutOfRange {
        /// The name of the option.
        name: &'static str,
        /// The value as given.
        value: String,
        /// The allowed range.
        range: String,
    },
    /// Two settings are in conflict.
    #[error("{0}")]
    Conflict(&'static str),
    /// The crate was built without the feature that a setting needs.
    #[error(
        "{what} needs the feature {feature:?} of the crate nsq-rs, which is off: add it to `features` in Cargo.toml"
    )]
    FeatureOff {
        /// The option or address.
        what: &'static str,
        /// The feature.
        feature: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("TLS: {reason}")]
    Tls {
        /// Which one, and why.
        reason: String,
    },
    /// The file of a secret cannot be used.
    #[error("auth_secret_file {}: {reason}", path.display())]
    Secret {
        /// The path of the file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// Neither an nsqd nor a lookupd was given.
    #[error("no address: give at least one nsqd{}", if *.lookupd { " or lookupd" } else { "" })]
    NoAddress {
        /// Whether a lookupd would also be accepted.
        lookupd: bool,
    },
    /// An address is malformed.
    #[error("{address:?} is not an address: {expected}")]
    InvalidAddress {
        /// The address as given, without user and password.
        address: String,
        /// Describes valid addresses.
        expected: &'static str,
    },
    /// There is no tokio runtime: producers and consumers run tasks.
    #[error("no tokio runtime: call this within one (for example in #[tokio::main]), or use nsq::blocking")]
    NoRuntime,
    /// The threads of `nsq::blocking` could not be started.
    #[error("cannot start a tokio runtime: {reason}")]
    Runtime {
        /// Why.
        reason: String,
    },
    /// NSQ does not allow this topic or channel name.
    #[error("{name:?} is not a valid {what} name: 1 to 64 of a-z A-Z 0-9 . _ -, optionally #ephemeral")]
    InvalidName {
        /// `topic` or `channel`.
        what: &'static str,
        /// The name as given.
        name: String,
    },
}

/// How far a connection got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectStage {
    /// Resolving the host name.
    Resolve,
    /// Connecting to the address.
    Dial,
    /// IDENTIFY and its reply.
    Identify,
    /// The TLS handshake.
    Tls,
    /// The first bytes in compressed form.
    Compress,
    /// AUTH and its reply.
    Authenticate,
    /// SUB and its reply.
    Subscribe,
    /// The connection was established and ended later.
    Established,
}

impl fmt::Display for ConnectStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectStage::Resolve => "resolving the address",
            ConnectStage::Dial => "connecting",
            ConnectStage::Identify => "identifying",
            ConnectStage::Tls => "TLS handshake",
            ConnectStage::Compress => "switching to compression",
            ConnectStage::Authenticate => "authenticating",
            ConnectStage::Subscribe => "subscribing",
            ConnectStage::Established => "connection lost",
        })
    }
}

/// A connection to an nsqd could not be opened, or ended.
#[derive(Debug, Clone, Error)]
#[error("nsqd {node}: {stage}: {cause}")]
#[non_exhaustive]
pub struct ConnectError {
    /// The address as given or discovered.
    pub node: Arc<str>,
    /// How far the connection got.
    pub stage: ConnectStage,
    /// Why it failed.
    #[source]
    pub cause: Disconnect,
}

/// Why a connection ended or could not be opened.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// The operating system reported an error.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// nsqd did not answer within this time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// nsqd closed the connection.
    #[error("nsqd closed the connection")]
    Closed,
    /// nsqd sent an error that ends the connection.
    #[error("{code} {description}")]
    Refused {
        /// The error code, `E_...`.
        code: String,
        /// nsqd's description of the error.
        description: String,
    },
    /// The received bytes violate the NSQ protocol.
    #[error("{0}")]
    Protocol(String),
    /// The address is an HTTP port.
    #[error("this port speaks HTTP: is it nsqd's HTTP port (4151) instead of its TCP port (4150)?")]
    HttpPeer,
    /// nsqd requires AUTH, and no secret is set.
    #[error("nsqd requires AUTH: set auth_secret or auth_secret_file")]
    AuthRequired,
    /// The secret cannot be read.
    #[error("{0}")]
    Secret(ConfigError),
    /// nsqd does not offer what the configuration requires.
    #[error("nsqd does not offer {0}")]
    Declined(&'static str),
    /// The client's TLS settings cannot be used.
    #[error("{0}")]
    Tls(ConfigError),
    /// The client closed the connection.
    #[error("stopped")]
    Stopped,
}

impl Disconnect {
    /// Whether authorization failed. A retry within seconds would fail too.
    pub(crate) fn is_authorization(&self) -> bool {
        match self {
            Disconnect::Refused { code, .. } => code == "E_UNAUTHORIZED" || code == "E_AUTH_FAILED",
            Disconnect::AuthRequired | Disconnect::Secret(_) => true,
            _ => false,
        }
    }

    /// Parses the data of an error frame.
    pub(crate) fn refused(frame_data: &[u8]) -> Self {
        let (code, description) = split_error(frame_data);
        Disconnect::Refused { code, description }
    }
}

impl From<io::Error> for Disconnect {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Disconnect::Closed,
            _ => Disconnect::Io(Arc::new(error)),
        }
    }
}

/// Splits the data of an error frame into code and description.
pub(crate) fn split_error(frame_data: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(frame_data);
    match text.split_once(char::is_whitespace) {
        Some((code, description)) => (code.to_owned(), description.to_owned()),
        None => (text.into_owned(), String::new()),
    }
}

/// A publish failed. The variant says whether nsqd may have the message.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not published: NSQ does not allow this topic name.
    #[error("{topic:?} is not a valid topic name: 1 to 64 of a-z A-Z 0-9 . _ -, optionally #ephemeral")]
    InvalidTopic {
        /// The name as given.
        topic: String,
    },
    /// Not published: NSQ allows neither empty messages nor empty batches.
    #[error("the message body is empty")]
    Empty,
    /// Not published: the message or batch exceeds nsqd's limit.
    #[error("message {index} for topic {topic} has {size} bytes, nsqd's limit is {limit}; send it in parts")]
    TooBig {
        /// The position of the message in the list that was given, from 0. The messages before and after it were not sent
        /// either, unless they have results of their own: send them without this one.
        index: usize,
        /// The topic.
        topic: String,
        /// The size of the message or batch, in bytes.
        size: usize,
        /// nsqd's limit, in bytes.
        limit: usize,
    },
    /// Not published: the value cannot be written as a body.
    #[error("cannot encode the message: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },
    /// Not published: the headers are not valid.
    #[error("invalid headers: {reason}")]
    InvalidHeaders {
        /// What is wrong with them.
        reason: String,
    },
    /// Not published: this nsqd does not accept headers. NSQ's own does not.
    #[error("nsqd {node} does not support headers; publish without headers, or to an nsqd of nsq-rs")]
    HeadersUnsupported {
        /// The address of the nsqd.
        node: Arc<str>,
    },
    /// Not published: too many publishes are unanswered. Only from [`Producer::send`](crate::Producer::send).
    #[error("too many publishes are waiting for an answer")]
    Full,
    /// Not published: the producer was closed.
    #[error("the producer is closed")]
    Closed,
    /// Not published: no lookupd has listed an nsqd within this time.
    #[error("no nsqlookupd listed an nsqd within {after:?}")]
    NoNodes {
        /// The time that the publish waited.
        after: Duration,
    },
    /// Not published: it was never written to a connection.
    #[error("not sent to nsqd {node}: {reason}")]
    NotSent {
        /// The address of the last nsqd that was tried.
        node: Arc<str>,
        /// Why the message could not be sent.
        reason: Disconnect,
    },
    /// Not published: nsqd refused the message.
    #[error("nsqd {node} refused: {code} {description}")]
    Refused {
        /// The address of the nsqd.
        node: Arc<str>,
        /// The error code, `E_...`.
        code: String,
        /// nsqd's description of the error.
        description: String,
    },
    /// The message was written, but no answer came: nsqd may have it or not.
    #[error("sent to nsqd {node}, no answer: {reason}")]
    Unknown {
        /// The address of the nsqd.
        node: Arc<str>,
        /// Why no answer came.
        reason: Disconnect,
    },
}

impl PublishError {
    /// Whether nsqd may have the message despite the error.
    pub fn is_unknown(&self) -> bool {
        matches!(self, PublishError::Unknown { .. })
    }

    /// Whether nsqd refused the message because it drains: it stops soon, or an operator takes it out of service. It was
    /// offered to other nodes, too, which failed or drain as well. Nothing was stored. Publish it again later, or to
    /// another nsqd.
    pub fn is_draining(&self) -> bool {
        match self {
            PublishError::Refused { code, description, .. } => nsq_protocol::is_draining(code, description),
            _ => false,
        }
    }

    /// Whether nsqd refused the message because a channel or topic holds too much (`max_depth`, `max_bytes`). It was offered
    /// to each node once. Publish it again later, when consumers have caught up.
    pub fn is_topic_full(&self) -> bool {
        match self {
            PublishError::Refused { code, description, .. } => nsq_protocol::is_topic_full(code, description),
            _ => false,
        }
    }
}

/// Publishing several messages failed, possibly after some of them were acknowledged.
#[derive(Debug, Clone, Error)]
#[error("{acknowledged} messages were acknowledged, then: {error}")]
#[non_exhaustive]
pub struct BatchError {
    /// The number of messages, from the first, that nsqd acknowledged.
    pub acknowledged: usize,
    /// Why the next batch failed. Later batches were not sent.
    #[source]
    pub error: PublishError,
}

/// An answer to a message had no effect, or probably had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The answer was sent after the deadline of the message: nsqd may have delivered it again.
    #[error("too late: the message has timed out and may be delivered again")]
    Late,
    /// The connection that delivered the message has ended, and nsqd delivers the message again.
    #[error("the connection that delivered the message has ended; nsqd will deliver the message again")]
    ConnectionLost,
    /// Only from [`Delivery::touch`](crate::Delivery::touch): nsqd reads too slowly, and TOUCH was not sent. The message
    /// keeps its deadline and can still be answered.
    #[error(
        "too many bytes wait to be sent to nsqd; the message keeps its deadline: answer it, or touch it again later"
    )]
    Crowded,
    /// Only from [`Message::reject`](crate::Message::reject): this nsqd does not accept rejections. NSQ's own does not.
    /// The message was requeued.
    #[error("this nsqd does not accept rejections, so the message was requeued; use an nsqd of nsq-rs")]
    CannotReject,
}

/// A query to a lookupd failed.
#[derive(Debug, Clone, Error)]
#[error("lookupd {lookupd}: {reason}")]
#[non_exhaustive]
pub struct LookupError {
    /// The address of the lookupd, without user and password.
    pub lookupd: Arc<str>,
    /// Why the query failed.
    pub reason: String,
}

/// A consumer could not start.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are invalid. The consumer has not started.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Connecting to every known nsqd failed. The consumer keeps trying.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The queries to all lookupds failed. The consumer keeps trying.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The consumer has not subscribed at any nsqd within this time. It keeps trying.
    #[error("not subscribed to topic {topic} at any nsqd within {after:?}: {}", waited_for(lookupds, nsqds))]
    Timeout {
        /// The time that was waited.
        after: Duration,
        /// The topic.
        topic: String,
        /// The lookupds that were asked, without user and password.
        lookupds: Vec<String>,
        /// The nsqds that the application set or lookupds listed.
        nsqds: Vec<String>,
    },
    /// The consumer is shutting down, or has stopped.
    #[error("the consumer is stopped")]
    Stopped,
}

fn waited_for(lookupds: &[String], nsqds: &[String]) -> String {
    match (lookupds, nsqds) {
        ([], nsqds) => format!("no connection to nsqd {}", nsqds.join(", ")),
        (lookupds, []) => format!(
            "nsqlookupd {} lists no nsqd with the topic; publish to it or create it first",
            lookupds.join(", ")
        ),
        (lookupds, nsqds) => {
            format!("no connection to nsqd {} (asked nsqlookupd {})", nsqds.join(", "), lookupds.join(", "))
        }
    }
}

/// The error of a handler: any error, a text, or a boxed error. As `anyhow::Error`, it converts from all of them with `?`,
/// and is no `Error` itself.
#[derive(Clone)]
pub struct HandlerError {
    error: Arc<dyn std::error::Error + Send + Sync>,
    permanent: bool,
}

impl HandlerError {
    /// An error that no redelivery can mend: the message is given up at once, not requeued.
    pub fn permanent(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        HandlerError { error: Arc::from(error.into()), permanent: true }
    }

    /// Whether the message is given up.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The error itself.
    pub fn inner(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.error
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        HandlerError { error: Arc::from(error.into()), permanent: false }
    }
}

impl fmt::Display for HandlerError {
    /// The error and its sources, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.error.to_string();
        f.write_str(&text)?;
        let mut source = self.error.source();
        while let Some(error) = source {
            let next = error.to_string();
            // Many errors repeat their source in their own text.
            if !text.contains(&next) {
                write!(f, ": {next}")?;
            }
            text = next;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandlerError({:?}, permanent: {})", self.error, self.permanent)
    }
}

impl PartialEq for HandlerError {
    /// Whether the texts are equal.
    fn eq(&self, other: &Self) -> bool {
        self.permanent == other.permanent && self.to_string() == other.to_string()
    }
}

impl Eq for HandlerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handler_errors_show_their_sources_once() {
        let connect = ConnectError {
            node: "a:1".into(),
            stage: ConnectStage::Dial,
            cause: Disconnect::Io(Arc::new(io::Error::other("no route"))),
        };
        assert_eq!(HandlerError::from(connect).to_string(), "nsqd a:1: connecting: no route");
        #[derive(Debug, Error)]
        #[error("cannot store the order")]
        struct Outer(#[source] io::Error);
        let error = HandlerError::from(Outer(io::Error::other("disk full")));
        assert_eq!(error.to_string(), "cannot store the order: disk full");
        assert!(error.inner().downcast_ref::<Outer>().is_some());
        assert!(HandlerError::permanent("no such tenant").is_permanent());
    }

    #[test]
    fn a_start_timeout_names_what_was_asked() {
        let timeout = |lookupds: &[&str], nsqds: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            let (lookupds, nsqds) = (texts(lookupds), texts(nsqds));
            StartError::Timeout { after: Duration::from_secs(5), topic: "orders".into(), lookupds, nsqds }
                .to_string()
        };
        assert_eq!(
            timeout(&["l:4161"], &[]),
            "not subscribed to topic orders at any nsqd within 5s: nsqlookupd l:4161 lists no nsqd with the topic; \
             publish to it or create it first"
        );
        assert!(timeout(&[], &["n:4150"]).ends_with("no connection to nsqd n:4150"));
    }
}
