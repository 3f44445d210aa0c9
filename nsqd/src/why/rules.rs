//! Pure: the table of rules that turns facts into causes, worst first.
//!
//! A rule looks at the facts and returns a cause, or nothing. Causes that hold the channel up now come before those that
//! are only worth knowing; both are in the order of the table. What is known about one message comes first, unless it
//! only waits: then what holds the channel up is the cause.

use nsq_protocol::start_at::rfc3339;

use super::facts::{Blocked, ChannelFacts, ConsumerFacts, Facts, MessageFacts, MessagePlace, PauseFacts};
use crate::channel::fates::Fate;
use crate::channel::order::MOST_READ_PAST;
use crate::policy::dead_letter::Reason;

/// Why something does not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Stable: scripts may depend on it.
    pub code: &'static str,
    /// Whether it holds the channel or message up now.
    pub holds_up: bool,
    /// One sentence.
    pub text: String,
    /// The command that helps.
    pub command: Option<String>,
}

impl Cause {
    fn new(code: &'static str, text: String) -> Self {
        Cause { code, holds_up: true, text, command: None }
    }

    fn command(self, command: impl Into<String>) -> Self {
        Cause { command: Some(command.into()), ..self }
    }

    /// Only worth knowing, unless this holds.
    fn holds_up_if(self, holds_up: bool) -> Self {
        Cause { holds_up, ..self }
    }
}

type Rule = fn(&Facts, &ChannelFacts) -> Option<Cause>;

/// In the order of severity.
const RULES: [Rule; 29] = [
    not_running,
    stopping,
    unhealthy,
    topic_paused,
    channel_paused,
    disk_unreadable,
    dead_letters_blocked,
    no_consumer,
    consumers_closing,
    all_ready_zero,
    consumers_not_reading,
    consumers_away,
    at_ready_count,
    lease_limit,
    http_idle,
    rate_limited,
    in_flight_limit,
    key_blocked,
    reading_stopped,
    waits_for_disk,
    channel_full,
    moving_out,
    draining,
    only_in_flight,
    only_set_aside,
    only_deferred,
    topic_holds_back,
    empty,
    moving,
];

/// Why the channel, or the message that was asked about, does not move. Never empty.
pub fn causes(facts: &Facts) -> Vec<Cause> {
    let Some(channel) = &facts.channel else { return vec![no_channel(facts)] };
    let mut causes: Vec<Cause> = RULES.iter().filter_map(|rule| rule(facts, channel)).collect();
    causes.sort_by_key(|cause| !cause.holds_up);
    let Some(message) = &facts.message else { return causes };
    let of_message = about_message(facts, channel, message);
    match message.place {
        MessagePlace::Waiting { .. } => {
            // These are about other messages.
            causes.retain(|cause| {
                let other = ["moving", "empty", "only_deferred", "only_in_flight", "draining"];
                !other.contains(&cause.code) && (cause.holds_up || cause.code != "key_blocked")
            });
            let at = causes.iter().take_while(|cause| cause.holds_up).count();
            causes.insert(at, of_message);
        }
        MessagePlace::Ordered(_) => {
            let other = ["moving", "draining", "key_blocked", "reading_stopped"];
            causes.retain(|cause| cause.holds_up && !other.contains(&cause.code));
            causes.push(of_message);
        }
        MessagePlace::Held | MessagePlace::NotCommitted => {
            causes.retain(|cause| {
                ["not_running", "stopping", "unhealthy", "topic_paused"].contains(&cause.code)
            });
            let at = causes.iter().take_while(|cause| cause.holds_up).count();
            causes.insert(at, of_message);
        }
        _ => {
            // Nothing else matters to it, except what stops the whole node.
            causes.retain(|cause| ["not_running", "stopping", "unhealthy"].contains(&cause.code));
            causes.iter_mut().for_each(|cause| cause.holds_up = false);
            causes.insert(0, of_message);
        }
    }
    causes
}

// Texts

/// How long ago a moment was, in the largest unit that fits.
fn ago(facts: &Facts, since: i64) -> String {
    duration(facts.now.saturating_sub(since))
}

fn duration(nanos: i64) -> String {
    let seconds = nanos.max(0) / 1_000_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// When a moment comes or came.
fn at(facts: &Facts, moment: i64) -> String {
    match moment - facts.now {
        left if left > 0 => format!("{} (in {})", rfc3339(moment), duration(left)),
        _ => format!("{} (now)", rfc3339(moment)),
    }
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

fn wait(count: u64) -> String {
    format!("{} {}", messages(count), if count == 1 { "waits" } else { "wait" })
}

fn channel_of(facts: &Facts) -> String {
    format!("{}/{}", facts.topic_name, facts.channel_name)
}

fn paused(facts: &Facts, what: &str, pause: &PauseFacts) -> String {
    let since = match pause.since {
        Some(since) => format!("since {} ({} ago)", rfc3339(since), ago(facts, since)),
        None => "since before nsqd started".to_owned(),
    };
    let by = if pause.by.is_empty() { String::new() } else { format!(", by a request from {}", pause.by) };
    format!("{what} is paused {since}{by}")
}

// Rules about the channel

fn no_channel(facts: &Facts) -> Cause {
    let topic = &facts.topic_name;
    let held = match facts.topic.held {
        0 => String::new(),
        held => format!("; the topic holds {} back for its first channel", messages(held)),
    };
    let others = match facts.topic.channel_names.as_slice() {
        [] => format!("topic {topic} has no channel yet{held}"),
        names => format!(
            "topic {topic} has no channel {} on this node; its channels are {}",
            facts.channel_name,
            names.join(", ")
        ),
    };
    Cause::new("no_channel", others).command(format!("nsq channel create {}", channel_of(facts)))
}

fn not_running(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let directory = facts.node.stopped_at.as_ref()?;
    let text = format!("no nsqd runs on {directory}; {}", wait(channel.depth));
    Some(Cause::new("not_running", text).command(format!("nsqd --data-path={directory}")))
}

fn stopping(facts: &Facts, _: &ChannelFacts) -> Option<Cause> {
    facts.node.is_leaving.then(|| Cause::new("stopping", "this nsqd is stopping".to_owned()))
}

fn unhealthy(facts: &Facts, _: &ChannelFacts) -> Option<Cause> {
    let failure = facts.node.failure.as_ref()?;
    Some(Cause::new("unhealthy", format!("this nsqd is unhealthy: {failure}")).command("nsq ping"))
}

fn topic_paused(facts: &Facts, _: &ChannelFacts) -> Option<Cause> {
    let pause = facts.topic.paused.as_ref()?;
    let text = paused(facts, &format!("topic {}", facts.topic_name), pause);
    let text = format!("{text}; it holds {} back from all channels", messages(facts.topic.held));
    let cause = Cause::new("topic_paused", text).command(format!("nsq topic unpause {}", facts.topic_name));
    Some(cause.holds_up_if(facts.topic.held > 0))
}

fn channel_paused(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let pause = channel.paused.as_ref()?;
    let text = paused(facts, &format!("channel {}", channel_of(facts)), pause);
    let text = format!("{text}; {}", wait(channel.depth));
    let cause =
        Cause::new("channel_paused", text).command(format!("nsq channel unpause {}", channel_of(facts)));
    Some(cause.holds_up_if(channel.depth > 0))
}

fn disk_unreadable(_: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    channel.is_suspended.then(|| {
        let text =
            "messages cannot be read from disk, and nsqd tries again every few seconds; its log says why";
        Cause::new("disk_unreadable", text.to_owned()).command("nsq ping").holds_up_if(channel.depth > 0)
    })
}

fn dead_letters_blocked(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    if !channel.is_blocked || channel.set_aside == 0 {
        return None;
    }
    let topic = channel.dead_letter_topic.as_deref().unwrap_or("the dead-letter topic");
    let text = format!(
        "{} cannot be moved to {topic} yet, so the next message of {} cannot leave either; the log of nsqd says why",
        messages(channel.set_aside),
        channel_of(facts)
    );
    Some(Cause::new("dead_letters_blocked", text).command(format!("nsq dead ls {topic}")))
}

fn no_consumer(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    // Without a daemon, there is none.
    if !channel.consumers.is_empty() || facts.node.stopped_at.is_some() {
        return None;
    }
    let text =
        format!("no consumer is subscribed to {} on this node; {}", channel_of(facts), wait(channel.depth));
    let cause = Cause::new("no_consumer", text).command(format!("nsq sub {}", channel_of(facts)));
    Some(cause.holds_up_if(channel.depth > 0))
}

fn consumers_closing(_: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let mut connected = channel.consumers.iter().filter(|consumer| !consumer.holds_leases).peekable();
    let all = connected.peek().is_some() && connected.all(|consumer| consumer.is_closing);
    all.then(|| {
        let text = match channel.consumers.as_slice() {
            [one] => format!("the only consumer, {}, is closing and takes no more messages", one.name),
            all => format!("all {} consumers are closing and take no more messages", all.len()),
        };
        Cause::new("consumers_closing", text).holds_up_if(channel.depth > 0)
    })
}

fn open(channel: &ChannelFacts) -> impl Iterator<Item = &ConsumerFacts> {
    channel.consumers.iter().filter(|consumer| !consumer.is_closing && !consumer.holds_leases)
}

fn all_ready_zero(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let first = open(channel).next()?;
    if open(channel).any(|consumer| consumer.ready_count > 0) {
        return None;
    }
    let text = match open(channel).count() {
        1 => format!("the only consumer, {}, has RDY 0", first.name),
        count => format!("all {count} consumers have RDY 0"),
    };
    let text = format!("{text}: it asks for no messages, as clients do while they back off after failures");
    let command = format!("nsq stat {}", channel_of(facts));
    Some(Cause::new("all_ready_zero", text).command(command).holds_up_if(channel.depth > 0))
}

/// Consumers that could take, if they were not busy.
fn ready(channel: &ChannelFacts) -> impl Iterator<Item = &ConsumerFacts> {
    channel.consumers.iter().filter(|consumer| consumer.has_room())
}

fn consumers_not_reading(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let longest = ready(channel)
        .filter_map(|consumer| Some((consumer.blocked_since?, consumer)))
        .min_by_key(|(since, _)| *since)?;
    let all = ready(channel).all(|consumer| consumer.blocked_since.is_some());
    let (since, consumer) = longest;
    let text = format!(
        "{} has not read what nsqd sends for {}: its process or network is stuck",
        consumer.name,
        ago(facts, since)
    );
    Some(Cause::new("consumers_not_reading", text).holds_up_if(all && channel.depth > 0))
}

fn consumers_away(_: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let first = ready(channel).next()?;
    if !ready(channel).all(|consumer| consumer.is_away) {
        return None;
    }
    let text = format!(
        "every consumer with room, such as {}, waits for an answer to an earlier command",
        first.name
    );
    Some(Cause::new("consumers_away", text).holds_up_if(channel.depth > 0))
}

fn at_ready_count(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    if ready(channel).next().is_some() || open(channel).all(|consumer| consumer.ready_count == 0) {
        return None;
    }
    let count = open(channel).count();
    let in_flight: u64 = open(channel).map(|consumer| consumer.in_flight).sum();
    let what = match count {
        1 => "the only consumer has".to_owned(),
        count => format!("all {count} consumers have"),
    };
    let text =
        format!("{what} as many messages in flight as RDY allows ({in_flight}){}", oldest(facts, channel));
    let command = format!("nsq peek {} --state in_flight", channel_of(facts));
    Some(Cause::new("at_ready_count", text).command(command).holds_up_if(channel.depth > 0))
}

/// The message that has been in flight for the longest time.
fn oldest(facts: &Facts, channel: &ChannelFacts) -> String {
    let flights = channel.consumers.iter().filter_map(|consumer| Some((consumer, consumer.oldest.as_ref()?)));
    match flights.min_by_key(|(_, flight)| flight.since) {
        None => String::new(),
        Some((consumer, flight)) => format!(
            "; the oldest, {}, is in flight at {} for {} and times out at {}",
            flight.id,
            consumer.name,
            ago(facts, flight.since),
            at(facts, flight.until)
        ),
    }
}

/// Long polls are refused.
fn lease_limit(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let holder = channel.consumers.iter().find(|consumer| consumer.holds_leases)?;
    let most = facts.node.max_leases.filter(|most| holder.in_flight >= *most)?;
    let text = format!(
        "{} has as many messages leased over HTTP as --max-http-leases allows ({most}), so long polls are refused{}",
        channel_of(facts),
        oldest(facts, channel)
    );
    let command = format!("nsq peek {} --state in_flight", channel_of(facts));
    let is_alone = channel.consumers.len() == 1;
    Some(Cause::new("lease_limit", text).command(command).holds_up_if(is_alone && channel.depth > 0))
}

/// Nobody else is subscribed than the consumer that holds leases.
fn http_idle(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let holder = channel.consumers.iter().find(|consumer| consumer.holds_leases)?;
    if channel.consumers.len() > 1 {
        return None;
    }
    let text = format!(
        "consumers take messages of {} over HTTP only, and none asks for any now; {} leased{}",
        channel_of(facts),
        messages(holder.in_flight),
        oldest(facts, channel)
    );
    let command = format!("nsq peek {} --state in_flight", channel_of(facts));
    Some(Cause::new("http_idle", text).command(command).holds_up_if(channel.depth > 0))
}

fn explain(facts: &Facts) -> String {
    format!("nsq policy explain {}", channel_of(facts))
}

fn rate_limited(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let until = channel.throttled_until?;
    let text = format!("the rate of {} allows the next message at {}", channel_of(facts), at(facts, until));
    Some(Cause::new("rate_limited", text).command(explain(facts)).holds_up_if(channel.depth > 0))
}

fn in_flight_limit(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let limit = channel.in_flight_limit?;
    let text = format!(
        "{} has as many messages in flight as max_in_flight allows ({limit}){}",
        channel_of(facts),
        oldest(facts, channel)
    );
    Some(Cause::new("in_flight_limit", text).command(explain(facts)).holds_up_if(channel.depth > 0))
}

fn key_blocked(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let blocked = channel.blocked.as_ref()?;
    let who = match (blocked.key.as_str(), blocked.queue_length) {
        ("", _) => format!("the messages of {} are one after the other, and the next", channel_of(facts)),
        (key, count) => format!("{} of key {key:?}", messages(count)),
    };
    let waits = if blocked.key.is_empty() || blocked.queue_length == 1 { "waits" } else { "wait" };
    let text = format!("{who} {waits} for {}", holder(facts, blocked));
    let cause = Cause::new("key_blocked", text).command(holder_command(facts, blocked));
    Some(cause.holds_up_if(channel.has_no_turn))
}

/// The message that others wait for.
fn holder(facts: &Facts, blocked: &Blocked) -> String {
    let Some((id, place)) = &blocked.holder else { return "an earlier message".to_owned() };
    let place = match &**place {
        MessagePlace::InFlight { consumer, since, until, .. } => format!(
            "which is in flight at {consumer} for {} and times out at {}",
            ago(facts, *since),
            at(facts, *until)
        ),
        MessagePlace::Deferred { due } => format!("which failed and is deferred until {}", at(facts, *due)),
        MessagePlace::SetAside(reason) => {
            format!("which becomes a dead letter next: {}", reason_text(*reason))
        }
        MessagePlace::Departing => "which is being moved to another topic or node now".to_owned(),
        MessagePlace::Gone(_) => "which has just left the channel".to_owned(),
        _ => "which waits for its next delivery".to_owned(),
    };
    format!("message {id}, {place}")
}

fn holder_command(facts: &Facts, blocked: &Blocked) -> String {
    match &blocked.holder {
        Some((id, _)) => format!("nsq why {} {id}", channel_of(facts)),
        None => format!("nsq stat {}", channel_of(facts)),
    }
}

fn reading_stopped(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    channel.is_reading_stopped.then(|| {
        let text = format!(
            "{} reads no further: {MOST_READ_PAST} messages that it has read wait for others of their keys",
            channel_of(facts)
        );
        let command = format!("nsq stat {}", channel_of(facts));
        Cause::new("reading_stopped", text).command(command).holds_up_if(channel.has_no_turn)
    })
}

/// Nothing is handed out here.
fn moving_out(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let to = facts.node.drain.as_ref().and_then(|drain| drain.moves_to.as_deref()).unwrap_or("another nsqd");
    channel.is_moving_out.then(|| {
        let text = format!(
            "this nsqd drains and moves its messages to {to}; {} hands out nothing here",
            channel_of(facts)
        );
        Cause::new("moving_out", text).command(format!("nsq stat {}", channel_of(facts))).holds_up_if(true)
    })
}

/// Messages still go to consumers.
fn draining(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let drain = facts.node.drain.as_ref()?;
    let until = match (drain.until, &drain.moves_to) {
        (Some(until), Some(to)) => format!("; what is left at {} moves to {to}", at(facts, until)),
        (Some(until), None) => format!("; the time for that is over at {}", at(facts, until)),
        (None, _) => String::new(),
    };
    let text = format!(
        "this nsqd has been draining for {}: it refuses publishes until consumers have everything{until}",
        ago(facts, drain.since)
    );
    let cause = Cause::new("draining", text).command("nsq node list");
    Some(cause.holds_up_if(is_idle(channel) && channel.in_flight == 0))
}

fn waits_for_disk(_: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    (channel.is_stalled && !channel.is_suspended && channel.depth > 0)
        .then(|| Cause::new("waits_for_disk", "the next messages are being read from disk".to_owned()))
}

fn channel_full(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let bound = channel.full.as_ref()?;
    let text =
        format!("publishes are refused, because {} has reached its bound of {bound}", channel_of(facts));
    let command = format!("nsq policy explain {}", channel_of(facts));
    Some(Cause::new("channel_full", text).command(command))
}

fn is_idle(channel: &ChannelFacts) -> bool {
    channel.depth == 0
}

fn only_in_flight(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    if !is_idle(channel) || channel.in_flight == 0 {
        return None;
    }
    let text = format!(
        "nothing waits: {} {} in flight{}",
        messages(channel.in_flight),
        if channel.in_flight == 1 { "is" } else { "are" },
        oldest(facts, channel)
    );
    let command = format!("nsq peek {} --state in_flight", channel_of(facts));
    Some(Cause::new("only_in_flight", text).command(command))
}

fn only_set_aside(_: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    if !is_idle(channel) || channel.set_aside == 0 || channel.is_blocked {
        return None;
    }
    let topic = channel.dead_letter_topic.as_deref().unwrap_or("the dead-letter topic");
    let text = format!("{} will be moved to {topic} next", messages(channel.set_aside));
    Some(Cause::new("dead_letters_pending", text).command(format!("nsq dead ls {topic}")))
}

fn only_deferred(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    if !is_idle(channel) || channel.deferred == 0 {
        return None;
    }
    let due =
        channel.next_due.map_or(String::new(), |due| format!("; the next is due at {}", at(facts, due)));
    let text = format!(
        "nothing waits: {} {} deferred{due}",
        messages(channel.deferred),
        if channel.deferred == 1 { "is" } else { "are" }
    );
    let command = format!("nsq peek {} --state deferred", channel_of(facts));
    let cause = Cause::new("only_deferred", text).command(command);
    Some(cause.holds_up_if(channel.in_flight == 0))
}

/// The topic holds messages back though it is not paused: it is being set up.
fn topic_holds_back(facts: &Facts, _: &ChannelFacts) -> Option<Cause> {
    (facts.topic.held > 0 && facts.topic.paused.is_none()).then(|| {
        let text = format!("{} are about to be released to the channels", messages(facts.topic.held));
        Cause::new("being_released", text).holds_up_if(false)
    })
}

fn empty(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let is_empty = is_idle(channel) && channel.in_flight + channel.deferred + channel.set_aside == 0;
    (is_empty && facts.topic.held == 0).then(|| {
        let text = format!("{} is empty: every message that it received is finished", channel_of(facts));
        Cause::new("empty", text).command(format!("nsq peek {}", facts.topic_name))
    })
}

fn moving(facts: &Facts, channel: &ChannelFacts) -> Option<Cause> {
    let is_held_up = channel.depth == 0
        || channel.paused.is_some()
        || channel.is_suspended
        || channel.is_moving_out
        || channel.is_blocked
        || channel.has_no_turn
        || channel.throttled_until.is_some()
        || channel.in_flight_limit.is_some()
        || ready(channel).all(|consumer| consumer.is_away || consumer.blocked_since.is_some());
    if is_held_up {
        return None;
    }
    let ready_count = ready(channel).count();
    let text = format!(
        "nothing holds {} back: {}, and {ready_count} of {} consumers can take more",
        channel_of(facts),
        wait(channel.depth),
        channel.consumers.len()
    );
    let command = format!("nsq stat {}", channel_of(facts));
    Some(Cause::new("moving", text).command(command).holds_up_if(false))
}

// About one message

fn about_message(facts: &Facts, channel: &ChannelFacts, message: &MessageFacts) -> Cause {
    let id = format!("{:016x}", message.id);
    let (topic, name) = (&facts.topic_name, channel_of(facts));
    let requeue = format!("nsq message requeue {name} {id}");
    let dead_topic = channel.dead_letter_topic.as_deref().unwrap_or("the dead-letter topic");
    match &message.place {
        MessagePlace::OtherNode(number) => Cause::new(
            "other_node",
            format!(
                "message {id} was published on the node with number {number}, and this node has number {}",
                facts.node.number
            ),
        )
        .command(format!("nsq why {name} {id}")),
        MessagePlace::NeverPublished => Cause::new(
            "unknown_id",
            format!("topic {topic} has not published a message {id} on this node, as far as it knows"),
        )
        .command(format!("nsq peek {topic} --from tail")),
        MessagePlace::NotCommitted => Cause::new(
            "not_committed",
            format!("message {id} is not as durable as --durability demands yet, or its publish was refused"),
        ),
        MessagePlace::Held => Cause::new("held_by_topic", format!("topic {topic} has not released message {id} yet")),
        MessagePlace::NotForChannel => Cause::new(
            "not_for_channel",
            format!("message {id} is finished in {name}, or was published before the channel existed"),
        )
        .command(format!("nsq channel seek {name} --to id:{id}")),
        MessagePlace::Waiting { before, is_at_least } => {
            let least = if *is_at_least { "at least " } else { "" };
            let text = match before {
                0 => format!("message {id} is the next that {name} hands out"),
                before => format!("message {id} waits behind {least}{}", messages(*before)),
            };
            Cause::new("waiting", text).command(format!("nsq peek {name}"))
        }
        MessagePlace::Ordered(blocked) => {
            let key = match blocked.key.as_str() {
                "" => "in an ordered channel".to_owned(),
                key => format!("of the same key {key:?}"),
            };
            let between = match blocked.queue_length {
                0 => String::new(),
                count => format!("; {} of its key come before it", messages(count)),
            };
            let text =
                format!("message {id} waits for an earlier one {key}: {}{between}", holder(facts, blocked));
            Cause::new("ordered_behind", text).command(holder_command(facts, blocked))
        }
        MessagePlace::Deferred { due } if message.attempts > 0 => Cause::new(
            "retry_later",
            format!(
                "delivery {} of message {id} failed, and its consumer or the retry schedule holds it back until {}",
                message.attempts,
                at(facts, *due)
            ),
        )
        .command(requeue),
        MessagePlace::Deferred { due } => {
            Cause::new("deferred", format!("message {id} is deferred until {}", at(facts, *due))).command(requeue)
        }
        MessagePlace::InFlight { since, until, is_leased: true, .. } => Cause::new(
            "leased",
            format!(
                "message {id} is leased to a consumer over HTTP for {}, delivery {}, until {}",
                ago(facts, *since),
                message.attempts,
                at(facts, *until)
            ),
        )
        .command(format!("nsq peek {name} --state in_flight")),
        MessagePlace::InFlight { consumer, since, until, is_leased: false } => Cause::new(
            "in_flight",
            format!(
                "message {id} is in flight at {consumer} for {}, delivery {}, and times out at {}",
                ago(facts, *since),
                message.attempts,
                at(facts, *until)
            ),
        )
        .command(format!("nsq peek {name} --state in_flight")),
        MessagePlace::SetAside(reason) => Cause::new(
            "dead_letter_pending",
            format!("message {id} will be moved to {dead_topic} next: {}", reason_text(*reason)),
        )
        .command(format!("nsq dead ls {dead_topic}")),
        MessagePlace::Departing => {
            Cause::new("moving_away", format!("message {id} is being moved to another topic now"))
        }
        MessagePlace::Gone(fate) => gone(&id, &name, dead_topic, *fate),
    }
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Attempts => "its attempts are used up (max_attempts)",
        Reason::Expired => "it expired (ttl)",
        Reason::Overflow => "the channel held too many (max_depth, max_bytes)",
        Reason::Rejected => "a consumer rejected it",
    }
}

fn gone(id: &str, name: &str, dead_topic: &str, fate: Option<Fate>) -> Cause {
    let Some(fate) = fate else {
        return Cause::new(
            "finished",
            format!("message {id} is finished in {name}: a consumer has sent FIN"),
        )
        .command(format!("nsq peek {name} --state finished"));
    };
    let (code, what, command) = match fate {
        Fate::Expired => ("expired", "expired before its delivery and was dropped (ttl)".to_owned(), None),
        Fate::Overflow => (
            "overflow",
            "was dropped because the channel held too many (max_depth, max_bytes)".to_owned(),
            None,
        ),
        Fate::Filtered => {
            ("filtered", "does not match the channel's filter, so it counts as finished".to_owned(), None)
        }
        Fate::DeadLettered => (
            "dead_lettered",
            format!("became a dead letter in {dead_topic}"),
            Some(format!("nsq dead show {dead_topic} --id {id}")),
        ),
        Fate::MovedAway => {
            ("moved", "was moved to another topic or node, or deleted as a dead letter".to_owned(), None)
        }
        Fate::Cancelled => ("cancelled", "was cancelled".to_owned(), None),
        Fate::Emptied => {
            ("emptied", "was finished, or dropped when the channel was emptied".to_owned(), None)
        }
        Fate::Skipped => (
            "skipped",
            "was finished, or skipped when the channel's position was moved forward".to_owned(),
            Some(format!("nsq channel seek {name} --to id:{id}")),
        ),
        Fate::NoRoom => {
            ("no_room", "was dropped: an ephemeral topic or channel had no room for it".to_owned(), None)
        }
        Fate::Lost => ("lost", "could not be read from disk; the log of nsqd says why".to_owned(), None),
    };
    let command = match (code, command) {
        ("expired" | "overflow" | "filtered", None) => Some(format!("nsq policy explain {name}")),
        ("lost", None) => Some("nsq ping".to_owned()),
        (_, command) => command,
    };
    Cause { command, ..Cause::new(code, format!("message {id} {what}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::facts::{DrainFacts, Flight, NodeFacts, TopicFacts};

    const SECOND: i64 = 1_000_000_000;
    const NOW: i64 = 1_700_000_000 * SECOND;

    fn consumer(ready_count: u64, in_flight: u64) -> ConsumerFacts {
        ConsumerFacts {
            name: "worker (1.2.3.4:5)".to_owned(),
            ready_count,
            in_flight,
            ..ConsumerFacts::default()
        }
    }

    fn facts(channel: ChannelFacts) -> Facts {
        Facts {
            now: NOW,
            topic_name: "t".to_owned(),
            channel_name: "c".to_owned(),
            node: NodeFacts { number: 7, ..NodeFacts::default() },
            topic: TopicFacts { channel_names: vec!["c".to_owned()], ..TopicFacts::default() },
            channel: Some(channel),
            message: None,
        }
    }

    /// A channel with messages and a consumer that can take them.
    fn working() -> ChannelFacts {
        ChannelFacts { depth: 5, consumers: vec![consumer(10, 0)], ..ChannelFacts::default() }
    }

    fn codes(facts: &Facts) -> Vec<&'static str> {
        causes(facts).iter().map(|cause| cause.code).collect()
    }

    fn about(place: MessagePlace, channel: ChannelFacts) -> Facts {
        Facts { message: Some(MessageFacts { id: 0x2a, attempts: 0, place }), ..facts(channel) }
    }

    #[test]
    fn a_channel_at_the_limit_of_leases_says_so() {
        let holder = ConsumerFacts { holds_leases: true, in_flight: 3, ..consumer(0, 3) };
        let mut leased = facts(ChannelFacts { depth: 5, in_flight: 3, consumers: vec![holder], ..working() });
        assert!(!codes(&leased).contains(&"lease_limit"));
        leased.node.max_leases = Some(4);
        assert!(!codes(&leased).contains(&"lease_limit"));
        leased.node.max_leases = Some(3);
        let causes = causes(&leased);
        let cause = causes.iter().find(|cause| cause.code == "lease_limit").unwrap();
        assert!(cause.holds_up && cause.text.contains("--max-http-leases allows (3)"), "{causes:?}");
    }

    #[test]
    fn without_a_daemon_nothing_moves() {
        let mut stopped = facts(ChannelFacts { depth: 5, ..ChannelFacts::default() });
        stopped.node.stopped_at = Some("/data".to_owned());
        let found = causes(&stopped);
        assert_eq!(codes(&stopped), ["not_running"]);
        assert_eq!(found[0].text, "no nsqd runs on /data; 5 messages wait");
        assert_eq!(found[0].command.as_deref(), Some("nsqd --data-path=/data"));
        stopped.message = Some(MessageFacts {
            id: 0x2a,
            attempts: 1,
            place: MessagePlace::Waiting { before: 2, is_at_least: false },
        });
        assert_eq!(codes(&stopped), ["not_running", "waiting"]);
    }

    #[test]
    fn situations_that_last_too_short_to_arrange_are_named() {
        assert_eq!(codes(&facts(working())), ["moving"]);
        let mut leaving = facts(working());
        leaving.node.is_leaving = true;
        assert_eq!(codes(&leaving)[0], "stopping");
        for (change, code) in [
            ((|channel| channel.is_suspended = true) as fn(&mut ChannelFacts), "disk_unreadable"),
            (|channel| channel.is_moving_out = true, "moving_out"),
            (|channel| channel.is_stalled = true, "waits_for_disk"),
            (|channel| channel.consumers[0].is_away = true, "consumers_away"),
            (
                |channel| {
                    channel.is_blocked = true;
                    channel.set_aside = 10_000;
                },
                "dead_letters_blocked",
            ),
            (
                |channel| {
                    channel.depth = 0;
                    channel.set_aside = 3;
                },
                "dead_letters_pending",
            ),
        ] {
            let mut channel = working();
            change(&mut channel);
            assert_eq!(codes(&facts(channel))[0], code);
        }
    }

    #[test]
    fn limits_orders_and_leases_are_named() {
        let holder = |place| Some(("2b".to_owned(), Box::new(place)));
        let in_flight = |is_leased| MessagePlace::InFlight {
            consumer: "w".to_owned(),
            since: NOW - 3 * SECOND,
            until: NOW + 9 * SECOND,
            is_leased,
        };
        let blocked = Blocked { key: "k".to_owned(), holder: holder(in_flight(false)), queue_length: 3 };
        let with = |change: &dyn Fn(&mut ChannelFacts)| {
            let mut channel = working();
            change(&mut channel);
            causes(&facts(channel)).swap_remove(0)
        };
        let leases = ConsumerFacts { holds_leases: true, ..consumer(0, 2) };
        for (cause, code, text) in [
            (with(&|channel| channel.throttled_until = Some(NOW + 7 * SECOND)), "rate_limited", "(in 7 s)"),
            (
                with(&|channel| channel.in_flight_limit = Some(4)),
                "in_flight_limit",
                "max_in_flight allows (4)",
            ),
            (
                with(&|channel| {
                    channel.has_no_turn = true;
                    channel.blocked = Some(blocked.clone());
                }),
                "key_blocked",
                "3 messages of key \"k\" wait for message 2b, which is in flight at w for 3 s",
            ),
            (
                with(&|channel| {
                    channel.has_no_turn = true;
                    channel.is_reading_stopped = true;
                }),
                "reading_stopped",
                "10000 messages",
            ),
            (with(&|channel| channel.consumers = vec![leases.clone()]), "http_idle", "2 messages leased"),
        ] {
            assert_eq!((cause.code, cause.holds_up), (code, true));
            assert!(cause.text.contains(text) && cause.command.is_some(), "{cause:?}");
        }
        let others_move = ChannelFacts { blocked: Some(blocked.clone()), ..working() };
        let found = causes(&facts(others_move.clone()));
        assert!(found.iter().all(|cause| !cause.holds_up), "{found:?}");
        let found = causes(&about(MessagePlace::Ordered(blocked), others_move));
        assert_eq!((found.len(), found[0].code, found[0].holds_up), (1, "ordered_behind", true));
        assert!(found[0].text.contains("3 messages of its key come before it"), "{found:?}");
        assert_eq!(codes(&about(in_flight(true), working())), ["leased"]);
        let mut draining = facts(ChannelFacts { consumers: vec![consumer(1, 0)], ..ChannelFacts::default() });
        draining.node.drain = Some(DrainFacts {
            since: NOW - SECOND,
            until: Some(NOW + 60 * SECOND),
            moves_to: Some("b:4151".to_owned()),
        });
        let found = causes(&draining);
        assert!(found[0].code == "draining" && found[0].text.contains("(in 60 s)"), "{found:?}");
    }

    #[test]
    fn one_consumer_that_can_take_is_enough() {
        let mut channel = working();
        channel.consumers.push(ConsumerFacts { is_away: true, ..consumer(5, 0) });
        channel.consumers.push(consumer(0, 0));
        channel.consumers.push(consumer(3, 3));
        channel.consumers.push(ConsumerFacts { is_closing: true, ..consumer(3, 0) });
        assert_eq!(codes(&facts(channel.clone())), ["moving"]);
        channel.consumers.push(ConsumerFacts { blocked_since: Some(NOW - 90 * SECOND), ..consumer(5, 0) });
        let found = causes(&facts(channel));
        assert_eq!((found[0].code, found[0].holds_up), ("consumers_not_reading", false));
        assert!(found[0].text.contains("for 90 s"), "{}", found[0].text);
    }

    #[test]
    fn the_oldest_message_in_flight_is_named() {
        let flight = |id: &str, seconds: i64| {
            Some(Flight { id: id.to_owned(), since: NOW - seconds * SECOND, until: NOW + 20 * SECOND })
        };
        let mut channel = working();
        channel.consumers = vec![
            ConsumerFacts { oldest: flight("young", 5), ..consumer(1, 1) },
            ConsumerFacts { oldest: flight("old", 40), name: "other".to_owned(), ..consumer(2, 2) },
        ];
        let found = causes(&facts(channel));
        assert_eq!(found[0].code, "at_ready_count");
        let expected = "(3); the oldest, old, is in flight at other for 40 s and times out at";
        assert!(found[0].text.contains(expected), "{}", found[0].text);
    }

    #[test]
    fn what_holds_a_waiting_message_up_comes_before_its_place() {
        let waiting = MessagePlace::Waiting { before: 4, is_at_least: false };
        assert_eq!(codes(&about(waiting.clone(), working())), ["waiting"]);
        let paused = ChannelFacts { paused: Some(PauseFacts::default()), ..working() };
        assert_eq!(codes(&about(waiting, paused.clone())), ["channel_paused", "waiting"]);
        let deferred = MessagePlace::Deferred { due: NOW + 90 * SECOND };
        let found = causes(&about(deferred, paused));
        assert_eq!(found.len(), 1, "the pause does not matter before it is due");
        assert!(found[0].text.ends_with("(in 90 s)"), "{}", found[0].text);
    }

    #[test]
    fn every_fate_of_a_message_has_a_code_and_a_sentence() {
        let fates = [
            Fate::Expired,
            Fate::Overflow,
            Fate::Filtered,
            Fate::DeadLettered,
            Fate::MovedAway,
            Fate::Cancelled,
            Fate::Emptied,
            Fate::Skipped,
            Fate::NoRoom,
            Fate::Lost,
        ];
        let mut places: Vec<MessagePlace> =
            fates.into_iter().map(|fate| MessagePlace::Gone(Some(fate))).collect();
        places.push(MessagePlace::Gone(None));
        places.push(MessagePlace::NotForChannel);
        places.push(MessagePlace::NotCommitted);
        places.push(MessagePlace::Departing);
        let reasons = [Reason::Attempts, Reason::Expired, Reason::Overflow, Reason::Rejected];
        let mut found = std::collections::BTreeSet::new();
        for place in places {
            let causes = causes(&about(place, working()));
            assert!(causes[0].holds_up && causes[0].text.contains("000000000000002a"), "{:?}", causes[0]);
            assert!(found.insert(causes[0].code), "{} is used twice", causes[0].code);
        }
        for reason in reasons {
            let causes = causes(&about(MessagePlace::SetAside(reason), working()));
            assert_eq!(causes[0].code, "dead_letter_pending");
        }
    }

    #[test]
    fn a_pause_from_before_the_start_has_no_time() {
        let paused = ChannelFacts { paused: Some(PauseFacts::default()), ..working() };
        let found = causes(&facts(paused));
        assert_eq!(found[0].text, "channel t/c is paused since before nsqd started; 5 messages wait");
        let by = PauseFacts { since: Some(NOW - 7200 * SECOND), by: "10.0.0.9:1".to_owned() };
        let paused = ChannelFacts { paused: Some(by), ..working() };
        let text = causes(&facts(paused)).swap_remove(0).text;
        assert!(text.contains("(2 h ago), by a request from 10.0.0.9:1; 5 messages wait"), "{text}");
    }
}
