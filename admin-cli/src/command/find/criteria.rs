//! Which channels `nsq find` shows. Pure.

use std::time::Duration;

use clap::Args;
use nsq_daemon::go_duration;
use regex::bytes::Regex;

use crate::patterns::parse_pattern;
use crate::report::ChannelReport;

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Conditions, which must all hold")]
pub struct Criteria {
    /// More than N messages can be delivered.
    #[arg(long, value_name = "N")]
    depth_over: Option<i64>,
    /// Fewer than N messages can be delivered.
    #[arg(long, value_name = "N")]
    depth_under: Option<i64>,
    /// More than N messages are in flight.
    #[arg(long, value_name = "N")]
    in_flight_over: Option<i64>,
    /// More than N messages are deferred.
    #[arg(long, value_name = "N")]
    deferred_over: Option<i64>,
    /// More than N connections of consumers.
    #[arg(long, value_name = "N")]
    consumers_over: Option<i64>,
    /// No consumer.
    #[arg(long, conflicts_with = "consumers_over")]
    no_consumers: bool,
    /// Nothing entered or left during the interval.
    #[arg(long)]
    idle: bool,
    /// Messages entered faster than they left during the interval.
    #[arg(long, conflicts_with = "idle")]
    growing: bool,
    /// The channel is paused.
    #[arg(long)]
    paused: bool,
    /// Publishes are refused because the channel is full.
    #[arg(long)]
    full: bool,
    /// Messages wait for a rate or a limit in flight.
    #[arg(long)]
    throttled: bool,
    /// Messages became dead letters.
    #[arg(long)]
    dead_letters: bool,
    /// The name ends with #ephemeral.
    #[arg(long)]
    ephemeral: bool,
    /// TOPIC/CHANNEL matches this regular expression.
    #[arg(long, value_name = "REGEX", value_parser = parse_pattern)]
    name: Option<Regex>,
    /// Show the channels for which the conditions do not all hold.
    #[arg(long)]
    invert: bool,
    /// How long to watch for --idle and --growing.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = go_duration::parse)]
    pub interval: Duration,
}

impl Criteria {
    /// Whether two samples are needed.
    pub fn needs_rates(&self) -> bool {
        self.idle || self.growing
    }

    /// Whether to show a channel.
    pub fn select(&self, topic: &str, channel: &ChannelReport) -> bool {
        self.hold(topic, channel) != self.invert
    }

    fn hold(&self, topic: &str, channel: &ChannelReport) -> bool {
        let over = |limit: Option<i64>, value: i64| limit.is_none_or(|limit| value > limit);
        let wanted = |flag: bool, is: bool| !flag || is;
        let ingress = channel.ingress_rate.map_or(0.0, |rate| rate.0);
        let egress = channel.egress_rate.map_or(0.0, |rate| rate.0);
        over(self.depth_over, channel.depth)
            && self.depth_under.is_none_or(|limit| channel.depth < limit)
            && over(self.in_flight_over, channel.in_flight_count)
            && over(self.deferred_over, channel.deferred_count)
            && over(self.consumers_over, channel.client_count)
            && wanted(self.no_consumers, channel.client_count == 0)
            && wanted(self.idle, ingress == 0.0 && egress == 0.0)
            && wanted(self.growing, ingress > egress)
            && wanted(self.paused, channel.paused)
            && wanted(self.full, channel.is_full)
            && wanted(self.throttled, channel.is_throttled)
            && wanted(self.dead_letters, channel.dead_lettered_count > 0)
            && wanted(self.ephemeral, channel.channel_name.ends_with("#ephemeral"))
            && self
                .name
                .as_ref()
                .is_none_or(|name| name.is_match(format!("{topic}/{}", channel.channel_name).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::report::Rate;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        criteria: Criteria,
    }

    fn selects(flags: &str, channel: &ChannelReport) -> bool {
        let line = std::iter::once("nsq").chain(flags.split_whitespace());
        Line::parse_from(line).criteria.select("orders", channel)
    }

    #[test]
    fn all_conditions_must_hold() {
        let channel = ChannelReport {
            channel_name: "billing#ephemeral".to_owned(),
            depth: 10,
            client_count: 0,
            paused: true,
            ingress_rate: Some(Rate(2.0)),
            egress_rate: Some(Rate(1.0)),
            ..ChannelReport::default()
        };
        for flags in [
            "",
            "--depth-over 9",
            "--depth-under 11 --no-consumers --paused",
            "--growing --ephemeral --name ^orders/b",
            "--depth-over 10 --invert",
        ] {
            assert!(selects(flags, &channel), "{flags}");
        }
        for flags in [
            "--depth-over 10",
            "--no-consumers --idle",
            "--full",
            "--invert",
            "--dead-letters",
            "--consumers-over 0",
        ] {
            assert!(!selects(flags, &channel), "{flags}");
        }
    }
}
