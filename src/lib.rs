//! Sidekey.
pub mod model;
pub mod tls;
pub mod upstream;
