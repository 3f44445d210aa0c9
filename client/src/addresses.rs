//! Parameters that accept one address or several.

/// One address as a string, several in one string with commas between them, or a list of such strings. This trait is sealed.
pub trait Addresses: sealed::Sealed {
    /// Returns the addresses in the given order, unchecked, without blanks around them.
    fn into_addresses(self) -> Vec<String>;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for &str {}
    impl Sealed for String {}
    impl Sealed for &String {}
    impl<S: Into<String>> Sealed for Vec<S> {}
    impl<S: Into<String>, const N: usize> Sealed for [S; N] {}
    impl<S: AsRef<str>> Sealed for &[S] {}
    impl<S: AsRef<str>> Sealed for &Vec<S> {}
}

impl Addresses for &str {
    fn into_addresses(self) -> Vec<String> {
        split(self).collect()
    }
}

impl Addresses for String {
    fn into_addresses(self) -> Vec<String> {
        split(&self).collect()
    }
}

impl Addresses for &String {
    fn into_addresses(self) -> Vec<String> {
        split(self).collect()
    }
}

impl<S: Into<String>> Addresses for Vec<S> {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().flat_map(|addresses| split(&addresses.into()).collect::<Vec<_>>()).collect()
    }
}

impl<S: Into<String>, const N: usize> Addresses for [S; N] {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().flat_map(|addresses| split(&addresses.into()).collect::<Vec<_>>()).collect()
    }
}

impl<S: AsRef<str>> Addresses for &[S] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().flat_map(|addresses| split(addresses.as_ref())).collect()
    }
}

impl<S: AsRef<str>> Addresses for &Vec<S> {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}

/// Splits at commas. An empty part stays, so that it is refused with its position visible.
fn split(addresses: &str) -> impl Iterator<Item = String> {
    addresses.split(',').map(|address| address.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_be_written_with_commas() {
        assert_eq!("a:1".into_addresses(), ["a:1"]);
        assert_eq!("a:1, b:1,c:1".into_addresses(), ["a:1", "b:1", "c:1"]);
        assert_eq!(["a:1,b:1", "c:1"].into_addresses(), ["a:1", "b:1", "c:1"]);
        assert_eq!(vec!["a:1,b:1".to_owned()].into_addresses(), ["a:1", "b:1"]);
        assert_eq!((&["a:1,b:1"][..]).into_addresses(), ["a:1", "b:1"]);
        assert_eq!("a:1,".into_addresses(), ["a:1", ""]);
    }
}
