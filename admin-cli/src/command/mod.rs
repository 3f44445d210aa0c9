//! The commands, one file per verb. Each takes its flags and a [`Context`], and returns an exit status or a
//! [`Failure`].
//!
//! In reading order: `dev`; `publish`, `subscribe` and `tail`; `stat`, `top`, `check`; `list`, `show`, `node`, `drain`; `create`, `pause`, `empty`, `delete`,
//! `undo`, `retention`, `policy`, `policy_test`, `dead`, `inspect`, with their common parts in `change`; `bench`; `data`, `archive`; `completion`, `manual`;
//! `lookup`, `client`, `find`, `wait`, `graph`, `rtt`, `transfer`; `cluster_state`, `support`, `profile`, `api`, `explain`, `help`, `version`; `examples`, the
//! examples on their help pages.

use tokio::runtime::{Builder, Runtime};

use crate::exit_status::Failure;
use crate::output::Output;
use crate::targets::Targets;

pub mod dev;
mod dev_banner;
mod dev_demo;

pub mod publish;

pub mod subscribe;

pub mod stat;

pub mod examples;

pub mod check;

pub mod top;

pub mod tail;

pub mod list;

pub mod show;

pub mod node;

pub mod lookup;

pub mod client;

pub mod find;

pub mod wait;

pub mod graph;

pub mod rtt;

pub mod transfer;

pub mod cluster_state;

pub mod support;

pub mod api;

pub mod explain;

pub mod help;

pub mod version;

pub mod drain;

pub mod create;

pub mod pause;
pub mod ping;

pub mod empty;

pub mod delete;

pub mod undo;

pub mod retention;

pub mod policy;
pub mod policy_test;

pub mod dead;
pub mod inspect;

pub mod change;

pub mod bench;

pub mod admin;
pub mod auth;

pub mod profile;

pub mod data;

pub mod archive;

pub mod completion;

pub mod manual;

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    pub targets: Targets,
    pub output: Output,
    /// The cluster's protection, if its profile has one.
    pub protection: Option<Protection>,
}

/// Before a destructive command, the name of the profile must be given.
#[derive(Debug)]
pub struct Protection {
    pub profile: String,
    /// Start of the colour in which questions show the profile.
    pub color: &'static str,
    /// The name that `--protected-ok` gives.
    pub confirmed: Option<String>,
}

impl Context {
    /// Asks before something is destroyed, unless `--yes` is given. In a protected cluster, `--yes` is not enough.
    pub fn confirm(&self, question: &str, yes: bool) -> Result<(), Failure> {
        match &self.protection {
            None if yes => Ok(()),
            None => self.output.confirm(question),
            Some(Protection { profile, confirmed, .. }) if confirmed.as_ref() == Some(profile) => match yes {
                true => Ok(()),
                false => self.output.confirm(question),
            },
            Some(Protection { profile, color, .. }) => {
                let question = format!("Profile {profile} is protected. {question}");
                let hint = format!("use --yes --protected-ok {profile} to proceed without a question");
                self.output.confirm_by_name(&question, profile, color, &hint)
            }
        }
    }
}

/// Creates the runtime of a command.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)
}
