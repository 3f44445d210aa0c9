//! Pure: counts dead letters by cause.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use nsq_protocol::{DeadLetterGroup, headers};

use super::dead_letter::{AT, CHANNEL, ERROR, REASON, TOPIC};

/// Maximum number of causes that are distinguished.
const MAX_GROUPS: usize = 1000;
/// Maximum length of an error's first line, in bytes.
const MAX_ERROR_BYTES: usize = 200;

/// Counts dead letters in the order in which they died.
#[derive(Debug, Default)]
pub struct DeadSummary {
    groups: BTreeMap<Cause, Count>,
    all: Count,
    other_count: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    topic: String,
    channel: String,
    reason: String,
    error: Option<String>,
}

#[derive(Debug, Default)]
struct Count {
    count: u64,
    oldest_at: Option<String>,
    newest_at: Option<String>,
}

impl DeadSummary {
    /// Counts a stored message.
    pub fn add(&mut self, frame: &[u8]) {
        let headers = headers::split_stored(frame).and_then(|(headers, _)| headers);
        let header = |key| headers.and_then(|headers| headers.get(key));
        let text = |key| header(key).map_or_else(String::new, Cow::into_owned);
        let cause = Cause {
            topic: text(TOPIC),
            channel: text(CHANNEL),
            reason: text(REASON),
            error: header(ERROR).map(|error| first_line(&error).to_owned()),
        };
        let at = header(AT);
        self.all.add(at.as_deref());
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&cause) {
            self.other_count += 1;
        } else {
            self.groups.entry(cause).or_default().add(at.as_deref());
        }
    }

    /// Number of counted messages.
    pub fn count(&self) -> u64 {
        self.all.count
    }

    /// Number of messages whose cause is not among the groups.
    pub fn other_count(&self) -> u64 {
        self.other_count
    }

    /// When the first and the last of them died, as far as they say so.
    pub fn period(&self) -> (Option<&str>, Option<&str>) {
        (self.all.oldest_at.as_deref(), self.all.newest_at.as_deref())
    }

    /// The groups, the largest first.
    pub fn into_groups(self) -> Vec<DeadLetterGroup> {
        let group = |(cause, count): (Cause, Count)| DeadLetterGroup {
            reason: cause.reason,
            topic_name: cause.topic,
            channel_name: cause.channel,
            error: cause.error,
            count: count.count,
            oldest_at: count.oldest_at,
            newest_at: count.newest_at,
        };
        let mut groups: Vec<_> = self.groups.into_iter().map(group).collect();
        groups.sort_by_key(|group| Reverse(group.count));
        groups
    }
}

impl Count {
    fn add(&mut self, at: Option<&str>) {
        self.count += 1;
        if let Some(at) = at {
            self.oldest_at.get_or_insert_with(|| at.to_owned());
            self.newest_at = Some(at.to_owned());
        }
    }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let ends = line.char_indices().map(|(start, c)| start + c.len_utf8());
    &line[..ends.take_while(|end| *end <= MAX_ERROR_BYTES).last().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use nsq_protocol::headers::{Form, HeadersBuf, put_published, put_stored_frame};
    use nsq_protocol::message_id::MessageId;

    use super::*;

    fn frame(headers: &[(&str, &str)]) -> Vec<u8> {
        let headers = HeadersBuf::from_pairs(headers.iter().copied()).unwrap();
        let (mut published, mut frame) = (Vec::new(), Vec::new());
        put_published(&mut published, headers.as_headers(), b"body");
        put_stored_frame(&mut frame, 1, 1, MessageId::from_u64(1), Form::WithHeaders, &published);
        frame
    }

    #[test]
    fn dead_letters_are_counted_by_reason_origin_and_first_line_of_the_error() {
        let mut summary = DeadSummary::default();
        let died = |channel, error, at| {
            frame(&[(REASON, "attempts"), (TOPIC, "t"), (CHANNEL, channel), (AT, at), (ERROR, error)])
        };
        summary.add(&died("a", "E1\nat 5", "1"));
        summary.add(&frame(&[]));
        summary.add(&died("a", "E1\nat 7", "2"));
        summary.add(&died("a", "E2", "3"));
        summary.add(&died("b", "E1", "4"));
        assert_eq!((summary.count(), summary.period()), (5, (Some("1"), Some("4"))));
        let groups = summary.into_groups();
        let shown = |group: &DeadLetterGroup| {
            format!("{}/{} {:?} {}", group.topic_name, group.channel_name, group.error, group.count)
        };
        let groups: Vec<String> = groups.iter().map(shown).collect();
        assert_eq!(groups, ["t/a Some(\"E1\") 2", "/ None 1", "t/a Some(\"E2\") 1", "t/b Some(\"E1\") 1"]);
    }

    #[test]
    fn the_number_of_groups_and_the_length_of_errors_are_limited() {
        let mut summary = DeadSummary::default();
        for number in 0..MAX_GROUPS + 5 {
            summary.add(&frame(&[(ERROR, &format!("{number}"))]));
        }
        assert_eq!(summary.other_count(), 5);
        assert_eq!(summary.into_groups().len(), MAX_GROUPS);
        assert_eq!(first_line(&"ä".repeat(200)).len(), MAX_ERROR_BYTES);
    }
}
