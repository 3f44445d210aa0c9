//! JSON documents that commands print: the rows they are about, selected fields, and names. Pure.

use serde_json::{Map, Value};

/// Lists that describe daemons that failed or are slow, and pages, beside the list that a document is about.
const SIDE_LISTS: [&str; 3] = ["node_errors", "stale_nodes", "ends"];

/// Keys that name a row, best first. A row with a topic and a channel is named `TOPIC/CHANNEL`.
const NAME_KEYS: [&str; 8] = ["topic_name", "profile", "node", "address", "client_id", "code", "name", "id"];

/// The key of the list that the document is about: its only list of objects besides those of daemons that failed.
fn list_key(document: &Value) -> Option<&str> {
    let is_list = |(key, value): &(&String, &Value)| {
        let items = value.as_array();
        !SIDE_LISTS.contains(&key.as_str()) && items.is_some_and(|items| items.iter().all(Value::is_object))
    };
    let mut lists = document.as_object()?.iter().filter(is_list);
    match (lists.next(), lists.next()) {
        (Some((key, _)), None) => Some(key),
        _ => None,
    }
}

/// The rows of a document. A document without a list is its only row.
pub fn rows(document: &Value) -> Vec<&Value> {
    match (document, list_key(document)) {
        (Value::Array(rows), _) => rows.iter().collect(),
        (_, Some(key)) => document[key].as_array().into_iter().flatten().collect(),
        (_, None) => vec![document],
    }
}

/// The document with only these fields in each row. `a.b` selects a field of an object, or of each object of a list. A
/// field that a row lacks becomes null.
pub fn select(mut document: Value, fields: &[String]) -> Value {
    let reduce = |row: &Value| {
        let mut selected = Map::new();
        for field in fields {
            let path: Vec<&str> = field.split('.').collect();
            insert(&mut selected, &path, row);
        }
        Value::Object(selected)
    };
    if let Value::Array(rows) = &document {
        return rows.iter().map(reduce).collect();
    }
    match list_key(&document).map(str::to_owned) {
        Some(key) => {
            document[&key] = document[&key].as_array().into_iter().flatten().map(reduce).collect();
            document
        }
        None => reduce(&document),
    }
}

fn insert(selected: &mut Map<String, Value>, path: &[&str], from: &Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let value = from.get(*first).unwrap_or(&Value::Null);
    if rest.is_empty() {
        selected.insert((*first).to_owned(), value.clone());
        return;
    }
    match value {
        Value::Array(items) => {
            let fresh = || Value::Array(vec![Value::Object(Map::new()); items.len()]);
            let list = selected.entry((*first).to_owned()).or_insert_with(fresh);
            for (into, item) in list.as_array_mut().into_iter().flatten().zip(items) {
                if let Value::Object(into) = into {
                    insert(into, rest, item);
                }
            }
        }
        _ => {
            let object = selected.entry((*first).to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(object) = object {
                insert(object, rest, value);
            }
        }
    }
}

/// The name of each row; rows without one are left out.
pub fn names(document: &Value) -> Vec<String> {
    let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = |row: &&Value| match (text(row, "topic_name"), text(row, "channel_name")) {
        (Some(topic), Some(channel)) => Some(format!("{topic}/{channel}")),
        _ => NAME_KEYS.iter().find_map(|key| text(row, key)),
    };
    rows(document).iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({"topics": [
            {"topic_name": "a", "depth": 1, "channels": [{"channel_name": "c", "depth": 2, "paused": true}]},
            {"topic_name": "b", "depth": 3, "channels": []},
        ], "node_errors": []})
    }

    #[test]
    fn fields_are_selected_in_rows_and_below() {
        let fields = ["topic_name", "channels.channel_name", "channels.depth", "missing"].map(str::to_owned);
        let expected = json!({"topics": [
            {"topic_name": "a", "channels": [{"channel_name": "c", "depth": 2}], "missing": null},
            {"topic_name": "b", "channels": [], "missing": null},
        ], "node_errors": []});
        assert_eq!(select(document(), &fields), expected);
        let single = json!({"topic_name": "t", "done": "paused", "nodes": ["n"]});
        assert_eq!(select(single, &["done".to_owned()]), json!({"done": "paused"}));
    }

    #[test]
    fn rows_are_those_of_the_only_list() {
        assert_eq!(rows(&document()).len(), 2);
        assert_eq!(rows(&json!({"a": 1})), [&json!({"a": 1})]);
        assert_eq!(rows(&json!([1, 2])).len(), 2);
        assert_eq!(rows(&json!({"a": [{}], "b": [{}]})).len(), 1);
    }

    #[test]
    fn rows_are_named() {
        assert_eq!(names(&document()), ["a", "b"]);
        let channels = json!({"channels": [{"topic_name": "t", "channel_name": "c"}], "node_errors": []});
        assert_eq!(names(&channels), ["t/c"]);
        assert_eq!(names(&json!({"nodes": [{"node": "n:1"}, {"depth": 0}]})), ["n:1"]);
    }
}
