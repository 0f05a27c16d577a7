//! The Bonafide agent.

mod attest;
pub mod ca_client;
mod cli;
#[doc(hidden)]
pub mod fuzzing;
mod generated;
pub mod health;
mod join;
mod local_api;
pub mod membership;
pub mod metrics;
mod node_state;
mod node_status;
mod renewal;
mod runtime_state;
pub mod settings;
mod state_file;
mod svid_cache;
mod sync;
#[cfg(test)]
mod testing;
mod view;
mod workload_api;
