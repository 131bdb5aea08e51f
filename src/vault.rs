//! The encrypted store.

pub mod declared;
pub mod revision;
