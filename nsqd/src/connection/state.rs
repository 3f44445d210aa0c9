//! Pure: which command is legal when.
//!
//! ```text
//!   Init ---SUB---> Subscribed ---CLS---> Closing
//! ```
//!
//! A connection never returns to an earlier state, and subscribes only once. Publishing and NOP are legal in every
//! state.

use nsq_protocol::{ErrorCode, ProtocolError, Verb};

/// The state of a connection. The numbers are NSQ's, as `/stats` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectionState {
    /// Connected.
    Init = 0,
    /// A consumer.
    Subscribed = 3,
    /// A consumer that takes no more.
    Closing = 4,
}

/// What to do with a command that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Permit {
    /// Execute it.
    Yes,
    /// Skip it, whatever its parameters.
    Ignore,
    /// It is illegal now. The connection ends with this error.
    No(ProtocolError),
}

impl ConnectionState {
    /// Whether a command is legal now.
    pub fn permit(self, verb: Verb) -> Permit {
        use ConnectionState::{Closing, Init, Subscribed};
        let legal = match (verb, self) {
            (Verb::Rdy, Closing) => return Permit::Ignore,
            (Verb::Pub | Verb::Mpub | Verb::Dpub | Verb::Nop, _) => true,
            (Verb::PubExt | Verb::MpubExt | Verb::DpubExt, _) => true,
            (Verb::Identify | Verb::Auth | Verb::Sub, state) => state == Init,
            (Verb::Fin | Verb::Req | Verb::Touch | Verb::Rej, state) => state != Init,
            (Verb::Rdy | Verb::Cls, state) => state == Subscribed,
        };
        if legal {
            return Permit::Yes;
        }
        Permit::No(ProtocolError::new(ErrorCode::Invalid, format!("cannot {} in current state", verb.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_commands_by_state() {
        use ConnectionState::{Closing, Init, Subscribed};
        let all = [Init, Subscribed, Closing];
        let rows = [
            (Verb::Identify, [true, false, false]),
            (Verb::Auth, [true, false, false]),
            (Verb::Sub, [true, false, false]),
            (Verb::Pub, [true, true, true]),
            (Verb::Mpub, [true, true, true]),
            (Verb::Dpub, [true, true, true]),
            (Verb::PubExt, [true, true, true]),
            (Verb::MpubExt, [true, true, true]),
            (Verb::DpubExt, [true, true, true]),
            (Verb::Fin, [false, true, true]),
            (Verb::Req, [false, true, true]),
            (Verb::Touch, [false, true, true]),
            (Verb::Rej, [false, true, true]),
            (Verb::Cls, [false, true, false]),
            (Verb::Nop, [true, true, true]),
        ];
        for (verb, legal) in rows {
            for (state, legal) in all.into_iter().zip(legal) {
                assert_eq!(state.permit(verb) == Permit::Yes, legal, "{verb:?} in {state:?}");
            }
        }
        assert!(matches!(Init.permit(Verb::Rdy), Permit::No(_)));
        assert_eq!(Subscribed.permit(Verb::Rdy), Permit::Yes);
        assert_eq!(Closing.permit(Verb::Rdy), Permit::Ignore);
        let Permit::No(error) = Init.permit(Verb::Fin) else { panic!() };
        assert_eq!(error.frame_data(), b"E_INVALID cannot FIN in current state");
    }
}
