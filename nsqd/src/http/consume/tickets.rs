//! `POST /ticket?topic=[&channel=][&rights=]`: a ticket for one request of a browser, which cannot send a token with a
//! WebSocket or with events. A ticket is in a URL, so it is short-lived and works once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::http::{HttpError, Query, Request, Response, response};
use nsq_daemon::metrics::Counter;
use nsq_protocol::{ChannelName, TopicName};
use parking_lot::Mutex;
use serde::Serialize;

use super::{HttpContext, bad_request, random, required, too_many, topic_parameter};
use crate::auth::grant::Authorization;
use crate::auth::{Grant, Permission};
use crate::clock::{self, Nanos};
use crate::http::dead_letters::only;

/// How long a ticket is valid.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// Maximum number of tickets that are neither used nor expired.
pub const MAX_TICKETS: usize = 10_000;

const TICKET_BYTES: usize = 18;

/// What a ticket allows.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub topic: String,
    /// Empty without a channel.
    pub channel: String,
    pub rights: Vec<Permission>,
    /// The grant of the token that the ticket was requested with, for these names and rights only. `None` if the HTTP API
    /// needs no token: then the ticket gives no rights.
    pub grant: Option<Arc<Grant>>,
}

impl Ticket {
    pub fn allows(&self, right: Permission, topic: &str, channel: &str) -> bool {
        self.topic == topic && self.channel == channel && self.rights.contains(&right)
    }
}

/// Tickets that are neither used nor expired.
#[derive(Default)]
pub struct Tickets {
    open: Mutex<Open>,
    /// Requests that [`MAX_TICKETS`] refused.
    pub refused: Counter,
}

/// Pure: the tickets and when they expire.
#[derive(Default)]
struct Open(HashMap<String, (Nanos, Ticket)>);

impl Open {
    /// Returns false if there are too many.
    fn add(&mut self, text: String, ticket: Ticket, now: Nanos) -> bool {
        if self.0.len() >= MAX_TICKETS {
            self.0.retain(|_, (expires_at, _)| *expires_at > now);
        }
        if self.0.len() >= MAX_TICKETS {
            return false;
        }
        self.0.insert(text, (now + clock::nanos(TICKET_LIFETIME), ticket));
        true
    }

    fn redeem(&mut self, text: &str, now: Nanos) -> Option<Ticket> {
        let (expires_at, ticket) = self.0.remove(text)?;
        (expires_at > now).then_some(ticket)
    }

    fn count(&self, now: Nanos) -> usize {
        self.0.values().filter(|(expires_at, _)| *expires_at > now).count()
    }
}

impl Tickets {
    /// Uses up a ticket. `None` if it is unknown, was used before or has expired.
    pub fn redeem(&self, text: &str) -> Option<Ticket> {
        self.open.lock().redeem(text, clock::monotonic())
    }

    /// Number of tickets that are neither used nor expired.
    pub fn count(&self) -> usize {
        self.open.lock().count(clock::monotonic())
    }
}

/// The parameters of a ticket.
pub struct TicketRequest {
    pub topic: String,
    pub channel: String,
    pub rights: Vec<Permission>,
}

impl TicketRequest {
    pub fn parse(query: &Query<'_>) -> Result<Self, HttpError> {
        only(query, &["topic", "channel", "rights"])?;
        let topic = TopicName::new(&*topic_parameter(query)?);
        let topic = topic.map_err(|_| HttpError::bad_request("INVALID_ARG_TOPIC"))?;
        let rights = query.get("rights").unwrap_or("subscribe".into());
        let right = |word: &str| match word {
            "subscribe" => Ok(Permission::Subscribe),
            "publish" => Ok(Permission::Publish),
            _ => Err(bad_request(format!(
                "INVALID_ARG_RIGHTS: rights={rights}: expected subscribe, publish, or rights=subscribe,publish"
            ))),
        };
        let rights = rights.split(',').map(right).collect::<Result<Vec<_>, _>>()?;
        let channel = match query.get("channel") {
            None if rights.contains(&Permission::Subscribe) => {
                required(query, "channel", "MISSING_ARG_CHANNEL")?.into_owned()
            }
            None => String::new(),
            Some(channel) => {
                let name = ChannelName::new(&*channel);
                name.map_err(|_| HttpError::bad_request("INVALID_ARG_CHANNEL"))?.to_string()
            }
        };
        Ok(Self { topic: topic.to_string(), channel, rights })
    }

    /// Whether the grant allows all of it.
    pub fn is_allowed_by(&self, grant: &Grant) -> bool {
        self.rights.iter().all(|right| {
            let channel = if *right == Permission::Subscribe { self.channel.as_str() } else { "" };
            grant.allows(*right, &self.topic, channel)
        })
    }
}

#[derive(Serialize)]
struct Answer {
    ticket: String,
    /// Seconds.
    expires_in: u64,
}

/// See the module. `grant` is that of the request's token.
pub async fn ticket(
    context: &HttpContext,
    request: &mut Request,
    grant: Option<Arc<Grant>>,
) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let TicketRequest { topic, channel, rights } = TicketRequest::parse(&query)?;
    let grant = match grant {
        None => None,
        Some(grant) => {
            let authorization = Authorization::for_names(&rights, &topic, &channel);
            let authorizations = authorization.map_err(|_| HttpError::INTERNAL_ERROR)?;
            Some(Arc::new(Grant { authorizations: [authorizations].into(), ..(*grant).clone() }))
        }
    };
    let text: String = random::<TICKET_BYTES>().iter().map(|byte| format!("{byte:02x}")).collect();
    let tickets = &context.consumers.tickets;
    let ticket = Ticket { topic, channel, rights, grant };
    if !tickets.open.lock().add(text.clone(), ticket, clock::monotonic()) {
        tickets.refused.add(1);
        return Err(too_many(format!("TOO_MANY_TICKETS: {MAX_TICKETS} tickets are not used yet")));
    }
    Ok(response::value(encoding, &Answer { ticket: text, expires_in: TICKET_LIFETIME.as_secs() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket { topic: "t".into(), channel: "c".into(), rights: vec![Permission::Subscribe], grant: None }
    }

    #[test]
    fn ticket_works_once_and_not_for_long() {
        let mut open = Open::default();
        let lifetime = clock::nanos(TICKET_LIFETIME);
        assert!(open.add("a".into(), ticket(), 5) && open.add("b".into(), ticket(), 6));
        assert_eq!(open.count(7), 2);
        assert!(open.redeem("a", 5 + lifetime - 1).is_some());
        assert!(open.redeem("a", 7).is_none() && open.redeem("", 7).is_none());
        assert_eq!((open.count(5 + lifetime), open.count(6 + lifetime)), (1, 0));
        assert!(open.redeem("b", 6 + lifetime).is_none());
    }

    #[test]
    fn number_of_open_tickets_is_limited() {
        let mut open = Open::default();
        for number in 0..MAX_TICKETS {
            assert!(open.add(number.to_string(), ticket(), 5));
        }
        assert!(!open.add("one more".into(), ticket(), 6));
        assert!(open.redeem("7", 6).is_some());
        assert!(open.add("another".into(), ticket(), 6));
        assert!(
            open.add("later".into(), ticket(), 5 + clock::nanos(TICKET_LIFETIME)),
            "expired ones do not count"
        );
    }

    #[test]
    fn ticket_is_for_its_names_and_rights() {
        let ticket = ticket();
        assert!(ticket.allows(Permission::Subscribe, "t", "c"));
        assert!(
            !ticket.allows(Permission::Subscribe, "t", "d") && !ticket.allows(Permission::Publish, "t", "c")
        );
    }
}
