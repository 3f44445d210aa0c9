//! `/policy/test`.
//!
//! The work is done in short steps, so that other large answers get their turns in between.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nsq_daemon::go_duration;
use nsq_daemon::http::{BodyError, HttpError, Query, Request, Response, response};
use tokio::sync::Semaphore;

use super::HttpContext;
use super::admin::{INVALID_TOPIC, find_topic};
use super::dead_letters::{bad_request, number, only};
use crate::policy::file::PolicyFile;
use crate::policy_test::{PolicyTest, TestOptions, Use};

const MAX_FILE_BYTES: usize = 1 << 20;
const TOO_BIG: HttpError = HttpError::too_large("BODY_TOO_BIG: a policy file has at most 1 MiB");

/// Maximum time of a test.
const MAX_TIME: Duration = Duration::from_secs(5);
/// How long a test waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Time of a step.
const STEP: Duration = Duration::from_millis(50);
const MAX_BYTES: u64 = 1 << 30;
const LIMITS: RangeInclusive<u64> = 1..=10_000_000;
const DEFAULT_LIMIT: u64 = 1_000_000;
const DEFAULT_SINCE: Duration = Duration::from_secs(24 * 3600);
const MAX_SINCE: Duration = Duration::from_secs(3650 * 24 * 3600);
const PARAMETERS: [&str; 4] = ["topic", "since", "limit", "as"];

/// Tests run one after the other: each may remember a million ids.
static TURN: Semaphore = Semaphore::const_new(1);

/// `POST /policy/test[?topic=][&since=24h][&limit=][&as=policy_file|settings]`: the body is a policy file.
pub async fn test(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let body = request.body.read_limited(MAX_FILE_BYTES).await.map_err(|error| match error {
        BodyError::TooBig => TOO_BIG,
        BodyError::Busy => HttpError::BUSY,
        BodyError::Unreadable(_) => HttpError::INTERNAL_ERROR,
    })?;
    let (options, only) = {
        let query = request.query()?;
        only(&query, &PARAMETERS)?;
        let only = match query.get("topic") {
            None => None,
            Some(name) if nsq_protocol::is_valid_name(name.as_bytes()) => Some(find_topic(context, &name)?),
            Some(_) => return Err(INVALID_TOPIC),
        };
        (options(&query)?, only)
    };
    let file = file(&body)?;
    let turn = tokio::time::timeout(MAX_WAIT, TURN.acquire()).await;
    let _turn = turn.map_err(|_| HttpError::BUSY)?.map_err(|_| HttpError::INTERNAL_ERROR)?;
    let stop_at = Instant::now() + MAX_TIME;
    let registry = context.registry.clone();
    let mut test = context.heavy.run(move || PolicyTest::new(&registry, file, options, only)).await?;
    loop {
        let step = move || {
            let more = test.advance(Instant::now() + STEP);
            (test, more)
        };
        let more;
        (test, more) = context.heavy.run(step).await?;
        if !more {
            break;
        }
        if Instant::now() >= stop_at {
            test.stop();
            break;
        }
    }
    Ok(response::value(encoding, &test.conclude()))
}

fn file(body: &[u8]) -> Result<PolicyFile, HttpError> {
    let invalid = |reason: String| bad_request(format!("INVALID_POLICIES: {reason}"));
    if body.is_empty() {
        return Err(invalid("the body is empty; send a policy file".to_owned()));
    }
    let text =
        std::str::from_utf8(body).map_err(|error| invalid(format!("the body is not UTF-8: {error}")))?;
    PolicyFile::parse(text).map_err(|error| invalid(error.to_string()))
}

fn options(query: &Query<'_>) -> Result<TestOptions, HttpError> {
    let since = match query.get("since") {
        None => DEFAULT_SINCE,
        Some(text) => {
            let refused = |reason: String| {
                bad_request(format!(
                    "INVALID_ARG_SINCE: since={text}: {reason}; expected a duration up to 3650d, such as since=24h"
                ))
            };
            match go_duration::parse_with_days(&text) {
                Ok(since) if since <= MAX_SINCE => since,
                Ok(_) => return Err(refused("out of range".to_owned())),
                Err(error) => return Err(refused(error.to_string())),
            }
        }
    };
    let as_if = match query.get("as").as_deref() {
        None | Some("policy_file") => Use::PolicyFile,
        Some("settings") => Use::Settings,
        Some(text) => {
            return Err(bad_request(format!("INVALID_ARG_AS: as={text}: expected policy_file or settings")));
        }
    };
    let max_messages = number(query, "limit", &LIMITS)?.unwrap_or(DEFAULT_LIMIT);
    Ok(TestOptions { since, as_if, max_messages, max_bytes: MAX_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(raw: &str) -> Result<(Duration, Use, u64), String> {
        let options = options(&Query::parse(raw).unwrap()).map_err(|error| error.word.into_owned())?;
        Ok((options.since, options.as_if, options.max_messages))
    }

    #[test]
    fn parameters_have_defaults_and_ranges() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(parsed(""), Ok((hours(24), Use::PolicyFile, 1_000_000)));
        assert_eq!(parsed("since=14d&as=settings&limit=5"), Ok((hours(14 * 24), Use::Settings, 5)));
        for (raw, expected) in [
            ("since=24", "INVALID_ARG_SINCE: since=24: missing unit"),
            (
                "since=3651d",
                "INVALID_ARG_SINCE: since=3651d: out of range; expected a duration up to 3650d, such as",
            ),
            ("as=api", "INVALID_ARG_AS: as=api: expected policy_file or settings"),
            ("limit=0", "INVALID_ARG_LIMIT: limit=0: expected a number from 1 to 10000000"),
        ] {
            let refused = parsed(raw).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn invalid_files_are_refused_with_line_and_reason() {
        let refused = |body: &[u8]| file(body).unwrap_err().word.into_owned();
        assert!(refused(b"").starts_with("INVALID_POLICIES: the body is empty"));
        assert!(refused(b"\xff").starts_with("INVALID_POLICIES: the body is not UTF-8"));
        let text = b"[[policy]]\ntopic = 'a'\nttl = 'soon'\n";
        assert!(refused(text).starts_with("INVALID_POLICIES: line 3: ttl=soon:"), "{}", refused(text));
    }
}
