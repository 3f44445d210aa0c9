//! Runs work that waits for the disk outside the threads that serve connections.
//!
//! Reads and writes have separate lanes, so a read that hangs does not delay a write. A lane runs a few jobs at a time
//! and queues the others in order. A slow disk therefore occupies a few threads, whatever the number of channels.
//! Before [`DiskWork::use_threads`], the caller runs the job itself; a start and the crash simulation rely on that.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

type Job = Box<dyn FnOnce() + Send>;

/// Maximum number of parallel reads: enough to keep a disk busy.
const READS: usize = 4;
/// Maximum number of parallel writes and removals.
const WRITES: usize = 2;

/// See the module. Shared by all topics.
#[derive(Debug)]
pub struct DiskWork {
    reads: Arc<Lane>,
    writes: Arc<Lane>,
}

impl Default for DiskWork {
    fn default() -> Self {
        DiskWork { reads: Lane::new(READS), writes: Lane::new(WRITES) }
    }
}

impl DiskWork {
    /// From now on jobs run on blocking threads of the current runtime. Panics outside of a runtime.
    pub fn use_threads(&self) {
        let runtime = Handle::current();
        self.reads.queue.lock().runtime = Some(runtime.clone());
        self.writes.queue.lock().runtime = Some(runtime);
    }

    /// Runs a job that reads.
    pub fn read(&self, job: impl FnOnce() + Send + 'static) {
        self.reads.clone().submit(Box::new(job));
    }

    /// Runs a job that writes, creates or removes.
    pub fn write(&self, job: impl FnOnce() + Send + 'static) {
        self.writes.clone().submit(Box::new(job));
    }
}

#[derive(Debug)]
struct Lane {
    width: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    runtime: Option<Handle>,
    waiting: VecDeque<Job>,
    running: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} running, {} waiting", self.running, self.waiting.len())
    }
}

impl Lane {
    fn new(width: usize) -> Arc<Self> {
        Arc::new(Lane { width, queue: Mutex::default() })
    }

    fn submit(self: Arc<Self>, job: Job) {
        let mut queue = self.queue.lock();
        let Some(runtime) = queue.runtime.clone() else {
            drop(queue);
            return job();
        };
        queue.waiting.push_back(job);
        if queue.running < self.width {
            queue.running += 1;
            drop(queue);
            self.begin(&runtime);
        }
    }

    fn begin(self: Arc<Self>, runtime: &Handle) {
        runtime.spawn_blocking(move || Worker { lane: self, has_ended: false }.run());
    }
}

/// A thread of a lane. Ends when no job is queued.
struct Worker {
    lane: Arc<Lane>,
    has_ended: bool,
}

impl Worker {
    fn run(mut self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&mut self) -> Option<Job> {
        let mut queue = self.lane.queue.lock();
        let job = queue.waiting.pop_front();
        if job.is_none() {
            queue.running -= 1;
            self.has_ended = true;
        }
        job
    }
}

impl Drop for Worker {
    /// After a job panicked, starts another thread for the queued jobs.
    fn drop(&mut self) {
        if !self.has_ended
            && let Some(runtime) = self.lane.queue.lock().runtime.clone()
        {
            self.lane.clone().begin(&runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn without_threads_the_caller_runs_the_job() {
        let work = DiskWork::default();
        let (done_tx, done_rx) = mpsc::channel();
        work.read(move || done_tx.send(()).unwrap());
        assert!(done_rx.try_recv().is_ok());
    }

    #[tokio::test]
    async fn a_lane_runs_a_few_jobs_at_a_time_and_does_not_delay_the_other() {
        let work = DiskWork::default();
        work.use_threads();
        let (began_tx, began_rx) = mpsc::channel();
        let (go_tx, go_rx) = mpsc::channel::<()>();
        let go_rx = Arc::new(Mutex::new(go_rx));
        for number in 0..10 {
            let (began_tx, go_rx) = (began_tx.clone(), go_rx.clone());
            work.read(move || {
                began_tx.send(number).unwrap();
                let _ = go_rx.lock().recv_timeout(PATIENCE);
            });
        }
        let mut began: Vec<_> = (0..READS).map(|_| began_rx.recv_timeout(PATIENCE).unwrap()).collect();
        began.sort_unstable();
        assert_eq!(began, (0..READS).collect::<Vec<_>>());
        let (written_tx, written_rx) = mpsc::channel();
        work.write(move || written_tx.send(()).unwrap());
        written_rx.recv_timeout(PATIENCE).unwrap();
        assert!(began_rx.try_recv().is_err(), "more than READS jobs run");
        (0..10).for_each(|_| go_tx.send(()).unwrap());
        for _ in READS..10 {
            began_rx.recv_timeout(PATIENCE).unwrap();
        }
    }

    #[tokio::test]
    async fn jobs_run_after_others_panicked() {
        let work = DiskWork::default();
        work.use_threads();
        for _ in 0..3 * WRITES {
            work.write(|| std::panic::resume_unwind(Box::new("a job that panics")));
        }
        let (done_tx, done_rx) = mpsc::channel();
        work.write(move || done_tx.send(()).unwrap());
        done_rx.recv_timeout(PATIENCE).unwrap();
    }
}
