//! The vocabulary: plain types, no I/O.

pub mod origin;
