//! Compares what was found with the model.

use std::collections::{BTreeMap, BTreeSet};

use super::dead_letters::may_hold;
use super::deduplicating::{ids_are_between, ids_match};
use super::model::{Body, ChannelModel, MessageModel, Model, TopicModel};
use super::observe::{Delivery, Observed, ObservedChannel, ObservedTopic};

/// Due times are converted from one clock to the other and back. A busy machine may pause between the two.
const TOLERANCE_NS: i64 = 20_000_000_000;

/// Requires an exact match. Messages that are finished in `newest` may already be missing: their space is reclaimed
/// when they are finished, and the journal records that a little later.
pub fn matches(model: &Model, newest: &Model, observed: &Observed) -> Result<(), String> {
    same_keys("topics", &model.topics, &observed.topics)?;
    for (name, topic) in &model.topics {
        topic_matches(topic, newest.topics.get(name), &observed.topics[name])
            .map_err(|error| format!("topic {name}: {error}"))?;
    }
    Ok(())
}

fn topic_matches(
    model: &TopicModel,
    newest: Option<&TopicModel>,
    observed: &ObservedTopic,
) -> Result<(), String> {
    same("paused", model.paused, observed.paused)?;
    same("owner", model.owner, observed.owner)?;
    same("dedupe", model.dedupe, observed.dedupe)?;
    ids_match(model, observed)?;
    same("message_count", model.message_count, observed.message_count)?;
    same("retention", model.retention, observed.retention)?;
    retained_matches(model, newest, observed).map_err(|error| format!("retained messages: {error}"))?;
    same("difference of held messages between channels", false, observed.held_differs)?;
    about("depth", model.held.len() as u64, model.gone_count, observed.depth)?;
    let is_needed = |body: Body| newest.is_some_and(|newest| newest.knows(body));
    same_messages(&model.held, is_needed, &observed.held).map_err(|error| format!("held back: {error}"))?;
    same_keys("channels", &model.channels, &observed.channels)?;
    for (name, channel) in &model.channels {
        let newest = newest.and_then(|newest| newest.channels.get(name));
        channel_matches(channel, newest, &observed.channels[name], !observed.retention.is_off())
            .map_err(|error| format!("channel {name}: {error}"))?;
    }
    Ok(())
}

/// A new channel gets all retained messages, and only published ones.
fn retained_matches(
    model: &TopicModel,
    newest: Option<&TopicModel>,
    observed: &ObservedTopic,
) -> Result<(), String> {
    let all = model.published.iter().map(|(&body, message)| (body, message.handed_out_again()));
    let all: BTreeMap<Body, MessageModel> = all.collect();
    let is_retained = |body: Body| model.retains(body) && newest.is_some_and(|newest| newest.retains(body));
    same_messages(&all, is_retained, &observed.retained)?;
    in_order(&all, &observed.retained)
}

fn channel_matches(
    model: &ChannelModel,
    newest: Option<&ChannelModel>,
    observed: &ObservedChannel,
    retains: bool,
) -> Result<(), String> {
    same("paused", model.paused, observed.paused)?;
    same("retry", model.retry, observed.retry)?;
    same("max_attempts", model.max_attempts, observed.max_attempts)?;
    same("ttl", model.ttl, observed.ttl)?;
    same("order", model.order, observed.order)?;
    same("limits", model.limits, observed.limits)?;
    same("filter", model.filter, observed.filter)?;
    same("keeps_expired", model.keeps_expired, observed.keeps_expired)?;
    same("max_depth", model.max_depth, observed.max_depth)?;
    same("keeps_overflow", model.keeps_overflow, observed.keeps_overflow)?;
    let is_needed = |body: Body| {
        model.must_come(&model.messages[&body])
            && newest
                .and_then(|newest| newest.messages.get(&body))
                .is_some_and(|message| !message.may_be_gone)
    };
    same_messages(&model.messages, is_needed, &observed.deliveries)?;
    let (certain, uncertain) = (model.message_count - model.uncertain_count, model.uncertain_count);
    about("message_count", certain, model.gone_count + uncertain, observed.message_count)?;
    same("lost_count", 0, observed.lost_count)?;
    let most = model.messages.len() as u64 + model.gone_count;
    // A topic with retention looks for missing messages at its start.
    let least = if retains { observed.deliveries.len() } else { model.messages.len() } as u64;
    let mut least = least.min(model.messages.len() as u64 - model.may_be_gone_count());
    if model.drops() {
        least = least.min(model.max_depth);
    }
    about("depth and deferred", least, most - least, observed.depth + observed.deferred_count)?;
    if model.max_depth > 0 && model.keeps_overflow {
        // The start set messages aside, and they came back behind the others.
        return Ok(());
    }
    if model.order > 0 {
        return model.in_key_order(observed.deliveries.iter().map(|delivery| delivery.body));
    }
    in_order(&model.messages, &observed.deliveries)
}

/// First deliveries must be in the order of publishing.
fn in_order(model: &BTreeMap<Body, MessageModel>, came: &[Delivery]) -> Result<(), String> {
    let is_first = |delivery: &&Delivery| model[&delivery.body].is_first();
    let firsts: Vec<Body> = came.iter().filter(is_first).map(|delivery| delivery.body).collect();
    if firsts.is_sorted() { Ok(()) } else { Err(format!("first deliveries out of order: {firsts:?}")) }
}

fn same_messages(
    model: &BTreeMap<Body, MessageModel>,
    is_needed: impl Fn(Body) -> bool,
    came: &[Delivery],
) -> Result<(), String> {
    let expected: BTreeSet<Body> = model.keys().copied().collect();
    let found = once(came)?;
    let missing: Vec<Body> = expected.difference(&found).copied().filter(|&body| is_needed(body)).collect();
    let strange: Vec<Body> = found.difference(&expected).copied().collect();
    if !missing.is_empty() || !strange.is_empty() {
        return Err(format!("did not get {missing:?}, got unexpected {strange:?}"));
    }
    came.iter().try_for_each(|delivery| message_matches(&model[&delivery.body], delivery))
}

fn once(came: &[Delivery]) -> Result<BTreeSet<Body>, String> {
    let mut found = BTreeSet::new();
    match came.iter().find(|delivery| !found.insert(delivery.body)) {
        Some(twice) => Err(format!("message {} was delivered twice", twice.body)),
        None => Ok(found),
    }
}

fn message_matches(model: &MessageModel, came: &Delivery) -> Result<(), String> {
    let Delivery { body, attempts, failures, due_ns } = *came;
    if failures != model.failures {
        return Err(format!("message {body} has {failures} failures: {model:?}"));
    }
    if !model.next_attempts().contains(&attempts) {
        return Err(format!("message {body} was delivered with attempts {attempts}: {model:?}"));
    }
    match model.due {
        None if due_ns != 0 => Err(format!("message {body} was deferred until {due_ns}: {model:?}")),
        Some(due) if due_ns == 0 && !due.passed => Err(format!("message {body} was not deferred: {model:?}")),
        Some(due)
            if due_ns != 0 && !(due.from_ns - TOLERANCE_NS..=due.to_ns + TOLERANCE_NS).contains(&due_ns) =>
        {
            Err(format!("message {body} was deferred until {due_ns}: {model:?}"))
        }
        _ => Ok(()),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, model: T, observed: T) -> Result<(), String> {
    if model == observed { Ok(()) } else { Err(format!("{what} is {observed:?} instead of {model:?}")) }
}

/// Missing messages may be counted until they are read.
fn about(what: &str, model: u64, gone: u64, observed: u64) -> Result<(), String> {
    if (model..=model + gone).contains(&observed) {
        return Ok(());
    }
    Err(format!("{what} is {observed} instead of {model}, and {gone} more may be counted"))
}

fn same_keys<A, B>(what: &str, a: &BTreeMap<String, A>, b: &BTreeMap<String, B>) -> Result<(), String> {
    same(what, a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>())
}

/// Requires a state between these: what was not acknowledged at the power failure may exist in part, in any selection.
pub fn is_between(models: &[&Model], observed: &Observed) -> Result<(), String> {
    for (name, topic) in &observed.topics {
        let topics: Vec<_> = models.iter().map(|model| model.topics.get(name)).collect();
        topic_is_between(&topics, topic).map_err(|error| format!("topic {name}: {error}"))?;
    }
    all_found("topic", models.iter().map(|model| &model.topics), &observed.topics)
}

fn topic_is_between(models: &[Option<&TopicModel>], observed: &ObservedTopic) -> Result<(), String> {
    let known: Vec<&TopicModel> = models.iter().flatten().copied().collect();
    if known.is_empty() {
        return Err("the model has none".to_owned());
    }
    if !known.iter().any(|topic| topic.paused == observed.paused) {
        return Err(format!("paused is {}", observed.paused));
    }
    if !known.iter().any(|topic| topic.owner == observed.owner) {
        return Err(format!("owner is {:?}", observed.owner));
    }
    if !known.iter().any(|topic| topic.retention == observed.retention) {
        return Err(format!("retention is {:?}", observed.retention));
    }
    if !known.iter().any(|topic| topic.dedupe == observed.dedupe) {
        return Err(format!("dedupe is {}", observed.dedupe));
    }
    ids_are_between(&known, observed)?;
    let retained = once(&observed.retained)?;
    let was_published = |body: &Body| known.iter().any(|topic| topic.published.contains_key(body));
    if let Some(strange) = retained.iter().find(|body| !was_published(body)) {
        return Err(format!("message {strange} is delivered as retained"));
    }
    if observed.held_differs {
        return Err("channels got different messages that were held back".to_owned());
    }
    let held = once(&observed.held)?;
    let may_be_held = |body: &Body| known.iter().any(|topic| topic.knows(*body));
    if let Some(strange) = held.iter().find(|body| !may_be_held(body)) {
        return Err(format!("message {strange} was held back"));
    }
    for (name, channel) in &observed.channels {
        let channels: Vec<_> = known.iter().map(|topic| (*topic, topic.channels.get(name))).collect();
        channel_is_between(&channels, channel, &held).map_err(|error| format!("channel {name}: {error}"))?;
    }
    if known.len() < models.len() {
        return Ok(());
    }
    let mut published = known[0].published.keys().copied();
    let is_retained = |body| known.iter().all(|topic| topic.retains(body));
    if let Some(missing) = published.find(|&body| is_retained(body) && !retained.contains(&body)) {
        return Err(format!("retained message {missing} is missing"));
    }
    all_found("channel", known.iter().map(|topic| &topic.channels), &observed.channels)?;
    let must_be_held = |body: &&Body| known.iter().all(|topic| topic.held.contains_key(body));
    let released: BTreeSet<Body> =
        observed.channels.values().flat_map(|channel| channel.deliveries.iter().map(|d| d.body)).collect();
    match known[0]
        .held
        .keys()
        .filter(must_be_held)
        .find(|body| !held.contains(body) && !released.contains(body))
    {
        Some(missing) => Err(format!("held message {missing} is missing")),
        None => Ok(()),
    }
}

fn channel_is_between(
    models: &[(&TopicModel, Option<&ChannelModel>)],
    observed: &ObservedChannel,
    held: &BTreeSet<Body>,
) -> Result<(), String> {
    let known: Vec<&ChannelModel> = models.iter().filter_map(|(_, channel)| *channel).collect();
    if known.is_empty() {
        return Err("the model has none".to_owned());
    }
    let found = once(&observed.deliveries)?;
    // If the pause of the topic was lost, held messages were released. If the deletion of the channel was lost, the
    // channel also has messages that were published afterwards and written together with the deletion.
    let first = models.iter().position(|(_, channel)| channel.is_some()).unwrap_or(0);
    let may_come = |body: &Body| {
        models.iter().enumerate().any(|(index, (topic, channel))| {
            topic.held.contains_key(body)
                || channel.is_some_and(|channel| channel.messages.contains_key(body))
                || (index > first && channel.is_none() && topic.knows(*body))
        })
    };
    if let Some(strange) = found.iter().find(|body| !may_come(body)) {
        return Err(format!("got unexpected message {strange}"));
    }
    if known.len() < models.len() {
        return Ok(());
    }
    all_come(&known, observed, held)
}

fn all_found<'a, A: 'a, B>(
    what: &str,
    models: impl Iterator<Item = &'a BTreeMap<String, A>> + Clone,
    observed: &BTreeMap<String, B>,
) -> Result<(), String> {
    let Some(first) = models.clone().next() else { return Ok(()) };
    let in_all = |name: &&String| models.clone().all(|model| model.contains_key(*name));
    match first.keys().filter(in_all).find(|name| !observed.contains_key(*name)) {
        Some(missing) => Err(format!("{what} {missing} is missing")),
        None => Ok(()),
    }
}

impl ChannelModel {
    /// Whether a start that knows which messages are deferred must find this one.
    fn must_come(&self, message: &MessageModel) -> bool {
        !message.may_be_gone && (!self.drops() || message.is_deferred())
    }
}

impl TopicModel {
    fn knows(&self, body: Body) -> bool {
        self.held.contains_key(&body)
            || self.channels.values().any(|channel| channel.messages.contains_key(&body))
    }

    fn retains(&self, body: Body) -> bool {
        self.published.get(&body).is_some_and(|message| message.retained)
    }
}

/// Requires everything that must be delivered. Finished messages may be delivered again.
pub fn is_at_least(models: &[&Model], observed: &Observed) -> Result<(), String> {
    all_found("topic", models.iter().map(|model| &model.topics), &observed.topics)?;
    for (name, topic) in &observed.topics {
        let topics: Vec<&TopicModel> = models.iter().filter_map(|model| model.topics.get(name)).collect();
        if topics.len() < models.len() {
            continue;
        }
        let fail = |error| format!("topic {name}: {error}");
        if !topics.iter().any(|model| model.paused == topic.paused) {
            return Err(fail(format!("paused is {}", topic.paused)));
        }
        if !topics.iter().any(|model| model.owner == topic.owner) {
            return Err(fail(format!("owner is {:?}", topic.owner)));
        }
        ids_are_between(&topics, topic).map_err(fail)?;
        all_found("channel", topics.iter().map(|topic| &topic.channels), &topic.channels).map_err(fail)?;
        if topic.held_differs {
            return Err(fail("channels got different messages that were held back".to_owned()));
        }
        let held = once(&topic.held).map_err(fail)?;
        for (name, channel) in &topic.channels {
            let channels: Vec<_> = topics.iter().filter_map(|topic| topic.channels.get(name)).collect();
            if channels.len() == topics.len() {
                all_come(&channels, channel, &held)
                    .map_err(|error| fail(format!("channel {name}: {error}")))?;
            }
        }
        let came: BTreeSet<Body> =
            topic.channels.values().flat_map(|channel| channel.deliveries.iter().map(|d| d.body)).collect();
        let must_be_held = |body: &&Body| topics.iter().all(|topic| topic.held.contains_key(body));
        let mut held_back = topics[0].held.keys().filter(must_be_held);
        if let Some(missing) = held_back.find(|body| !held.contains(body) && !came.contains(body)) {
            return Err(fail(format!("held message {missing} is missing")));
        }
    }
    Ok(())
}

/// Requires that the channel gets what it must get according to each model.
fn all_come(
    models: &[&ChannelModel],
    observed: &ObservedChannel,
    held: &BTreeSet<Body>,
) -> Result<(), String> {
    if !models.iter().any(|channel| channel.paused == observed.paused) {
        return Err(format!("paused is {}", observed.paused));
    }
    if !models.iter().any(|channel| channel.retry == observed.retry) {
        return Err(format!("retry is {}", observed.retry));
    }
    if !models.iter().any(|channel| channel.max_attempts == observed.max_attempts) {
        return Err(format!("max_attempts is {}", observed.max_attempts));
    }
    if !models.iter().any(|channel| channel.ttl == observed.ttl) {
        return Err(format!("ttl is {}", observed.ttl));
    }
    if !models.iter().any(|channel| channel.max_depth == observed.max_depth) {
        return Err(format!("max_depth is {}", observed.max_depth));
    }
    let found = once(&observed.deliveries)?;
    let must_come_in = |channel: &ChannelModel, body: &Body| {
        !channel.drops() && channel.messages.get(body).is_some_and(|message| !message.may_be_gone)
    };
    let must_come = |body: &&Body| models.iter().all(|channel| must_come_in(channel, body));
    let mut needed = models.iter().take(1).flat_map(|channel| channel.messages.keys()).filter(must_come);
    match needed.find(|body| !found.contains(body) && !held.contains(body)) {
        Some(missing) => Err(format!("did not get message {missing}")),
        None => Ok(()),
    }
}

/// Requires only that each message was published to its topic.
pub fn is_ours(published: &BTreeMap<Body, String>, observed: &Observed) -> Result<(), String> {
    for (name, topic) in &observed.topics {
        let came = topic.channels.values().flat_map(|channel| &channel.deliveries).chain(&topic.held);
        let mut bodies = came.map(|delivery| delivery.body);
        // With acknowledgements from memory, the names of topics may not have been written.
        let is_strange = |body: &Body| match published.get(body) {
            Some(topic) if topic.ends_with("#ephemeral") => true,
            Some(topic) => topic != name && !may_hold(name, topic) && !name.starts_with("recovered-"),
            None => true,
        };
        if let Some(strange) = bodies.find(is_strange) {
            return Err(format!("topic {name} has message {strange}, which was not published to it"));
        }
    }
    Ok(())
}
