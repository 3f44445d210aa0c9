//! `nsq support-bundle`: what helps to understand a fault, in one file: versions, statistics, settings and metrics. No
//! message bodies and no secrets.

mod redact;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, CommandFactory};
use flate2::Compression;
use flate2::write::GzEncoder;
use nsq::admin::StatsQuery;
use serde_json::{Value, json};

use super::Context;
use crate::cluster::{Cluster, Lookupd, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::progress::Progress;
use redact::{is_harmless, redact};

pub const EXAMPLES: &str = "\
Examples:
  nsq support-bundle                       # writes nsq-support-TIME.tar.gz
  nsq support-bundle --file /tmp/nsq.tar.gz
  tar -tzf nsq-support-*.tar.gz            # what is in it

The file has versions, addresses, names, statistics, settings and metrics. It has no message bodies, headers or secrets.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SupportFlags {
    /// File to write; it must not exist. [default: nsq-support-TIME.tar.gz]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The files of the bundle.
#[derive(Debug, Default)]
struct Bundle {
    files: Vec<(String, Vec<u8>)>,
    errors: Vec<NodeError>,
}

impl Bundle {
    fn add(&mut self, name: &str, mut value: Value) {
        redact(&mut value);
        // Serializing a Value cannot fail.
        self.files.push((format!("{name}.json"), serde_json::to_vec_pretty(&value).unwrap_or_default()));
    }
}

/// Collects, and writes the file.
pub async fn run(context: &Context, flags: &SupportFlags) -> Result<ExitStatus, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let moment = jiff::Timestamp::from_second(i64::try_from(now).unwrap_or(0)).unwrap_or_default();
    let name = format!("nsq-support-{}", moment.strftime("%Y%m%dT%H%M%SZ"));
    let path = flags.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let cluster = Cluster::find(&context.targets).await?;
    let mut bundle = Bundle { errors: cluster.errors.clone(), ..Bundle::default() };
    bundle.add("about", json!({
        "nsq_version": env!("CARGO_PKG_VERSION"),
        "written_at": moment.to_string(),
        "lookupds": cluster.lookupds.iter().map(|lookupd| &lookupd.name).collect::<Vec<_>>(),
        "nodes": cluster.nodes.iter().map(|node| json!({"node": node.name, "info": node.info, "lookupds": node.lookupds})).collect::<Vec<_>>(),
    }));
    let total = cluster.lookupds.len() + cluster.nodes.len();
    let mut progress = Progress::new(context.output, "daemons", Some(total as u64));
    let mut done = 0;
    for lookupd in &cluster.lookupds {
        of_lookupd(&mut bundle, lookupd).await;
        done += 1;
        progress.set(done);
    }
    for node in &cluster.nodes {
        of_node(&mut bundle, node).await;
        done += 1;
        progress.set(done);
    }
    drop(progress);
    bundle.add("errors", json!(bundle.errors));
    write(&path, &name, &bundle).map_err(|error| {
        Failure::failed(format_args!("cannot write {}: {error}", path.display()))
            .target(path.display().to_string())
    })?;
    let output = context.output;
    let names: Vec<&String> = bundle.files.iter().map(|(name, _)| name).collect();
    match output.is_json() {
        true => output.json(&json!({"file": path, "entries": names, "node_errors": bundle.errors}))?,
        false => output.text(format!(
            "wrote {} with {} files; no message bodies, no secrets\n",
            path.display(),
            names.len()
        ))?,
    }
    output.node_errors(&bundle.errors);
    Ok(verdict(total, &bundle.errors))
}

async fn of_lookupd(bundle: &mut Bundle, lookupd: &Lookupd) {
    let folder = format!("nsqlookupd-{}", file_name(&lookupd.name));
    for (file, path) in
        [("info", "/info"), ("nodes", "/nodes"), ("topics", "/topics"), ("metrics", "/metrics")]
    {
        let answer = lookupd.client.raw("GET", path, "").await;
        keep(bundle, &lookupd.name, &format!("{folder}/{file}"), answer);
    }
}

async fn of_node(bundle: &mut Bundle, node: &Node) {
    let folder = format!("nsqd-{}", file_name(&node.name));
    let query = StatsQuery { clients: true, memory: true, ..StatsQuery::default() };
    match node.client.stats(&query).await {
        Ok(stats) => bundle.add(&format!("{folder}/stats"), serde_json::to_value(stats).unwrap_or_default()),
        Err(error) => bundle.errors.push(NodeError::new(&node.name, "stats", &error)),
    }
    for (file, path) in [("info", "/info"), ("metrics", "/metrics")] {
        let answer = node.client.raw("GET", path, "").await;
        keep(bundle, &node.name, &format!("{folder}/{file}"), answer);
    }
    let mut options = serde_json::Map::new();
    let command = nsqd::flags::Flags::command();
    for option in
        command.get_arguments().filter_map(|flag| flag.get_long()).map(|long| long.replace('-', "_"))
    {
        // Only flags of nsqd that a config file may hold have a value here.
        if is_harmless(&option)
            && let Ok(value) = node.client.config(&option).await
        {
            options.insert(option, serde_json::from_str(&value).unwrap_or(Value::String(value)));
        }
    }
    bundle.add(&format!("{folder}/config"), Value::Object(options));
}

/// Adds an answer: JSON without secrets, or metrics as they are.
fn keep(
    bundle: &mut Bundle,
    node: &str,
    name: &str,
    answer: Result<nsq::admin::RawResponse, nsq::admin::AdminError>,
) {
    match answer {
        Ok(answer) if answer.status == 200 => match serde_json::from_slice(&answer.body) {
            Ok(value) => bundle.add(name, value),
            Err(_) => bundle.files.push((format!("{name}.txt"), answer.body.to_vec())),
        },
        // NSQ's daemons have no metrics.
        Ok(answer) if answer.status == 404 => {}
        Ok(answer) => bundle.errors.push(NodeError {
            node: node.to_owned(),
            op: "support-bundle",
            code: answer.status.to_string(),
            message: format!("{name}: status {}", answer.status),
        }),
        Err(error) => bundle.errors.push(NodeError::new(node, "support-bundle", &error)),
    }
}

/// An address as part of a file name.
fn file_name(address: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['.', '-'].contains(&c);
    address.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

fn write(path: &Path, folder: &str, bundle: &Bundle) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, content) in &bundle.files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("{folder}/{name}"), &content[..])?;
    }
    archive.into_inner()?.finish()?.flush()
}
