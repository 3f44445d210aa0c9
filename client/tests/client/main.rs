//! Tests the library against scripted servers in this process, which do what a real nsqd does only when it fails.
//!
//! `stub_nsqd` and `stub_http` are the servers, `wait` waits for conditions. Each other module tests one part.

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
