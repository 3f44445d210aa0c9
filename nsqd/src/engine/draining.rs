//! Pure: a drain: nsqd refuses publishes, consumers go on, until no message is left for them or the time is over.
//!
//! ```text
//!  (serving) --begin--> waiting --nothing remains--> drained     (stays so, or nsqd stops)
//!      ^                   |                            ^
//!      |                   +--deadline--> moving -------+       (to another node, if the drain has a target)
//!      |                   |                 |
//!      |                   |                 v
//!      |                   +------------> overdue               (nsqd stops, or goes on waiting)
//!      +-------- end, from any state ------------
//! ```
//!
//! With a target, messages that no consumer takes move, too, so a drain then moves these even if nothing else remains.
//!
//! A drain is not saved: a start serves again.

use std::time::Duration;

use nsq_protocol::{DrainStatus, MoveState, MoveStatus};

use crate::clock::Nanos;

/// Progress is logged this often.
const REPORT_INTERVAL: Nanos = 10_000_000_000;

/// What a drain is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainRequest {
    /// How long to wait for consumers; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Whether nsqd stops at the end.
    pub stops: bool,
    /// The nsqd to which the messages move that are left at the deadline.
    pub move_to: Option<String>,
}

/// What is left on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Messages in channels that are not finished, and messages on their way there.
    pub messages: u64,
    /// Channels that have such messages.
    pub channels: u64,
    /// Those of `messages` that are at a consumer.
    pub in_flight: u64,
    /// Those of `messages` that are not due yet.
    pub deferred: u64,
    /// Messages that nobody here takes: dead letters without a consumer, and messages of topics without channels.
    pub held: u64,
    /// Redrives that have not ended. They move held messages to channels.
    pub redrives: u64,
}

/// What a drain does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStep {
    /// Consumers have something to do, or messages move.
    Wait,
    /// What is left must move to the target. [`Draining::begin_moving`] must follow.
    Move,
    /// Nothing is left for consumers.
    Drained,
    /// The time is over.
    Overdue,
}

/// A drain and its progress; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    pub request: DrainRequest,
    /// Wall clock, nanoseconds.
    started_at: i64,
    /// Monotonic.
    deadline: Option<Nanos>,
    /// Wall clock, nanoseconds.
    deadline_at: Option<i64>,
    remaining: Remaining,
    /// Whether `remaining` was counted since the beginning.
    is_counted: bool,
    reported_at: Option<Nanos>,
    moving: Option<Moving>,
}

/// The move of what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moving {
    /// Tells the moves of several drains apart.
    run: u64,
    state: MoveState,
    began: Nanos,
    /// When it made progress, or ended.
    at: Nanos,
    messages: u64,
    bytes: u64,
    /// What was moved last: topic and channel.
    subject: String,
    /// Why it failed.
    error: Option<String>,
}

impl Remaining {
    /// Whether nothing is left that a consumer here takes.
    pub fn is_drained(&self) -> bool {
        self.messages == 0 && self.redrives == 0
    }
}

impl Draining {
    /// A drain that begins now. `wall_ns` and `now` are the same moment. If one is under way, `since` is when it began.
    pub fn new(request: DrainRequest, since: Option<i64>, wall_ns: i64, now: Nanos) -> Self {
        let timeout = request.timeout.map(crate::clock::nanos);
        Draining {
            request,
            started_at: since.unwrap_or(wall_ns),
            deadline: timeout.map(|timeout| now.saturating_add(timeout)),
            deadline_at: timeout.map(|timeout| wall_ns.saturating_add_unsigned(timeout)),
            remaining: Remaining::default(),
            is_counted: false,
            reported_at: None,
            moving: None,
        }
    }

    /// The move of what is left begins. `run` is another number for each move.
    pub fn begin_moving(&mut self, run: u64, now: Nanos) {
        self.moving = Some(Moving {
            run,
            state: MoveState::Moving,
            began: now,
            at: now,
            messages: 0,
            bytes: 0,
            subject: String::new(),
            error: None,
        });
    }

    /// Messages were moved. Without effect if another move began.
    pub fn note_moved(&mut self, run: u64, (messages, bytes): (u64, u64), subject: String, now: Nanos) {
        if let Some(moving) = self.moving.as_mut().filter(|moving| moving.run == run) {
            moving.messages += messages;
            moving.bytes += bytes;
            moving.subject = subject;
            moving.at = now;
        }
    }

    /// The move has ended: everything was moved, or why not. Without effect if another move began.
    pub fn end_moving(&mut self, run: u64, result: Result<(), String>, now: Nanos) {
        if let Some(moving) = self.moving.as_mut().filter(|moving| moving.run == run) {
            moving.state = if result.is_ok() { MoveState::Moved } else { MoveState::Failed };
            moving.error = result.err();
            moving.at = now;
        }
    }

    /// Why what is left could not be moved.
    pub fn move_failure(&self) -> Option<&str> {
        self.moving.as_ref()?.error.as_deref()
    }

    fn has_moved(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.state == MoveState::Moved)
    }

    /// Notes what is left at `now`, and returns what to do.
    pub fn step(&mut self, remaining: Remaining, now: Nanos) -> DrainStep {
        self.remaining = remaining;
        self.is_counted = true;
        let is_overdue = self.deadline.is_some_and(|deadline| deadline <= now);
        let has_nothing_to_do = remaining.is_drained();
        match self.moving.as_ref().map(|moving| moving.state) {
            None if self.request.move_to.is_some() => match has_nothing_to_do {
                true if remaining.held == 0 => DrainStep::Drained,
                true => DrainStep::Move,
                false if is_overdue => DrainStep::Move,
                false => DrainStep::Wait,
            },
            Some(MoveState::Moving) => DrainStep::Wait,
            // What is left is ephemeral.
            Some(MoveState::Moved) => DrainStep::Drained,
            Some(MoveState::Failed) if remaining.held > 0 => DrainStep::Overdue,
            _ if has_nothing_to_do => DrainStep::Drained,
            _ if is_overdue => DrainStep::Overdue,
            _ => DrainStep::Wait,
        }
    }

    /// Whether to log the progress at `now`.
    pub fn is_report_due(&mut self, now: Nanos) -> bool {
        let is_due = self.reported_at.is_none_or(|at| now.saturating_sub(at) >= REPORT_INTERVAL);
        if is_due {
            self.reported_at = Some(now);
        }
        is_due
    }

    /// When it began, wall clock, nanoseconds.
    pub fn started_at(&self) -> i64 {
        self.started_at
    }

    /// What was left when it was counted last.
    pub fn remaining(&self) -> Remaining {
        self.remaining
    }

    /// Whether nothing is left for consumers.
    pub fn is_drained(&self) -> bool {
        let is_moving = self.moving.as_ref().is_some_and(|moving| moving.state == MoveState::Moving);
        let must_move = self.request.move_to.is_some() && self.remaining.held > 0;
        self.has_moved() || (self.is_counted && self.remaining.is_drained() && !is_moving && !must_move)
    }

    /// The form of `/config/drain`.
    pub fn status(&self) -> DrainStatus {
        DrainStatus {
            draining: true,
            drained: self.is_drained(),
            stops: self.request.stops,
            started_at: Some(self.started_at),
            deadline_at: self.deadline_at,
            remaining_count: self.remaining.messages,
            remaining_channels: self.remaining.channels,
            in_flight_count: self.remaining.in_flight,
            deferred_count: self.remaining.deferred,
            held_count: self.remaining.held,
            moving: self.request.move_to.as_ref().map(|to| self.move_status(to)),
        }
    }

    fn move_status(&self, to: &str) -> MoveStatus {
        let Some(moving) = &self.moving else {
            return MoveStatus { to: to.to_owned(), ..MoveStatus::default() };
        };
        let ns = u128::from(moving.at.saturating_sub(moving.began)).max(1);
        let per_second = u128::from(moving.messages) * 1_000_000_000 / ns;
        let left = self.remaining.messages + self.remaining.held;
        MoveStatus {
            to: to.to_owned(),
            state: moving.state,
            moved_count: moving.messages,
            moved_bytes: moving.bytes,
            // The last look at what remains may be from before the last batch.
            left_count: if moving.state == MoveState::Moved { 0 } else { left },
            rate: u64::try_from(per_second).unwrap_or(u64::MAX),
            subject: moving.subject.clone(),
            error: moving.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn left(messages: u64) -> Remaining {
        Remaining { messages, ..Remaining::default() }
    }

    fn draining(timeout: Option<u64>) -> Draining {
        let timeout = timeout.map(Duration::from_secs);
        Draining::new(DrainRequest { timeout, stops: true, move_to: None }, None, 5_000, 100)
    }

    #[test]
    fn drain_ends_when_nothing_remains() {
        let mut drain = draining(Some(10));
        assert!(!drain.is_drained(), "nothing was counted");
        assert_eq!(drain.step(left(2), SECOND), DrainStep::Wait);
        assert!(!drain.is_drained());
        assert_eq!(drain.step(left(0), SECOND), DrainStep::Drained);
        assert!(drain.is_drained() && drain.status().drained);
        // A redrive brings messages back.
        let redriven = Remaining { redrives: 1, held: 3, ..left(0) };
        assert_eq!(drain.step(redriven, SECOND), DrainStep::Wait);
        // Held messages are not waited for.
        assert_eq!(drain.step(Remaining { held: 3, ..left(0) }, SECOND), DrainStep::Drained);
        assert_eq!(drain.status().held_count, 3);
    }

    #[test]
    fn drain_is_overdue_after_its_timeout_only() {
        let mut drain = draining(Some(10));
        assert_eq!(drain.step(left(1), 100 + 10 * SECOND - 1), DrainStep::Wait);
        assert_eq!(drain.step(left(1), 100 + 10 * SECOND), DrainStep::Overdue);
        assert_eq!(drain.step(left(0), 100 + 10 * SECOND), DrainStep::Drained);
        assert_eq!(drain.status().deadline_at, Some(5_000 + 10 * SECOND as i64));
        let mut endless = draining(None);
        assert_eq!(endless.step(left(1), Nanos::MAX), DrainStep::Wait);
        assert_eq!(endless.status().deadline_at, None);
    }

    #[test]
    fn another_request_keeps_the_beginning() {
        let first = draining(None);
        let second = Draining::new(DrainRequest::default(), Some(first.started_at()), 9_000, 200);
        assert_eq!(second.status().started_at, Some(5_000));
    }

    fn with_target() -> Draining {
        let request = DrainRequest {
            timeout: Some(Duration::from_secs(10)),
            stops: true,
            move_to: Some("b:4151".to_owned()),
        };
        Draining::new(request, None, 5_000, 0)
    }

    #[test]
    fn what_is_left_at_the_deadline_moves() {
        let mut drain = with_target();
        assert_eq!(drain.status().moving.unwrap().state, MoveState::Waiting);
        assert_eq!(drain.step(left(5), 9 * SECOND), DrainStep::Wait);
        assert_eq!(drain.step(left(5), 10 * SECOND), DrainStep::Move);
        drain.begin_moving(7, 10 * SECOND);
        assert_eq!(drain.step(left(3), 11 * SECOND), DrainStep::Wait);
        drain.note_moved(7, (4, 40), "t/c".to_owned(), 12 * SECOND);
        drain.note_moved(6, (4, 40), "old/c".to_owned(), 12 * SECOND);
        let status = drain.status().moving.unwrap();
        assert_eq!((status.moved_count, status.moved_bytes, status.left_count, status.rate), (4, 40, 3, 2));
        assert_eq!((status.subject.as_str(), status.to.as_str()), ("t/c", "b:4151"));
        // Ephemeral messages stay.
        assert!(!drain.is_drained());
        drain.end_moving(7, Ok(()), 13 * SECOND);
        assert_eq!(drain.status().moving.unwrap().left_count, 0);
        assert_eq!(drain.step(left(1), 13 * SECOND), DrainStep::Drained);
        assert!(drain.is_drained());
    }

    #[test]
    fn held_messages_move_before_the_deadline_if_nothing_else_is_left() {
        let held = Remaining { held: 2, ..left(0) };
        let mut drain = with_target();
        assert_eq!(drain.step(held, SECOND), DrainStep::Move);
        assert!(!drain.is_drained());
        let mut empty = with_target();
        assert_eq!(empty.step(left(0), SECOND), DrainStep::Drained);
    }

    #[test]
    fn a_failed_move_leaves_the_rest_here() {
        let mut drain = with_target();
        drain.begin_moving(1, 10 * SECOND);
        drain.end_moving(1, Err("b:4151 drains, too".to_owned()), 11 * SECOND);
        assert_eq!(drain.step(left(2), 11 * SECOND), DrainStep::Overdue);
        assert_eq!(drain.step(Remaining { held: 2, ..left(0) }, 11 * SECOND), DrainStep::Overdue);
        assert_eq!(drain.move_failure(), Some("b:4151 drains, too"));
        assert_eq!(drain.status().moving.unwrap().error.as_deref(), Some("b:4151 drains, too"));
        assert_eq!(drain.step(left(0), 11 * SECOND), DrainStep::Drained, "consumers took the rest");
    }

    #[test]
    fn progress_is_reported_at_intervals() {
        let mut drain = draining(None);
        assert!(drain.is_report_due(0));
        assert!(!drain.is_report_due(REPORT_INTERVAL - 1));
        assert!(drain.is_report_due(REPORT_INTERVAL));
    }
}
