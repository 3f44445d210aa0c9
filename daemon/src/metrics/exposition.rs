//! Prometheus' text format, version 0.0.4. Pure.

use std::fmt::Write as _;

use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::histogram::{self, Buckets};
use crate::http::{Response, StatusCode, response};

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the daemon restarts.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Numbers of durations, by bucket.
    Histogram,
    /// Quantiles, in a label `quantile`.
    Summary,
}

/// A page of metrics. Write each family once, with all its samples.
///
/// ```
/// use nsq_daemon::metrics::{Exposition, Kind};
///
/// let mut page = Exposition::default();
/// page.family("nsq_topic_depth", Kind::Gauge, "Messages.").sample(&[("topic", "a\"b")], 7.0);
/// assert_eq!(
///     page.into_text(),
///     "# HELP nsq_topic_depth Messages.\n# TYPE nsq_topic_depth gauge\nnsq_topic_depth{topic=\"a\\\"b\"} 7\n"
/// );
/// ```
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    name: &'a str,
    text: &'a mut String,
}

impl Exposition {
    /// Starts a metric. `help` must be a single line.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { name, text: &mut self.text }
    }

    /// Writes a counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help).sample(&[], value as f64);
    }

    /// Writes a gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// The finished page.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The finished page as an HTTP response with Prometheus' content type.
    pub fn into_response(self) -> Response {
        const PROMETHEUS_TEXT: HeaderValue =
            HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        let mut response = response::plain(StatusCode::OK, self.text);
        response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS_TEXT);
        response
    }
}

impl Family<'_> {
    /// Writes one sample. Label values are escaped.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.put("", labels, None, value);
        self
    }

    /// Writes the samples of a histogram: cumulative buckets, sum and count.
    pub fn histogram(&mut self, labels: &[(&str, &str)], buckets: &Buckets) -> &mut Self {
        let mut count = 0;
        let bounds = histogram::bounds().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]);
        for (bound, in_bucket) in bounds.zip(&buckets.counts) {
            count += in_bucket;
            self.put("_bucket", labels, Some(("le", &bound)), count as f64);
        }
        self.put("_sum", labels, None, buckets.sum.as_secs_f64());
        self.put("_count", labels, None, count as f64);
        self
    }

    fn put(&mut self, suffix: &str, labels: &[(&str, &str)], more: Option<(&str, &str)>, value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for &(label, value) in labels.iter().chain(&more) {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(label);
            self.text.push_str("=\"");
            put_escaped(self.text, value);
            self.text.push('"');
        }
        let end = if separator == ',' { "}" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{end} {value}");
    }
}

fn put_escaped(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn samples_have_escaped_labels() {
        let mut page = Exposition::default();
        page.counter("a_total", "A.", 1 << 53);
        page.gauge("b_seconds", "B.", 0.25);
        page.family("c", Kind::Gauge, "C.")
            .sample(&[("x", "1"), ("y", "a\\b\n\"")], -1.0)
            .sample(&[("x", "2"), ("y", "")], 1e21);
        let expected = "# HELP a_total A.\n# TYPE a_total counter\na_total 9007199254740992\n\
                        # HELP b_seconds B.\n# TYPE b_seconds gauge\nb_seconds 0.25\n\
                        # HELP c C.\n# TYPE c gauge\nc{x=\"1\",y=\"a\\\\b\\n\\\"\"} -1\n\
                        c{x=\"2\",y=\"\"} 1000000000000000000000\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::default();
        for microseconds in [1, 3, 3, 1_000_000_000] {
            histogram.record_ns(microseconds * 1000);
        }
        let mut page = Exposition::default();
        page.family("h_seconds", Kind::Histogram, "H.").histogram(&[("file", "a")], &histogram.buckets());
        let text = page.into_text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines[..4],
            [
                "# TYPE h_seconds histogram",
                "h_seconds_bucket{file=\"a\",le=\"0.000001\"} 1",
                "h_seconds_bucket{file=\"a\",le=\"0.000002\"} 1",
                "h_seconds_bucket{file=\"a\",le=\"0.000004\"} 3",
            ]
        );
        assert_eq!(
            lines[lines.len() - 4..],
            [
                "h_seconds_bucket{file=\"a\",le=\"67.108864\"} 3",
                "h_seconds_bucket{file=\"a\",le=\"+Inf\"} 4",
                "h_seconds_sum{file=\"a\"} 1000.000007",
                "h_seconds_count{file=\"a\"} 4",
            ]
        );
    }
}
