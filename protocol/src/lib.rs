//! The formats that NSQ's programs share: the client protocol V2, the protocol between nsqd and nsqlookupd, and the
//! JSON that both daemons serve.
//!
//! Everything here is pure: it converts bytes to values and back, without sockets, files or a clock. Sizes from the
//! wire are checked against a limit before memory is allocated for them. No input makes a function panic.
//!
//! ```text
//! client to nsqd    "  V2"  then commands:   NAME SP PARAM .. LF  [ length(4) body ]
//! nsqd to client    frames:                  size(4) type(4) data(size - 4)
//! message frame     data:                    timestamp(8) attempts(2) id(16) body
//!
//! nsqd to lookupd   "  V1"  then commands:   NAME SP PARAM .. LF  [ length(4) body ]
//! lookupd to nsqd   responses:               size(4) data(size)
//! ```
//!
//! All integers are big-endian. The modules, in reading order:
//!
//! - [`name`]: topic and channel names; [`message_id`]: message ids
//! - [`frame`] and [`message`]: what nsqd sends
//! - [`headers`]: headers of messages
//! - [`command`] and [`batch`]: what a client sends; [`limits`]: how much of it
//! - [`command_decoder`]: reading commands from a growing buffer
//! - [`error`]: error responses to clients
//! - [`identify`]: negotiation at the start of a connection; [`auth`]: the client's identity
//! - [`compression`]: the compressed byte streams that client and nsqd can negotiate
//! - [`mod@printable`]: escapes untrusted text for terminals and log lines
//! - [`mod@rfc3339`]: times as text
//! - [`start_at`]: a position in a topic, where a channel starts or is moved to
//! - [`lookup`]: nsqd and nsqlookupd over TCP; [`heartbeat`]: the statistics there; [`discovery`]: nsqlookupd's JSON
//! - [`stats`] and [`stats_text`]: nsqd's `/stats` and `/info`; [`policy`] and [`policy_test`]: its `/policy/...`;
//!   [`dead_letters`]: its `/topic/dead` and `/topic/redrive`; [`drain`]: its `/config/drain`; [`mod@archive`]: a part of its `/stats`;
//!   [`dry_run`]: its answers to `dry_run=true` and to `/channel/undo`
//! - [`json`]: a lenient JSON reader, and JSON as NSQ's programs write it
//! - [`redact`]: removes passwords from addresses for logs and errors

//!
//! The features, all on by default, are for programs that need only a part: `snappy` and `deflate` (the compressed
//! streams), `heartbeat` (the bytes of the statistics between daemons).

#![warn(missing_docs)]

pub mod message_id;
pub mod name;

pub mod frame;
pub mod message;

pub mod go_duration;
pub mod headers;
pub mod message_ttl;

pub mod batch;
pub mod command;
pub mod limits;

pub mod command_decoder;

pub mod error;

pub mod identify;
pub mod rfc3339;
pub mod start_at;

pub mod auth;

#[cfg(any(feature = "deflate", feature = "snappy"))]
pub mod compression;

pub mod discovery;
pub mod heartbeat;
pub mod lookup;

pub mod stats;
pub mod stats_text;

pub mod dead_letters;
pub mod inspect;
pub mod archive;
pub mod drain;
pub mod dry_run;
pub mod policy;
pub mod policy_test;

pub mod json;
pub mod printable;

pub mod redact;

pub use archive::ArchiveStats;
pub use auth::{AuthAnswer, AuthReply, AuthorizationEntry};
pub use batch::{BatchError, BatchPart, Checked, MessageBatch, put_mpub, put_mpub_ext};
pub use command::{Command, MAGIC_V2, MAX_REASON_BYTES, Verb, as_reason};
pub use command_decoder::{Decoded, command_name, decode, decode_from, mpub_topic, truncated};
pub use dead_letters::{
    DeadDeleteResponse, DeadLetterGroup, DeadLettersResponse, DeadMessage, DeadMessagesResponse,
    RedriveDestination, RedrivePlanResponse, RedriveResponse,
};
pub use discovery::{
    ChannelsResponse, ClusterNode, ClusterStatsResponse, LookupResponse, Node, NodesResponse, Producer,
    TopicsResponse,
};
pub use drain::{DrainStatus, MoveState, MoveStatus};
pub use dry_run::{DryRunChannel, DryRunResponse, UndoResponse, UndoneChannel};
pub use error::{DRAINING, ErrorCode, ProtocolError, TOPIC_FULL, is_draining, is_topic_full, quote};
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameType, put_frame};
pub use identify::{
    HEADERS, IdentifyLimits, IdentifyReply, IdentifyRequest, Negotiated, PUB_IDS, REJECT, negotiate,
};
pub use inspect::{
    ChangedMessage, MessageResponse, PeekEnd, PeekLine, PeekedConsumer, PeekedMessage, WhyCause, WhyResponse,
};
pub use limits::Limits;
pub use lookup::{
    LookupCommand, LookupDecoded, LookupError, LookupLimits, LookupdInfo, MAGIC_V1, PeerInfo, decode_lookup,
    decode_lookup_response, lookup_truncated, put_lookup_response,
};
pub use message::{
    MESSAGE_FRAME_OVERHEAD, MESSAGE_HEADER_BYTES, Message, MessageView, put_message_frame, set_attempts,
};
pub use message_id::MessageId;
pub use name::{ChannelName, InvalidName, MAX_NAME_BYTES, TopicName, is_valid_name};
pub use policy::{ExplainedSetting, PolicyExplainResponse};
pub use policy_test::{PolicyTestResponse, PolicyWarning, TestedChannel, TestedRetention, TestedTopic};
pub use printable::{is_printable, printable, printable_lines};
pub use start_at::{InvalidStartAt, StartAt};
pub use stats::{
    ChannelStats, ClientStats, DedupeStats, E2eLatency, InfoResponse, MemoryStats, OrderStats, Percentile,
    PubCount, RetentionStats, SeekResponse, Stats, StorageStats, TopicStats,
};
pub use stats_text::{StatsText, render_text};
