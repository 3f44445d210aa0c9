//! Pure: the leases in a request, from its query string or its body.

use std::time::Duration;

use nsq_protocol::go_duration;
use serde::Deserialize;

/// Most leases in one request.
pub(super) const MAX_LEASES: usize = 10_000;

/// A lease, not checked yet, and what the request says about it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) lease: String,
    /// `delay` of a requeue, or `timeout` of a touch.
    pub(super) duration: Option<Result<Duration, String>>,
}

/// Why a request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidBody {
    #[error(
        "MISSING_LEASE: expected lease= in the query, or leases in the body, one per line or as a JSON array"
    )]
    Empty,
    #[error("TOO_MANY_LEASES: expected at most {MAX_LEASES} in one request")]
    TooMany,
    #[error(
        "INVALID_BODY: {0}; expected leases, one per line, or a JSON array such as [\"LEASE\", {{\"lease\": \"LEASE\", \"delay\": \"5s\"}}]"
    )]
    Json(String),
    #[error("INVALID_BODY: not UTF-8")]
    NotText,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Element {
    Lease(String),
    WithDuration {
        lease: String,
        #[serde(alias = "timeout")]
        delay: Option<String>,
    },
}

/// All leases of a request, in order: those of the query first.
pub(super) fn items(of_query: Vec<String>, body: &[u8]) -> Result<Vec<Item>, InvalidBody> {
    let body = std::str::from_utf8(body).map_err(|_| InvalidBody::NotText)?.trim();
    let mut items: Vec<Item> = of_query.into_iter().map(|lease| Item { lease, duration: None }).collect();
    if body.starts_with('[') {
        let elements: Vec<Element> =
            serde_json::from_str(body).map_err(|error| InvalidBody::Json(error.to_string()))?;
        items.extend(elements.into_iter().map(|element| match element {
            Element::Lease(lease) => Item { lease, duration: None },
            Element::WithDuration { lease, delay } => {
                let parsed = delay.map(|text| go_duration::parse(&text).map_err(|_| text));
                Item { lease, duration: parsed }
            }
        }));
    } else {
        let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
        items.extend(lines.map(|line| Item { lease: line.to_owned(), duration: None }));
    }
    match items.len() {
        0 => Err(InvalidBody::Empty),
        count if count > MAX_LEASES => Err(InvalidBody::TooMany),
        _ => Ok(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(items: Vec<Item>) -> Vec<String> {
        items.into_iter().map(|item| item.lease).collect()
    }

    #[test]
    fn leases_come_from_the_query_lines_or_json() {
        assert_eq!(leases(items(vec!["a".into(), "b".into()], b"").unwrap()), ["a", "b"]);
        assert_eq!(leases(items(vec![], b"a\r\n\nb\n").unwrap()), ["a", "b"]);
        assert_eq!(
            leases(items(vec!["a".into()], b" [\"b\", {\"lease\":\"c\"}] ").unwrap()),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn elements_may_have_a_duration() {
        let items = items(
            vec![],
            br#"[{"lease":"a","delay":"5s"}, {"lease":"b","timeout":"1m"}, {"lease":"c","delay":"soon"}]"#,
        );
        let durations: Vec<_> = items.unwrap().into_iter().map(|item| item.duration.unwrap()).collect();
        let expected = [Ok(Duration::from_secs(5)), Ok(Duration::from_secs(60)), Err("soon".to_owned())];
        assert_eq!(durations, expected);
    }

    #[test]
    fn unreadable_requests_are_refused() {
        assert_eq!(items(vec![], b" \n"), Err(InvalidBody::Empty));
        assert_eq!(items(vec![], b"[]"), Err(InvalidBody::Empty));
        assert_eq!(items(vec![], b"\xff"), Err(InvalidBody::NotText));
        assert!(matches!(items(vec![], b"[1]"), Err(InvalidBody::Json(_))));
        assert!(matches!(items(vec![], b"[\"a\""), Err(InvalidBody::Json(_))));
        let many = "a\n".repeat(MAX_LEASES + 1);
        assert_eq!(items(vec![], many.as_bytes()), Err(InvalidBody::TooMany));
    }
}
