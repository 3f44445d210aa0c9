use super::*;
use crate::json::to_json;
use proptest::prelude::*;

fn parse(json: &str) -> IdentifyRequest {
    IdentifyRequest::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn negotiated(json: &str) -> Negotiated {
    negotiate(&parse(json), &IdentifyLimits::default()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[track_caller]
fn check_refused(json: &str, expected: &str) {
    let refused = negotiate(&parse(json), &IdentifyLimits::default()).unwrap_err();
    assert_eq!(refused.to_string(), expected, "{json}");
}

#[test]
fn all_fields_are_read() {
    let request = parse(
        r#"{"client_id":"c","hostname":"h","user_agent":"u","heartbeat_interval":1,"output_buffer_size":2,
            "output_buffer_timeout":3,"sample_rate":4,"msg_timeout":5,"feature_negotiation":true,"tls_v1":true,
            "snappy":true,"deflate":true,"deflate_level":6,"topology_region":"r","topology_zone":"z",
            "features":["headers","x"],"extend_support":true}"#,
    );
    let text = |text: &str| Some(text.to_owned());
    let expected = IdentifyRequest {
        client_id: text("c"),
        hostname: text("h"),
        user_agent: text("u"),
        heartbeat_interval: Some(1),
        output_buffer_size: Some(2),
        output_buffer_timeout: Some(3),
        sample_rate: Some(4),
        msg_timeout: Some(5),
        feature_negotiation: Some(true),
        tls_v1: Some(true),
        snappy: Some(true),
        deflate: Some(true),
        deflate_level: Some(6),
        topology_region: text("r"),
        topology_zone: text("z"),
        channel_start: None,
        features: Some(vec!["headers".to_owned(), "x".to_owned()]),
        extend_support: Some(true),
    };
    assert_eq!(request, expected);
    assert_eq!(IdentifyRequest::parse(&to_json(&expected).unwrap()), Ok(expected));
}

#[test]
fn lenient_json_is_accepted() {
    let deep = format!(r#"{{"x":{}1{},"msg_timeout":5}}"#, "[".repeat(200), "]".repeat(200));
    for (json, msg_timeout) in [
        ("{}", None),
        ("null", None),
        (" \r\n{ } \t", None),
        (r#"{"unknown":{"msg_timeout":[1,{"a":"b"}]},"short_id":"x","long_id":null}"#, None),
        (r#"{"MSG_Timeout":5}"#, Some(5)),
        (r#"{"m\u0073g_timeout":5}"#, Some(5)),
        (r#"{"msg_timeout":1,"msg_timeout":5}"#, Some(5)),
        (r#"{"msg_timeout":1,"Msg_Timeout":5}"#, Some(5)),
        (r#"{"msg_timeout":5,"msg_timeout":null}"#, Some(5)),
        (r#"{"msg_timeout":null}"#, None),
        (deep.as_str(), Some(5)),
    ] {
        assert_eq!(parse(json).msg_timeout, msg_timeout, "{json}");
    }
    let request = IdentifyRequest::parse(b"{\"hostname\":\"a\xffb\",\"client_id\":\"\\ud800\"}").unwrap();
    assert_eq!(request.hostname.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(request.client_id.as_deref(), Some("\u{fffd}"));
}

#[test]
fn invalid_json_is_rejected() {
    for json in [
        "",
        "[]",
        "1",
        "\"x\"",
        "true",
        "{",
        "{'a':1}",
        "{}x",
        "{\"a\":1,}",
        "\u{feff}{}",
        r#"{"msg_timeout":"1000"}"#,
        r#"{"msg_timeout":1000.0}"#,
        r#"{"msg_timeout":1e3}"#,
        r#"{"msg_timeout":true}"#,
        r#"{"msg_timeout":NaN}"#,
        r#"{"msg_timeout":9223372036854775808}"#,
        r#"{"msg_timeout":[1]}"#,
        r#"{"sample_rate":2147483648}"#,
        r#"{"sample_rate":-2147483649}"#,
        r#"{"tls_v1":1}"#,
        r#"{"tls_v1":"true"}"#,
        r#"{"hostname":1}"#,
        r#"{"hostname":{}}"#,
        r#"{"features":"headers"}"#,
        r#"{"features":[1]}"#,
        "{\"hostname\":\"\u{1}\"}",
        "{\"x\":\"\n\"}",
    ] {
        let error = IdentifyRequest::parse(json.as_bytes()).expect_err(json);
        assert_eq!(error.to_string(), "E_BAD_BODY IDENTIFY failed to decode JSON body");
    }
}

#[test]
fn values_out_of_bounds_are_rejected() {
    for (field, name, good, bad) in [
        ("heartbeat_interval", "heartbeat interval", vec![-1, 0, 1000, 60_000], vec![-2, 1, 999, 60_001]),
        ("output_buffer_timeout", "output buffer timeout", vec![-1, 0, 25, 30_000], vec![-2, 24, 30_001]),
        ("output_buffer_size", "output buffer size", vec![-1, 0, 64, 65_536], vec![-2, 63, 65_537]),
        ("sample_rate", "sample rate", vec![0, 99], vec![-1, 100, 256]),
        ("msg_timeout", "msg timeout", vec![0, 1000, 900_000], vec![-1, 999, 900_001]),
    ] {
        for value in good {
            negotiated(&format!(r#"{{"{field}":{value}}}"#));
        }
        let extremes = if field == "sample_rate" { vec![] } else { vec![i64::MIN, i64::MAX] };
        for value in bad.into_iter().chain(extremes) {
            let expected = format!("E_BAD_BODY IDENTIFY {name} ({value}) is invalid");
            for negotiation in [false, true] {
                let json = format!(r#"{{"{field}":{value},"feature_negotiation":{negotiation}}}"#);
                check_refused(&json, &expected);
            }
        }
    }
}

#[test]
fn first_invalid_value_is_reported() {
    let wrong = [
        ("heartbeat_interval", "heartbeat interval"),
        ("output_buffer_timeout", "output buffer timeout"),
        ("output_buffer_size", "output buffer size"),
        ("sample_rate", "sample rate"),
        ("msg_timeout", "msg timeout"),
    ];
    for first in 0..wrong.len() {
        let fields: Vec<_> = wrong[first..].iter().rev().map(|(key, _)| format!(r#""{key}":-5"#)).collect();
        let expected = format!("E_BAD_BODY IDENTIFY {} (-5) is invalid", wrong[first].1);
        check_refused(&format!("{{{}}}", fields.join(",")), &expected);
    }
}

#[test]
fn zero_and_absent_give_the_defaults() {
    let zeros = r#"{"heartbeat_interval":0,"output_buffer_size":0,"output_buffer_timeout":0,"sample_rate":0,"msg_timeout":0}"#;
    let got = negotiated(zeros);
    assert_eq!(got, negotiated("{}"));
    assert_eq!(got.heartbeat_interval, Some(Duration::from_secs(30)));
    assert_eq!(
        (got.output_buffer_size, got.output_buffer_timeout),
        (16_384, Some(Duration::from_millis(250)))
    );
    assert_eq!((got.sample_rate, got.msg_timeout), (0, Duration::from_secs(60)));
    assert_eq!((got.client_id.as_str(), got.feature_negotiation), ("", false));
    // Even if a default is outside the bounds for clients.
    let limits = IdentifyLimits { msg_timeout: Duration::from_millis(1), ..IdentifyLimits::default() };
    assert_eq!(negotiate(&parse("{}"), &limits).unwrap().msg_timeout, Duration::from_millis(1));
}

#[test]
fn minus_one_disables() {
    assert_eq!(negotiated(r#"{"heartbeat_interval":-1}"#).heartbeat_interval, None);
    assert_eq!(negotiated(r#"{"output_buffer_timeout":-1}"#).output_buffer_timeout, None);
    let got = negotiated(r#"{"output_buffer_size":-1,"output_buffer_timeout":100}"#);
    assert_eq!((got.output_buffer_size, got.output_buffer_timeout), (1, None));
    let reply = got.reply(&IdentifyReply::default());
    assert_eq!((reply.output_buffer_size, reply.output_buffer_timeout), (1, 0));
}

#[test]
fn upgrades_need_both_sides() {
    let got = negotiated(r#"{"feature_negotiation":true,"tls_v1":true,"snappy":true}"#);
    assert_eq!((got.tls_v1, got.snappy, got.deflate), (false, true, false));
    let got = negotiated(r#"{"tls_v1":true,"snappy":true,"deflate":true}"#);
    assert_eq!((got.tls_v1, got.snappy, got.deflate), (false, false, false));
    let both = parse(r#"{"feature_negotiation":true,"snappy":true,"deflate":true}"#);
    let refused = negotiate(&both, &IdentifyLimits::default()).unwrap_err();
    assert_eq!(refused.to_string(), "E_IDENTIFY_FAILED cannot enable both deflate and snappy compression");
    let limits = IdentifyLimits { snappy: false, tls: true, ..IdentifyLimits::default() };
    assert!(negotiate(&both, &limits).unwrap().deflate);
}

#[test]
fn deflate_level_has_a_default_and_a_limit() {
    let level = |max_deflate_level, asked: i64| {
        let json = format!(r#"{{"feature_negotiation":true,"deflate":true,"deflate_level":{asked}}}"#);
        let limits = IdentifyLimits { max_deflate_level, ..IdentifyLimits::default() };
        negotiate(&parse(&json), &limits).unwrap().deflate_level
    };
    assert_eq!([0, -1, 100, 1, i64::MAX].map(|asked| level(6, asked)), [6, 6, 6, 1, 6]);
    assert_eq!([0, 9, 10].map(|asked| level(9, asked)), [6, 9, 9]);
    assert_eq!([0, 6, 9].map(|asked| level(3, asked)), [3, 3, 3]);
    assert_eq!(negotiated(r#"{"feature_negotiation":true,"deflate_level":1}"#).deflate_level, 6);
}

#[test]
fn reply_is_written_like_nsqd() {
    let daemon = IdentifyReply {
        max_rdy_count: 2500,
        version: "1.3.0".into(),
        max_msg_timeout: 900_000,
        max_deflate_level: 6,
        topology_region: "<r>".into(),
        ..IdentifyReply::default()
    };
    let reply = negotiated(r#"{"feature_negotiation":true,"sample_rate":5}"#).reply(&daemon);
    let json = String::from_utf8(to_json(&reply).unwrap()).unwrap();
    let expected = concat!(
        r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"#,
        r#""deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":5,"#,
        r#""auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250,"#,
        r#""topology_region":"\u003cr\u003e","topology_zone":""}"#
    );
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_str::<IdentifyReply>(&json).unwrap(), reply);
}

#[test]
fn reply_is_read_leniently() {
    let reply: IdentifyReply =
        serde_json::from_str(r#"{"max_rdy_count":7,"version":null,"new":[1],"max_msg_size":9}"#).unwrap();
    let expected = IdentifyReply { max_rdy_count: 7, max_msg_size: Some(9), ..IdentifyReply::default() };
    assert_eq!(reply, expected);
}

proptest! {
    #[test]
    fn requests_round_trip(
        client_id: Option<String>,
        heartbeat_interval: Option<i64>,
        sample_rate: Option<i32>,
        snappy: Option<bool>,
    ) {
        let sample_rate = sample_rate.map(i64::from);
        let request = IdentifyRequest { client_id, heartbeat_interval, sample_rate, snappy, ..Default::default() };
        prop_assert_eq!(IdentifyRequest::parse(&to_json(&request).unwrap()), Ok(request));
    }

    #[test]
    fn arbitrary_values_do_not_panic(
        a: i64, b: i64, c: i64, d in 0i64..120, e: i64, level: i64, max_deflate_level: u8,
    ) {
        let request = IdentifyRequest {
            heartbeat_interval: Some(a),
            output_buffer_size: Some(b),
            output_buffer_timeout: Some(c),
            sample_rate: Some(d),
            msg_timeout: Some(e),
            deflate_level: Some(level),
            deflate: Some(true),
            feature_negotiation: Some(true),
            ..Default::default()
        };
        let limits = IdentifyLimits { max_deflate_level, ..Default::default() };
        if let Ok(got) = negotiate(&request, &limits) {
            prop_assert!(got.deflate_level <= max_deflate_level && got.sample_rate <= 99);
        }
    }
}

#[test]
fn channel_start_is_returned_only_if_requested() {
    let reply = |body: &str| {
        let request = IdentifyRequest::parse(body.as_bytes()).unwrap();
        negotiate(&request, &IdentifyLimits::default()).map(|agreed| agreed.reply(&IdentifyReply::default()))
    };
    assert_eq!(reply("{}").unwrap().channel_start, None);
    let asked = reply(r#"{"channel_start":"1700000000"}"#).unwrap();
    assert_eq!(asked.channel_start.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(reply(r#"{"channel_start":""}"#).is_err());
}

#[test]
fn long_names_are_cut_at_a_character_boundary() {
    let long = "é".repeat(100_000);
    let body = format!(
        r#"{{"client_id":"x{long}","hostname":"{long}","user_agent":"short","topology_zone":"{long}","topology_region":"{long}"}}"#
    );
    let request = IdentifyRequest::parse(body.as_bytes()).unwrap();
    let negotiated = negotiate(&request, &IdentifyLimits::default()).unwrap();
    // The character that would start at the last byte does not fit.
    assert_eq!(negotiated.client_id, format!("x{}", "é".repeat(MAX_NAME_BYTES / 2 - 1)));
    let names = [&negotiated.hostname, &negotiated.topology_zone, &negotiated.topology_region];
    for name in names {
        assert_eq!(*name, "é".repeat(MAX_NAME_BYTES / 2));
        assert!(name.capacity() <= MAX_NAME_BYTES);
    }
    assert_eq!(negotiated.user_agent, "short");
}

#[test]
fn headers_are_granted_and_reported_as_requested() {
    for (asked, granted, features, extend_support) in [
        (r#""features":["headers"]"#, true, Some(&["headers"][..]), None),
        (r#""features":["x","headers",null,"headers"]"#, true, Some(&["headers"]), None),
        (r#""features":["Headers","x"]"#, false, Some(&[]), None),
        (r#""features":["pub_ids","headers"]"#, true, Some(&["headers", "pub_ids"]), None),
        (r#""features":["pub_ids"]"#, false, Some(&["pub_ids"]), None),
        (r#""features":["reject","pub_ids"]"#, false, Some(&["pub_ids", "reject"]), None),
        (r#""features":[]"#, false, Some(&[]), None),
        (r#""features":null"#, false, None, None),
        (r#""extend_support":true"#, true, None, Some(true)),
        (r#""extend_support":false"#, false, None, Some(false)),
        (r#""features":["headers"],"extend_support":false"#, true, Some(&["headers"]), Some(false)),
        (r#""client_id":"c""#, false, None, None),
    ] {
        let settings = negotiated(&format!(r#"{{"feature_negotiation":true,{asked}}}"#));
        assert_eq!(settings.headers(), granted, "{asked}");
        let reply = settings.reply(&IdentifyReply::default());
        let features = features.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!((reply.features.clone(), reply.extend_support), (features, extend_support), "{asked}");
        assert_eq!(reply.grants_headers(), granted && reply.features.is_some());
        assert_eq!(settings.pub_ids(), asked.contains("pub_ids"), "{asked}");
        assert_eq!(reply.grants_pub_ids(), asked.contains("pub_ids"), "{asked}");
        assert_eq!(
            (settings.reject(), reply.grants_reject()),
            (asked.contains("reject"), asked.contains("reject"))
        );
        let text = String::from_utf8(to_json(&reply).unwrap()).unwrap();
        assert_eq!(text.contains("features"), reply.features.is_some());
        assert_eq!(text.contains("extend_support"), extend_support.is_some());
        // A client that does not read the reply cannot know that frames have another form.
        assert!(!negotiated(&format!("{{{asked}}}")).headers(), "{asked}");
    }
}
