//! Cells: what was counted in one hour for each caller, connection and environment.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Use, Used, Verdict};
use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
use crate::model::name::EnvironmentName;

/// Seconds of an hour.
pub(super) const HOUR: u64 = 3_600;

/// How many workflows one cell names before it is handed over.
const MOST_WORKFLOWS: usize = 64;

/// Where the cells of a caller and a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    connection: ConnectionId,
    caller: Option<ApiKeyId>,
}

/// What is counted at a place for one environment. There is one for every connection in use: what few have is aside, and
/// seconds are those since the hour began.
#[derive(Debug)]
struct Cell {
    organization: OrganizationId,
    environment: EnvironmentName,
    count: u64,
    last: u16,
    verdict: Option<(Verdict, u16)>,
    aside: Option<Box<Aside>>,
}

/// What few cells have.
#[derive(Debug, Default)]
struct Aside {
    workflows: Vec<(String, u16)>,
    /// Where more than one environment is used: those of the others.
    others: Vec<Cell>,
}

impl Cell {
    fn new(organization: OrganizationId, environment: EnvironmentName) -> Self {
        Cell { organization, environment, count: 0, last: 0, verdict: None, aside: None }
    }

    /// The cell of an environment: this one, or one of those beside it.
    fn of(&mut self, environment: &EnvironmentName) -> &mut Cell {
        if self.environment == *environment {
            return self;
        }
        let organization = self.organization;
        let others = &mut self.aside.get_or_insert_default().others;
        let known = others.iter().position(|cell| cell.environment == *environment);
        let at = known.unwrap_or_else(|| {
            others.push(Cell::new(organization, environment.clone()));
            others.len() - 1
        });
        &mut others[at]
    }

    /// Counts a request.
    fn add(&mut self, used: &Used<'_>, second: u16) {
        self.count += 1;
        self.last = second;
        if let Some(verdict) = used.verdict {
            self.verdict = Some((verdict, second));
        }
        let Some(workflow) = used.workflow else { return };
        let workflows = &mut self.aside.get_or_insert_default().workflows;
        if let Some((_, last)) = workflows.iter_mut().find(|(known, _)| known == workflow) {
            *last = second;
        } else if workflows.len() < MOST_WORKFLOWS {
            workflows.push((workflow.to_owned(), second));
        }
    }

    /// What was counted here and in those beside it.
    fn into_uses(mut self, place: Place, hour: u64) -> impl Iterator<Item = Use> {
        let others = self.aside.as_mut().map(|aside| std::mem::take(&mut aside.others)).unwrap_or_default();
        std::iter::once(self).chain(others).map(move |cell| cell.into_use(place, hour))
    }

    fn into_use(self, place: Place, hour: u64) -> Use {
        let Cell { organization, environment, count, last, verdict, aside } = self;
        let Place { connection, caller } = place;
        let moment = |second: u16| hour * HOUR + u64::from(second);
        let (last, verdict) = (moment(last), verdict.map(|(verdict, at)| (verdict, moment(at))));
        let workflows = aside.map(|aside| aside.workflows).unwrap_or_default();
        let workflows = workflows.into_iter().map(|(workflow, last)| (workflow, moment(last))).collect();
        Use { organization, connection, environment, caller, hour, count, last, verdict, workflows }
    }
}

/// A cell at its place. It lies in the table itself, as each request would have to follow a pointer to it.
type Placed = (Place, Cell);

/// What was counted in one hour, as it lay in the cells: whoever takes it sorts it out, so that no request waits for that.
#[derive(Debug, Default)]
pub struct Counted {
    pub(super) hour: u64,
    cells: HashTable<Placed>,
    hasher: DefaultHashBuilder,
}

impl Counted {
    pub(super) fn of_hour(hour: u64, room: usize) -> Self {
        Counted { hour, cells: HashTable::with_capacity(room), hasher: DefaultHashBuilder::default() }
    }

    /// How many cells there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Each use that was counted, in no order.
    pub fn into_uses(self) -> impl Iterator<Item = Use> {
        let hour = self.hour;
        self.cells.into_iter().flat_map(move |(place, cell)| cell.into_uses(place, hour))
    }

    /// Counts a request in the cell of its place; whether that is a new one.
    pub(super) fn add(&mut self, used: &Used<'_>, second: u64) -> bool {
        let place = Place { connection: used.connection, caller: used.caller };
        let second = (second % HOUR) as u16;
        let is_it = |placed: &Placed| placed.0 == place;
        let hash = |placed: &Placed| self.hasher.hash_one(placed.0);
        match self.cells.entry(self.hasher.hash_one(place), is_it, hash) {
            Entry::Occupied(mut known) => {
                known.get_mut().1.of(used.environment).add(used, second);
                false
            }
            Entry::Vacant(free) => {
                let mut cell = Cell::new(used.organization, used.environment.clone());
                cell.add(used, second);
                free.insert((place, cell));
                true
            }
        }
    }

    /// Takes out what was counted of one connection.
    pub(super) fn split(&mut self, connection: ConnectionId) -> Self {
        let mut of_it = Counted::of_hour(self.hour, 0);
        for placed in self.cells.extract_if(|placed| placed.0.connection == connection) {
            let hash = of_it.hasher.hash_one(placed.0);
            of_it.cells.insert_unique(hash, placed, |placed| of_it.hasher.hash_one(placed.0));
        }
        of_it
    }
}
