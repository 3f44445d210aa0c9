//! `nsq ping`: the health of daemons, for people, scripts and containers.

use futures_util::future::join_all;
use nsq::admin::{AdminError, AdminErrorKind, LookupdClient, NsqdClient};
use nsq_daemon::go_duration;
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::cluster::{NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::table::{Cell, Table};
use crate::targets::{DEFAULT_LOOKUPD, DEFAULT_NSQD, HOW_TO_SAY};

/// A daemon that was asked.
#[derive(Serialize)]
struct Row {
    program: &'static str,
    address: String,
    /// `OK`, the daemon's health text, or the error.
    health: String,
    elapsed_ms: u64,
    #[serde(skip)]
    error: Option<NodeError>,
}

/// Asks the given daemons, or else those at the default ports of this machine, of which at least one must answer.
pub async fn run(context: &Context) -> Result<ExitStatus, Failure> {
    let (targets, output) = (&context.targets, context.output);
    let (lookupds, nsqds) = match targets.are_default() {
        true => (vec![DEFAULT_LOOKUPD.to_owned()], vec![DEFAULT_NSQD.to_owned()]),
        false => (targets.lookupds.clone(), targets.nsqds.clone()),
    };
    if lookupds.is_empty() && nsqds.is_empty() {
        return Err(
            Failure::usage("this command needs HTTP, but only a TCP address is given").hint(HOW_TO_SAY)
        );
    }
    let (timeout, tls) = (targets.timeout, &targets.security.tls);
    let lookupds = join_all(lookupds.into_iter().map(async |address| {
        let client = LookupdClient::new(&address)?.timeouts(timeout, timeout).tls(tls.clone());
        Ok::<_, Failure>(ask("nsqlookupd", address, async || client.ping().await).await)
    }));
    let nsqds = join_all(nsqds.into_iter().map(async |address| {
        let client = NsqdClient::new(&address)?.timeouts(timeout, timeout).tls(tls.clone());
        Ok::<_, Failure>(ask("nsqd", address, async || client.ping().await).await)
    }));
    let (lookupds, nsqds) = tokio::join!(lookupds, nsqds);
    let mut rows = lookupds.into_iter().chain(nsqds).collect::<Result<Vec<_>, _>>()?;
    if targets.are_default() && rows.iter().any(|row| !is_absent(row)) {
        rows.retain(|row| !is_absent(row));
    }
    if output.is_json() {
        output.json(&json!({"daemons": rows}))?;
    } else {
        let mut table = Table::new(&["PROGRAM", "ADDRESS", "HEALTH", "TOOK"]);
        for row in &rows {
            let took = go_duration::format(std::time::Duration::from_millis(row.elapsed_ms));
            let cells: Vec<Cell> = vec![
                row.program.into(),
                row.address.as_str().into(),
                row.health.as_str().into(),
                took.into(),
            ];
            table.row(cells);
        }
        output.table(&table)?;
    }
    let errors: Vec<NodeError> = rows.iter().filter_map(|row| row.error.clone()).collect();
    Ok(verdict(rows.len() - errors.len(), &errors))
}

async fn ask(program: &'static str, address: String, ping: impl AsyncFn() -> Result<(), AdminError>) -> Row {
    let started = std::time::Instant::now();
    let answer = ping().await;
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let health = match &answer {
        Ok(()) => "OK".to_owned(),
        // The body of an unhealthy daemon is free text, not an error word.
        Err(AdminError { kind: AdminErrorKind::Refused { word, .. }, .. }) => word.clone(),
        Err(error) => error.kind.to_string(),
    };
    let error = answer.err().map(|error| NodeError::new(&address, "ping", &error));
    Row { program, address, health, elapsed_ms, error }
}

fn is_absent(row: &Row) -> bool {
    row.error.as_ref().is_some_and(|error| error.code == "UNREACHABLE")
}
