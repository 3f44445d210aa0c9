//! The JSON API: that of NSQ's nsqadmin, and `/api/v2`.

pub mod config;
pub mod graphite;
pub mod model;
pub mod reply;
pub mod v1;
pub mod v2;
