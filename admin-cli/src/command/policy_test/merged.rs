//! Pure: sums of the tests of a policy file over all nodes.

use nsq_protocol::{PolicyTestResponse, TestedChannel, TestedRetention, TestedTopic};

/// Adds what another node reports about the same file.
pub fn add(sum: &mut PolicyTestResponse, other: PolicyTestResponse) {
    sum.complete &= other.complete;
    sum.stopped_by = sum.stopped_by.take().or(other.stopped_by);
    sum.since = sum.since.min(other.since);
    sum.examined += other.examined;
    sum.examined_bytes += other.examined_bytes;
    sum.untested_topics += other.untested_topics;
    for topic in other.topics {
        match sum.topics.iter_mut().find(|known| known.topic_name == topic.topic_name) {
            Some(known) => add_topic(known, topic),
            None => sum.topics.push(topic),
        }
    }
    sum.topics.sort_by(|a, b| a.topic_name.cmp(&b.topic_name));
}

fn add_topic(sum: &mut TestedTopic, other: TestedTopic) {
    sum.complete &= other.complete;
    sum.problem = sum.problem.take().or(other.problem);
    sum.retains |= other.retains;
    sum.message_count += other.message_count;
    sum.examined += other.examined;
    sum.examined_until = earlier(sum.examined_until, other.examined_until);
    sum.id_count = both(sum.id_count, other.id_count);
    sum.duplicate_count = both(sum.duplicate_count, other.duplicate_count);
    sum.retention = match (sum.retention.take(), other.retention) {
        (Some(a), Some(b)) => Some(TestedRetention {
            retained_count: a.retained_count + b.retained_count,
            retained_bytes: a.retained_bytes + b.retained_bytes,
            deleted_count: a.deleted_count + b.deleted_count,
            deleted_bytes: a.deleted_bytes + b.deleted_bytes,
        }),
        (a, b) => a.or(b),
    };
    for channel in other.channels {
        match sum.channels.iter_mut().find(|known| known.channel_name == channel.channel_name) {
            Some(known) => add_channel(known, channel),
            None => sum.channels.push(channel),
        }
    }
    sum.channels.sort_by(|a, b| a.channel_name.cmp(&b.channel_name));
}

fn add_channel(sum: &mut TestedChannel, other: TestedChannel) {
    sum.unfinished_count += other.unfinished_count;
    sum.expired_count = both(sum.expired_count, other.expired_count);
    sum.expired_become_dead_letters |= other.expired_become_dead_letters;
    sum.dead_letter_count = both(sum.dead_letter_count, other.dead_letter_count);
    sum.overflow_count = both(sum.overflow_count, other.overflow_count);
    // One node that goes by deliveries makes the sum an upper bound.
    sum.counted_by = match (sum.counted_by.take(), other.counted_by) {
        (Some(a), Some(b)) if a != b => Some(DELIVERIES.to_owned()),
        (a, b) => a.or(b),
    };
    sum.dead_letter_topic = sum.dead_letter_topic.take().or(other.dead_letter_topic);
}

/// The value of `counted_by` if failures are not known.
pub const DELIVERIES: &str = "deliveries";

fn both(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

fn earlier(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str, expired: Option<u64>, by: Option<&str>) -> TestedChannel {
        TestedChannel {
            channel_name: name.to_owned(),
            unfinished_count: 10,
            expired_count: expired,
            dead_letter_count: by.map(|_| 1),
            counted_by: by.map(str::to_owned),
            ..TestedChannel::default()
        }
    }

    fn answer(topic: TestedTopic) -> PolicyTestResponse {
        let (complete, examined) = (topic.complete, topic.examined);
        PolicyTestResponse { complete, examined, topics: vec![topic], ..PolicyTestResponse::default() }
    }

    #[test]
    fn nodes_are_added() {
        let topic = |name: &str, channels| TestedTopic {
            topic_name: name.to_owned(),
            complete: true,
            examined: 3,
            duplicate_count: Some(2),
            channels,
            ..TestedTopic::default()
        };
        let mut sum = answer(topic("b", vec![channel("x", Some(1), Some("failures"))]));
        add(
            &mut sum,
            answer(topic("b", vec![channel("x", None, Some(DELIVERIES)), channel("w", Some(4), None)])),
        );
        let stopped = TestedTopic { complete: false, examined_until: Some(7), ..topic("a", vec![]) };
        add(&mut sum, PolicyTestResponse { stopped_by: Some("time".to_owned()), ..answer(stopped) });
        assert_eq!((sum.complete, sum.examined, sum.stopped_by.as_deref()), (false, 9, Some("time")));
        let [a, b] = &sum.topics[..] else { panic!("{sum:?}") };
        assert_eq!((a.topic_name.as_str(), a.complete, a.examined_until), ("a", false, Some(7)));
        assert_eq!((b.complete, b.examined, b.duplicate_count), (true, 6, Some(4)));
        let [w, x] = &b.channels[..] else { panic!("{b:?}") };
        assert_eq!((w.channel_name.as_str(), w.unfinished_count, w.expired_count), ("w", 10, Some(4)));
        assert_eq!((x.unfinished_count, x.expired_count, x.dead_letter_count), (20, Some(1), Some(2)));
        assert_eq!(x.counted_by.as_deref(), Some(DELIVERIES));
    }
}
