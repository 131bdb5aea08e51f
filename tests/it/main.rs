//! The integration tests: one binary, one file for each behaviour.
//!
//! Every test drives the real `sidekey` binary on free ports, against upstreams that live inside the test process.
//! Nothing here reaches beyond the machine, and nothing waits for a fixed time: tests await events, with a deadline.

mod admin;
mod admin_access;
mod admin_documents;
mod api;
mod architecture;
mod attack;
mod audit;
mod browser_guard;
mod cached;
mod counted;
mod deadlines;
mod drain;
mod egress;
mod endings;
mod entered;
mod first_request;
mod first_run;
mod forward_proxy;
mod framing_chunked;
mod framing_h2;
mod framing_requests;
mod framing_responses;
mod framing_sequences;
mod h2_frames;
mod harness;
mod harness_selftest;
mod hop_by_hop;
mod hygiene;
mod injection;
mod injection_body;
mod leaks;
mod limits;
mod listeners;
mod measured;
mod openapi;
mod overload;
mod packaging;
mod refusals;
mod reload;
mod replaced;
mod roles;
mod scopes;
mod secrets;
mod streaming;
mod tagging;
mod targets;
mod untagged;
mod upstream;
mod websocket;
