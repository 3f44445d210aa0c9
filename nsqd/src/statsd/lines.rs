//! Pure: statistics to statsd's lines, `<prefix><key>:<integer>|<c or g>`, and lines to packets.

use std::collections::HashMap;
use std::fmt::Write as _;

use nsq_protocol::{ChannelStats, E2eLatency, MemoryStats, Stats, TopicStats};

/// Of a topic: messages, bytes. Of a channel: messages, requeues, timeouts, then the departures: dead letters, expired
/// messages, pending dead letters.
const COUNTERS: usize = 6;
/// Where the departures begin.
const DEPARTURES: usize = 3;

/// Converts statistics to packets; remembers the counters between pushes.
#[derive(Debug)]
pub struct Pusher {
    prefix: String,
    packet_size: usize,
    exclude_ephemeral: bool,
    /// Key: topic, and channel for counters of a channel. Unused places are 0.
    counters: HashMap<(String, Option<String>), [u64; COUNTERS]>,
    garbage_collections: u64,
}

impl Pusher {
    /// A packet has at most `packet_size` bytes, unless a single line is longer.
    pub fn new(prefix: String, packet_size: usize, exclude_ephemeral: bool) -> Self {
        Pusher { prefix, packet_size, exclude_ephemeral, counters: HashMap::new(), garbage_collections: 0 }
    }

    /// Returns the packets of a push. A topic or channel that was recreated since the last push counts from 0.
    pub fn packets(&mut self, stats: &Stats) -> Vec<Vec<u8>> {
        let mut packets = Packets::new(&self.prefix, self.packet_size);
        let mut counters = HashMap::new();
        // The differences, and whether there are or were departures.
        let mut since = |topic: &str, channel: Option<&str>, now: [u64; COUNTERS]| {
            let key = (topic.to_owned(), channel.map(str::to_owned));
            let before = self.counters.get(&key).copied().unwrap_or_default();
            let differences: [u64; COUNTERS] =
                std::array::from_fn(|index| difference(now[index], before[index]));
            counters.insert(key, now);
            (
                differences,
                [now, before].iter().any(|counts| counts[DEPARTURES..] != [0; COUNTERS - DEPARTURES]),
            )
        };
        let excluded = |name: &str| self.exclude_ephemeral && name.ends_with("#ephemeral");
        let topics = stats.topics.iter().flatten().filter(|topic| !excluded(&topic.topic_name));
        for topic in topics {
            let name = &topic.topic_name;
            let now = [topic.message_count, topic.message_bytes, 0, 0, 0, 0];
            put_topic(&mut packets, topic, since(name, None, now).0);
            let channels = topic.channels.iter().filter(|channel| !excluded(&channel.channel_name));
            for channel in channels {
                let now = [
                    channel.message_count,
                    channel.requeue_count,
                    channel.timeout_count,
                    channel.dead_lettered_count,
                    channel.expired_count,
                    channel.dead_letter_pending,
                ];
                let (differences, has_departures) = since(name, Some(&channel.channel_name), now);
                let key = format!("topic.{name}.channel.{}", channel.channel_name);
                put_channel(&mut packets, &key, channel, differences);
                if has_departures {
                    put_departures(&mut packets, &key, channel, differences);
                }
            }
        }
        if let Some(memory) = &stats.memory {
            put_memory(&mut packets, memory, difference(memory.gc_total_runs, self.garbage_collections));
            self.garbage_collections = memory.gc_total_runs;
        }
        self.counters = counters;
        packets.finish()
    }
}

/// A counter that has decreased was restarted from 0.
fn difference(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn put_topic(packets: &mut Packets<'_>, topic: &TopicStats, [messages, bytes, ..]: [u64; COUNTERS]) {
    let key = format!("topic.{}", topic.topic_name);
    packets.counter(&key, "message_count", messages);
    packets.counter(&key, "message_bytes", bytes);
    packets.gauge(&key, "depth", topic.depth);
    packets.gauge(&key, "backend_depth", topic.backend_depth);
    put_latency(packets, &key, &topic.e2e_processing_latency);
}

fn put_channel(
    packets: &mut Packets<'_>,
    key: &str,
    channel: &ChannelStats,
    [messages, requeues, timeouts, ..]: [u64; COUNTERS],
) {
    packets.counter(key, "message_count", messages);
    packets.gauge(key, "depth", channel.depth);
    packets.gauge(key, "backend_depth", channel.backend_depth);
    packets.gauge(key, "in_flight_count", channel.in_flight_count);
    packets.gauge(key, "deferred_count", channel.deferred_count);
    packets.counter(key, "requeue_count", requeues);
    packets.counter(key, "timeout_count", timeouts);
    packets.gauge(key, "clients", channel.client_count);
    put_latency(packets, key, &channel.e2e_processing_latency);
}

/// Not in NSQ. A channel without dead letters and expired messages has none of these keys. Once there were some, they are
/// pushed once more after the numbers are 0: otherwise a gauge would keep its last value.
fn put_departures(
    packets: &mut Packets<'_>,
    key: &str,
    channel: &ChannelStats,
    [.., dead_letters, expired, _]: [u64; COUNTERS],
) {
    let pending = i64::try_from(channel.dead_letter_pending).unwrap_or(i64::MAX);
    packets.counter(key, "dead_lettered_count", dead_letters);
    packets.gauge(key, "dead_letter_pending", pending);
    packets.counter(key, "expired_count", expired);
}

fn put_latency(packets: &mut Packets<'_>, key: &str, latency: &E2eLatency) {
    for percentile in latency.percentiles.iter().flatten() {
        let name = format!("e2e_processing_latency_{:.0}", percentile.quantile * 100.0);
        packets.gauge(key, &name, percentile.value as i64);
    }
}

fn put_memory(packets: &mut Packets<'_>, memory: &MemoryStats, garbage_collections: u64) {
    let gauges = [
        ("heap_objects", memory.heap_objects),
        ("heap_idle_bytes", memory.heap_idle_bytes),
        ("heap_in_use_bytes", memory.heap_in_use_bytes),
        ("heap_released_bytes", memory.heap_released_bytes),
        ("gc_pause_usec_100", memory.gc_pause_usec_100),
        ("gc_pause_usec_99", memory.gc_pause_usec_99),
        ("gc_pause_usec_95", memory.gc_pause_usec_95),
        ("next_gc_bytes", memory.next_gc_bytes),
    ];
    for (name, value) in gauges {
        packets.gauge("mem", name, i64::try_from(value).unwrap_or(i64::MAX));
    }
    packets.counter("mem", "gc_runs", garbage_collections);
}

/// Packs lines into packets; never splits a line.
struct Packets<'a> {
    prefix: &'a str,
    size: usize,
    done: Vec<Vec<u8>>,
    open: Vec<u8>,
    line: String,
}

impl<'a> Packets<'a> {
    fn new(prefix: &'a str, size: usize) -> Self {
        Packets { prefix, size, done: Vec::new(), open: Vec::new(), line: String::new() }
    }

    fn counter(&mut self, key: &str, name: &str, value: u64) {
        self.put(format_args!("{key}.{name}:{value}|c\n"));
    }

    fn gauge(&mut self, key: &str, name: &str, value: i64) {
        self.put(format_args!("{key}.{name}:{value}|g\n"));
    }

    fn put(&mut self, line: std::fmt::Arguments<'_>) {
        self.line.clear();
        self.line.push_str(self.prefix);
        // Writing to a String cannot fail.
        let _ = self.line.write_fmt(line);
        if !self.open.is_empty() && self.open.len() + self.line.len() > self.size {
            self.done.push(std::mem::take(&mut self.open));
        }
        self.open.extend_from_slice(self.line.as_bytes());
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsq_protocol::Percentile;

    fn channel(name: &str) -> ChannelStats {
        ChannelStats {
            channel_name: name.into(),
            depth: 1,
            backend_depth: 2,
            in_flight_count: 3,
            deferred_count: 4,
            message_count: 5,
            requeue_count: 6,
            timeout_count: 7,
            client_count: 8,
            ..ChannelStats::default()
        }
    }

    fn stats(topics: Vec<TopicStats>) -> Stats {
        Stats { topics: Some(topics), ..Stats::default() }
    }

    fn topic(name: &str, message_count: u64, channels: Vec<ChannelStats>) -> TopicStats {
        TopicStats {
            topic_name: name.into(),
            channels,
            depth: 9,
            backend_depth: 8,
            message_count,
            message_bytes: 10 * message_count,
            ..TopicStats::default()
        }
    }

    fn pusher() -> Pusher {
        Pusher::new("nsq.h_1.".into(), 100_000, false)
    }

    fn lines(pusher: &mut Pusher, stats: &Stats) -> Vec<String> {
        let packets = pusher.packets(stats).concat();
        String::from_utf8(packets).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn keys_have_nsqs_names_and_order() {
        let percentiles = [(0.999, 12.9), (0.5, 3.0)].map(|(quantile, value)| Percentile { quantile, value });
        let latency = E2eLatency { count: 3, percentiles: Some(percentiles.to_vec()) };
        let mut topic = topic("a.b#ephemeral", 2, vec![channel("c.d#ephemeral")]);
        topic.e2e_processing_latency = latency.clone();
        topic.channels[0].e2e_processing_latency = latency;
        let memory = MemoryStats { heap_in_use_bytes: 77, gc_total_runs: 3, ..MemoryStats::default() };
        let stats = Stats { memory: Some(memory), ..stats(vec![topic]) };
        let expected = "topic.a.b#ephemeral.message_count:2|c
topic.a.b#ephemeral.message_bytes:20|c
topic.a.b#ephemeral.depth:9|g
topic.a.b#ephemeral.backend_depth:8|g
topic.a.b#ephemeral.e2e_processing_latency_100:12|g
topic.a.b#ephemeral.e2e_processing_latency_50:3|g
topic.a.b#ephemeral.channel.c.d#ephemeral.message_count:5|c
topic.a.b#ephemeral.channel.c.d#ephemeral.depth:1|g
topic.a.b#ephemeral.channel.c.d#ephemeral.backend_depth:2|g
topic.a.b#ephemeral.channel.c.d#ephemeral.in_flight_count:3|g
topic.a.b#ephemeral.channel.c.d#ephemeral.deferred_count:4|g
topic.a.b#ephemeral.channel.c.d#ephemeral.requeue_count:6|c
topic.a.b#ephemeral.channel.c.d#ephemeral.timeout_count:7|c
topic.a.b#ephemeral.channel.c.d#ephemeral.clients:8|g
topic.a.b#ephemeral.channel.c.d#ephemeral.e2e_processing_latency_100:12|g
topic.a.b#ephemeral.channel.c.d#ephemeral.e2e_processing_latency_50:3|g
mem.heap_objects:0|g
mem.heap_idle_bytes:0|g
mem.heap_in_use_bytes:77|g
mem.heap_released_bytes:0|g
mem.gc_pause_usec_100:0|g
mem.gc_pause_usec_99:0|g
mem.gc_pause_usec_95:0|g
mem.next_gc_bytes:0|g
mem.gc_runs:3|c";
        let expected: Vec<String> = expected.lines().map(|line| format!("nsq.h_1.{line}")).collect();
        assert_eq!(lines(&mut pusher(), &stats), expected);
    }

    #[test]
    fn counters_are_differences() {
        let mut pusher = pusher();
        let mut pushed = |count| lines(&mut pusher, &stats(vec![topic("a", count, vec![])])).swap_remove(0);
        assert_eq!(pushed(5), "nsq.h_1.topic.a.message_count:5|c");
        assert_eq!(pushed(5), "nsq.h_1.topic.a.message_count:0|c");
        assert_eq!(pushed(12), "nsq.h_1.topic.a.message_count:7|c");
        assert_eq!(pushed(3), "nsq.h_1.topic.a.message_count:3|c", "recreated");
    }

    #[test]
    fn departures_have_keys_only_if_there_are_or_were_some() {
        let mut pusher = pusher();
        let mut pushed = |dead_lettered_count, dead_letter_pending, expired_count| {
            let channel =
                ChannelStats { dead_lettered_count, dead_letter_pending, expired_count, ..channel("c") };
            lines(&mut pusher, &stats(vec![topic("a", 1, vec![channel])])).split_off(4 + 8)
        };
        let line =
            |name: &str, value: u64, kind: char| format!("nsq.h_1.topic.a.channel.c.{name}:{value}|{kind}");
        let all = |dead_lettered, pending, expired| {
            [
                line("dead_lettered_count", dead_lettered, 'c'),
                line("dead_letter_pending", pending, 'g'),
                line("expired_count", expired, 'c'),
            ]
        };
        assert!(pushed(0, 0, 0).is_empty());
        assert_eq!(pushed(0, 2, 0), all(0, 2, 0));
        assert_eq!(pushed(0, 0, 0), all(0, 0, 0), "the gauge goes back");
        assert!(pushed(0, 0, 0).is_empty());
        assert_eq!(pushed(3, 0, 5), all(3, 0, 5));
        assert_eq!(pushed(4, 0, 5), all(1, 0, 0));
        assert_eq!(pushed(4, 0, 5), all(0, 0, 0));
    }

    #[test]
    fn recreated_topic_counts_from_zero() {
        let mut pusher = pusher();
        pusher.packets(&stats(vec![topic("a", 5, vec![])]));
        assert!(pusher.packets(&stats(vec![])).is_empty());
        let pushed = lines(&mut pusher, &stats(vec![topic("a", 6, vec![])]));
        assert_eq!(pushed[0], "nsq.h_1.topic.a.message_count:6|c");
    }

    #[test]
    fn ephemeral_topics_and_channels_can_be_excluded() {
        let mut pusher = Pusher::new(String::new(), 100_000, true);
        let channels = vec![channel("c"), channel("c#ephemeral")];
        let topics = vec![topic("a", 1, channels), topic("b#ephemeral", 1, vec![channel("d")])];
        let pushed = lines(&mut pusher, &stats(topics));
        assert_eq!(pushed.len(), 4 + 8);
        assert!(pushed.iter().all(|line| line.starts_with("topic.a.") && !line.contains('#')));
    }

    #[test]
    fn packets_never_split_a_line() {
        for size in [0, 40, 100, 508, 5_000] {
            let stats = stats((0..30).map(|n| topic(&"t".repeat(n + 1), 1, vec![channel("c")])).collect());
            let whole = pusher().packets(&stats).concat();
            let packets = Pusher::new("nsq.h_1.".into(), size, false).packets(&stats);
            assert_eq!(packets.concat(), whole);
            for packet in &packets {
                let lines = packet.iter().filter(|&&byte| byte == b'\n').count();
                assert!(packet.ends_with(b"\n") && (packet.len() <= size || lines == 1));
            }
            for pair in packets.windows(2) {
                let next_line = pair[1].iter().position(|&byte| byte == b'\n').unwrap() + 1;
                assert!(pair[0].len() + next_line > size, "one more line would have fitted");
            }
        }
    }
}
