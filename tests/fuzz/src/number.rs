//! Numbers at which arithmetic fails: near zero and near the maximum, besides others.

use bolero::TypeGenerator;

/// See the module.
#[derive(Clone, Copy, Debug, TypeGenerator)]
pub enum Number {
    Small(u8),
    BelowMax(u8),
    Any(u64),
}

impl Number {
    /// The number itself.
    pub fn get(self) -> u64 {
        match self {
            Number::Small(number) => u64::from(number),
            Number::BelowMax(below) => u64::MAX - u64::from(below),
            Number::Any(number) => number,
        }
    }
}
