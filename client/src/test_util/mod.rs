//! For tests of applications: an nsqd in this process, and deliveries for handlers that are tested without one. With the
//! feature `test-util`.

mod fake;
mod stub_nsqd;

pub use fake::{FakeAnswer, FakeDelivery, FakeMessage};
pub use stub_nsqd::{Published, Received, Script, State, StubNsqd};
