use nsq_daemon::log::Level;

use super::*;

fn read(words: &[&str]) -> Result<(Config, Vec<String>), Exit> {
    Config::read(std::iter::once(PROGRAM).chain(words.iter().copied()).map(OsString::from))
}

fn run(words: &[&str]) -> Result<Config, Exit> {
    read(words).map(|(config, _)| config)
}

fn fatal(words: &[&str]) -> String {
    match run(words) {
        Err(Exit::Fatal(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn with_file(toml: &str, words: &[&str]) -> Result<Config, Exit> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nsqd.cfg");
    std::fs::write(&path, toml).unwrap();
    let config = format!("--config={}", path.display());
    run(&[&[config.as_str()], words].concat())
}

#[test]
fn defaults_equal_nsqs() {
    let config = Config::default();
    let hostname = nsq_daemon::hostname();
    assert_eq!(config, run(&[]).unwrap());
    assert_eq!(config.node_id, default_node_id(&hostname));
    assert_eq!(config.broadcast_address, hostname);
    assert_eq!(config.tcp_address.to_string(), "0.0.0.0:4150");
    assert_eq!(config.http_address.as_ref().unwrap().to_string(), "0.0.0.0:4151");
    assert_eq!((config.durability, config.mem_queue_bytes), (Durability::Write, 64 << 20));
    assert_eq!(config.log_prefix, "[nsqd] ");
    assert_eq!(config.limits(), Limits::default());
    assert_eq!(config.engine_limits(), EngineLimits { node_id: config.node_id, ..EngineLimits::DEFAULT });
    assert_eq!(config.identify_limits(), IdentifyLimits::default());
    assert_eq!(config.tls_options(), None);
    let Start::Run(started, logger) = Config::from_args(["nsqd".into(), "--log-level=error".into()]) else {
        panic!("it should start")
    };
    assert_eq!((started.log_level, logger.level()), (Level::Error, Level::Error));
}

#[test]
fn default_node_id_is_nsqs_hash_of_the_host_name() {
    assert_eq!(default_node_id("vm"), 617);
    assert_eq!(run(&["--node-id=1023"]).unwrap().node_id, 1023);
    for id in ["1024", "-1"] {
        assert_eq!(
            fatal(&[&format!("--node-id={id}")]),
            "failed to instantiate nsqd - --node-id must be [0,1024)"
        );
    }
}

#[test]
fn flags_override_the_config_file() {
    let file = "id = 7\nnsqlookupd_tcp_addresses = ['a:1']\ndurability = 'sync'\nmsg_timeout = 1500\n\
                lookupd_tcp_address = ['ignored:1']\ntls_required = false\n";
    let config = with_file(file, &["--msg-timeout=2s"]).unwrap();
    assert_eq!((config.node_id, config.durability), (7, Durability::Sync));
    assert_eq!(config.lookupd_tcp_address, ["a:1"]);
    assert_eq!(config.msg_timeout, Duration::from_secs(2));
    let config = with_file(file, &["-lookupd-tcp-address", "b:2", "-lookupd-tcp-address=c:3"]).unwrap();
    assert_eq!(config.lookupd_tcp_address, ["b:2", "c:3"]);
    assert_eq!(config.msg_timeout, Duration::from_millis(1500));
}

#[test]
fn empty_addresses_have_their_nsq_meaning() {
    let config = run(&["--http-address=", "--broadcast-address=", "--data-path="]).unwrap();
    assert_eq!(config.http_address, None);
    assert_eq!(config.broadcast_address, config.hostname);
    assert_eq!(config.data_path, PathBuf::from("."));
    assert_eq!(run(&["--tcp-address=/run/q.sock"]).unwrap().tcp_address, Address::Unix("/run/q.sock".into()));
}

#[test]
fn invalid_flags_and_invalid_files_have_different_exit_codes() {
    for words in [
        &["--log-level=warning"][..],
        &["--tls-required=perhaps"],
        &["--tls-min-version=ssl3.0"],
        &["--durability=always"],
        &["--mem-queue-size=-1"],
        &["--max-msg-size=0"],
        &["--worker-id=5"],
        &["--msg-timeout=60"],
        &["--no-such-flag"],
    ] {
        assert!(matches!(run(words), Err(Exit::WrongFlag(_))), "{words:?}");
    }
    for file in ["log_level = 'warning'", "tls_required = 'perhaps'", "msg_timeout = 1.5", "id = 5000", "x"] {
        assert!(matches!(with_file(file, &[]), Err(Exit::Fatal(_))), "{file}");
    }
    assert!(matches!(run(&["--version", "--config=/nonexistent"]), Err(Exit::Version(_))));
    assert!(matches!(run(&["--help"]), Err(Exit::Help(text)) if text.contains("--durability")));
}

#[test]
fn invalid_security_options_refuse_the_start() {
    let no_tls =
        "failed to instantiate nsqd - cannot require TLS client connections without TLS key and cert";
    assert_eq!(fatal(&["--tls-required"]), no_tls);
    assert_eq!(fatal(&["--tls-required=tcp-https"]), no_tls);
    assert_eq!(fatal(&["--tls-client-auth-policy=require-verify"]), no_tls);
    assert!(fatal(&["--tls-client-auth-policy=requires"]).contains("\"requires\": must be one of request"));
    assert!(fatal(&["--tls-key=k.pem"]).contains("--tls-key needs --tls-cert"));
    assert!(fatal(&["--tls-cert=c.pem"]).contains("--tls-cert needs --tls-key"));
    assert!(fatal(&["--tls-root-ca-file=/nonexistent"]).contains("failed to build TLS config"));
    assert!(fatal(&["--auth-http-request-method=GET"]).contains("get or post"));
    assert!(fatal(&["--http-auth"]).contains("--http-auth needs --auth-file or --auth-http-address"));
    assert!(fatal(&["--max-deflate-level=10"]).ends_with("--max-deflate-level must be [1,9]"));
}

#[test]
fn misspelled_security_options_refuse_the_start() {
    for (toml, meant) in [
        ("tls_requried = true", "tls_required"),
        ("auth_http_address = ['a:1']", "auth_http_addresses"),
        ("http-auth = true", "http_auth"),
        ("tls_client_auth_polcy = 'require'", "tls_client_auth_policy"),
        ("[tls]\ntls_cert = 'c.pem'", "tls_cert"),
    ] {
        let Err(Exit::Fatal(text)) = with_file(toml, &[]) else { panic!("{toml}") };
        assert!(text.contains(meant), "{text}");
    }
    for flag in [
        "--auth-file=",
        "--auth-http-address=",
        "--tls-client-auth-policy=",
        "--http-auth=",
        "--tls-required=",
    ] {
        assert!(matches!(run(&[flag]), Err(Exit::WrongFlag(_))), "{flag}");
    }
    // As in NSQ's example config file.
    let empty = "tls_cert = ''\ntls_key = ''\ntls_client_auth_policy = ''\nauth_http_addresses = []";
    assert!(with_file(empty, &[]).is_ok());
}

/// Reading flags does not open these files.
const CERTIFICATE: [&str; 2] = ["--tls-cert=c.pem", "--tls-key=k.pem"];

#[test]
fn client_certificate_policy_requires_tls() {
    let with = |words: &[&str]| run(&[&CERTIFICATE[..], words].concat()).unwrap();
    let plain = with(&[]);
    assert_eq!((plain.tls_required, plain.identify_limits().tls), (TlsRequired::No, true));
    for (policy, meant) in [
        ("request", ClientAuth::Request),
        ("require", ClientAuth::Require),
        ("verify-if-given", ClientAuth::VerifyIfGiven),
        ("require-verify", ClientAuth::RequireVerify),
    ] {
        let policy = format!("--tls-client-auth-policy={policy}");
        let config = with(&[&policy, "--tls-required=false"]);
        assert_eq!(config.tls_required, TlsRequired::Yes, "{policy}");
        assert_eq!(config.tls_options().unwrap().client_auth, meant);
        assert_eq!(with(&[&policy, "--tls-required=tcp-https"]).tls_required, TlsRequired::TcpHttps);
    }
    let words = [CERTIFICATE[0], CERTIFICATE[1], "--tls-client-auth-policy=whatever"];
    assert!(fatal(&words).contains("must be one of request, require"));
    assert!(with(&["--tls-min-version=tls1.3"]).tls_options().unwrap().only_tls13);
}

#[test]
fn flags_without_effect_cause_a_warning() {
    let warned = |words: &[&str]| read(words).unwrap().1;
    assert_eq!(warned(&[]), Vec::<String>::new());
    assert_eq!(warned(&["--statsd-address=h:1"]), Vec::<String>::new());
    assert_eq!(warned(&["--verbose"]), ["--verbose is deprecated and has no effect"]);
    assert_eq!(warned(&["--snappy=false", "--deflate=true", "--https-address="]), Vec::<String>::new());
    assert_eq!(warned(&["--https-address=:1", "--tls-min-version=tls1.2"]).len(), 2);
    assert_eq!(warned(&[CERTIFICATE[0], CERTIFICATE[1], "--https-address=:1"]), Vec::<String>::new());
    assert_eq!(warned(&["--sync-every=1"]), Vec::<String>::new());
    assert_eq!(warned(&["--sync-every=1", "--durability=sync"]).len(), 1);
    assert_eq!(warned(&["-worker-id", "5", "--nonsense"]).len(), 2);
}

#[test]
fn statsd_needs_an_interval() {
    assert_eq!(run(&["--statsd-interval=0"]).unwrap().statsd_interval, Duration::ZERO);
    assert!(fatal(&["--statsd-interval=0", "--statsd-address=h:1"]).contains("--statsd-interval"));
}

#[test]
fn percentiles_are_sorted_and_checked() {
    let flag = "--e2e-processing-latency-percentile";
    let config = run(&[&format!("{flag}=0.5, 1.0"), &format!("{flag}=0.99")]).unwrap();
    assert_eq!(config.e2e_processing_latency_percentiles, [1.0, 0.99, 0.5]);
    assert_eq!(fatal(&[&format!("{flag}=abc")]), "Could not parse: abc");
    for bad in ["0", "1.1", "NaN"] {
        assert!(fatal(&[&format!("{flag}={bad}")]).contains("percentile"), "{bad}");
    }
}
