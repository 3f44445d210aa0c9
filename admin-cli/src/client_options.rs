//! Options of the client library on the command line: `-X help` and the hint for an unknown name. Pure.

use std::ffi::OsString;
use std::fmt::Write as _;

use nsq::{Config, ConfigError, OptionInfo};
use serde_json::{Value, json};

use crate::exit_status::Failure;
use crate::names::nearest;

/// The flags that set an option.
const FLAGS: [&str; 4] = ["-X", "--opt", "--consumer-opt", "--producer-opt"];

/// Whether a command line asks for the list of options, such as `nsq sub -X help`. The rest of it need not be complete.
pub fn are_asked_for(line: &[OsString]) -> bool {
    let words: Vec<&str> = line.iter().map_while(|word| word.to_str().filter(|word| *word != "--")).collect();
    let in_one_word =
        |word: &str| word == "-Xhelp" || word.strip_suffix("=help").is_some_and(|flag| FLAGS.contains(&flag));
    words.iter().any(|word| in_one_word(word))
        || words.windows(2).any(|pair| FLAGS.contains(&pair[0]) && pair[1] == "help")
}

/// The list of options as text.
pub fn page() -> String {
    let mut text = "Options of the client library, for -X NAME=VALUE. A name alone means true.\n".to_owned();
    for OptionInfo { name, about, values, default, .. } in Config::options() {
        let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let _ = write!(text, "\n  {name}={values}{default}\n      {about}\n");
    }
    text
}

/// The list of options as JSON.
pub fn document() -> Value {
    let option = |option: OptionInfo| {
        let OptionInfo { name, about, values, default, .. } = option;
        json!({"name": name, "values": values, "default": default, "about": about})
    };
    json!({"options": Config::options().into_iter().map(option).collect::<Vec<_>>()})
}

/// The failure for an option that cannot be set.
pub fn failure(error: ConfigError) -> Failure {
    let near = match &error {
        ConfigError::UnknownOption { name } => {
            nearest(&name.replace('-', "_"), Config::OPTION_NAMES.iter().copied())
        }
        _ => return error.into(),
    };
    Failure::from(error).hint(match near {
        Some(near) => format!("did you mean {near}? `nsq -X help` lists the options"),
        None => "`nsq -X help` lists the options".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_asked_for_in_any_spelling_before_the_arguments() {
        let asked = |line: &str| are_asked_for(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in ["nsq -X help", "nsq sub --opt=help", "nsq sub t -Xhelp", "nsq tail --consumer-opt help"]
        {
            assert!(asked(line), "{line}");
        }
        for line in ["nsq pub t -- -X help", "nsq -X snappy help", "nsq sub t -X", "nsq pub t help"] {
            assert!(!asked(line), "{line}");
        }
    }

    #[test]
    fn page_has_range_default_and_sentence_of_each_option() {
        let page = page();
        let entry =
            "\n  deflate_level=1 to 9 [default: 6]\n      Deflate level: 1 is fastest, 9 compresses most.\n";
        assert!(page.contains(entry), "{page}");
        for name in Config::OPTION_NAMES {
            assert!(page.contains(&format!("\n  {name}=")), "{name}");
        }
        assert_eq!(document()["options"][0]["name"], "dial_timeout");
    }

    #[test]
    fn unknown_option_names_the_nearest() {
        let unknown = |name: &str| failure(Config::new().set(name, "1").unwrap_err()).hint;
        assert_eq!(
            unknown("max-atempts").as_deref(),
            Some("did you mean max_attempts? `nsq -X help` lists the options")
        );
        assert_eq!(unknown("xyz").as_deref(), Some("`nsq -X help` lists the options"));
        let beyond = Config::new().set("deflate_level", "10").unwrap_err();
        assert_eq!(failure(beyond).hint, None);
    }
}
