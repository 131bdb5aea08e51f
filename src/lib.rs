//! Sidekey.
pub mod model;
pub mod vault;
