//! Actions on topics, channels and nodes: what one would destroy, carrying it out on every daemon, and the record of it.

pub mod order;
pub mod plan;
mod run;

pub use order::{Order, Verb};
pub use run::{Done, Refusal, Request, execute, plan_of, preview};
