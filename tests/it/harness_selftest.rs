//! The harness, tested against itself.
