//! Which topics a bridge serves: those that are named, or those that nsqlookupds know and that match a pattern.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::future::join_all;
use nsq::Tls;
use nsq::admin::LookupdClient;
use nsq_daemon::{debug, warn};
use regex::bytes::Regex;
use tokio::time::{MissedTickBehavior, interval};

use super::Bridge;

/// Maximum number of topics of one bridge, each with its own consumer.
pub const MAX_TOPICS: usize = 10_000;

/// The topics of a bridge. A topic that disappears keeps its consumer, which waits for it.
#[derive(Debug)]
pub struct Topics {
    /// Topics to start.
    pending: VecDeque<String>,
    known: BTreeSet<String>,
    discovery: Option<Discovery>,
}

/// How to find topics.
#[derive(Debug)]
pub struct Discovery {
    pub pattern: Regex,
    /// Time between two queries of the nsqlookupds.
    pub refresh: Duration,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    ticks: Option<tokio::time::Interval>,
    /// A query is due. It stays due if it is cancelled.
    is_due: bool,
}

impl Discovery {
    pub fn new(pattern: Regex, refresh: Duration, [connect_timeout, request_timeout]: [Duration; 2]) -> Self {
        Discovery { pattern, refresh, connect_timeout, request_timeout, ticks: None, is_due: false }
    }
}

impl Topics {
    /// The given topics, without repetitions.
    pub fn named(names: impl IntoIterator<Item = String>) -> Self {
        let mut topics = Topics { pending: VecDeque::new(), known: BTreeSet::new(), discovery: None };
        topics.add(names);
        topics
    }

    /// The topics that nsqlookupds know and that match, now and later.
    pub fn matching(discovery: Discovery) -> Self {
        Topics { discovery: Some(discovery), ..Topics::named([]) }
    }

    /// Waits for the next topic; `None` if there will be no more. Cancel safe.
    pub async fn next(&mut self, bridge: &Bridge) -> Option<String> {
        loop {
            if let Some(topic) = self.pending.pop_front() {
                return Some(topic);
            }
            let discovery = self.discovery.as_mut()?;
            let ticks = discovery.ticks.get_or_insert_with(|| {
                let mut ticks = interval(discovery.refresh.max(Duration::from_millis(1)));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            });
            if !discovery.is_due {
                ticks.tick().await;
                discovery.is_due = true;
            }
            let found = discovery.query(bridge).await;
            discovery.is_due = false;
            let before = self.known.len();
            self.add(found);
            debug!(bridge.logger, "found {} new topics", self.known.len() - before);
            if self.known.len() == MAX_TOPICS {
                warn!(bridge.logger, "there are at least {MAX_TOPICS} topics: further topics are not served");
            }
        }
    }

    fn add(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if self.known.len() < MAX_TOPICS && self.known.insert(name.clone()) {
                self.pending.push_back(name);
            }
        }
    }
}

impl Discovery {
    /// Asks all nsqlookupds. One that fails is logged; the others count.
    async fn query(&self, bridge: &Bridge) -> BTreeSet<String> {
        let tls = Tls::new(&bridge.config).unwrap_or_default();
        let answers = join_all(bridge.sources.lookupds.iter().map(async |lookupd| {
            let client = LookupdClient::new(lookupd).map_err(|error| error.to_string())?;
            let client = client.timeouts(self.connect_timeout, self.request_timeout).tls(tls.clone());
            client.topics().await.map_err(|error| error.kind.to_string())
        }))
        .await;
        let mut topics = BTreeSet::new();
        for (lookupd, answer) in bridge.sources.lookupds.iter().zip(answers) {
            match answer {
                Ok(names) => {
                    topics.extend(names.into_iter().filter(|name| self.pattern.is_match(name.as_bytes())))
                }
                Err(error) => warn!(bridge.logger, "cannot ask {lookupd} for topics: {error}"),
            }
        }
        topics
    }
}
