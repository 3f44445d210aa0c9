//! `/stats` as text, for people.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::start_at::rfc3339;
use crate::stats::{ChannelStats, ClientStats, DedupeStats, E2eLatency, MemoryStats, Stats, TopicStats};

/// Renders `/stats` as text. `start_time_rfc3339` is the start in local time; `toolchain` is what nsqd was built with.
/// The age of connections follows from the start and the uptime.
pub fn render_text(stats: &Stats, uptime: Duration, start_time_rfc3339: &str, toolchain: &str) -> String {
    let mut text = String::new();
    let page = StatsText::new(stats.start_time, uptime);
    let (topics, producers) =
        (stats.topics.as_deref().unwrap_or_default(), stats.producers.as_deref().unwrap_or_default());
    page.head(&mut text, stats, start_time_rfc3339, toolchain);
    page.topics(&mut text, topics.is_empty());
    for topic in topics {
        page.topic(&mut text, topic);
        for channel in &topic.channels {
            page.channel(&mut text, channel);
            channel.clients.iter().flatten().for_each(|client| page.consumer(&mut text, client));
        }
    }
    page.producers(&mut text, producers.is_empty());
    producers.iter().for_each(|producer| page.producer(&mut text, producer));
    text
}

/// Writes `/stats` as text, part by part. Call the methods in the order in which they are listed.
#[derive(Clone, Copy, Debug)]
pub struct StatsText {
    uptime: Duration,
    /// In seconds since 1970.
    now: i64,
}

// Writing to a String cannot fail.
impl StatsText {
    /// For a node that started at `start_time`, in seconds since 1970.
    pub fn new(start_time: i64, uptime: Duration) -> Self {
        Self { uptime, now: start_time.saturating_add_unsigned(uptime.as_secs()) }
    }

    /// Appends the part about the node, without topics and producers.
    pub fn head(&self, out: &mut String, stats: &Stats, start_time_rfc3339: &str, toolchain: &str) {
        let _ = put_head(out, stats, self.uptime, start_time_rfc3339, toolchain);
    }

    /// Appends the heading of the topics.
    pub fn topics(&self, out: &mut String, is_empty: bool) {
        out.push_str(if is_empty { "\nTopics: None\n" } else { "\nTopics:" });
    }

    /// Appends a topic without its channels.
    pub fn topic(&self, out: &mut String, topic: &TopicStats) {
        let _ = put_topic(out, topic);
    }

    /// Appends a channel without its consumers.
    pub fn channel(&self, out: &mut String, channel: &ChannelStats) {
        let _ = put_channel(out, channel);
    }

    /// Appends a consumer of a channel.
    pub fn consumer(&self, out: &mut String, client: &ClientStats) {
        let _ = put_client(out, "        ", client, self.now);
    }

    /// Appends the heading of the producers.
    pub fn producers(&self, out: &mut String, is_empty: bool) {
        out.push_str(if is_empty { "\nProducers: None\n" } else { "\nProducers:\n" });
    }

    /// Appends a producer.
    pub fn producer(&self, out: &mut String, client: &ClientStats) {
        let _ = put_client(out, "   ", client, self.now);
    }
}

fn put_head(
    out: &mut String,
    stats: &Stats,
    uptime: Duration,
    start_time: &str,
    toolchain: &str,
) -> fmt::Result {
    writeln!(out, "nsqd v{} (built w/{toolchain})", stats.version)?;
    writeln!(out, "start_time {start_time}")?;
    writeln!(out, "uptime {}", Elapsed(uptime))?;
    writeln!(out, "\nHealth: {}", stats.health)?;
    stats.memory.as_ref().map_or(Ok(()), |memory| put_memory(out, memory))
}

fn put_memory(out: &mut String, memory: &MemoryStats) -> fmt::Result {
    let rows = [
        ("heap_objects", memory.heap_objects),
        ("heap_idle_bytes", memory.heap_idle_bytes),
        ("heap_in_use_bytes", memory.heap_in_use_bytes),
        ("heap_released_bytes", memory.heap_released_bytes),
        ("gc_pause_usec_100", memory.gc_pause_usec_100),
        ("gc_pause_usec_99", memory.gc_pause_usec_99),
        ("gc_pause_usec_95", memory.gc_pause_usec_95),
        ("next_gc_bytes", memory.next_gc_bytes),
        ("gc_total_runs", memory.gc_total_runs),
    ];
    writeln!(out, "\nMemory:")?;
    rows.iter().try_for_each(|(name, value)| writeln!(out, "   {name:<25}\t{value}"))
}

fn put_topic(out: &mut String, topic: &TopicStats) -> fmt::Result {
    let mark = if topic.paused { "*P " } else { "   " };
    writeln!(
        out,
        "\n{mark}[{:<15}] depth: {:<5} be-depth: {:<5} msgs: {:<8} e2e%: {}",
        topic.topic_name,
        topic.depth,
        topic.backend_depth,
        topic.message_count,
        Latencies(&topic.e2e_processing_latency),
    )?;
    if let Some(retained) = &topic.retention {
        let since = match retained.oldest_retained_at {
            0 => String::new(),
            at => format!(" since {}", rfc3339(at)),
        };
        writeln!(
            out,
            "      retained: {} msgs, {} bytes{since}",
            retained.retained_count, retained.retained_bytes
        )?;
    }
    if let Some(DedupeStats { id_count, duplicate_count, dropped_id_count }) = topic.dedupe {
        writeln!(
            out,
            "      dedupe: {id_count} ids, {duplicate_count} duplicates, {dropped_id_count} ids dropped"
        )?;
    }
    Ok(())
}

fn put_channel(out: &mut String, channel: &ChannelStats) -> fmt::Result {
    let mark = if channel.paused { "   *P " } else { "      " };
    writeln!(
        out,
        "{mark}[{:<25}] depth: {:<5} be-depth: {:<5} inflt: {:<4} def: {:<4} re-q: {:<5} timeout: {:<5} \
         msgs: {:<8} e2e%: {}",
        channel.channel_name,
        channel.depth,
        channel.backend_depth,
        channel.in_flight_count,
        channel.deferred_count,
        channel.requeue_count,
        channel.timeout_count,
        channel.message_count,
        Latencies(&channel.e2e_processing_latency),
    )?;
    if channel.dead_lettered_count > 0 || channel.dead_letter_pending > 0 {
        writeln!(
            out,
            "         dead letters: {} msgs, {} pending",
            channel.dead_lettered_count, channel.dead_letter_pending
        )?;
    }
    if channel.expired_count > 0 {
        writeln!(out, "         expired: {} msgs", channel.expired_count)?;
    }
    if channel.overflow_count > 0 {
        writeln!(out, "         overflow: {} msgs dropped", channel.overflow_count)?;
    }
    if channel.filtered_count > 0 {
        writeln!(out, "         filtered: {} msgs", channel.filtered_count)?;
    }
    if channel.cancelled_count > 0 {
        writeln!(out, "         cancelled: {} msgs", channel.cancelled_count)?;
    }
    if channel.is_full {
        writeln!(out, "         full: publishes are refused")?;
    }
    if channel.throttled || channel.throttled_ms > 0 {
        let now = if channel.throttled { " now" } else { "" };
        writeln!(out, "         throttled{now}: {} ms in total", channel.throttled_ms)?;
    }
    if channel.in_flight_limit_reached {
        writeln!(out, "         max_in_flight is reached")?;
    }
    if let Some(order) = channel.order.as_ref().filter(|order| order.held_count > 0) {
        let stopped = if order.reading_stopped { ", reading stopped" } else { "" };
        writeln!(
            out,
            "         held by order: {} msgs of {} keys{stopped}",
            order.held_count, order.blocked_key_count
        )?;
    }
    Ok(())
}

fn put_client(out: &mut String, indent: &str, client: &ClientStats, now: i64) -> fmt::Result {
    let port = client.remote_address.rsplit_once(':').map_or("", |(_, port)| port);
    let who = format!("{}:{port} {}", client.hostname, client.user_agent);
    write!(out, "{indent}[{} {who:<21}] ", client.version)?;
    if client.pub_counts.is_empty() {
        write!(
            out,
            "state: {} inflt: {:<4} rdy: {:<4} fin: {:<8} re-q: {:<8} msgs: {:<8}",
            client.state,
            client.in_flight_count,
            client.ready_count,
            client.finish_count,
            client.requeue_count,
            client.message_count,
        )?;
    } else {
        let total: u64 = client.pub_counts.iter().fold(0, |sum, pubs| sum.saturating_add(pubs.count));
        write!(out, "msgs: {total:<8} topics: ")?;
        for (i, pubs) in client.pub_counts.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(out, "{comma}{}={}", pubs.topic, pubs.count)?;
        }
    }
    let connected = now.saturating_sub(client.connect_ts);
    let connected = Duration::from_secs(u64::try_from(connected).unwrap_or(0));
    writeln!(out, " connected: {}", Elapsed(connected))
}

/// Latencies, separated by commas, each in a unit that keeps it short.
struct Latencies<'a>(&'a E2eLatency);

impl fmt::Display for Latencies<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, percentile) in self.0.percentiles.iter().flatten().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let (value, unit) = match percentile.value {
                ns if ns > 1e9 => (ns / 1e9, "s"),
                ns if ns > 1e6 => (ns / 1e6, "ms"),
                ns if ns > 1e3 => (ns / 1e3, "us"),
                ns => (ns, "ns"),
            };
            write!(f, "{comma}{value:.1}{unit}")?;
        }
        Ok(())
    }
}

/// A duration as `1h2m3.5s`: with minutes from 1 minute on, with hours from 1 hour on.
struct Elapsed(Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (self.0.subsec_nanos(), seconds) {
            (0, 0) => return f.write_str("0s"),
            (nanos, 0) => return put_small(f, nanos),
            _ => {}
        }
        if seconds >= 3600 {
            write!(f, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(f, "{}m", seconds / 60 % 60)?;
        }
        put_decimal(f, seconds % 60, self.0.subsec_nanos(), 9, "s")
    }
}

/// Writes less than a second in the largest unit that gives at least 1.
fn put_small(f: &mut fmt::Formatter<'_>, nanos: u32) -> fmt::Result {
    match nanos {
        0..=999 => put_decimal(f, nanos.into(), 0, 0, "ns"),
        1_000..=999_999 => put_decimal(f, (nanos / 1_000).into(), nanos % 1_000, 3, "µs"),
        _ => put_decimal(f, (nanos / 1_000_000).into(), nanos % 1_000_000, 6, "ms"),
    }
}

fn put_decimal(
    f: &mut fmt::Formatter<'_>,
    whole: u64,
    fraction: u32,
    digits: usize,
    unit: &str,
) -> fmt::Result {
    write!(f, "{whole}")?;
    if fraction > 0 {
        let decimals = format!("{fraction:0digits$}");
        write!(f, ".{}", decimals.trim_end_matches('0'))?;
    }
    f.write_str(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Percentile, PubCount};

    const START: &str = "2026-11-20T13:00:00+01:00";

    fn stats(topics: Vec<TopicStats>, producers: Option<Vec<ClientStats>>) -> Stats {
        Stats {
            version: "1.3.0".into(),
            health: "OK".into(),
            start_time: 1000,
            topics: Some(topics),
            producers,
            memory: None,
            unsynced_bytes: None,
            storage: None,
            drain: None,
            archive: None,
        }
    }

    fn client(user_agent: &str) -> ClientStats {
        ClientStats {
            hostname: "vm".into(),
            version: "V2".into(),
            remote_address: "[::1]:5000".into(),
            user_agent: user_agent.into(),
            connect_ts: 1000,
            ..ClientStats::default()
        }
    }

    #[test]
    fn empty_stats_are_rendered() {
        let text = render_text(&stats(vec![], None), Duration::from_millis(3_723_500), START, "rustc");
        let expected = "nsqd v1.3.0 (built w/rustc)\nstart_time 2026-11-20T13:00:00+01:00\nuptime 1h2m3.5s\n\n\
                        Health: OK\n\nTopics: None\n\nProducers: None\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn full_stats_are_rendered() {
        let percentiles =
            [3_500_000.0, 999.0, 1500.0, 2e9].map(|value| Percentile { quantile: 0.5, value }).to_vec();
        let channel = ChannelStats {
            channel_name: "c".into(),
            paused: true,
            clients: Some(vec![client("")]),
            e2e_processing_latency: E2eLatency { count: 1, percentiles: Some(percentiles) },
            dead_lettered_count: 2,
            expired_count: 3,
            ..ChannelStats::default()
        };
        let first = TopicStats { topic_name: "a".into(), channels: vec![channel], ..TopicStats::default() };
        let second = TopicStats { topic_name: "b".into(), paused: true, depth: 12, ..TopicStats::default() };
        let pub_counts = ["x", "y"].map(|topic| PubCount { topic: topic.into(), count: 3 }).to_vec();
        let producer = ClientStats { pub_counts, ..client("a-long-user-agent/1") };
        let mut stats = stats(vec![first, second], Some(vec![producer]));
        stats.memory = Some(MemoryStats { heap_objects: 7, ..MemoryStats::default() });

        let text = render_text(&stats, Duration::from_millis(60_900), START, "rustc");
        let blank = "";
        let expected = [
            "Health: OK",
            "",
            "Memory:",
            "   heap_objects             \t7",
            "   heap_idle_bytes          \t0",
            "   heap_in_use_bytes        \t0",
            "   heap_released_bytes      \t0",
            "   gc_pause_usec_100        \t0",
            "   gc_pause_usec_99         \t0",
            "   gc_pause_usec_95         \t0",
            "   next_gc_bytes            \t0",
            "   gc_total_runs            \t0",
            "",
            "Topics:",
            &format!("   [a              ] depth: 0     be-depth: 0     msgs: 0        e2e%: {blank}"),
            "   *P [c                        ] depth: 0     be-depth: 0     inflt: 0    def: 0    re-q: 0     \
             timeout: 0     msgs: 0        e2e%: 3.5ms, 999.0ns, 1.5us, 2.0s",
            "         dead letters: 2 msgs, 0 pending",
            "         expired: 3 msgs",
            "        [V2 vm:5000              ] state: 0 inflt: 0    rdy: 0    fin: 0        re-q: 0        \
             msgs: 0        connected: 1m0s",
            "",
            &format!("*P [b              ] depth: 12    be-depth: 0     msgs: 0        e2e%: {blank}"),
            "",
            "Producers:",
            "   [V2 vm:5000 a-long-user-agent/1] msgs: 6        topics: x=3,y=3 connected: 1m0s",
        ];
        let lines: Vec<_> = text.lines().skip(4).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn durations_are_rendered_like_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_001, "2.000001ms"),
            (1_000_000_000, "1s"),
            (61_000_000_001, "1m1.000000001s"),
            (3_600_000_000_000, "1h0m0s"),
            (360_000_000_000_000, "100h0m0s"),
        ] {
            assert_eq!(Elapsed(Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
