//! What is begun here, goes on at another site's page, and is ended by the same browser coming back.
//!
//! What has to be the same at both ends is kept here under the `state`, once and for ten minutes; the browser holds a
//! cookie without which coming back is worth nothing, so nobody can make somebody else's browser end what they began.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq;

use crate::clock::Instant;

/// How long somebody may take at the other page.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// How often those who took longer are dropped while nobody begins anything.
const SWEEP: Duration = Duration::from_secs(60);

/// How many are kept at most. The oldest of whoever has too many gives way, and where all together are too many, the
/// oldest of whoever has the most: nobody pushes out what others began by beginning much.
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
    kept: Mutex<Kept<By, T>>,
}

/// By its state, and when those that ended were dropped.
struct Kept<By, T> {
    begun: HashMap<String, Begun<By, T>>,
    swept: Instant,
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

impl<By: Copy + Eq + Hash, T> Underway<By, T> {
    pub(super) fn new(most: Most) -> Self {
        Underway { most, kept: Mutex::new(Kept { begun: HashMap::new(), swept: Instant::now() }) }
    }

    /// What is kept, without most of what has ended: whoever asks for one looks at its age too.
    fn lock(&self) -> MutexGuard<'_, Kept<By, T>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.swept.elapsed() >= SWEEP {
            kept.sweep();
        }
        kept
    }

    /// Keeps what was begun under its state.
    pub(super) fn keep(&self, state: String, by: By, browser: Option<String>, kept: T) {
        let mut all = self.lock();
        all.sweep();
        if let Some(state) = all.too_many(by, self.most) {
            all.begun.remove(&state);
        }
        all.begun.insert(state, Begun { at: Instant::now(), by, browser, kept });
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
        let mut all = self.lock();
        let mut fresh = all.begun.values_mut().filter(|begun| begun.at.elapsed() < PATIENCE);
        fresh.find(|begun| is_wanted(&begun.kept)).map(change)
    }

    /// Whether a browser has anything under way.
    pub(super) fn is_of(&self, browser: &str) -> bool {
        self.lock()
            .begun
            .values()
            .any(|begun| begun.browser.as_deref() == Some(browser) && begun.at.elapsed() < PATIENCE)
    }

    /// Takes what is under way: whatever comes of it, it is over.
    pub(super) fn take(&self, state: &str, browser: Option<&str>) -> Option<T> {
        let begun = &mut self.lock().begun;
        let (own, shown) = (begun.get(state)?.browser.as_deref()?, browser?);
        // Another browser coming back does not end what this one began.
        if !bool::from(shown.as_bytes().ct_eq(own.as_bytes())) {
            return None;
        }
        begun.remove(state).filter(|begun| begun.at.elapsed() < PATIENCE).map(|begun| begun.kept)
    }
}

impl<By: Copy + Eq + Hash, T> Kept<By, T> {
    /// Drops what has ended by itself.
    fn sweep(&mut self) {
        self.begun.retain(|_, begun| begun.at.elapsed() < PATIENCE);
        self.swept = Instant::now();
    }

    /// Which one gives way to another one of `by`.
    fn too_many(&self, by: By, most: Most) -> Option<String> {
        let mut counts: HashMap<By, usize> = HashMap::new();
        for begun in self.begun.values() {
            *counts.entry(begun.by).or_default() += 1;
        }
        let oldest = |is_among: &dyn Fn(By) -> bool| {
            let among = self.begun.iter().filter(|(_, begun)| is_among(begun.by));
            among.min_by_key(|(_, begun)| begun.at).map(|(state, _)| state.clone())
        };
        if counts.get(&by).is_some_and(|count| *count >= most.of_one) {
            return oldest(&|other| other == by);
        }
        let largest = counts.values().max().filter(|_| self.begun.len() >= most.all)?;
        oldest(&|other| counts.get(&other) == Some(largest))
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
    fn whoever_begins_much_pushes_out_what_they_began_themselves() {
        let underway = Underway::new(Most { all: 4, of_one: 3 });
        let begun = [("a", 1), ("b", 2), ("c", 2), ("d", 2), ("e", 3), ("f", 4)];
        for (state, by) in begun {
            underway.keep(state.to_owned(), by, Some("mine".to_owned()), ());
        }
        let is_left = |state: &&str| underway.take(state, Some("mine")).is_some();
        let left: Vec<&str> = begun.into_iter().map(|(state, _)| state).filter(is_left).collect();
        assert_eq!(left, ["a", "d", "e", "f"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_took_too_long_is_dropped_though_nobody_begins_anything() {
        let underway = Underway::new(Most { all: 9, of_one: 9 });
        let count = || underway.kept.lock().unwrap().begun.len();
        underway.keep("a".to_owned(), 1, Some("mine".to_owned()), ());
        tokio::time::advance(PATIENCE / 2).await;
        underway.keep("b".to_owned(), 1, Some("mine".to_owned()), ());
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!((underway.take("another", Some("mine")), count()), (None, 1));
        assert_eq!(underway.take("b", Some("mine")), Some(()));
        underway.keep("c".to_owned(), 1, Some("mine".to_owned()), ());
        tokio::time::advance(PATIENCE).await;
        assert_eq!((underway.take("c", Some("mine")), count()), (None, 0));
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
