//! `bonafide-ca key`: create, list, revoke. Works on a file of key records; no CA is asked.

mod create;
mod file;
mod list;
mod revoke;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, output};

/// Create, list and revoke the keys of callers that have no certificate yet: API keys, and secrets for HS256 tokens
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    Create(Box<create::Create>),
    List(list::List),
    Revoke(revoke::Revoke),
}

impl Key {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(),
            Self::List(list) => list.run(),
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

/// Which records are meant.
#[derive(Args, Clone, Debug)]
pub(super) struct In {
    /// The file of key records of a service: the service reads it again when it changes. Its mode is 0600
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}
