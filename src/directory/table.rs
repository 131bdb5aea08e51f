//! A worker's own table: what it found lately under each name, and beside each route what a room above keeps for it.
//!
//! It is not shared, so it needs no lock; a hit is one look-up by borrowed text and takes no memory. What is found is
//! used only while nothing that it was read from has changed: where the epoch of all changes stands still, that is one
//! comparison for everything in an entry.

mod keys;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hash as _, Hasher, RandomState};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::cache::Limits;
use super::route::{Route, RouteError};
use super::{Found, Name, Named};
use crate::model::id::{OrganizationId, Reference};
use crate::model::name::NameError;
use crate::vault::revision::{Revisions, Stamp};

pub use keys::Shown;

use keys::Keys;

/// What a room above keeps beside a route, in a worker's table. It goes with the route.
pub trait Beside: Default {
    /// Forgets what was read from something that has changed since.
    fn keep_current(&self);

    /// Forgets what was not used since the last sweep.
    fn sweep(&self);
}

/// Nothing is kept beside a route.
impl Beside for () {
    fn keep_current(&self) {}

    fn sweep(&self) {}
}

/// The table of one worker.
pub struct Table<B> {
    routes: RefCell<HashTable<Line<Kept<B>>>>,
    unknown: RefCell<HashTable<Line<Unknown>>>,
    /// The callers' keys that were verified here.
    pub(super) keys: Keys,
    hasher: DefaultHashBuilder,
    /// What every name is hashed with. The hasher is a quick one, and seeded by what could be guessed; callers choose
    /// names, and shall not be able to choose those that collide.
    secret: u64,
    limits: Limits,
}

/// The number of a name in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u64);

/// An entry with its hash, which tells most others apart without a look at their names.
struct Line<E> {
    hash: Hash,
    entry: Rc<E>,
}

/// A route as a worker keeps it, with what a room above keeps beside it.
pub struct Kept<B> {
    age: Age,
    route: Arc<Route>,
    beside: B,
    called: Called,
}

/// What a kept route is called. Most are called by their connection's own key, and most keys are short: they lie in the
/// entry itself, as a look at the connection would be one into memory that nothing else of a request needs.
enum Called {
    Briefly(OrganizationId, Brief),
    ByKey,
    ById,
    /// In another organization's or customer's words.
    Otherwise(Box<Name>),
}

/// A short key.
struct Brief {
    length: u8,
    bytes: [u8; Brief::MOST],
}

impl Brief {
    const MOST: usize = 30;

    fn new(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MOST];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Brief { length: u8::try_from(key.len()).ok()?, bytes })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Called {
    fn new(named: &Named<'_>, route: &Route) -> Result<Self, NameError> {
        Ok(match named {
            Named { organization, customer: None, reference: Reference::Key(key) }
                if let Some(brief) = Brief::new(key) =>
            {
                Self::Briefly(*organization, brief)
            }
            _ if *named == Self::ByKey.named(route) => Self::ByKey,
            _ if *named == Self::ById.named(route) => Self::ById,
            _ => Self::Otherwise(Box::new((*named).try_into()?)),
        })
    }

    fn named<'a>(&'a self, route: &'a Route) -> Named<'a> {
        match self {
            Self::Briefly(organization, brief) => {
                Named { organization: *organization, customer: None, reference: Reference::Key(brief.as_bytes()) }
            }
            Self::ByKey => Named::by_key(&route.connection),
            Self::ById => Named::by_id(&route.connection),
            Self::Otherwise(name) => (&**name).into(),
        }
    }
}

/// A name that leads to nothing that could be used. That is remembered too, until the name changes.
struct Unknown {
    age: Age,
    name: Name,
    error: RouteError,
    stamp: Stamp,
}

/// No epoch.
const NEVER: u64 = u64::MAX;

/// How long an entry may be used.
struct Age {
    /// The epoch at which all that is in the entry was last seen to be current, or [`NEVER`].
    looked: Cell<u64>,
    expires: Cell<Instant>,
    used: Cell<bool>,
}

/// What the two kinds of entries have in common.
trait Entry {
    fn age(&self) -> &Age;
    fn named(&self) -> Named<'_>;
    /// Whether it still holds; what has changed beside it is forgotten.
    fn look(&self) -> bool;
    fn sweep(&self);

    /// Whether nothing that it was read from has changed. One comparison while nothing at all has.
    fn is_current(&self, revisions: &Revisions) -> bool {
        // The epoch is read before the stamps: a change in between moves it on, and they are looked at again.
        let now = revisions.epoch();
        let looked = &self.age().looked;
        if looked.get() == now {
            return true;
        }
        let holds = self.look();
        looked.set(if holds { now } else { NEVER });
        holds
    }
}

impl Age {
    fn new(expires: Instant) -> Self {
        Age { looked: Cell::new(NEVER), expires: Cell::new(expires), used: Cell::new(true) }
    }
}

impl<B: Beside> Entry for Kept<B> {
    fn age(&self) -> &Age {
        &self.age
    }

    fn named(&self) -> Named<'_> {
        self.called.named(&self.route)
    }

    fn look(&self) -> bool {
        let holds = self.route.is_current();
        if holds {
            self.beside.keep_current();
        }
        holds
    }

    fn sweep(&self) {
        self.beside.sweep();
    }
}

impl Entry for Unknown {
    fn age(&self) -> &Age {
        &self.age
    }

    fn named(&self) -> Named<'_> {
        (&self.name).into()
    }

    fn look(&self) -> bool {
        self.stamp.is_current()
    }

    fn sweep(&self) {}
}

impl<B: Beside> Kept<B> {
    /// The route.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// What is kept beside it. Ask [`is_current`](Self::is_current) before you use it, and say what you
    /// [`added`](Self::added).
    pub fn beside(&self) -> &B {
        &self.beside
    }

    /// Whether nothing has changed that the route was read from; what has changed beside it is forgotten.
    pub fn is_current(&self, revisions: &Revisions) -> bool {
        Entry::is_current(self, revisions)
    }

    /// Something was put beside the route that may be used until then. It is looked at before it is used.
    pub fn added(&self, expires: Instant) {
        self.age.looked.set(NEVER);
        self.age.expires.set(self.age.expires.get().min(expires));
    }
}

impl<B> Deref for Kept<B> {
    type Target = Arc<Route>;

    fn deref(&self) -> &Arc<Route> {
        &self.route
    }
}

impl<B: Beside> Table<B> {
    pub(super) fn new(limits: Limits) -> Self {
        // A hash of nothing under a key that the system has given.
        let secret = RandomState::new().build_hasher().finish();
        Table {
            routes: RefCell::default(),
            unknown: RefCell::default(),
            keys: Keys::new(limits),
            hasher: DefaultHashBuilder::default(),
            secret,
            limits,
        }
    }

    /// Under which number a name stands in this table.
    pub(super) fn hash(&self, named: &Named<'_>) -> Hash {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(self.secret);
        named.hash(&mut hasher);
        Hash(hasher.finish())
    }

    /// What this worker holds under a name and is current.
    pub(super) fn get(
        &self,
        hash: Hash,
        named: &Named<'_>,
        revisions: &Revisions,
        now: Instant,
    ) -> Option<Result<Rc<Kept<B>>, RouteError>> {
        if let Some(kept) = find(&self.routes, hash, named, revisions, now) {
            return Some(Ok(kept));
        }
        find(&self.unknown, hash, named, revisions, now).map(|unknown| Err(unknown.error.clone()))
    }

    /// Keeps what was found under a name, for as long as it may be used.
    pub(super) fn insert(
        &self,
        hash: Hash,
        named: &Named<'_>,
        found: Found,
        expires: Instant,
    ) -> Result<Rc<Kept<B>>, RouteError> {
        // What is no name is the name of nothing.
        let unknown = |_: NameError| RouteError::Unknown;
        let age = Age::new(expires);
        let route = match found {
            Found::Route(route) => route,
            Found::Nothing(nothing) => {
                let (name, error) = ((*named).try_into().map_err(unknown)?, nothing.error.clone());
                let unknown = Unknown { age, name, error: error.clone(), stamp: nothing.stamp.clone() };
                forget(&self.routes, hash, named);
                self.put(&self.unknown, hash, Rc::new(unknown));
                return Err(error);
            }
        };
        forget(&self.unknown, hash, named);
        let called = Called::new(named, &route).map_err(unknown)?;
        let kept = Rc::new(Kept { age, route, beside: B::default(), called });
        self.put(&self.routes, hash, Rc::clone(&kept));
        Ok(kept)
    }

    fn put<E: Entry>(&self, table: &RefCell<HashTable<Line<E>>>, hash: Hash, entry: Rc<E>) {
        forget(table, hash, &entry.named());
        let mut lines = table.borrow_mut();
        if lines.len() as u64 >= self.limits.entries {
            lines.retain(|line| line.entry.age().used.take());
            if lines.len() as u64 >= self.limits.entries {
                lines.clear();
            }
        }
        lines.insert_unique(hash.0, Line { hash, entry }, |line| line.hash.0);
    }

    /// Forgets what was not used since the last sweep, is too old or has changed. A worker calls it as often as
    /// [`Limits::time_to_idle`], so nothing decrypted stays for longer than twice that unused.
    pub fn sweep(&self) {
        let now = Instant::now();
        sweep(&self.routes, now);
        sweep(&self.unknown, now);
        self.keys.sweep(now);
    }
}

fn find<E: Entry>(
    table: &RefCell<HashTable<Line<E>>>,
    hash: Hash,
    named: &Named<'_>,
    revisions: &Revisions,
    now: Instant,
) -> Option<Rc<E>> {
    let lines = table.borrow();
    let line = lines.find(hash.0, |line| line.hash == hash && line.entry.named() == *named)?;
    let age = line.entry.age();
    if !line.entry.is_current(revisions) || now >= age.expires.get() {
        return None;
    }
    age.used.set(true);
    Some(Rc::clone(&line.entry))
}

fn forget<E: Entry>(table: &RefCell<HashTable<Line<E>>>, hash: Hash, named: &Named<'_>) {
    let mut lines = table.borrow_mut();
    if !lines.is_empty()
        && let Ok(line) = lines.find_entry(hash.0, |line| line.hash == hash && line.entry.named() == *named)
    {
        line.remove();
    }
}

fn sweep<E: Entry>(table: &RefCell<HashTable<Line<E>>>, now: Instant) {
    let mut lines = table.borrow_mut();
    lines.retain(|line| {
        let age = line.entry.age();
        let stays = age.used.take() && line.entry.look() && now < age.expires.get();
        if stays {
            line.entry.sweep();
        }
        stays
    });
    if lines.len() < lines.capacity() / 4 {
        lines.shrink_to_fit(|line| line.hash.0);
    }
}

#[cfg(test)]
mod tests;
