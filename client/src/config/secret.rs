//! A secret whose text does not appear in debug output.

use std::fmt;
use std::sync::Arc;

use super::OptionValue;
use super::value::FromOption;

/// The secret that a client sends with AUTH. Its `Debug` output hides the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps the text of a secret.
    pub fn new(secret: impl Into<Arc<str>>) -> Self {
        Secret(secret.into())
    }

    /// Returns the text of the secret.
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

    fn to_text(&self) -> String {
        String::new()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        Some(Secret::from(value.to_string()))
    }
}
