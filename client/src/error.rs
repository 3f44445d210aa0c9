//! What can go wrong, by operation. Each error says where it happened and, where it matters, what became
//! of the message; none contains a secret.

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
        /// As it was given.
        name: String,
    },
    /// The value is not of the option's type.
    #[error("option {name}: {value:?} is not {expected}")]
    InvalidValue {
        /// The option.
        name: String,
        /// As it was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The value is of the right type and too small or too large.
    #[error("option {name}: {value} is outside of {range}")]
    OutOfRange {
        /// The option.
        name: &'static str,
        /// As it was given.
        value: String,
        /// What would be right.
        range: String,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Conflict(&'static str),
    /// A certificate or key cannot be used.
    #[error("TLS: {reason}")]
    Tls {
        /// Which, and why.
        reason: String,
    },
    /// The file of a secret cannot be used.
    #[error("auth_secret_file {}: {reason}", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Neither an nsqd nor a lookupd was given.
    #[error("no address: give at least one nsqd{}", if *.lookupd { " or lookupd" } else { "" })]
    NoAddress {
        /// Whether a lookupd would have done.
        lookupd: bool,
    },
    /// An address that cannot be one.
    #[error("{address:?} is not an address: {expected}")]
    InvalidAddress {
        /// As it was given.
        address: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A topic or channel name that NSQ does not allow.
    #[error("{name:?} is not a valid {what} name: 1 to 64 of a-z A-Z 0-9 . _ -, optionally #ephemeral")]
    InvalidName {
        /// `topic` or `channel`.
        what: &'static str,
        /// As it was given.
        name: String,
    },
}

/// How far a connection got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectStage {
    /// Resolving the host name.
    Resolve,
    /// The TCP connect.
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
    /// All the way: it ended later.
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

/// A connection to an nsqd could not be made, or ended.
#[derive(Debug, Clone, Error)]
#[error("nsqd {node}: {stage}: {cause}")]
pub struct ConnectError {
    /// The address as it was given or discovered.
    pub node: Arc<str>,
    /// How far it got.
    pub stage: ConnectStage,
    /// What happened.
    #[source]
    pub cause: Disconnect,
}

/// Why a connection ended, or never began.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// The operating system says so.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// Nothing came for too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The other side closed.
    #[error("nsqd closed the connection")]
    Closed,
    /// nsqd refused with an error that ends the connection.
    #[error("{code} {description}")]
    Refused {
        /// The first word, `E_...`.
        code: String,
        /// The rest.
        description: String,
    },
    /// What came is not the NSQ protocol.
    #[error("{0}")]
    Protocol(String),
    /// It speaks HTTP.
    #[error("this port speaks HTTP: is it nsqd's HTTP port (4151) instead of its TCP port (4150)?")]
    HttpPeer,
    /// nsqd requires AUTH, and there is no secret.
    #[error("nsqd requires AUTH: set auth_secret or auth_secret_file")]
    AuthRequired,
    /// There should be a secret, but it cannot be had.
    #[error("{0}")]
    Secret(ConfigError),
    /// nsqd does not do what the configuration insists on.
    #[error("nsqd does not offer {0}")]
    Declined(&'static str),
    /// TLS cannot be set up on our side.
    #[error("{0}")]
    Tls(ConfigError),
    /// We closed it.
    #[error("stopped")]
    Stopped,
}

impl Disconnect {
    /// Being turned away will not get better within seconds, so it is not worth asking again that soon.
    pub(crate) fn is_authorization(&self) -> bool {
        match self {
            Disconnect::Refused { code, .. } => code == "E_UNAUTHORIZED" || code == "E_AUTH_FAILED",
            Disconnect::AuthRequired | Disconnect::Secret(_) => true,
            _ => false,
        }
    }

    /// From the data of an error frame.
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

/// An error frame's code and description.
pub(crate) fn split_error(frame_data: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(frame_data);
    match text.split_once(char::is_whitespace) {
        Some((code, description)) => (code.to_owned(), description.to_owned()),
        None => (text.into_owned(), String::new()),
    }
}

/// A publish failed. What became of the message is what the variants differ in.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not published: the topic's name is not allowed.
    #[error("{topic:?} is not a valid topic name: 1 to 64 of a-z A-Z 0-9 . _ -, optionally #ephemeral")]
    InvalidTopic {
        /// As it was given.
        topic: String,
    },
    /// Not published: NSQ has no empty messages, and no empty batches.
    #[error("the message body is empty")]
    Empty,
    /// Not published: the server would refuse it.
    #[error("message of {size} bytes: the limit is {max}")]
    TooBig {
        /// The body's.
        size: usize,
        /// The server's `max_msg_size`.
        max: usize,
    },
    /// Not published: too much is unanswered already. Only from [`Producer::send`](crate::Producer::send).
    #[error("too many publishes are waiting for an answer")]
    Full,
    /// Not published: the producer was closed.
    #[error("the producer is closed")]
    Closed,
    /// Not published: it was never written to a connection.
    #[error("not sent to nsqd {node}: {reason}")]
    NotSent {
        /// The last node that was tried.
        node: Arc<str>,
        /// Why.
        reason: Disconnect,
    },
    /// Not published: nsqd said no.
    #[error("nsqd {node} refused: {code} {description}")]
    Refused {
        /// Who refused.
        node: Arc<str>,
        /// The error's first word, `E_...`.
        code: String,
        /// The rest.
        description: String,
    },
    /// Written, but no answer came: nsqd may have it or not.
    #[error("sent to nsqd {node}, no answer: {reason}")]
    Unknown {
        /// Where it was sent.
        node: Arc<str>,
        /// Why no answer came.
        reason: Disconnect,
    },
}

impl PublishError {
    /// Whether nsqd may have the message although this is an error.
    pub fn is_unknown(&self) -> bool {
        matches!(self, PublishError::Unknown { .. })
    }
}

/// A batch that was split to fit the server's limits failed part-way.
#[derive(Debug, Clone, Error)]
#[error("{acknowledged} messages were acknowledged, then: {error}")]
pub struct BatchError {
    /// How many messages, from the first, nsqd acknowledged.
    pub acknowledged: usize,
    /// What happened to the next ones. All that follow were not sent.
    #[source]
    pub error: PublishError,
}

/// An answer to a message is known to be pointless, or probably was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// The answer was sent, but the message's time was up: nsqd may have delivered it again.
    #[error("too late: the message has timed out and may be delivered again")]
    Late,
    /// The connection that brought the message is gone, and nsqd will deliver it again.
    #[error("the connection that delivered the message is gone: it will be delivered again")]
    ConnectionLost,
}

/// One lookupd could not be asked.
#[derive(Debug, Clone, Error)]
#[error("lookupd {lookupd}: {reason}")]
pub struct LookupError {
    /// Its address.
    pub lookupd: Arc<str>,
    /// What happened.
    pub reason: String,
}

/// A consumer could not start.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StartError {
    /// It could not even try.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Every nsqd that is known so far refused. The consumer goes on trying.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Every lookupd failed. The consumer goes on asking.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It took too long.
    #[error("no nsqd was found within {0:?}")]
    Timeout(Duration),
    /// It was stopped before.
    #[error("the consumer is stopped")]
    Stopped,
}
