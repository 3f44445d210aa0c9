use std::collections::BTreeMap;

use super::*;

/// Flags and defaults of NSQ 1.3.0, as its tools print them. A flag without a default has an empty one; a list has none.
fn reference(tool: Tool) -> &'static [(&'static str, &'static str)] {
    match tool {
        Tool::Stat => &[
            ("topic", ""),
            ("channel", ""),
            ("nsqd-http-address", ""),
            ("lookupd-http-address", ""),
            ("interval", "2s"),
            ("count", ""),
            ("http-client-connect-timeout", "2s"),
            ("http-client-request-timeout", "5s"),
            ("version", "false"),
        ],
        Tool::Tail => &[
            ("topic", ""),
            ("channel", ""),
            ("max-in-flight", "200"),
            ("n", "0"),
            ("print-topic", "false"),
            ("nsqd-tcp-address", ""),
            ("lookupd-http-address", ""),
            ("consumer-opt", ""),
            ("version", "false"),
        ],
        Tool::ToFile => &[
            ("topic", ""),
            ("topic-pattern", ""),
            ("topic-refresh", "1m"),
            ("channel", "nsq_to_file"),
            ("max-in-flight", "200"),
            ("output-dir", "/tmp"),
            ("work-dir", ""),
            ("filename-format", "<TOPIC>.<HOST><REV>.<DATETIME>.log"),
            ("datetime-format", "%Y-%m-%d_%H"),
            ("host-identifier", ""),
            ("gzip", "false"),
            ("gzip-level", "6"),
            ("rotate-size", "0"),
            ("rotate-interval", "0s"),
            ("sync-interval", "30s"),
            ("skip-empty-files", "false"),
            ("http-client-connect-timeout", "2s"),
            ("http-client-request-timeout", "5s"),
            ("log-level", "info"),
            // Derived from the name of the program.
            ("log-prefix", ""),
            ("nsqd-tcp-address", ""),
            ("lookupd-http-address", ""),
            ("consumer-opt", ""),
            ("version", "false"),
        ],
        Tool::ToHttp => &[
            ("topic", ""),
            ("channel", "nsq_to_http"),
            ("post", ""),
            ("get", ""),
            ("mode", "hostpool"),
            ("n", "100"),
            ("max-in-flight", "200"),
            ("sample", "1"),
            ("http-client-connect-timeout", "2s"),
            ("http-client-request-timeout", "20s"),
            ("content-type", "application/octet-stream"),
            ("header", ""),
            ("status-every", "250"),
            ("nsqd-tcp-address", ""),
            ("lookupd-http-address", ""),
            ("consumer-opt", ""),
            ("version", "false"),
        ],
        Tool::ToNsq => &[
            ("topic", ""),
            ("destination-topic", ""),
            ("destination-nsqd-tcp-address", ""),
            ("channel", "nsq_to_nsq"),
            ("mode", "hostpool"),
            ("max-in-flight", "200"),
            ("require-json-field", ""),
            ("require-json-value", ""),
            ("whitelist-json-field", ""),
            ("status-every", "250"),
            ("nsqd-tcp-address", ""),
            ("lookupd-http-address", ""),
            ("consumer-opt", ""),
            ("producer-opt", ""),
            ("version", "false"),
        ],
        Tool::Publish => &[
            ("topic", ""),
            ("nsqd-tcp-address", ""),
            ("delimiter", "\n"),
            ("rate", "0"),
            ("producer-opt", ""),
        ],
        Tool::Admin => &[
            ("http-address", "0.0.0.0:4171"),
            ("base-path", "/"),
            ("lookupd-http-address", ""),
            ("nsqd-http-address", ""),
            ("http-client-connect-timeout", "2s"),
            ("http-client-request-timeout", "5s"),
            ("acl-http-header", "X-Forwarded-User"),
            ("admin-user", ""),
            ("allow-config-from-cidr", "127.0.0.1/8"),
            ("notification-http-endpoint", ""),
            ("graphite-url", ""),
            ("proxy-graphite", "false"),
            ("statsd-interval", "60s"),
            ("log-level", "info"),
            ("version", "false"),
        ],
    }
}

fn command(tool: Tool) -> clap::Command {
    match tool {
        Tool::Stat => stat::Flags::command(),
        Tool::Tail => tail::Flags::command(),
        Tool::ToFile => to_file::Flags::command(),
        Tool::ToHttp => to_http::Flags::command(),
        Tool::ToNsq => to_nsq::Flags::command(),
        Tool::Publish => publish::Flags::command(),
        Tool::Admin => nsq_dashboard::flags::Flags::command(),
    }
}

#[test]
fn every_flag_of_the_old_tools_exists_with_its_default() {
    for tool in Tool::ALL {
        let command = command(tool);
        let flags: BTreeMap<&str, String> = (command.get_arguments())
            .filter_map(|flag| {
                let defaults = flag.get_default_values().iter().map(|value| value.to_string_lossy());
                Some((flag.get_long()?, defaults.collect::<Vec<_>>().join(",")))
            })
            .collect();
        for (name, default) in reference(tool) {
            let found = flags.get(name).unwrap_or_else(|| panic!("{}: --{name} is missing", tool.name()));
            assert_eq!(found, default, "{} --{name}", tool.name());
        }
    }
}

#[test]
fn command_lines_are_valid() {
    for tool in Tool::ALL {
        command(tool).debug_assert();
    }
}

#[test]
fn flags_are_spelled_as_in_go() {
    let line = ["nsq_tail", "-topic", "a", "--topic=b", "-print-topic", "-n=3", "rest", "-nope"];
    let parsed: Line<tail::Flags> = parse(Tool::Tail, line.map(Into::into).into()).unwrap();
    assert_eq!(parsed.argument, Some("rest".into()));
    assert!(format!("{:?}", parsed.flags).contains("print_topic: true"), "{:?}", parsed.flags);
}

#[test]
fn wrong_lines_end_as_in_go() {
    let exit = |words: &[&str]| {
        let line = words.iter().map(OsString::from).collect();
        parse::<tail::Flags>(Tool::Tail, line).and_then(tail::run).unwrap_err()
    };
    assert!(matches!(exit(&["nsq_tail", "-nope"]), Exit::WrongFlag(_)));
    assert!(matches!(exit(&["nsq_tail", "-h"]), Exit::Help(_)));
    assert!(matches!(exit(&["nsq_tail", "-version"]), Exit::Version));
    assert!(matches!(exit(&["nsq_tail", "--topic=a"]), Exit::Fatal(_)));
    let good = ["nsq_tail", "--topic=a", "--nsqd-tcp-address=h:1"];
    for (flag, is_wrong_flag) in [
        ("--consumer-opt=nope,1", true),
        ("--consumer-opt=sample_rate,100", true),
        ("--lookupd-http-address=h:1", false),
        ("--channel=a b", false),
        ("--topic=a b", false),
        ("--max-in-flight=0", false),
    ] {
        let exit = exit(&[&good[..], &[flag]].concat());
        assert_eq!(matches!(exit, Exit::WrongFlag(_)), is_wrong_flag, "{flag}: {exit:?}");
    }
}

#[test]
fn program_name_selects_the_tool() {
    for tool in Tool::ALL {
        assert_eq!(Tool::called_as(&format!("/usr/bin/{}", tool.name()).into()), Some(tool));
    }
    for name in ["nsq", "/usr/bin/nsq", "nsqd", ""] {
        assert_eq!(Tool::called_as(&name.into()), None, "{name}");
    }
}
