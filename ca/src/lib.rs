//! The Bonafide CA.

mod admin_api;
mod audit;
mod authority;
mod cli;
mod clock_guard;
mod data_dir;
#[cfg(test)]
mod fixtures;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod issuance;
mod metrics;
mod node_api;
mod quota;
mod registry;
mod settings;
mod store;

pub use settings::{Lifetimes, Limits, Log, LogFormat, Settings, SettingsError};
