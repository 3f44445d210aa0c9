//! Pure: the headers of a dead letter, which say where it came from, and how it is turned back into the message.

use std::borrow::Cow;

use nsq_protocol::headers::{self, Form, Headers, HeadersBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::log::chunk;
use crate::policy::dead_letter::Reason;

/// Why a message became a dead letter.
pub const REASON: &str = "nsq-dead-reason";
/// What a consumer said when it rejected the message.
pub const ERROR: &str = "nsq-dead-error";
/// The topic in which it died.
pub const TOPIC: &str = "nsq-dead-topic";
/// The channel in which it died.
pub const CHANNEL: &str = "nsq-dead-channel";
/// Its id there.
pub const ID: &str = "nsq-dead-id";
/// Its deliveries there.
pub const ATTEMPTS: &str = "nsq-dead-attempts";
/// When it died: UTC, RFC 3339.
pub const AT: &str = "nsq-dead-at";
/// How many times it became a dead letter without being redriven.
pub const HOPS: &str = "nsq-dead-hops";
/// Set if the message's own headers were too long to be kept beside these.
pub const CUT: &str = "nsq-dead-headers-cut";

const PREFIX: &str = "nsq-dead-";
/// A message becomes a dead letter at most this many times in a row, so that dead-letter topics that name each other
/// do not pass it around for ever.
pub const MAX_HOPS: u32 = 3;

/// Where a message died.
#[derive(Debug, Clone, Copy)]
pub struct Death<'a> {
    pub reason: Reason,
    /// What a consumer said about it.
    pub error: Option<&'a str>,
    pub topic: &'a str,
    pub channel: &'a str,
    /// Deliveries in that channel.
    pub attempts: u16,
    /// Wall clock, nanoseconds.
    pub at_ns: i64,
}

/// What to publish for a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    pub form: Form,
    /// In the layout of `form`.
    pub bytes: Vec<u8>,
}

/// Turns a stored message into a dead letter, which always has headers. `None` if the message has been one too often.
pub fn dead_letter(frame: &[u8], death: &Death<'_>) -> Option<Published> {
    let (own, body) = headers::split_stored(frame).unwrap_or((None, &[]));
    let hops = own.and_then(|own| own.get(HOPS)).and_then(|hops| hops.parse::<u32>().ok()).unwrap_or(0);
    if hops >= MAX_HOPS {
        return None;
    }
    let id = chunk::id(frame).map(|id| format!("{id:016x}")).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(death.at_ns))
        .ok()
        .and_then(|at| at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default();
    let (attempts, hops) = (death.attempts.to_string(), (hops + 1).to_string());
    let mut added = vec![
        (REASON, death.reason.as_str()),
        (TOPIC, death.topic),
        (CHANNEL, death.channel),
        (ID, &id),
        (ATTEMPTS, &attempts),
        (AT, &at),
        (HOPS, &hops),
    ];
    added.extend(death.error.map(|error| (ERROR, error)));
    let kept = without_ours(own);
    let kept = kept.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
    let all = HeadersBuf::from_pairs(kept.chain(added.iter().copied()))
        .or_else(|_| HeadersBuf::from_pairs(added.iter().copied().chain([(CUT, "true")])))
        .unwrap_or_default();
    Some(with_headers(all.as_headers(), body))
}

/// Turns a stored dead letter back into the message that was published.
pub fn revived(frame: &[u8]) -> Published {
    let (own, body) = headers::split_stored(frame).unwrap_or((None, &[]));
    let kept = without_ours(own);
    if kept.is_empty() {
        return Published { form: Form::Plain, bytes: body.to_vec() };
    }
    // It cannot be longer than it was.
    let kept = HeadersBuf::from_pairs(kept.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
    with_headers(kept.unwrap_or_default().as_headers(), body)
}

/// The topic and the channel in which a stored message died. `None` if it is no dead letter.
pub fn origin(frame: &[u8]) -> Option<(String, String)> {
    let (own, _) = headers::split_stored(frame)?;
    let own = own?;
    Some((own.get(TOPIC)?.into_owned(), own.get(CHANNEL)?.into_owned()))
}

fn with_headers(headers: Headers<'_>, body: &[u8]) -> Published {
    let mut bytes = Vec::with_capacity(2 + headers.as_bytes().len() + body.len());
    headers::put_published(&mut bytes, headers, body);
    Published { form: Form::WithHeaders, bytes }
}

fn without_ours<'a>(headers: Option<Headers<'a>>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let all = headers.into_iter().flat_map(|headers| headers.iter());
    all.filter(|(key, _)| !key.starts_with(PREFIX)).collect()
}

#[cfg(test)]
mod tests {
    use nsq_protocol::message_id::MessageId;

    use super::*;

    const DEATH: Death<'_> = Death {
        reason: Reason::Attempts,
        error: None,
        topic: "orders",
        channel: "billing",
        attempts: 6,
        at_ns: 1_700_000_000_123_456_789,
    };

    fn frame(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let headers = HeadersBuf::from_pairs(headers.iter().copied()).unwrap();
        stored(&with_headers(headers.as_headers(), body))
    }

    fn stored(published: &Published) -> Vec<u8> {
        let mut out = Vec::new();
        let id = MessageId::from_u64(0xabc);
        headers::put_stored_frame(&mut out, 1, 1, id, published.form, &published.bytes);
        out
    }

    fn parts(frame: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
        let (headers, body) = headers::split_stored(frame).unwrap();
        let pairs = headers.into_iter().flat_map(|headers| headers.iter());
        (pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect(), body.to_vec())
    }

    #[test]
    fn a_dead_letter_says_where_it_died_and_comes_back_unchanged() {
        let before = frame(&[("color", "red")], b"body");
        let dead = stored(&dead_letter(&before, &DEATH).unwrap());
        let (headers, body) = parts(&dead);
        let headers: Vec<String> = headers.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            headers,
            [
                "color=red",
                "nsq-dead-reason=attempts",
                "nsq-dead-topic=orders",
                "nsq-dead-channel=billing",
                "nsq-dead-id=0000000000000abc",
                "nsq-dead-attempts=6",
                "nsq-dead-at=2023-11-14T22:13:20.123Z",
                "nsq-dead-hops=1",
            ]
        );
        assert_eq!(body, b"body");
        assert_eq!(origin(&dead), Some(("orders".into(), "billing".into())));
        assert_eq!(stored(&revived(&dead)), before);
    }

    #[test]
    fn the_error_of_a_rejected_message_is_a_header_until_it_dies_again() {
        let rejection = Death { reason: Reason::Rejected, error: Some("no such tenant"), ..DEATH };
        let dead = stored(&dead_letter(&frame(&[], b"x"), &rejection).unwrap());
        let headers = parts(&dead).0;
        for (key, value) in [(REASON, "rejected"), (ERROR, "no such tenant")] {
            assert!(headers.contains(&(key.to_owned(), value.to_owned())), "{headers:?}");
        }
        let again = parts(&stored(&dead_letter(&dead, &DEATH).unwrap())).0;
        assert!(!again.iter().any(|(key, _)| key == ERROR), "{again:?}");
    }

    #[test]
    fn a_message_without_headers_comes_back_without() {
        let plain = stored(&Published { form: Form::Plain, bytes: b"x".to_vec() });
        assert_eq!(origin(&plain), None);
        let dead = stored(&dead_letter(&plain, &DEATH).unwrap());
        assert_eq!(stored(&revived(&dead)), plain);
    }

    #[test]
    fn the_number_of_hops_is_limited() {
        let mut current = frame(&[], b"x");
        for hops in 1..=MAX_HOPS {
            current = stored(&dead_letter(&current, &DEATH).unwrap());
            let (headers, _) = parts(&current);
            assert_eq!(headers.iter().filter(|(key, _)| key.starts_with(PREFIX)).count(), 7);
            assert!(headers.contains(&(HOPS.to_owned(), hops.to_string())));
        }
        assert_eq!(dead_letter(&current, &DEATH), None);
    }

    #[test]
    fn own_headers_that_leave_no_room_are_cut() {
        let long = "v".repeat(65_400);
        let dead = stored(&dead_letter(&frame(&[("long", &long)], b"x"), &DEATH).unwrap());
        let (headers, body) = parts(&dead);
        assert!(headers.contains(&(CUT.to_owned(), "true".to_owned())));
        assert!(!headers.iter().any(|(key, _)| key == "long"));
        assert_eq!(body, b"x");
    }
}
