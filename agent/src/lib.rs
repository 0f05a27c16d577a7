//! The Bonafide agent.

mod attest;
mod ca_client;
mod cli;
#[doc(hidden)]
pub mod fuzzing;
mod generated;
mod health;
mod join;
mod local_api;
mod metrics;
mod node_state;
mod renewal;
mod runtime_state;
mod settings;
mod svid_cache;
mod sync;
mod view;
mod workload_api;
