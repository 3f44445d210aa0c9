//! The library against scripted servers in this process: what a real nsqd does only when it is in trouble.
//!
//! `stub_nsqd` and `stub_http` are the servers, `wait` waits for conditions; then a module per concern.

mod stub_http;
mod stub_nsqd;
mod wait;

mod admin;
mod backoff;
mod consumer;
mod discovery;
mod drain;
mod producer;
mod trouble;
