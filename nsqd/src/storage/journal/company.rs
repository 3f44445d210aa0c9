//! Whether publishers come together: what a caller that could write at once needs to know, to decide whether
//! to let others append first. Learnt from the batches that were written. No I/O, no clock.

/// Without company, every so many appends it is tried all the same.
const PROBE_EVERY: u32 = 32;
/// So many lone batches in a row are put down to chance at most.
const MAX_CREDIT: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Lone batches until we stop to expect anybody.
    credit: u32,
    /// Appends since the last trial.
    unasked: u32,
}

impl Company {
    /// Whether whoever appends now should let others run before it writes.
    #[inline]
    pub(super) fn is_expected(&mut self) -> bool {
        if self.credit > 0 {
            return true;
        }
        self.unasked += 1;
        if self.unasked < PROBE_EVERY {
            return false;
        }
        self.unasked = 0;
        true
    }

    /// A batch with so many tickets was written.
    #[inline]
    pub(super) fn learn(&mut self, tickets: usize) {
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
    fn who_is_alone_is_rarely_asked_to_wait() {
        let mut company = Company::default();
        let mut asked = 0;
        for _ in 0..10 * PROBE_EVERY {
            asked += u32::from(company.is_expected());
            company.learn(1);
        }
        assert_eq!(asked, 10);
    }

    #[test]
    fn company_is_expected_once_it_was_met_and_until_it_stays_away() {
        let mut company = Company::default();
        company.learn(5);
        for _ in 0..5 {
            assert!(company.is_expected());
            company.learn(1);
        }
        assert!(!company.is_expected());

        for _ in 0..1000 {
            company.learn(100);
        }
        for _ in 0..MAX_CREDIT {
            assert!(company.is_expected());
            company.learn(0);
        }
        assert!(!company.is_expected());
    }
}
