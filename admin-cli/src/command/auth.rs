//! `nsq auth token`: creates a token for nsqd's `--auth-file`, with its entry for that file. `nsq auth password`: hashes a
//! password for the dashboard.

use std::io::Read;

use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// Random bytes of a token: too many to guess.
const TOKEN_BYTES: usize = 32;
/// Prefix of tokens, by which people and secret scanners recognize them.
const TOKEN_PREFIX: &str = "nsq_";
/// Minimum length of an existing secret. The file's hashes are fast to compute, so they protect only secrets that
/// cannot be guessed.
const MIN_SECRET_BYTES: usize = 20;

/// Minimum length of a password of the dashboard.
const MIN_PASSWORD_BYTES: usize = 8;

const EXPLANATION: &str = "\
Prints the token, which is never shown again, and its entry for the token file, which holds only its hash. \
Patterns are regular expressions that match anywhere in a name. For publishing, the channel name is empty.";

#[derive(Debug, Args)]
#[command(after_help = EXPLANATION)]
pub struct TokenFlags {
    /// Name of the token's owner, shown in statistics.
    #[arg(long, value_name = "NAME", default_value = "client")]
    identity: String,
    /// Pattern of the topics that the token allows.
    #[arg(long, value_name = "PATTERN", default_value = ".*")]
    topic: String,
    /// Pattern of the channels that the token allows; may be repeated.
    #[arg(long, value_name = "PATTERN", default_value = ".*")]
    channel: Vec<String>,
    /// Permissions to grant: publish, subscribe, monitor, read, admin, adopt.
    #[arg(long, value_name = "WORD", value_delimiter = ',', default_value = "publish,subscribe",
          value_parser = ["publish", "subscribe", "monitor", "read", "admin", "adopt"])]
    permission: Vec<String>,
    /// Time of expiry, such as 2027-01-01T00:00:00Z. [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires: Option<String>,
    /// Read an existing secret from stdin instead of creating one.
    #[arg(long)]
    stdin: bool,
}

fn parse_time(text: &str) -> Result<String, String> {
    let form = time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, &form).map_err(|_| "expected a time such as 2027-01-01T00:00:00Z")?;
    Ok(text.to_owned())
}

/// Creates a token and prints it with its entry.
pub fn token(flags: &TokenFlags, output: Output) -> Result<ExitStatus, Failure> {
    let secret = if flags.stdin { Some(secret_from_stdin()?) } else { None };
    let token = secret.clone().map_or_else(new_token, Ok)?;
    let hash = format!("sha256:{}", hex(&Sha256::digest(&token)));
    if output.is_json() {
        output.json(&json!({
            "token": secret.is_none().then_some(&token),
            "entry": entry(flags, &hash),
        }))?;
    } else {
        let shown = if secret.is_none() { format!("# token: {token}\n") } else { String::new() };
        output.data(shown + &toml(flags, &hash))?;
    }
    Ok(ExitStatus::Done)
}

/// Reads a password from stdin and prints its hash.
pub fn password(output: Output) -> Result<ExitStatus, Failure> {
    let mut password = String::new();
    std::io::stdin()
        .read_line(&mut password)
        .map_err(|error| Failure::failed(format_args!("cannot read stdin: {error}")))?;
    let password = password.trim_end_matches(['\n', '\r']);
    if password.len() < MIN_PASSWORD_BYTES {
        let message = format!("the password is shorter than {MIN_PASSWORD_BYTES} bytes");
        return Err(Failure::usage(message).hint("use a longer one"));
    }
    let hash = nsq_dashboard::hash_password(password).map_err(Failure::failed)?;
    if output.is_json() {
        output.json(&json!({ "password": hash }))?;
    } else {
        output.data(format!("password = {}\n", json!(hash)))?;
    }
    Ok(ExitStatus::Done)
}

fn new_token() -> Result<String, Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Failure::failed(format_args!("cannot read random bytes: {error}")))?;
    Ok(format!("{TOKEN_PREFIX}{}", hex(&bytes)))
}

/// Reads the secret from stdin: one line, without its line end.
fn secret_from_stdin() -> Result<String, Failure> {
    let mut secret = String::new();
    std::io::stdin()
        .read_to_string(&mut secret)
        .map_err(|error| Failure::failed(format_args!("cannot read stdin: {error}")))?;
    let secret = secret.strip_suffix('\n').unwrap_or(&secret);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.len() < MIN_SECRET_BYTES {
        let message = format!(
            "the secret is shorter than {MIN_SECRET_BYTES} bytes, so it could be guessed from its hash"
        );
        return Err(Failure::usage(message).hint("use a longer secret, or omit --stdin to create one"));
    }
    Ok(secret.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entry(flags: &TokenFlags, hash: &str) -> Value {
    let mut entry = json!({
        "identity": flags.identity,
        "hash": hash,
        "authorizations": [{
            "topic": flags.topic,
            "channels": flags.channel,
            "permissions": flags.permission,
        }],
    });
    if let Some(expires) = &flags.expires {
        entry["expires"] = json!(expires);
    }
    entry
}

/// The entry as TOML. JSON strings and arrays of strings are valid TOML.
fn toml(flags: &TokenFlags, hash: &str) -> String {
    let expires = flags.expires.as_ref().map(|expires| format!("expires = {}\n", json!(expires)));
    format!(
        "[[token]]\nidentity = {}\nhash = {}\n{}authorizations = [\n    \
         {{ topic = {}, channels = {}, permissions = {} }},\n]\n",
        json!(flags.identity),
        json!(hash),
        expires.unwrap_or_default(),
        json!(flags.topic),
        json!(flags.channel),
        json!(flags.permission),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_differ() {
        let token = new_token().expect("the system has random bytes");
        assert_eq!(token.len(), TOKEN_PREFIX.len() + 2 * TOKEN_BYTES);
        assert_ne!(token, new_token().expect("the system has random bytes"));
    }
}
