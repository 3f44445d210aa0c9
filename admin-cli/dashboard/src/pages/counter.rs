//! `/counter`: how many messages the cluster has handled.

use axum::response::Response;
use maud::html;
use nsq_cluster::SeriesKey;

use super::parts::{heading, rate};
use super::topic::{graphite_graphs, graphs};
use super::view::View;
use crate::figures;
use crate::graphite::Scope;

pub async fn page(view: View) -> Response {
    let snapshot = view.snapshot.clone();
    let published: u64 = snapshot.topics.iter().map(|topic| topic.sum.message_count).sum();
    // What entered a channel and is neither there nor in flight was finished, or dropped by an operator.
    let finished: i128 = snapshot
        .topics
        .iter()
        .flat_map(|topic| &topic.channels)
        .map(|channel| {
            let sum = &channel.sum;
            let unfinished =
                i128::from(sum.depth) + i128::from(sum.in_flight_count) + i128::from(sum.deferred_count);
            (i128::from(sum.message_count) - unfinished).max(0)
        })
        .sum();
    let rates = snapshot.totals.rates;
    let body = html! {
        (heading(&view, &[], html! { "Counter" }))
        div .counters {
            div { p .big data-counter=(published) data-rate=(rates.map_or(0.0, |r| r.ingress)) { (figures::count(published)) }
                p { "messages published " span .dim { (rate(rates.map(|r| r.ingress))) } } }
            div { p .big data-counter=(finished) data-rate=(rates.map_or(0.0, |r| r.egress)) { (figures::count(finished)) }
                p { "messages finished by channels " span .dim { (rate(rates.map(|r| r.egress))) } } }
        }
        p .dim { "Since the topics were created, on the nodes that exist now. A message counts once as published, and once for each channel that finished it." }
        (graphs(&view, &SeriesKey::Cluster))
        (graphite_graphs(&view, Scope::Channel("*", "*"), &["message_count"]))
    };
    view.render("Counter", "Counter", body)
}
