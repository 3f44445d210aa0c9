//! A publishing connection: keeps a window of commands in flight, and counts the answers. It never waits; its caller
//! (`super::publisher_group`) does.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nsq::handshake::Purpose;

use super::connection::{Connection, Heartbeats, MAX_SILENCE, Received};
use super::failure::Failure;
use super::frames::{self, Tally};
use super::http;
use super::load::Load;
use super::pace::Pace;
use super::phase::Run;
use super::plan::{Plan, Publish};

/// A connection and the commands that it sends.
pub struct Publisher {
    connection: Connection,
    load: Load,
    /// The last command, if it holds fewer messages than the others.
    last: Option<Load>,
    /// Number of commands to send; `None` for no limit.
    commands: Option<u64>,
    in_flight: u64,
    commands_per_second: Option<f64>,
    pace: Option<Pace>,
    is_http: bool,
    sent: u64,
    answered: u64,
    /// Number of answers needed before the next write, counted from the start.
    answers_needed: u64,
    last_answer: Instant,
}

impl Publisher {
    /// Connects. `messages` is this connection's share. Without one, the connection publishes until
    /// [`Publisher::stop`].
    pub fn connect(plan: &Plan, publish: &Publish, messages: Option<u64>) -> Result<Self, Failure> {
        let connection = if publish.http {
            Connection::open(&plan.http)?
        } else {
            Connection::identified(&plan.tcp, Purpose::Publish, Heartbeats::Off, &plan.security)?.0
        };
        let batch = publish.batch as u64;
        let rest = messages.map_or(0, |messages| messages % batch);
        Ok(Publisher {
            connection,
            load: Load::new(plan, publish, publish.batch),
            last: (rest > 0).then(|| Load::new(plan, publish, rest as usize)),
            commands: messages.map(|messages| messages.div_ceil(batch)),
            in_flight: publish.in_flight,
            commands_per_second: publish.rate.map(|rate| rate / publish.connections as f64 / batch as f64),
            pace: None,
            is_http: publish.http,
            sent: 0,
            answered: 0,
            answers_needed: 0,
            last_answer: Instant::now(),
        })
    }

    /// Starts the clock of this connection.
    pub fn start(&mut self, run: &Run<'_>) {
        self.pace = self.commands_per_second.map(|rate| Pace::new(run.clock.now_ns(), rate));
        self.last_answer = Instant::now();
    }

    /// Sends no more commands than those already sent.
    pub fn stop(&mut self) {
        if self.commands != Some(self.sent) {
            self.commands = Some(self.sent);
            self.last = None;
        }
    }

    /// Whether all commands are sent and answered.
    pub fn is_done(&self) -> bool {
        self.commands == Some(self.sent) && self.sent == self.answered
    }

    /// Number of answers that are missing before the next write; 0 if it waits only for its due time.
    pub fn missing(&self) -> u64 {
        self.answers_needed.saturating_sub(self.answered)
    }

    /// Whether it sends at a given rate.
    pub fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// When the next command is due, if it waits only for its due time.
    pub fn due_ns(&self) -> Option<u64> {
        let more = self.commands.is_none_or(|commands| self.sent < commands);
        let room = self.sent - self.answered < self.in_flight;
        self.pace.filter(|_| more && room).map(|pace| pace.due_ns(self.sent))
    }

    /// Sends the commands that are due and fit into the window, unless more answers are needed first.
    pub fn advance(&mut self, run: &Run<'_>) -> Result<(), Failure> {
        if self.missing() > 0 {
            return Ok(());
        }
        let left = self.commands.map_or(u64::MAX, |commands| commands - self.sent);
        let due =
            self.pace.map_or(u64::MAX, |pace| pace.due_count(run.clock.now_ns()).saturating_sub(self.sent));
        let now = left.min(due).min(self.in_flight - (self.sent - self.answered));
        if self.sent == self.answered {
            self.last_answer = Instant::now();
        }
        self.sent += self.send(now)?;
        // Wait for half a window before the next write: nsqd always has work, and neither side works in small pieces.
        // Commands that wait for their due time are sent when they are due.
        self.answers_needed = if self.pace.is_some() && self.sent - self.answered < self.in_flight {
            self.answered
        } else if self.commands == Some(self.sent) {
            self.sent
        } else {
            self.sent.saturating_sub(self.in_flight / 2).max((self.answered + 1).min(self.sent))
        };
        Ok(())
    }

    /// Fails if an answer is overdue.
    pub fn check(&self) -> Result<(), Failure> {
        if self.sent > self.answered && self.last_answer.elapsed() > MAX_SILENCE {
            return Err(self.connection.failed(format_args!("no OK for {} s", MAX_SILENCE.as_secs())));
        }
        Ok(())
    }

    /// Sends up to `count` further commands. Returns how many were sent.
    fn send(&mut self, count: u64) -> Result<u64, Failure> {
        let (sent, mut done) = (self.sent, 0);
        while done < count {
            let is_last = self.commands == Some(sent + done + 1);
            let (bytes, taken) = match &self.last {
                Some(last) if is_last => last.take(1),
                // The last command is sent in the next iteration.
                Some(_) if self.commands == Some(sent + count) => self.load.take(count - done - 1),
                _ => self.load.take(count - done),
            };
            if let Err(lost) = self.connection.send(bytes) {
                return Err(self.refusal().unwrap_or(lost));
            }
            done += taken;
        }
        Ok(done)
    }

    /// The error that nsqd sent before it closed the connection, if it can still be read.
    fn refusal(&mut self) -> Option<Failure> {
        let _ = self.connection.receive();
        let buf = self.connection.received();
        let fault = if self.is_http {
            http::scan(buf).err()?.to_string()
        } else {
            frames::scan(buf, &mut Tally::default(), |_| {}).err()?.to_string()
        };
        Some(self.connection.failed(fault))
    }

    /// Reads what has arrived. Does not block if there is something to read. Returns the number of commands that were
    /// answered.
    pub fn receive(&mut self, run: &Run<'_>) -> Result<u64, Failure> {
        let mut answers = self.receive_once(run)?;
        while self.connection.holds_bytes() {
            answers += self.receive_once(run)?;
        }
        Ok(answers)
    }

    fn receive_once(&mut self, run: &Run<'_>) -> Result<u64, Failure> {
        if self.connection.receive()? == Received::Nothing {
            return Ok(0);
        }
        let buf = self.connection.received();
        let (new, bytes) = if self.is_http {
            let found = http::scan(buf).map_err(|fault| self.connection.failed(fault))?;
            (found.answers, found.bytes)
        } else {
            let mut tally = Tally::default();
            let bytes =
                frames::scan(buf, &mut tally, |_| {}).map_err(|fault| self.connection.failed(fault))?;
            (tally.oks, bytes)
        };
        self.connection.consume(bytes);
        if new > self.sent - self.answered {
            return Err(self.connection.failed("it sent more answers than it got commands"));
        }
        if new > 0 {
            let ends_with_last = self.commands == Some(self.answered + new);
            let messages = match &self.last {
                Some(last) if ends_with_last => (new - 1) * self.load.batch + last.batch,
                _ => new * self.load.batch,
            };
            self.answered += new;
            self.last_answer = Instant::now();
            run.counter.add(messages, 0, run.clock.now_ns());
        }
        Ok(new)
    }
}

impl AsFd for Publisher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
