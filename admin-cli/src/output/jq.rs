//! `--jq`: filters of the jq language, run by jaq. Pure.

use std::fmt;
use std::sync::Arc;

use jaq_core::load::{Arena, Error as LoadError, File, Loader};
use jaq_core::{Compiler, Ctx, Native, RcIter};
use jaq_json::Val;
use serde_json::Value;

/// Maximum number of values that one input may give: a filter such as `repeat(.)` would never end.
const MAX_RESULTS: usize = 1_000_000;

/// A compiled filter.
#[derive(Clone)]
pub struct Jq {
    filter: Arc<jaq_core::Filter<Native<Val>>>,
}

impl fmt::Debug for Jq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jq")
    }
}

impl Jq {
    /// Compiles a filter. The error says what is wrong, and where.
    pub fn parse(code: &str) -> Result<Self, String> {
        let arena = Arena::default();
        let loader = Loader::new(jaq_std::defs().chain(jaq_json::defs()));
        let modules = loader.load(&arena, File { code, path: () }).map_err(|errors| {
            let error = errors.into_iter().next().map(|(_, error)| error);
            match error {
                Some(LoadError::Lex(found)) => {
                    found.first().map(|(expected, at)| misplaced(expected.as_str(), at))
                }
                Some(LoadError::Parse(found)) => {
                    found.first().map(|(expected, at)| misplaced(expected.as_str(), at))
                }
                Some(LoadError::Io(_)) => Some("modules cannot be loaded".to_owned()),
                None => None,
            }
            .unwrap_or_else(|| "syntax error".to_owned())
        })?;
        let compiler = Compiler::default().with_funs(jaq_std::funs().chain(jaq_json::funs()));
        let filter = compiler.compile(modules).map_err(|errors| {
            let first = errors.into_iter().flat_map(|(_, found)| found).next();
            first.map_or("undefined name".to_owned(), |(name, kind)| {
                format!("undefined {}: {name}", kind.as_str())
            })
        })?;
        Ok(Jq { filter: Arc::new(filter) })
    }

    /// Runs the filter on one value.
    pub fn apply(&self, input: Value) -> Result<Vec<Value>, String> {
        let inputs = RcIter::new(core::iter::empty());
        let mut results = Vec::new();
        for result in self.filter.run((Ctx::new([], &inputs), Val::from(input))) {
            if results.len() == MAX_RESULTS {
                return Err(format!("the filter gives more than {MAX_RESULTS} values"));
            }
            results.push(result.map(Value::from).map_err(|error| error.to_string())?);
        }
        Ok(results)
    }
}

fn misplaced(expected: &str, at: &str) -> String {
    match at {
        "" => format!("expected {expected} at the end"),
        at => format!("expected {expected} at {at:?}"),
    }
}

/// A result as a line: a string as it is, anything else as JSON.
pub fn line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(code: &str, input: Value) -> Result<Vec<Value>, String> {
        Jq::parse(code)?.apply(input)
    }

    #[test]
    fn filters_select_and_compute() {
        let input = json!({"topics": [{"topic_name": "a", "depth": 5}, {"topic_name": "b", "depth": 0}]});
        let code = ".topics[] | select(.depth > 0) | .topic_name";
        assert_eq!(run(code, input.clone()).unwrap(), [json!("a")]);
        assert_eq!(run("[.topics[].depth] | add", input.clone()).unwrap(), [json!(5)]);
        assert_eq!(run(".topics | map(.topic_name) | @csv", input).unwrap(), [json!("\"a\",\"b\"")]);
        assert_eq!((line(&json!("x")), line(&json!([1]))), ("x".to_owned(), "[1]".to_owned()));
    }

    #[test]
    fn wrong_filters_are_explained() {
        for (code, part) in
            [(".a[", "expected"), ("nonsense", "undefined filter: nonsense"), ("$x", "undefined variable")]
        {
            let error = run(code, Value::Null).unwrap_err();
            assert!(error.contains(part), "{code}: {error}");
        }
        assert!(run(".a", json!(1)).is_err());
        assert!(run("repeat(.)", json!(1)).unwrap_err().contains("more than"));
    }
}
