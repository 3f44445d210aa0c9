//! Pure: what `nsq top` shows, and what each key does.

use std::sync::Arc;
use std::time::SystemTime;

use nsq_cluster::Snapshot;

use super::rows::{Row, RowFilter, RowKey, Sort, rows};

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Char(char),
    /// Ctrl-C.
    Interrupt,
}

/// What the program has to do after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Quit,
    /// Ask for the clients of a channel.
    Clients(Arc<str>, Arc<str>),
    Change(Change),
    /// Leave the screen and print new messages of a topic.
    Tail(Arc<str>),
}

/// An action on a channel, which is confirmed first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub topic: Arc<str>,
    pub channel: Arc<str>,
    pub kind: ChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Pause,
    Unpause,
    Empty,
}

impl ChangeKind {
    pub fn verb(self) -> &'static str {
        match self {
            ChangeKind::Pause => "pause",
            ChangeKind::Unpause => "unpause",
            ChangeKind::Empty => "empty",
        }
    }
}

/// What the keys are for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Table,
    /// The filter is being typed.
    Filter,
    /// A change must be confirmed.
    Confirm(Change),
    Help,
}

/// A consumer of the selected channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLine {
    pub node: String,
    pub client: String,
    pub agent: String,
    pub ready_count: i64,
    pub in_flight_count: i64,
}

/// Everything that is shown.
#[derive(Debug, Clone)]
pub struct State {
    snapshot: Arc<Snapshot>,
    /// A newer snapshot that is not shown while the display is paused.
    newest: Arc<Snapshot>,
    pub is_paused: bool,
    pub mode: Mode,
    pub filter: RowFilter,
    pub sort: Sort,
    pub rows: Vec<Row>,
    pub selected: usize,
    pub shows_detail: bool,
    /// The clients of the selected channel; `None` while they are not known.
    pub clients: Option<Vec<ClientLine>>,
    /// The result of the last action.
    pub message: Option<String>,
    /// Rows that fit on the screen, for page keys.
    pub page: usize,
}

impl State {
    pub fn new(snapshot: Arc<Snapshot>, filter: RowFilter) -> Self {
        let mut state = State {
            newest: snapshot.clone(),
            snapshot,
            is_paused: false,
            mode: Mode::Table,
            filter,
            sort: Sort::Depth,
            rows: Vec::new(),
            selected: 0,
            shows_detail: false,
            clients: None,
            message: None,
            page: 10,
        };
        state.arrange(None);
        state
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The time of what is shown; `None` before the first sample.
    pub fn shown_at(&self) -> Option<SystemTime> {
        (self.snapshot.number > 0).then_some(self.snapshot.taken_at)
    }

    /// Shows a new snapshot, unless the display is paused.
    pub fn update(&mut self, snapshot: Arc<Snapshot>) {
        self.newest = snapshot;
        if !self.is_paused {
            self.show_newest();
        }
    }

    pub fn selected_key(&self) -> Option<&RowKey> {
        self.rows.get(self.selected).map(|row| &row.key)
    }

    /// Handles a key. Returns what is to be done.
    pub fn press(&mut self, key: Key) -> Option<Act> {
        if key == Key::Interrupt {
            return Some(Act::Quit);
        }
        match &self.mode {
            Mode::Help => {
                self.mode = Mode::Table;
                None
            }
            Mode::Confirm(change) => {
                let change = change.clone();
                self.mode = Mode::Table;
                if matches!(key, Key::Char('y' | 'Y')) {
                    return Some(Act::Change(change));
                }
                self.message = Some("nothing was changed".to_owned());
                None
            }
            Mode::Filter => {
                self.type_filter(key);
                None
            }
            Mode::Table => self.press_in_table(key),
        }
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Char(letter) => self.filter.text.push(letter),
            Key::Backspace => drop(self.filter.text.pop()),
            Key::Escape => {
                self.filter.text.clear();
                self.mode = Mode::Table;
            }
            Key::Enter => self.mode = Mode::Table,
            _ => {}
        }
        self.arrange(self.selected_key().cloned());
    }

    fn press_in_table(&mut self, key: Key) -> Option<Act> {
        self.message = None;
        let last = self.rows.len().saturating_sub(1);
        match key {
            Key::Down | Key::Char('j') => return self.select(self.selected + 1),
            Key::Up | Key::Char('k') => return self.select(self.selected.saturating_sub(1)),
            Key::PageDown => return self.select(self.selected + self.page),
            Key::PageUp => return self.select(self.selected.saturating_sub(self.page)),
            Key::Home | Key::Char('g') => return self.select(0),
            Key::End | Key::Char('G') => return self.select(last),
            Key::Enter => {
                self.shows_detail = !self.shows_detail;
                return self.ask_clients();
            }
            Key::Escape if self.shows_detail => self.shows_detail = false,
            Key::Escape => {
                self.filter.text.clear();
                self.arrange(self.selected_key().cloned());
            }
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Char('s') => {
                self.sort = self.sort.next();
                self.arrange(self.selected_key().cloned());
            }
            Key::Char('n') => {
                self.filter.by_node = !self.filter.by_node;
                self.selected = 0;
                self.clients = None;
                self.arrange(None);
            }
            Key::Char('p') => {
                self.is_paused = !self.is_paused;
                if !self.is_paused {
                    self.show_newest();
                }
            }
            Key::Char('P') => self.confirm(|is_paused| match is_paused {
                true => ChangeKind::Unpause,
                false => ChangeKind::Pause,
            }),
            Key::Char('e') => self.confirm(|_| ChangeKind::Empty),
            Key::Char('t') => match self.selected_key().and_then(RowKey::topic) {
                Some(topic) => return Some(Act::Tail(topic.clone())),
                None => self.message = Some("select a channel or topic first".to_owned()),
            },
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Char('q') => return Some(Act::Quit),
            _ => {}
        }
        None
    }

    /// Selects a row. Asks for its clients if they are shown.
    fn select(&mut self, row: usize) -> Option<Act> {
        let row = row.min(self.rows.len().saturating_sub(1));
        if row == self.selected {
            return None;
        }
        self.selected = row;
        self.clients = None;
        self.ask_clients()
    }

    /// What asks for the clients that are to be shown.
    pub fn ask_clients(&self) -> Option<Act> {
        match self.selected_key() {
            Some(RowKey::Channel(topic, channel)) if self.shows_detail => {
                Some(Act::Clients(topic.clone(), channel.clone()))
            }
            _ => None,
        }
    }

    fn confirm(&mut self, kind: impl Fn(bool) -> ChangeKind) {
        let Some(RowKey::Channel(topic, channel)) = self.selected_key() else {
            self.message = Some("select a channel first".to_owned());
            return;
        };
        let is_paused = self.snapshot.channel(topic, channel).is_some_and(|channel| channel.sum.paused);
        let (topic, channel) = (topic.clone(), channel.clone());
        self.mode = Mode::Confirm(Change { topic, channel, kind: kind(is_paused) });
    }

    /// The question before a change, with what it concerns.
    pub fn question(&self) -> Option<String> {
        let Mode::Confirm(Change { topic, channel, kind }) = &self.mode else { return None };
        let view = self.snapshot.channel(topic, channel);
        let nodes = view.map_or(0, |view| view.parts.len());
        let on = format!("{topic}/{channel} on {nodes} node{}", if nodes == 1 { "" } else { "s" });
        Some(match kind {
            ChangeKind::Empty => {
                let lost = view.map_or(0, |view| view.sum.unfinished_count());
                format!("empty {on}? {lost} messages are dropped. [y/N]")
            }
            kind => format!("{} {on}? [y/N]", kind.verb()),
        })
    }

    fn show_newest(&mut self) {
        self.snapshot = self.newest.clone();
        self.arrange(self.selected_key().cloned());
    }

    /// Builds the rows again. The selection stays with its row, or else at its place.
    fn arrange(&mut self, selected: Option<RowKey>) {
        self.rows = rows(&self.snapshot, &self.filter, self.sort);
        let place = selected.and_then(|key| self.rows.iter().position(|row| row.key == key));
        let last = self.rows.len().saturating_sub(1);
        if place.is_none() {
            self.clients = None;
        }
        self.selected = place.unwrap_or(self.selected).min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::snapshot;
    use super::*;

    fn state() -> State {
        let filter = RowFilter { topic: None, channel: None, text: String::new(), by_node: false };
        State::new(Arc::new(snapshot(&[("a", "c", 5, 1.0), ("a", "d", 3, 2.0), ("b", "c", 1, 3.0)])), filter)
    }

    fn press(state: &mut State, keys: &str) -> Vec<Act> {
        keys.chars()
            .filter_map(|letter| {
                state.press(match letter {
                    '\n' => Key::Enter,
                    '\u{1b}' => Key::Escape,
                    '\u{8}' => Key::Backspace,
                    letter => Key::Char(letter),
                })
            })
            .collect()
    }

    fn selected(state: &State) -> &str {
        &state.rows[state.selected].name
    }

    #[test]
    fn selection_stays_with_its_row() {
        let mut state = state();
        assert_eq!(selected(&state), "a/c");
        press(&mut state, "j");
        assert_eq!(selected(&state), "a/d");
        press(&mut state, "s");
        assert_eq!((selected(&state), state.selected), ("a/d", 1));
        state.update(Arc::new(snapshot(&[("a", "c", 5, 1.0), ("a", "d", 3, 9.0), ("b", "c", 1, 3.0)])));
        assert_eq!((selected(&state), state.selected), ("a/d", 0));
        state.update(Arc::new(snapshot(&[("b", "c", 1, 3.0)])));
        assert_eq!(selected(&state), "b/c");
        state.update(Arc::new(snapshot(&[])));
        assert_eq!(press(&mut state, "jkgGeP\n"), []);
    }

    #[test]
    fn filter_is_typed_and_cleared() {
        let mut state = state();
        press(&mut state, "/b/x");
        assert_eq!(state.rows.len(), 0);
        press(&mut state, "\u{8}\n");
        assert_eq!((state.rows.len(), selected(&state), &state.mode), (1, "b/c", &Mode::Table));
        // Keys have their meaning again.
        assert_eq!(press(&mut state, "q"), [Act::Quit]);
        press(&mut state, "\u{1b}");
        assert_eq!(state.rows.len(), 3);
    }

    #[test]
    fn changes_are_confirmed() {
        let mut state = state();
        assert_eq!(press(&mut state, "e"), []);
        assert_eq!(state.question().unwrap(), "empty a/c on 0 nodes? 5 messages are dropped. [y/N]");
        assert_eq!(press(&mut state, "n"), []);
        assert_eq!(state.message.as_deref(), Some("nothing was changed"));
        let kind = ChangeKind::Pause;
        let change = Change { topic: "a".into(), channel: "c".into(), kind };
        assert_eq!(press(&mut state, "Py"), [Act::Change(change)]);
        assert_eq!(state.question(), None);
        // A node is no channel.
        press(&mut state, "nP");
        assert_eq!((&state.mode, state.message.as_deref()), (&Mode::Table, Some("select a channel first")));
    }

    #[test]
    fn display_can_be_paused() {
        let mut state = state();
        press(&mut state, "p");
        state.update(Arc::new(snapshot(&[])));
        assert_eq!(state.rows.len(), 3);
        press(&mut state, "p");
        assert_eq!(state.rows.len(), 0);
    }

    #[test]
    fn details_need_the_clients_of_the_channel() {
        let mut state = state();
        assert_eq!(press(&mut state, "\n"), [Act::Clients("a".into(), "c".into())]);
        assert_eq!(press(&mut state, "j"), [Act::Clients("a".into(), "d".into())]);
        assert_eq!(press(&mut state, "\nj"), []);
        assert_eq!(press(&mut state, "t"), [Act::Tail("b".into())]);
        assert_eq!(state.press(Key::Interrupt), Some(Act::Quit));
    }
}
