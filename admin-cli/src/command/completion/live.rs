//! Names of the cluster for completion: at most 250 ms after the start of the program, and at most every 5 s. Without an
//! answer, there are none.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use clap_complete::CompletionCandidate;
use nsq::Config;
use nsq::admin::StatsQuery;
use nsqd::policy::setting::Setting;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::profile::store;
use crate::security::Security;
use crate::targets::{DEFAULT_LOOKUPD, TargetFlags, Targets};

/// Maximum time from the start of the program until it stops waiting for the cluster. A completion must take less than
/// 300 ms; the rest is for starting the program and for printing.
const LIMIT: Duration = Duration::from_millis(250);
/// Maximum time to wait for one reply: nodes are found first and asked then, and a silent one must not hide the others.
const REPLY_LIMIT: Duration = Duration::from_millis(100);
/// When the program started, if it completes a command line.
static STARTED_AT: OnceLock<Instant> = OnceLock::new();
/// How long names are kept in the cache.
const KEPT: Duration = Duration::from_secs(5);

/// The names of a cluster.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Names {
    topics: BTreeSet<String>,
    /// As `TOPIC/CHANNEL`.
    channels: BTreeSet<String>,
    nodes: BTreeSet<String>,
    #[serde(default)]
    tcp_addresses: BTreeSet<String>,
}

/// Sets the moment from which [`LIMIT`] counts. The first call counts.
pub(super) fn started_at(moment: Instant) {
    let _ = STARTED_AT.set(moment);
}

/// Topics of the cluster.
pub fn topics() -> Vec<CompletionCandidate> {
    candidates(names().topics)
}

/// Topics and channels of the cluster, as `TOPIC` and `TOPIC/CHANNEL`.
pub fn channels() -> Vec<CompletionCandidate> {
    let Names { topics, channels, .. } = names();
    candidates(topics.into_iter().chain(channels))
}

/// HTTP addresses of nsqds.
pub fn nodes() -> Vec<CompletionCandidate> {
    candidates(names().nodes)
}

/// TCP addresses of nsqds.
pub fn tcp_addresses() -> Vec<CompletionCandidate> {
    candidates(names().tcp_addresses)
}

/// HTTP addresses of nsqlookupds: those of the environment and of the profiles, or else the one of this machine.
pub fn lookupds() -> Vec<CompletionCandidate> {
    let mut known: BTreeSet<String> =
        store::load().unwrap_or_default().profile.into_values().flat_map(|profile| profile.lookupd).collect();
    known.extend(targets().into_iter().flat_map(|targets| targets.lookupds));
    if known.is_empty() {
        known.insert(DEFAULT_LOOKUPD.to_owned());
    }
    candidates(known)
}

/// Options of the client library, as `NAME=`.
pub fn client_options() -> Vec<CompletionCandidate> {
    candidates(Config::OPTION_NAMES.iter().map(|name| format!("{name}=")).chain(["help".to_owned()]))
}

/// Names of profiles.
pub fn profiles() -> Vec<CompletionCandidate> {
    candidates(store::load().unwrap_or_default().profile.into_keys())
}

/// Settings of topics and channels, as `KEY=`.
pub fn settings() -> Vec<CompletionCandidate> {
    candidates(Setting::all().map(|setting| format!("{}=", setting.name())))
}

fn candidates(names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The names of the cluster that the environment or the profile in use names, or else of this machine.
fn names() -> Names {
    let Some(targets) = targets() else { return Names::default() };
    let cache = cache(&targets);
    if let Some(names) = cache.as_deref().and_then(fresh) {
        return names;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Names::default() };
    let deadline = *STARTED_AT.get_or_init(Instant::now) + LIMIT;
    let asked = runtime.block_on(async { tokio::time::timeout_at(deadline.into(), ask(&targets)).await });
    // Resolving a host name cannot be interrupted; dropping the runtime would wait for it.
    runtime.shutdown_background();
    // A cluster that does not answer must not delay the next completion either.
    let names = asked.ok().flatten().unwrap_or_default();
    if let Some(path) = cache {
        keep(&path, &names);
    }
    names
}

fn targets() -> Option<Targets> {
    let environment = |name: &str| std::env::var(name).ok();
    let chosen = store::load().ok()?.choose(environment("NSQ_PROFILE").as_deref()).ok()?;
    let mut targets = Targets::resolve(TargetFlags::default(), environment, chosen.as_ref()).ok()?;
    targets.timeout = REPLY_LIMIT;
    let profile = chosen.filter(|chosen| chosen.is_explicit || targets.are_of(&chosen.profile));
    targets.security = Security::of_profile(profile.as_ref().map(|chosen| &chosen.profile)).ok()?;
    Some(targets)
}

async fn ask(targets: &Targets) -> Option<Names> {
    let cluster = Cluster::find(targets).await.ok()?;
    let stats = cluster.stats(&StatsQuery::default()).await;
    let mut names = Names {
        nodes: cluster.nodes.iter().map(|node| node.name.clone()).collect(),
        tcp_addresses: cluster.nodes.iter().map(|node| node.tcp_address.clone()).collect(),
        ..Names::default()
    };
    for topic in stats.good.iter().flat_map(|(_, stats)| stats.topics.iter().flatten()) {
        let of_topic =
            topic.channels.iter().map(|channel| format!("{}/{}", topic.topic_name, channel.channel_name));
        names.channels.extend(of_topic);
        names.topics.insert(topic.topic_name.clone());
    }
    Some(names)
}

/// Where the names of these addresses are kept.
fn cache(targets: &Targets) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    let mut hasher = DefaultHasher::new();
    (&targets.lookupds, &targets.nsqds).hash(&mut hasher);
    Some(folder.join("nsq").join(format!("completion-{:016x}.json", hasher.finish())))
}

fn fresh(path: &Path) -> Option<Names> {
    let age = SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok()?;
    if age > KEPT {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Without a cache, the next completion asks again.
fn keep(path: &Path, names: &Names) {
    let Some(folder) = path.parent() else { return };
    let Ok(text) = serde_json::to_vec(names) else { return };
    let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
}
