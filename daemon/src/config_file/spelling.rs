//! Decides whether an unknown key is ignored with a warning or refused. Pure.

use toml::{Table, Value};

use super::Key;

/// Words that appear only in security options.
const GUARD_WORDS: [&str; 9] = ["tls", "ssl", "mtls", "auth", "cert", "secret", "token", "password", "https"];

/// Maximum edit distance of a misspelled key from a known one.
const MAX_DISTANCE: usize = 2;

/// Returns a sentence for each key that has no effect. The error is an unknown key that may have been meant to protect
/// the daemon, and a hint at the right one.
pub(super) fn check(table: &Table, keys: &[Key]) -> Result<Vec<String>, (String, String)> {
    let mut warnings = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) if !keys.iter().any(|key| key.key == name) => {
                for inner in section.keys() {
                    if let Some(key) = keys.iter().find(|key| key.is_guard && is_like(inner, key)) {
                        let hint = format!("move {} above all sections: sections are ignored", key.key);
                        return Err((format!("{name}.{inner}"), hint));
                    }
                }
                warnings.push(format!("section [{name}] is ignored: sections have no effect"));
            }
            _ => warnings.extend(check_key(name, keys)?),
        }
    }
    Ok(warnings)
}

/// `None` if the key is known.
fn check_key(name: &str, keys: &[Key]) -> Result<Option<String>, (String, String)> {
    if keys.iter().any(|key| key.key == name) {
        return Ok(None);
    }
    if let Some(key) = keys.iter().find(|key| key.is_guard && is_like(name, key)) {
        return Err((name.to_owned(), format!("did you mean {}?", key.key)));
    }
    let nearest = keys.iter().find(|key| is_like(name, key));
    let normal = normalized(name);
    if nearest.is_none() && normal.split('_').any(|word| GUARD_WORDS.contains(&word)) {
        let known: Vec<&str> = keys.iter().filter(|key| key.is_guard).map(|key| key.key).collect();
        let hint = match known.is_empty() {
            true => "it looks like a security option, but this daemon has none".to_owned(),
            false => {
                format!("it looks like a security option; the security options are {}", known.join(", "))
            }
        };
        return Err((name.to_owned(), hint));
    }
    Ok(Some(match nearest {
        Some(key) => format!("unknown key {name} is ignored; did you mean {}?", key.key),
        None => format!("unknown key {name} is ignored"),
    }))
}

/// Whether a name may be a misspelling of a key or of its flag's name.
fn is_like(name: &str, key: &Key) -> bool {
    let name = normalized(name);
    let near = |known: &str| strsim::damerau_levenshtein(&name, &normalized(known)) <= MAX_DISTANCE;
    near(key.key) || near(key.id)
}

fn normalized(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    const KEYS: [Key; 4] = [
        Key::new("tls_required", Kind::Word).guard(),
        Key::new("auth_http_address", Kind::StringList).named("auth_http_addresses").guard(),
        Key::new("msg_timeout", Kind::Duration),
        Key::new("lookupd_tcp_address", Kind::StringList).named("nsqlookupd_tcp_addresses"),
    ];

    fn of(toml: &str) -> Result<Vec<String>, (String, String)> {
        check(&toml.parse().unwrap(), &KEYS)
    }

    #[test]
    fn known_keys_are_accepted() {
        assert_eq!(of("tls_required = true\nmsg_timeout = 1"), Ok(vec![]));
    }

    #[test]
    fn misspelled_guards_are_refused_with_the_nearest_name() {
        for (name, meant) in [
            ("tls_requried", "tls_required"),
            ("TLS_Required", "tls_required"),
            ("tls-required", "tls_required"),
            ("tlsrequired", "tls_required"),
            ("auth_http_address", "auth_http_addresses"),
        ] {
            let (key, hint) = of(&format!("{name} = true")).unwrap_err();
            assert_eq!((key.as_str(), hint), (name, format!("did you mean {meant}?")));
        }
        for name in ["tls_policy", "client_auth", "http_token"] {
            let (_, hint) = of(&format!("{name} = 1")).unwrap_err();
            assert!(hint.ends_with("the security options are tls_required, auth_http_addresses"), "{hint}");
        }
        let (key, _) = of("[nsqd]\ntls_required = true").unwrap_err();
        assert_eq!(key, "nsqd.tls_required");
    }

    #[test]
    fn other_unknown_keys_are_only_a_warning() {
        let warnings = of("lookupd_tcp_address = []\nmsg_timeuot = 1\nother = 1\n[x]\ny = 1").unwrap();
        assert_eq!(
            warnings,
            [
                "unknown key lookupd_tcp_address is ignored; did you mean nsqlookupd_tcp_addresses?",
                "unknown key msg_timeuot is ignored; did you mean msg_timeout?",
                "unknown key other is ignored",
                "section [x] is ignored: sections have no effect",
            ]
        );
    }
}
