//! HTTP requests by endpoint and code.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use super::{Exposition, Kind};

/// What stands for the endpoint of requests that fit none.
pub const NO_ENDPOINT: &str = "other";

/// How often each endpoint was answered with each code. Both come from the program, so there are few.
#[derive(Debug, Default)]
pub struct RequestCounts(RwLock<HashMap<(&'static str, u16), AtomicU64>>);

impl RequestCounts {
    /// A request was answered.
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

    /// Puts them on a page.
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
    fn requests_are_told_in_order() {
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
