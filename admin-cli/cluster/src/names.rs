//! Pure: one copy of each name of a topic or channel, however many nodes have it.

use std::collections::HashSet;
use std::sync::Arc;

/// The names that samples use.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashSet<Arc<str>>,
}

impl Names {
    /// The shared copy of a name.
    pub(crate) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.known.insert(name.clone());
        name
    }

    /// Forgets the names that nothing uses any more.
    pub(crate) fn forget_unused(&mut self) {
        self.known.retain(|name| Arc::strong_count(name) > 1);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_their_text_until_none_is_used() {
        let mut names = Names::default();
        let (one, two) = (names.share("orders"), names.share("orders"));
        assert!(Arc::ptr_eq(&one, &two));
        names.forget_unused();
        assert_eq!(names.len(), 1);
        drop((one, two));
        names.forget_unused();
        assert_eq!(names.len(), 0);
    }
}
