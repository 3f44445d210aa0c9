//! Distributes a consumer's `max_in_flight` over its connections. Pure: `now` is an argument, RDY counts are results.
//!
//! RDY is the lasting limit on the messages in flight to one connection. After every plan:
//!
//! 1. the sum of max(RDY, in flight) is at most `max_in_flight`, or no RDY was raised: a lowered connection keeps its
//!    place until its messages are answered;
//! 2. no RDY exceeds the server's `max_rdy_count`;
//! 3. with at most `max_in_flight` connections, each has at least 1 as soon as there is room, all of `max_in_flight` is
//!    used unless all connections are capped, and the shares of busy connections differ by at most one;
//! 4. with more connections, they take turns in order, so that each gets one within
//!    ⌈connections ÷ max_in_flight⌉ × `idle_timeout`;
//! 5. the plan contains only changes, lowering ones first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

mod targets;

/// Identifies a connection of a consumer; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Minimum interval between raises of one connection's RDY, so that bursts of changes become one.
const MIN_RAISE_INTERVAL: Duration = Duration::from_millis(10);

/// How many messages the consumer requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// None: paused, stopping, or in the pause of a backoff.
    Hold,
    /// One, to test whether handling works again.
    Probe,
    /// As many as `max_in_flight` allows.
    Open,
}

#[derive(Clone, Debug)]
pub(crate) struct RdyOptions {
    /// See `low_rdy_idle_timeout`.
    pub(crate) idle_timeout: Duration,
    /// See `low_rdy_slice`.
    pub(crate) slice: Duration,
    /// Idle connections do not lend their share.
    pub(crate) fair_share: bool,
}

/// What to send, and when to plan again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// New RDY counts, lowering ones first.
    pub(crate) changes: Vec<(ConnectionId, u64)>,
    /// Plan again at this time, if nothing happens before.
    pub(crate) wake_at: Option<Instant>,
    /// Plan again when a message is answered, because a connection waits for room.
    pub(crate) watch_answers: bool,
    /// Plan again when one of these gets a message.
    pub(crate) watch_messages: Vec<ConnectionId>,
}

impl Plan {
    fn wake(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

#[derive(Debug)]
struct Connection {
    /// The server's `max_rdy_count`.
    cap: u64,
    /// The RDY count sent last.
    rdy: u64,
    in_flight: u64,
    connected_at: Instant,
    last_message_at: Option<Instant>,
    raised_at: Option<Instant>,
    /// When the current turn, or share, began.
    turn_started_at: Option<Instant>,
    /// The consumer-wide number of the last turn. The connection with the smallest number has waited longest.
    turn: u64,
}

impl Connection {
    fn load(&self) -> u64 {
        self.rdy.max(self.in_flight)
    }
}

/// Distributes RDY over connections.
#[derive(Debug)]
pub(crate) struct Distributor {
    options: RdyOptions,
    max_in_flight: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    next_turn: u64,
    /// The connection that [`Mode::Probe`] asks for its one message, and since when.
    probe: Option<(ConnectionId, Instant)>,
}

impl Distributor {
    pub(crate) fn new(options: RdyOptions, max_in_flight: u64) -> Self {
        Distributor { options, max_in_flight, connections: BTreeMap::new(), next_turn: 1, probe: None }
    }

    pub(crate) fn connected(&mut self, id: ConnectionId, max_rdy_count: u64, now: Instant) {
        let connection = Connection {
            cap: max_rdy_count.max(1),
            rdy: 0,
            in_flight: 0,
            connected_at: now,
            last_message_at: None,
            raised_at: None,
            turn_started_at: None,
            turn: 0,
        };
        self.connections.insert(id, connection);
    }

    pub(crate) fn disconnected(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    pub(crate) fn set_max_in_flight(&mut self, max_in_flight: u64) {
        self.max_in_flight = max_in_flight;
    }

    /// Updates the state of a connection before the next plan.
    pub(crate) fn observe(&mut self, id: ConnectionId, in_flight: u64, last_message_at: Option<Instant>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.in_flight = in_flight;
            connection.last_message_at = last_message_at;
        }
    }

    /// Returns the changes from the RDY counts sent so far to the right ones. They count as sent.
    pub(crate) fn plan(&mut self, mode: Mode, now: Instant) -> Plan {
        let mut plan = Plan::default();
        if mode != Mode::Probe {
            self.probe = None;
        }
        let crowded = self.connections.len() as u64 > self.max_in_flight;
        let targets = match mode {
            _ if self.max_in_flight == 0 => BTreeMap::new(),
            Mode::Hold => BTreeMap::new(),
            Mode::Probe => self.probe_targets(now, &mut plan),
            Mode::Open if crowded => self.turn_targets(now, &mut plan),
            Mode::Open => self.share_targets(now, &mut plan),
        };
        self.lower(&targets, &mut plan);
        self.raise(&targets, now, &mut plan);
        plan
    }

    fn lower(&mut self, targets: &BTreeMap<ConnectionId, u64>, plan: &mut Plan) {
        for (id, connection) in &mut self.connections {
            let target = targets.get(id).copied().unwrap_or(0);
            if target < connection.rdy {
                if target == 0 {
                    connection.turn_started_at = None;
                }
                connection.rdy = target;
                plan.changes.push((*id, target));
            }
        }
    }

    /// Raises RDY as far as there is room: first connections with 0 to 1, then all up to their targets.
    fn raise(&mut self, targets: &BTreeMap<ConnectionId, u64>, now: Instant, plan: &mut Plan) {
        let load: u64 = self.connections.values().map(Connection::load).sum();
        let mut room = self.max_in_flight.saturating_sub(load);
        let mut raised: BTreeMap<ConnectionId, u64> = BTreeMap::new();
        for first_pass in [true, false] {
            for (id, connection) in &mut self.connections {
                let target = targets.get(id).copied().unwrap_or(0);
                let goal = if first_pass { target.min(1) } else { target };
                if connection.rdy >= goal {
                    continue;
                }
                let already = raised.contains_key(id);
                if !already
                    && let Some(again_at) = connection.raised_at.map(|at| at + MIN_RAISE_INTERVAL)
                    && again_at > now
                {
                    plan.wake(again_at);
                    continue;
                }
                let before = connection.load();
                let rdy = goal.min(before + room);
                if rdy < goal {
                    plan.watch_answers = true;
                }
                if rdy > connection.rdy {
                    if connection.rdy == 0 {
                        connection.turn_started_at = Some(now);
                        connection.turn = self.next_turn;
                        self.next_turn += 1;
                    }
                    connection.rdy = rdy;
                    connection.raised_at = Some(now);
                    room -= connection.load() - before;
                    raised.insert(*id, rdy);
                }
            }
        }
        plan.changes.extend(raised);
    }
}

#[cfg(test)]
mod tests;
