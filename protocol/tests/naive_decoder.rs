//! The decoder against a naive one that looks at all bytes present, for every prefix of right and wrong commands.

use nsq_protocol::{Decoded, Limits, Verb, decode, decode_from, truncated};
use proptest::prelude::*;

fn limits() -> Limits {
    Limits { max_msg_size: 6, max_body_size: 24, max_line_bytes: 24, ..Limits::default() }
}

/// What is known of a command, given all bytes that have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// More bytes are needed; the verb is known once the line is there.
    Undecided(Option<Verb>),
    /// A command of this length.
    Whole(usize),
    /// The text of the error.
    Wrong(String),
    LineTooLong,
    /// Decided by its line alone, which has this length. The decoder's own tests say how.
    ByItsLine(usize),
}

/// Takes one part of a command after the other; stops where the bytes end or one is wrong.
struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
    verb: Verb,
}

impl Parts<'_> {
    fn word(&mut self) -> Result<i64, Answer> {
        let bytes = self.take(4)?;
        Ok(i64::from(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    }

    fn take(&mut self, count: i64) -> Result<Vec<u8>, Answer> {
        let end = self.at + count as usize;
        let taken = self.bytes.get(self.at..end).ok_or(Answer::Undecided(Some(self.verb)))?;
        self.at = end;
        Ok(taken.to_vec())
    }

    fn refuse<T>(&self, code: &str, text: String) -> Result<T, Answer> {
        Err(Answer::Wrong(format!("{code} {} {text}", self.verb)))
    }
}

fn naive(bytes: &[u8], limits: &Limits) -> Answer {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        let is_too_long = bytes.len() >= limits.max_line_bytes;
        return if is_too_long { Answer::LineTooLong } else { Answer::Undecided(None) };
    };
    if end >= limits.max_line_bytes {
        return Answer::LineTooLong;
    }
    let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let verb = Verb::from_name(line.split([' ', '\r']).next().unwrap().as_bytes());
    // Lines that are wrong are not the subject here.
    let is_right =
        matches!(&*line, "PUB t" | "DPUB t 5" | "MPUB t" | "PUB_EXT t" | "MPUB_EXT t" | "IDENTIFY" | "AUTH");
    match verb {
        Some(verb) if is_right => {
            let mut parts = Parts { bytes, at: end + 1, verb };
            match body(&mut parts, limits) {
                Ok(()) => Answer::Whole(parts.at),
                Err(answer) => answer,
            }
        }
        _ => Answer::ByItsLine(end + 1),
    }
}

fn body(parts: &mut Parts<'_>, limits: &Limits) -> Result<(), Answer> {
    let max_msg_size = limits.max_msg_size as i64;
    let max_body_size = limits.max_body_size as i64;
    let size = parts.word()?;
    if matches!(parts.verb, Verb::Pub | Verb::Dpub | Verb::PubExt) {
        match size {
            ..=0 => return parts.refuse("E_BAD_MESSAGE", format!("invalid message body size {size}")),
            _ if size > max_msg_size => {
                return parts.refuse("E_BAD_MESSAGE", format!("message too big {size} > {max_msg_size}"));
            }
            _ => {
                let message = parts.take(size)?;
                return check_headers(parts, &message, "message");
            }
        }
    }
    if size <= 0 {
        return parts.refuse("E_BAD_BODY", format!("invalid body size {size}"));
    }
    if size > max_body_size {
        return parts.refuse("E_BAD_BODY", format!("body too big {size} > {max_body_size}"));
    }
    if !matches!(parts.verb, Verb::Mpub | Verb::MpubExt) {
        return parts.take(size).map(drop);
    }
    let count = parts.word()?;
    if count <= 0 || count > (max_body_size - 4) / 5 {
        return parts.refuse("E_BAD_BODY", format!("invalid message count {count}"));
    }
    let mut total = 4;
    let mut messages = Vec::new();
    for index in 0..count {
        let size = parts.word()?;
        if size <= 0 {
            return parts.refuse("E_BAD_MESSAGE", format!("invalid message({index}) body size {size}"));
        }
        if size > max_msg_size {
            return parts.refuse("E_BAD_MESSAGE", format!("message too big {size} > {max_msg_size}"));
        }
        total += 4 + size;
        let least = total + 5 * (count - index - 1);
        let max_batch_bytes = max_body_size + max_msg_size;
        if least > max_batch_bytes {
            return parts.refuse("E_BAD_BODY", format!("body too big {least} > {max_batch_bytes}"));
        }
        messages.push(parts.take(size)?);
    }
    // Headers are looked at once the batch is complete.
    for (index, message) in messages.iter().enumerate() {
        check_headers(parts, message, &format!("message({index})"))?;
    }
    Ok(())
}

/// Checks a message with headers. The only valid headers that fit into a message here are `{}` with white space.
fn check_headers(parts: &Parts<'_>, message: &[u8], name: &str) -> Result<(), Answer> {
    let refuse = |reason: &str| match parts.verb {
        Verb::MpubExt => parts.refuse("E_BAD_MESSAGE", format!("invalid {name} {reason}")),
        _ => parts.refuse("E_BAD_MESSAGE", reason.to_owned()),
    };
    if !matches!(parts.verb, Verb::PubExt | Verb::MpubExt) {
        return Ok(());
    }
    let [high, low, rest @ ..] = message else { return refuse("headers are cut off") };
    let length = usize::from(*high) * 256 + usize::from(*low);
    if length > rest.len() {
        return refuse("headers are cut off");
    }
    let (mut json, body) = (rest[..length].to_vec(), &rest[length..]);
    json.retain(|byte| !b" \t\r\n".contains(byte));
    match (json == b"{}", body) {
        (false, _) => refuse("headers are not a JSON object of strings"),
        (true, []) => parts.refuse("E_BAD_MESSAGE", format!("invalid {name} body size 0")),
        (true, _) => Ok(()),
    }
}

/// The same from the decoder.
fn answer(decoded: &Decoded<'_>, expected: &Answer) -> Answer {
    match (decoded, expected) {
        (Decoded::Command { consumed, .. } | Decoded::Invalid { consumed, .. }, Answer::ByItsLine(_)) => {
            Answer::ByItsLine(*consumed)
        }
        (Decoded::Command { consumed, .. }, _) => Answer::Whole(*consumed),
        (Decoded::Invalid { error, .. }, _) => Answer::Wrong(error.to_string()),
        (Decoded::Incomplete { verb, .. }, _) => Answer::Undecided(*verb),
        (Decoded::LineTooLong, _) => Answer::LineTooLong,
    }
}

/// A size or count: mostly a right one.
fn word(right: impl Strategy<Value = i32> + 'static) -> BoxedStrategy<[u8; 4]> {
    let wrong = prop::sample::select(vec![0, -1, i32::MIN, i32::MAX, 5, 7, 25, 256]);
    prop_oneof![5 => right, 1 => wrong].prop_map(i32::to_be_bytes).boxed()
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    (1i32..7).prop_flat_map(|size| {
        let body = prop::collection::vec(any::<u8>(), size as usize);
        (word(Just(size)), body).prop_map(|(size, body)| [&size[..], &body].concat())
    })
}

/// Mostly with headers that are right.
fn message_with_headers() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<&[u8]> = vec![
        b"\0\x02{}x",
        b"\0\x02{}xy",
        b"\0\x03{ }x",
        b"\0\x02{}",
        b"\0\x02[]x",
        b"\0\x05{}x",
        b"\x01\0{}",
        b"\0",
    ];
    let sample = prop::sample::select(samples);
    let sized = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    prop_oneof![3 => sample.prop_map(sized), 1 => message()]
}

fn batch(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(message, 1..5).prop_flat_map(|messages| {
        let count = word(Just(messages.len() as i32));
        (word(1i32..25), count)
            .prop_map(move |(size, count)| [&size[..], &count, &messages.concat()].concat())
    })
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let with_body = |line: &'static str| message().prop_map(move |body| [line.as_bytes(), &body].concat());
    let lines = prop::sample::select(vec![
        "NOP\n",
        "\n",
        "FIN 0123456789abcdef\n",
        "TOUCH 0123456789abcde\n",
        "REQ 0123456789abcdef 1\n",
        "REJ 0123456789abcdef x\n",
        "RDY x\n",
        "SUB t c\r\n",
        "PUB\n",
        "MPUB a:b\n",
        "what is this line that never ends",
        "NOP 34567890123456789012\n",
        "NOP 345678901234567890123\n",
    ]);
    prop_oneof![
        2 => with_body("PUB t\n"),
        1 => with_body("DPUB t 5\n"),
        1 => with_body("IDENTIFY\n"),
        1 => with_body("AUTH\n"),
        5 => batch(message()).prop_map(|batch| [b"MPUB t\n", &batch[..]].concat()),
        2 => message_with_headers().prop_map(|message| [b"PUB_EXT t\n", &message[..]].concat()),
        3 => batch(message_with_headers()).prop_map(|batch| [b"MPUB_EXT t\n", &batch[..]].concat()),
        2 => lines.prop_map(|line| line.as_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The decoder decides as soon as the bytes for a decision are there, and `needed` is exactly when that is.
    #[test]
    fn every_prefix_is_decided_as_all_its_bytes_demand(command in command()) {
        let limits = limits();
        let mut checked = Default::default();
        for len in 0..=command.len() {
            let prefix = &command[..len];
            let expected = naive(prefix, &limits);
            let decoded = decode(prefix, &limits);
            prop_assert_eq!(&answer(&decoded, &expected), &expected, "{}", prefix.escape_ascii());
            // Going on where the last look ended makes no difference.
            let resumed = decode_from(prefix, checked, &limits);
            prop_assert_eq!(&answer(&resumed, &expected), &expected);
            let Decoded::Incomplete { needed, claimed, .. } = decoded else { break };
            if let Decoded::Incomplete { needed: again, checked: more, .. } = resumed {
                prop_assert_eq!(again, needed);
                checked = more;
            }
            prop_assert!(len < needed && needed <= claimed);
            prop_assert_eq!(truncated(prefix, &limits).is_some(), expected != Answer::Undecided(None));
            let padded = |pad: u8, to: usize| {
                let mut bytes = prefix.to_vec();
                bytes.resize(to, pad);
                naive(&bytes, &limits)
            };
            let pads = [b'\n', 0xff, 0, b'x'];
            for pad in pads {
                prop_assert_eq!(&padded(pad, needed - 1), &expected, "one byte less than needed");
            }
            let decides = pads.iter().any(|&pad| padded(pad, needed) != expected);
            prop_assert!(decides, "{needed} bytes of {} decide nothing", prefix.escape_ascii());
        }
    }
}
