//! The kinds of journal record, and their bytes. Pure.
//!
//! A record is a kind byte and the kind's fields, integers little-endian. The table of kinds
//! is in `docs/DATA_FORMAT.md`; a kind's number and layout never change once released.

use std::fmt;

use super::{ChannelNumber, SEQUENCE_BITS, SequenceRange, TopicNumber};

/// One past the last sequence number.
const SEQUENCES: u64 = 1 << SEQUENCE_BITS;
/// The due time of a targeted batch that is not deferred.
const NOT_DEFERRED: i64 = i64::MIN;

/// One durable fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A batch was published: `count` message frames, back to back, with consecutive sequence numbers.
    Publish {
        topic: TopicNumber,
        first_sequence: u64,
        count: u32,
        /// The whole batch is deferred until then; wall clock, nanoseconds.
        due_ns: Option<i64>,
        /// Only this channel receives the batch. `None`: all channels.
        only: Option<ChannelNumber>,
        frames: &'a [u8],
    },
    /// A channel finished these messages.
    Finish { topic: TopicNumber, channel: ChannelNumber, runs: RunList<'a> },
    /// A message was requeued until `due_ns` (wall clock; 0: at once). `attempts` counts its deliveries so far, and
    /// `failures` those that failed; 0 if they are not counted.
    Requeue {
        topic: TopicNumber,
        channel: ChannelNumber,
        sequence: u64,
        attempts: u16,
        failures: u16,
        due_ns: i64,
    },
    /// These messages left the channel without being finished by a consumer: they were dead-lettered, moved to another
    /// topic or deleted. It says nothing about messages before them.
    Removed { topic: TopicNumber, channel: ChannelNumber, runs: RunList<'a> },
    /// A topic was created; its first message will be `first_sequence`.
    TopicCreated { topic: TopicNumber, name: &'a str, first_sequence: u64 },
    /// A topic was deleted, with its messages and channels.
    TopicDeleted { topic: TopicNumber },
    /// A topic was paused or unpaused, or its release point stopped or started following its end.
    TopicState {
        topic: TopicNumber,
        paused: bool,
        /// The release point at that time.
        released: u64,
        releasing: bool,
    },
    /// The messages `from..to` were emptied or refused: their sequence numbers no longer exist.
    TopicSkipped { topic: TopicNumber, from: u64, to: u64 },
    /// A channel was created, with its read cursor at `cursor`.
    ChannelCreated { topic: TopicNumber, channel: ChannelNumber, name: &'a str, cursor: u64 },
    /// A channel was deleted.
    ChannelDeleted { topic: TopicNumber, channel: ChannelNumber },
    /// A channel was paused or unpaused.
    ChannelPaused { topic: TopicNumber, channel: ChannelNumber, paused: bool },
    /// A channel was emptied: it has finished everything before `up_to`.
    ChannelEmptied { topic: TopicNumber, channel: ChannelNumber, up_to: u64 },
    /// The retention of a topic's finished messages was set.
    TopicRetention {
        topic: TopicNumber,
        /// Whether the topic has its own limits; otherwise the daemon's apply.
        own: bool,
        /// The topic's own limits: age in nanoseconds, and bytes. 0 for none.
        for_ns: u64,
        bytes: u64,
        /// First sequence number that is retained.
        from: u64,
    },
    /// A channel's read cursor was moved to `to`. Forward: all messages before `to` are finished. Back: all messages
    /// from `to` on are handed out again.
    ChannelMoved { topic: TopicNumber, channel: ChannelNumber, to: u64, forward: bool },
    /// All of the topic's own settings, in the text form of their owner; empty for none.
    TopicSettings { topic: TopicNumber, settings: &'a str },
    /// All of the channel's own settings, in the text form of their owner; empty for none.
    ChannelSettings { topic: TopicNumber, channel: ChannelNumber, settings: &'a str },
    /// The topic forgot the ids of all messages before this one.
    TopicIdsForgotten { topic: TopicNumber, before: u64 },
    /// The publish that follows in the same batch stores messages that another node had. They have the numbers from
    /// `first_sequence` on, and `states` says how they stood there. Without sources, the transfer is complete.
    Adopted {
        topic: TopicNumber,
        /// The channel that receives them. `None`: all channels of the topic.
        channel: Option<ChannelNumber>,
        transfer: TransferId,
        first_sequence: u64,
        /// The messages of the newest batch of this transfer, by their numbers on the other node. Some of them may have
        /// been stored before.
        sources: RunList<'a>,
        states: StateList<'a>,
    },
    /// An empty or a move forward was undone: these messages are unfinished again. The read cursor was at `cursor`.
    ChannelUndone { topic: TopicNumber, channel: ChannelNumber, cursor: u64, runs: RunList<'a> },
}

/// Declares the kinds and their bytes once, so that a kind that can be written can also be read.
macro_rules! kinds {
    ($($name:ident = $byte:literal,)*) => {
        /// The first byte of a record. 0 is never a kind, so zeros never look like a record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        enum Kind {
            $($name = $byte,)*
        }

        impl Kind {
            #[cfg(test)]
            const ALL: &[Kind] = &[$(Kind::$name,)*];

            fn of_byte(byte: u8) -> Option<Kind> {
                match byte {
                    $($byte => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    Publish = 1,
    PublishDeferred = 2,
    Finish = 3,
    Requeue = 4,
    TopicCreated = 5,
    TopicDeleted = 6,
    TopicState = 7,
    TopicSkipped = 8,
    ChannelCreated = 9,
    ChannelDeleted = 10,
    ChannelPaused = 11,
    ChannelEmptied = 12,
    TopicRetention = 13,
    ChannelMoved = 14,
    TopicSettings = 15,
    ChannelSettings = 16,
    // 17 is a batch.
    RequeueCounted = 18,
    Removed = 19,
    PublishTargeted = 20,
    TopicIdsForgotten = 30,
    Adopted = 37,
    ChannelUndone = 38,
}

/// Why bytes are not a record of a known kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("unknown record kind {0}")]
    UnknownKind(u8),
    /// Too short, too long, or a field with an impossible value.
    #[error("malformed record")]
    Malformed,
}

impl<'a> Record<'a> {
    /// The topic that the record is about.
    pub fn topic(&self) -> TopicNumber {
        match *self {
            Record::Publish { topic, .. }
            | Record::Finish { topic, .. }
            | Record::Requeue { topic, .. }
            | Record::Removed { topic, .. }
            | Record::TopicCreated { topic, .. }
            | Record::TopicDeleted { topic }
            | Record::TopicState { topic, .. }
            | Record::TopicSkipped { topic, .. }
            | Record::TopicRetention { topic, .. }
            | Record::ChannelCreated { topic, .. }
            | Record::ChannelDeleted { topic, .. }
            | Record::ChannelPaused { topic, .. }
            | Record::ChannelEmptied { topic, .. }
            | Record::ChannelMoved { topic, .. }
            | Record::TopicSettings { topic, .. }
            | Record::ChannelSettings { topic, .. }
            | Record::ChannelUndone { topic, .. }
            | Record::Adopted { topic, .. }
            | Record::TopicIdsForgotten { topic, .. } => topic,
        }
    }

    /// The channel that the record is about; `None` if it is about a whole topic.
    pub fn channel(&self) -> Option<ChannelNumber> {
        match *self {
            Record::Finish { channel, .. }
            | Record::Requeue { channel, .. }
            | Record::Removed { channel, .. }
            | Record::ChannelCreated { channel, .. }
            | Record::ChannelDeleted { channel, .. }
            | Record::ChannelPaused { channel, .. }
            | Record::ChannelEmptied { channel, .. }
            | Record::ChannelMoved { channel, .. }
            | Record::ChannelUndone { channel, .. }
            | Record::ChannelSettings { channel, .. } => Some(channel),
            Record::Adopted { channel, .. } => channel,
            Record::Publish { .. }
            | Record::TopicCreated { .. }
            | Record::TopicDeleted { .. }
            | Record::TopicState { .. }
            | Record::TopicSkipped { .. }
            | Record::TopicRetention { .. }
            | Record::TopicSettings { .. }
            | Record::TopicIdsForgotten { .. } => None,
        }
    }

    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Record::Publish { topic, first_sequence, count, due_ns, only: Some(channel), frames } => {
                put_topic(out, Kind::PublishTargeted, topic);
                out.extend_from_slice(&first_sequence.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
                out.extend_from_slice(&channel.to_le_bytes());
                out.extend_from_slice(&due_ns.unwrap_or(NOT_DEFERRED).to_le_bytes());
                out.extend_from_slice(frames);
            }
            Record::Publish { topic, first_sequence, count, due_ns, only: None, frames } => {
                let mut head = [0; 25];
                head[0] = if due_ns.is_some() { Kind::PublishDeferred } else { Kind::Publish } as u8;
                head[1..5].copy_from_slice(&topic.to_le_bytes());
                head[5..13].copy_from_slice(&first_sequence.to_le_bytes());
                head[13..17].copy_from_slice(&count.to_le_bytes());
                head[17..25].copy_from_slice(&due_ns.unwrap_or(0).to_le_bytes());
                out.extend_from_slice(if due_ns.is_some() { &head } else { &head[..17] });
                out.extend_from_slice(frames);
            }
            Record::Finish { topic, channel, runs } => {
                put_channel(out, Kind::Finish, topic, channel);
                runs.encode(out);
            }
            Record::Requeue { topic, channel, sequence, attempts, failures, due_ns } => {
                let kind = if failures == 0 { Kind::Requeue } else { Kind::RequeueCounted };
                put_channel(out, kind, topic, channel);
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&attempts.to_le_bytes());
                out.extend_from_slice(&due_ns.to_le_bytes());
                if failures > 0 {
                    out.extend_from_slice(&failures.to_le_bytes());
                }
            }
            Record::Removed { topic, channel, runs } => {
                put_channel(out, Kind::Removed, topic, channel);
                runs.encode(out);
            }
            Record::TopicCreated { topic, name, first_sequence } => {
                put_topic(out, Kind::TopicCreated, topic);
                out.extend_from_slice(&first_sequence.to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Record::TopicDeleted { topic } => put_topic(out, Kind::TopicDeleted, topic),
            Record::TopicState { topic, paused, released, releasing } => {
                put_topic(out, Kind::TopicState, topic);
                out.push(u8::from(paused));
                out.extend_from_slice(&released.to_le_bytes());
                out.push(u8::from(releasing));
            }
            Record::TopicSkipped { topic, from, to } => {
                put_topic(out, Kind::TopicSkipped, topic);
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&to.to_le_bytes());
            }
            Record::ChannelCreated { topic, channel, name, cursor } => {
                put_channel(out, Kind::ChannelCreated, topic, channel);
                out.extend_from_slice(&cursor.to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Record::ChannelDeleted { topic, channel } => {
                put_channel(out, Kind::ChannelDeleted, topic, channel);
            }
            Record::ChannelPaused { topic, channel, paused } => {
                put_channel(out, Kind::ChannelPaused, topic, channel);
                out.push(u8::from(paused));
            }
            Record::ChannelEmptied { topic, channel, up_to } => {
                put_channel(out, Kind::ChannelEmptied, topic, channel);
                out.extend_from_slice(&up_to.to_le_bytes());
            }
            Record::TopicRetention { topic, own, for_ns, bytes, from } => {
                put_topic(out, Kind::TopicRetention, topic);
                out.push(u8::from(own));
                out.extend_from_slice(&for_ns.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
                out.extend_from_slice(&from.to_le_bytes());
            }
            Record::ChannelMoved { topic, channel, to, forward } => {
                put_channel(out, Kind::ChannelMoved, topic, channel);
                out.extend_from_slice(&to.to_le_bytes());
                out.push(u8::from(forward));
            }
            Record::TopicSettings { topic, settings } => {
                put_topic(out, Kind::TopicSettings, topic);
                out.extend_from_slice(settings.as_bytes());
            }
            Record::ChannelSettings { topic, channel, settings } => {
                put_channel(out, Kind::ChannelSettings, topic, channel);
                out.extend_from_slice(settings.as_bytes());
            }
            Record::ChannelUndone { topic, channel, cursor, runs } => {
                put_channel(out, Kind::ChannelUndone, topic, channel);
                out.extend_from_slice(&cursor.to_le_bytes());
                runs.encode(out);
            }
            Record::Adopted { topic, channel, transfer, first_sequence, sources, states } => {
                put_channel(out, Kind::Adopted, topic, channel.unwrap_or(ChannelNumber::MAX));
                out.extend_from_slice(&transfer.0.to_le_bytes());
                out.extend_from_slice(&first_sequence.to_le_bytes());
                let at = out.len();
                out.extend_from_slice(&[0; 4]);
                sources.encode(out);
                let bytes = (out.len() - at - 4) as u32;
                out[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
                states.encode(out);
            }
            Record::TopicIdsForgotten { topic, before } => {
                put_topic(out, Kind::TopicIdsForgotten, topic);
                out.extend_from_slice(&before.to_le_bytes());
            }
        }
    }

    /// Decodes a record that fills all of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (&byte, rest) = bytes.split_first().ok_or(RecordError::Malformed)?;
        let kind = Kind::of_byte(byte).ok_or(RecordError::UnknownKind(byte))?;
        let mut fields = Fields(rest);
        Self::decode_fields(kind, &mut fields).filter(|_| fields.0.is_empty()).ok_or(RecordError::Malformed)
    }

    fn decode_fields(kind: Kind, fields: &mut Fields<'a>) -> Option<Self> {
        let topic = fields.topic()?;
        Some(match kind {
            Kind::Publish | Kind::PublishDeferred | Kind::PublishTargeted => {
                let first_sequence = fields.sequence()?;
                let count = fields.u32()?;
                if first_sequence + u64::from(count) > SEQUENCES {
                    return None;
                }
                let only = if kind == Kind::PublishTargeted { Some(fields.channel()?) } else { None };
                let due_ns = if kind == Kind::Publish { None } else { Some(fields.i64()?) };
                let due_ns = due_ns.filter(|due_ns| only.is_none() || *due_ns != NOT_DEFERRED);
                Record::Publish { topic, first_sequence, count, due_ns, only, frames: fields.rest() }
            }
            Kind::Finish => {
                let channel = fields.channel()?;
                Record::Finish { topic, channel, runs: RunList::decode(fields.rest())? }
            }
            Kind::Removed => {
                let channel = fields.channel()?;
                Record::Removed { topic, channel, runs: RunList::decode(fields.rest())? }
            }
            Kind::Requeue | Kind::RequeueCounted => Record::Requeue {
                topic,
                channel: fields.channel()?,
                sequence: fields.sequence()?,
                attempts: fields.u16()?,
                due_ns: fields.i64()?,
                failures: match kind {
                    Kind::Requeue => 0,
                    _ => Some(fields.u16()?).filter(|failures| *failures > 0)?,
                },
            },
            Kind::TopicCreated => {
                let first_sequence = fields.sequence()?;
                Record::TopicCreated { topic, name: fields.text()?, first_sequence }
            }
            Kind::TopicDeleted => Record::TopicDeleted { topic },
            Kind::TopicState => Record::TopicState {
                topic,
                paused: fields.bool()?,
                released: fields.sequence()?,
                releasing: fields.bool()?,
            },
            Kind::TopicSkipped => {
                Record::TopicSkipped { topic, from: fields.sequence()?, to: fields.sequence()? }
            }
            Kind::ChannelCreated => {
                let channel = fields.channel()?;
                let cursor = fields.sequence()?;
                Record::ChannelCreated { topic, channel, name: fields.text()?, cursor }
            }
            Kind::ChannelDeleted => Record::ChannelDeleted { topic, channel: fields.channel()? },
            Kind::ChannelPaused => {
                Record::ChannelPaused { topic, channel: fields.channel()?, paused: fields.bool()? }
            }
            Kind::ChannelEmptied => {
                Record::ChannelEmptied { topic, channel: fields.channel()?, up_to: fields.sequence()? }
            }
            Kind::TopicRetention => Record::TopicRetention {
                topic,
                own: fields.bool()?,
                for_ns: fields.u64()?,
                bytes: fields.u64()?,
                from: fields.u64()?,
            },
            Kind::ChannelMoved => Record::ChannelMoved {
                topic,
                channel: fields.channel()?,
                to: fields.sequence()?,
                forward: fields.bool()?,
            },
            Kind::TopicSettings => Record::TopicSettings { topic, settings: fields.text()? },
            Kind::ChannelSettings => {
                let channel = fields.channel()?;
                Record::ChannelSettings { topic, channel, settings: fields.text()? }
            }
            Kind::ChannelUndone => {
                let (channel, cursor) = (fields.channel()?, fields.sequence()?);
                Record::ChannelUndone { topic, channel, cursor, runs: RunList::decode(fields.rest())? }
            }
            Kind::Adopted => {
                let channel = ChannelNumber(fields.u32()?);
                let transfer = TransferId(fields.array().map(u128::from_le_bytes)?);
                let first_sequence = fields.sequence()?;
                let bytes = fields.u32()? as usize;
                let sources = RunList::decode(fields.take(bytes)?)?;
                let states = StateList::decode(fields.rest())?;
                if first_sequence.checked_add(states.count())? > SEQUENCES {
                    return None;
                }
                let channel = (channel < ChannelNumber::MAX).then_some(channel);
                Record::Adopted { topic, channel, transfer, first_sequence, sources, states }
            }
            Kind::TopicIdsForgotten => Record::TopicIdsForgotten { topic, before: fields.sequence()? },
        })
    }
}

/// The topic and the last sequence number of an encoded record, if it publishes a batch.
///
/// The journal calls this for every record that it writes, so it avoids a full decode.
pub(super) fn published(bytes: &[u8]) -> Option<(TopicNumber, u64)> {
    let (&kind, rest) = bytes.split_first()?;
    const KINDS: [u8; 3] = [Kind::Publish as u8, Kind::PublishDeferred as u8, Kind::PublishTargeted as u8];
    if !KINDS.contains(&kind) {
        return None;
    }
    let mut fields = Fields(rest);
    let topic = TopicNumber(fields.u32()?);
    let first_sequence = fields.u64()?;
    let count = fields.u32()?;
    Some((topic, first_sequence.saturating_add(u64::from(count)).saturating_sub(1)))
}

fn put_topic(out: &mut Vec<u8>, kind: Kind, topic: TopicNumber) {
    out.push(kind as u8);
    out.extend_from_slice(&topic.to_le_bytes());
}

fn put_channel(out: &mut Vec<u8>, kind: Kind, topic: TopicNumber, channel: ChannelNumber) {
    put_topic(out, kind, topic);
    out.extend_from_slice(&channel.to_le_bytes());
}

/// Ranges of sequence numbers, in any order.
///
/// On disk each range is a run of two varints: the distance from the end of the previous run (zigzag, since the
/// order is free), and the length. Only this type and its iterator convert between the two. A decoded list parses its bytes while it is iterated.
#[derive(Clone, Copy)]
pub struct RunList<'a>(RunListKind<'a>);

#[derive(Clone, Copy)]
enum RunListKind<'a> {
    Plain(&'a [SequenceRange]),
    /// Already checked: every varint is whole and every sum stays within u64.
    Coded(&'a [u8]),
}

impl<'a> From<&'a [SequenceRange]> for RunList<'a> {
    fn from(runs: &'a [SequenceRange]) -> Self {
        Self(RunListKind::Plain(runs))
    }
}

impl<'a, const N: usize> From<&'a [SequenceRange; N]> for RunList<'a> {
    fn from(runs: &'a [SequenceRange; N]) -> Self {
        Self(RunListKind::Plain(runs))
    }
}

impl<'a> RunList<'a> {
    /// The ranges. None ends beyond the last sequence number if the list was decoded.
    pub fn iter(&self) -> impl Iterator<Item = SequenceRange> + use<'a> {
        let (mut plain, mut coded) = match self.0 {
            RunListKind::Plain(runs) => (runs.iter(), CodedRuns::new(&[])),
            RunListKind::Coded(bytes) => ([].iter(), CodedRuns::new(bytes)),
        };
        std::iter::from_fn(move || plain.next().copied().or_else(|| coded.next()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self.0 {
            RunListKind::Plain(runs) => {
                let mut end = 0_u64;
                for run in runs {
                    put_varint(out, zigzag(run.from.wrapping_sub(end) as i64));
                    put_varint(out, run.len());
                    end = run.from + run.len();
                }
            }
            RunListKind::Coded(bytes) => out.extend_from_slice(bytes),
        }
    }

    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut runs = CodedRuns::new(bytes);
        while !runs.fields.0.is_empty() {
            let (first, length) = runs.next_run()?;
            first.checked_add(length).filter(|&end| end <= SEQUENCES)?;
        }
        Some(Self(RunListKind::Coded(bytes)))
    }
}

impl PartialEq for RunList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for RunList<'_> {}

impl fmt::Debug for RunList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The move of a channel's messages, or of a topic's, from one node to another. Random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u128);

/// 32 hexadecimal digits.
impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for TransferId {
    type Err = InvalidTransferId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let parsed = if is_hex { u128::from_str_radix(text, 16).ok() } else { None };
        parsed.map(TransferId).ok_or(InvalidTransferId)
    }
}

/// The text is not a [`TransferId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits in lower case")]
pub struct InvalidTransferId;

/// How consecutive messages stood on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdoptedState {
    /// Number of messages, not 0.
    pub count: u32,
    /// Deliveries so far.
    pub attempts: u16,
    /// Failed deliveries, if they are counted.
    pub failures: u16,
    /// When they are due, wall clock, nanoseconds; `None` if they can be handed out.
    pub due_ns: Option<i64>,
}

/// How messages stood on another node, in the order of their sequence numbers.
#[derive(Clone, Copy)]
pub struct StateList<'a>(StateListKind<'a>);

#[derive(Clone, Copy)]
enum StateListKind<'a> {
    Plain(&'a [AdoptedState]),
    /// Already checked.
    Coded(&'a [u8]),
}

/// Bytes of an encoded [`AdoptedState`].
const STATE_BYTES: usize = 16;

impl<'a> From<&'a [AdoptedState]> for StateList<'a> {
    fn from(states: &'a [AdoptedState]) -> Self {
        Self(StateListKind::Plain(states))
    }
}

impl<'a> StateList<'a> {
    pub fn iter(&self) -> impl Iterator<Item = AdoptedState> + use<'a> {
        let (plain, mut coded): (&[AdoptedState], _) = match self.0 {
            StateListKind::Plain(states) => (states, Fields(&[])),
            StateListKind::Coded(bytes) => (&[], Fields(bytes)),
        };
        plain.iter().copied().chain(std::iter::from_fn(move || Self::state(&mut coded)))
    }

    /// Number of messages.
    pub fn count(&self) -> u64 {
        self.iter().map(|state| u64::from(state.count)).sum()
    }

    fn state(fields: &mut Fields<'_>) -> Option<AdoptedState> {
        Some(AdoptedState {
            count: fields.u32()?,
            attempts: fields.u16()?,
            failures: fields.u16()?,
            due_ns: fields.i64().map(|due_ns| Some(due_ns).filter(|due_ns| *due_ns != NOT_DEFERRED))?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for AdoptedState { count, attempts, failures, due_ns } in self.iter() {
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&attempts.to_le_bytes());
            out.extend_from_slice(&failures.to_le_bytes());
            out.extend_from_slice(&due_ns.unwrap_or(NOT_DEFERRED).to_le_bytes());
        }
    }

    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let list = Self(StateListKind::Coded(bytes));
        (bytes.len().is_multiple_of(STATE_BYTES) && list.iter().all(|state| state.count > 0)).then_some(list)
    }
}

impl PartialEq for StateList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for StateList<'_> {}

impl fmt::Debug for StateList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

struct CodedRuns<'a> {
    fields: Fields<'a>,
    end: u64,
}

impl<'a> CodedRuns<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { fields: Fields(bytes), end: 0 }
    }

    fn next(&mut self) -> Option<SequenceRange> {
        let (first, length) = self.next_run()?;
        Some(SequenceRange::new(first, first.wrapping_add(length)))
    }

    /// The first sequence number of the next run, and its length. Their sum may exceed `u64` if it was not checked.
    fn next_run(&mut self) -> Option<(u64, u64)> {
        let first = self.end.wrapping_add(unzigzag(self.fields.varint()?) as u64);
        let length = self.fields.varint()?;
        self.end = first.wrapping_add(length);
        Some((first, length))
    }
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes left to read. Each method takes its bytes from the front, or returns `None` if there are too few.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A topic's number, one that can be given.
    fn topic(&mut self) -> Option<TopicNumber> {
        self.u32().map(TopicNumber).filter(|&number| number < TopicNumber::MAX)
    }

    /// A channel's number, one that can be given.
    fn channel(&mut self) -> Option<ChannelNumber> {
        self.u32().map(ChannelNumber).filter(|&number| number < ChannelNumber::MAX)
    }

    /// A sequence number, or one past the last.
    fn sequence(&mut self) -> Option<u64> {
        self.u64().filter(|&sequence| sequence <= SEQUENCES)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(bytes)?;
        self.0 = tail;
        Some(head)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.rest()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Owned parts of a record of any kind, because a proptest strategy cannot return references.
    #[derive(Clone, Debug)]
    struct Parts {
        kind: Kind,
        topic: TopicNumber,
        channel: ChannelNumber,
        sequences: (u64, u64),
        count: u32,
        due: i64,
        attempts: u16,
        flags: (bool, bool),
        name: String,
        frames: Vec<u8>,
        runs: Vec<SequenceRange>,
        states: Vec<AdoptedState>,
    }

    impl Parts {
        fn record(&self) -> Record<'_> {
            let (topic, channel) = (self.topic, self.channel);
            let (a, b) = self.sequences;
            match self.kind {
                Kind::Publish | Kind::PublishDeferred | Kind::PublishTargeted => Record::Publish {
                    topic,
                    first_sequence: a >> 1,
                    count: self.count,
                    due_ns: (self.kind == Kind::PublishDeferred || self.flags.0).then_some(self.due),
                    only: (self.kind == Kind::PublishTargeted).then_some(channel),
                    frames: &self.frames,
                },
                Kind::Finish => Record::Finish { topic, channel, runs: self.runs.as_slice().into() },
                Kind::Removed => Record::Removed { topic, channel, runs: self.runs.as_slice().into() },
                Kind::Requeue | Kind::RequeueCounted => Record::Requeue {
                    topic,
                    channel,
                    sequence: a,
                    attempts: self.attempts,
                    failures: if self.kind == Kind::Requeue { 0 } else { self.attempts.max(1) },
                    due_ns: self.due,
                },
                Kind::TopicCreated => Record::TopicCreated { topic, name: &self.name, first_sequence: a },
                Kind::TopicDeleted => Record::TopicDeleted { topic },
                Kind::TopicState => {
                    Record::TopicState { topic, paused: self.flags.0, released: a, releasing: self.flags.1 }
                }
                Kind::TopicSkipped => Record::TopicSkipped { topic, from: a, to: b },
                Kind::ChannelCreated => {
                    Record::ChannelCreated { topic, channel, name: &self.name, cursor: a }
                }
                Kind::ChannelDeleted => Record::ChannelDeleted { topic, channel },
                Kind::ChannelPaused => Record::ChannelPaused { topic, channel, paused: self.flags.0 },
                Kind::ChannelEmptied => Record::ChannelEmptied { topic, channel, up_to: a },
                Kind::TopicRetention => {
                    let (for_ns, bytes) = (u64::from(self.count), u64::from(self.attempts));
                    Record::TopicRetention { topic, own: self.flags.0, for_ns, bytes, from: a }
                }
                Kind::ChannelMoved => Record::ChannelMoved { topic, channel, to: a, forward: self.flags.0 },
                Kind::TopicSettings => Record::TopicSettings { topic, settings: &self.name },
                Kind::ChannelSettings => Record::ChannelSettings { topic, channel, settings: &self.name },
                Kind::ChannelUndone => {
                    Record::ChannelUndone { topic, channel, cursor: a, runs: self.runs.as_slice().into() }
                }
                Kind::Adopted => Record::Adopted {
                    topic,
                    channel: self.flags.0.then_some(channel),
                    transfer: TransferId(u128::from(a) << 64 | u128::from(b)),
                    first_sequence: a >> 1,
                    sources: self.runs.as_slice().into(),
                    states: self.states.as_slice().into(),
                },
                Kind::TopicIdsForgotten => Record::TopicIdsForgotten { topic, before: a },
            }
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        (
            (
                prop::sample::select(Kind::ALL),
                (0..u32::MAX, 0..u32::MAX),
                (0..=SEQUENCES, 0..=SEQUENCES),
                any::<u32>(),
                any::<i64>(),
            ),
            (any::<u16>(), any::<(bool, bool)>(), ".{0,20}", any::<Vec<u8>>()),
            prop::collection::vec(
                (0..=SEQUENCES / 2, 0..=SEQUENCES / 2)
                    .prop_map(|(from, length)| SequenceRange::new(from, from + length)),
                0..20,
            ),
            prop::collection::vec(states(), 0..9),
        )
            .prop_map(|(a, b, runs, states)| Parts {
                kind: a.0,
                topic: TopicNumber(a.1.0),
                channel: ChannelNumber(a.1.1),
                sequences: a.2,
                count: a.3,
                due: a.4,
                attempts: b.0,
                flags: b.1,
                name: b.2,
                frames: b.3,
                runs,
                states,
            })
    }

    fn states() -> impl Strategy<Value = AdoptedState> {
        let due_ns = prop::option::of(NOT_DEFERRED + 1..);
        (1_u32.., any::<u16>(), any::<u16>(), due_ns).prop_map(|(count, attempts, failures, due_ns)| {
            AdoptedState { count, attempts, failures, due_ns }
        })
    }

    proptest! {
        #[test]
        fn records_round_trip(parts in parts()) {
            let record = parts.record();
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let decoded = Record::decode(&bytes).unwrap();
            prop_assert_eq!(decoded, record);
            let mut again = Vec::new();
            decoded.encode(&mut again);
            prop_assert_eq!(bytes, again);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            if let Ok(Record::Finish { runs, .. } | Record::Removed { runs, .. }) = Record::decode(&bytes) {
                runs.iter().for_each(drop);
            }
            published(&bytes);
        }
    }

    #[test]
    fn the_last_published_sequence_is_read_without_decoding() {
        let mut bytes = Vec::new();
        Record::Publish {
            topic: TopicNumber(7),
            first_sequence: 10,
            count: 3,
            due_ns: Some(1),
            only: None,
            frames: b"x",
        }
        .encode(&mut bytes);
        assert_eq!(published(&bytes), Some((TopicNumber(7), 12)));
        bytes.clear();
        Record::Publish {
            topic: TopicNumber(7),
            first_sequence: 10,
            count: 3,
            due_ns: None,
            only: Some(ChannelNumber(9)),
            frames: b"x",
        }
        .encode(&mut bytes);
        assert_eq!(published(&bytes), Some((TopicNumber(7), 12)));
        assert_eq!(published(&[Kind::TopicDeleted as u8, 0, 0, 0, 0]), None);
    }

    #[test]
    fn zeros_and_trailing_bytes_are_rejected() {
        assert_eq!(Record::decode(&[0; 40]), Err(RecordError::UnknownKind(0)));
        assert_eq!(Record::decode(&[Kind::TopicDeleted as u8, 1, 0, 0, 0, 9]), Err(RecordError::Malformed));
        assert_eq!(Record::decode(&[]), Err(RecordError::Malformed));
    }

    #[test]
    fn impossible_numbers_are_rejected() {
        for record in [
            Record::TopicDeleted { topic: TopicNumber::MAX },
            Record::ChannelDeleted { topic: TopicNumber(1), channel: ChannelNumber::MAX },
            Record::Requeue {
                topic: TopicNumber(1),
                channel: ChannelNumber(1),
                sequence: SEQUENCES + 1,
                attempts: 1,
                failures: 0,
                due_ns: 0,
            },
            Record::Finish {
                topic: TopicNumber(1),
                channel: ChannelNumber(1),
                runs: (&[SequenceRange::one(SEQUENCES)]).into(),
            },
            Record::Publish {
                topic: TopicNumber(1),
                first_sequence: SEQUENCES,
                count: 1,
                due_ns: None,
                only: None,
                frames: b"",
            },
            Record::ChannelMoved {
                topic: TopicNumber(1),
                channel: ChannelNumber(1),
                to: u64::MAX,
                forward: true,
            },
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes), Err(RecordError::Malformed), "{record:?}");
        }
    }

    #[test]
    fn consecutive_finishes_take_a_few_bytes() {
        let mut bytes = Vec::new();
        Record::Finish {
            topic: TopicNumber(1),
            channel: ChannelNumber(1),
            runs: (&[SequenceRange::one(1000), SequenceRange::new(1002, 1052)]).into(),
        }
        .encode(&mut bytes);
        assert_eq!(bytes.len(), 9 + 3 + 2);
    }
}
