//! One TCP connection to an nsqlookupd: sends commands, reads one response to each; every wait has a limit.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use nsq_protocol::heartbeat::parse_refresh_request;
use nsq_protocol::{LookupError, decode_lookup_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a connection to an nsqlookupd ended or could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupFailure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{doing} took longer than {after:?}")]
    TimedOut { doing: &'static str, after: Duration },
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("nsqlookupd closed the connection")]
    Closed,
    #[error("{0}")]
    Response(#[from] LookupError),
    #[error("nsqlookupd sent {0} unexpected bytes")]
    Unasked(usize),
    #[error("nsqlookupd answered {command} with {text}")]
    Refused { command: String, text: String },
}

impl LookupFailure {
    /// nsqlookupd answered `command` with the error `text`.
    pub fn refused(command: &[u8], text: &[u8]) -> Self {
        const MAX_TEXT_BYTES: usize = 300;
        let text = &text[..text.len().min(MAX_TEXT_BYTES)];
        LookupFailure::Refused {
            command: String::from_utf8_lossy(command).trim_end().to_owned(),
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

/// One TCP connection to an nsqlookupd.
pub(super) struct LookupConnection {
    stream: TcpStream,
    received: BytesMut,
    /// Number of the latest request for statistics that is not handled yet.
    refresh: Option<u64>,
    /// Limit for writing a batch of commands, and for reading one response.
    io_timeout: Duration,
    max_response_bytes: usize,
}

impl LookupConnection {
    /// Resolves the address and connects.
    pub async fn open(
        address: &str,
        (dial_timeout, io_timeout): (Duration, Duration),
        max_response_bytes: usize,
    ) -> Result<Self, LookupFailure> {
        let stream = timeout(dial_timeout, nsq_dial::dial(address, dial_timeout))
            .await
            .map_err(|_| LookupFailure::TimedOut { doing: "connecting", after: dial_timeout })?
            .map_err(LookupFailure::Connect)?;
        // Each write is followed by waiting for a response, so Nagle's algorithm would only delay.
        stream.set_nodelay(true)?;
        Ok(LookupConnection {
            stream,
            received: BytesMut::with_capacity(1024),
            refresh: None,
            io_timeout,
            max_response_bytes,
        })
    }

    /// Sends encoded commands.
    pub async fn send(&mut self, commands: &[u8]) -> Result<(), LookupFailure> {
        timeout(self.io_timeout, self.stream.write_all(commands))
            .await
            .map_err(|_| LookupFailure::TimedOut { doing: "sending", after: self.io_timeout })?
            .map_err(LookupFailure::Io)
    }

    /// Reads the response to the oldest unanswered command.
    pub async fn response(&mut self) -> Result<Bytes, LookupFailure> {
        timeout(self.io_timeout, self.read_response())
            .await
            .map_err(|_| LookupFailure::TimedOut { doing: "waiting for an answer", after: self.io_timeout })?
    }

    async fn read_response(&mut self) -> Result<Bytes, LookupFailure> {
        loop {
            let size = decode_lookup_response(&self.received, self.max_response_bytes)?;
            if let Some(bytes) = size.map(|(_, bytes)| bytes) {
                let data = self.received.split_to(bytes).freeze().split_off(4);
                match parse_refresh_request(&data) {
                    Some(number) => self.refresh = Some(number),
                    None => return Ok(data),
                }
                continue;
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(LookupFailure::Closed);
            }
        }
    }

    /// Completes with an error when the connection breaks, or with the number of a request for statistics if they were
    /// `offered`. Await it only while no command is unanswered. Dropping the future loses nothing.
    pub async fn refresh_or_broken(&mut self, offered: bool) -> Result<u64, LookupFailure> {
        loop {
            if offered && let Some(number) = self.refresh.take() {
                return Ok(number);
            }
            let unasked = LookupFailure::Unasked(self.received.len());
            if !self.received.is_empty() && !offered {
                return Err(unasked);
            }
            if let Some((data, bytes)) = decode_lookup_response(&self.received, self.max_response_bytes)? {
                self.refresh = Some(parse_refresh_request(data).ok_or(unasked)?);
                self.received.advance(bytes);
                continue;
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(LookupFailure::Closed);
            }
        }
    }
}
