//! One thread that serves several publishing connections.
//!
//! A thread per connection would be put to sleep and woken for every answer, at a cost like nsqd's own, and the two
//! cores of a small machine would measure their scheduler. One thread sees many answers at each look.

use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::connection::LOOK_UP;
use super::phase::Run;
use super::publisher::Publisher;
use crate::exit_status::Failure;

/// An nsqd that writes each OK by itself would make the generator read each by itself, at a cost like nsqd's own. When
/// fewer than so many came and as many are still wanted before the next write, some may gather: half a window is with
/// nsqd meanwhile.
const GATHERED: u64 = 16;
const GATHERING: Duration = Duration::from_micros(50);

/// Connections looked at in one go.
const EVENTS: usize = 256;

/// Connections that share a thread.
pub struct Crew {
    publishers: Vec<Publisher>,
    duration: Option<Duration>,
}

impl Crew {
    /// `duration` says when those end that have no number of messages.
    pub fn new(publishers: Vec<Publisher>, duration: Option<Duration>) -> Self {
        Crew { publishers, duration }
    }

    /// Publishes until all is sent and answered, or until it is told to stop.
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
            for index in ready.wait(self.patience(run))? {
                let publisher = &mut self.publishers[index];
                answers += publisher.receive(run)?;
                publisher.advance(run)?;
            }
            if run.should_stop() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.publishers.iter_mut().for_each(Publisher::stop);
            }
            if self.publishers.iter().any(Publisher::is_paced) {
                self.publishers.iter_mut().try_for_each(|publisher| publisher.advance(run))?;
            } else if answers > 0 && answers < GATHERED && self.can_gather() {
                std::thread::sleep(GATHERING);
            }
            if last_check.elapsed() > LOOK_UP {
                last_check = Instant::now();
                self.publishers.iter().try_for_each(Publisher::check)?;
            }
        }
        Ok(())
    }

    /// Whether everybody waits for many answers.
    fn can_gather(&self) -> bool {
        self.publishers.iter().filter(|publisher| !publisher.is_done()).all(|p| p.missing() >= GATHERED)
    }

    /// How long there is surely nothing to send.
    fn patience(&self, run: &Run<'_>) -> Duration {
        let due = self.publishers.iter().filter_map(Publisher::due_ns).min();
        let left = due.map_or(LOOK_UP, |due| Duration::from_nanos(due.saturating_sub(run.clock.now_ns())));
        left.min(LOOK_UP)
    }
}

/// Which connections have something to read.
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

    /// Waits until one or more can be read, or for `patience`; says which.
    fn wait(&mut self, patience: Duration) -> Result<impl Iterator<Item = usize>, Failure> {
        let timeout =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
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
