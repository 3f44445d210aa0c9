//! `nsq version`: the version of this program and, with `--server`, those of the daemons.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::cluster::{Cluster, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct VersionFlags {
    /// Also print the versions of the daemons.
    #[arg(long)]
    pub server: bool,
}

#[derive(Serialize)]
struct Row {
    program: &'static str,
    address: String,
    version: String,
}

const OWN: &str = env!("CARGO_PKG_VERSION");

/// Prints the version of this program.
pub fn own(output: Output) -> Result<ExitStatus, Failure> {
    match output.is_json() {
        true => output.json(&json!({"program": "nsq", "address": "", "version": OWN}))?,
        false => output.data(format!("nsq {OWN}\n"))?,
    }
    Ok(ExitStatus::Done)
}

/// Prints the versions of this program and of all daemons.
pub async fn with_servers(context: &Context) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let lookupds = cluster.on_lookupds("info", async |lookupd| lookupd.client.info().await).await;
    let nodes = cluster.on_nodes("info", async |node| node.client.info().await).await;
    let mut rows = vec![Row { program: "nsq", address: String::new(), version: OWN.to_owned() }];
    rows.extend(lookupds.good.into_iter().map(|(address, info)| Row {
        program: "nsqlookupd",
        address,
        version: info.version,
    }));
    rows.extend(nodes.good.into_iter().map(|(address, info)| Row {
        program: "nsqd",
        address,
        version: info.version,
    }));
    let errors: Vec<_> =
        cluster.errors.iter().chain(&lookupds.errors).chain(&nodes.errors).cloned().collect();
    let output = context.output;
    if output.is_json() {
        output.json(&json!({"versions": rows, "node_errors": errors}))?;
    } else {
        let mut table = Table::new(&["PROGRAM", "ADDRESS", "VERSION"]);
        for Row { program, address, version } in &rows {
            table.row(vec![(*program).into(), address.as_str().into(), version.as_str().into()]);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(rows.len() - 1, &errors))
}
