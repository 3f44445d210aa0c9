//! A client for [NSQ](https://nsq.io) and for the nsqd of this project.
//!
//! Publish:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = nsq::Producer::new("127.0.0.1:4150")?;
//! producer.publish("orders", "one message").await?;
//! producer.publish_many("orders", ["several", "at", "once"]).await?;
//! producer.publish_deferred("orders", std::time::Duration::from_secs(60), "in a minute").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Consume with a handler, whose return value decides how the message is answered:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let consumer = nsq::Consumer::builder("orders", "billing")
//!     .lookupd(["127.0.0.1:4161"])
//!     .concurrency(10)
//!     .handler_fn(|message| async move {
//!         println!("{}", std::str::from_utf8(message.body())?);
//!         Ok::<(), nsq::HandlerError>(())
//!     })
//!     .start()?;
//! let report = consumer.run_until(nsq::shutdown_signal(), nsq::Drain::default()).await;
//! println!("{report:?}");
//! # Ok(())
//! # }
//! ```
//!
//! Or consume from a stream, and answer each message:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut messages =
//!     nsq::Consumer::builder("orders", "billing").nsqd("127.0.0.1:4150").max_in_flight(100).stream()?;
//! while let Some(message) = messages.next().await {
//!     println!("{:?}", message.body());
//!     message.finish()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` contains complete programs, and `docs/CLIENT.md` explains errors, back pressure, backoff, dead letters,
//! shutdown, tuning and testing. [`blocking`] is for threads without a runtime.
//!
//! # Guarantees
//!
//! - A publish that returns `Ok` was acknowledged by nsqd. The error of a failed one says whether nsqd may have it.
//! - Busy handlers delay neither heartbeats nor answers.
//! - Dropping an unanswered message requeues it.
//! - Futures may be dropped at any time. A publish that is queued goes on; its documentation says so.
//! - Every wait for nsqd or lookupd is bounded, and no task outlives its handle after a shutdown.
//!
//! # Features
//!
//! On by default, and not needed by every program: `tls`, `snappy` and `deflate` (connections), `admin` (the HTTP
//! interfaces). The guide lists all.
//!
//! # TLS and compression
//!
//! TLS and compression are options:
//!
//! ```no_run
//! # #[cfg(all(feature = "admin", feature = "tls"))] fn example() -> Result<(), nsq::ConfigError> {
//! let config = nsq::Config::new().tls_v1(true).snappy(true).tls_root_ca_file("ca.pem");
//! let config = config.tls_cert("me.pem").tls_key("me.key");
//! let producer = nsq::Producer::builder().nsqd("127.0.0.1:4150").config(config.clone()).build()?;
//! let admin = nsq::admin::NsqdClient::new("https://127.0.0.1:4152")?.tls(nsq::Tls::new(&config)?);
//! # Ok(())
//! # }
//! ```
//!
//! So is the secret for nsqds that require AUTH: `auth_secret`, or `auth_secret_file`, which is read for each
//! connection.
//!
//! # Addresses
//!
//! An address is `host:port`; for HTTP, a URL is accepted too. An address with a slash and no colon before it, such as
//! `/run/nsqd.sock`, is the path of a unix socket. Producers, consumers and admin clients accept one. With TLS over a
//! unix socket, the server's certificate must be valid for `localhost`, or for `tls_server_name` if that is set.
//!
//! # The code, in reading order
//!
//! [`config`](Config); `transport`, `unix_socket`, `tls`, `compression`, `handshake`, `connect`, `frame_reader` (how a
//! connection is opened), `absent` (what a build without their features has instead); [`producer`]; `codec`; [`consumer`] and its parts: `rdy` (how `max_in_flight` is distributed),
//! `backoff` (what happens when handling fails), `membership` and `lookup` (which nsqds to connect to); `admin` over `http` and
//! `https`.

#![warn(missing_docs)]

mod addresses;
mod config;
mod error;
mod time;

#[cfg(not(all(feature = "deflate", feature = "snappy", feature = "tls")))]
mod absent;
#[cfg(any(feature = "deflate", feature = "snappy"))]
mod compression;
mod connect;
mod frame_reader;
pub mod handshake;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod unix_socket;

mod codec;
mod meters;
mod spans;
#[cfg(feature = "otel")]
mod trace_context;

pub mod consumer;
pub mod producer;

pub mod blocking;
mod signal;

mod backoff;
mod lookup;
mod membership;
mod poll_pace;
mod rdy;

#[cfg(feature = "admin")]
pub mod admin;
mod http;
#[cfg(feature = "tls")]
mod https;

#[cfg(not(any(feature = "deflate", feature = "snappy")))]
use absent::compression;
#[cfg(not(feature = "tls"))]
use absent::{https, tls};

#[cfg(feature = "test-util")]
pub mod test_util;

/// Layers and services of `tower` around handlers.
#[cfg(feature = "tower")]
pub mod tower {
    pub use crate::consumer::service::{Failed, FromService, HandlerService, Layered, layered, service};
}

pub use addresses::Addresses;
pub use bytes::{self, Bytes};
#[cfg(feature = "msgpack")]
pub use codec::MsgPack;
#[cfg(feature = "proto")]
pub use codec::Proto;
pub use codec::{CodecError, DecodeBody, EncodeBody, Envelope, Json, Text};
pub use config::{
    BackoffStrategy, Config, Interval, OptionInfo, OptionValue, Secret, Setting, TlsVersion, Upgrades,
};
pub use consumer::{
    Batch, Batches, Call, Consumer, ConsumerBuilder, ConsumerGroup, ConsumerState, ConsumerStats, DeadLetter,
    Delivery, Drain, DrainReport, Event, FromDelivery, Handler, IntoOutcome, Message, MessageStream, Outcome,
    Requeue, Unfinished, WithArguments, arguments,
};
pub use error::{
    AnswerError, BatchError, ConfigError, ConnectError, ConnectStage, Disconnect, HandlerError, LookupError,
    PublishError, StartError,
};
pub use handshake::ServerInfo;
pub use nsq_protocol::headers::Headers;
pub use nsq_protocol::{AuthReply, MessageId, Producer as ListedProducer, StartAt};
pub use producer::{
    Guarantee, NewMessage, Producer, ProducerBuilder, PublishFuture, PublishedMessage, Receipt, Strategy,
    Topic, TypedTopic,
};
pub use signal::shutdown_signal;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use unix_socket::is_socket_path;

/// Compiles the example in the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles the examples in the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/CLIENT.md")]
struct Guide;
