//! A connection that publishes on schedule and does not wait for answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use nsq_protocol::Command;

use super::connection::{CHECK_INTERVAL, Connection, MAX_SILENCE, Received};
use super::failure::Failure;
use super::frames::{self, Tally};
use super::latencies::{Recorder, put_stamp};
use super::link::WriteLink;
use super::pace::Pace;
use super::phase::Run;

/// Maximum messages per write: those that became due while the last write blocked.
const MAX_COMMANDS_PER_WRITE: usize = 1000;

/// Maximum bytes per write, unless a single message is larger.
const MAX_BYTES_PER_WRITE: usize = 1 << 20;

/// State that the writer and the reader of a connection share.
#[derive(Debug)]
pub struct Stream {
    /// Number of messages to be answered; `u64::MAX` until the writer is done.
    total: AtomicU64,
}

impl Default for Stream {
    fn default() -> Self {
        Stream { total: AtomicU64::new(u64::MAX) }
    }
}

/// PUB commands of equal size, to be stamped and sent.
pub struct Commands {
    bytes: Vec<u8>,
    command_bytes: usize,
    body_at: usize,
    mark: u64,
}

impl Stream {
    /// As many commands as one write may contain.
    pub fn commands(topic: &str, size: usize, mark: u64) -> Commands {
        let mut command = Vec::new();
        Command::Pub { topic, body: &vec![b'x'; size] }.encode(&mut command);
        let command_bytes = command.len();
        let count = (MAX_BYTES_PER_WRITE / command_bytes).clamp(1, MAX_COMMANDS_PER_WRITE);
        Commands { bytes: command.repeat(count), command_bytes, body_at: command_bytes - size, mark }
    }

    /// Sends `count` messages, each when it is due or as soon as possible afterwards.
    pub fn write(
        &self,
        mut writer: WriteLink,
        commands: &mut Commands,
        pace: Pace,
        count: u64,
        run: &Run<'_>,
        sent_late: &mut Recorder<'_>,
    ) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < count && !run.should_stop() {
            run.sleep_until(pace.due_ns(sent));
            let due = pace.due_count(run.clock.now_ns()).min(count);
            while sent < due {
                let (bytes, now) = commands.stamped(pace, sent, due - sent);
                if let Err(error) = writer.write_all(bytes) {
                    self.total.store(sent, Ordering::Release);
                    return Err(Failure::failed(format_args!("cannot publish: {error}")));
                }
                let now_ns = run.clock.now_ns();
                (sent..sent + now).for_each(|n| sent_late.record(pace.due_ns(n), now_ns));
                sent += now;
            }
        }
        self.total.store(sent, Ordering::Release);
        Ok(())
    }

    /// Reads the answers. They arrive in order, so the due time of each answered message is known.
    pub fn read(
        &self,
        mut reader: Connection,
        pace: Pace,
        run: &Run<'_>,
        acknowledged: &mut Recorder<'_>,
    ) -> Result<(), Failure> {
        reader.set_read_timeout(CHECK_INTERVAL)?;
        let mut answered = 0;
        let mut writer_done: Option<Instant> = None;
        loop {
            let total = self.total.load(Ordering::Acquire);
            if answered >= total {
                return Ok(());
            }
            if total < u64::MAX && writer_done.get_or_insert_with(Instant::now).elapsed() > MAX_SILENCE {
                let missing = total - answered;
                return Err(reader.failed(format_args!("{missing} messages were not acknowledged")));
            }
            if reader.receive()? == Received::Nothing {
                continue;
            }
            let now_ns = run.clock.now_ns();
            let mut tally = Tally::default();
            let bytes =
                frames::scan(reader.received(), &mut tally, |_| {}).map_err(|fault| reader.failed(fault))?;
            reader.consume(bytes);
            (answered..answered + tally.oks).for_each(|n| acknowledged.record(pace.due_ns(n), now_ns));
            answered += tally.oks;
            run.counter.add(tally.oks, 0, now_ns);
        }
    }
}

impl Commands {
    /// The bytes of `count` messages from number `first` on, or of as many as there is room for.
    fn stamped(&mut self, pace: Pace, first: u64, count: u64) -> (&[u8], u64) {
        let count = count.min((self.bytes.len() / self.command_bytes) as u64);
        for (n, command) in (first..first + count).zip(self.bytes.chunks_exact_mut(self.command_bytes)) {
            put_stamp(&mut command[self.body_at..], self.mark, pace.due_ns(n));
        }
        (&self.bytes[..count as usize * self.command_bytes], count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::latencies::read_stamp;
    use super::*;
    use nsq_protocol::{Decoded, Limits, decode};

    #[test]
    fn messages_contain_their_due_time() {
        let pace = Pace::new(5, 1e6);
        let mut commands = Stream::commands("t", 16, 42);
        for (first, count) in [(0, 3), (7, 1)] {
            let (mut bytes, taken) = commands.stamped(pace, first, count);
            assert_eq!(taken, count);
            for n in first..first + count {
                let Decoded::Command { command: Command::Pub { topic: "t", body }, consumed } =
                    decode(bytes, &Limits::default())
                else {
                    panic!("not a PUB")
                };
                assert_eq!(read_stamp(42, body), Some(5 + n * 1000));
                bytes = &bytes[consumed..];
            }
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn large_messages_are_sent_one_by_one() {
        let mut commands = Stream::commands("t", 3 << 20, 42);
        assert_eq!(commands.stamped(Pace::new(0, 1.0), 0, 5).1, 1);
    }
}
