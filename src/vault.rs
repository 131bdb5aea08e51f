//! The encrypted store.

pub mod change;
mod create;
pub mod database;
mod durable;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod inspect;
pub mod key;
pub mod list;
mod lock;
pub mod query;
pub mod rekey;
pub mod revision;
mod schema;
mod seal;
