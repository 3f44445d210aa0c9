//! The nodes of a producer that lookupds list.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::pool::Pool;
use crate::config::Config;
use crate::error::ConfigError;
use crate::http::HttpClient;
use crate::lookup::{Lookupd, all_nodes, lookup_client};
use crate::poll_pace::PollPace;

/// Queries the lookupds of a producer.
pub(super) struct Lookups {
    http: HttpClient,
    lookupds: Vec<Lookupd>,
    /// The nodes that the application set. They stay.
    fixed: Vec<Arc<str>>,
    pace: PollPace,
    jitter: f64,
}

impl Lookups {
    /// Returns `None` without lookupds.
    pub(super) fn new(
        config: &Config,
        lookupds: Vec<String>,
        fixed: Vec<Arc<str>>,
    ) -> Result<Option<Self>, ConfigError> {
        if lookupds.is_empty() {
            return Ok(None);
        }
        let (http, lookupds) = lookup_client(config, lookupds)?;
        let pace = PollPace::new(config.lookupd_poll_interval);
        Ok(Some(Lookups { http, lookupds, fixed, pace, jitter: config.lookupd_poll_jitter }))
    }

    /// Sets the nodes of `pool` until the producer stops.
    pub(super) async fn run(mut self, pool: Arc<Pool>) {
        tokio::select! {
            () = self.poll(&pool) => {}
            () = pool.stop.cancelled() => {}
        }
    }

    async fn poll(&mut self, pool: &Arc<Pool>) {
        let mut known: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            let mut listed = BTreeSet::new();
            let complete = all_nodes(&self.http, &self.lookupds, |nodes| {
                listed.extend(nodes);
                // Use new nodes at once. Whether others are gone is known when all lookupds have answered.
                if !listed.is_subset(&known) {
                    known.extend(listed.iter().cloned());
                    pool.set_nodes(&self.addresses(&known));
                }
            })
            .await;
            if complete && known != listed {
                // A connected node stays: its lookupd registration may be late.
                let connected = pool.nodes();
                known.retain(|address| {
                    let node = connected.iter().find(|node| node.address == *address);
                    listed.contains(address) || node.is_some_and(|node| node.is_connected())
                });
                pool.set_nodes(&self.addresses(&known));
            }
            let pause: Duration = self.pace.next_pause(!known.is_empty());
            tokio::time::sleep(pause.mul_f64(1.0 + self.jitter * fastrand::f64())).await;
        }
    }

    /// In the same order in every producer, so that `Failover` prefers the same node.
    fn addresses(&self, listed: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        let discovered = listed.iter().filter(|address| !self.fixed.contains(*address));
        self.fixed.iter().chain(discovered).cloned().collect()
    }
}
