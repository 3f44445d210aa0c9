//! What `/stats` tells: topics, channels, consumers and producers, as they are at the moment.
//!
//! A topic's numbers are taken under its lock, a channel's and its consumers' under the channel's: each line is
//! consistent in itself, and nobody is stopped to take them all at once.

use std::time::{SystemTime, UNIX_EPOCH};

use nsq_protocol::{
    ChannelStats, ClientStats, E2eLatency, MemoryStats, Percentile, PubCount, RetentionStats, Stats,
    TopicStats,
};

use crate::channel::latency::{LatencyHistogram, TAKES_ALL, no_latencies};
use crate::channel::{Channel, ChannelState, ConsumerKey};
use crate::client_info::ClientInfo;
use crate::clock;
use crate::engine::Engine;
use crate::locality::Locality;
use crate::producers::Producers;
use crate::storage::measured::FileKind;
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// Which statistics are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatsRequest<'a> {
    /// Only this topic.
    pub topic: Option<&'a str>,
    /// Only this channel, and only topics that have it.
    pub channel: Option<&'a str>,
    /// List consumers and producers.
    pub include_clients: bool,
    /// Tell about memory.
    pub include_memory: bool,
    /// Tell about the disk, which NSQ does not.
    pub include_storage: bool,
}

impl Default for StatsRequest<'_> {
    /// Everything that NSQ tells.
    fn default() -> Self {
        Self {
            topic: None,
            channel: None,
            include_clients: true,
            include_memory: true,
            include_storage: false,
        }
    }
}

/// Takes the statistics. `start_time` is in unix seconds.
pub fn collect(
    registry: &Registry,
    producers: &Producers,
    start_time: i64,
    request: StatsRequest<'_>,
) -> Stats {
    let topics = match request.topic {
        Some(name) => registry.get(name).map(|topic| vec![topic]),
        None => Some(registry.all()),
    };
    // As in NSQ: who asks for a topic that is not there is told of nobody.
    let include_producers = request.include_clients && topics.is_some();
    Stats {
        version: nsq_daemon::NSQ_VERSION.to_owned(),
        health: health(registry.engine()),
        start_time,
        topics: topics.map(|topics| {
            topics.iter().filter_map(|topic| topic_stats(registry.engine(), topic, request)).collect()
        }),
        memory: request.include_memory.then(memory_stats),
        unsynced_bytes: request.include_storage.then(|| unsynced_bytes(registry.engine())).flatten(),
        producers: include_producers.then(|| producer_stats(producers, request.topic)).flatten(),
    }
}

/// When the daemon started, in unix seconds.
pub fn start_time(started_at: SystemTime) -> i64 {
    let since_epoch = started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    signed(since_epoch.as_secs())
}

/// `OK`, or `NOK - ` and why.
pub fn health(engine: &Engine) -> String {
    match engine.health() {
        Ok(()) if engine.is_leaving() => "NOK - stopping".to_owned(),
        Ok(()) => "OK".to_owned(),
        Err(cause) => format!("NOK - {cause}"),
    }
}

/// The node as a whole. `start_time` is in unix seconds.
pub fn of_node(engine: &Engine, start_time: i64) -> Stats {
    Stats {
        version: nsq_daemon::NSQ_VERSION.to_owned(),
        health: health(engine),
        start_time,
        memory: Some(memory_stats()),
        ..Stats::default()
    }
}

/// None if the topic lacks the channel that was asked for.
pub(crate) fn topic_stats(engine: &Engine, topic: &Topic, request: StatsRequest<'_>) -> Option<TopicStats> {
    let (channels, others): (Vec<_>, Vec<_>) = (topic.channels().into_iter())
        .partition(|channel| request.channel.is_none_or(|name| channel.name().as_str() == name));
    if request.channel.is_some() && channels.is_empty() {
        return None;
    }
    let memory_start = topic.log().memory_start();
    let mut latencies = Latencies::new(engine);
    let channels: Vec<ChannelStats> = (channels.iter())
        .map(|channel| channel_stats(channel, memory_start, request, &mut latencies))
        .collect();
    // As in NSQ: a topic has no percentiles of its own, and those of all its channels whichever are asked for.
    for channel in &others {
        channel.inspect(|state, _| latencies.measure(state));
        latencies.newest();
    }
    let e2e_processing_latency = if channels.is_empty() { E2eLatency::default() } else { latencies.all() };
    let (depth, backend_depth, paused) = topic.depth();
    let (message_count, message_bytes) = topic.counters();
    Some(TopicStats {
        topic_name: topic.name().to_string(),
        channels,
        depth: signed(depth),
        backend_depth: signed(backend_depth.min(depth)),
        message_count,
        message_bytes,
        paused,
        e2e_processing_latency,
        retention: retention_stats(topic),
    })
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

fn channel_stats(
    channel: &Channel,
    memory_start: u64,
    request: StatsRequest<'_>,
    latencies: &mut Latencies<'_>,
) -> ChannelStats {
    // Under the channel's lock only numbers are taken; texts are put together when consumers can go on.
    let (stats, consumers) = channel.inspect(|state, infos| {
        let consumers: Vec<_> = match request.include_clients {
            true => infos.iter().map(|(key, info)| (info.clone(), consumer_stats(state, *key))).collect(),
            false => Vec::new(),
        };
        latencies.measure(state);
        (channel_numbers(state, memory_start), consumers)
    });
    let clients = consumers.into_iter().map(|(info, numbers)| client_stats(&info, numbers, request.topic));
    ChannelStats {
        channel_name: channel.name().to_string(),
        clients: request.include_clients.then(|| clients.collect()),
        e2e_processing_latency: latencies.newest(),
        ..stats
    }
}

fn channel_numbers(state: &ChannelState, memory_start: u64) -> ChannelStats {
    let counters = state.counters();
    let delivered = |locality| state.consumers().message_count(locality);
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
        ..ChannelStats::default()
    }
}

/// The end-to-end latencies of a topic's channels, one after the other, and of all together.
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

    /// Those of the channel that was measured last.
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
        // The histogram rounds up, and an empty one knows nothing.
        let value = latencies.value_at_quantile(quantile).min(latencies.max()) as f64;
        Percentile { quantile, value }
    };
    E2eLatency {
        count: signed(latencies.len()),
        percentiles: quantiles.map(|quantiles| quantiles.iter().map(percentile).collect()),
    }
}

/// How much of the depth is only on disk: what lies ahead of the cursor and before what is in memory. Redeliveries
/// are not told apart.
fn on_disk(state: &ChannelState, memory_start: u64) -> u64 {
    memory_start.min(state.end()).saturating_sub(state.cursor()).min(state.depth())
}

/// What the channel knows of a consumer; the rest is for [`client_stats`].
fn consumer_stats(state: &ChannelState, key: ConsumerKey) -> ClientStats {
    let Some(consumer) = state.consumers().get(key) else { return ClientStats::default() };
    ClientStats {
        ready_count: signed(consumer.ready_count),
        in_flight_count: signed(consumer.in_flight_count),
        message_count: consumer.message_count,
        finish_count: consumer.finish_count,
        requeue_count: consumer.requeue_count,
        ..ClientStats::default()
    }
}

/// Adds what is known of a connection whether or not it consumes. With `topic`, what it published elsewhere is left
/// out.
fn client_stats(info: &ClientInfo, numbers: ClientStats, topic: Option<&str>) -> ClientStats {
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
    let delivered = |locality| if identity.locality == Some(locality) { numbers.message_count } else { 0 };
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
        ..numbers
    }
}

/// None, not an empty list, if nobody has published.
fn producer_stats(producers: &Producers, topic: Option<&str>) -> Option<Vec<ClientStats>> {
    let producers = producers.all();
    (!producers.is_empty())
        .then(|| producers.iter().map(|info| client_stats(info, ClientStats::default(), topic)).collect())
}

/// None if nobody watches the storage.
fn unsynced_bytes(engine: &Engine) -> Option<u64> {
    let disk = engine.storage.metrics()?;
    Some(disk.unsynced_bytes(FileKind::Journal) + disk.unsynced_bytes(FileKind::Segment))
}

/// There is no garbage collector: what the process holds for itself counts as heap in use, the rest is 0.
fn memory_stats() -> MemoryStats {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    MemoryStats { heap_in_use_bytes: anonymous_bytes(&status), ..MemoryStats::default() }
}

/// The resident memory that is not a file's, from the text of `/proc/<pid>/status`.
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
    fn anonymous_memory_is_found() {
        let status = "Name:\tnsqd\nVmRSS:\t    9000 kB\nRssAnon:\t    1234 kB\nRssFile:\t 5 kB\n";
        assert_eq!(anonymous_bytes(status), 1234 * 1024);
        assert_eq!(anonymous_bytes("RssAnon: much"), 0);
        assert!(memory_stats().heap_in_use_bytes > 0);
    }

    #[test]
    fn a_client_is_told_with_what_it_published() {
        let info = ClientInfo::new("127.0.0.1:5000".into(), 1000);
        info.count_published("b", 2);
        info.count_published("a", 1);
        info.set_state(3);
        info.authenticate(AuthIdentity { identity: "me".into(), identity_url: String::new() });
        let auth = client_stats(&info, ClientStats::default(), None);
        assert_eq!(
            (auth.authed, auth.auth_identity.as_str(), auth.auth_identity_url.as_str()),
            (true, "me", "")
        );
        let stats = client_stats(&info, ClientStats::default(), None);
        assert_eq!((stats.client_id.as_str(), stats.state, stats.connect_ts), ("127.0.0.1", 3, 1000));
        let counts = |stats: &ClientStats| {
            stats.pub_counts.iter().map(|pubs| (pubs.topic.clone(), pubs.count)).collect::<Vec<_>>()
        };
        assert_eq!(counts(&stats), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(counts(&client_stats(&info, ClientStats::default(), Some("b"))), [("b".to_owned(), 2)]);
        assert_eq!(counts(&client_stats(&info, ClientStats::default(), Some("c"))), []);
    }

    #[test]
    fn no_producers_are_no_list() {
        let producers = Producers::default();
        assert_eq!(producer_stats(&producers, None), None);
        let info = std::sync::Arc::new(ClientInfo::new("127.0.0.1:5000".into(), 1000));
        info.count_published("a", 1);
        producers.add(&info);
        assert_eq!(producer_stats(&producers, Some("other")).unwrap().len(), 1);
    }
}
