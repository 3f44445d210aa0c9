//! The commands, one file per verb. Each takes its flags and an [`Output`](crate::output::Output), and ends with an
//! exit status or a [`Failure`].

use tokio::runtime::{Builder, Runtime};

use crate::exit_status::Failure;

pub mod dev;
mod dev_banner;

/// The runtime of a command.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)
}
