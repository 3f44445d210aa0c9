//! Pauses that end by themselves. They live in this process: a restart forgets them, and the pause stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::access::{Caller, Role};
use crate::actions::{Order, Request, Verb, execute};
use crate::state::{State, now_ms};

/// Pauses that may end by themselves at the same time.
const MAX_TIMERS: usize = 1000;

/// A pause that will end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timer {
    pub topic: String,
    pub channel: String,
    /// Milliseconds since 1970.
    pub ends_at_ms: i64,
    pub user: Option<String>,
    #[serde(skip)]
    number: u64,
}

/// The pauses that will end.
#[derive(Default)]
pub struct Timers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_object: BTreeMap<(String, String), Timer>,
    last_number: u64,
}

impl Timers {
    /// Sets or removes the timer of a topic or channel that was paused or unpaused.
    pub fn changed(&self, state: &State, verb: Verb, order: &Order, request: &Request) {
        let key = (order.topic.clone(), order.channel.clone());
        match verb {
            Verb::PauseTopic | Verb::PauseChannel if order.for_seconds > 0 => {}
            Verb::PauseTopic | Verb::PauseChannel | Verb::UnpauseTopic | Verb::UnpauseChannel => {
                self.inner.lock().by_object.remove(&key);
                return;
            }
            _ => return,
        }
        let wait = Duration::from_secs(order.for_seconds);
        let number = {
            let mut inner = self.inner.lock();
            if inner.by_object.len() >= MAX_TIMERS && !inner.by_object.contains_key(&key) {
                nsq_daemon::warn!(
                    state.logger,
                    "too many pauses with an end: {} {} stays paused",
                    key.0,
                    key.1
                );
                return;
            }
            inner.last_number += 1;
            let number = inner.last_number;
            let ends_at_ms = now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
            let (topic, channel) = key.clone();
            let timer = Timer { topic, channel, ends_at_ms, user: request.caller.user.clone(), number };
            inner.by_object.insert(key.clone(), timer);
            number
        };
        let Some(state) = state.itself.upgrade() else { return };
        tokio::spawn(end_later(state, key, number, wait));
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Timer> {
        self.inner.lock().by_object.values().cloned().collect()
    }

    /// Takes the timer out if it is still the one of this number.
    fn take(&self, key: &(String, String), number: u64) -> bool {
        let mut inner = self.inner.lock();
        let is_current = inner.by_object.get(key).is_some_and(|timer| timer.number == number);
        if is_current {
            inner.by_object.remove(key);
        }
        is_current
    }
}

async fn end_later(state: Arc<State>, key: (String, String), number: u64, wait: Duration) {
    let stop = state.stop.clone();
    if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() || !state.timers.take(&key, number)
    {
        return;
    }
    let verb = if key.1.is_empty() { Verb::UnpauseTopic } else { Verb::UnpauseChannel };
    let order = Order {
        action: verb.word().to_owned(),
        topic: key.0,
        channel: key.1,
        reason: "the time of the pause is over".to_owned(),
        ..Order::default()
    };
    let caller =
        Caller { user: Some("timer".to_owned()), via: "timer", role: Role::Admin, address: "-".to_owned() };
    let request = Request {
        caller,
        basic_user: String::new(),
        remote: String::new(),
        user_agent: String::new(),
        url: String::new(),
    };
    // Its future contains this one's type, so it needs a box.
    let done = Box::pin(execute(&state, &order, &request, false)).await;
    if let Err(refusal) = done {
        nsq_daemon::error!(
            state.logger,
            "cannot end the pause of {} {}: {refusal:?}",
            order.topic,
            order.channel
        );
    }
}
