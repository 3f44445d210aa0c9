//! Takes messages for clients without a connection, and settles their leases. [`super::leases`] decides.

use std::sync::Arc;

use super::acknowledging::Acknowledging;
use super::signal::ConsumerSignal;
use super::state::AckError;
use super::{Channel, ChannelClosed, ConsumerKey, Inner, Taken};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::locality::Locality;

/// The consumer that holds the leased messages.
#[derive(Debug)]
pub(super) struct LeaseHolder {
    key: ConsumerKey,
    /// Clients that wait for messages. The holder stays as long as there are any.
    waiting: usize,
    /// When a client waited last, or settled a lease.
    used_at: Nanos,
}

impl LeaseHolder {
    pub(super) fn is(&self, key: ConsumerKey) -> bool {
        self.key == key
    }
}

/// The result of [`Channel::drop_unused_holder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderUse {
    /// It may be unused at this time.
    Until(Nanos),
    /// It is gone. `was_last`: it was the channel's last consumer.
    Gone { was_last: bool },
}

impl Channel {
    /// Prepares for [`Channel::take_leased`]; [`Channel::end_leasing`] must follow. Returns whether the channel has a holder
    /// since now: then the caller must call [`Channel::drop_unused_holder`] from time to time.
    pub fn begin_leasing(&self, info: impl FnOnce() -> Arc<ClientInfo>) -> Result<bool, ChannelClosed> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(ChannelClosed);
        }
        let used_at = clock::monotonic();
        if let Some(holder) = &mut inner.holder {
            holder.waiting += 1;
            holder.used_at = used_at;
            return Ok(false);
        }
        // Its RDY count stays 0: it takes nothing by itself.
        let key = inner.state.add_consumer(0, 0, Locality::default());
        inner.set_signal(key, Arc::new(ConsumerSignal::default()), info());
        inner.holder = Some(LeaseHolder { key, waiting: 1, used_at });
        Ok(true)
    }

    /// A client that called [`Channel::begin_leasing`] waits no more.
    pub fn end_leasing(&self) {
        if let Some(holder) = &mut self.inner.lock().holder {
            holder.waiting = holder.waiting.saturating_sub(1);
            holder.used_at = clock::monotonic();
        }
    }

    /// As [`Channel::take`], for at most `most` messages, which the holder keeps. Returns `None` if it holds
    /// `max_leases` already.
    pub fn take_leased(
        &self,
        key: ConsumerKey,
        most: u64,
        max_leases: u64,
        out: &mut Vec<u8>,
        room: usize,
    ) -> Option<Taken> {
        let now = clock::monotonic();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let holder = inner.holder.as_ref()?.key;
        let free = max_leases.saturating_sub(inner.state.held_by(holder));
        inner.state.set_ready_count(key, most.min(free));
        let taken = self.take_from(inner, key, now, out, room);
        inner.state.hand_over(key, holder);
        self.after_change(guard);
        (free > 0).then_some(taken)
    }

    /// Starts a run of FIN, REQ and TOUCH by clients that have leases.
    pub fn settle(&self) -> Settling<'_> {
        Settling { run: self.acknowledge(0), owners: Vec::new() }
    }

    /// Number of messages that are leased to clients without a connection.
    pub fn lease_count(&self) -> u64 {
        let inner = self.inner.lock();
        inner.holder.as_ref().map_or(0, |holder| inner.state.held_by(holder.key))
    }

    /// The consumer that holds leased messages, if there is one.
    pub fn holder_key(&self) -> Option<ConsumerKey> {
        self.inner.lock().holder.as_ref().map(|holder| holder.key)
    }

    /// Whether the channel has a consumer that holds leased messages.
    pub fn has_holder(&self) -> bool {
        self.inner.lock().holder.is_some()
    }

    /// Removes the holder if it holds nothing and was not used for `linger`.
    pub fn drop_unused_holder(&self, linger: Nanos) -> HolderUse {
        let now = clock::monotonic();
        let inner = self.inner.lock();
        let Some(holder) = &inner.holder else { return HolderUse::Gone { was_last: false } };
        let key = holder.key;
        if !inner.closed {
            let is_in_use = holder.waiting > 0 || inner.state.held_by(key) > 0;
            let until = if is_in_use { now } else { holder.used_at }.saturating_add(linger);
            if until > now {
                return HolderUse::Until(until);
            }
        }
        drop(inner);
        let was_last = self.unsubscribe(key);
        HolderUse::Gone { was_last }
    }
}

impl Inner {
    /// Number of consumers that have a client of their own.
    pub(super) fn client_count(&self) -> usize {
        self.state.consumers().len() - usize::from(self.holder.is_some())
    }
}

/// A run of FIN, REQ and TOUCH for leases, under the channel's lock. Dropping it ends the run.
///
/// A lease is known by the sequence number of its message and the moment of its delivery.
pub struct Settling<'a> {
    run: Acknowledging<'a>,
    /// Consumers with room again.
    owners: Vec<ConsumerKey>,
}

impl Settling<'_> {
    /// FIN.
    pub fn finish(&mut self, sequence: u64, delivered_at: Nanos) -> Result<(), AckError> {
        self.act_for_owner(sequence, delivered_at)?;
        self.run.finish(sequence)
    }

    /// REQ.
    pub fn requeue(&mut self, sequence: u64, delivered_at: Nanos, delay: Nanos) -> Result<(), AckError> {
        self.act_for_owner(sequence, delivered_at)?;
        self.run.requeue(sequence, delay)
    }

    /// TOUCH. Returns the new deadline.
    pub fn touch(&mut self, sequence: u64, delivered_at: Nanos, timeout: Nanos) -> Result<Nanos, AckError> {
        self.act_for_owner(sequence, delivered_at)?;
        self.run.extend(sequence, timeout)
    }

    fn act_for_owner(&mut self, sequence: u64, delivered_at: Nanos) -> Result<(), AckError> {
        let owner = self.run.owner_since(sequence, delivered_at)?;
        self.run.act_for(owner);
        if self.owners.last() != Some(&owner) {
            self.owners.push(owner);
        }
        Ok(())
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let Some(inner) = self.run.inner() else { return };
        if let Some(holder) = &mut inner.holder {
            holder.used_at = clock::monotonic();
        }
        for &owner in &self.owners {
            if let Some(Some((signal, _))) = inner.signals.get(owner as usize) {
                signal.call_and_wake();
            }
        }
    }
}
