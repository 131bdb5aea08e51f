//! What a worker holds of a connection's credentials, beside its route: an injection for each environment in use.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::{Loaded, Rendered};
use crate::directory::Beside;
use crate::model::name::EnvironmentName;
use crate::vault::revision::Stamp;

/// The injections of one connection.
#[derive(Default)]
pub struct Injections(RefCell<List>);

/// The first stands in the entry itself: most connections have one environment.
#[derive(Default)]
struct List {
    first: Option<Held>,
    others: Box<[Held]>,
}

/// What one environment has.
pub(super) struct Held {
    environment: EnvironmentName,
    pub(super) injection: Rendered,
    source: Source,
    used: Cell<bool>,
}

/// What an injection was read from.
pub(super) enum Source {
    /// The same moment of what is declared as its route, with which it goes.
    AsRoute,
    /// Something that all workers share.
    Loaded(Arc<Loaded>),
}

impl Held {
    pub(super) fn new(environment: EnvironmentName, injection: Rendered, source: Source) -> Self {
        Held { environment, injection, source, used: Cell::new(true) }
    }

    fn stamp(&self) -> Option<&Stamp> {
        match &self.source {
            Source::AsRoute => None,
            Source::Loaded(loaded) => Some(&loaded.stamp),
        }
    }
}

impl Injections {
    /// What is held for an environment.
    pub(super) fn get(&self, environment: &EnvironmentName) -> Option<Rendered> {
        let use_it = |held: &Held| {
            held.used.set(true);
            held.injection.clone()
        };
        let is_it = |held: &&Held| held.environment == *environment;
        let list = self.0.borrow();
        list.first.iter().chain(&*list.others).find(is_it).map(use_it)
    }

    pub(super) fn put(&self, held: Held) {
        self.retain(|other| other.environment != held.environment);
        let mut list = self.0.borrow_mut();
        match list.first {
            None => list.first = Some(held),
            Some(_) => list.others = std::mem::take(&mut list.others).into_iter().chain([held]).collect(),
        }
    }

    fn retain(&self, stays: impl Fn(&Held) -> bool) {
        let mut list = self.0.borrow_mut();
        list.first.take_if(|held| !stays(held));
        list.others = std::mem::take(&mut list.others).into_iter().filter(stays).collect();
    }
}

impl Beside for Injections {
    fn keep_current(&self) {
        self.retain(|held| held.stamp().is_none_or(Stamp::is_current));
    }

    fn sweep(&self) {
        self.retain(|held| held.used.take());
    }
}
