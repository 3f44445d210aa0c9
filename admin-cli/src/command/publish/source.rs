//! Reads the messages of `nsq pub` from arguments, files and stdin, in a task that reads a little ahead.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;

use super::pieces::{MAX_PIECE_BYTES, Pieces, TooLong};
use super::template::Template;
use crate::exit_status::Failure;

/// Number of messages to read ahead.
const READ_AHEAD: usize = 64;
/// Bytes to read at a time.
const READ_BYTES: usize = 64 << 10;

/// A source of messages.
#[derive(Debug)]
pub enum Source {
    /// Each body is a message.
    Bodies(Vec<Bytes>),
    /// This many messages from a template.
    Generated(Template, u64),
    /// A file, which is one message.
    WholeFile(PathBuf),
    /// A file, which is split into messages.
    File(PathBuf),
    /// stdin, which is split into messages.
    Stdin,
}

/// How to read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Separator between messages; if empty, each source is one message.
    pub delimiter: Vec<u8>,
    /// Whether each source is a JSON array, whose elements are the messages.
    pub is_json_array: bool,
    /// Number of messages to skip.
    pub skip: u64,
    /// Time between two messages.
    pub pause: Duration,
    /// Whether a line feed at the end of the input is dropped, whatever the delimiter.
    pub drop_final_newline: bool,
    /// Whether empty pieces are messages, which are then refused.
    pub keep_empty: bool,
}

/// Starts to read. The channel closes after the last message or the first error.
pub fn read(sources: Vec<Source>, reading: Reading) -> Receiver<Result<Bytes, Failure>> {
    let (bodies, receiver) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        let mut feed = Feed { bodies, reading, next_at: Instant::now() };
        for source in sources {
            let fed = match source {
                Source::Bodies(bodies) => feed.all(bodies).await,
                Source::Generated(template, count) => feed.generated(&template, count).await,
                Source::WholeFile(path) => match tokio::fs::read(&path).await {
                    Ok(body) if body.is_empty() && !feed.reading.keep_empty => Ok(()),
                    Ok(body) => feed.one(body.into()).await,
                    Err(error) => Err(Stop::Failed(Failure::failed(format_args!(
                        "cannot read {}: {error}",
                        path.display()
                    )))),
                },
                Source::File(path) => match tokio::fs::File::open(&path).await {
                    Ok(file) => feed.pieces(file, &path.display().to_string()).await,
                    Err(error) => Err(Stop::Failed(Failure::failed(format_args!(
                        "cannot open {}: {error}",
                        path.display()
                    )))),
                },
                Source::Stdin => match stdin() {
                    Ok(file) => feed.pieces(file, "stdin").await,
                    Err(error) => {
                        Err(Stop::Failed(Failure::failed(format_args!("cannot read stdin: {error}"))))
                    }
                },
            };
            match fed {
                Ok(()) => {}
                Err(Stop::Unwanted) => return,
                Err(Stop::Failed(failure)) => {
                    // A send error means that the receiver is closed.
                    let _ = feed.bodies.send(Err(failure)).await;
                    return;
                }
            }
        }
    });
    receiver
}

/// Nothing else reads stdin, so the file needs neither lock nor buffer.
fn stdin() -> io::Result<tokio::fs::File> {
    let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(descriptor.into()))
}

/// Why reading stops early.
enum Stop {
    /// The receiver is closed.
    Unwanted,
    Failed(Failure),
}

struct Feed {
    bodies: Sender<Result<Bytes, Failure>>,
    reading: Reading,
    next_at: Instant,
}

impl Feed {
    async fn all(&mut self, bodies: impl IntoIterator<Item = Bytes>) -> Result<(), Stop> {
        for body in bodies {
            self.one(body).await?;
        }
        Ok(())
    }

    async fn one(&mut self, body: Bytes) -> Result<(), Stop> {
        if self.reading.skip > 0 {
            self.reading.skip -= 1;
            return Ok(());
        }
        if !self.reading.pause.is_zero() {
            tokio::time::sleep_until(self.next_at).await;
            // After a slow source, the rate limit allows no burst.
            self.next_at = self.next_at.max(Instant::now() - self.reading.pause) + self.reading.pause;
        }
        self.bodies.send(Ok(body)).await.map_err(|_| Stop::Unwanted)
    }

    async fn generated(&mut self, template: &Template, count: u64) -> Result<(), Stop> {
        for number in 1..=count {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
            self.one(template.render(number, now_ns, || fastrand::u64(..)).into()).await?;
        }
        Ok(())
    }

    /// The elements of a JSON array, as they are written in it.
    async fn elements(&mut self, input: impl AsyncRead + Unpin, name: &str) -> Result<(), Stop> {
        let failed = |error: &dyn std::fmt::Display| {
            Stop::Failed(Failure::failed(format_args!("{name} is no JSON array: {error}")))
        };
        let mut text = Vec::new();
        let limit = MAX_PIECE_BYTES as u64;
        let read = input.take(limit + 1).read_to_end(&mut text).await;
        read.map_err(|error| failed(&error))?;
        if text.len() as u64 > limit {
            return Err(Stop::Failed(Failure::failed(format_args!(
                "{name} exceeds {limit} bytes; publish one JSON value per line instead"
            ))));
        }
        let elements: Vec<Box<RawValue>> = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        self.all(elements.into_iter().map(|element| Bytes::from(element.get().to_owned()))).await
    }

    async fn pieces(&mut self, mut input: impl AsyncRead + Unpin, name: &str) -> Result<(), Stop> {
        if self.reading.is_json_array {
            return self.elements(input, name).await;
        }
        let too_long = |TooLong| {
            let text = format!("a message in {name} exceeds {MAX_PIECE_BYTES} bytes; check --delimiter");
            Stop::Failed(Failure::failed(text))
        };
        let unreadable =
            |error: io::Error| Stop::Failed(Failure::failed(format_args!("cannot read {name}: {error}")));
        let mut pieces = Pieces::new(&self.reading.delimiter);
        if self.reading.keep_empty {
            pieces = pieces.keep_empty();
        }
        if self.reading.drop_final_newline {
            pieces = pieces.drop_final_newline();
        }
        loop {
            pieces.buffer().reserve(READ_BYTES);
            if input.read_buf(pieces.buffer()).await.map_err(unreadable)? == 0 {
                break;
            }
            while let Some(piece) = pieces.next().map_err(too_long)? {
                self.one(piece).await?;
            }
        }
        self.all(pieces.last()).await
    }
}
