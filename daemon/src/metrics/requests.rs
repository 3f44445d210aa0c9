//! HTTP requests by endpoint and status code.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use super::{Exposition, Kind};

/// Endpoint name for requests that match none.
pub const NO_ENDPOINT: &str = "other";

/// Number of responses by endpoint and status code. Both come from the program, so there are few combinations.
#[derive(Debug, Default)]
pub struct RequestCounts(RwLock<HashMap<(&'static str, u16), AtomicU64>>);

impl RequestCounts {
    /// Counts one response.
    pub fn count(&self, endpoint: &'static str, code: u16) {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get(&(endpoint, code)) {
            count.fetch_add(1, Relaxed);
            return;
        }
        drop(counts);
        let mut counts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        counts.entry((endpoint, code)).or_default().fetch_add(1, Relaxed);
    }

    /// Writes the counts to a page as a counter with this name.
    pub fn expose(&self, page: &mut Exposition, name: &str) {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = counts.iter().map(|(&key, count)| (key, count.load(Relaxed))).collect();
        drop(counts);
        all.sort_unstable();
        let mut family = page.family(name, Kind::Counter, "HTTP requests, by endpoint and status code.");
        for ((endpoint, code), count) in all {
            family.sample(&[("endpoint", endpoint), ("code", &code.to_string())], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_exposed_in_order() {
        let counts = RequestCounts::default();
        counts.count("/pub", 400);
        counts.count("/pub", 200);
        counts.count("/mpub", 200);
        counts.count("/pub", 200);
        let mut page = Exposition::default();
        counts.expose(&mut page, "r_total");
        let text = page.into_text();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "r_total{endpoint=\"/mpub\",code=\"200\"} 1",
                "r_total{endpoint=\"/pub\",code=\"200\"} 2",
                "r_total{endpoint=\"/pub\",code=\"400\"} 1",
            ]
        );
    }
}
