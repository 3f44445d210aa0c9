//! Parameters that accept one address or several.

/// One address as a string, or a list of addresses.
pub trait Addresses {
    /// Returns the addresses in the given order, unchecked.
    fn into_addresses(self) -> Vec<String>;
}

impl Addresses for &str {
    fn into_addresses(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Addresses for String {
    fn into_addresses(self) -> Vec<String> {
        vec![self]
    }
}

impl Addresses for &String {
    fn into_addresses(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl<S: Into<String>> Addresses for Vec<S> {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<S: Into<String>, const N: usize> Addresses for [S; N] {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<S: AsRef<str>> Addresses for &[S] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().map(|address| address.as_ref().to_owned()).collect()
    }
}

impl<S: AsRef<str>> Addresses for &Vec<S> {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}
