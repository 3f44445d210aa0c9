//! The thread that writes log lines to stderr. Callers only append to its backlog.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::backlog::{Backlog, Chunk, Limits};
use super::line::Style;
use super::{Level, now};

/// Several seconds of a daemon that logs heavily. Reached only when nothing reads stderr.
const LIMITS: Limits = Limits { lines: 50_000, bytes: 4 << 20 };

/// Up to this size a write to a pipe is not mixed with another process's writes (`PIPE_BUF`).
const WRITE_BYTES: usize = 4096;

/// At the end of the process, the longest wait without any progress on stderr.
const FLUSH_STALL: Duration = Duration::from_secs(1);

/// At the end of the process, the longest wait in total.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

static STDERR: OnceLock<Writer> = OnceLock::new();

/// Appends a line for the thread to write. Never waits for stderr.
pub(super) fn write(line: String, style: &Arc<Style>) {
    STDERR.get_or_init(|| Writer::start(io::stderr(), LIMITS)).write(line, style);
}

/// Waits until all lines are written, or until stderr makes no progress. Call it before the process ends.
pub fn flush() {
    if let Some(writer) = STDERR.get() {
        writer.flush(FLUSH_STALL, FLUSH_LIMIT);
    }
}

/// Number of log lines of this process that were dropped, because stderr was not read or could not be written.
pub fn dropped_lines() -> u64 {
    STDERR.get().map_or(0, |writer| writer.shared.dropped.load(Ordering::Relaxed))
}

/// Calls [`flush`] when dropped. Create it at the start of `main`.
#[derive(Debug)]
pub struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush();
    }
}

struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread: there are lines.
    more: Condvar,
    /// Wakes callers of `flush`: the thread finished a chunk.
    progress: Condvar,
    dropped: AtomicU64,
}

struct State {
    backlog: Backlog<Arc<Style>>,
    /// The thread has taken lines and not finished writing them.
    is_writing: bool,
    /// Why the last write failed.
    failure: Option<Errno>,
    /// Chunks written or given up.
    chunks: u64,
}

impl Writer {
    fn start(out: impl AsFd + Send + 'static, limits: Limits) -> Self {
        let state = State { backlog: Backlog::new(limits), is_writing: false, failure: None, chunks: 0 };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            more: Condvar::new(),
            progress: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let thread = {
            let shared = shared.clone();
            thread::Builder::new().name("log".to_owned()).spawn(move || shared.run(&out))
        };
        // If the thread cannot start, the daemon serves without a log; the metric for dropped lines shows it.
        drop(thread);
        Self { shared }
    }

    fn write(&self, line: String, style: &Arc<Style>) {
        let dropped = self.shared.state.lock().backlog.push(line, style.clone());
        if dropped > 0 {
            self.shared.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        self.shared.more.notify_one();
    }

    /// Waits until all lines are written: at most `stall` without progress, and at most `limit` in total. Returns
    /// whether all lines are written.
    fn flush(&self, stall: Duration, limit: Duration) -> bool {
        let started = Instant::now();
        let mut state = self.shared.state.lock();
        let mut seen = (state.chunks, started);
        while state.is_writing || !state.backlog.is_empty() {
            if state.chunks != seen.0 {
                seen = (state.chunks, Instant::now());
            }
            let deadline = (seen.1 + stall).min(started + limit);
            if self.shared.progress.wait_until(&mut state, deadline).timed_out() && state.chunks == seen.0 {
                return false;
            }
        }
        true
    }
}

impl Shared {
    fn run(&self, out: &impl AsFd) {
        loop {
            let (chunk, failure) = self.next();
            let written = write_all(out, &text(&chunk, failure));
            let mut state = self.state.lock();
            state.failure = written.err();
            if state.failure.is_some() {
                self.dropped.fetch_add(chunk.lines, Ordering::Relaxed);
                give_back(&mut state.backlog, chunk);
            }
            state.is_writing = false;
            state.chunks += 1;
            self.progress.notify_all();
        }
    }

    /// Waits for lines.
    fn next(&self) -> (Chunk<Arc<Style>>, Option<Errno>) {
        let mut state = self.state.lock();
        loop {
            // Missing lines are reported only along with the next line, so a failing stderr is not retried forever.
            if !state.backlog.is_empty()
                && let Some(chunk) = state.backlog.take(WRITE_BYTES)
            {
                state.is_writing = true;
                return (chunk, state.failure);
            }
            self.more.wait(&mut state);
        }
    }
}

/// The lines of a chunk, preceded by a line that reports the missing ones.
fn text(chunk: &Chunk<Arc<Style>>, failure: Option<Errno>) -> String {
    let Some(missing) = &chunk.missing else { return chunk.text.clone() };
    let why = match failure {
        Some(errno) => format!("stderr could not be written: {errno}"),
        None => "stderr was not read in time".to_owned(),
    };
    let count = missing.count;
    let report = missing.of.line(now(), Level::Warn, &[], format_args!("LOG: {count} lines dropped: {why}"));
    format!("{report}\n{}", chunk.text)
}

fn give_back(backlog: &mut Backlog<Arc<Style>>, chunk: Chunk<Arc<Style>>) {
    let (before, of) = chunk.missing.map_or((0, None), |missing| (missing.count, Some(missing.of)));
    if let Some(of) = chunk.of.or(of) {
        backlog.add_missing(before + chunk.lines, of);
    }
}

/// Writes all of `text`. Waits if stderr is non-blocking, which another process that shares it may have set.
fn write_all(out: &impl AsFd, text: &str) -> Result<(), Errno> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(out, rest) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(out, PollFlags::OUT)], None).map(drop).or_else(
                    |errno| match errno {
                        Errno::INTR => Ok(()),
                        errno => Err(errno),
                    },
                )?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use crate::log::Format;

    const DEADLINE: Duration = Duration::from_secs(30);
    const SOON: Duration = Duration::from_millis(20);

    fn style() -> Arc<Style> {
        Arc::new(Style { prefix: "[t] ".to_owned(), format: Format::Text })
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    fn lines(reader: OwnedFd) -> impl Iterator<Item = String> {
        BufReader::new(File::from(reader)).lines().map(Result::unwrap)
    }

    #[test]
    fn flush_writes_all_lines_in_order() {
        let (reader, out) = pipe();
        let writer = Writer::start(out, LIMITS);
        let read = thread::spawn(move || lines(reader).take(20_000).collect::<Vec<_>>());
        for number in 0..20_000 {
            writer.write(format!("line {number}"), &style());
        }
        assert!(writer.flush(DEADLINE, DEADLINE));
        let read = read.join().unwrap();
        assert!(read.iter().enumerate().all(|(number, line)| *line == format!("line {number}")));
        assert_eq!(writer.shared.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn unread_pipe_drops_old_lines_and_blocks_no_caller() {
        let (reader, out) = pipe();
        let writer = Writer::start(out, Limits { lines: 1_000, bytes: 1 << 20 });
        // More than a pipe holds.
        for number in 0..10_000 {
            writer.write(format!("line {number} {}", "x".repeat(100)), &style());
        }
        assert!(!writer.flush(SOON, SOON), "flush waited for an unread pipe");
        let dropped = writer.shared.dropped.load(Ordering::Relaxed);
        assert!((1..10_000).contains(&dropped), "{dropped}");

        let (mut numbers, mut reported) = (Vec::new(), 0);
        for line in lines(reader) {
            match line.strip_prefix("line ") {
                Some(rest) => numbers.push(rest.split(' ').next().unwrap().parse::<u64>().unwrap()),
                None => {
                    let (before, report) = line.split_once(" WARNING: LOG: ").unwrap();
                    assert!(before.starts_with("[t] "), "{line}");
                    let count = report.strip_suffix(" lines dropped: stderr was not read in time").unwrap();
                    let count: u64 = count.parse().unwrap();
                    reported += count;
                    // The missing lines are exactly those before this one.
                    assert_eq!(
                        numbers.len() as u64 + reported,
                        numbers.last().map_or(0, |last| last + 1) + count
                    );
                }
            }
            if numbers.last() == Some(&9_999) {
                break;
            }
        }
        assert_eq!(reported, dropped);
        assert_eq!(numbers.len() as u64 + dropped, 10_000);
        assert!(numbers.is_sorted() && numbers.ends_with(&(9_000..10_000).collect::<Vec<_>>()));
        assert!(writer.flush(DEADLINE, DEADLINE));
    }

    #[test]
    fn closed_pipe_only_loses_lines() {
        let (reader, out) = pipe();
        drop(reader);
        let writer = Writer::start(out, LIMITS);
        for _ in 0..100 {
            writer.write("lost".to_owned(), &style());
        }
        assert!(writer.flush(DEADLINE, DEADLINE));
        assert_eq!(writer.shared.dropped.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn writer_waits_for_a_nonblocking_pipe() {
        let (reader, out) = pipe();
        rustix::io::ioctl_fionbio(&out, true).unwrap();
        let writer = Writer::start(out, LIMITS);
        for number in 0..2_000 {
            writer.write(format!("line {number} {}", "x".repeat(100)), &style());
        }
        assert!(!writer.flush(SOON, SOON));
        assert!(
            lines(reader).take(2_000).enumerate().all(|(n, line)| line.starts_with(&format!("line {n} ")))
        );
        assert!(writer.flush(DEADLINE, DEADLINE));
    }
}
