//! `nsq explain CODE`: what an error word means, and what to do.
//!
//! The table is compared with the sources of the daemons by a test, so that no word is missing.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::exit_status::{ExitStatus, Failure};
use crate::names::nearest;
use crate::output::Output;
use crate::table::Table;

pub const EXAMPLES: &str = "\
Examples:
  nsq explain E_FIN_FAILED
  nsq explain                  # all words
  nsq explain TOPIC_NOT_FOUND --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainFlags {
    /// Error word of the protocol, such as E_BAD_TOPIC, or of HTTP, such as TOPIC_NOT_FOUND. [default: all]
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

/// An error word.
#[derive(Debug, Clone, Copy, Serialize)]
struct Word {
    code: &'static str,
    /// Who answers with it.
    from: &'static str,
    meaning: &'static str,
    /// What to do.
    remedy: &'static str,
}

const fn word(code: &'static str, from: &'static str, meaning: &'static str, remedy: &'static str) -> Word {
    Word { code, from, meaning, remedy }
}

const TCP: &str = "nsqd, TCP";
const HTTP: &str = "nsqd, HTTP";
const BOTH: &str = "nsqd and nsqlookupd, HTTP";
const LOOKUPD: &str = "nsqlookupd, HTTP";
const TOOL: &str = "nsq, in node_errors";

const WORDS: &[Word] = &[
    word(
        "E_BAD_PROTOCOL",
        TCP,
        "The connection did not begin with the four bytes \"  V2\".",
        "Connect an NSQ client to this port; HTTP has a port of its own, by default 4151.",
    ),
    word(
        "E_INVALID",
        TCP,
        "The command is unknown, malformed, or not allowed in the state of the connection.",
        "Read the description after the word; update the client library.",
    ),
    word(
        "E_BAD_BODY",
        TCP,
        "The body of IDENTIFY, AUTH or MPUB is invalid, or a value in it is out of range.",
        "Read the description after the word; compare the settings of the client with nsqd's limits, such as --max-msg-timeout and --max-body-size.",
    ),
    word(
        "E_BAD_TOPIC",
        TCP,
        "The topic name is invalid.",
        "Use 1 to 64 characters of a-z A-Z 0-9 . _ -, and #ephemeral at the end if wanted.",
    ),
    word(
        "E_BAD_CHANNEL",
        TCP,
        "The channel name is invalid.",
        "Use 1 to 64 characters of a-z A-Z 0-9 . _ -, and #ephemeral at the end if wanted.",
    ),
    word(
        "E_BAD_MESSAGE",
        TCP,
        "A published message is empty, too large, or its size does not fit its command.",
        "Send between 1 byte and --max-msg-size bytes; start nsqd with a larger --max-msg-size to allow more.",
    ),
    word(
        "E_IDENTIFY_FAILED",
        TCP,
        "Snappy and deflate were requested together, or an upgrade of the connection failed.",
        "Request one compression; check the certificates for TLS.",
    ),
    word(
        "E_SUB_FAILED",
        TCP,
        "The channel has its maximum number of consumers, or it is being deleted.",
        "Raise --max-channel-consumers, or stop consumers; `nsq channel clients TOPIC CHANNEL` lists them.",
    ),
    word(
        "E_PUB_FAILED",
        TCP,
        "PUB could not be stored: the topic is full, nsqd drains or stops, or the disk failed.",
        "Read the description: \"topic full\" needs consumers (`nsq stat TOPIC`), \"exiting\" another node; the log of nsqd tells of disk errors.",
    ),
    word(
        "E_MPUB_FAILED",
        TCP,
        "MPUB could not be stored: the topic is full, nsqd drains or stops, or the disk failed.",
        "As for E_PUB_FAILED. No message of the batch is stored.",
    ),
    word(
        "E_DPUB_FAILED",
        TCP,
        "DPUB could not be stored: the topic is full, nsqd drains or stops, or the disk failed.",
        "As for E_PUB_FAILED.",
    ),
    word(
        "E_AUTH_DISABLED",
        TCP,
        "The client sent AUTH, but nsqd has no authorization.",
        "Remove the secret from the client, or start nsqd with --auth-file or --auth-http-address.",
    ),
    word(
        "E_AUTH_FAILED",
        TCP,
        "No auth server gave a usable answer, or the secret is unknown or has expired.",
        "Check the secret; the log of nsqd names the auth server and its answer.",
    ),
    word(
        "E_AUTH_FIRST",
        TCP,
        "nsqd requires a secret, and the client sent a command before AUTH.",
        "Give the client a secret: --auth-secret-file FILE, or auth_secret in a library.",
    ),
    word(
        "E_UNAUTHORIZED",
        TCP,
        "The secret does not permit this command on this topic and channel.",
        "Change the authorizations of its identity: see `nsq auth token` and the auth server.",
    ),
    word("E_AUTH_ERROR", TCP, "The reply to AUTH could not be sent.", "Connect again; the network failed."),
    word(
        "E_FIN_FAILED",
        TCP,
        "FIN of a message that is not in flight to this connection: it timed out, or was answered before.",
        "Work faster, send TOUCH, or use a longer msg_timeout. The message is delivered again, so the work must bear repetition.",
    ),
    word(
        "E_REQ_FAILED",
        TCP,
        "REQ of a message that is not in flight to this connection: it timed out, or was answered before.",
        "Nothing: nsqd has requeued the message already.",
    ),
    word(
        "E_TOUCH_FAILED",
        TCP,
        "TOUCH of a message that is not in flight to this connection: it timed out, or was answered before.",
        "Send TOUCH earlier, or use a longer msg_timeout.",
    ),
    word(
        "E_REJ_FAILED",
        TCP,
        "REJ of a message that is not in flight to this connection, or that cannot become a dead letter.",
        "Requeue the message instead; `nsq policy explain TOPIC/CHANNEL` shows the dead-letter settings.",
    ),
    word(
        "TOPIC_NOT_FOUND",
        BOTH,
        "There is no such topic here.",
        "Check the name with `nsq topic list`. The first publish creates a topic.",
    ),
    word(
        "CHANNEL_NOT_FOUND",
        BOTH,
        "There is no such channel of the topic here.",
        "Check the name with `nsq channel list TOPIC`. The first consumer creates a channel.",
    ),
    word("MISSING_ARG_TOPIC", BOTH, "The parameter topic is missing.", "Add topic=NAME to the query."),
    word("MISSING_ARG_CHANNEL", BOTH, "The parameter channel is missing.", "Add channel=NAME to the query."),
    word(
        "INVALID_ARG_TOPIC",
        BOTH,
        "The parameter topic is no valid name.",
        "Use 1 to 64 characters of a-z A-Z 0-9 . _ -, and #ephemeral at the end if wanted.",
    ),
    word(
        "INVALID_ARG_CHANNEL",
        BOTH,
        "The parameter channel is no valid name.",
        "Use 1 to 64 characters of a-z A-Z 0-9 . _ -, and #ephemeral at the end if wanted.",
    ),
    word(
        "INVALID_TOPIC",
        HTTP,
        "The topic name is invalid.",
        "Use 1 to 64 characters of a-z A-Z 0-9 . _ -, and #ephemeral at the end if wanted.",
    ),
    word(
        "INVALID_CHANNEL",
        HTTP,
        "The channel name is invalid.",
        "Use 1 to 64 characters of a-z A-Z 0-9 . _ -, and #ephemeral at the end if wanted.",
    ),
    word(
        "INVALID_REQUEST",
        BOTH,
        "The query string or the body cannot be read.",
        "Encode the query as in URLs; send a body of the length in Content-Length.",
    ),
    word(
        "NOT_FOUND",
        BOTH,
        "There is no such path.",
        "Check the path. NSQ's own daemons lack the paths that only nsq-rs has.",
    ),
    word(
        "METHOD_NOT_ALLOWED",
        BOTH,
        "The path exists, but not for this method.",
        "Changes need POST; the header Allow of the response names the methods.",
    ),
    word(
        "INTERNAL_ERROR",
        BOTH,
        "The daemon has a fault, or its disk failed.",
        "Read the log of the daemon; report a fault with it.",
    ),
    word("BUSY", BOTH, "Too much expensive work is in progress.", "Repeat the request after a second."),
    word(
        "TOO_MANY_REQUESTS",
        BOTH,
        "There is no room for the request now: a topic is full, or requests come too fast.",
        "Repeat the request after the seconds of the header Retry-After.",
    ),
    word(
        "EXITING",
        HTTP,
        "nsqd drains or stops, and refuses publishes.",
        "Publish to another node. `nsq node list` shows which nodes drain.",
    ),
    word(
        "TLS_REQUIRED",
        HTTP,
        "nsqd answers plain HTTP with an error because it runs with --tls-required.",
        "Use https:// and the TLS flags, such as --tls-ca FILE.",
    ),
    word(
        "FORBIDDEN",
        HTTP,
        "The secret does not permit this request.",
        "Use a token with the permission that docs/AUTH.md lists for the path.",
    ),
    word(
        "UNAUTHORIZED",
        HTTP,
        "nsqd requires a secret for this request, and the one sent is missing or unknown.",
        "Use --auth-secret-file FILE, or the header Authorization: Bearer SECRET.",
    ),
    word(
        "AUTH_UNAVAILABLE",
        HTTP,
        "No auth server gave a usable answer.",
        "Check the auth server; the log of nsqd names its answer.",
    ),
    word(
        "CROSS_SITE_REQUEST",
        HTTP,
        "A browser sent the request for a page of another site.",
        "Allow the site with --http-allowed-origin, or do not send the request from a browser.",
    ),
    word(
        "BODY_TOO_BIG",
        HTTP,
        "The body exceeds --max-body-size.",
        "Send fewer messages at once, or start nsqd with a larger --max-body-size.",
    ),
    word(
        "MSG_TOO_BIG",
        HTTP,
        "A message exceeds --max-msg-size.",
        "Send smaller messages, or start nsqd with a larger --max-msg-size.",
    ),
    word(
        "TOPIC_FULL",
        HTTP,
        "A channel or the topic holds as much as its settings allow, so publishes are refused.",
        "Add consumers, or raise the limit: `nsq stat TOPIC` shows the full channel, `nsq policy explain TOPIC/CHANNEL` its settings.",
    ),
    word("MSG_EMPTY", HTTP, "The message is empty.", "Send at least one byte: NSQ has no empty messages."),
    word(
        "BAD_MESSAGE",
        HTTP,
        "The body of /mpub is malformed, or a message in it is too large.",
        "Send one message per line, or use binary=true with sizes before the messages.",
    ),
    word(
        "BAD_BODY",
        HTTP,
        "The body of a binary /mpub is malformed.",
        "Send the number of messages, then the size and bytes of each, in big endian.",
    ),
    word(
        "INVALID_DEFER",
        HTTP,
        "The parameter defer is out of range.",
        "Use milliseconds from 0 to --max-req-timeout.",
    ),
    word("INVALID_RETURN", HTTP, "The parameter return is unknown.", "Use return=id, or leave it out."),
    word(
        "INVALID_HEADER",
        HTTP,
        "A header of the message is invalid.",
        "Read the text after the word: it names the header and the rule.",
    ),
    word(
        "INVALID_OPTION",
        HTTP,
        "There is no such option, or it cannot be changed while nsqd runs.",
        "`nsq api GET /config/NAME` reads one; log_level and nsqlookupd_tcp_addresses can be changed.",
    ),
    word(
        "INVALID_VALUE",
        HTTP,
        "The value of the option is invalid.",
        "log_level takes debug, info, warn, error or fatal; nsqlookupd_tcp_addresses a JSON list.",
    ),
    word(
        "INVALID_SETTING",
        HTTP,
        "A setting of a topic or channel is unknown, or its value is invalid.",
        "Read the text after the word; `nsq policy explain TOPIC` shows the settings.",
    ),
    word(
        "INVALID_ARG_ACK",
        HTTP,
        "The parameter ack is invalid.",
        "Read the text after the word: it names the words that are allowed.",
    ),
    word("INVALID_ARG_BYTES", HTTP, "The parameter bytes is invalid.", "Use a number of bytes."),
    word(
        "INVALID_ARG_CLIENT_ID",
        HTTP,
        "The parameter client_id is too short or too long.",
        "Read the text after the word: it names the limit.",
    ),
    word(
        "INVALID_ARG_DELAY",
        HTTP,
        "The parameter delay is invalid.",
        "Use a duration such as 30s or 5m, within --max-req-timeout.",
    ),
    word(
        "INVALID_ARG_DRY_RUN",
        HTTP,
        "The parameter dry_run is invalid.",
        "Use dry_run=true or dry_run=false.",
    ),
    word(
        "INVALID_ARG_FILTER",
        HTTP,
        "The parameter filter is invalid.",
        "Use conditions such as tenant=a*,kind!=test.",
    ),
    word("INVALID_ARG_FOR", HTTP, "The parameter for is invalid.", "Use a duration such as 24h."),
    word(
        "INVALID_ARG_FROM",
        HTTP,
        "The parameter from is invalid.",
        "Read the text after the word: it names the forms that are allowed.",
    ),
    word(
        "INVALID_ARG_HEADER",
        HTTP,
        "The parameter header is invalid.",
        "Use a condition such as header=tenant=a*.",
    ),
    word(
        "INVALID_ARG_ID",
        HTTP,
        "The parameter id is no message id.",
        "Use the 16 hexadecimal digits that nsq peek shows.",
    ),
    word(
        "INVALID_ARG_MATCH",
        HTTP,
        "The parameter match is no valid regular expression.",
        "Read the text after the word: it says what is wrong.",
    ),
    word(
        "INVALID_ARG_PARTIAL",
        HTTP,
        "The parameter partial is invalid.",
        "Use partial=true or partial=false.",
    ),
    word(
        "INVALID_ARG_RIGHTS",
        HTTP,
        "The parameter rights is invalid.",
        "Read the text after the word: it names the words that are allowed.",
    ),
    word(
        "INVALID_ARG_START",
        HTTP,
        "The parameter start is invalid.",
        "Use earliest, latest, a duration such as 15m, a time, or id:ID.",
    ),
    word(
        "INVALID_ARG_STATE",
        HTTP,
        "The parameter state is invalid.",
        "Read the text after the word: it names the states.",
    ),
    word(
        "INVALID_ARG_TIMEOUT",
        HTTP,
        "The parameter timeout is invalid.",
        "Use a duration such as 90s or 5m.",
    ),
    word(
        "INVALID_ARG_TO",
        HTTP,
        "The parameter to is invalid.",
        "For a seek: earliest, latest, a duration such as 15m, a time, or id:ID. For a redrive: TOPIC/CHANNEL.",
    ),
    word(
        "UNKNOWN_ARG",
        HTTP,
        "A parameter of the query is unknown.",
        "Read the text after the word: it lists the parameters.",
    ),
    word("MISSING_ARG_DELAY", HTTP, "The parameter delay is missing.", "Add delay=DURATION to the query."),
    word("MISSING_ARG_FOR", HTTP, "The parameter for is missing.", "Add for=DURATION to the query."),
    word(
        "MISSING_ARG_ID",
        HTTP,
        "The parameter id is missing.",
        "Add id=ID to the query, with the 16 hexadecimal digits that nsq peek shows.",
    ),
    word(
        "MISSING_ARG_NODE",
        LOOKUPD,
        "The parameter node is missing.",
        "Add node=ADDRESS:HTTP_PORT to the query.",
    ),
    word("MISSING_ARG_TO", HTTP, "The parameter to is missing.", "Add to=PLACE to the query."),
    word(
        "EPHEMERAL_TOPIC",
        HTTP,
        "An ephemeral topic keeps no finished messages.",
        "Use a topic without #ephemeral.",
    ),
    word(
        "NOTHING_RETAINED",
        HTTP,
        "The topic retains no messages, so there is no place in the past.",
        "Set retention first: nsq topic retain TOPIC --for 24h.",
    ),
    word(
        "NO_LONGER_RETAINED",
        HTTP,
        "Some messages to bring back are retained no more.",
        "`nsq undo TOPIC/CHANNEL --partial` brings back the rest.",
    ),
    word(
        "NOTHING_TO_UNDO",
        HTTP,
        "No empty or seek forward can be undone.",
        "Only the last one can be undone, and only of a topic with retention.",
    ),
    word(
        "UNKNOWN_MESSAGE_ID",
        HTTP,
        "No retained message has this id.",
        "`nsq peek TOPIC --state retained` shows the messages.",
    ),
    word(
        "TOO_MANY_RANGES",
        HTTP,
        "The channel would have too many separate ranges of messages to bring back.",
        "Let consumers finish some messages, and repeat the request.",
    ),
    word(
        "MESSAGE_NOT_FOUND",
        HTTP,
        "The channel has no unfinished message with this id.",
        "It was finished, or the id belongs to another node. `nsq why TOPIC/CHANNEL ID` looks for it.",
    ),
    word("MESSAGE_IN_FLIGHT", HTTP, "A consumer has the message.", "Wait until it is answered or times out."),
    word(
        "MESSAGE_HELD",
        HTTP,
        "The message cannot be delivered now because the topic is paused.",
        "`nsq topic unpause TOPIC`.",
    ),
    word(
        "MESSAGE_LEAVING",
        HTTP,
        "The message is being moved to the dead-letter topic.",
        "Look for it there: `nsq dead show TOPIC.dead`.",
    ),
    word(
        "NO_ROOM",
        HTTP,
        "The channel cannot hold more separate messages.",
        "Let consumers finish some messages, and repeat the request.",
    ),
    word(
        "NO_DEAD_LETTERS",
        HTTP,
        "The topic holds no dead letters.",
        "`nsq dead ls` lists the topics that do.",
    ),
    word("REDRIVE_NOT_FOUND", HTTP, "No redrive runs for the topic.", "Start one: nsq dead redrive TOPIC."),
    word(
        "REDRIVE_RUNNING",
        HTTP,
        "A redrive already runs for the topic.",
        "Wait for it, or stop it: nsq dead stop TOPIC.",
    ),
    word(
        "INVALID_BODY",
        HTTP,
        "The body of a request with leases is malformed.",
        "Send one lease per line, or JSON as docs/HTTP_CONSUMERS.md describes.",
    ),
    word("INVALID_DURATION", HTTP, "A duration is invalid.", "Use a duration such as 30s or 5m."),
    word(
        "INVALID_LEASE",
        HTTP,
        "The lease does not come from this nsqd, or nsqd has restarted since.",
        "Take the messages again; those of old leases are delivered again.",
    ),
    word(
        "LEASE_EXPIRED",
        HTTP,
        "The message timed out, or was answered before.",
        "Answer sooner, or extend the lease with /touch.",
    ),
    word(
        "MISSING_LEASE",
        HTTP,
        "The request names no lease.",
        "Add lease=LEASE to the query, or send leases in the body.",
    ),
    word(
        "OTHER_CHANNEL",
        HTTP,
        "The lease belongs to another channel.",
        "Use the topic and channel from which the message was taken.",
    ),
    word(
        "TOO_MANY_LEASES",
        HTTP,
        "The request, or the channel, has too many leases.",
        "Answer messages before taking more; send fewer leases at once.",
    ),
    word(
        "TOO_MANY_CONSUMERS",
        HTTP,
        "The channel has its maximum number of consumers.",
        "Raise --max-channel-consumers, or stop consumers.",
    ),
    word(
        "TOO_MANY_HTTP_CONSUMERS",
        HTTP,
        "nsqd serves its maximum number of consumers over HTTP.",
        "Raise the limit that the text names, or connect to another node.",
    ),
    word(
        "TOO_MANY_TICKETS",
        HTTP,
        "Too many tickets are unused.",
        "Use tickets soon after they are issued; they expire by themselves.",
    ),
    word(
        "INVALID_SUBPROTOCOL",
        HTTP,
        "The WebSocket client offers no subprotocol that nsqd knows.",
        "Offer the subprotocol that docs/HTTP_CONSUMERS.md names.",
    ),
    word(
        "INVALID_WEBSOCKET_KEY",
        HTTP,
        "The header Sec-WebSocket-Key is missing or invalid.",
        "Use a WebSocket client.",
    ),
    word(
        "UPGRADE_REQUIRED",
        HTTP,
        "The path is a WebSocket.",
        "Use a WebSocket client, or one of the other ways in docs/HTTP_CONSUMERS.md.",
    ),
    word(
        "SAME_NODE",
        HTTP,
        "The target of the move is the node that drains.",
        "Give another node to `nsq node drain --to` or --drain-to.",
    ),
    word(
        "EPHEMERAL",
        HTTP,
        "Messages of ephemeral topics and channels do not move to another node.",
        "Wait until consumers have finished them, or accept their loss.",
    ),
    word(
        "BAD_BATCH",
        HTTP,
        "The messages that another nsqd moves here cannot be read.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "MISSING_ARG_TRANSFER",
        HTTP,
        "The request that moves messages here has no parameter transfer.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "INVALID_ARG_TRANSFER",
        HTTP,
        "The parameter transfer of the request that moves messages here is invalid.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "MISSING_ARG_SESSION",
        HTTP,
        "The request that moves messages here has no parameter session.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "INVALID_ARG_SESSION",
        HTTP,
        "The parameter session of the request that moves messages here is invalid.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "MISSING_ARG_PHASE",
        HTTP,
        "The request that moves messages here has no parameter phase.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "INVALID_ARG_PHASE",
        HTTP,
        "The parameter phase of the request that moves messages here is invalid.",
        "Only a draining nsqd sends these requests: let both nodes run the same version.",
    ),
    word(
        "UNREACHABLE",
        TOOL,
        "The connection could not be opened, or it broke.",
        "Check that the daemon runs and the address is right: `nsq ping`.",
    ),
    word(
        "TIMEOUT",
        TOOL,
        "The daemon did not answer in time.",
        "Use a longer --timeout; the daemon may be overloaded or frozen.",
    ),
    word(
        "UNEXPECTED",
        TOOL,
        "The answer could not be understood.",
        "Check that the address belongs to an nsqd or nsqlookupd, and not to another server.",
    ),
];

/// Prints one word, or all.
pub fn run(flags: &ExplainFlags, output: Output) -> Result<ExitStatus, Failure> {
    let Some(code) = &flags.code else {
        if output.is_json() {
            output.json(&json!({"words": WORDS}))?;
        } else {
            let mut table = Table::new(&["CODE", "FROM", "MEANING"]);
            for word in WORDS {
                table.row(vec![word.code.into(), word.from.into(), word.meaning.into()]);
            }
            output.table(&table)?;
        }
        return Ok(ExitStatus::Done);
    };
    // A whole error line may be pasted.
    let typed = code.split([':', ' ']).next().unwrap_or(code).to_uppercase();
    let Some(word) = WORDS.iter().find(|word| word.code == typed) else {
        let failure =
            Failure::new(ExitStatus::NotFound, format_args!("{typed} is no error word that nsq knows"))
                .target(typed.clone());
        return Err(match nearest(&typed, WORDS.iter().map(|word| word.code)) {
            Some(near) => failure.hint(format!("did you mean {near}?")),
            None => failure.hint("`nsq explain` lists all words"),
        });
    };
    if output.is_json() {
        output.json(word)?;
    } else {
        let Word { code, from, meaning, remedy } = word;
        output.text(format!("{code} ({from})\n\n  {meaning}\n\n  What to do: {remedy}\n"))?;
    }
    Ok(ExitStatus::Done)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use regex::Regex;

    use super::*;

    /// The code of all files of a folder, without comments and tests.
    fn sources(folder: &str) -> String {
        fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).expect("the folder is readable").flatten() {
                match entry.path() {
                    path if path.is_dir() => collect(&path, files),
                    path => files.push(path),
                }
            }
        }
        let mut files = Vec::new();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        if path.is_dir() {
            collect(&path, &mut files)
        } else {
            files.push(path)
        }
        let is_code = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".rs") && !name.contains("test")
        };
        let mut code = String::new();
        for path in files.into_iter().filter(is_code) {
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            for line in text.lines() {
                code += line.split("//").next().unwrap_or_default();
                code.push('\n');
            }
        }
        code
    }

    /// The first words of string literals that look like error words, and those of errors of one word.
    fn words(code: &str) -> BTreeSet<String> {
        let several = Regex::new(r#""((?:E_)?[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?-u:\b)"#).unwrap();
        let single =
            Regex::new(r#"(?:bad_request|not_found|unavailable|HttpError::new\([^"]{0,60})\(?[ \n]*"([A-Z]{3,}(?:_[A-Z]+)*)(?-u:\b)"#).unwrap();
        let found = several.captures_iter(code).chain(single.captures_iter(code));
        found.map(|captures| captures[1].to_owned()).collect()
    }

    #[test]
    fn every_error_word_of_the_daemons_is_explained() {
        const OTHER: [&str; 2] = ["CARGO_PKG_VERSION", "CARGO_MANIFEST_DIR"];
        let folders = ["protocol/src/error.rs", "nsqd/src/http", "lookupd/src/http.rs", "daemon/src/http"];
        let used: BTreeSet<String> = folders.iter().flat_map(|folder| words(&sources(folder))).collect();
        assert!(used.contains("E_FIN_FAILED") && used.contains("FORBIDDEN") && used.len() > 80, "{used:?}");
        let known: BTreeSet<&str> = WORDS.iter().map(|word| word.code).collect();
        let missing: Vec<&String> = used
            .iter()
            .filter(|word| !known.contains(word.as_str()) && !OTHER.contains(&word.as_str()))
            .collect();
        assert!(missing.is_empty(), "words without an explanation: {missing:?}");
    }

    #[test]
    fn every_explained_word_exists() {
        let folders = [
            "protocol/src",
            "nsqd/src",
            "lookupd/src",
            "daemon/src",
            "client/src/admin.rs",
            "admin-cli/src/cluster",
            "admin-cli/cluster",
        ];
        let exists = |folder: &&&str| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).exists();
        let code: String = folders.iter().filter(exists).map(|folder| sources(folder)).collect();
        let unused: Vec<&str> = WORDS
            .iter()
            .map(|word| word.code)
            .filter(|word| !code.contains(&format!("\"{word}")) && !code.contains(&format!("{word}\\\"")))
            .collect();
        assert!(unused.is_empty(), "words that no daemon uses: {unused:?}");
        let codes: BTreeSet<&str> = WORDS.iter().map(|word| word.code).collect();
        assert_eq!(codes.len(), WORDS.len(), "each word is explained once");
    }
}
