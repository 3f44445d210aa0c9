//! One thread that serves several publishing connections.
//!
//! With one thread per connection, every answer would cost a sleep and a wake-up, about as much as nsqd spends. On a
//! small machine with two cores, the benchmark would measure the scheduler. One thread handles many answers at a
//! time.

use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::connection::CHECK_INTERVAL;
use super::failure::Failure;
use super::phase::Run;
use super::publisher::Publisher;

/// If nsqd writes each OK by itself, reading each by itself costs the generator about as much as nsqd. If fewer
/// answers than this arrived, and at least as many are needed before the next write, the thread pauses so that
/// answers can gather. Meanwhile, nsqd still has half a window of commands.
const MIN_ANSWERS: u64 = 16;
const GATHER_PAUSE: Duration = Duration::from_micros(50);

/// Maximum number of connections handled per wait.
const EVENTS: usize = 256;

/// Connections that share a thread.
pub struct PublisherGroup {
    publishers: Vec<Publisher>,
    duration: Option<Duration>,
}

impl PublisherGroup {
    /// `duration` ends connections that have no number of messages.
    pub fn new(publishers: Vec<Publisher>, duration: Option<Duration>) -> Self {
        PublisherGroup { publishers, duration }
    }

    /// Publishes until all messages are sent and answered, or until the run stops.
    pub fn run(mut self, run: &Run<'_>) -> Result<(), Failure> {
        let mut ready = Ready::new(&self.publishers)?;
        let deadline = self.duration.map(|duration| Instant::now() + duration);
        let mut last_check = Instant::now();
        for publisher in &mut self.publishers {
            publisher.start(run);
            publisher.advance(run)?;
        }
        while !self.publishers.iter().all(Publisher::is_done) {
            let mut answers = 0;
            for index in ready.wait(self.max_wait(run))? {
                let publisher = &mut self.publishers[index];
                answers += publisher.receive(run)?;
                publisher.advance(run)?;
            }
            if run.should_stop() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.publishers.iter_mut().for_each(Publisher::stop);
            }
            if self.publishers.iter().any(Publisher::is_paced) {
                self.publishers.iter_mut().try_for_each(|publisher| publisher.advance(run))?;
            } else if answers > 0 && answers < MIN_ANSWERS && self.can_gather() {
                std::thread::sleep(GATHER_PAUSE);
            }
            if last_check.elapsed() > CHECK_INTERVAL {
                last_check = Instant::now();
                self.publishers.iter().try_for_each(Publisher::check)?;
            }
        }
        Ok(())
    }

    /// Whether all unfinished connections wait for many answers.
    fn can_gather(&self) -> bool {
        self.publishers.iter().filter(|publisher| !publisher.is_done()).all(|p| p.missing() >= MIN_ANSWERS)
    }

    /// How long there is certainly nothing to send.
    fn max_wait(&self, run: &Run<'_>) -> Duration {
        let due = self.publishers.iter().filter_map(Publisher::due_ns).min();
        let left =
            due.map_or(CHECK_INTERVAL, |due| Duration::from_nanos(due.saturating_sub(run.clock.now_ns())));
        left.min(CHECK_INTERVAL)
    }
}

/// The connections that have something to read.
struct Ready {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Ready {
    fn new(publishers: &[Publisher]) -> Result<Self, Failure> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(cannot_watch)?;
        for (index, publisher) in publishers.iter().enumerate() {
            let data = EventData::new_u64(index as u64);
            epoll::add(&epoll, publisher, data, EventFlags::IN).map_err(cannot_watch)?;
        }
        Ok(Ready { epoll, events: Vec::with_capacity(EVENTS) })
    }

    /// Waits for at most `max_wait` until connections can be read. Returns their indexes.
    fn wait(&mut self, max_wait: Duration) -> Result<impl Iterator<Item = usize>, Failure> {
        let timeout =
            Timespec { tv_sec: max_wait.as_secs() as i64, tv_nsec: i64::from(max_wait.subsec_nanos()) };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(self.events.iter().map(|event| event.data.u64() as usize)),
            Err(errno) => Err(cannot_watch(errno)),
        }
    }
}

fn cannot_watch(errno: Errno) -> Failure {
    Failure::failed(format_args!("cannot watch connections: {errno}"))
}
