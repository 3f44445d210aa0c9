//! The commands of a publisher, encoded before the measurement starts.

use nsq_protocol::{Command, put_mpub};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::http::{put_post, topic_target};
use super::plan::{Plan, Publish};

/// Maximum bytes of encoded commands. They are sent repeatedly, so that they stay in the CPU's cache.
const CHUNK_BYTES: usize = 256 << 10;

/// Commands of equal size, one after another.
pub struct Load {
    bytes: Vec<u8>,
    command_bytes: usize,
    /// Messages per command.
    pub batch: u64,
}

impl Load {
    /// Encodes as many commands of `batch` messages as can be in flight, up to `CHUNK_BYTES`.
    pub fn new(plan: &Plan, publish: &Publish, batch: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(batch as u64);
        let mut bytes = Vec::new();
        let (mut command_bytes, mut commands) = (0, 0);
        while commands < publish.in_flight && (commands == 0 || bytes.len() + command_bytes <= CHUNK_BYTES) {
            let before = bytes.len();
            put_command(&mut bytes, plan, publish, batch, &mut rng);
            command_bytes = bytes.len() - before;
            commands += 1;
        }
        Load { bytes, command_bytes, batch: batch as u64 }
    }

    /// The bytes of `commands` commands, or of fewer if fewer are encoded, and their number.
    pub fn take(&self, commands: u64) -> (&[u8], u64) {
        let commands = commands.min((self.bytes.len() / self.command_bytes) as u64);
        (&self.bytes[..commands as usize * self.command_bytes], commands)
    }
}

fn put_command(out: &mut Vec<u8>, plan: &Plan, publish: &Publish, batch: usize, rng: &mut SmallRng) {
    let bodies: Vec<Vec<u8>> = (0..batch).map(|_| body(publish.size, rng)).collect();
    let topic = plan.topic.as_str();
    match (publish.http, &bodies[..]) {
        (false, [body]) => Command::Pub { topic, body }.encode(out),
        (false, bodies) => put_mpub(out, topic, bodies),
        (true, [body]) => put_post(out, &plan.http.host(), &topic_target("/pub", &plan.topic), body),
        (true, bodies) => {
            put_post(out, &plan.http.host(), &topic_target("/mpub", &plan.topic), &bodies.join(&b'\n'))
        }
    }
}

/// Random letters: no line ends inside a message, and compression does not remove the load.
fn body(size: usize, rng: &mut SmallRng) -> Vec<u8> {
    (0..size).map(|_| rng.random_range(b'a'..=b'z')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use nsq_protocol::{Decoded, Limits, decode};

    fn commands(line: &str) -> (Plan, Load) {
        let plan = plan(line).unwrap();
        let publish = plan.publish.clone().unwrap();
        let load = Load::new(&plan, &publish, publish.batch);
        (plan, load)
    }

    #[test]
    fn commands_can_be_decoded() {
        for (line, in_flight, batch) in
            [("pub --topic t", 100, 1), ("pub --topic t --batch 7 --in-flight 3", 3, 7)]
        {
            let (_, load) = commands(line);
            let (mut bytes, taken) = load.take(u64::MAX);
            assert_eq!(taken, in_flight);
            for _ in 0..taken {
                let Decoded::Command { command, consumed } = decode(bytes, &Limits::default()) else {
                    panic!("{line}: not a command")
                };
                let bodies: Vec<&[u8]> = match command {
                    Command::Pub { topic: "t", body } => vec![body],
                    Command::Mpub { topic: "t", messages } => messages.iter().collect(),
                    other => panic!("{line}: {other:?}"),
                };
                assert_eq!(bodies.len(), batch);
                assert!(bodies.iter().all(|body| body.len() == 200));
                bytes = &bytes[consumed..];
            }
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn http_batch_has_one_message_per_line() {
        let (_, load) = commands("pub --topic t --http --batch 3 --size 4");
        let (bytes, taken) = load.take(5);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(taken, 1);
        assert!(text.starts_with("POST /mpub?topic=t HTTP/1.1\r\n"), "{text}");
        assert_eq!(
            text.split("\r\n\r\n").nth(1).unwrap().lines().map(str::len).collect::<Vec<_>>(),
            [4, 4, 4]
        );
    }

    #[test]
    fn large_commands_are_encoded_once() {
        let (_, load) = commands("pub --size 1000000 --in-flight 50");
        assert_eq!(load.take(50).1, 1);
    }
}
