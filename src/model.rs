//! The vocabulary: plain types, no I/O.

pub mod api_key;
pub mod auth;
pub mod base_url;
pub mod connection;
pub mod credential;
pub mod document;
pub mod field;
pub mod glob;
pub mod header;
pub mod id;
pub mod integration;
pub mod moment;
pub mod name;
pub mod oauth;
pub mod origin;
pub mod path;
pub mod role;
pub mod site;
pub mod template;
pub mod user;
pub mod version;
