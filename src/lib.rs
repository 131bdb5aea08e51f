//! Sidekey.
pub mod model;
