//! Versions of what is written in many places: a digest of the state itself, so that no writer can forget to move it.
//!
//! The same state has the same version again, which is all that a change asks that was made from looking at it. Ids are
//! part of it, so that nothing looks like something else that was there before.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::model::api_key::{ApiKey, RequestLimits};
use crate::model::id::OrganizationId;
use crate::model::user::User;
use crate::model::version::Version;

/// The version of a user: who they are and what they may do, not when they signed in.
pub fn of_user(user: &User) -> Version {
    let User { id, organization, email, first_name, last_name, method, roles, status } = user;
    version(&json!([id, organization, email, first_name, last_name, method.as_str(), roles, status.as_str()]))
}

/// The version of an API key: what it may do, and since when with which secret, not when it was used.
pub fn of_api_key(key: &ApiKey) -> Version {
    let ApiKey { id, organization, status, terms, created_at: _, rotated_at, last_used_at: _ } = key;
    let terms =
        json!([terms.name, terms.roles, terms.limits, terms.environment, terms.scope, terms.owner, terms.expires_at]);
    version(&json!([id, organization, status.as_str(), terms, rotated_at]))
}

/// The version of an organization's ceiling, also where it has none.
pub fn of_ceiling(organization: OrganizationId, limits: &RequestLimits) -> Version {
    version(&json!([organization, limits]))
}

fn version(state: &Value) -> Version {
    let digest = Sha256::digest(state.to_string().as_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    Version::stored(i64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn the_version_moves_with_the_state_and_with_nothing_else() {
        let (one, other) = (OrganizationId::generate(), OrganizationId::generate());
        let limits = |minute| RequestLimits { per_minute: NonZeroU32::new(minute), per_hour: None };
        assert_eq!(of_ceiling(one, &limits(1)), of_ceiling(one, &limits(1)));
        for (organization, minute) in [(one, 2), (one, 0), (other, 1)] {
            assert_ne!(of_ceiling(one, &limits(1)), of_ceiling(organization, &limits(minute)));
        }
    }
}
