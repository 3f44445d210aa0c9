//! `nsq top`: a live view of the cluster on the terminal.

mod rows;
mod state;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::Parser as _;
use nsq::admin::{NsqdClient, StatsQuery};
use nsq_cluster::{ClusterConfig, Sampler, SamplerConfig, SamplerHandle, SeriesKey, Thresholds};
use nsq_daemon::go_duration;
use nsq_daemon::shutdown::StopSignals;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};
use tokio::sync::mpsc;

use super::{Context, tail};
use crate::cli::{Cli, Command};
use crate::cluster::verdict;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use rows::RowFilter;
use state::{Act, Change, ChangeKind, ClientLine, Key, State};
use view::{Look, draw};

pub const HELP: &str = "\
Examples:
  nsq top
  nsq top orders             # only the channels of one topic
  nsq top --once | head -20  # one frame as text

Keys: arrows or j k select, enter details, / filter, s sort, n nodes, p stop the display, P pause the channel,
e empty it, t tail the topic, ? help, q quit.";

#[derive(Debug, Args)]
pub struct TopFlags {
    /// Show only this topic or channel: TOPIC or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    object: Option<String>,
    /// Time between two samples.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = go_duration::parse)]
    interval: Duration,
    /// Print one frame as text and exit. The default if stdout is not a terminal.
    #[arg(long)]
    once: bool,
    /// Draw without colours. [env: NO_COLOR]
    #[arg(long)]
    no_color: bool,
}

/// How often keys are looked for, so that the reader of keys can be stopped.
const KEY_POLL: Duration = Duration::from_millis(50);
/// The size of a frame that is printed, unless COLUMNS and LINES say otherwise.
const ONCE_SIZE: (u16, u16) = (100, 40);
/// Lines of a frame besides rows and problems.
const FRAME_LINES: usize = 6;
/// A frame that is printed has at least this many lines.
const LEAST_LINES: u16 = 10;

pub async fn run(context: &Context, flags: TopFlags) -> Result<ExitStatus, Failure> {
    let object = flags.object.as_deref().map(Object::parse).transpose()?;
    if context.output.is_json() {
        return Err(Failure::usage("top draws for people").hint("use nsq stat --json or nsq check --json"));
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&flags.interval) {
        return Err(Failure::usage("--interval must be between 100ms and 1m, such as 2s"));
    }
    let cluster = ClusterConfig::from(&context.targets);
    if !cluster.default_ports && cluster.lookupds.is_empty() && cluster.nsqds.is_empty() {
        return Err(nsq_cluster::FindError::NoAddress.into());
    }
    let is_once = flags.once || !context.output.is_terminal();
    // One frame shows what is wrong now, not what has lasted.
    let thresholds = if is_once { Thresholds::default().at_once() } else { Thresholds::default() };
    let config = SamplerConfig { interval: flags.interval, thresholds, ..SamplerConfig::new(cluster) };
    let sampler = Sampler::start(config)?;
    let (topic, channel) = object.map_or((None, None), |object| (Some(object.topic), object.channel));
    let filter = RowFilter { topic, channel, text: String::new(), by_node: false };
    let state = State::new(sampler.latest(), filter);
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default().to_lowercase();
    let look = Look {
        has_colour: !flags.no_color && variable("NO_COLOR").is_none(),
        has_blocks: locale.contains("utf-8") || locale.contains("utf8"),
    };
    if is_once {
        return print_once(context, &sampler, state, look).await;
    }
    Screen { context, sampler, state, look }.run().await
}

/// Prints one frame, from two samples, so that it has rates.
async fn print_once(
    context: &Context,
    sampler: &SamplerHandle,
    mut state: State,
    look: Look,
) -> Result<ExitStatus, Failure> {
    state.update(sampler.reached(2).await);
    let size = |name: &str, default: u16| {
        std::env::var(name).ok().and_then(|size| size.parse().ok()).unwrap_or(default).clamp(20, 500)
    };
    let wanted = state.rows.len() + state.snapshot().problems.len() + FRAME_LINES;
    let wanted = u16::try_from(wanted).unwrap_or(u16::MAX);
    let (width, height) =
        (size("COLUMNS", ONCE_SIZE.0), wanted.min(size("LINES", ONCE_SIZE.1)).max(LEAST_LINES));
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| {
        draw(frame, &state, look, SystemTime::now(), &depths(sampler));
    });
    let mut lines = text_of(terminal.backend().buffer());
    // The last line lists keys.
    lines.pop();
    context.output.text(lines.join("\n") + "\n")?;
    let snapshot = state.snapshot();
    let answered = snapshot.nodes.len() + snapshot.lookupds.len() - snapshot.errors.len();
    Ok(verdict(answered, &snapshot.errors))
}

/// The characters of a buffer, line by line, without spaces at the end.
fn text_of(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width);
    lines
        .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

fn depths(sampler: &SamplerHandle) -> impl Fn(&SeriesKey, usize) -> Vec<f32> {
    |key, count| sampler.series().newest(key, count).into_iter().map(|point| point.depth).collect()
}

/// The terminal while `nsq top` runs.
struct Screen<'a> {
    context: &'a Context,
    sampler: SamplerHandle,
    state: State,
    look: Look,
}

/// What a task reports back.
enum Report {
    Clients(Arc<str>, Arc<str>, Vec<ClientLine>),
    Message(String),
}

impl Screen<'_> {
    async fn run(mut self) -> Result<ExitStatus, Failure> {
        let mut signals = StopSignals::catch().map_err(Failure::failed)?;
        let mut snapshots = self.sampler.subscribe();
        let (reports_tx, mut reports) = mpsc::channel(16);
        let mut terminal = ratatui::try_init().map_err(Failure::failed)?;
        let _restore = Restore;
        let mut keys = Keys::start();
        loop {
            self.draw(&mut terminal)?;
            let act = tokio::select! {
                changed = snapshots.changed() => {
                    // The sampler runs as long as its handle exists.
                    let _ = changed;
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.state.update(snapshot);
                    self.state.ask_clients()
                }
                key = keys.next() => match key {
                    Some(Input::Key(key)) => self.state.press(key),
                    Some(Input::Resized) => None,
                    None => Some(Act::Quit),
                },
                Some(report) = reports.recv() => {
                    self.take(report);
                    None
                }
                () = signals.wait() => Some(Act::Quit),
            };
            match act {
                None => {}
                Some(Act::Quit) => return Ok(ExitStatus::Done),
                Some(Act::Clients(topic, channel)) => self.ask_clients(topic, channel, reports_tx.clone()),
                Some(Act::Change(change)) => self.change(change, reports_tx.clone()),
                Some(Act::Tail(topic)) => {
                    keys.stop();
                    ratatui::restore();
                    let ended = self.tail(&topic).await;
                    // The interrupt ended the tail, and is not meant for the screen.
                    signals = StopSignals::catch().map_err(Failure::failed)?;
                    terminal = ratatui::try_init().map_err(Failure::failed)?;
                    keys = Keys::start();
                    self.state.message = ended.err().map(|failure| failure.message);
                }
            }
        }
    }

    fn draw(&mut self, terminal: &mut DefaultTerminal) -> Result<(), Failure> {
        let depths = depths(&self.sampler);
        let mut page = 1;
        let (state, look) = (&self.state, self.look);
        let drawn = terminal.draw(|frame| page = draw(frame, state, look, SystemTime::now(), &depths));
        drawn.map_err(|error| Failure::failed(format_args!("cannot draw on the terminal: {error}")))?;
        self.state.page = page.max(1);
        Ok(())
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Message(message) => {
                self.state.message = Some(message);
                self.sampler.refresh();
            }
            Report::Clients(topic, channel, clients) => {
                // The selection may have moved on.
                if self.state.ask_clients() == Some(Act::Clients(topic, channel)) {
                    self.state.clients = Some(clients);
                }
            }
        }
    }

    fn ask_clients(&self, topic: Arc<str>, channel: Arc<str>, reports: mpsc::Sender<Report>) {
        let cluster = self.sampler.cluster();
        tokio::spawn(async move {
            let query = StatsQuery {
                topic: Some(topic.to_string()),
                channel: Some(channel.to_string()),
                clients: true,
                ..StatsQuery::default()
            };
            let mut lines = Vec::new();
            for (node, stats) in cluster.stats(&query).await.good {
                let channels = stats.topics.into_iter().flatten().flat_map(|topic| topic.channels);
                for client in channels.flat_map(|channel| channel.clients.unwrap_or_default()) {
                    lines.push(ClientLine {
                        node: node.clone(),
                        client: format!("{} ({})", client.client_id, client.remote_address),
                        agent: client.user_agent,
                        ready_count: client.ready_count,
                        in_flight_count: client.in_flight_count,
                    });
                }
            }
            // The screen may be gone.
            let _ = reports.send(Report::Clients(topic, channel, lines)).await;
        });
    }

    fn change(&mut self, change: Change, reports: mpsc::Sender<Report>) {
        let cluster = self.sampler.cluster();
        let Change { topic, channel, kind } = change;
        self.state.message = Some(format!("{} {topic}/{channel} ...", kind.verb()));
        tokio::spawn(async move {
            let call = |client: NsqdClient| {
                let (topic, channel) = (topic.clone(), channel.clone());
                async move {
                    match kind {
                        ChangeKind::Pause => client.pause_channel(&topic, &channel).await,
                        ChangeKind::Unpause => client.unpause_channel(&topic, &channel).await,
                        ChangeKind::Empty => client.empty_channel(&topic, &channel).await,
                    }
                }
            };
            let answers = cluster.on_each_node(kind.verb(), call).await;
            let mut message =
                format!("{} {topic}/{channel}: done on {} nodes", kind.verb(), answers.good.len());
            if let Some(error) = answers.errors.first() {
                message = format!("{message}, failed on {}: {error}", answers.errors.len());
            }
            let _ = reports.send(Report::Message(message)).await;
        });
    }

    /// Prints new messages until interrupted.
    async fn tail(&self, topic: &str) -> Result<(), Failure> {
        let line = Cli::try_parse_from(["nsq", "tail", topic]).map_err(Failure::usage)?;
        let Command::Tail(flags) = line.command else { return Ok(()) };
        self.context.output.note(&format!("new messages of {topic}; Ctrl-C returns"));
        tail::run(self.context, flags).await.map(drop)
    }
}

/// Leaves the screen in order, whatever happens.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What the terminal reports.
enum Input {
    Key(Key),
    Resized,
}

/// A thread that reads keys: terminals can only be read with a blocking call.
struct Keys {
    inputs: mpsc::Receiver<Input>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    fn start() -> Self {
        let (inputs_tx, inputs) = mpsc::channel(64);
        let stopping = Arc::new(AtomicBool::new(false));
        let is_stopping = stopping.clone();
        let thread = std::thread::spawn(move || {
            while !is_stopping.load(Ordering::Relaxed) {
                let input = match event::poll(KEY_POLL) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                // The terminal is gone.
                let Ok(input) = input else { return };
                if let Some(input) = input_of(&input)
                    && inputs_tx.blocking_send(input).is_err()
                {
                    return;
                }
            }
        });
        Keys { inputs, stopping, thread: Some(thread) }
    }

    async fn next(&mut self) -> Option<Input> {
        self.inputs.recv().await
    }

    /// Stops reading, so that another program part can read the terminal.
    fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.inputs.close();
        if let Some(thread) = self.thread.take() {
            // It ends within `KEY_POLL`, and has nothing to report.
            let _ = thread.join();
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop();
    }
}

fn input_of(event: &Event) -> Option<Input> {
    let key = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        Event::Resize(..) => return Some(Input::Resized),
        _ => return None,
    };
    Some(Input::Key(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    }))
}
