//! Pure: the conditions of the rules. Each function finds what one rule looks for in a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::history::History;
use super::rises::Counter;
use super::rule::RuleId;
use super::thresholds::Thresholds;
use super::{Place, Severity};
use crate::snapshot::{
    ChannelExtra, ChannelPart, ChannelView, NodeView, Reach, Snapshot, TopicView, is_ephemeral,
};

/// What a rule found: a problem once it has lasted.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) rule: RuleId,
    pub(super) place: Place,
    pub(super) what: String,
    pub(super) figure: f64,
    pub(super) next: String,
    severity: Severity,
    /// How long it must last.
    lasts: Duration,
    /// After which time it is worse, and how bad then.
    worse: Option<(Duration, Severity)>,
}

/// What identifies a condition from one snapshot to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ConditionKey(RuleId, Place);

impl Condition {
    fn new(rule: RuleId, place: Place, what: String, figure: f64, next: String) -> Self {
        let (severity, lasts, worse) = (rule.rule().severity, Duration::ZERO, None);
        Condition { rule, place, what, figure, next, severity, lasts, worse }
    }

    fn lasting(self, lasts: Duration) -> Self {
        Condition { lasts, ..self }
    }

    fn worse_after(self, time: Duration, severity: Severity) -> Self {
        Condition { worse: Some((time, severity)), ..self }
    }

    fn at(self, severity: Severity) -> Self {
        Condition { severity, ..self }
    }

    pub(super) fn key(&self) -> ConditionKey {
        let mut place = self.place.clone();
        // The nodes of a topic or channel may change while the condition lasts.
        if place.topic.is_some() {
            place.nodes.clear();
        }
        ConditionKey(self.rule, place)
    }

    /// How bad it is after it has lasted this long; `None` if it is no problem yet.
    pub(super) fn severity_after(&self, lasts: Duration) -> Option<Severity> {
        match self.worse {
            _ if lasts < self.lasts => None,
            Some((after, severity)) if lasts >= after => Some(severity),
            _ => Some(self.severity),
        }
    }
}

/// All conditions that hold.
pub(super) fn conditions(snapshot: &Snapshot, history: &History, thresholds: &Thresholds) -> Vec<Condition> {
    let mut rules = Rules { snapshot, history, thresholds, found: Vec::new() };
    for node in &snapshot.nodes {
        rules.node(node);
    }
    rules.lookupds();
    rules.disagreements();
    rules.tombstones();
    rules.versions();
    for topic in &snapshot.topics {
        rules.topic(topic);
        for channel in &topic.channels {
            rules.channel(topic, channel);
        }
    }
    rules.found
}

struct Rules<'a> {
    snapshot: &'a Snapshot,
    history: &'a History,
    thresholds: &'a Thresholds,
    found: Vec<Condition>,
}

impl Rules<'_> {
    fn add(&mut self, condition: Condition) {
        self.found.push(condition);
    }

    fn node(&mut self, node: &NodeView) {
        let thresholds = self.thresholds;
        let new = |rule, what: String, figure: f64, next: String| {
            let place = Place { nodes: vec![node.address.clone()], ..Place::default() };
            Condition::new(rule, place, what, figure, next)
        };
        let address = &node.address;
        if node.reach == Reach::Down {
            let age = node.age.map_or(0.0, |age| age.as_secs_f64());
            let reason = node.error.as_ref().map_or("no answer", |error| &error.message);
            let last = match node.age {
                Some(age) => format!("its figures are {} old", time(age)),
                None => "it has never answered".to_owned(),
            };
            let what = format!("nsqd does not answer ({reason}); {last}");
            self.add(new(RuleId::NodeDown, what, age, format!("nsq ping --nsqd {address}")));
            return;
        }
        if !node.health.is_empty() && node.health != "OK" {
            let what = format!("nsqd reports {}", node.health);
            self.add(new(RuleId::NodeUnhealthy, what, 1.0, format!("nsq ping --nsqd {address}")));
        }
        if let Some(storage) = &node.storage {
            let free = 100.0 * storage.free_bytes as f64 / (storage.size_bytes.max(1)) as f64;
            let full_in = storage
                .shrinks_by
                .filter(|rate| *rate > 0.0)
                .map(|rate| storage.free_bytes as f64 / f64::from(rate));
            let next = format!("nsq top --nsqd {address}");
            match full_in {
                Some(seconds) if seconds < thresholds.disk_full_within.as_secs_f64() => {
                    let left = time(Duration::from_secs_f64(seconds));
                    let what = format!(
                        "the disk is full in {left} at this rate ({} free)",
                        bytes(storage.free_bytes)
                    );
                    self.add(new(RuleId::DiskFullSoon, what, seconds, next));
                }
                _ if free < thresholds.disk_free_percent => {
                    let what = format!("{free:.1} % of the disk is free ({})", bytes(storage.free_bytes));
                    self.add(new(RuleId::DiskFullSoon, what, free, next));
                }
                _ => {}
            }
        }
        if let Some(offset) = node.clock_ahead
            && offset.0.abs() > thresholds.clock_skew.as_secs_f64()
        {
            let direction = if offset.0 > 0.0 { "ahead" } else { "behind" };
            let what = format!("its clock is {:.0} s {direction}", offset.0.abs());
            self.add(new(RuleId::ClockSkew, what, offset.0, format!("nsq ping --nsqd {address}")));
        }
        if let Some(drain) = &node.drain {
            let state = if drain.drained { "drained" } else { "draining" };
            let what = format!("the node is {state}: {} to go", messages(drain.remaining_count));
            let next = format!("nsq node drain {address} --wait");
            self.add(new(RuleId::Draining, what, drain.remaining_count as f64, next));
        }
        if let Some(started) = node.started_at
            && let Ok(age) = self.snapshot.taken_at.duration_since(started)
            && age < thresholds.restarted_within
        {
            let what = format!("nsqd started {} ago", time(age));
            self.add(new(
                RuleId::Restarted,
                what,
                age.as_secs_f64(),
                format!("nsq node list --nsqd {address}"),
            ));
        }
    }

    fn lookupds(&mut self) {
        let all = &self.snapshot.lookupds;
        let are_all_down = all.iter().all(|lookupd| lookupd.reach == Reach::Down);
        for lookupd in all.iter().filter(|lookupd| lookupd.reach == Reach::Down) {
            let reason = lookupd.error.as_ref().map_or("no answer", |error| &error.message);
            let what = match are_all_down {
                true => format!("no nsqlookupd answers ({reason})"),
                false => format!("nsqlookupd does not answer ({reason})"),
            };
            let place = Place { lookupd: Some(lookupd.address.clone()), ..Place::default() };
            let severity = if are_all_down { Severity::Critical } else { Severity::Warning };
            let next = format!("nsq ping --lookupd {}", lookupd.address);
            let age = lookupd.age.map_or(0.0, |age| age.as_secs_f64());
            self.found.push(Condition::new(RuleId::LookupdDown, place, what, age, next).at(severity));
        }
    }

    fn disagreements(&mut self) {
        let up: Vec<_> = self.snapshot.lookupds.iter().filter(|lookupd| lookupd.reach == Reach::Up).collect();
        // The topics that any of them lists, by node.
        let mut listed: BTreeMap<usize, BTreeSet<&Arc<str>>> = BTreeMap::new();
        if up.len() < 2 {
            return;
        }
        for listing in up.iter().flat_map(|lookupd| &lookupd.nodes) {
            listed.entry(listing.node).or_default().extend(&listing.topics);
        }
        for lookupd in up {
            for (node, topics) in &listed {
                let address = &self.snapshot.nodes[*node].address;
                let here = lookupd.nodes.iter().find(|listing| listing.node == *node);
                let (what, figure) = match here {
                    None => ("the node is not registered here, but at another nsqlookupd".to_owned(), 1.0),
                    Some(here) => {
                        let missing = topics.iter().filter(|topic| here.topics.binary_search(topic).is_err());
                        let missing: Vec<_> = missing.collect();
                        let Some(first) = missing.first() else { continue };
                        let topics = if missing.len() == 1 { "topic" } else { "topics" };
                        let what =
                            format!("{} {topics} of the node missing here, such as {first}", missing.len());
                        (what, missing.len() as f64)
                    }
                };
                let place = Place {
                    nodes: vec![address.clone()],
                    lookupd: Some(lookupd.address.clone()),
                    ..Place::default()
                };
                let next = format!("nsq node list --lookupd {}", lookupd.address);
                let condition = Condition::new(RuleId::LookupdDisagree, place, what, figure, next);
                self.found.push(condition.lasting(self.thresholds.lookupd_disagree_for));
            }
        }
    }

    fn tombstones(&mut self) {
        let mut tombstones: BTreeMap<&Arc<str>, BTreeSet<&str>> = BTreeMap::new();
        for listing in self.snapshot.lookupds.iter().flat_map(|lookupd| &lookupd.nodes) {
            let address = self.snapshot.nodes[listing.node].address.as_str();
            for topic in &listing.tombstones {
                tombstones.entry(topic).or_default().insert(address);
            }
        }
        for (topic, nodes) in tombstones {
            let nodes: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
            let (count, next) = (nodes.len(), format!("nsq stat {topic}"));
            let what = format!("tombstoned on {}", node_list(&nodes));
            let place = Place { topic: Some(topic.clone()), nodes, ..Place::default() };
            self.add(Condition::new(RuleId::Tombstoned, place, what, count as f64, next));
        }
    }

    fn versions(&mut self) {
        let versions: BTreeSet<&str> =
            self.snapshot.nodes.iter().map(|node| node.version.as_str()).filter(|v| !v.is_empty()).collect();
        if versions.len() > 1 {
            let list: Vec<&str> = versions.into_iter().collect();
            let what = format!("nodes run versions {}", list.join(", "));
            let next = "nsq node list".to_owned();
            self.add(Condition::new(RuleId::VersionSkew, Place::default(), what, list.len() as f64, next));
        }
    }

    fn topic(&mut self, topic: &TopicView) {
        let thresholds = self.thresholds;
        let name = &topic.name;
        let place = || Place { topic: Some(name.clone()), ..Place::default() };
        if topic.sum.paused {
            let what = format!("the topic is paused; {} wait", messages(count(topic.sum.depth)));
            let next = format!("nsq topic unpause {name}");
            let condition = Condition::new(RuleId::Paused, place(), what, topic.sum.depth as f64, next);
            self.add(condition.worse_after(thresholds.paused_warn, Severity::Warning));
        } else if topic.sum.depth > 0
            && topic.channels.is_empty()
            && !topic.is_ephemeral()
            && !holds_dead_letters(name)
        {
            let what = format!("{}, and no channel", messages(count(topic.sum.depth)));
            let next = format!("nsq peek {name}");
            let condition = Condition::new(RuleId::NoChannel, place(), what, topic.sum.depth as f64, next);
            self.add(condition.lasting(thresholds.no_channel_for));
        }
        if let Some(rise) = self.history.rises().of(name, "", Counter::Overflow) {
            let what = format!("{} dropped because the topic held too many", messages(rise));
            let next = format!("nsq policy explain {name}");
            self.add(Condition::new(RuleId::Dropping, place(), what, rise as f64, next));
        }
    }

    fn channel(&mut self, topic: &TopicView, channel: &ChannelView) {
        let thresholds = self.thresholds;
        let sum = &channel.sum;
        let (t, c) = (&topic.name, &channel.name);
        let why = || format!("nsq why {t}/{c}");
        let on = |rule, nodes: Vec<String>, what: String, figure: f64, next: String| {
            let place = Place { topic: Some(t.clone()), channel: Some(c.clone()), nodes, ..Place::default() };
            Condition::new(rule, place, what, figure, next)
        };
        let new = |rule, what, figure, next| on(rule, Vec::new(), what, figure, next);
        if sum.paused {
            let what = format!("the channel is paused; {} wait", messages(count(sum.depth)));
            let next = format!("nsq channel unpause {t}/{c}");
            let condition = new(RuleId::Paused, what, sum.depth as f64, next);
            self.add(condition.worse_after(thresholds.paused_warn, Severity::Warning));
        }
        // Only nodes that answer, and what happens there now.
        let is_answering = |part: &&ChannelPart| self.snapshot.nodes[part.node].reach != Reach::Down;
        let lacking: Vec<&ChannelPart> = channel
            .parts
            .iter()
            .filter(is_answering)
            .filter(|part| part.figures.depth > 0 && part.figures.client_count == 0 && !part.figures.paused)
            .collect();
        let is_ephemeral = channel.is_ephemeral() || topic.is_ephemeral();
        if !lacking.is_empty() && !is_ephemeral {
            let nodes: Vec<String> =
                lacking.iter().map(|part| self.snapshot.nodes[part.node].address.clone()).collect();
            let depth: i64 = lacking.iter().map(|part| part.figures.depth).sum();
            let has_consumers =
                channel.parts.iter().filter(is_answering).any(|part| part.figures.client_count > 0);
            let condition = if has_consumers {
                let what =
                    format!("{} on {}, without a consumer there", messages(count(depth)), node_list(&nodes));
                let next = format!("nsq why {t}/{c} --nsqd {}", nodes[0]);
                on(RuleId::ConsumerGap, nodes, what, depth as f64, next).lasting(thresholds.consumer_gap_for)
            } else {
                let what = format!("{} and no consumer, on {}", messages(count(depth)), node_list(&nodes));
                on(RuleId::NoConsumers, nodes, what, depth as f64, why()).lasting(thresholds.no_consumers_for)
            };
            self.add(condition);
        }
        let extra: &ChannelExtra = sum.extra.as_deref().unwrap_or(&NO_EXTRA);
        let is_limited = extra.throttled || extra.in_flight_limit_reached;
        if let Some(rates) = &sum.rates {
            let delivery = rates.delivery();
            if sum.in_flight_count > 0 && rates.egress == 0.0 && rates.requeue == 0.0 {
                let what = format!("{} in flight, none finished", messages(count(sum.in_flight_count)));
                let condition = new(RuleId::Stuck, what, sum.in_flight_count as f64, why());
                self.add(condition.lasting(thresholds.stuck_for));
            }
            let more = f64::from(rates.ingress)
                > f64::from(rates.egress) * (1.0 + thresholds.falling_behind_percent / 100.0);
            if !sum.paused && sum.client_count > 0 && rates.depth > 0.0 && more {
                let what = format!(
                    "depth {} grows: {} in, {} out per second",
                    figure(sum.depth as f64),
                    figure(rates.ingress.into()),
                    figure(rates.egress.into())
                );
                let condition =
                    new(RuleId::FallingBehind, what, sum.depth as f64, format!("nsq stat {t}/{c} --watch"));
                let condition = condition.lasting(thresholds.falling_behind_for);
                self.add(condition.worse_after(thresholds.falling_behind_crit, Severity::Critical));
            }
            let is_idle = sum.in_flight_count == 0 && delivery == 0.0;
            if !sum.paused
                && !topic.sum.paused
                && sum.client_count > 0
                && sum.depth > 0
                && is_idle
                && !is_limited
                && !extra.reading_stopped
            {
                let consumers = if sum.client_count == 1 { "consumer takes" } else { "consumers take" };
                let what =
                    format!("{} wait; {} {consumers} none", messages(count(sum.depth)), sum.client_count);
                let condition = new(RuleId::BackingOff, what, sum.depth as f64, why());
                self.add(condition.lasting(thresholds.backing_off_for));
            }
            let storms = [
                (
                    RuleId::RequeueStorm,
                    rates.requeue,
                    thresholds.requeue_percent,
                    thresholds.requeue_for,
                    "requeued",
                ),
                (
                    RuleId::Timeouts,
                    rates.timeout,
                    thresholds.timeout_percent,
                    thresholds.timeout_for,
                    "time out",
                ),
            ];
            for (rule, rate, limit, lasts, verb) in storms {
                let percent = 100.0 * f64::from(rate) / f64::from(delivery);
                if f64::from(delivery) >= thresholds.least_rate && rate > 0.0 && percent > limit {
                    let what = format!(
                        "{percent:.0} % of {} deliveries per second {}",
                        figure(delivery.into()),
                        if verb == "requeued" { "are requeued" } else { verb }
                    );
                    self.add(new(rule, what, percent, why()).lasting(lasts));
                }
            }
            if rates.backend_depth > 0.0 && sum.backend_depth > 0 {
                let what = format!(
                    "{} on disk, {} more per second",
                    messages(count(sum.backend_depth)),
                    figure(rates.backend_depth.into())
                );
                let condition = new(
                    RuleId::Spilling,
                    what,
                    sum.backend_depth as f64,
                    format!("nsq stat {t}/{c} --watch"),
                );
                self.add(condition.lasting(thresholds.spilling_for));
            }
        }
        if let Some(age) = sum.oldest_age
            && age > thresholds.old_message
            && !sum.paused
            && !topic.sum.paused
            && !holds_dead_letters(t)
        {
            let what = format!("the oldest message is {} old", time(age));
            self.add(new(RuleId::OldMessage, what, age.as_secs_f64(), format!("nsq peek {t}/{c}")));
        }
        if extra.is_full {
            let what = format!(
                "publishes are refused; the channel holds {}",
                messages(count(sum.unfinished_count()))
            );
            self.add(new(RuleId::ChannelFull, what, sum.unfinished_count() as f64, why()));
        }
        if is_limited && sum.depth > 0 {
            let limit = if extra.throttled { "rate" } else { "limit of messages in flight" };
            let what = format!("{} wait for the channel's {limit}", messages(count(sum.depth)));
            let next = format!("nsq policy explain {t}/{c}");
            let condition = new(RuleId::Throttled, what, sum.depth as f64, next);
            self.add(condition.lasting(thresholds.throttled_for));
        }
        if extra.reading_stopped {
            let what = format!("{} wait for others of their key", messages(extra.held_count));
            self.add(new(RuleId::OrderBlocked, what, extra.held_count as f64, why()));
        }
        if extra.dead_letter_pending > 0 {
            let what =
                format!("{} cannot be moved to the dead-letter topic", messages(extra.dead_letter_pending));
            let condition = new(RuleId::DeadLettersStuck, what, extra.dead_letter_pending as f64, why());
            self.add(condition.lasting(thresholds.dead_letters_stuck_for));
        }
        let rises = [
            (RuleId::DeadLetters, Counter::DeadLettered, "became dead letters", "nsq dead list".to_owned()),
            (RuleId::Expired, Counter::Expired, "expired", format!("nsq policy explain {t}/{c}")),
            (
                RuleId::Dropping,
                Counter::Overflow,
                "dropped because the channel held too many",
                format!("nsq policy explain {t}/{c}"),
            ),
        ];
        for (rule, counter, verb, next) in rises {
            if let Some(rise) = self.history.rises().of(t, c, counter) {
                self.add(new(rule, format!("{} {verb}", messages(rise)), rise as f64, next));
            }
        }
    }
}

static NO_EXTRA: ChannelExtra = ChannelExtra {
    zone_local_msg_count: 0,
    region_local_msg_count: 0,
    global_msg_count: 0,
    dead_lettered_count: 0,
    dead_letter_pending: 0,
    expired_count: 0,
    overflow_count: 0,
    filtered_count: 0,
    cancelled_count: 0,
    is_full: false,
    throttled: false,
    in_flight_limit_reached: false,
    held_count: 0,
    blocked_key_count: 0,
    reading_stopped: false,
};

/// Whether a topic is one of dead letters, by nsqd's default name for it. Its messages wait on purpose.
fn holds_dead_letters(topic: &str) -> bool {
    topic.ends_with(".dead") && !is_ephemeral(topic)
}

fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{} messages", grouped(count)) }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn figure(number: f64) -> String {
    if number.abs() < 10.0 && number.fract() != 0.0 {
        format!("{number:.1}")
    } else {
        grouped(number.max(0.0) as u64)
    }
}

fn bytes(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            return format!("{scaled:.0} {unit}");
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

/// A duration with its two largest units.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn node_list(nodes: &[String]) -> String {
    match nodes {
        [one] => one.clone(),
        [first, second] => format!("{first} and {second}"),
        [first, rest @ ..] => format!("{first} and {} more nodes", rest.len()),
        [] => String::new(),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
