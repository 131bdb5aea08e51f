//! The integration tests: one binary, one file for each behaviour.
//!
//! Every test drives the real `sidekey` binary on free ports, against upstreams that live inside the test process.
//! Nothing here reaches beyond the machine, and nothing waits for a fixed time: tests await events, with a deadline.

mod api;
mod deadlines;
mod drain;
mod endings;
mod first_request;
mod first_run;
mod harness;
mod harness_selftest;
mod listeners;
mod reload;
mod streaming;
mod upstream;
mod websocket;
