//! `bonafide-ca audit`: list, verify, export. They read the database themselves, so that they work with the CA up or down,
//! and do not have to believe it.

mod export;
mod list;
mod verify;

use std::path::Path;

use clap::Subcommand;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::audit::{Head, VerifyError};
use crate::data_dir;
use crate::store::{OpenError, ReadOnly};

/// List, verify and export the audit log: every issuance and every change, with who did it
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    List(list::List),
    Verify(verify::Verify),
    Export(export::Export),
}

impl Audit {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Verify(verify) => verify.run(),
            Self::Export(export) => export.run(),
        }
    }
}

/// The end of the log as it is exported: with it, a later verification notices a cut tail.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShownHead {
    pub(super) chain: String,
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl From<&Head> for ShownHead {
    fn from(head: &Head) -> Self {
        Self { chain: head.chain.to_string(), seq: head.seq, hash: HEXLOWER.encode(&head.hash) }
    }
}

impl ShownHead {
    fn to_head(&self) -> Option<Head> {
        let hash = HEXLOWER.decode(self.hash.as_bytes()).ok()?.try_into().ok()?;
        Some(Head { chain: self.chain.as_str().into(), seq: self.seq, hash })
    }
}

/// Opens the database of the CA in `data`, to read.
fn open(data: &Path) -> Result<ReadOnly, Failure> {
    ReadOnly::open(&data_dir::state_directory(data)).map_err(|error| match error {
        OpenError::Open { .. } => {
            Failure::Failed(format!("{error}; is `{}` the directory of a CA? (`--data`)", data.display()))
        }
        error => Failure::Failed(error.to_string()),
    })
}

/// A log that does not hold is a refusal; one that cannot be read, a failure.
fn no_verdict(error: VerifyError) -> Failure {
    match error {
        VerifyError::Broken(broken) => {
            Failure::Refused { message: broken.to_string(), code: "audit-broken".to_owned() }
        }
        error => Failure::Failed(error.to_string()),
    }
}
