//! The report for people.

use std::fmt::Write;

use super::latencies::Quantiles;
use super::report::{Rate, Report};

/// Formats the report as text.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "{}", headline(report))?;
    writeln!(out, "{}", settings(report))?;

    let flows =
        [("backlog", &report.preload), ("published", &report.published), ("delivered", &report.delivered)];
    writeln!(out, "\n{:<10} {:>13} {:>9} {:>13} {:>10}", "", "messages", "seconds", "messages/s", "MB/s")?;
    for (name, rate) in flows {
        if let Some(rate) = rate {
            writeln!(out, "{name:<10} {}", flow(rate))?;
        }
    }

    let per = if report.channels > 1 && report.delivered.is_some() { "µs/delivery" } else { "µs/message" };
    writeln!(out, "\n{:<10} {:>13} {:>9} {per:>13}", "CPU", "seconds", "cores")?;
    if let Some(server) = &report.server {
        let (seconds, cores, each) = (server.cpu_seconds, server.cores_busy, server.cpu_us_per_message);
        writeln!(out, "{:<10} {seconds:>13.3} {cores:>9.2} {each:>13.3}", "nsqd")?;
    }
    let generator = &report.generator;
    let (seconds, cores, each) = (generator.cpu_seconds, generator.cores_busy, generator.cpu_us_per_message);
    let busiest = generator.busiest_thread * 100.0;
    writeln!(
        out,
        "{:<10} {seconds:>13.3} {cores:>9.2} {each:>13.3}  busiest thread {busiest:.0} %",
        "nsq bench"
    )?;
    if let Some(each) = report.preload.as_ref().and_then(|preload| preload.cpu_us_per_message) {
        writeln!(out, "{:<10} {:>13} {:>9} {each:>13.3}  nsqd, while the backlog was published", "", "", "")?;
    }

    if let Some(server) = &report.server {
        let [before, peak, after] =
            [server.resident_bytes_before, server.resident_bytes_peak, server.resident_bytes_after]
                .map(mebibytes);
        writeln!(out, "\nnsqd's memory: {before} MiB before, {peak} MiB at most, {after} MiB after")?;
    }

    if let Some(latency) = &report.latency_ms {
        let names = ["p50", "p90", "p99", "p99.9", "max"];
        writeln!(out, "\n{:<14} {}", "ms since due", names.map(|name| format!("{name:>9}")).concat())?;
        for (name, quantiles) in [
            ("delivered", &latency.delivered),
            ("acknowledged", &latency.acknowledged),
            ("sent", &latency.sent),
        ] {
            writeln!(out, "{name:<14} {}", milliseconds(quantiles))?;
        }
    }
    if !report.remarks.is_empty() {
        writeln!(out)?;
    }
    report.remarks.iter().try_for_each(|remark| writeln!(out, "note: {remark}"))
}

fn headline(report: &Report) -> String {
    let nsqd = &report.nsqd;
    let version = if nsqd.version.is_empty() { String::new() } else { format!(" {}", nsqd.version) };
    let process = match (&nsqd.program, nsqd.pid) {
        (Some(program), Some(pid)) => format!(" ({program}, pid {pid})"),
        _ => String::new(),
    };
    format!("{}: nsqd{version} at {}{process}, topic {}", report.mode.name(), nsqd.tcp, report.topic)
}

fn settings(report: &Report) -> String {
    let mut parts = Vec::new();
    if let Some(publish) = &report.publish {
        let command = match (publish.http, publish.batch) {
            (false, 1) => "PUB".to_owned(),
            (false, batch) => format!("MPUB of {batch}"),
            (true, 1) => "HTTP /pub".to_owned(),
            (true, batch) => format!("HTTP /mpub of {batch}"),
        };
        parts.push(format!(
            "{}-byte messages, {command} on {}",
            publish.size,
            plural(publish.connections, "connection")
        ));
        if report.latency_ms.is_none() {
            parts.push(format!("{} in flight", publish.in_flight));
        }
        if let Some(rate) = publish.rate {
            parts.push(format!("{rate} messages/s"));
        }
    }
    if report.channels > 0 {
        parts.push(plural(report.channels, "channel"));
    }
    if let Some(consume) = &report.consume {
        parts.push(format!("{} each, RDY {}", plural(consume.consumers, "consumer"), consume.rdy));
        if consume.requeue {
            parts.push("each message requeued once".to_owned());
        }
    }
    parts.join(", ")
}

fn flow(rate: &Rate) -> String {
    let megabytes = rate.megabytes_per_second.map_or(String::new(), |megabytes| format!("{megabytes:.1}"));
    let (messages, per_second) = (grouped(rate.messages), grouped(rate.messages_per_second as u64));
    format!("{messages:>13} {:>9.3} {per_second:>13} {megabytes:>10}", rate.seconds)
}

fn milliseconds(quantiles: &Quantiles) -> String {
    let Quantiles { p50, p90, p99, p999, max, .. } = *quantiles;
    [p50, p90, p99, p999, max].map(|ms| format!("{ms:>9.3}")).concat()
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// A number with a comma between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::latencies::Latencies;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn large_numbers_are_readable() {
        let texts = [0, 999, 1_000, 12_345_678].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "12,345,678"]);
    }

    #[test]
    fn table_shows_settings_and_figures() {
        let text = render(&report("pubsub --topic t --batch 200 --channels 2 --consumers 3"));
        for part in [
            "pubsub: nsqd 1.3.0 at 127.0.0.1:4150, topic t\n",
            "200-byte messages, MPUB of 200 on 1 connection, 25 in flight, 2 channels, 3 consumers each, RDY 2500\n",
            "published      2,000,000     0.500     4,000,000      800.0\n",
            "delivered      2,000,000     1.000     2,000,000      400.0\n",
            "nsq bench          0.100      0.10         0.050  busiest thread 8 %\n",
            "µs/delivery",
            "note: ",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn latencies_are_in_milliseconds() {
        let latencies = Latencies::default();
        latencies.delivered.lock().unwrap().record(1_500_000).unwrap();
        let text = render(&report("latency --topic t").with_latencies(&latencies));
        assert!(text.contains("delivered          1.500    1.500    1.500    1.500    1.500\n"), "{text}");
    }
}
