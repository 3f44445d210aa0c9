//! The trace context of OpenTelemetry in the headers of messages, in the form of the W3C: `traceparent` and `tracestate`.

use std::str::FromStr;

use nsq_protocol::headers::Headers;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

pub(crate) const PARENT: &str = "traceparent";
pub(crate) const STATE: &str = "tracestate";

/// The headers for the current context; `None` outside of a trace.
pub(crate) fn headers() -> Option<(String, Option<String>)> {
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    let state = span.trace_state().header();
    span.is_valid().then(|| (write(span), (!state.is_empty()).then_some(state)))
}

/// The context in these headers, or the current one if they hold none.
pub(crate) fn of(headers: Option<Headers<'_>>) -> Context {
    let remote = headers.and_then(|headers| {
        let state = headers.get(STATE).and_then(|state| TraceState::from_str(&state).ok());
        read(&headers.get(PARENT)?, state.unwrap_or_default())
    });
    match remote {
        Some(remote) => Context::current().with_remote_span_context(remote),
        None => Context::current(),
    }
}

fn write(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}

/// Reads `VERSION-TRACE-SPAN-FLAGS`. Later versions may have more fields.
fn read(parent: &str, state: TraceState) -> Option<SpanContext> {
    let mut fields = parent.split('-');
    let mut hex = |digits: usize| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        fields.next().filter(|field| field.len() == digits && field.bytes().all(is_digit))
    };
    let version = hex(2).filter(|version| *version != "ff")?;
    let trace = TraceId::from_hex(hex(32)?).ok()?;
    let span = SpanId::from_hex(hex(16)?).ok()?;
    let flags = u8::from_str_radix(hex(2)?, 16).ok()?;
    if version == "00" && fields.next().is_some() {
        return None;
    }
    let sampled = TraceFlags::default().with_sampled(flags & 1 == 1);
    Some(SpanContext::new(trace, span, sampled, true, state)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_returns_from_its_headers() {
        let state = TraceState::from_str("vendor=1").unwrap();
        let span = read(GOOD, state).unwrap();
        assert!(span.is_remote() && span.is_sampled());
        let _guard = Context::new().with_remote_span_context(span).attach();
        assert_eq!(headers(), Some((GOOD.to_owned(), Some("vendor=1".to_owned()))));
        assert!(
            read(&GOOD.replace("00-0a", "01-0a").replace("-01", "-00-more"), TraceState::default()).is_some()
        );
    }

    #[test]
    fn outside_of_a_trace_there_are_no_headers_and_bad_ones_are_ignored() {
        assert_eq!(headers(), None);
        let ids = GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let long = format!("{GOOD}-more");
        for bad in [
            "",
            "00",
            "00-0af7-b7ad-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            &ids,
            &long,
            &GOOD.to_uppercase(),
        ] {
            assert_eq!(read(bad, TraceState::default()), None, "{bad}");
        }
    }
}
