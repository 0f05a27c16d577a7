//! The Bonafide CA: issues short-lived certificates that carry a SPIFFE ID to the nodes and services of a trust domain.
//!
//! The program `bonafide-ca` is the usual way to run it. As a library it is [`start`], with [`Settings`] and a
//! [clock](bonafide_verifier::clock::Clock) that are passed in, which is how tests move months in one process.

mod admin_api;
mod audit;
mod authority;
pub mod cli;
mod clock_guard;
mod data_dir;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod fixtures;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod issuance;
mod local_socket;
mod metrics;
mod node_api;
mod quota;
mod registry;
mod running;
mod settings;
mod store;
mod token_service;
mod user_issuers;

pub use node_api::Limits as NodeApiLimits;
pub use quota::QuotaLimits;
pub use running::{Running, StartError, start};
pub use settings::{Lifetimes, Limits, Log, LogFormat, Settings, SettingsError, TokenEndpoint};
