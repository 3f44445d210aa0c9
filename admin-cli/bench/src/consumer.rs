//! A consuming connection: counts messages, and finishes all messages of a read with one write.

use std::time::{Duration, Instant};

use nsq::handshake::Purpose;
use nsq_protocol::{ChannelName, Command};

use super::connection::{CHECK_INTERVAL, Connection, Heartbeats, Received};
use super::failure::Failure;
use super::frames::{self, Tally};
use super::phase::Run;
use super::plan::{Consume, Plan};

/// Maximum time for nsqd to process the last FINs.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A subscribed connection.
pub struct Consumer {
    connection: Connection,
    rdy: u64,
    requeue: bool,
}

impl Consumer {
    /// Subscribes.
    pub fn connect(plan: &Plan, channel: &ChannelName, consume: &Consume) -> Result<Self, Failure> {
        let purpose = Purpose::Subscribe { topic: plan.topic.clone(), channel: channel.clone() };
        let (connection, server) =
            Connection::identified(&plan.tcp, purpose, Heartbeats::Default, &plan.security)?;
        connection.set_read_timeout(CHECK_INTERVAL)?;
        let rdy = consume.rdy.min(server.max_rdy_count);
        Ok(Consumer { connection, rdy, requeue: consume.requeue })
    }

    /// Consumes until the run stops, and then until nsqd has processed all FINs. Calls `measure` with the time of
    /// reading and the body of each message.
    pub fn run(mut self, run: &Run<'_>, mut measure: impl FnMut(u64, &[u8])) -> Result<(), Failure> {
        let mut out = Vec::new();
        Command::Rdy { count: self.rdy }.encode(&mut out);
        self.connection.send(&out)?;
        let mut closing_since: Option<Instant> = None;
        loop {
            out.clear();
            if run.should_stop() && closing_since.is_none() {
                closing_since = Some(Instant::now());
                self.connection.send(b"CLS\n")?;
            }
            if closing_since.is_some_and(|since| since.elapsed() > CLOSE_TIMEOUT) {
                return Err(self.connection.failed("no CLOSE_WAIT after CLS"));
            }
            if self.connection.receive()? == Received::Nothing {
                continue;
            }
            let now_ns = run.clock.now_ns();
            let mut tally = Tally::default();
            let bytes = frames::scan(self.connection.received(), &mut tally, |message| {
                if self.requeue && message.attempts <= 1 {
                    frames::put_requeue(&mut out, message);
                } else {
                    frames::put_fin(&mut out, message);
                }
                measure(now_ns, message.body);
            });
            let bytes = bytes.map_err(|fault| self.connection.failed(fault))?;
            self.connection.consume(bytes);
            for _ in 0..tally.heartbeats {
                out.extend_from_slice(b"NOP\n");
            }
            self.connection.send(&out)?;
            // Counted after the FINs are sent, so that readers of the count may rely on them.
            let (messages, redelivered) = match self.requeue {
                true => (tally.redelivered, 0),
                false => (tally.messages, tally.redelivered),
            };
            run.counter.add(messages, redelivered, now_ns);
            if tally.is_closing {
                return Ok(());
            }
        }
    }
}
