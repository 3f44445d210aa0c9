//! `nsq api METHOD PATH`: any HTTP request to a node or an nsqlookupd, with the addresses, TLS and secret of the command
//! line or the profile.

use std::io::Read;

use clap::Args;
use nsq::admin::{AdminError, RawResponse};
use serde_json::{Value, json};

use super::Context;
use super::node::named;
use crate::cluster::{Answers, Cluster, Lookupd, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};

pub const EXAMPLES: &str = "\
Examples:
  nsq api GET /stats?format=json
  nsq api GET '/lookup?topic=orders' --at-lookupd
  nsq api POST '/pub?topic=orders' --data hello
  nsq api GET /info --all --jq '.answers[] | [.node, .body.version] | @tsv'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ApiFlags {
    /// GET, POST, PUT or DELETE.
    #[arg(value_name = "METHOD", value_parser = parse_method)]
    method: String,
    /// Path, with its query.
    #[arg(value_name = "PATH", value_parser = parse_path)]
    path: String,
    /// Body; @FILE reads a file, @- reads stdin.
    #[arg(long, short, value_name = "BODY", default_value = "", hide_default_value = true)]
    data: String,
    /// Ask an nsqlookupd, not an nsqd.
    #[arg(long)]
    at_lookupd: bool,
    /// Only this nsqd or nsqlookupd. [default: the first that is known]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "all")]
    node: Option<String>,
    /// Ask all of them.
    #[arg(long)]
    all: bool,
}

fn parse_method(text: &str) -> Result<String, String> {
    let method = text.to_uppercase();
    match ["GET", "POST", "PUT", "DELETE", "HEAD"].contains(&method.as_str()) {
        true => Ok(method),
        false => Err("expected GET, HEAD, POST, PUT or DELETE".to_owned()),
    }
}

fn parse_path(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_graphic();
    match text.starts_with('/') && text.chars().all(is_fine) {
        true => Ok(text.to_owned()),
        false => {
            Err("expected a path such as /stats?format=json, with other characters encoded as in URLs"
                .to_owned())
        }
    }
}

/// Sends the request, and prints the body of the answer; with `--json` or several daemons, a document with all answers.
pub async fn run(context: &Context, flags: &ApiFlags) -> Result<ExitStatus, Failure> {
    let body = body(&flags.data)?;
    let cluster = Cluster::find(&context.targets).await?;
    let ask_node = async |node: &Node| node.client.raw(&flags.method, &flags.path, body.clone()).await;
    let ask_lookupd =
        async |lookupd: &Lookupd| lookupd.client.raw(&flags.method, &flags.path, body.clone()).await;
    let one = |name: &str, answer: Result<RawResponse, AdminError>| {
        Answers::collect("api", [(name.to_owned(), answer)])
    };
    let none = |what: &str| Failure::new(ExitStatus::Unreachable, format_args!("no {what} is known"));
    let answers = match (flags.at_lookupd, flags.all) {
        (true, true) => cluster.on_lookupds("api", ask_lookupd).await,
        (false, true) => cluster.on_nodes("api", ask_node).await,
        (true, false) => {
            let is_wanted = |lookupd: &&Lookupd| flags.node.as_ref().is_none_or(|name| lookupd.name == *name);
            let lookupd = cluster.lookupds.iter().find(is_wanted).ok_or_else(|| none("such nsqlookupd"))?;
            one(&lookupd.name, ask_lookupd(lookupd).await)
        }
        (false, false) => {
            let node = match &flags.node {
                Some(name) => named(&cluster, name)?,
                None => cluster.nodes.first().ok_or_else(|| none("nsqd"))?,
            };
            one(&node.name, ask_node(node).await)
        }
    };
    let mut errors: Vec<NodeError> = answers.errors.clone();
    let output = context.output;
    let is_good = |answer: &RawResponse| answer.status < 400;
    if output.is_json() && !flags.all {
        // The document of the daemon itself, so that --jq and fields work on it.
        if let Some((_, answer)) = answers.good.first() {
            output.json(&parsed(answer))?;
        }
    } else if output.is_json() || flags.all {
        let rows = answers
            .good
            .iter()
            .map(|(node, answer)| json!({"node": node, "status": answer.status, "body": parsed(answer)}));
        output.json(&json!({"answers": rows.collect::<Vec<_>>(), "node_errors": errors}))?;
    } else if let Some((_, answer)) = answers.good.first() {
        output.data(&answer.body)?;
        if output.is_terminal() && !answer.body.ends_with(b"\n") {
            output.data("\n")?;
        }
    }
    for (node, answer) in answers.good.iter().filter(|(_, answer)| !is_good(answer)) {
        let word = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).trim().to_owned();
        let code = parsed(answer)
            .get("message")
            .and_then(Value::as_str)
            .map_or_else(|| answer.status.to_string(), str::to_owned);
        errors.push(NodeError {
            node: node.clone(),
            op: "api",
            code,
            message: format!("status {}: {word}", answer.status),
        });
    }
    let done = answers.good.iter().filter(|(_, answer)| is_good(answer)).count();
    if flags.all && output.is_json() {
        output.node_errors(&answers.errors);
    } else {
        for error in &errors {
            output.warning(&format!("! {error}"));
        }
    }
    if done == 0 && errors.iter().all(|error| error.code.ends_with("NOT_FOUND")) && !errors.is_empty() {
        return Ok(ExitStatus::NotFound);
    }
    Ok(verdict(done, &errors))
}

fn parsed(answer: &RawResponse) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&answer.body).into_owned()))
}

fn body(data: &str) -> Result<Vec<u8>, Failure> {
    let Some(path) = data.strip_prefix('@') else { return Ok(data.as_bytes().to_vec()) };
    let read = match path {
        "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        }
        path => std::fs::read(path),
    };
    read.map_err(|error| Failure::failed(format_args!("cannot read {path}: {error}")).target(path))
}
