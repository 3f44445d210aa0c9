//! nsqd's decoder of commands.

use nsq_fuzz::edit::{Input, split};
use nsq_fuzz::{BYTE_RUNS, fuzz};
use nsq_protocol::headers::{HeadersBuf, split_published};
use nsq_protocol::{
    ChannelName, Checked, Command, Decoded, Limits, MessageBatch, MessageId, ProtocolError, TopicName, Verb,
    command_name, decode, decode_from, mpub_topic, put_mpub, truncated,
};

/// Small, so that the fuzzer reaches them.
fn limits() -> Limits {
    Limits { max_msg_size: 64, max_body_size: 200, max_line_bytes: 100, ..Limits::default() }
}

const MESSAGE_WITH_HEADERS: &[u8] = b"\0\x17{\"nsq-key\":\"a\", \"b\":\"\"}x";

fn samples() -> Vec<Vec<u8>> {
    let id = MessageId::from_u64(0x18a1_d534_83a6_9000);
    let topic = TopicName::new("orders").expect("valid");
    let channel = ChannelName::new("billing#ephemeral").expect("valid");
    let commands = [
        Command::Identify { body: br#"{"client_id":"c","heartbeat_interval":1000}"# },
        Command::Auth { secret: b"secret" },
        Command::Sub { topic, channel },
        Command::Pub { topic: "orders", body: b"one" },
        Command::Dpub { topic: "orders", delay_ms: 700, body: b"later" },
        Command::PubExt { topic: "orders", message: MESSAGE_WITH_HEADERS },
        Command::DpubExt { topic: "orders", delay_ms: 700, message: b"\0\x02{}later" },
        Command::Rdy { count: 2500 },
        Command::Fin { id },
        Command::Req { id, delay_ms: 5 },
        Command::Rej { id, reason: "no such tenant" },
        Command::Touch { id },
        Command::Cls,
        Command::Nop,
    ];
    let mut samples: Vec<Vec<u8>> = commands.iter().map(encoded).collect();
    let mut mpub = Vec::new();
    put_mpub(&mut mpub, "orders", &["one", "two", "three"]);
    samples.push(mpub);
    let mut batch = Vec::new();
    MessageBatch::encode_bodies(&[MESSAGE_WITH_HEADERS, b"\0\x02{}x"], &mut batch);
    let (messages, _) = MessageBatch::parse_binary(&batch, &limits()).expect("valid");
    samples.push(encoded(&Command::MpubExt { topic: "orders", messages }));
    samples.push(b"RDY\r\nREQ 0123456789abcdef 99999999999999999999\r\nPUB  x\nFIN 1\n\n".to_vec());
    samples
}

fn encoded(command: &Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    command.encode(&mut out);
    out
}

/// What the decoder returned for a part of the input.
#[derive(Debug, PartialEq)]
enum Seen {
    Command(String, usize),
    Invalid(Option<Verb>, ProtocolError, usize),
    LineTooLong,
}

/// A connection's input: decodes as far as bytes have arrived.
#[derive(Debug, Default, PartialEq)]
struct Connection {
    seen: Vec<Seen>,
    /// Where the next command starts.
    at: usize,
    /// What the decoder asked to remember about the incomplete command.
    checked: Checked,
    /// With fewer bytes the next command must stay incomplete.
    needed: usize,
}

impl Connection {
    /// Decodes what follows once `received` has arrived.
    fn receive(&mut self, received: &[u8]) {
        let limits = limits();
        while self.seen.last() != Some(&Seen::LineTooLong) {
            let buf = &received[self.at..];
            let (seen, consumed) = match decode_from(buf, self.checked, &limits) {
                Decoded::Incomplete { verb, needed, claimed, checked } => {
                    assert!(needed > buf.len() && claimed >= needed, "{needed} of {claimed}");
                    let most = limits.max_line_bytes + 8 + limits.max_batch_bytes();
                    assert!(claimed <= most, "an unfinished command may claim {claimed} bytes");
                    assert_eq!(verb.is_some(), command_name(buf, &limits).is_some());
                    (self.checked, self.needed) = (checked, self.at + needed);
                    return;
                }
                Decoded::Command { command, consumed } => {
                    check_command(&command);
                    (Seen::Command(format!("{command:?}"), consumed), consumed)
                }
                Decoded::Invalid { verb, error, consumed } => {
                    (Seen::Invalid(verb, error, consumed), consumed)
                }
                Decoded::LineTooLong => (Seen::LineTooLong, 0),
            };
            assert!(received.len() >= self.needed, "decided with {} of {}", received.len(), self.needed);
            assert!(consumed <= buf.len(), "consumed {consumed} of {}", buf.len());
            assert!(consumed > 0 || seen == Seen::LineTooLong, "no progress at {}", self.at);
            (self.checked, self.needed) = (Checked::default(), 0);
            self.at += consumed;
            self.seen.push(seen);
        }
    }
}

/// A decoded command is within the limits, and its wire form decodes to the same command.
fn check_command(command: &Command<'_>) {
    let limits = limits();
    match command {
        Command::Pub { body, .. } | Command::Dpub { body, .. } => {
            assert!((1..=limits.max_msg_size).contains(&body.len()));
        }
        Command::PubExt { message, .. } | Command::DpubExt { message, .. } => check_message(message),
        Command::MpubExt { messages, .. } => {
            check_batch(messages);
            messages.iter().for_each(check_message);
        }
        Command::Mpub { messages, .. } => check_batch(messages),
        Command::Rdy { count } => assert!(*count <= limits.max_rdy_count),
        // Such an id cannot be encoded, and nsqd assigns none.
        Command::Fin { id } | Command::Touch { id } | Command::Req { id, .. } | Command::Rej { id, .. }
            if id.as_bytes().contains(&b'\r') =>
        {
            return;
        }
        _ => {}
    }
    let wire = encoded(command);
    // The length before a batch does not delimit it, so a batch may be larger than the length may say.
    let roomy = Limits { max_body_size: 1 << 20, ..limits };
    let again = decode(&wire, &roomy);
    assert_eq!(again, Decoded::Command { command: command.clone(), consumed: wire.len() });
}

/// A message with headers has a body, and headers that can be written again.
fn check_message(message: &[u8]) {
    assert!(message.len() <= limits().max_msg_size);
    let (headers, body) = split_published(message).expect("checked");
    assert!(!body.is_empty());
    let pairs: Vec<_> = headers.iter().collect();
    let again =
        HeadersBuf::from_pairs(pairs.iter().map(|(key, value)| (&**key, &**value))).expect("not longer");
    assert_eq!(again.as_headers().iter().collect::<Vec<_>>(), pairs);
}

fn check_batch(messages: &MessageBatch<'_>) {
    let bodies: Vec<&[u8]> = messages.iter().collect();
    assert_eq!(bodies.len(), messages.len());
    assert!(!bodies.is_empty());
    assert_eq!(bodies.iter().map(|body| body.len()).sum::<usize>(), messages.body_bytes());
    assert!(bodies.iter().all(|body| (1..=limits().max_msg_size).contains(&body.len())));
    assert!(4 + 4 * bodies.len() + messages.body_bytes() <= limits().max_batch_bytes());
}

fn check_input(bytes: &[u8], at: u16) {
    let mut whole = Connection::default();
    whole.receive(bytes);
    let mut in_pieces = Connection::default();
    in_pieces.receive(split(bytes, at).0);
    in_pieces.receive(bytes);
    assert_eq!(in_pieces.seen, whole.seen);
    assert_eq!(in_pieces.at, whole.at);

    let rest = &bytes[whole.at..];
    if truncated(rest, &limits()).is_some() {
        assert!(matches!(decode(rest, &limits()), Decoded::Incomplete { verb: Some(_), .. }));
    }
    if let Some(topic) = mpub_topic(bytes, &limits()) {
        assert!(TopicName::new(topic).is_ok());
    }
}

/// The decoder takes no more bytes than there are, stays within its limits, and does not depend on how the bytes arrive.
#[test]
fn nsqd_commands() {
    let samples = samples();
    for sample in &samples {
        (0..=sample.len()).for_each(|at| check_input(sample, at as u16));
    }
    fuzz!((Input, u16), BYTE_RUNS, |(input, at)| {
        check_input(&input.bytes(&samples), *at);
    });
}

/// The same for the body of MPUB alone, which also arrives over HTTP.
#[test]
fn mpub_bodies() {
    let mut sample = Vec::new();
    MessageBatch::encode_bodies(&["one", "two", "three and a half"], &mut sample);
    let samples = [sample];
    fuzz!((Input, u16), BYTE_RUNS, |(input, at)| {
        let bytes = input.bytes(&samples);
        let whole = MessageBatch::parse_binary(&bytes, &limits());
        let part = split(&bytes, *at).0;
        match (&whole, MessageBatch::parse_binary(part, &limits())) {
            (Ok((batch, consumed)), first) => {
                assert!(*consumed <= bytes.len());
                check_batch(batch);
                let mut again = Vec::new();
                MessageBatch::encode_bodies(&batch.iter().collect::<Vec<_>>(), &mut again);
                assert_eq!(again, bytes[..*consumed]);
                assert_eq!(first.is_ok(), part.len() >= *consumed);
            }
            // Once refused, more bytes change nothing.
            (Err(error), Err(first)) if !matches!(first, nsq_protocol::BatchError::Incomplete { .. }) => {
                assert_eq!(*error, first);
            }
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => panic!("valid in part, but as a whole: {error}"),
        }
    });
}
