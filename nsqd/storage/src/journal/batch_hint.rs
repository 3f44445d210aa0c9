//! Predicts from the batches written so far whether several publishers append at the same time. A caller that could
//! write at once uses it to decide whether to let others append first. No I/O, no clock.

/// While others are not expected, one in this many appends still lets others append first.
const PROBE_EVERY: u32 = 32;
/// After this many batches of one in a row, others are not expected any more.
const MAX_CREDIT: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BatchHint {
    /// Number of further batches of one until others are not expected any more.
    credit: u32,
    /// Appends since the last probe.
    since_probe: u32,
}

impl BatchHint {
    /// Whether a caller that appends now should let others run before it writes.
    #[inline]
    pub(super) fn expects_others(&mut self) -> bool {
        if self.credit > 0 {
            return true;
        }
        self.since_probe += 1;
        if self.since_probe < PROBE_EVERY {
            return false;
        }
        self.since_probe = 0;
        true
    }

    /// Records a written batch with this many tickets.
    #[inline]
    pub(super) fn record_batch(&mut self, tickets: usize) {
        self.credit = match u32::try_from(tickets).unwrap_or(MAX_CREDIT) {
            0 | 1 => self.credit.saturating_sub(1),
            together => self.credit.saturating_add(together).min(MAX_CREDIT),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_publisher_is_rarely_asked_to_wait() {
        let mut batch_hint = BatchHint::default();
        let mut asked = 0;
        for _ in 0..10 * PROBE_EVERY {
            asked += u32::from(batch_hint.expects_others());
            batch_hint.record_batch(1);
        }
        assert_eq!(asked, 10);
    }

    #[test]
    fn others_are_expected_until_enough_batches_of_one_were_written() {
        let mut batch_hint = BatchHint::default();
        batch_hint.record_batch(5);
        for _ in 0..5 {
            assert!(batch_hint.expects_others());
            batch_hint.record_batch(1);
        }
        assert!(!batch_hint.expects_others());

        for _ in 0..1000 {
            batch_hint.record_batch(100);
        }
        for _ in 0..MAX_CREDIT {
            assert!(batch_hint.expects_others());
            batch_hint.record_batch(0);
        }
        assert!(!batch_hint.expects_others());
    }
}
