//! `--data DIR`: questions about a data directory that no daemon uses, answered by nsqd's own code.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use nsq::admin::PeekPage;
use nsq_cluster::{Sample, Samples};
use nsq_protocol::{PeekEnd, WhyCause, WhyResponse};
use nsqd::channel::Channel;
use nsqd::clock;
use nsqd::peek::request::{From, PeekRequest};
use nsqd::peek::{Peek, Place};
use nsqd::producers::Producers;
use nsqd::stats::{self, StatsRequest};
use nsqd::timers::Expire;
use nsqd::topic::Topic;
use nsqd::topic::registry::Registry;
use nsqd::why::gather::gather;
use nsqd::why::rules::causes;

use crate::command::data::directory::Directory;
use crate::command::data::recovered::{Recovered, recover};
use crate::exit_status::Failure;
use crate::names::{Object, not_found};
use crate::output::Output;

#[derive(Debug, Args)]
pub struct OfflineFlags {
    /// Read this data directory, which no daemon may be using, instead of asking nodes.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// A data directory as the next start of nsqd would find it.
pub struct Offline {
    directory: Directory,
    registry: Arc<Registry>,
}

impl Offline {
    /// Reads the directory. Warns about damage that a start would report.
    pub fn open(path: &Path, output: Output) -> Result<Self, Failure> {
        let directory = Directory::open(path)?;
        let Recovered { registry, warnings } = recover(&directory)?;
        if !warnings.is_empty() {
            output.warning(&format!(
                "{}: a start would report {} problems; run `nsq data verify {}`",
                path.display(),
                warnings.len(),
                path.display()
            ));
        }
        let now = clock::monotonic();
        for channel in registry.all().iter().flat_map(|topic| topic.channels()) {
            // What became due since the stop waits; a call handles only some.
            while channel.inspect(|state, _| state.next_due()).is_some_and(|due| due <= now) {
                channel.expire(now);
            }
        }
        Ok(Offline { directory, registry })
    }

    /// What stands for the node in the output.
    pub fn name(&self) -> String {
        self.directory.path().display().to_string()
    }

    fn topic(&self, object: &Object) -> Result<Arc<Topic>, Failure> {
        self.registry.get(&object.topic).ok_or_else(|| {
            let names: Vec<String> =
                self.registry.all().iter().map(|topic| topic.name().to_string()).collect();
            let topic = Object { topic: object.topic.clone(), channel: None };
            let failure = not_found(&topic, names.iter().map(String::as_str));
            match names.len() {
                0 => failure.hint(format!("{} holds no topic", self.name())),
                _ if failure.hint.as_ref().is_some_and(|hint| hint.starts_with("did")) => failure,
                _ => failure.hint(format!("`nsq data inspect {}` lists the topics", self.name())),
            }
        })
    }

    fn channel(&self, topic: &Topic, object: &Object, name: &str) -> Result<Arc<Channel>, Failure> {
        topic.channel(name).ok_or_else(|| {
            let names: Vec<String> =
                topic.channels().iter().map(|channel| channel.name().to_string()).collect();
            let failure = not_found(object, names.iter().map(String::as_str));
            match failure.hint.as_ref().is_some_and(|hint| hint.starts_with("did")) {
                true => failure,
                false => failure.hint(format!("`nsq data inspect {}` lists the channels", self.name())),
            }
        })
    }

    /// The figures of all topics, and an error if one of the objects is missing.
    pub fn samples(&self, wanted: &[Object]) -> Result<Samples, Failure> {
        for object in wanted {
            let topic = self.topic(object)?;
            if let Some(name) = &object.channel {
                self.channel(&topic, object, name)?;
            }
        }
        let request =
            StatsRequest { include_clients: false, include_memory: false, ..StatsRequest::default() };
        let stats = stats::collect(&self.registry, &Producers::default(), 0, request);
        self.directory.check_unchanged()?;
        Ok(Samples::from([(self.name(), Sample { taken_at: Instant::now(), stats })]))
    }

    /// The messages that match, up to the limit of the request, which is not that of one page.
    pub fn peek(&self, object: &Object, request: &PeekRequest) -> Result<PeekPage, Failure> {
        let topic = self.topic(object)?;
        let mut all = PeekPage { messages: Vec::new(), end: PeekEnd::default() };
        let mut from = request.from;
        loop {
            let place = match &object.channel {
                None => Place::Topic(topic.clone()),
                Some(name) => Place::Channel(self.channel(&topic, object, name)?),
            };
            let limit = request.limit - all.messages.len();
            let mut peek = Peek::new(place, PeekRequest { from, limit, ..request.clone() });
            while peek.advance() {}
            let end = peek.end();
            all.messages.append(&mut peek.messages);
            all.end = PeekEnd {
                examined: all.end.examined + end.examined,
                examined_bytes: all.end.examined_bytes + end.examined_bytes,
                ..end
            };
            // No daemon has to be protected from the work.
            let was_limited = ["messages", "bytes", "time"].contains(&all.end.stopped_by.as_str());
            match all.end.next.as_ref().and_then(|next| next.parse::<From>().ok()) {
                Some(next) if was_limited && all.messages.len() < request.limit && next != from => {
                    from = next
                }
                _ => break,
            }
        }
        self.directory.check_unchanged()?;
        Ok(all)
    }

    /// Why a channel, or one of its messages, does not move. The channel need not exist.
    pub fn why(&self, object: &Object, channel: &str, id: Option<u64>) -> Result<WhyResponse, Failure> {
        let mut facts = gather(&self.topic(object)?, channel, id);
        facts.node.stopped_at = Some(self.name());
        let cause = |cause: nsqd::why::rules::Cause| WhyCause {
            code: cause.code.to_owned(),
            holds_up: cause.holds_up,
            text: cause.text,
            command: cause.command,
        };
        let answer = WhyResponse {
            topic_name: object.topic.clone(),
            channel_name: channel.to_owned(),
            id: id.map(|id| format!("{id:016x}")),
            causes: causes(&facts).into_iter().map(cause).collect(),
        };
        self.directory.check_unchanged()?;
        Ok(answer)
    }
}
