//! Descriptions of the options, for programs that let their users set options by name. Pure.

use nsq_protocol::go_duration;

use super::value::{FromOption, Range};

/// An option that [`Config::set`](super::Config::set) accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionInfo {
    /// The option's name.
    pub name: &'static str,
    /// What the option does, in one sentence.
    pub about: String,
    /// Describes the valid values, such as `1 to 9`.
    pub values: String,
    /// The default as [`Config::set`](super::Config::set) accepts it; `None` without a fixed default.
    pub default: Option<String>,
}

/// The first sentence of a doc comment, without references to items.
pub(super) fn about(doc: &str) -> String {
    let text = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = text.match_indices(". ").map(|(at, _)| at + 1).next().unwrap_or(text.len());
    let mut rest = &text[..end];
    let mut plain = String::new();
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        // A reference in parentheses or after a colon only helps readers of the documentation.
        let target = after.find(')').filter(|_| after.starts_with('(')).map_or(0, |at| at + 1);
        rest = &after[target..];
        if let Some(before) = before.strip_suffix(" (") {
            plain += before;
            rest = rest.strip_prefix(')').unwrap_or(rest);
        } else if let Some(before) = before.strip_suffix(": see ") {
            plain += before;
        } else {
            plain += before;
            plain += name;
        }
    }
    plain + rest
}

/// Describes the values of an option of type `T` within a range.
pub(super) fn values<T: FromOption>(range: &Range) -> String {
    match range {
        Range::Any => T::EXPECTED.to_owned(),
        Range::Ints(min, i64::MAX) => format!("at least {min}"),
        Range::Ints(min, max) => format!("{min} to {max}"),
        Range::Floats(min, max) => format!("{min} to {max}"),
        Range::Durations(min, max) => {
            format!("{} to {}", go_duration::format(*min), go_duration::format(*max))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn every_option_has_a_sentence_values_and_a_valid_default() {
        let options = Config::options();
        let names: Vec<&str> = options.iter().map(|option| option.name).collect();
        assert_eq!(names, Config::OPTION_NAMES);
        for OptionInfo { name, about, values, default } in options {
            assert!(about.ends_with('.') && !about.contains("[`") && !about.contains("crate::"), "{about}");
            assert!(!values.is_empty(), "{name}");
            if let Some(default) = default {
                let mut config = Config::new();
                config.set(name, default.as_str()).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(config, Config::new(), "{name}");
            }
        }
    }

    #[test]
    fn options_are_described_with_their_range() {
        let of = |name: &str| Config::options().into_iter().find(|option| option.name == name).unwrap();
        let delay = of("max_requeue_delay");
        assert_eq!(delay.about, "Maximum delay of an automatic requeue.");
        assert_eq!((delay.values.as_str(), delay.default.as_deref()), ("0s to 1h0m0s", Some("15m0s")));
        assert_eq!(of("channel_start").about, "Where the channel starts if subscribing creates it.");
        assert_eq!(of("max_attempts").values, "a whole number from 0 to 65535");
        assert_eq!(of("output_buffer_size").values, "at least -1");
        assert_eq!(of("tls_min_version").default.as_deref(), Some("tls1.2"));
        assert_eq!(of("client_id").default, None);
    }
}
