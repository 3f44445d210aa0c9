//! Pure: selects the messages of a topic that a start would still deliver, from the topic's state in a checkpoint.

use std::collections::BTreeMap;

use nsqd::storage::SequenceRange;
use nsqd::storage::checkpoint::{ChannelCheckpoint, TopicCheckpoint};

/// Consecutive messages with the same attempts and due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    /// Sequence number of the first message.
    pub(super) from: u64,
    /// One past the last message.
    pub(super) to: u64,
    /// Deliveries so far.
    pub(super) attempts: u16,
    /// Due time of deferred messages; `None` for messages that are due.
    pub(super) due_ns: Option<i64>,
}

/// The unfinished messages of a channel: first those that were handed out or deferred, then those ahead of its
/// cursor.
pub(super) fn of_channel(channel: &ChannelCheckpoint, released: u64, now_ns: i64) -> Vec<Selected> {
    let mut selected = Vec::new();
    for entry in &channel.outstanding {
        let due_ns = Some(entry.due_ns).filter(|&due| due > now_ns);
        push(&mut selected, entry.sequence, entry.sequence + 1, entry.attempts, due_ns);
    }
    holes(channel.cursor, released, &channel.skipped_ahead, |from, to| {
        push(&mut selected, from, to, 0, None);
    });
    selected
}

/// The messages that no channel has yet.
pub(super) fn held_back(topic: &TopicCheckpoint, now_ns: i64) -> Vec<Selected> {
    let due: BTreeMap<u64, i64> = topic.unreleased_deferred.iter().copied().collect();
    let mut selected = Vec::new();
    holes(topic.released, topic.next_sequence, &topic.skipped, |from, to| {
        let mut at = from;
        for (&sequence, &due_ns) in due.range(from..to) {
            push(&mut selected, at, sequence, 0, None);
            push(&mut selected, sequence, sequence + 1, 0, Some(due_ns).filter(|&due| due > now_ns));
            at = sequence + 1;
        }
        push(&mut selected, at, to, 0, None);
    });
    selected
}

/// The parts of `from..to` outside `runs`, which are ordered.
fn holes(from: u64, to: u64, runs: &[SequenceRange], mut show: impl FnMut(u64, u64)) {
    let mut at = from;
    for skipped in runs {
        if at < skipped.from.min(to) {
            show(at, skipped.from.min(to));
        }
        at = at.max(skipped.to);
    }
    if at < to {
        show(at, to);
    }
}

fn push(selected: &mut Vec<Selected>, from: u64, to: u64, attempts: u16, due_ns: Option<i64>) {
    match selected.last_mut() {
        _ if from >= to => {}
        Some(last) if (last.to, last.attempts, last.due_ns) == (from, attempts, due_ns) => last.to = to,
        _ => selected.push(Selected { from, to, attempts, due_ns }),
    }
}

#[cfg(test)]
mod tests {
    use nsqd::storage::checkpoint::OutstandingCheckpoint;

    use super::*;

    fn text(selected: &[Selected]) -> String {
        let part = |part: &Selected| {
            let due = part.due_ns.map(|due| format!("@{due}")).unwrap_or_default();
            format!("{}..{} x{}{due}", part.from, part.to, part.attempts)
        };
        selected.iter().map(part).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn unfinished_messages_of_a_channel_are_selected() {
        let outstanding = |sequence, attempts, due_ns| OutstandingCheckpoint { sequence, attempts, due_ns };
        let channel = ChannelCheckpoint {
            cursor: 20,
            skipped_ahead: vec![SequenceRange::new(22, 24), SequenceRange::new(30, 40)],
            outstanding: [
                outstanding(3, 1, 0),
                outstanding(4, 1, 50),
                outstanding(5, 2, 0),
                outstanding(9, 1, 101),
                outstanding(22, 0, 200),
            ]
            .into_iter()
            .collect(),
            ..ChannelCheckpoint::default()
        };
        assert_eq!(
            text(&of_channel(&channel, 35, 100)),
            "3..5 x1, 5..6 x2, 9..10 x1@101, 22..23 x0@200, 20..22 x0, 24..30 x0"
        );
        assert_eq!(text(&of_channel(&ChannelCheckpoint { cursor: 7, ..Default::default() }, 7, 0)), "");
    }

    #[test]
    fn unreleased_messages_of_a_topic_are_selected() {
        let topic = TopicCheckpoint {
            released: 10,
            next_sequence: 30,
            skipped: vec![SequenceRange::new(5, 12), SequenceRange::new(20, 22)],
            unreleased_deferred: vec![(13, 500), (14, 90)],
            ..TopicCheckpoint::default()
        };
        assert_eq!(text(&held_back(&topic, 100)), "12..13 x0, 13..14 x0@500, 14..20 x0, 22..30 x0");
    }
}
