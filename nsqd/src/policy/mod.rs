//! Settings of topics and channels: by name pattern in a file, or one by one over HTTP.
//!
//! - [`setting`]: pure; the table of settings and their values
//! - [`retry`]: pure; retry schedules, one kind of value
//! - [`dead_letter`]: pure; names of dead-letter topics, another kind; why messages become dead letters
//! - [`bounds`]: pure; how much a topic or channel may hold
//! - [`header_filter`]: pure; conditions on headers
//! - [`ordering`]: pure; order and fairness by key
//! - [`rate`]: pure; rates, another kind of value
//! - [`settings`]: pure; the own settings of one topic or channel, and changes of them
//! - [`mod@file`]: pure; the policy file
//! - [`effective`]: pure; which value is in force, and where it comes from
//!
//! What a setting does is not here: topics and channels get a [`effective::TopicPolicy`] or
//! [`effective::ChannelPolicy`] and act by it.

pub mod bounds;
pub mod dead_letter;
pub mod effective;
pub mod file;
pub mod header_filter;
pub mod ordering;
pub mod rate;
pub mod retry;
pub mod setting;
pub mod settings;
