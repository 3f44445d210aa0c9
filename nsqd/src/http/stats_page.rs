//! Writes `/stats` topic by topic and consumer by consumer. The whole page is never in memory, and no lock is held
//! while it is sent.

use std::sync::Arc;
use std::time::SystemTime;

use nsq_daemon::http::document::{List, put, split};
use nsq_daemon::http::pieces::PIECE_BYTES;
use nsq_daemon::http::{Encoding, Pieces};
use nsq_daemon::log;
use nsq_protocol::StatsText;

use crate::client_info::ClientInfo;
use crate::producers::Producers;
use crate::stats::{self, ChannelStatsSnapshot, StatsRequest, TopicStatsSnapshot};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// Reading more topics, channels or producers than this may take longer than a fraction of a millisecond.
const FEW: usize = 64;

/// A request for `/stats`.
pub(super) struct StatsPage {
    pub(super) registry: Arc<Registry>,
    pub(super) producers: Arc<Producers>,
    pub(super) started_at: SystemTime,
    pub(super) topic: Option<String>,
    pub(super) channel: Option<String>,
    /// `topic` and `channel` are `None` here; the fields above hold them.
    pub(super) flags: StatsRequest<'static>,
}

/// What the page lists.
struct Listed {
    /// `None` if the requested topic does not exist.
    topics: Option<Vec<Arc<Topic>>>,
    producers: Vec<Arc<ClientInfo>>,
}

impl StatsPage {
    /// Whether writing the page up to its first piece takes almost no time.
    pub(super) fn is_small(&self) -> bool {
        let channels = match &self.topic {
            Some(name) => self.registry.get(name).map_or(0, |topic| topic.channel_count()),
            None if self.registry.count() > FEW => return false,
            None => self.registry.all_unsorted().iter().map(|topic| topic.channel_count()).sum(),
        };
        if channels > FEW || self.producers.count() > FEW {
            return false;
        }
        let texts: usize = self.producers.all().iter().map(|info| info.text_bytes()).sum();
        texts <= PIECE_BYTES
    }

    fn request(&self) -> StatsRequest<'_> {
        StatsRequest { topic: self.topic.as_deref(), channel: self.channel.as_deref(), ..self.flags }
    }

    fn listed(&self) -> Listed {
        let topics = stats::wanted_topics(&self.registry, self.request());
        let producers = stats::wanted_producers(&self.producers, topics.is_some(), self.request());
        Listed { topics, producers }
    }

    fn start_time(&self) -> i64 {
        stats::start_time(self.started_at)
    }

    /// Writes JSON or MessagePack.
    pub(super) async fn write_encoded(&self, encoding: Encoding, out: Pieces) {
        let Listed { topics, producers } = self.listed();
        let mut head = stats::without_lists(self.registry.engine(), self.start_time(), self.request());
        head.topics = topics.as_ref().map(|_| Vec::new());
        // As in NSQ: null, not an empty list, if no connection has published.
        head.producers = (!producers.is_empty()).then(Vec::new);
        let lists = [("topics", topics.is_some()), ("producers", !producers.is_empty())];
        let lists: Vec<&str> =
            lists.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
        let mut parts = split(encoding, &head, &lists).into_iter();
        let mut next_part = |out: &mut Vec<u8>| out.extend(parts.next().unwrap_or_default());
        out.put(&mut next_part);
        if let Some(topics) = topics {
            let mut list = out.put(|out| List::begin(encoding, topics.len(), out));
            for topic in topics {
                out.put(|out| list.next(out));
                let snapshot = TopicStatsSnapshot::take(self.registry.engine(), &topic, self.request());
                drop(topic);
                self.write_topic(snapshot, encoding, &out).await;
            }
            out.put(|out| list.end(out));
            out.put(&mut next_part);
        }
        if !producers.is_empty() {
            let mut list = out.put(|out| List::begin(encoding, producers.len(), out));
            for producer in producers {
                out.put(|out| list.item(&stats::producer_stats(&producer, self.request()), out));
                out.pause().await;
            }
            out.put(|out| list.end(out));
            out.put(&mut next_part);
        }
    }

    async fn write_topic(&self, snapshot: TopicStatsSnapshot, encoding: Encoding, out: &Pieces) {
        let [before, behind] = two(split(encoding, &snapshot.stats, &["channels"]));
        let mut list = out.put(|out| {
            out.extend(before);
            List::begin(encoding, snapshot.channels.len(), out)
        });
        for channel in snapshot.channels {
            out.put(|out| list.next(out));
            self.write_channel(channel, encoding, out).await;
        }
        out.put(|out| {
            list.end(out);
            out.extend(behind);
        });
        out.pause().await;
    }

    async fn write_channel(&self, snapshot: ChannelStatsSnapshot, encoding: Encoding, out: &Pieces) {
        if snapshot.consumer_count() == 0 {
            out.put(|out| put(encoding, &snapshot.stats, out));
            return out.pause().await;
        }
        let [before, behind] = two(split(encoding, &snapshot.stats, &["clients"]));
        let mut list = out.put(|out| {
            out.extend(before);
            List::begin(encoding, snapshot.consumer_count(), out)
        });
        for consumer in snapshot.consumers(self.request()) {
            out.put(|out| list.item(&consumer, out));
            out.pause().await;
        }
        out.put(|out| {
            list.end(out);
            out.extend(behind);
        });
    }

    /// Writes the text form.
    pub(super) async fn write_text(&self, out: Pieces) {
        let Listed { topics, producers } = self.listed();
        let topics = topics.unwrap_or_default();
        // Negative only if the clock was set back.
        let uptime = self.started_at.elapsed().unwrap_or_default();
        let page = StatsText::new(self.start_time(), uptime);
        let put = |write: &dyn Fn(&mut String)| {
            let mut text = String::new();
            write(&mut text);
            out.put(|out| out.extend_from_slice(text.as_bytes()));
        };
        let head = stats::without_lists(self.registry.engine(), self.start_time(), self.request());
        put(&|text| page.head(text, &head, &log::local_rfc3339(self.start_time()), "rustc"));
        put(&|text| page.topics(text, topics.is_empty()));
        for topic in topics {
            let snapshot = TopicStatsSnapshot::take(self.registry.engine(), &topic, self.request());
            drop(topic);
            put(&|text| page.topic(text, &snapshot.stats));
            for channel in &snapshot.channels {
                put(&|text| page.channel(text, &channel.stats));
                for consumer in channel.consumers(self.request()) {
                    put(&|text| page.consumer(text, &consumer));
                    out.pause().await;
                }
                out.pause().await;
            }
            out.pause().await;
        }
        put(&|text| page.producers(text, producers.is_empty()));
        for producer in producers {
            put(&|text| page.producer(text, &stats::producer_stats(&producer, self.request())));
            out.pause().await;
        }
    }
}

/// The result of [`split`] for one list.
fn two(parts: Vec<Vec<u8>>) -> [Vec<u8>; 2] {
    parts.try_into().unwrap_or_default()
}
