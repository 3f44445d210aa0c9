//! A secret that does not show itself.

use std::fmt;
use std::sync::Arc;

use super::OptionValue;
use super::value::FromOption;

/// What AUTH proves who we are with. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// A secret.
    pub fn new(secret: impl Into<Arc<str>>) -> Self {
        Secret(secret.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Secret::new(secret)
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Secret::new(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromOption for Secret {
    const EXPECTED: &'static str = "text";

    fn from_option(value: &OptionValue) -> Option<Self> {
        Some(Secret::from(value.to_string()))
    }
}
