//! Pure: the token file, which lists tokens and what they allow, so that no auth server is needed.
//!
//! ```toml
//! [[token]]
//! identity = "billing"
//! hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! expires = "2027-01-01T00:00:00Z"
//! authorizations = [
//!     { topic = "^orders$", channels = ["^billing$"], permissions = ["subscribe"] },
//!     { topic = "^invoices", channels = [""], permissions = ["publish"] },
//! ]
//! ```
//!
//! The file holds hashes, so reading it does not reveal the tokens. Plain SHA-256 is enough because tokens are long and
//! random: they cannot be guessed, so no slow hash is needed; no two are equal, so no salt is needed.

use std::sync::Arc;

use nsq_protocol::AuthorizationEntry;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::grant::{Authorization, InvalidAuthorization};
use super::pattern::Patterns;

const HASH_BYTES: usize = 32;
const HASH_PREFIX: &str = "sha256:";

/// Why a token file is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTokens {
    /// The file is not valid TOML or JSON, or has wrong fields.
    #[error("{0}")]
    Form(String),
    /// A hash is not `sha256:` and 64 hexadecimal digits.
    #[error("token {0:?}: the hash must be sha256: and 64 hexadecimal digits (nsq auth token creates one)")]
    Hash(String),
    /// Two tokens have the same hash.
    #[error("token {0:?}: another token has the same hash")]
    Duplicate(String),
    /// `expires` is not a valid time.
    #[error("token {0:?}: expires must be a time such as 2027-01-01T00:00:00Z")]
    Expires(String),
    /// An authorization is invalid.
    #[error("token {0:?}: {1}")]
    Authorization(String, InvalidAuthorization),
}

/// The syntax of a token file, chosen by the file's ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Any ending except `.json`.
    Toml,
    /// `.json`
    Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    identity: String,
    #[serde(default)]
    identity_url: String,
    hash: String,
    expires: Option<String>,
    #[serde(default)]
    authorizations: Vec<AuthorizationEntry>,
}

/// The tokens of a file.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

#[derive(Debug, Clone)]
pub struct Token {
    hash: [u8; HASH_BYTES],
    /// The owner of the token.
    pub identity: String,
    /// A page about the owner.
    pub identity_url: String,
    /// When the token expires, in nanoseconds since the Unix epoch; `None` for never.
    pub expires_at: Option<i128>,
    pub authorizations: Arc<[Authorization]>,
}

impl Tokens {
    /// Parses the text of a file. One invalid token makes the whole file invalid.
    pub fn parse(text: &str, form: Form, patterns: &Patterns) -> Result<Self, InvalidTokens> {
        let file: File = match form {
            Form::Toml => toml::from_str(text).map_err(|error| InvalidTokens::Form(error.to_string()))?,
            Form::Json => {
                // Parse an object first: serde also reads a struct from an array.
                let object = serde_json::from_str(text).map(serde_json::Value::Object);
                object
                    .and_then(serde_json::from_value)
                    .map_err(|error| InvalidTokens::Form(error.to_string()))?
            }
        };
        let mut tokens: Vec<Token> = Vec::with_capacity(file.token.len());
        for entry in file.token {
            let token = Token::read(entry, patterns)?;
            if tokens.iter().any(|other| other.hash == token.hash) {
                return Err(InvalidTokens::Duplicate(token.identity));
            }
            tokens.push(token);
        }
        Ok(Self(tokens))
    }

    /// Finds the token of a secret. Takes the same time for every secret, so that timing reveals nothing.
    pub fn find(&self, secret: &[u8]) -> Option<&Token> {
        let hash: [u8; HASH_BYTES] = Sha256::digest(secret).into();
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some(token);
            }
        }
        found
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Token {
    fn read(entry: Entry, patterns: &Patterns) -> Result<Self, InvalidTokens> {
        let Entry { identity, identity_url, hash, expires, authorizations } = entry;
        let Some(hash) = parse_hash(&hash) else { return Err(InvalidTokens::Hash(identity)) };
        let expires_at = match expires {
            None => None,
            Some(text) => match OffsetDateTime::parse(&text, &Rfc3339) {
                Ok(at) => Some(at.unix_timestamp_nanos()),
                Err(_) => return Err(InvalidTokens::Expires(identity)),
            },
        };
        match Authorization::compile_all(&authorizations, patterns) {
            Ok(authorizations) => Ok(Self { hash, identity, identity_url, expires_at, authorizations }),
            Err(error) => Err(InvalidTokens::Authorization(identity, error)),
        }
    }
}

fn parse_hash(text: &str) -> Option<[u8; HASH_BYTES]> {
    let digits = text.strip_prefix(HASH_PREFIX)?.as_bytes();
    let mut hash = [0; HASH_BYTES];
    if digits.len() != 2 * HASH_BYTES {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::super::grant::Permission;
    use super::*;

    /// Hashes of `test` and of `other`.
    const TEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const OTHER: &str = "sha256:D9298A10D1B0735837DC4BD85DAC641B0F3CEF27A47E5D53A54F2F3F5B2FCFFA";

    fn parse(toml: &str) -> Result<Tokens, InvalidTokens> {
        Tokens::parse(toml, Form::Toml, &Patterns::default())
    }

    fn allows(token: &Token, permission: Permission, topic: &str, channel: &str) -> bool {
        token.authorizations.iter().any(|authorization| authorization.allows(permission, topic, channel))
    }

    #[test]
    fn a_token_is_found_by_its_secret() {
        let tokens = parse(&format!(
            "[[token]]\nidentity = 'a'\nidentity_url = 'http://a'\nhash = '{TEST}'\nexpires = '2027-01-01T00:00:00Z'\n\
             authorizations = [{{ topic = '^t$', channels = [''], permissions = ['publish', 'monitor'] }}]\n\
             [[token]]\nidentity = 'b'\nhash = '{OTHER}'\n"
        ))
        .unwrap();
        assert_eq!(tokens.len(), 2);
        let token = tokens.find(b"test").unwrap();
        assert_eq!((token.identity.as_str(), token.identity_url.as_str()), ("a", "http://a"));
        assert_eq!(token.expires_at, Some(1_798_761_600_000_000_000));
        assert!(allows(token, Permission::Publish, "t", "") && !allows(token, Permission::Admin, "t", ""));
        let other = tokens.find(b"other").unwrap();
        assert_eq!((other.identity.as_str(), other.authorizations.len(), other.expires_at), ("b", 0, None));
        for unknown in [&b""[..], b"Test", b"test ", TEST.as_bytes()] {
            assert!(tokens.find(unknown).is_none());
        }
    }

    #[test]
    fn json_and_toml_are_equivalent() {
        let json = format!(
            r#"{{"token":[{{"identity":"a","hash":"{TEST}","authorizations":[{{"topic":"","channels":[""],"permissions":["admin"]}}]}}]}}"#
        );
        let tokens = Tokens::parse(&json, Form::Json, &Patterns::default()).unwrap();
        assert!(allows(tokens.find(b"test").unwrap(), Permission::Admin, "t", "c"));
        assert!(Tokens::parse("{}", Form::Json, &Patterns::default()).unwrap().is_empty());
        assert!(parse("").unwrap().is_empty());
        assert!(Tokens::parse("[]", Form::Json, &Patterns::default()).is_err());
    }

    #[test]
    fn errors_name_the_invalid_token() {
        let token = |rest: &str| format!("[[token]]\nidentity = 'a'\n{rest}");
        let error = |text: String| parse(&text).unwrap_err();
        assert!(matches!(error(token("")), InvalidTokens::Form(_)));
        assert!(matches!(error(token(&format!("hash = '{TEST}'\nsecret = 'x'"))), InvalidTokens::Form(_)));
        for hash in ["test", "sha256:", "sha256:12", &TEST.replace('9', "g"), &TEST.replace("sha256", "md5")]
        {
            assert_eq!(error(token(&format!("hash = '{hash}'"))), InvalidTokens::Hash("a".into()), "{hash}");
        }
        let twice = format!("{}\n{}", token(&format!("hash = '{TEST}'")), token(&format!("hash = '{TEST}'")));
        assert_eq!(error(twice), InvalidTokens::Duplicate("a".into()));
        let date = token(&format!("hash = '{TEST}'\nexpires = 'soon'"));
        assert_eq!(error(date), InvalidTokens::Expires("a".into()));
        let word = token(&format!("hash = '{TEST}'\nauthorizations = [{{ permissions = ['all'] }}]"));
        assert_eq!(error(word).to_string(), r#"token "a": unknown permission "all""#);
    }
}
