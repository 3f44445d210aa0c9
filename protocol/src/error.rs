//! Error responses to clients: a code, a blank, a description.
//!
//! The texts are part of the protocol: client libraries split them at the first blank, compare the code, and show
//! the rest to people.

use std::borrow::Cow;
use std::fmt;

use crate::frame::{FrameType, put_frame};

/// The first word of an error frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Unknown magic; the only error without a description.
    BadProtocol,
    /// Unknown command, wrong state, missing or malformed parameter.
    Invalid,
    /// Invalid body of IDENTIFY, AUTH or MPUB, or an invalid value in it.
    BadBody,
    /// Invalid topic name.
    BadTopic,
    /// Invalid channel name.
    BadChannel,
    /// Invalid size or body of a published message.
    BadMessage,
    /// Conflicting compressions, or an upgrade that failed.
    IdentifyFailed,
    /// Consumer limit reached, or the channel or topic is being deleted.
    SubFailed,
    /// PUB could not be stored.
    PubFailed,
    /// MPUB could not be stored.
    MpubFailed,
    /// DPUB could not be stored.
    DpubFailed,
    /// AUTH, but no auth server is configured.
    AuthDisabled,
    /// No auth server gave a usable answer.
    AuthFailed,
    /// A command that needs AUTH came before it.
    AuthFirst,
    /// No permission for this topic and channel.
    Unauthorized,
    /// The reply to AUTH could not be sent.
    AuthError,
    /// FIN of a message that is not in flight here.
    FinFailed,
    /// REQ of a message that is not in flight here.
    ReqFailed,
    /// TOUCH of a message that is not in flight here.
    TouchFailed,
    /// REJ of a message that is not in flight here or cannot become a dead letter. Not in NSQ.
    RejFailed,
}

impl ErrorCode {
    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadProtocol => "E_BAD_PROTOCOL",
            Self::Invalid => "E_INVALID",
            Self::BadBody => "E_BAD_BODY",
            Self::BadTopic => "E_BAD_TOPIC",
            Self::BadChannel => "E_BAD_CHANNEL",
            Self::BadMessage => "E_BAD_MESSAGE",
            Self::IdentifyFailed => "E_IDENTIFY_FAILED",
            Self::SubFailed => "E_SUB_FAILED",
            Self::PubFailed => "E_PUB_FAILED",
            Self::MpubFailed => "E_MPUB_FAILED",
            Self::DpubFailed => "E_DPUB_FAILED",
            Self::AuthDisabled => "E_AUTH_DISABLED",
            Self::AuthFailed => "E_AUTH_FAILED",
            Self::AuthFirst => "E_AUTH_FIRST",
            Self::Unauthorized => "E_UNAUTHORIZED",
            Self::AuthError => "E_AUTH_ERROR",
            Self::FinFailed => "E_FIN_FAILED",
            Self::ReqFailed => "E_REQ_FAILED",
            Self::TouchFailed => "E_TOUCH_FAILED",
            Self::RejFailed => "E_REJ_FAILED",
        }
    }

    /// Whether nsqd closes the connection after this error. The codes of FIN, REQ, TOUCH and REJ leave the connection usable:
    /// these commands can race with the timeout of their message. E_PUB_FAILED, E_MPUB_FAILED and E_DPUB_FAILED do, too, if
    /// [`is_topic_full`] or [`is_draining`].
    pub fn is_fatal(self) -> bool {
        !matches!(self, Self::FinFailed | Self::ReqFailed | Self::TouchFailed | Self::RejFailed)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Beginning of the description if a publish is refused because a channel or topic holds too much. Not in NSQ.
pub const TOPIC_FULL: &str = "topic full";

/// Whether this error refuses a publish because a channel or topic holds too much. It leaves the connection usable: the
/// publishes after it are executed.
pub fn is_topic_full(code: &str, description: &str) -> bool {
    let of_publishes = [ErrorCode::PubFailed, ErrorCode::MpubFailed, ErrorCode::DpubFailed];
    description.starts_with(TOPIC_FULL) && of_publishes.iter().any(|of| of.as_str() == code)
}

/// The description if a publish is refused because nsqd drains. NSQ uses the word when it stops.
pub const DRAINING: &str = "exiting";

/// Whether this error refuses a publish because nsqd drains. It leaves the connection usable, and nothing is stored.
pub fn is_draining(code: &str, description: &str) -> bool {
    let of_publishes = [ErrorCode::PubFailed, ErrorCode::MpubFailed, ErrorCode::DpubFailed];
    description == DRAINING && of_publishes.iter().any(|of| of.as_str() == code)
}

/// An error response to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The code.
    pub code: ErrorCode,
    /// The description, in bytes because it may echo the client's input.
    pub text: Vec<u8>,
}

impl ProtocolError {
    /// An error with a code and a description. Only [`ErrorCode::BadProtocol`] has an empty description.
    pub fn new(code: ErrorCode, text: impl Into<Vec<u8>>) -> Self {
        Self { code, text: text.into() }
    }

    /// An error whose description ends with bytes from the client, unchanged.
    pub(crate) fn echo(code: ErrorCode, text: &str, raw: &[u8]) -> Self {
        Self::new(code, [text.as_bytes(), raw].concat())
    }

    /// See [`ErrorCode::is_fatal`].
    pub fn is_fatal(&self) -> bool {
        self.code.is_fatal()
    }

    /// The data of the error frame: code, blank, description.
    pub fn frame_data(&self) -> Vec<u8> {
        let code = self.code.as_str().as_bytes();
        if self.text.is_empty() { code.to_vec() } else { [code, b" ", &self.text].concat() }
    }

    /// Appends the whole error frame to `out`.
    pub fn put_frame(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameType::Error, &self.frame_data());
    }

    /// The description as text, for logs.
    pub fn text_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.text)
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.frame_data()))
    }
}

impl std::error::Error for ProtocolError {}

/// `raw` in double quotes, as NSQ shows names in its errors: quotes and backslashes escaped, control
/// characters as `\n` or `\x01`, bytes that are not UTF-8 as `\xe9`, printable text unchanged.
pub fn quote(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 2);
    out.push(b'"');
    for chunk in raw.utf8_chunks() {
        chunk.valid().chars().for_each(|c| put_quoted_char(&mut out, c));
        chunk.invalid().iter().for_each(|byte| out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
    }
    out.push(b'"');
    out
}

fn put_quoted_char(out: &mut Vec<u8>, c: char) {
    let short = match c {
        '"' => b'"',
        '\\' => b'\\',
        '\x07' => b'a',
        '\x08' => b'b',
        '\x0c' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\x0b' => b'v',
        c if is_printable(c) => {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
        c => {
            let code = c as u32;
            let escaped = match code {
                0..=0x7f => format!("\\x{code:02x}"),
                0x80..=0xffff => format!("\\u{code:04x}"),
                _ => format!("\\U{code:08x}"),
            };
            out.extend_from_slice(escaped.as_bytes());
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Whether `c` is a letter, mark, number, punctuation, symbol or the blank.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // The standard library has no function for this, but `escape_debug` leaves exactly the printable characters
    // unchanged. It escapes a mark only at the start of a text, hence the letter before it.
    let mut text = [0; 5];
    text[0] = b'x';
    let len = c.encode_utf8(&mut text[1..]).len();
    std::str::from_utf8(&text[..1 + len]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_about_one_message_are_not_fatal() {
        for code in [ErrorCode::FinFailed, ErrorCode::ReqFailed, ErrorCode::TouchFailed, ErrorCode::RejFailed]
        {
            assert!(!code.is_fatal());
        }
        assert!(ErrorCode::Invalid.is_fatal() && ErrorCode::PubFailed.is_fatal());
    }

    #[test]
    fn frames_as_nsqd_sends_them() {
        let mut out = Vec::new();
        ProtocolError::new(ErrorCode::BadProtocol, "").put_frame(&mut out);
        assert_eq!(out, b"\0\0\0\x12\0\0\0\x01E_BAD_PROTOCOL");
        out.clear();
        ProtocolError::echo(ErrorCode::Invalid, "invalid command ", b"BAD").put_frame(&mut out);
        assert_eq!(out, b"\0\0\0\x21\0\0\0\x01E_INVALID invalid command BAD");
    }

    #[test]
    fn names_are_quoted_like_nsq() {
        let cases: &[(&[u8], &str)] = &[
            (b"", r#""""#),
            (b"plain name", r#""plain name""#),
            (br#"a"b\c"#, r#""a\"b\\c""#),
            (b"\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            (b"\x01\x7f\0", r#""\x01\x7f\x00""#),
            (b"caf\xe9", r#""caf\xe9""#),
            (b"\xe2\x82x", r#""\xe2\x82x""#),
            ("é世😀".as_bytes(), "\"é世😀\""),
            ("e\u{301}\u{301}".as_bytes(), "\"e\u{301}\u{301}\""),
            ("\u{301}".as_bytes(), "\"\u{301}\""),
            ("\u{200b}\u{80}\u{a0}".as_bytes(), r#""\u200b\u0080\u00a0""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
            ("\u{fffd}".as_bytes(), "\"\u{fffd}\""),
        ];
        for (raw, quoted) in cases {
            assert_eq!(String::from_utf8(quote(raw)).unwrap(), *quoted);
        }
    }
}
