//! The web dashboard of an NSQ cluster: `nsq admin`, and a drop-in for NSQ's nsqadmin.
//!
//! It holds no state of the cluster. In reading order: [`flags`] and [`settings`] (configuration); `network`, `access`,
//! `users` and `origin` (who may do what); `breaker` and `upstream` (asking the daemons); `state` (what requests share);
//! `actions` (changes, with `audit`, `notify` and `timers`); `api` (JSON); `listing`, `connections`, `discovery` and `figures`
//! (what pages show); `pages` (HTML) with `assets`; `server` (routes and connections).

pub mod flags;
pub mod settings;

mod access;
mod network;
mod origin;
mod users;

mod breaker;
mod outgoing;
mod upstream;

mod state;

mod actions;
mod audit;
mod notify;
mod timers;

mod api;
mod graphite;
mod metrics;

mod connections;
mod discovery;
mod figures;
mod listing;

mod assets;
mod pages;

mod server;

#[cfg(test)]
mod test_util;

pub use server::Dashboard;
pub use users::hash_password;
