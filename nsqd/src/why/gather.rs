//! Collects the facts about a channel and one message, under one lock after the other.

use std::sync::Arc;

use super::facts::{
    Blocked, ChannelFacts, ConsumerFacts, DrainFacts, Facts, Flight, MessageFacts, MessagePlace, NodeFacts,
    PauseFacts, TopicFacts,
};
use crate::channel::order::BlockedKey;
use crate::channel::peeking::{Seen, Standing};
use crate::channel::saved::Clocks;
use crate::channel::{Channel, ChannelState, ConsumerKey, PauseNote};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::topic::Topic;

/// Maximum number of consumers that are looked at.
const MOST_CONSUMERS: usize = 1000;
/// Bits of the sequence number in a message id.
const SEQUENCE_BITS: u32 = 54;

/// The facts about this channel of the topic, which may not exist, and about the message of this id. May read from disk.
pub fn gather(topic: &Arc<Topic>, channel_name: &str, id: Option<u64>) -> Facts {
    let monotonic = clock::monotonic();
    let clocks = Clocks { monotonic, wall_ns: clock::wall_at(monotonic) };
    let engine = topic.engine();
    let channel = topic.channel(channel_name);
    let depth = topic.depth();
    let channel_names = topic.channels().iter().map(|channel| channel.name().to_string()).collect();
    Facts {
        now: clocks.wall_ns,
        topic_name: topic.name().to_string(),
        channel_name: channel_name.to_owned(),
        node: NodeFacts {
            number: engine.limits.node_id,
            failure: engine.health().err().map(|failure| failure.to_string()),
            is_leaving: engine.status.is_leaving(),
            stopped_at: None,
            max_leases: None,
            drain: engine.status.with_drain(|drain| {
                let status = drain.status();
                DrainFacts {
                    since: drain.started_at(),
                    until: status.deadline_at,
                    moves_to: drain.request.move_to.clone(),
                }
            }),
        },
        topic: TopicFacts {
            paused: depth.paused.then(|| pause(topic.paused_by())),
            held: depth.depth,
            channel_names,
            is_ephemeral: topic.name().is_ephemeral(),
        },
        message: id.map(|id| message(topic, channel.as_deref(), id, clocks)),
        channel: channel.as_deref().map(|channel| channel_facts(topic, channel, clocks)),
    }
}

fn pause(note: Option<PauseNote>) -> PauseFacts {
    note.map_or_else(PauseFacts::default, |note| PauseFacts { since: Some(note.at_ns), by: note.by })
}

/// The numbers of a consumer.
struct ConsumerNumbers {
    info: Arc<ClientInfo>,
    facts: ConsumerFacts,
    oldest: Option<Seen>,
}

fn channel_facts(topic: &Topic, channel: &Channel, clocks: Clocks) -> ChannelFacts {
    // Texts are built after the lock is released.
    let holder = channel.holder_key();
    let (mut facts, consumers, blocked) = channel.inspect(|state, infos| {
        let consumers: Vec<ConsumerNumbers> = (infos.iter().take(MOST_CONSUMERS))
            .filter_map(|(key, info)| consumer(state, key, info, infos.is_away(key), holder))
            .collect();
        let throttle = state.throttle_report(clocks.monotonic);
        let limit = throttle.as_ref().filter(|throttle| throttle.is_in_flight_limit_reached);
        let until = throttle.as_ref().and_then(|throttle| throttle.throttled_until);
        let facts = ChannelFacts {
            throttled_until: until.map(|until| clocks.to_wall(until)),
            in_flight_limit: limit.map(|throttle| throttle.max_in_flight),
            blocked: None,
            is_reading_stopped: state.order_report().is_some_and(|order| order.is_stopped),
            has_no_turn: state.depth() > 0 && !state.has_available(),
            paused: state.is_paused().then(PauseFacts::default),
            depth: state.depth(),
            in_flight: state.in_flight_count() as u64,
            deferred: state.deferred_count() as u64,
            set_aside: state.exhausted_count() as u64,
            is_blocked: state.is_blocked(),
            dead_letter_topic: state.dead_letter_topic().map(ToString::to_string),
            next_due: state.next_due().map(|due| clocks.to_wall(due)),
            is_moving_out: state.is_moving_out(),
            is_suspended: state.is_suspended(),
            is_stalled: state.is_stalled(),
            full: None,
            consumers: Vec::new(),
        };
        (facts, consumers, state.blocked_key())
    });
    facts.blocked = blocked.map(|key| blocked_by(topic, channel, key, clocks));
    if facts.paused.is_some() {
        facts.paused = Some(pause(channel.paused_by()));
    }
    if topic.is_full(channel.name().as_str()) {
        facts.full = Some(channel.bound().to_string());
    }
    facts.consumers = consumers
        .into_iter()
        .map(|ConsumerNumbers { info, facts, oldest }| ConsumerFacts {
            name: info.description(),
            blocked_since: info.blocked_since().map(|since| clocks.to_wall(since)),
            oldest: oldest.and_then(|seen| flight(channel, &seen, clocks)),
            ..facts
        })
        .collect();
    facts
}

fn consumer(
    state: &ChannelState,
    key: ConsumerKey,
    info: &Arc<ClientInfo>,
    is_away: bool,
    holder: Option<ConsumerKey>,
) -> Option<ConsumerNumbers> {
    let consumer = state.consumers().get(key)?;
    let facts = ConsumerFacts {
        ready_count: consumer.ready_count,
        in_flight: consumer.in_flight_count,
        is_closing: consumer.is_closing(),
        is_away,
        holds_leases: holder == Some(key),
        ..ConsumerFacts::default()
    };
    Some(ConsumerNumbers { info: info.clone(), facts, oldest: state.oldest_in_flight(key) })
}

fn flight(channel: &Channel, seen: &Seen, clocks: Clocks) -> Option<Flight> {
    let Standing::InFlight { delivered_at, deadline, .. } = seen.standing else { return None };
    let wall = |at: Nanos| clocks.to_wall(at);
    let id = format!("{:016x}", channel.log().id_of(seen.sequence));
    Some(Flight { id, since: wall(delivered_at), until: wall(deadline) })
}

fn message(topic: &Topic, channel: Option<&Channel>, id: u64, clocks: Clocks) -> MessageFacts {
    let (attempts, place) = match topic.log().sequence_of_id(id).or_else(|| topic.log().find_id(id)) {
        Some(sequence) => place(topic, channel, sequence, clocks),
        None => (0, MessagePlace::OtherNode((id >> SEQUENCE_BITS) as u16)),
    };
    MessageFacts { id, attempts, place }
}

fn blocked_by(topic: &Topic, channel: &Channel, blocked: BlockedKey, clocks: Clocks) -> Blocked {
    let BlockedKey { key, holder, queue_length } = blocked;
    let holder = holder.map(|sequence| {
        let id = format!("{:016x}", channel.log().id_of(sequence));
        // The message that others wait for waits for none; if that has changed meanwhile, this is not followed further.
        let place = match channel.inspect(|state, _| state.waits_for(sequence)) {
            Some(_) if channel.inspect(|state, _| state.standing(sequence)) == Some(Standing::Waiting) => {
                MessagePlace::Waiting { before: 0, is_at_least: true }
            }
            _ => place(topic, Some(channel), sequence, clocks).1,
        };
        (id, Box::new(place))
    });
    Blocked { key, holder, queue_length }
}

fn place(topic: &Topic, channel: Option<&Channel>, sequence: u64, clocks: Clocks) -> (u16, MessagePlace) {
    let log = topic.log();
    if sequence >= log.end() {
        return (0, MessagePlace::NeverPublished);
    }
    if sequence >= topic.committed() {
        return (0, MessagePlace::NotCommitted);
    }
    if sequence >= topic.released_to() {
        return (0, MessagePlace::Held);
    }
    let Some(channel) = channel else { return (0, MessagePlace::NotForChannel) };
    let holder = channel.holder_key();
    if let Some(blocked) = channel.inspect(|state, _| match state.standing(sequence) {
        Some(Standing::Ahead | Standing::Waiting) => state.waits_for(sequence),
        _ => None,
    }) && blocked.holder != Some(sequence)
    {
        let attempts = channel.inspect(|state, _| state.attempts_of(sequence));
        return (attempts, MessagePlace::Ordered(blocked_by(topic, channel, blocked, clocks)));
    }
    let (attempts, place, owner) = channel.inspect(|state, infos| {
        let attempts = state.attempts_of(sequence);
        let place = match state.standing(sequence) {
            Some(Standing::Ahead | Standing::Waiting) => {
                let (before, is_at_least) =
                    state.turn_of(sequence).map_or((0, false), |turn| (turn.before, turn.is_at_least));
                MessagePlace::Waiting { before, is_at_least }
            }
            Some(Standing::Deferred { due }) => MessagePlace::Deferred { due: clocks.to_wall(due) },
            Some(Standing::InFlight { owner, delivered_at, deadline }) => {
                let info = infos.iter().find(|(key, _)| *key == owner).map(|(_, info)| info.clone());
                let (since, until) = (clocks.to_wall(delivered_at), clocks.to_wall(deadline));
                return (
                    attempts,
                    MessagePlace::InFlight {
                        consumer: String::new(),
                        since,
                        until,
                        is_leased: holder == Some(owner),
                    },
                    info,
                );
            }
            Some(Standing::SetAside(reason)) => MessagePlace::SetAside(reason),
            Some(Standing::Departing) => MessagePlace::Departing,
            None => match state.fate_of(sequence) {
                Some(fate) => MessagePlace::Gone(Some(fate)),
                // Sequence numbers that were refused make both seem to begin later, so these are only likely.
                None if sequence < log.end().saturating_sub(topic.counters().message_count) => {
                    MessagePlace::NeverPublished
                }
                None if sequence < state.end().saturating_sub(state.counters().message_count) => {
                    MessagePlace::NotForChannel
                }
                None => MessagePlace::Gone(None),
            },
        };
        (attempts, place, None)
    });
    match (place, owner) {
        (MessagePlace::InFlight { since, until, is_leased, .. }, Some(info)) => {
            (attempts, MessagePlace::InFlight { consumer: info.description(), since, until, is_leased })
        }
        (place, _) => (attempts, place),
    }
}
