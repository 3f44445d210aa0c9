//! Tests the library against scripted servers in this process, which do what a real nsqd does only when it fails.
//!
//! `nsq::test_util` and `stub_http` have the servers, `wait` waits for conditions. Each other module tests one part.

mod stub_http;
mod wait;

mod admin;
mod backoff;
mod consumer;
mod discovery;
mod drain;
mod group;
mod observe;
mod producer;
mod trouble;
