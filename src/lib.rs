//! Sidekey.
pub mod admin;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod directory;
pub mod model;
pub mod proxy;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod vault;
