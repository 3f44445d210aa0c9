//! Pure: the numbers of topics and channels in a data directory.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Serialize};

/// Declares a number that cannot be exchanged for another kind of number. On disk it is a `u32`.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// Never given, so that there is always a next number.
            pub const MAX: Self = Self(u32::MAX);

            /// The number after this one; [`Self::MAX`] after itself.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            pub(crate) fn to_le_bytes(self) -> [u8; 4] {
                self.0.to_le_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        /// Reads the decimal form, which [`fmt::Display`] writes.
        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    )*};
}

numbers! {
    /// A topic's number in this data directory. Never reused for another topic.
    TopicNumber,
    /// A channel's number in this data directory. Never reused for another channel.
    ChannelNumber,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_integers_in_checkpoints_and_directory_names() {
        let numbers = (TopicNumber(7), ChannelNumber(70_000));
        let bytes = rmp_serde::to_vec(&numbers).unwrap();
        assert_eq!(bytes, rmp_serde::to_vec(&(7_u32, 70_000_u32)).unwrap());
        assert_eq!(rmp_serde::from_slice::<(TopicNumber, ChannelNumber)>(&bytes).unwrap(), numbers);
        assert_eq!(TopicNumber(12).to_string(), "12");
        assert_eq!("12".parse(), Ok(TopicNumber(12)));
        assert!("4294967296".parse::<TopicNumber>().is_err());
    }
}
