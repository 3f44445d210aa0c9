use super::*;
use proptest::prelude::*;

fn skip(document: &[u8]) -> Result<(), JsonError> {
    let mut reader = Reader::new(document);
    reader.skip()?;
    reader.finish()
}

fn string(document: &[u8]) -> Result<Option<String>, JsonError> {
    let mut reader = Reader::new(document);
    let text = reader.string()?;
    reader.finish().map(|()| text)
}

fn integer(document: &str) -> Result<Option<i64>, JsonError> {
    let mut reader = Reader::new(document.as_bytes());
    let number = reader.integer()?;
    reader.finish().map(|()| number)
}

#[test]
fn only_valid_documents_are_accepted() {
    for good in [
        "{}",
        "[]",
        "null",
        " \t\r\n1 ",
        "[1,-2.5e+3,0.1,1E2,\"a\",true,false,null,{},[]]",
        "{\"a\":{\"b\":[{}]},\"a\":0}",
        "[ [ ] , { \"k\" : [ 1 ] } ]",
    ] {
        assert_eq!(skip(good.as_bytes()), Ok(()), "{good}");
    }
    for bad in [
        "",
        " ",
        "{",
        "[",
        "[1",
        "[1,]",
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{'a':1}",
        "1 2",
        "{}x",
        "]",
        "[}",
        "{]",
        "[1}",
        "{\"a\":1]",
        "nul",
        "NaN",
        "+1",
        "01",
        "1.",
        ".5",
        "1e",
        "-",
        "tru",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\u{feff}{}",
        "{1:2}",
        "[,1]",
    ] {
        assert_eq!(skip(bad.as_bytes()), Err(JsonError), "{bad}");
    }
}

#[test]
fn nesting_needs_no_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(skip(nested(MAX_DEPTH).as_bytes()), Ok(()));
        assert_eq!(skip(nested(MAX_DEPTH + 1).as_bytes()), Err(JsonError));
        assert_eq!(skip(open.repeat(1_000_000).as_bytes()), Err(JsonError));
    }
}

#[test]
fn integers_are_strict() {
    assert_eq!(integer("-0"), Ok(Some(0)));
    assert_eq!(integer("9223372036854775807"), Ok(Some(i64::MAX)));
    assert_eq!(integer("-9223372036854775808"), Ok(Some(i64::MIN)));
    assert_eq!(integer("null"), Ok(None));
    for bad in ["9223372036854775808", "1000.0", "1e3", "\"1\"", "true", "+1", "01", "[1]", "", "1 x"] {
        assert_eq!(integer(bad), Err(JsonError), "{bad}");
    }
}

#[test]
fn strings_are_read_leniently() {
    let cases: &[(&[u8], &str)] = &[
        (br#""plain""#, "plain"),
        (br#""\"\\\/\b\f\n\r\t""#, "\"\\/\x08\x0c\n\r\t"),
        (br#""\u0041\u00e9\u20AC""#, "A\u{e9}\u{20ac}"),
        (br#""\ud83d\ude00""#, "\u{1f600}"),
        (br#""\ud83d""#, "\u{fffd}"),
        (br#""\ude00x""#, "\u{fffd}x"),
        (br#""\ud83d\u0041""#, "\u{fffd}A"),
        (br#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
        (br#""\ud83d\n""#, "\u{fffd}\n"),
        (b"\"a\xffb\"", "a\u{fffd}b"),
        (b"\"\xe2\x82x\"", "\u{fffd}\u{fffd}x"),
        ("\"é\u{7f}\"".as_bytes(), "é\u{7f}"),
    ];
    for (document, text) in cases {
        assert_eq!(string(document).unwrap().as_deref(), Some(*text), "{}", document.escape_ascii());
    }
    assert_eq!(string(b"null"), Ok(None));
    assert_eq!(string(b"1"), Err(JsonError));
}

#[test]
fn arrays_and_objects_are_read() {
    let mut seen = Vec::new();
    let mut reader = Reader::new(br#" { "a" : [1, 2] , "b" : null , "c" : [ ] , "a" : true } "#);
    let is_object = reader.object(|key, value| {
        match key {
            "a" if seen.is_empty() => {
                value.array(|item| {
                    seen.push(format!("{:?}", item.integer()?));
                    Ok(())
                })?;
            }
            "a" => seen.push(format!("{:?}", value.boolean()?)),
            "b" => seen.push(value.array(|_| Err(JsonError))?.to_string()),
            _ => value.skip()?,
        }
        Ok(())
    });
    assert_eq!(is_object, Ok(true));
    assert_eq!(reader.finish(), Ok(()));
    assert_eq!(seen, ["Some(1)", "Some(2)", "false", "Some(true)"]);
    assert_eq!(Reader::new(b"null").object(|_, _| Err(JsonError)), Ok(false));
    assert_eq!(Reader::new(b"[]").object(|_, _| Ok(())), Err(JsonError));
}

#[test]
fn html_characters_are_escaped() {
    assert_eq!(
        to_json(&"<a & b>\u{2028}\u{2029}é\u{2027}").unwrap(),
        "\"\\u003ca \\u0026 b\\u003e\\u2028\\u2029é\u{2027}\"".as_bytes()
    );
}

#[test]
fn keys_are_case_insensitive() {
    assert_eq!(fold_key("Client_ID"), "client_id");
    assert_eq!(fold_key("\u{17f}\u{212a}É"), "skÉ");
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn output_of_serde_json_is_read(value in any_json()) {
        prop_assert_eq!(skip(value.to_string().as_bytes()), Ok(()));
        prop_assert_eq!(skip(serde_json::to_string_pretty(&value).unwrap().as_bytes()), Ok(()));
        let read = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).unwrap();
        prop_assert_eq!(read(&to_json(&value).unwrap()), read(value.to_string().as_bytes()));
    }

    #[test]
    fn strings_round_trip(text: String) {
        prop_assert_eq!(string(&to_json(&text).unwrap()), Ok(Some(text)));
    }

    /// For UTF-8 text without lone surrogates, serde_json accepts the same documents.
    #[test]
    fn reader_is_as_strict_as_serde_json(document in "[\\[\\]{}:, \"a\\\\u0-9.eE+\\-tnfrulsd]{0,12}") {
        let other = serde_json::from_str::<serde::de::IgnoredAny>(&document).is_ok();
        prop_assert_eq!(skip(document.as_bytes()).is_ok(), other, "{}", document);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = skip(&bytes);
        let _ = string(&bytes);
    }
}
