//! The RDY target of each connection, regardless of the room for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use super::{Connection, ConnectionId, Distributor, Plan};

type Targets = BTreeMap<ConnectionId, u64>;

impl Distributor {
    /// Targets for at most `max_in_flight` connections: shares. An idle connection keeps 1 and lends the rest to busy
    /// ones. If all are idle, they share as if all were busy.
    pub(super) fn share_targets(&self, now: Instant, plan: &mut Plan) -> Targets {
        let mut busy: Vec<(ConnectionId, u64)> = Vec::new();
        let mut idle: Vec<(ConnectionId, u64)> = Vec::new();
        let mut next_idle_at: Option<Instant> = None;
        for (id, connection) in &self.connections {
            let idle_at = connection.active_at() + self.options.idle_timeout;
            if self.options.fair_share || connection.in_flight > 0 || idle_at > now {
                busy.push((*id, connection.cap));
                if connection.in_flight == 0 {
                    next_idle_at = Some(next_idle_at.map_or(idle_at, |earlier| earlier.min(idle_at)));
                }
            } else {
                idle.push((*id, connection.cap));
            }
        }
        if busy.is_empty() {
            std::mem::swap(&mut busy, &mut idle);
            // The first message makes its connection busy.
            plan.watch_messages = busy.iter().map(|(id, _)| *id).collect();
        } else {
            plan.watch_messages = idle.iter().map(|(id, _)| *id).collect();
        }
        if self.connections.len() > 1
            && !self.options.fair_share
            && let Some(at) = next_idle_at
        {
            plan.wake(at);
        }
        let mut targets = Targets::new();
        let lent = self.max_in_flight - idle.len() as u64;
        let left_over = fill(&busy, lent, &mut targets);
        fill(&idle, left_over + idle.len() as u64, &mut targets);
        targets
    }

    /// Targets for more connections than `max_in_flight`: that many have 1 each, in turns.
    pub(super) fn turn_targets(&self, now: Instant, plan: &mut Plan) -> Targets {
        let places = self.max_in_flight as usize;
        let (mut holding, mut waiting): (Vec<_>, Vec<_>) =
            self.connections.iter().partition(|(_, connection)| connection.rdy > 0);
        // Latest turn first, so that the longest turns end first if there are too many, or too few wait.
        holding.sort_by_key(|(_, connection)| Reverse(connection.turn));
        waiting.sort_by_key(|(id, connection)| (connection.turn, **id));

        let (over, lasting): (Vec<_>, Vec<_>) =
            holding.into_iter().partition(|(_, connection)| self.turn_ends_at(connection) <= now);
        let next = lasting.iter().chain(waiting.iter()).chain(over.iter()).take(places);
        let targets: Targets = next.map(|(id, _)| (**id, 1)).collect();
        for (id, connection) in &self.connections {
            match targets.get(id) {
                Some(_) if connection.rdy == 0 => plan.wake(now + self.options.idle_timeout),
                Some(_) if self.turn_ends_at(connection) > now => plan.wake(self.turn_ends_at(connection)),
                // The turn is over, but no connection waits for it, so the connection keeps its place. Plan again
                // when the turn of another connection may end.
                Some(_) => plan.wake(now + self.options.idle_timeout),
                None => {}
            }
        }
        targets
    }

    /// Targets for one message in total. Asks the connection that had a message most recently, because it most likely
    /// has another. Asks the next one after `idle_timeout`. Once the message has arrived, asks for nothing until it is
    /// answered.
    pub(super) fn probe_targets(&mut self, now: Instant, plan: &mut Plan) -> Targets {
        if let Some((id, since)) = self.probe
            && let Some(connection) = self.connections.get(&id)
        {
            if connection.last_message_at.is_some_and(|at| at >= since) {
                return Targets::new();
            }
            // The time of a probe starts when its RDY was sent.
            let asked_at = connection.turn_started_at.unwrap_or(now);
            let ends_at = asked_at + self.options.idle_timeout;
            if ends_at > now {
                plan.wake(ends_at);
                plan.watch_messages.push(id);
                return Targets::from([(id, 1)]);
            }
        }
        let previous = self.probe.map(|(id, _)| id);
        let candidates = self.connections.iter().filter(|(id, _)| Some(**id) != previous);
        let chosen = match previous {
            // RDY 1 brings no message to a connection that has one in flight, so such connections come last.
            None => candidates
                .max_by_key(|(id, c)| (c.in_flight == 0, c.last_message_at, Reverse(**id)))
                .map(|(id, _)| *id),
            Some(_) => candidates
                .min_by_key(|(id, c)| (c.in_flight > 0, c.turn, **id))
                .map(|(id, _)| *id)
                .or(previous),
        };
        let Some(id) = chosen.filter(|id| self.connections.contains_key(id)) else {
            self.probe = None;
            return Targets::new();
        };
        self.probe = Some((id, now));
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.rdy > 0
        {
            connection.turn_started_at = Some(now);
        }
        plan.wake(now + self.options.idle_timeout);
        plan.watch_messages.push(id);
        Targets::from([(id, 1)])
    }

    fn turn_ends_at(&self, connection: &Connection) -> Instant {
        let started_at = connection.turn_started_at.unwrap_or(connection.connected_at);
        match connection.last_message_at {
            Some(message_at) if message_at >= started_at => {
                (message_at + self.options.idle_timeout).min(started_at + self.options.slice)
            }
            _ => started_at + self.options.idle_timeout,
        }
    }
}

impl Connection {
    /// A new connection counts as busy, so that it starts with its share.
    fn active_at(&self) -> Instant {
        self.last_message_at.map_or(self.connected_at, |at| at.max(self.connected_at))
    }
}

/// Spreads `pool` evenly. Capped connections leave the rest to the others. Returns what no connection can take.
fn fill(connections: &[(ConnectionId, u64)], mut pool: u64, targets: &mut Targets) -> u64 {
    let mut open = connections.to_vec();
    loop {
        let Some(share) = pool.checked_div(open.len() as u64) else { return pool };
        let (capped, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|(_, cap)| *cap <= share);
        open = rest;
        if capped.is_empty() {
            let remainder = (pool % open.len() as u64) as usize;
            for (position, (id, _)) in open.into_iter().enumerate() {
                targets.insert(id, share + u64::from(position < remainder));
            }
            return 0;
        }
        for (id, cap) in capped {
            pool -= cap;
            targets.insert(id, cap);
        }
    }
}
