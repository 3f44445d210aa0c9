//! `nsq auth token`: makes a token for nsqd's `--auth-file`, and the entry that goes there.

use std::io::Read;

use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// Random bytes of a token: nothing that anybody could guess.
const TOKEN_BYTES: usize = 32;
/// What a token begins with, so that people and scanners know it when they see it.
const TOKEN_PREFIX: &str = "nsq_";
/// An existing secret must be at least so long: the file's hashes are fast, so they hide only what cannot be guessed.
const MIN_SECRET_BYTES: usize = 20;

const EXPLANATION: &str = "\
Prints the token, which is shown only here, and the entry for the token file, which holds its hash. \
Patterns are regular expressions that match anywhere in a name; publishing has the empty channel.";

/// What `nsq auth token` is told.
#[derive(Debug, Args)]
#[command(after_help = EXPLANATION)]
pub struct TokenFlags {
    /// Who it is for, as statistics show it.
    #[arg(long, value_name = "NAME", default_value = "client")]
    identity: String,
    /// Topics that it is for.
    #[arg(long, value_name = "PATTERN", default_value = ".*")]
    topic: String,
    /// Channels that it is for; may be repeated.
    #[arg(long, value_name = "PATTERN", default_value = ".*")]
    channel: Vec<String>,
    /// What it allows: publish, subscribe, monitor, admin.
    #[arg(long, value_name = "WORD", value_delimiter = ',', default_value = "publish,subscribe",
          value_parser = ["publish", "subscribe", "monitor", "admin"])]
    permission: Vec<String>,
    /// When it ends, such as 2027-01-01T00:00:00Z; never unless given.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires: Option<String>,
    /// Take a secret that clients have already from stdin, instead of making one.
    #[arg(long)]
    stdin: bool,
}

fn parse_time(text: &str) -> Result<String, String> {
    let form = time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, &form).map_err(|_| "write a time such as 2027-01-01T00:00:00Z")?;
    Ok(text.to_owned())
}

/// Makes a token and prints it with its entry.
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

fn new_token() -> Result<String, Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Failure::failed(format_args!("the system gives no random bytes: {error}")))?;
    Ok(format!("{TOKEN_PREFIX}{}", hex(&bytes)))
}

/// One line; the line end is not part of it.
fn secret_from_stdin() -> Result<String, Failure> {
    let mut secret = String::new();
    std::io::stdin()
        .read_to_string(&mut secret)
        .map_err(|error| Failure::failed(format_args!("stdin: {error}")))?;
    let secret = secret.strip_suffix('\n').unwrap_or(&secret);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.len() < MIN_SECRET_BYTES {
        let message =
            format!("the secret is shorter than {MIN_SECRET_BYTES} bytes: it could be guessed from its hash");
        return Err(Failure::usage(message).hint("without --stdin, a good one is made"));
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

/// The entry as TOML, in which JSON's texts and lists of texts are good as well.
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
    fn tokens_are_long_and_never_the_same() {
        let token = new_token().expect("the system has random bytes");
        assert_eq!(token.len(), TOKEN_PREFIX.len() + 2 * TOKEN_BYTES);
        assert_ne!(token, new_token().expect("the system has random bytes"));
    }
}
