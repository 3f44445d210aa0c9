//! The commands, one file per verb. Each takes its flags and a [`Context`], and returns an exit status or a
//! [`Failure`].
//!
//! In reading order: `dev`; `publish` and `subscribe`; `stat`; `list`, `node`; `create`, `pause`, `empty`, `delete`,
//! `retention`, `policy`, `policy_test`, `dead`, with their common parts in `change`; `bench`; `data`; `completion`, `manual`.

use tokio::runtime::{Builder, Runtime};

use crate::exit_status::Failure;
use crate::output::Output;
use crate::targets::Targets;

pub mod dev;
mod dev_banner;

pub mod publish;

pub mod subscribe;

pub mod stat;

pub mod list;

pub mod node;

pub mod create;

pub mod pause;
pub mod ping;

pub mod empty;

pub mod delete;

pub mod retention;

pub mod policy;
pub mod policy_test;

pub mod dead;

pub mod change;

pub mod bench;

pub mod auth;

pub mod data;

pub mod completion;

pub mod manual;

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    pub targets: Targets,
    pub output: Output,
}

/// Creates the runtime of a command.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)
}
