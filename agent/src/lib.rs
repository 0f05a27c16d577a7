//! The agent of a node: it joins a Bonafide CA, attests the processes on the node, and hands them the SPIFFE identities they may
//! have, over the SPIFFE Workload API.
//!
//! [`running::start`] is the whole agent in one call; the program `bonafide-agent` is [`cli::main`].

mod attest;
pub mod ca_client;
pub mod cli;
mod exact_codec;
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
mod rate;
mod renewal;
pub mod running;
mod runtime_state;
pub mod settings;
mod state_file;
mod svid_cache;
mod sync;
#[cfg(test)]
mod testing;
mod token_service;
mod view;
mod workload_api;
