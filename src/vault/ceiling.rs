//! Ceilings: how many requests all callers of an organization may make together. They are few and small, so they are
//! held in memory and never waited for.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::change::Ceiling;
use crate::model::api_key::RequestLimits;
use crate::model::id::OrganizationId;

/// The ceilings of every organization that has one.
#[derive(Debug, Default)]
pub(super) struct Ceilings(ArcSwap<HashMap<OrganizationId, (RequestLimits, i64)>>);

impl Ceilings {
    /// That of an organization; none where it has none.
    pub(super) fn of(&self, organization: OrganizationId) -> RequestLimits {
        self.0.load().get(&organization).map_or_else(RequestLimits::default, |(limits, _)| *limits)
    }

    /// Takes all that are stored, at the start.
    pub(super) fn fill(&self, ceilings: Vec<Ceiling>) {
        let known = ceilings.into_iter().map(|ceiling| (ceiling.organization, (ceiling.limits, ceiling.number)));
        self.0.store(Arc::new(known.collect()));
    }

    /// Takes a value that was stored, unless a newer one is known: two changes may come here in either order.
    pub(super) fn set(&self, ceiling: Ceiling) {
        let Ceiling { organization, limits, number } = ceiling;
        self.0.rcu(|known| {
            let is_newer = known.get(&organization).is_none_or(|(_, known)| *known < number);
            if !is_newer {
                return Arc::clone(known);
            }
            let mut next = HashMap::clone(known);
            next.insert(organization, (limits, number));
            Arc::new(next)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn the_newest_value_stays_in_whatever_order_they_come() {
        let (ceilings, organization) = (Ceilings::default(), OrganizationId::generate());
        let limits = |number| RequestLimits { per_minute: NonZeroU32::new(number), per_hour: None };
        assert!(ceilings.of(organization).is_none());
        for (number, value, expected) in [(1, 10, 10), (3, 30, 30), (2, 20, 30), (4, 40, 40)] {
            ceilings.set(Ceiling { organization, limits: limits(value), number });
            assert_eq!(ceilings.of(organization), limits(expected));
        }
        assert!(ceilings.of(OrganizationId::generate()).is_none());
    }
}
