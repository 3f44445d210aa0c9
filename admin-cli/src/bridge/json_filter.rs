//! Which JSON messages pass, and with which fields. Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// Conditions and fields for JSON objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JsonFilter {
    /// The field that an object must have.
    pub require_field: Option<String>,
    /// The value that the field must have.
    pub require_value: Option<String>,
    /// The fields to keep; all if empty.
    pub keep_fields: Vec<String>,
}

/// What to do with a message.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Pass it on as it is.
    Pass,
    /// Pass on this body instead.
    PassFiltered(Vec<u8>),
    /// It does not meet the condition.
    Drop,
    /// It lacks the field whose value is required.
    MissingField,
    /// It is no JSON object.
    NotAnObject(String),
}

impl JsonFilter {
    /// Whether all messages pass unchanged, JSON or not.
    pub fn is_empty(&self) -> bool {
        self.require_field.is_none() && self.keep_fields.is_empty()
    }

    pub fn apply(&self, body: &[u8]) -> Verdict {
        if self.is_empty() {
            return Verdict::Pass;
        }
        let fields: BTreeMap<String, &RawValue> = match serde_json::from_slice(body) {
            Ok(fields) => fields,
            Err(error) => return Verdict::NotAnObject(error.to_string()),
        };
        if let Some(name) = &self.require_field {
            match (fields.get(name), &self.require_value) {
                (None, None) => return Verdict::Drop,
                (None, Some(_)) => return Verdict::MissingField,
                (Some(found), Some(required)) if !is_equal(found, required) => return Verdict::Drop,
                (Some(_), _) => {}
            }
        }
        if self.keep_fields.is_empty() {
            return Verdict::Pass;
        }
        // Values keep their text: nothing is rounded.
        let kept: BTreeMap<&String, &RawValue> =
            self.keep_fields.iter().filter_map(|name| Some((name, *fields.get(name)?))).collect();
        // Serializing these types cannot fail.
        Verdict::PassFiltered(serde_json::to_vec(&kept).unwrap_or_default())
    }
}

/// Compares texts as they are, and numbers by value. Nothing else is equal.
fn is_equal(found: &RawValue, required: &str) -> bool {
    match serde_json::from_str(found.get()) {
        Ok(Value::String(text)) => text == required,
        Ok(Value::Number(number)) => {
            required.parse::<f64>().is_ok_and(|required| number.as_f64() == Some(required))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(field: &str, value: &str, keep: &[&str]) -> JsonFilter {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let keep_fields = keep.iter().map(|name| (*name).to_owned()).collect();
        JsonFilter { require_field: some(field), require_value: some(value), keep_fields }
    }

    #[test]
    fn objects_are_selected_by_a_field() {
        for (field, value, body, verdict) in [
            ("", "", "not json", Verdict::Pass),
            ("a", "", r#"{"a":null}"#, Verdict::Pass),
            ("a", "", r#"{"b":1}"#, Verdict::Drop),
            ("a", "x", r#"{"b":1}"#, Verdict::MissingField),
            ("a", "x", r#"{"a":"x"}"#, Verdict::Pass),
            ("a", "1", r#"{"a":"1"}"#, Verdict::Pass),
            ("a", "1", r#"{"a":1.0}"#, Verdict::Pass),
            ("a", "1", r#"{"a":2}"#, Verdict::Drop),
            ("a", "true", r#"{"a":true}"#, Verdict::Drop),
        ] {
            assert_eq!(filter(field, value, &[]).apply(body.as_bytes()), verdict, "{field} {value} {body}");
        }
        for body in ["[1]", "x", "", "{\"a\":1"] {
            assert!(matches!(filter("a", "", &[]).apply(body.as_bytes()), Verdict::NotAnObject(_)), "{body}");
        }
    }

    #[test]
    fn kept_fields_are_sorted_and_keep_their_text() {
        let body = br#"{"z": 1.0, "b": {"x": [1, 2]}, "a": 12345678901234567890123, "c": "<\u00e9>"}"#;
        let kept = filter("", "", &["z", "a", "b", "c", "missing"]).apply(body);
        let expected = br#"{"a":12345678901234567890123,"b":{"x": [1, 2]},"c":"<\u00e9>","z":1.0}"#;
        assert_eq!(kept, Verdict::PassFiltered(expected.to_vec()));
    }
}
