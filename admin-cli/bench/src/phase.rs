//! Threads that start together, run until the target is reached, and stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::connection::{CHECK_INTERVAL, MAX_SILENCE};
use super::counters::{Clock, Counter, Flow};
use super::failure::Failure;
use super::progress::Progress;
use super::server::{Server, Usage, own_cpu, sleep_precisely, thread_cpu};

/// How often the counters are read.
const TICK: Duration = Duration::from_millis(10);

/// Stack size of a thread. Its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// What a thread needs to know about its phase.
pub struct Run<'a> {
    pub clock: Clock,
    pub counter: &'a Counter,
    stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Whether the thread should stop.
    #[inline]
    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until `due_ns`, or until the thread should stop.
    pub fn sleep_until(&self, due_ns: u64) {
        loop {
            let left = due_ns.saturating_sub(self.clock.now_ns());
            if left == 0 || self.should_stop() {
                return;
            }
            std::thread::sleep(Duration::from_nanos(left).min(CHECK_INTERVAL));
        }
    }
}

/// The work of a thread after the common start.
pub type Work<'a> = Box<dyn FnOnce(&Run<'_>) -> Result<(), Failure> + Send + 'a>;

/// When the consumers are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each channel has delivered all published messages. With a grace time, missing messages are given up after it.
    Published {
        /// Number of channels.
        channels: u64,
        /// Maximum time without progress after the last publish.
        grace: Option<Duration>,
    },
    /// A number of messages or a duration is reached.
    Extent {
        /// Number of deliveries.
        messages: Option<u64>,
        /// Time from the start.
        duration: Option<Duration>,
    },
}

/// Threads to start, with their connections open.
pub struct Phase<'a> {
    pub clock: Clock,
    pub publishers: Vec<Work<'a>>,
    pub consumers: Vec<Work<'a>>,
    pub target: Target,
    pub server: Option<&'a Server>,
    pub interrupted: &'a AtomicBool,
}

/// The result of a phase.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub published: Flow,
    pub delivered: Flow,
    /// Time from the start to the last message. Closing the consumers afterwards takes some time, but hardly any CPU.
    pub seconds: f64,
    /// CPU time of this process.
    pub own_cpu: Duration,
    /// CPU time of the busiest thread of this process.
    pub busiest_cpu: Duration,
    /// The server's usage at the start and at the end.
    pub server: Option<(Usage, Usage)>,
}

impl Phase<'_> {
    /// Runs the phase.
    pub fn run(self, progress: &mut Progress) -> Result<Outcome, Failure> {
        let Phase { clock, publishers, consumers, target, server, interrupted } = self;
        let gate = Gate::default();
        let publishing = Side::new(publishers.len());
        let consuming = Side::new(consumers.len());
        let sides = [&publishing, &consuming];

        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (works, side) in [publishers, consumers].into_iter().zip(sides) {
                for (work, counter) in works.into_iter().zip(&side.counters) {
                    let run = Run { clock, counter, stop: &side.stop };
                    let gate = &gate;
                    let body = move || {
                        sleep_precisely();
                        let result = if gate.pass() { work(&run) } else { Ok(()) };
                        side.done(&result);
                        result.map(|()| thread_cpu())
                    };
                    match std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, body) {
                        Ok(thread) => threads.push(thread),
                        Err(error) => {
                            gate.open(false);
                            return Err(Failure::failed(format_args!("cannot start a thread: {error}")));
                        }
                    }
                }
            }
            let before = server.and_then(Server::usage);
            let (own_before, start_ns) = (own_cpu(), clock.now_ns());
            gate.open(true);

            let watch = Watch {
                clock,
                start_ns,
                target,
                publishing: &publishing,
                consuming: &consuming,
                interrupted,
            };
            let watched = watch.until_done(progress, server);
            sides.iter().for_each(|side| side.stop());
            // A thread's failure comes first: if there are two failures, it is the cause.
            let busiest_cpu = join(threads)?;
            let peak_bytes = watched?;
            let after = server.and_then(Server::usage).map(|usage| usage.with_peak(peak_bytes));
            let [published, delivered] = sides.map(|side| side.flow(start_ns));
            Ok(Outcome {
                published,
                delivered,
                seconds: published.seconds.max(delivered.seconds).max(1e-9),
                own_cpu: own_cpu().saturating_sub(own_before),
                busiest_cpu,
                server: before.zip(after),
            })
        })
    }
}

/// Waits for all threads. Returns the CPU time of the busiest thread, or the first failure.
fn join(threads: Vec<ScopedJoinHandle<'_, Result<Duration, Failure>>>) -> Result<Duration, Failure> {
    let results: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
    let mut busiest = Duration::ZERO;
    for result in results {
        busiest = busiest.max(result.map_err(|_| Failure::failed("a thread panicked"))??);
    }
    Ok(busiest)
}

/// All publishers, or all consumers.
struct Side {
    counters: Vec<Counter>,
    running: AtomicU64,
    failed: AtomicBool,
    stop: AtomicBool,
}

impl Side {
    fn new(count: usize) -> Self {
        Side {
            counters: (0..count).map(|_| Counter::default()).collect(),
            running: AtomicU64::new(count as u64),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn done(&self, result: &Result<(), Failure>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.running.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    fn flow(&self, start_ns: u64) -> Flow {
        Flow::sum(&self.counters, start_ns)
    }
}

/// Watches the counters while the threads work.
struct Watch<'a> {
    clock: Clock,
    start_ns: u64,
    target: Target,
    publishing: &'a Side,
    consuming: &'a Side,
    interrupted: &'a AtomicBool,
}

impl Watch<'_> {
    /// Returns when the consumers may stop, with the server's peak memory. Fails if there is no progress any more.
    /// Also returns if a thread has failed; that thread reports its failure.
    fn until_done(&self, progress: &mut Progress, server: Option<&Server>) -> Result<u64, Failure> {
        let mut peak_bytes = 0;
        let mut last = (0, 0);
        let mut last_change = Instant::now();
        loop {
            std::thread::sleep(TICK);
            let (published, delivered) =
                (self.publishing.flow(self.start_ns), self.consuming.flow(self.start_ns));
            let elapsed = Duration::from_nanos(self.clock.now_ns() - self.start_ns);
            if progress.is_due(elapsed) {
                peak_bytes = peak_bytes.max(server.map_or(0, Server::resident_bytes));
                progress.show(elapsed, &published, &delivered);
            }
            let failed = [self.publishing, self.consuming].map(|side| side.failed.load(Ordering::Relaxed));
            if failed.contains(&true) || self.interrupted.load(Ordering::Relaxed) {
                return Ok(peak_bytes);
            }
            if last != (published.messages, delivered.messages) {
                last = (published.messages, delivered.messages);
                last_change = Instant::now();
            }
            if self.is_done(&published, &delivered, elapsed, last_change.elapsed()) {
                return Ok(peak_bytes);
            }
            let waits_for_messages = matches!(self.target, Target::Extent { duration: Some(_), .. });
            if last_change.elapsed() > MAX_SILENCE && !self.publishing.is_running() && !waits_for_messages {
                let (got, seconds) = (delivered.messages, MAX_SILENCE.as_secs());
                return Err(Failure::failed(format_args!(
                    "no message for {seconds} s, after {got} messages"
                )));
            }
        }
    }

    fn is_done(&self, published: &Flow, delivered: &Flow, elapsed: Duration, quiet: Duration) -> bool {
        if self.publishing.is_running() {
            return false;
        }
        if self.consuming.counters.is_empty() {
            return true;
        }
        match self.target {
            Target::Published { channels, grace } => {
                delivered.messages - delivered.redelivered >= published.messages * channels
                    || grace.is_some_and(|grace| quiet > grace)
            }
            Target::Extent { messages, duration } => {
                messages.is_some_and(|messages| delivered.messages >= messages)
                    || duration.is_some_and(|duration| elapsed >= duration)
            }
        }
    }
}

/// Holds threads until all of them have started.
#[derive(Default)]
struct Gate {
    open: Mutex<Option<bool>>,
    opened: Condvar,
}

impl Gate {
    /// Opens the gate for all threads. If `go` is false, they end without doing their work.
    fn open(&self, go: bool) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(go);
        self.opened.notify_all();
    }

    /// Waits until the gate is open. Returns whether to do the work.
    fn pass(&self) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(go) = *open {
                return go;
            }
            open = self.opened.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(publishers: Vec<Work<'_>>, consumers: Vec<Work<'_>>, target: Target) -> Result<Outcome, Failure> {
        let interrupted = AtomicBool::new(false);
        let phase = Phase {
            clock: Clock::start(),
            publishers,
            consumers,
            target,
            server: None,
            interrupted: &interrupted,
        };
        phase.run(&mut Progress::silent())
    }

    fn counting(messages: u64) -> Work<'static> {
        Box::new(move |run| {
            run.counter.add(messages, 0, run.clock.now_ns());
            Ok(())
        })
    }

    fn counting_until_stopped(messages: u64, redelivered: u64) -> Work<'static> {
        Box::new(move |run| {
            run.counter.add(messages, redelivered, run.clock.now_ns());
            while !run.should_stop() {
                std::thread::yield_now();
            }
            Ok(())
        })
    }

    #[test]
    fn phase_ends_when_all_channels_got_all_messages() {
        let consumers = vec![counting_until_stopped(7, 0), counting_until_stopped(15, 2)];
        let target = Target::Published { channels: 2, grace: None };
        let outcome = run(vec![counting(4), counting(6)], consumers, target).unwrap();
        assert_eq!(outcome.published.messages, 10);
        assert_eq!((outcome.delivered.messages, outcome.delivered.redelivered), (22, 2));
        assert!(outcome.delivered.seconds <= outcome.seconds);
    }

    #[test]
    fn missing_messages_are_given_up_after_the_grace_time() {
        let target = Target::Published { channels: 1, grace: Some(Duration::ZERO) };
        let outcome = run(vec![counting(4)], vec![counting_until_stopped(3, 0)], target).unwrap();
        assert_eq!(outcome.delivered.messages, 3);
    }

    #[test]
    fn failure_of_a_thread_stops_all_and_is_returned() {
        let failing: Work<'_> = Box::new(|_| Err(Failure::failed("refused")));
        let target = Target::Extent { messages: None, duration: None };
        let failure = run(vec![], vec![counting_until_stopped(1, 0), failing], target).unwrap_err();
        assert_eq!(failure.message, "refused");
    }

    #[test]
    fn phase_ends_after_its_duration() {
        let target = Target::Extent { messages: Some(9), duration: Some(Duration::from_millis(1)) };
        assert_eq!(run(vec![], vec![counting_until_stopped(1, 0)], target).unwrap().delivered.messages, 1);
    }
}
