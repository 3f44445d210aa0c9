//! Pure: sums over all nodes, and how a total is divided among them.

use std::cmp::Reverse;

use nsq_protocol::{DeadLetterGroup, DeadLettersResponse};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Adds what another node reports about the same topic.
pub fn add(sum: &mut DeadLettersResponse, other: DeadLettersResponse) {
    sum.dead_letters_of = sum.dead_letters_of.take().or(other.dead_letters_of);
    sum.total += other.total;
    sum.examined += other.examined;
    sum.more |= other.more;
    sum.other_count += other.other_count;
    earlier(&mut sum.oldest_at, other.oldest_at);
    later(&mut sum.newest_at, other.newest_at);
    for group in other.groups {
        match sum.groups.iter_mut().find(|known| is_same(known, &group)) {
            Some(known) => {
                known.count += group.count;
                earlier(&mut known.oldest_at, group.oldest_at);
                later(&mut known.newest_at, group.newest_at);
            }
            None => sum.groups.push(group),
        }
    }
    sum.groups.sort_by_key(|group| Reverse(group.count));
}

fn is_same(a: &DeadLetterGroup, b: &DeadLetterGroup) -> bool {
    let cause = |group: &DeadLetterGroup| {
        let DeadLetterGroup { reason, topic_name, channel_name, error, .. } = group;
        (reason.clone(), topic_name.clone(), channel_name.clone(), error.clone())
    };
    cause(a) == cause(b)
}

fn earlier(known: &mut Option<String>, other: Option<String>) {
    if known.is_none() || other.is_some() && moment(other.as_deref()) < moment(known.as_deref()) {
        *known = other.or(known.take());
    }
}

fn later(known: &mut Option<String>, other: Option<String>) {
    if known.is_none() || other.is_some() && moment(other.as_deref()) > moment(known.as_deref()) {
        *known = other.or(known.take());
    }
}

/// RFC 3339 without the last digits if these are zero, so texts cannot be compared.
fn moment(text: Option<&str>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text?, &Rfc3339).ok()
}

/// How many messages each node takes of `total`, if it has `held` of them: the first nodes take theirs first.
pub fn shares(total: u64, held: &[u64]) -> Vec<u64> {
    let mut left = total;
    let mut share = |held: &u64| {
        let share = left.min(*held);
        left -= share;
        share
    };
    held.iter().map(&mut share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(count: u64, error: &str, oldest: &str, newest: &str) -> DeadLettersResponse {
        let (oldest_at, newest_at) = (Some(oldest.to_owned()), Some(newest.to_owned()));
        let group = DeadLetterGroup {
            error: Some(error.to_owned()),
            count,
            oldest_at: oldest_at.clone(),
            newest_at: newest_at.clone(),
            ..DeadLetterGroup::default()
        };
        let sums = DeadLettersResponse { total: count, examined: count, ..DeadLettersResponse::default() };
        DeadLettersResponse { groups: vec![group], oldest_at, newest_at, ..sums }
    }

    #[test]
    fn nodes_are_added() {
        let mut sum = DeadLettersResponse::default();
        let second = |text: &str| format!("2026-01-01T00:00:0{text}Z");
        add(&mut sum, answer(2, "a", &second("1.5"), &second("1.75")));
        add(&mut sum, answer(3, "b", &second("1.25"), &second("1.5")));
        add(&mut sum, answer(4, "a", &second("1"), &second("2")));
        let counts: Vec<_> = sum.groups.iter().map(|group| (group.error.as_deref(), group.count)).collect();
        assert_eq!(counts, [(Some("a"), 6), (Some("b"), 3)]);
        assert_eq!((sum.total, sum.oldest_at, sum.newest_at), (9, Some(second("1")), Some(second("2"))));
        assert_eq!(sum.groups[0].newest_at, Some(second("2")));
    }

    #[test]
    fn a_total_is_divided_among_the_nodes_that_hold_messages() {
        assert_eq!(shares(10, &[3, 0, 9, 5]), [3, 0, 7, 0]);
        assert_eq!(shares(10, &[1, 2]), [1, 2]);
        assert_eq!(shares(1, &[]), [0; 0]);
    }
}
