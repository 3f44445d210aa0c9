//! What a channel does by its bound and without consumers: removes messages, publishes how much it holds.

use std::sync::Arc;

use super::gauge::Gauge;
use super::order::OrderReport;
use super::rate::ThrottleReport;
use super::{Channel, Inner};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::log::sizes::Amount;
use crate::policy::bounds::{Bound, IdleAction, IdleExpiry};

/// How often messages that are dropped or cannot be moved are reported.
pub(super) const REPORT_INTERVAL: Nanos = 60_000_000_000;

/// What was reported about dropped messages.
#[derive(Debug, Default)]
pub(super) struct OverflowReport {
    count: u64,
    at: Option<Nanos>,
}

impl Channel {
    /// How much the channel may hold.
    pub fn bound(&self) -> Bound {
        self.inner.lock().state.bound()
    }

    /// Applies a changed bound. The gauge, if there is one, follows from now on what the channel holds.
    pub fn apply_bound(&self, gauge: Option<Arc<Gauge>>) {
        let mut inner = self.inner.lock();
        inner.gauge = gauge;
        self.after_change(inner);
    }

    /// Removes messages beyond the bound.
    #[inline]
    pub(super) fn shed(&self, inner: &mut Inner) {
        if inner.state.sheds() {
            self.parts.log.with_sizes(|sizes| inner.state.shed(sizes));
        }
    }

    #[inline]
    pub(super) fn update_gauge(&self, inner: &Inner) {
        if let Some(gauge) = &inner.gauge {
            self.set_gauge(gauge, inner);
        }
    }

    fn set_gauge(&self, gauge: &Gauge, inner: &Inner) {
        let end = inner.state.end();
        self.parts.log.with_sizes(|sizes| {
            gauge.set(inner.state.held(sizes), Amount { messages: end, bytes: sizes.before(end) });
        });
    }

    /// Messages that were dropped beyond the bound and not reported yet: at most one report a minute.
    pub fn overflow_report(&self, now: Nanos) -> Option<(u64, Bound)> {
        let mut inner = self.inner.lock();
        let count = inner.state.counters().overflow_count;
        let report = &mut inner.overflow_report;
        let is_due = report.at.is_none_or(|at| now.saturating_sub(at) >= REPORT_INTERVAL);
        if count <= report.count || !is_due {
            return None;
        }
        let dropped = count - std::mem::replace(&mut report.count, count);
        report.at = Some(now);
        Some((dropped, inner.state.bound()))
    }

    /// Whether its rate is one of all nodes together.
    pub fn has_total_rate(&self) -> bool {
        self.inner.lock().state.has_total_rate()
    }

    /// Sets how many nodes carry the topic.
    pub fn set_node_count(&self, nodes: u64) {
        let mut inner = self.inner.lock();
        inner.state.set_node_count(nodes, clock::monotonic());
        self.after_change(inner);
    }

    /// What the channel's order holds back, and to whom the message is in flight that blocks the most others. `None`
    /// without an order.
    pub fn order_report(&self) -> Option<(OrderReport, Option<Arc<ClientInfo>>)> {
        let inner = self.inner.lock();
        let report = inner.state.order_report()?;
        let holder = report.blocked.as_ref().and_then(|blocked| inner.state.owner_of(blocked.holder?));
        let info = holder.and_then(|key| inner.signals.get(key as usize)?.as_ref());
        Some((report, info.map(|(_, info)| info.clone())))
    }

    /// What limits the channel's hand-out; `None` if nothing does.
    pub fn throttle_report(&self) -> Option<ThrottleReport> {
        self.inner.lock().state.throttle_report(clock::monotonic())
    }

    /// Whether anything happens to the channel when it has no consumer for a while.
    pub fn expires_when_idle(&self) -> bool {
        self.inner.lock().state.idle_expiry().is_some()
    }

    /// What is to be done because the channel has had no consumer for too long. For [`IdleAction::Empty`] it is done
    /// already, under the same lock: a consumer that subscribes now loses nothing. That time begins again then.
    pub fn idle_action(&self, now: Nanos) -> Option<(IdleAction, IdleExpiry)> {
        let mut inner = self.inner.lock();
        let idle = inner.state.idle_expiry()?;
        let is_idle = inner.state.consumers().is_empty()
            && now.saturating_sub(inner.idle_since) >= crate::clock::nanos(idle.after);
        if !is_idle || inner.closed || inner.state.is_moving_out() {
            return None;
        }
        match idle.action {
            IdleAction::Delete => Some((IdleAction::Delete, idle)),
            IdleAction::Empty => {
                inner.idle_since = now;
                if inner.state.held_count() == 0 {
                    return None;
                }
                self.empty_locked(inner);
                Some((IdleAction::Empty, idle))
            }
        }
    }
}
