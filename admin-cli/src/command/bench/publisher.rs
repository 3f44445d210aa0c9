//! A publishing connection: keeps a window of commands in flight, and counts the answers.

use std::time::{Duration, Instant};

use super::connection::{Connection, Heartbeats, PATIENCE, Received};
use super::frames::{self, Tally};
use super::http;
use super::load::Load;
use super::pace::Pace;
use super::phase::Run;
use super::plan::{Plan, Publish};
use crate::exit_status::Failure;

/// An nsqd that writes each OK by itself would make the generator read each by itself, at a cost like nsqd's own. When
/// fewer than so many came and as many are still wanted before the next write, some may gather: half a window is with
/// nsqd meanwhile.
const GATHERED: u64 = 16;
const GATHERING: Duration = Duration::from_micros(50);

/// One connection and what it is to send.
pub struct Publisher {
    connection: Connection,
    load: Load,
    /// The last command, if it holds fewer messages than the others.
    last: Option<Load>,
    /// Commands to send. None for as many as go into the duration.
    commands: Option<u64>,
    duration: Option<Duration>,
    in_flight: u64,
    commands_per_second: Option<f64>,
    is_http: bool,
}

impl Publisher {
    /// Connects. `messages` is this connection's share; without one, `duration` says when it ends.
    pub fn connect(
        plan: &Plan,
        publish: &Publish,
        messages: Option<u64>,
        duration: Option<Duration>,
    ) -> Result<Self, Failure> {
        let connection = if publish.http {
            Connection::open(plan.http)?
        } else {
            Connection::identified(plan.tcp, Heartbeats::Off, &plan.security)?.0
        };
        let batch = publish.batch as u64;
        let rest = messages.map_or(0, |messages| messages % batch);
        Ok(Publisher {
            connection,
            load: Load::new(plan, publish, publish.batch),
            last: (rest > 0).then(|| Load::new(plan, publish, rest as usize)),
            commands: messages.map(|messages| messages.div_ceil(batch)),
            duration,
            in_flight: publish.in_flight,
            commands_per_second: publish.rate.map(|rate| rate / publish.connections as f64 / batch as f64),
            is_http: publish.http,
        })
    }

    /// Publishes until all is sent and answered, or until it is told to stop.
    pub fn run(mut self, run: &Run<'_>) -> Result<(), Failure> {
        let pace = self.commands_per_second.map(|rate| Pace::new(run.clock.now_ns(), rate));
        let deadline = self.duration.map(|duration| Instant::now() + duration);
        let (mut sent, mut answered) = (0, 0);
        loop {
            if run.should_stop() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.stop_after(sent);
            }
            let left = self.commands.map_or(u64::MAX, |commands| commands - sent);
            let due = pace.map_or(u64::MAX, |pace| pace.due_count(run.clock.now_ns()).saturating_sub(sent));
            let now = left.min(due).min(self.in_flight - (sent - answered));
            sent += self.send(sent, now)?;

            if sent == answered {
                if self.commands == Some(sent) {
                    return Ok(());
                }
                if let Some(pace) = pace {
                    run.sleep_until(pace.due_ns(sent));
                }
                continue;
            }
            // Half a window before the next write: then nsqd always has work, and nobody works in small pieces. Not
            // so for what waits for its time.
            let enough = if due < left { sent } else { sent.saturating_sub(self.in_flight / 2) };
            let enough = if self.commands == Some(sent) { sent } else { enough.max(answered + 1) };
            let mut last_answer = Instant::now();
            while answered < enough {
                let new = self.receive(answered, sent, run)?;
                if new > 0 {
                    answered += new;
                    last_answer = Instant::now();
                    if pace.is_none() && new < GATHERED && enough.saturating_sub(answered) >= GATHERED {
                        std::thread::sleep(GATHERING);
                    }
                } else if last_answer.elapsed() > PATIENCE {
                    return Err(self.connection.failed(format_args!("no OK for {} s", PATIENCE.as_secs())));
                }
            }
        }
    }

    fn stop_after(&mut self, sent: u64) {
        if self.commands != Some(sent) {
            self.commands = Some(sent);
            self.last = None;
        }
    }

    /// Sends up to `count` commands after the `sent` first ones; how many it were.
    fn send(&mut self, sent: u64, count: u64) -> Result<u64, Failure> {
        let mut done = 0;
        while done < count {
            let is_last = self.commands == Some(sent + done + 1);
            let (bytes, taken) = match &self.last {
                Some(last) if is_last => last.take(1),
                // The last one stays for the next round.
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

    /// What nsqd said before it closed the connection, if that can still be read.
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

    /// Reads once; how many of the commands in flight are answered by it.
    fn receive(&mut self, answered: u64, sent: u64, run: &Run<'_>) -> Result<u64, Failure> {
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
        if new > sent - answered {
            return Err(self.connection.failed("more answers than commands"));
        }
        let ends_with_last = self.commands == Some(answered + new);
        let messages = match &self.last {
            Some(last) if ends_with_last && new > 0 => (new - 1) * self.load.batch + last.batch,
            _ => new * self.load.batch,
        };
        run.counter.add(messages, 0, run.clock.now_ns());
        Ok(new)
    }
}
