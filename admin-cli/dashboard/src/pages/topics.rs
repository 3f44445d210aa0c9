//! `/topics`: all topics, to find one and to compare them.

use axum::extract::Query;
use axum::response::Response;
use maud::{Markup, html};
use nsq_cluster::SeriesKey;

use super::chart::spark;
use super::overview::SPARK_POINTS;
use super::parts::{action, empty, ephemeral_name, heading, icon, paused_badge, rate};
use super::view::{View, encode};
use crate::actions::Verb;
use crate::figures;
use crate::listing::{Page, TopicQuery, rows};

const COLUMNS: [(&str, &str); 7] = [
    ("name", "Topic"),
    ("in", "Published"),
    ("out", "Finished"),
    ("depth", "Depth"),
    ("inflight", "In flight"),
    ("consumers", "Consumers"),
    ("channels", "Channels"),
];

pub async fn page(view: View, Query(query): Query<TopicQuery>) -> Response {
    let snapshot = view.snapshot.clone();
    let page = rows(&snapshot, &query);
    let body = html! {
        (heading(&view, &[], html! { "Topics" span .count { (figures::count(page.total as i128)) } }))
        form #filter .filter method="get" role="search" {
            label .grow { span .sr { "Filter by name" }
                input type="search" name="filter" value=(query.filter) placeholder="Filter topics and channels  ( / )" autocomplete="off" data-filter;
            }
            label { span .sr { "Show" }
                select name="only" data-filter {
                    @for (value, text) in [("", "all"), ("depth", "only with depth"), ("idle", "only without consumers"), ("paused", "only paused")] {
                        option value=(value) selected[query.only == value] { (text) }
                    }
                }
            }
            label { span .sr { "Ephemeral topics" }
                select name="ephemeral" data-filter {
                    option value="" selected[query.ephemeral != "0"] { "ephemeral shown" }
                    option value="0" selected[query.ephemeral == "0"] { "ephemeral hidden" }
                }
            }
            input type="hidden" name="sort" value=(query.sort);
            button type="submit" .button.noscript { "Apply" }
            (action(&view, Verb::CreateTopic, "Create topic", &[]))
        }
        @if page.total == 0 {
            (empty("topic", "No topics yet", html! {
                "The first publish creates one: " code { "nsq pub greetings hello" }
            }))
        } @else if page.matching == 0 {
            (empty("search", "No topic matches", html! { "Change the filter, or " a href=(view.url("/topics")) { "show all" } "." }))
        } @else {
            (table(&view, &page, &query, true))
            (pager(&view, &page, &query))
        }
    };
    view.render("Topics", "Topics", body)
}

fn link(view: &View, query: &TopicQuery, sort: &str, cursor: Option<usize>) -> String {
    let mut url = view.url(&format!("/topics?sort={}", encode(sort)));
    for (name, value) in [("filter", &query.filter), ("only", &query.only), ("ephemeral", &query.ephemeral)] {
        if !value.is_empty() {
            url += &format!("&{name}={}", encode(value));
        }
    }
    if let Some(limit) = query.limit {
        url += &format!("&limit={limit}");
    }
    if let Some(cursor) = cursor {
        url += &format!("&cursor={cursor}");
    }
    url
}

fn pager(view: &View, page: &Page<'_>, query: &TopicQuery) -> Markup {
    let start = query.cursor.unwrap_or(0);
    let limit = query.limit.unwrap_or(crate::listing::DEFAULT_LIMIT);
    html! {
        nav .pager aria-label="Pages of topics" {
            span .dim { (figures::count(start as i128 + 1)) "–" (figures::count((start + page.rows.len()) as i128)) " of " (figures::count(page.matching as i128)) }
            @if start > 0 { a .button href=(link(view, query, &query.sort, Some(start.saturating_sub(limit)))) { "Previous" } }
            @if let Some(next) = page.next { a .button href=(link(view, query, &query.sort, Some(next))) { "Next" } }
        }
    }
}

/// The table; `is_sortable` makes its headers links.
pub fn table(view: &View, page: &Page<'_>, query: &TopicQuery, is_sortable: bool) -> Markup {
    let current = query.sort.trim_start_matches('-');
    let header = |column: &str, name: &str| {
        let is_current = current == column || (current.is_empty() && column == "name");
        let is_down = query.sort.starts_with('-');
        let aria = is_current.then_some(if is_down { "descending" } else { "ascending" });
        // Numbers are most interesting from the top.
        let next = match (is_current, is_down, column) {
            (true, true, _) | (false, _, "name") => column.to_owned(),
            _ => format!("-{column}"),
        };
        html! {
            th scope="col" .num[column != "name"] aria-sort=[aria.filter(|_| is_sortable)] {
                @if is_sortable { a href=(link(view, query, &next, None)) { (name) } } @else { (name) }
            }
        }
    };
    let sampler = view.state.sampler();
    let lines: Vec<Vec<f32>> = {
        let series = sampler.series();
        let points =
            |name: &std::sync::Arc<str>| series.newest(&SeriesKey::Topic(name.clone()), SPARK_POINTS);
        page.rows
            .iter()
            .map(|row| points(&row.topic.name).iter().map(|point| point.depth).collect())
            .collect()
    };
    html! {
        div .scroll tabindex="0" role="region" aria-label="Table of topics" {
            table data-table="topics" {
                thead { tr {
                    @for (column, name) in COLUMNS { (header(column, name)) }
                    th scope="col" { "Deepest channel" }
                    th scope="col" { "Depth over time" }
                } }
                tbody {
                    @for (row, line) in page.rows.iter().zip(&lines) {
                        @let name = &*row.topic.name;
                        tr #{ "t-" (name) } {
                            th scope="row" { a href=(view.topic_url(name)) { (ephemeral_name(name)) } (paused_badge(row.is_paused)) }
                            td .num { (rate(row.rates.map(|r| r.ingress))) }
                            td .num { (rate(row.rates.map(|r| r.egress))) }
                            td .num .strong[row.depth > 0] { (figures::count(row.depth)) }
                            td .num { (figures::count(row.in_flight_count)) }
                            td .num .crit-text[row.client_count == 0 && row.depth > 0 && !row.topic.is_ephemeral()] {
                                (figures::count(row.client_count))
                                @if row.client_count == 0 && row.depth > 0 && !row.topic.is_ephemeral() { (icon(view, "alert")) span .sr { "no consumers" } }
                            }
                            td .num { (row.topic.channels.len()) }
                            td { @match row.worst {
                                Some(channel) => { a href=(view.channel_url(name, &channel.name)) { (ephemeral_name(&channel.name)) } " " span .dim { (figures::count(channel.sum.depth)) } },
                                None => { span .dim { "–" } },
                            } }
                            td { (spark(line, &format!("depth of {name}"))) }
                        }
                    }
                }
            }
        }
    }
}
