//! The content of `/stats`: topics, channels, consumers and producers at this moment.
//!
//! A topic's numbers are read under its lock, those of a channel and its consumers under the channel's lock. Each entry
//! is consistent in itself. No lock covers all of them at once, so traffic continues meanwhile.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nsq_protocol::{
    ChannelStats, ClientStats, DedupeStats, E2eLatency, MemoryStats, MessageId, OrderStats, Percentile,
    PubCount, RetentionStats, Stats, StorageStats, TopicStats,
};

use crate::channel::latency::{LatencyHistogram, TAKES_ALL, no_latencies};
use crate::channel::order::OrderReport;
use crate::channel::{Channel, ChannelState, ConsumerKey};
use crate::client_info::ClientInfo;
use crate::clock;
use crate::engine::Engine;
use crate::locality::Locality;
use crate::producers::Producers;
use crate::storage::file_kind::FileKind;
use crate::topic::registry::Registry;
use crate::topic::{Topic, TopicCounters, TopicDepth};

/// Which statistics to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatsRequest<'a> {
    /// Only this topic.
    pub topic: Option<&'a str>,
    /// Only this channel, and only topics that have it.
    pub channel: Option<&'a str>,
    /// Whether to list consumers and producers.
    pub include_clients: bool,
    /// Whether to report memory.
    pub include_memory: bool,
    /// Whether to report the disk. NSQ does not.
    pub include_storage: bool,
    /// Whether to omit everything about other topics: producers that publish only to others, and the node's statistics.
    pub only_asked: bool,
}

impl Default for StatsRequest<'_> {
    /// Everything that NSQ reports.
    fn default() -> Self {
        Self {
            topic: None,
            channel: None,
            include_clients: true,
            include_memory: true,
            include_storage: false,
            only_asked: false,
        }
    }
}

/// Collects all statistics at once. `start_time` is in Unix seconds.
pub fn collect(
    registry: &Registry,
    producers: &Producers,
    start_time: i64,
    request: StatsRequest<'_>,
) -> Stats {
    let topics = wanted_topics(registry, request);
    let producers = wanted_producers(producers, topics.is_some(), request);
    let producer = |info: &Arc<ClientInfo>| producer_stats(info, request);
    Stats {
        topics: topics.map(|topics| {
            topics
                .iter()
                .map(|topic| TopicStatsSnapshot::take(registry.engine(), topic, request).whole(request))
                .collect()
        }),
        producers: (!producers.is_empty()).then(|| producers.iter().map(producer).collect()),
        ..without_lists(registry.engine(), start_time, request)
    }
}

/// The statistics without topics and producers. `start_time` is in Unix seconds.
pub fn without_lists(engine: &Engine, start_time: i64, request: StatsRequest<'_>) -> Stats {
    Stats {
        version: nsq_daemon::NSQ_VERSION.to_owned(),
        health: health(engine),
        start_time,
        memory: (request.include_memory && !request.only_asked).then(memory_stats),
        unsynced_bytes: (request.include_storage && !request.only_asked).then(|| unsynced_bytes(engine)),
        storage: (request.include_storage && !request.only_asked).then(|| storage(engine)).flatten(),
        drain: engine.status.with_drain(|drain| drain.status()).filter(|_| !request.only_asked),
        archive: engine.archive_stats().filter(|_| !request.only_asked),
        ..Stats::default()
    }
}

/// The volume of the data directory; `None` if the kernel does not say.
fn storage(engine: &Engine) -> Option<StorageStats> {
    let volume = rustix::fs::statvfs(engine.store.data_dir.path()).ok()?;
    let journal_bytes = engine.store.journal.as_ref().map_or(0, |journal| journal.size().1);
    Some(StorageStats {
        free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
        size_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
        journal_bytes,
    })
}

/// The topics to report, by name; `None` if the requested topic does not exist.
pub fn wanted_topics(registry: &Registry, request: StatsRequest<'_>) -> Option<Vec<Arc<Topic>>> {
    let mut topics = match request.topic {
        Some(name) => vec![registry.get(name)?],
        None => registry.all(),
    };
    if let Some(name) = request.channel {
        topics.retain(|topic| topic.channel(name).is_some());
    }
    Some(topics)
}

/// The producers to report. NSQ reports all of them, whatever they publish to, but none if the requested topic does not
/// exist.
pub fn wanted_producers(
    producers: &Producers,
    is_topic_there: bool,
    request: StatsRequest<'_>,
) -> Vec<Arc<ClientInfo>> {
    if !request.include_clients || !is_topic_there {
        return Vec::new();
    }
    let mut producers = producers.all();
    if request.only_asked {
        producers.retain(|info| request.topic.is_some_and(|topic| info.has_published_to(topic)));
    }
    producers
}

pub fn producer_stats(info: &ClientInfo, request: StatsRequest<'_>) -> ClientStats {
    client_stats(info, &ConsumerStatsSnapshot::default(), request.topic)
}

/// The start time in Unix seconds.
pub fn start_time(started_at: SystemTime) -> i64 {
    let since_epoch = started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    signed(since_epoch.as_secs())
}

/// `OK`, or `NOK - ` and the reason: a failure, or that clients should stay away.
pub fn health(engine: &Engine) -> String {
    match engine.health() {
        Ok(()) if engine.status.is_leaving() => "NOK - stopping".to_owned(),
        Ok(()) if engine.status.is_draining() => "NOK - draining".to_owned(),
        Ok(()) => "OK".to_owned(),
        Err(cause) => format!("NOK - {cause}"),
    }
}

/// Statistics of the node without topics. `start_time` is in Unix seconds.
pub fn of_node(engine: &Engine, start_time: i64) -> Stats {
    Stats {
        version: nsq_daemon::NSQ_VERSION.to_owned(),
        health: health(engine),
        start_time,
        memory: Some(memory_stats()),
        ..Stats::default()
    }
}

/// Returns `None` if the topic does not have the requested channel.
pub(crate) fn topic_stats(engine: &Engine, topic: &Topic, request: StatsRequest<'_>) -> Option<TopicStats> {
    let snapshot = TopicStatsSnapshot::take(engine, topic, request);
    (request.channel.is_none() || !snapshot.channels.is_empty()).then(|| snapshot.whole(request))
}

/// A topic's statistics as numbers, before the texts of its consumers are built. Building these takes most of the time
/// and nearly all of the memory.
pub struct TopicStatsSnapshot {
    /// Contains no channels.
    pub stats: TopicStats,
    /// The requested channels, by name.
    pub channels: Vec<ChannelStatsSnapshot>,
}

/// A channel's statistics as numbers.
pub struct ChannelStatsSnapshot {
    /// Contains no consumers.
    pub stats: ChannelStats,
    consumers: Vec<(Arc<ClientInfo>, ConsumerStatsSnapshot)>,
}

/// A channel's numbers for one consumer.
#[derive(Debug, Clone, Copy, Default)]
struct ConsumerStatsSnapshot {
    ready_count: i64,
    in_flight_count: i64,
    message_count: u64,
    finish_count: u64,
    requeue_count: u64,
}

impl TopicStatsSnapshot {
    /// Reads the numbers.
    pub fn take(engine: &Engine, topic: &Topic, request: StatsRequest<'_>) -> Self {
        let (channels, others): (Vec<_>, Vec<_>) = (topic.channels().into_iter())
            .partition(|channel| request.channel.is_none_or(|name| channel.name().as_str() == name));
        let memory_start = topic.log().memory_start();
        let mut latencies = Latencies::new(engine);
        let channels: Vec<ChannelStatsSnapshot> = (channels.iter())
            .map(|channel| {
                // An ephemeral channel is in memory only.
                let memory_start = if channel.is_ephemeral() { 0 } else { memory_start };
                let mut snapshot = ChannelStatsSnapshot::take(channel, memory_start, request, &mut latencies);
                snapshot.stats.is_full = topic.is_full(channel.name().as_str());
                snapshot
            })
            .collect();
        // As in NSQ: percentiles of a topic cover all its channels, whichever channel is requested.
        let others = if request.only_asked { Vec::new() } else { others };
        for channel in &others {
            channel.inspect(|state, _| latencies.measure(state));
            latencies.newest();
        }
        let e2e_processing_latency =
            if channels.is_empty() { E2eLatency::default() } else { latencies.all() };
        let TopicDepth { depth, backend_depth, paused } = topic.depth();
        let TopicCounters { message_count, message_bytes } = topic.counters();
        let stats = TopicStats {
            topic_name: topic.name().to_string(),
            channels: Vec::new(),
            depth: signed(depth),
            backend_depth: signed(backend_depth.min(depth)),
            message_count,
            message_bytes,
            paused,
            e2e_processing_latency,
            overflow_count: topic.overflow_count(),
            retention: retention_stats(topic),
            dedupe: topic.id_counts().map(|counts| DedupeStats {
                id_count: counts.id_count,
                duplicate_count: counts.duplicate_count,
                dropped_id_count: counts.dropped_id_count,
            }),
        };
        Self { stats, channels }
    }

    fn whole(self, request: StatsRequest<'_>) -> TopicStats {
        let channels = self.channels.into_iter().map(|channel| channel.whole(request)).collect();
        TopicStats { channels, ..self.stats }
    }
}

impl ChannelStatsSnapshot {
    fn take(
        channel: &Channel,
        memory_start: u64,
        request: StatsRequest<'_>,
        latencies: &mut Latencies<'_>,
    ) -> Self {
        // Only numbers are read under the channel's lock. Texts are built after the lock is released.
        let (stats, consumers) = channel.inspect(|state, infos| {
            let consumers: Vec<_> = match request.include_clients {
                true => {
                    infos.iter().map(|(key, info)| (info.clone(), consumer_snapshot(state, key))).collect()
                }
                false => Vec::new(),
            };
            latencies.measure(state);
            let holder = |sequence| {
                let owner = state.owner_of(sequence)?;
                infos.iter().find(|(key, _)| *key == owner).map(|(_, info)| info.remote_address.clone())
            };
            let order = state.order_report().map(|report| {
                let holder = report.blocked.as_ref().and_then(|blocked| holder(blocked.holder?));
                (report, holder)
            });
            let has_active = state.depth() > 0 || state.in_flight_count() > 0;
            let oldest = (request.include_storage && has_active).then(|| state.lowest_needed());
            ((channel_numbers(state, memory_start), order, oldest), consumers)
        });
        let (stats, order, oldest) = stats;
        let published_at = oldest.and_then(|oldest| channel.log().published_at_latest(oldest));
        let order = order.map(|(report, holder)| order_stats(channel, report, holder.unwrap_or_default()));
        let stats = ChannelStats {
            channel_name: channel.name().to_string(),
            clients: request.include_clients.then(Vec::new),
            e2e_processing_latency: latencies.newest(),
            oldest_age_ms: published_at
                .map(|at| clock::wall_ns().saturating_sub(at).max(0).unsigned_abs() / 1_000_000),
            order,
            ..stats
        };
        Self { stats, consumers }
    }

    /// Number of listed consumers.
    pub fn consumer_count(&self) -> usize {
        self.consumers.len()
    }

    /// Builds the consumers' entries one by one.
    pub fn consumers<'a>(
        &'a self,
        request: StatsRequest<'a>,
    ) -> impl Iterator<Item = ClientStats> + Send + use<'a> {
        self.consumers.iter().map(move |(info, snapshot)| client_stats(info, snapshot, request.topic))
    }

    fn whole(self, request: StatsRequest<'_>) -> ChannelStats {
        let clients = request.include_clients.then(|| self.consumers(request).collect());
        ChannelStats { clients, ..self.stats }
    }
}

fn retention_stats(topic: &Topic) -> Option<RetentionStats> {
    let (retained, limits) = (topic.log().retained()?, topic.log().retention());
    Some(RetentionStats {
        retain_for: signed(limits.age),
        retain_bytes: limits.bytes,
        retained_count: retained.message_count,
        retained_bytes: retained.bytes,
        oldest_retained_at: retained.oldest_ns.unwrap_or(0),
        oldest_retained_sequence: retained.oldest_sequence,
    })
}

/// `client` is the remote address of the consumer that blocks a key.
fn order_stats(channel: &Channel, report: OrderReport, client: String) -> OrderStats {
    let holder = report.blocked.as_ref().and_then(|blocked| blocked.holder);
    OrderStats {
        held_count: report.held_count,
        blocked_key_count: report.blocked_key_count,
        reading_stopped: report.is_stopped,
        blocked_key_held_count: report.blocked.as_ref().map_or(0, |blocked| blocked.queue_length),
        blocked_by: holder
            .map(|sequence| MessageId::from_u64(channel.log().id_of(sequence)).to_string())
            .unwrap_or_default(),
        blocked_by_client: client,
        blocked_key: report.blocked.map(|blocked| blocked.key),
    }
}

fn channel_numbers(state: &ChannelState, memory_start: u64) -> ChannelStats {
    let counters = state.counters();
    let delivered = |locality| state.consumers().message_count(locality);
    let throttle = state.throttle_report(clock::monotonic());
    ChannelStats {
        depth: signed(state.depth()),
        backend_depth: signed(on_disk(state, memory_start)),
        in_flight_count: signed(state.in_flight_count() as u64),
        deferred_count: signed(state.deferred_count() as u64),
        message_count: counters.message_count,
        zone_local_msg_count: delivered(Locality::Zone),
        region_local_msg_count: delivered(Locality::Region),
        global_msg_count: delivered(Locality::Global),
        requeue_count: counters.requeue_count,
        timeout_count: counters.timeout_count,
        client_count: signed(state.consumers().len() as u64),
        paused: state.is_paused(),
        dead_lettered_count: counters.dead_letter_count,
        dead_letter_pending: state.exhausted_count() as u64,
        expired_count: counters.expired_count,
        overflow_count: counters.overflow_count,
        filtered_count: counters.filtered_count,
        cancelled_count: counters.cancelled_count,
        throttled: throttle.is_some_and(|throttle| throttle.throttled_until.is_some()),
        throttled_ms: throttle.map_or(0, |throttle| throttle.throttled_for / 1_000_000),
        in_flight_limit_reached: throttle.is_some_and(|throttle| throttle.is_in_flight_limit_reached),
        ..ChannelStats::default()
    }
}

/// Measures the end-to-end latencies of a topic's channels, one by one and in total.
struct Latencies<'a> {
    quantiles: Option<&'a [f64]>,
    newest: LatencyHistogram,
    all: LatencyHistogram,
}

impl<'a> Latencies<'a> {
    fn new(engine: &'a Engine) -> Self {
        let quantiles = engine.latency().map(|options| &*options.quantiles);
        Latencies { quantiles, newest: no_latencies(), all: no_latencies() }
    }

    fn measure(&mut self, state: &ChannelState) {
        if self.quantiles.is_some() {
            self.newest.reset();
            state.add_latencies_to(&mut self.newest, clock::monotonic());
        }
    }

    /// Percentiles of the channel that was measured last.
    fn newest(&mut self) -> E2eLatency {
        if !self.newest.is_empty() {
            self.all.add(&self.newest).expect(TAKES_ALL);
        }
        percentiles(self.quantiles, &self.newest)
    }

    fn all(&self) -> E2eLatency {
        percentiles(self.quantiles, &self.all)
    }
}

fn percentiles(quantiles: Option<&[f64]>, latencies: &LatencyHistogram) -> E2eLatency {
    let percentile = |&quantile: &f64| {
        // The histogram rounds up. An empty histogram has no values.
        let value = latencies.value_at_quantile(quantile).min(latencies.max()) as f64;
        Percentile { quantile, value }
    };
    E2eLatency {
        count: signed(latencies.len()),
        percentiles: quantiles.map(|quantiles| quantiles.iter().map(percentile).collect()),
    }
}

/// The part of the depth that is only on disk: ahead of the cursor and before the start of memory. Redeliveries are not
/// counted separately.
fn on_disk(state: &ChannelState, memory_start: u64) -> u64 {
    memory_start.min(state.end()).saturating_sub(state.cursor()).min(state.depth())
}

fn consumer_snapshot(state: &ChannelState, key: ConsumerKey) -> ConsumerStatsSnapshot {
    let Some(consumer) = state.consumers().get(key) else { return ConsumerStatsSnapshot::default() };
    ConsumerStatsSnapshot {
        ready_count: signed(consumer.ready_count),
        in_flight_count: signed(consumer.in_flight_count),
        message_count: consumer.message_count,
        finish_count: consumer.finish_count,
        requeue_count: consumer.requeue_count,
    }
}

/// A connection, whether or not it consumes. With `topic`, counts of publishes to other topics are omitted.
fn client_stats(info: &ClientInfo, snapshot: &ConsumerStatsSnapshot, topic: Option<&str>) -> ClientStats {
    let identity = info.identity();
    let upgrades = info.upgrades();
    let is_tls = upgrades.tls.is_some();
    let tls = upgrades.tls.unwrap_or_default();
    let auth = info.auth();
    let mut pub_counts: Vec<PubCount> = (info.published().into_iter())
        .filter(|(name, _)| topic.is_none_or(|topic| topic == name))
        .map(|(topic, count)| PubCount { topic, count })
        .collect();
    pub_counts.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    let delivered = |locality| if identity.locality == Some(locality) { snapshot.message_count } else { 0 };
    ClientStats {
        client_id: identity.client_id,
        hostname: identity.hostname,
        version: "V2".to_owned(),
        remote_address: info.remote_address.clone(),
        state: i64::from(info.state()),
        connect_ts: info.connected_at,
        sample_rate: i64::from(identity.sample_rate),
        deflate: upgrades.deflate,
        snappy: upgrades.snappy,
        user_agent: identity.user_agent,
        authed: auth.is_some(),
        auth_identity: auth.as_ref().map(|auth| auth.identity.clone()).unwrap_or_default(),
        auth_identity_url: auth.map(|auth| auth.identity_url).unwrap_or_default(),
        topology_zone: identity.topology_zone,
        topology_region: identity.topology_region,
        zone_local_msg_count: delivered(Locality::Zone),
        region_local_msg_count: delivered(Locality::Region),
        global_msg_count: delivered(Locality::Global),
        pub_counts,
        tls: is_tls,
        tls_cipher_suite: tls.cipher_suite,
        tls_version: tls.version.to_owned(),
        tls_negotiated_protocol: tls.negotiated_protocol,
        tls_negotiated_protocol_is_mutual: is_tls,
        ready_count: snapshot.ready_count,
        in_flight_count: snapshot.in_flight_count,
        message_count: snapshot.message_count,
        finish_count: snapshot.finish_count,
        requeue_count: snapshot.requeue_count,
    }
}

fn unsynced_bytes(engine: &Engine) -> u64 {
    let unsynced = &engine.store.unsynced;
    unsynced.bytes(FileKind::Journal) + unsynced.bytes(FileKind::Segment)
}

/// There is no garbage collector: anonymous memory of the process counts as heap in use, the other fields are 0.
fn memory_stats() -> MemoryStats {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    MemoryStats { heap_in_use_bytes: anonymous_bytes(&status), ..MemoryStats::default() }
}

/// Resident memory that is not backed by a file, from the text of `/proc/<pid>/status`.
fn anonymous_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_info::AuthIdentity;

    #[test]
    fn anonymous_memory_is_read_from_proc_status() {
        let status = "Name:\tnsqd\nVmRSS:\t    9000 kB\nRssAnon:\t    1234 kB\nRssFile:\t 5 kB\n";
        assert_eq!(anonymous_bytes(status), 1234 * 1024);
        assert_eq!(anonymous_bytes("RssAnon: much"), 0);
        assert!(memory_stats().heap_in_use_bytes > 0);
    }

    #[test]
    fn client_stats_include_publish_counts() {
        let info = ClientInfo::new("127.0.0.1:5000".into(), 1000);
        info.count_published("b", 2);
        info.count_published("a", 1);
        info.set_state(3);
        info.authenticate(AuthIdentity { identity: "me".into(), identity_url: String::new() });
        let auth = client_stats(&info, &ConsumerStatsSnapshot::default(), None);
        assert_eq!(
            (auth.authed, auth.auth_identity.as_str(), auth.auth_identity_url.as_str()),
            (true, "me", "")
        );
        let stats = client_stats(&info, &ConsumerStatsSnapshot::default(), None);
        assert_eq!((stats.client_id.as_str(), stats.state, stats.connect_ts), ("127.0.0.1", 3, 1000));
        let counts = |stats: &ClientStats| {
            stats.pub_counts.iter().map(|pubs| (pubs.topic.clone(), pubs.count)).collect::<Vec<_>>()
        };
        assert_eq!(counts(&stats), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(
            counts(&client_stats(&info, &ConsumerStatsSnapshot::default(), Some("b"))),
            [("b".to_owned(), 2)]
        );
        assert_eq!(counts(&client_stats(&info, &ConsumerStatsSnapshot::default(), Some("c"))), []);
    }

    #[test]
    fn request_limited_to_one_topic_lists_only_its_producers() {
        let producers = Arc::new(Producers::default());
        let mut places = Vec::new();
        for topics in [&["a"][..], &["b"], &["a", "b"]] {
            let info = Arc::new(ClientInfo::new("127.0.0.1:5000".into(), 1000));
            topics.iter().for_each(|topic| info.count_published(topic, 1));
            places.push(producers.add(&info));
        }
        let reported = |topic, only_asked, is_topic_there| {
            let request = StatsRequest { topic, only_asked, ..StatsRequest::default() };
            let wanted = wanted_producers(&producers, is_topic_there, request);
            let counts = |info: &Arc<ClientInfo>| {
                let stats = producer_stats(info, request);
                stats.pub_counts.into_iter().map(|pubs| pubs.topic).collect::<Vec<_>>().join(",")
            };
            wanted.iter().map(counts).collect::<Vec<_>>()
        };
        assert_eq!(reported(None, false, true), ["a", "b", "a,b"]);
        assert_eq!(reported(Some("a"), false, true), ["a", "", "a"], "as in NSQ");
        assert_eq!(reported(Some("a"), true, true), ["a", "a"]);
        assert_eq!(reported(Some("c"), true, true), [""; 0]);
        assert_eq!(reported(None, true, true), [""; 0]);
        assert_eq!(reported(Some("a"), false, false), [""; 0]);
        drop(places.remove(0));
        assert_eq!(reported(None, false, true), ["b", "a,b"]);
    }
}
