//! Pure: draws the state of `nsq top`.

use std::time::{Duration, SystemTime};

use nsq_cluster::{Reach, SeriesKey, Severity, Snapshot};
use nsq_protocol::printable;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use super::rows::{RowKey, Sort};
use super::state::{Mode, State};
use crate::table::figure;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub has_colour: bool,
    /// Whether the terminal shows block characters.
    pub has_blocks: bool,
}

/// The depth of an object in the last samples, oldest first.
pub type Depths<'a> = &'a dyn Fn(&SeriesKey, usize) -> Vec<f32>;

const TREND_WIDTH: usize = 8;
/// The state of a node needs as much.
const FLAGS_WIDTH: u16 = 9;
/// Below this width, the trend is not shown.
const WIDTH_FOR_TREND: u16 = 76;
const HELP: [&str; 14] = [
    "arrows, j k   select a row; PgUp PgDn Home End, g G",
    "enter         details of the row: nodes and consumers",
    "/             filter by name; enter keeps it, esc clears it",
    "s             sort by the next column",
    "n             nodes or channels",
    "p             stop and resume the display",
    "P             pause or unpause the channel (asks)",
    "e             empty the channel (asks)",
    "t             print new messages of the topic; Ctrl-C returns",
    "?             this help",
    "q             quit",
    "",
    "FLAGS         P paused  F full  T throttled  B blocked by its order  ! no consumer",
    "rates         per second; TREND is the depth of the last samples",
];

impl Look {
    fn colour(self, colour: Color) -> Style {
        if self.has_colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.colour(Color::Red).add_modifier(Modifier::BOLD),
            Severity::Warning => self.colour(Color::Yellow),
            Severity::Info => self.colour(Color::Cyan),
        }
    }
}

/// Draws everything. Returns the number of rows of the table that fit.
pub fn draw(frame: &mut Frame<'_>, state: &State, look: Look, now: SystemTime, depths: Depths<'_>) -> usize {
    let area = frame.area();
    let snapshot = state.snapshot();
    // What the table does not need, but at least a fifth of the screen.
    let spare =
        area.height.saturating_sub(u16::try_from(state.rows.len()).unwrap_or(u16::MAX).saturating_add(5));
    let most = spare.max(area.height / 5 + 1);
    let problem_lines = u16::try_from(snapshot.problems.len()).unwrap_or(u16::MAX).clamp(1, most);
    let detail = if state.shows_detail { area.height / 3 } else { 0 };
    let [head, table, details, problems, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(detail),
        Constraint::Length(problem_lines + 1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header(state, look, now)), head);
    draw_table(frame, table, state, look, depths);
    if state.shows_detail {
        draw_detail(frame, details, state, look);
    }
    draw_problems(frame, problems, snapshot, look);
    frame.render_widget(Paragraph::new(footer(state, look)), foot);
    if state.mode == Mode::Help {
        draw_help(frame, area);
    }
    usize::from(table.height.saturating_sub(1))
}

fn header(state: &State, look: Look, now: SystemTime) -> Vec<Line<'static>> {
    let snapshot = state.snapshot();
    let Some(at) = state.shown_at() else {
        return vec![Line::from("nsq top: waiting for the first answers")];
    };
    let count = |severity| snapshot.problems.iter().filter(|problem| problem.severity == severity).count();
    let up = snapshot.nodes.iter().filter(|node| node.reach == Reach::Up).count();
    let lookupds_up = snapshot.lookupds.iter().filter(|lookupd| lookupd.reach == Reach::Up).count();
    let part =
        |up: usize, all: usize| if up < all { look.severity(Severity::Critical) } else { Style::new() };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let age = now.duration_since(at).unwrap_or_default();
    let is_old = age > snapshot.interval * 3;
    let mut first = vec![
        Span::styled("nsq top", bold),
        Span::raw("  nodes "),
        Span::styled(format!("{up}/{}", snapshot.nodes.len()), part(up, snapshot.nodes.len())),
    ];
    if !snapshot.lookupds.is_empty() {
        first.push(Span::raw("  lookupds "));
        let all = snapshot.lookupds.len();
        first.push(Span::styled(format!("{lookupds_up}/{all}"), part(lookupds_up, all)));
    }
    first.push(Span::raw(format!(
        "  topics {}  channels {}",
        figure(snapshot.totals.topic_count as f64, 0),
        figure(snapshot.totals.channel_count as f64, 0)
    )));
    let clock = format!("  as of {} UTC", time_of_day(at));
    let clock_style = if is_old || state.is_paused { look.severity(Severity::Warning) } else { Style::new() };
    first.push(Span::styled(clock, clock_style));
    if state.is_paused {
        first.push(Span::styled("  PAUSED", look.severity(Severity::Warning).add_modifier(Modifier::BOLD)));
    }
    let rates = snapshot.totals.rates;
    let mut second = vec![Span::raw(format!(
        "in {}/s  out {}/s  depth {}  in flight {}  deferred {}  consumers {}",
        rate(rates.map(|rates| rates.ingress)),
        rate(rates.map(|rates| rates.egress)),
        figure(snapshot.totals.depth as f64, 0),
        figure(snapshot.totals.in_flight_count as f64, 0),
        figure(snapshot.totals.deferred_count as f64, 0),
        figure(snapshot.totals.client_count as f64, 0)
    ))];
    for severity in [Severity::Critical, Severity::Warning] {
        if count(severity) > 0 {
            second.push(Span::styled(format!("  {} {severity}", count(severity)), look.severity(severity)));
        }
    }
    vec![Line::from(first), Line::from(second)]
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look, depths: Depths<'_>) {
    let has_trend = area.width >= WIDTH_FOR_TREND;
    let fixed: u16 = 7 + 7 + 7 + 6 + 6 + 5 + FLAGS_WIDTH + 7;
    let trend = if has_trend { TREND_WIDTH as u16 + 1 } else { 0 };
    let name_width = usize::from(area.width.saturating_sub(fixed + trend).max(12));
    let title = |sort: Sort, text: &'static str| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if state.sort == sort {
            Span::styled(text, style.add_modifier(Modifier::UNDERLINED))
        } else {
            Span::styled(text, style)
        }
    };
    let right = |span: Span<'static>| Cell::from(Line::from(span).right_aligned());
    let name = if state.filter.by_node { "NODE" } else { "TOPIC/CHANNEL" };
    let last = if state.filter.by_node { "STATE" } else { "FLAGS" };
    let mut headings = vec![
        Cell::from(title(Sort::Name, name)),
        right(title(Sort::Depth, "DEPTH")),
        right(title(Sort::Ingress, "IN/S")),
        right(title(Sort::Egress, "OUT/S")),
        right(title(Sort::InFlight, "INFLT")),
        right(title(Sort::Requeue, "REQ/S")),
        right(title(Sort::Consumers, "CONS")),
        Cell::from(Span::styled(last, Style::new().add_modifier(Modifier::BOLD))),
    ];
    let mut widths = vec![
        Constraint::Length(u16::try_from(name_width).unwrap_or(u16::MAX)),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(FLAGS_WIDTH),
    ];
    if has_trend {
        headings.push(Cell::from(Span::styled("TREND", Style::new().add_modifier(Modifier::BOLD))));
        widths.push(Constraint::Length(TREND_WIDTH as u16));
    }
    // Only the rows that fit are built: there may be thousands.
    let height = usize::from(area.height.saturating_sub(1)).max(1);
    let first = state.selected.saturating_sub(height.saturating_sub(1)).min(state.rows.len());
    let shown = &state.rows[first..state.rows.len().min(first + height)];
    let rows = shown.iter().map(|row| {
        let number = |text: String| Cell::from(Line::from(text).right_aligned());
        let mut cells = vec![
            Cell::from(shortened(&printable(&row.name), name_width)),
            number(figure(row.depth as f64, 0)),
            number(rate(row.ingress)),
            number(rate(row.egress)),
            number(figure(row.in_flight as f64, 0)),
            number(rate(row.requeue)),
            number(figure(row.consumers as f64, 0)),
            Cell::from(row.flags.clone()),
        ];
        if has_trend {
            cells.push(Cell::from(trend_of(&depths(&row.key.series(), TREND_WIDTH), look.has_blocks)));
        }
        let style = if row.is_bad { look.severity(Severity::Critical) } else { Style::new() };
        Row::new(cells).style(style)
    });
    let table = Table::new(rows, widths)
        .header(Row::new(headings))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut position = TableState::default().with_selected(Some(state.selected.saturating_sub(first)));
    if state.rows.is_empty() {
        let nothing = match () {
            () if state.snapshot().number == 0 => "",
            () if !state.filter.text.is_empty() => "no name contains the filter; esc clears it",
            () if state.filter.by_node => "no nsqd is known: start one with --lookupd-tcp-address",
            () => "no topics yet: nsq pub TOPIC BODY creates one",
        };
        let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        frame.render_widget(table, top);
        frame.render_widget(Paragraph::new(nothing), rest);
        return;
    }
    frame.render_stateful_widget(table, area, &mut position);
}

fn draw_detail(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look) {
    let snapshot = state.snapshot();
    let title = |text: String| Block::new().borders(ratatui::widgets::Borders::TOP).title(text);
    let mut lines: Vec<Line<'static>> = Vec::new();
    let name = state.rows.get(state.selected).map_or_else(String::new, |row| row.name.clone());
    match state.selected_key() {
        Some(RowKey::Channel(topic, channel)) => {
            for part in snapshot.channel(topic, channel).iter().flat_map(|channel| &channel.parts) {
                let figures = &part.figures;
                let text = format!(
                    "{}  depth {}  in {}/s  out {}/s  in flight {}  consumers {}",
                    snapshot.nodes[part.node].address,
                    figure(figures.depth as f64, 0),
                    rate(figures.rates.map(|rates| rates.ingress)),
                    rate(figures.rates.map(|rates| rates.egress)),
                    figures.in_flight_count,
                    figures.client_count
                );
                let is_bad = figures.depth > 0 && figures.client_count == 0 && !figures.paused;
                let style = if is_bad { look.severity(Severity::Critical) } else { Style::new() };
                lines.push(Line::styled(text, style));
            }
            match &state.clients {
                None => lines.push(Line::from("asking for the consumers ...")),
                Some(clients) if clients.is_empty() => lines.push(Line::from("no consumers")),
                Some(clients) => lines.extend(clients.iter().map(|client| {
                    Line::from(format!(
                        "  {} at {}  RDY {}  in flight {}  {}",
                        printable(&client.client),
                        client.node,
                        client.ready_count,
                        client.in_flight_count,
                        printable(&client.agent)
                    ))
                })),
            }
        }
        Some(RowKey::Topic(topic)) => {
            for part in snapshot.topic(topic).iter().flat_map(|topic| &topic.parts) {
                lines.push(Line::from(format!(
                    "{}  depth {}  in {}/s",
                    snapshot.nodes[part.node].address,
                    figure(part.figures.depth as f64, 0),
                    rate(part.figures.rates.map(|rates| rates.ingress))
                )));
            }
        }
        Some(RowKey::Node(address)) => {
            if let Some(node) = snapshot.node(address) {
                lines.push(Line::from(format!(
                    "version {}  health {}  topics {}  channels {}  host {}",
                    printable(&node.version),
                    printable(&node.health),
                    node.totals.topic_count,
                    node.totals.channel_count,
                    printable(&node.hostname)
                )));
                if let Some(storage) = &node.storage {
                    let gib = |bytes: u64| bytes as f64 / f64::from(1u32 << 30);
                    lines.push(Line::from(format!(
                        "disk {:.1} of {:.1} GiB free  journal {:.2} GiB",
                        gib(storage.free_bytes),
                        gib(storage.size_bytes),
                        gib(storage.journal_bytes)
                    )));
                }
                lines.extend(
                    node.error.iter().map(|error| Line::from(printable(&error.to_string()).into_owned())),
                );
            }
        }
        None => {}
    }
    frame.render_widget(Paragraph::new(lines).block(title(format!(" {} ", printable(&name)))), area);
}

fn draw_problems(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, look: Look) {
    let count = snapshot.problems.len();
    let title = match count {
        0 => " no problems ".to_owned(),
        1 => " 1 problem ".to_owned(),
        count => format!(" {count} problems "),
    };
    let room = usize::from(area.height.saturating_sub(1));
    let lines = snapshot.problems.iter().take(room).map(|problem| {
        let lasts = snapshot.taken_at.duration_since(problem.since).unwrap_or_default();
        Line::from(vec![
            Span::styled(format!("{:4}", problem.severity), look.severity(problem.severity)),
            Span::raw(format!(" {:>4} ", short_time(lasts))),
            Span::styled(problem.rule.to_string(), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(printable(&format!(" {}: {}", problem.place, problem.what)).into_owned()),
        ])
    });
    let block = Block::new().borders(ratatui::widgets::Borders::TOP).title(title);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

fn footer(state: &State, look: Look) -> Line<'static> {
    let loud = look.severity(Severity::Warning).add_modifier(Modifier::BOLD);
    if let Some(question) = state.question() {
        return Line::styled(question, loud);
    }
    if state.mode == Mode::Filter {
        return Line::from(format!("filter: {}_", printable(&state.filter.text)));
    }
    if let Some(message) = &state.message {
        return Line::styled(printable(message).into_owned(), loud);
    }
    let mut keys =
        "q quit  / filter  s sort  n nodes  enter detail  p stop  P pause  e empty  t tail  ? help"
            .to_owned();
    if !state.filter.text.is_empty() {
        keys = format!("filter {}  (esc clears)  {keys}", printable(&state.filter.text));
    }
    Line::from(keys)
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = area.width.min(84);
    let height = area.height.min(HELP.len() as u16 + 2);
    let help =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, help);
    let lines: Vec<Line<'static>> = HELP.iter().map(|&line| Line::from(line)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), help);
}

fn rate(rate: Option<f32>) -> String {
    rate.map_or_else(
        || "-".to_owned(),
        |rate| figure(f64::from(rate), usize::from(rate < 9.95 && rate > 0.0)),
    )
}

/// Cuts a name in its middle: its end says most about a channel.
fn shortened(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let (start, end) = (width / 2, width - width / 2 - 1);
    let head: String = name.chars().take(start).collect();
    let tail: String = name.chars().skip(length - end).collect();
    format!("{head}~{tail}")
}

/// A graph of one line. Zero is the lowest level; unknown figures are gaps.
fn trend_of(depths: &[f32], has_blocks: bool) -> String {
    let levels: &[char] = match has_blocks {
        true => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        false => &['_', '.', '-', ':', '=', '+', '*', '#'],
    };
    let most = depths.iter().copied().filter(|depth| !depth.is_nan()).fold(0.0, f32::max);
    let level = |depth: f32| match () {
        () if depth.is_nan() => ' ',
        () if most <= 0.0 => levels[0],
        () => levels[((depth / most * 7.0).ceil().max(0.0) as usize).min(7)],
    };
    depths.iter().map(|depth| level(*depth)).collect()
}

fn short_time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn time_of_day(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
