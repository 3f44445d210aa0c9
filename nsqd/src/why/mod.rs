//! Why does a channel, or a message, not move? `/channel/why`.
//!
//! - [`facts`]: pure; what is known, as one plain value
//! - [`rules`]: pure; the table of rules, from facts to causes
//! - [`gather`]: collects the facts, under one lock after the other

pub mod facts;
pub mod gather;
pub mod rules;
