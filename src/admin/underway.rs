//! What is begun here, goes on at another site's page, and is ended by the same browser coming back.
//!
//! What has to be the same at both ends is kept here under the `state`, once and for ten minutes; the browser holds a
//! cookie without which coming back is worth nothing, so nobody can make somebody else's browser end what they began.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

/// How long somebody may take at the other page.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// How many are kept at most; the oldest give way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// In all.
    pub all: usize,
    /// Of whoever begins too many.
    pub of_one: usize,
}

/// What is under way, each begun by a `By`.
pub(super) struct Underway<By, T> {
    most: Most,
    begun: Mutex<HashMap<String, Begun<By, T>>>,
}

/// One of them.
pub(super) struct Begun<By, T> {
    at: Instant,
    by: By,
    /// What the cookie of the browser holds; nothing where no browser has taken it on yet.
    pub browser: Option<String>,
    /// What is needed to end it.
    pub kept: T,
}

impl<By: Copy + Eq, T> Underway<By, T> {
    pub(super) fn new(most: Most) -> Self {
        Underway { most, begun: Mutex::default() }
    }

    /// Keeps what was begun under its state.
    pub(super) fn keep(&self, state: String, by: By, browser: Option<String>, kept: T) {
        let mut all = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, other| other.at.elapsed() < PATIENCE);
        let of_one = all.values().filter(|other| other.by == by).count();
        let oldest = |among: &dyn Fn(&Begun<By, T>) -> bool| {
            let candidates = all.iter().filter(|(_, other)| among(other));
            candidates.min_by_key(|(_, other)| other.at).map(|(state, _)| state.clone())
        };
        let goes = if of_one >= self.most.of_one {
            oldest(&|other| other.by == by)
        } else if all.len() >= self.most.all {
            oldest(&|_| true)
        } else {
            None
        };
        if let Some(state) = goes {
            all.remove(&state);
        }
        all.insert(state, Begun { at: Instant::now(), by, browser, kept });
    }

    /// Looks at the one that is wanted, where it is still under way.
    pub(super) fn look<R>(&self, is_wanted: impl Fn(&T) -> bool, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.change(is_wanted, |begun| look(&begun.kept))
    }

    /// Changes the one that is wanted, where it is still under way.
    pub(super) fn change<R>(
        &self,
        is_wanted: impl Fn(&T) -> bool,
        change: impl FnOnce(&mut Begun<By, T>) -> R,
    ) -> Option<R> {
        let mut all = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = all.values_mut().filter(|begun| begun.at.elapsed() < PATIENCE);
        fresh.find(|begun| is_wanted(&begun.kept)).map(change)
    }

    /// Whether a browser has anything under way.
    pub(super) fn is_of(&self, browser: &str) -> bool {
        let all = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().any(|begun| begun.browser.as_deref() == Some(browser) && begun.at.elapsed() < PATIENCE)
    }

    /// Takes what is under way: whatever comes of it, it is over.
    pub(super) fn take(&self, state: &str, browser: Option<&str>) -> Option<T> {
        let mut all = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, shown) = (all.get(state)?.browser.as_deref()?, browser?);
        // Another browser coming back does not end what this one began.
        if !bool::from(shown.as_bytes().ct_eq(own.as_bytes())) {
            return None;
        }
        all.remove(state).filter(|begun| begun.at.elapsed() < PATIENCE).map(|begun| begun.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ended_once_and_by_the_browser_that_began_it() {
        let underway = Underway::new(Most { all: 3, of_one: 2 });
        let keep = |state: &str, by: u8| underway.keep(state.to_owned(), by, Some("mine".to_owned()), by);
        keep("a", 1);
        assert_eq!(underway.take("a", None), None);
        assert_eq!(underway.take("a", Some("another's")), None);
        assert_eq!(underway.take("a", Some("mine")), Some(1), "the others have not ended it");
        assert_eq!(underway.take("a", Some("mine")), None);
        for (state, by) in [("b", 1), ("c", 1), ("d", 1), ("e", 2), ("f", 3)] {
            keep(state, by);
        }
        let left: Vec<&str> =
            ["b", "c", "d", "e", "f"].into_iter().filter(|s| underway.take(s, Some("mine")).is_some()).collect();
        assert_eq!(left, ["d", "e", "f"], "the oldest of whoever has too many goes, then the oldest of all");
    }

    #[test]
    fn no_browser_ends_what_none_has_taken_on() {
        let underway = Underway::new(Most { all: 1, of_one: 1 });
        underway.keep("a".to_owned(), (), None, "kept");
        assert_eq!(underway.take("a", Some("")), None);
        assert_eq!(underway.change(|kept| *kept == "other", |_| ()), None);
        assert_eq!(underway.change(|kept| *kept == "kept", |begun| begun.browser = Some("x".to_owned())), Some(()));
        assert_eq!(underway.take("a", Some("x")), Some("kept"));
    }
}
