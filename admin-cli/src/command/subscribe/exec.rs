//! Programs that get a message: `nsq sub --exec` and `nsq tail --translate`.

use std::process::{ExitStatus, Stdio};

use nsq::Delivery;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::names::Object;

/// The exit code that requeues a message without backoff: EX_TEMPFAIL.
const TRY_AGAIN: i32 = 75;

/// What the exit code of a program says about its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Finish,
    /// Requeue without slowing down.
    TryAgain,
    /// Requeue, and slow down.
    Failed,
}

impl Verdict {
    /// The meaning of an exit status. A program that a signal ended has failed.
    pub fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Verdict::Finish,
            Some(TRY_AGAIN) => Verdict::TryAgain,
            _ => Verdict::Failed,
        }
    }
}

/// Runs a shell command with the body as its input and the message's metadata in its environment. Its output goes to ours.
/// Dropping the future kills it.
pub async fn handle(command: &str, object: &Object, message: &Delivery) -> std::io::Result<ExitStatus> {
    let mut child = start(command, object, message, Stdio::inherit())?;
    feed(&mut child, message).await;
    child.wait().await
}

/// Runs a shell command like [`handle`], and returns what it prints, without one line feed at the end.
pub async fn translate(command: &str, object: &Object, message: &Delivery) -> std::io::Result<Vec<u8>> {
    let mut child = start(command, object, message, Stdio::piped())?;
    let input = child.stdin.take();
    let body = message.body().clone();
    let write = async {
        if let Some(mut input) = input {
            // The program may end without reading its input.
            let _ = input.write_all(&body).await;
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output?;
    if !output.status.success() {
        return Err(std::io::Error::other(format!("{command} ended with {}", output.status)));
    }
    let mut text = output.stdout;
    if text.ends_with(b"\n") {
        text.pop();
    }
    Ok(text)
}

fn start(command: &str, object: &Object, message: &Delivery, stdout: Stdio) -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", command])
        .env("NSQ_TOPIC", &object.topic)
        .env("NSQ_CHANNEL", object.channel.as_deref().unwrap_or_default())
        .env("NSQ_NODE", message.node())
        .env("NSQ_ID", message.id().to_string())
        .env("NSQ_ATTEMPTS", message.attempts().to_string())
        .env("NSQ_TIMESTAMP", message.timestamp_ns().to_string())
        // The program needs no access to nsqd.
        .env_remove("NSQ_AUTH_SECRET")
        .stdin(Stdio::piped())
        .stdout(stdout)
        .kill_on_drop(true)
        .spawn()
}

async fn feed(child: &mut Child, message: &Delivery) {
    if let Some(mut input) = child.stdin.take() {
        // The program may end without reading its input.
        let _ = input.write_all(message.body()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exit_codes_decide() {
        let of = |raw| Verdict::of(ExitStatus::from_raw(raw));
        assert_eq!(
            [of(0), of(75 << 8), of(1 << 8), of(9)],
            [Verdict::Finish, Verdict::TryAgain, Verdict::Failed, Verdict::Failed]
        );
    }
}
