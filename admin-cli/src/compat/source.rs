//! Flags that several tools share: where to consume from, and options of the client library.

use clap::Args;
use nsq::{Config, ConfigError};
use nsq_protocol::redact::without_user_info;

use super::{Exit, Tool, base_config, user_agent};
use crate::sources::TcpSources;

#[derive(Debug, Args)]
pub struct SourceFlags {
    /// TCP address of an nsqd; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub nsqd_tcp_address: Vec<String>,
    /// HTTP address of an nsqlookupd; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub lookupd_http_address: Vec<String>,
    /// Option of the consumers, as NAME,VALUE; may be repeated.
    #[arg(long, value_name = "NAME,VALUE")]
    pub consumer_opt: Vec<String>,
}

impl SourceFlags {
    /// The addresses, which must be of one kind.
    pub fn sources(&self) -> Result<TcpSources, Exit> {
        let [nsqds, lookupds] = [&self.nsqd_tcp_address, &self.lookupd_http_address];
        require_one_kind(["--nsqd-tcp-address", "--lookupd-http-address"], [nsqds, lookupds])?;
        let plain = |list: &[String]| list.iter().map(|one| without_user_info(one).into_owned()).collect();
        Ok(TcpSources { nsqds: plain(nsqds), lookupds: plain(lookupds) })
    }

    /// The consumers' settings.
    pub fn config(&self, tool: Tool) -> Result<Config, Exit> {
        let mut config = base_config();
        for option in &self.consumer_opt {
            set(&mut config, option)
                .map_err(|error| Exit::WrongFlag(format!("--consumer-opt {option}: {error}\n")))?;
        }
        Ok(config.user_agent(user_agent(tool)))
    }
}

/// Sets one option, given as `name,value`. A name alone means `true`.
pub fn set(config: &mut Config, option: &str) -> Result<(), ConfigError> {
    let (name, value) = option.split_once(',').unwrap_or((option, "true"));
    config.set(name, value).map(|_| ())
}

/// Requires addresses of exactly one of two kinds.
pub fn require_one_kind(names: [&str; 2], addresses: [&Vec<String>; 2]) -> Result<(), Exit> {
    let [first, second] = names;
    match addresses.map(|list| list.is_empty()) {
        [true, true] => Err(Exit::fatal(format_args!("{first} or {second} required"))),
        [false, false] => Err(Exit::fatal(format_args!("use {first} or {second} not both"))),
        _ => Ok(()),
    }
}

/// Refuses a name that NSQ does not allow.
pub fn check_name(flag: &str, name: &str, valid: bool) -> Result<(), Exit> {
    const RULE: &str = "1 to 64 characters of a-z A-Z 0-9 . _ -, optionally followed by #ephemeral";
    match valid {
        true => Ok(()),
        false => Err(Exit::fatal(format_args!("{flag} {name:?} is invalid: a name has {RULE}"))),
    }
}
