use std::sync::Arc;

use nsq_cluster::{Place, Problem, RuleId};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::rows::RowFilter;
use super::super::rows::tests::snapshot;
use super::super::state::Key;
use super::*;

const PLAIN: Look = Look { has_colour: false, has_blocks: true };

/// What is drawn on a terminal of this size, line by line.
fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let depths = |_: &SeriesKey, count: usize| (0..count).map(|step| step as f32).collect();
    terminal
        .draw(|frame| {
            draw(frame, state, PLAIN, SystemTime::UNIX_EPOCH, &depths);
        })
        .unwrap();
    super::super::text_of(terminal.backend().buffer())
}

fn state(channels: &[(&str, &str, i64, f32)], problems: Vec<Problem>) -> State {
    let mut snapshot = snapshot(channels);
    snapshot.problems = problems;
    snapshot.totals.topic_count = channels.len();
    let filter = RowFilter { topic: None, channel: None, text: String::new(), by_node: false };
    State::new(Arc::new(snapshot), filter)
}

fn problem() -> Problem {
    let place = Place { topic: Some("orders".into()), channel: Some("billing".into()), ..Place::default() };
    Problem {
        rule: RuleId::NoConsumers,
        severity: Severity::Critical,
        place,
        what: "12,345 messages and no consumer".to_owned(),
        figure: 12_345.0,
        since: SystemTime::UNIX_EPOCH,
        next: "nsq why orders/billing".to_owned(),
    }
}

#[test]
fn everything_fits_on_80_by_24() {
    let state = state(&[("orders", "billing", 12_345, 104.0), ("returns", "", 0, 0.0)], vec![problem()]);
    let lines = screen(&state, 80, 24);
    assert_eq!(lines.len(), 24);
    assert_eq!(lines[0], "nsq top  nodes 0/0  topics 2  channels 0  as of 00:00:00 UTC");
    assert_eq!(lines[1], "in -/s  out -/s  depth 0  in flight 0  deferred 0  consumers 0  1 crit");
    assert_eq!(lines[2], "TOPIC/CHANNEL       DEPTH    IN/S   OUT/S  INFLT  REQ/S  CONS FLAGS     TREND");
    assert_eq!(lines[3], "orders/billing      12.3k     104       0      0      0     0 !         ▁▂▃▄▅▆▇█");
    assert_eq!(lines[22], "crit   0s no-consumers orders/billing: 12,345 messages and no consumer");
    assert!(lines[23].starts_with("q quit  / filter"), "{lines:#?}");
}

#[test]
fn long_names_narrow_terminals_and_many_rows_do_no_harm() {
    let (topic, channel) = ("t".repeat(64), "c".repeat(64));
    let name = (topic.as_str(), channel.as_str(), 1, 1.0);
    let mut state = state(&vec![name; 5000], vec![problem(); 100]);
    for (width, height) in [(80, 24), (200, 50), (40, 10), (20, 5), (1, 1), (300, 100)] {
        assert_eq!(screen(&state, width, height).len(), usize::from(height));
    }
    assert!(screen(&state, 80, 24)[3].contains('~'));
    state.press(Key::End);
    state.press(Key::Enter);
    for (width, height) in [(80, 24), (40, 10), (1, 1)] {
        screen(&state, width, height);
    }
    state.press(Key::Char('?'));
    let help = screen(&state, 80, 24).join("\n");
    assert!(help.contains("pause or unpause the channel (asks)"), "{help}");
    screen(&state, 10, 3);
}

#[test]
fn empty_cluster_says_what_to_do_next() {
    let mut state = state(&[], Vec::new());
    assert!(screen(&state, 80, 24)[3].contains("nsq pub TOPIC BODY creates one"));
    assert!(screen(&state, 80, 24).join("\n").contains(" no problems "));
    state.press(Key::Char('n'));
    assert!(screen(&state, 80, 24)[3].contains("no nsqd is known"));
}

#[test]
fn questions_and_filters_are_at_the_bottom() {
    let mut state = state(&[("orders", "billing", 5, 1.0)], Vec::new());
    state.press(Key::Char('e'));
    assert_eq!(screen(&state, 80, 24)[23], "empty orders/billing on 0 nodes? 5 messages are dropped. [y/N]");
    state.press(Key::Char('n'));
    assert_eq!(screen(&state, 80, 24)[23], "nothing was changed");
    state.press(Key::Char('/'));
    state.press(Key::Char('x'));
    assert_eq!(screen(&state, 80, 24)[23], "filter: x_");
}

#[test]
fn trend_shows_levels_and_gaps() {
    assert_eq!(trend_of(&[0.0, 1.0, f32::NAN, 7.0], true), "▁▂ █");
    assert_eq!(trend_of(&[0.0, 0.0], false), "__");
    assert_eq!(trend_of(&[2.0, 1.0], false), "#=");
    assert_eq!(trend_of(&[], true), "");
}

#[test]
fn names_are_cut_in_their_middle() {
    assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
    assert_eq!(shortened("abcdefghijk", 10), "abcde~hijk");
}
