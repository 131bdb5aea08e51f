//! The encrypted store.

pub mod revision;
