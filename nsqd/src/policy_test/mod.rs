//! Tests a policy file against the messages that are there: what would expire, become a dead letter, not be stored twice,
//! or be deleted by retention. A test changes nothing.
//!
//! The values come from the same code that running topics use ([`Sources`]), and the rules from where they are applied:
//!
//! - [`crate::channel::policy_test`]: pure; the unfinished messages of a channel
//! - [`duplicates`]: pure; messages that a deduplication window would not have stored
//! - [`crate::log::TopicLog::test_retention`]: retained messages
//!
//! It is not known when finished messages were delivered, so a test counts them neither as expired nor as dead letters.

pub mod duplicates;
mod topic;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_protocol::{PolicyTestResponse, PolicyWarning};

use self::topic::{Left, TopicTest};
use crate::clock;
use crate::policy::effective::Sources;
use crate::policy::file::PolicyFile;
use crate::policy::setting::Setting;
use crate::policy::settings::Settings;
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// How the file would be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Use {
    /// As `--policy-file`: the own settings of a topic or channel win.
    #[default]
    PolicyFile,
    /// The values become the own settings of topics and channels.
    Settings,
}

/// What to examine.
#[derive(Debug, Clone)]
pub struct TestOptions {
    /// Examine messages for duplicates that were published during this time.
    pub since: Duration,
    pub as_if: Use,
    /// Maximum number of messages to read.
    pub max_messages: u64,
    /// Maximum bytes of messages to read; one batch may exceed it.
    pub max_bytes: u64,
}

/// Why a test ends before it has examined everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoppedBy {
    Messages,
    Bytes,
    Time,
}

impl StoppedBy {
    fn as_str(self) -> &'static str {
        match self {
            StoppedBy::Messages => "messages",
            StoppedBy::Bytes => "bytes",
            StoppedBy::Time => "time",
        }
    }
}

/// The policy that is tested.
struct Tested {
    sources: Sources,
    options: TestOptions,
    /// When the test began.
    wall_ns: i64,
    /// [`TestOptions::since`] as a time.
    since_ns: i64,
    dedupe_max_ids: usize,
}

impl Tested {
    /// The own settings with which a topic or channel would work.
    fn own(&self, mut own: Settings, topic: &str, channel: Option<&str>) -> Settings {
        if self.options.as_if == Use::Settings {
            for setting in Setting::all() {
                if let Some((value, _)) = self.sources.file.value(setting, topic, channel) {
                    own.set(setting, value.clone());
                }
            }
        }
        own
    }
}

/// A test in progress; see the module.
pub struct PolicyTest {
    tested: Tested,
    /// The topics whose test has not begun.
    topics: VecDeque<Arc<Topic>>,
    current: Option<TopicTest>,
    answer: PolicyTestResponse,
}

impl PolicyTest {
    /// Prepares a test of those topics for which the file has a policy; of one, if `only` is given.
    pub fn new(
        registry: &Registry,
        file: PolicyFile,
        options: TestOptions,
        only: Option<Arc<Topic>>,
    ) -> Self {
        let wall_ns = clock::wall_ns();
        let since_ns = wall_ns.saturating_sub_unsigned(clock::nanos(options.since));
        let warning = |(line, reason)| PolicyWarning { line: line as u64, reason };
        let answer = PolicyTestResponse {
            policies: file.len() as u64,
            warnings: file.warnings().map(warning).collect(),
            since: since_ns,
            complete: true,
            ..PolicyTestResponse::default()
        };
        let concerns = |topic: &Arc<Topic>| {
            let name = topic.name().as_str();
            let channels = topic.channels();
            file.concerns(name, None)
                || channels.iter().any(|channel| file.concerns(name, Some(channel.name().as_str())))
        };
        let mut topics = only.map_or_else(|| registry.all(), |topic| vec![topic]);
        topics.retain(concerns);
        let engine = registry.engine();
        let sources = Sources { file: Arc::new(file), ..(*engine.policy_sources()).clone() };
        let dedupe_max_ids = engine.limits.dedupe_max_ids;
        PolicyTest {
            tested: Tested { sources, options, wall_ns, since_ns, dedupe_max_ids },
            topics: topics.into(),
            current: None,
            answer,
        }
    }

    /// Works until about `until`. Returns whether there is more to do. Blocks on the disk.
    pub fn advance(&mut self, until: Instant) -> bool {
        loop {
            let Some(current) = &mut self.current else {
                match self.topics.pop_front() {
                    Some(topic) => self.current = Some(TopicTest::new(topic, &self.tested)),
                    None => return false,
                }
                continue;
            };
            let left = current.advance(&self.tested, until, &mut self.answer);
            match self.limit_reached() {
                // The channels of other topics are tested nevertheless.
                Some(stopped_by) if left == Left::Messages => {
                    self.answer.stopped_by.get_or_insert_with(|| stopped_by.as_str().to_owned());
                    self.conclude_topic();
                }
                _ if left == Left::Nothing => self.conclude_topic(),
                _ => {}
            }
            if Instant::now() >= until {
                return true;
            }
        }
    }

    fn limit_reached(&self) -> Option<StoppedBy> {
        let TestOptions { max_messages, max_bytes, .. } = self.tested.options;
        match () {
            () if self.answer.examined >= max_messages => Some(StoppedBy::Messages),
            () if self.answer.examined_bytes >= max_bytes => Some(StoppedBy::Bytes),
            () => None,
        }
    }

    /// Ends the test before it has examined everything, because it takes too long.
    pub fn stop(&mut self) {
        self.answer.complete = false;
        self.answer.stopped_by = Some(StoppedBy::Time.as_str().to_owned());
        self.answer.untested_topics = self.topics.len() as u64;
        self.topics.clear();
        self.conclude_topic();
    }

    fn conclude_topic(&mut self) {
        if let Some(topic) = self.current.take() {
            let tested = topic.conclude();
            self.answer.complete &= tested.complete;
            self.answer.topics.push(tested);
        }
    }

    /// What was found.
    pub fn conclude(self) -> PolicyTestResponse {
        self.answer
    }
}
