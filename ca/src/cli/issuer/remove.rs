//! `bonafide-ca issuer remove NAME`.

use bonafide_ca_api::generated::admin::RemoveIssuerRequest;
use clap::Args;
use serde::Serialize;

use super::parse_name;
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure};

/// Believe an issuer's tokens no more
///
/// Transaction tokens that were made from them count until they expire, minutes later.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca issuer remove corp")]
pub(crate) struct Remove {
    /// Its name
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl Remove {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = RemoveIssuerRequest { name: self.name.clone() };
        with_ca(&self.at, async |mut ca| answer(ca.remove_issuer(request).await))?;
        self.output.print(&Removed { removed: self.name }, |removed| {
            format!("removed issuer {}; its users are nobody's from now on", removed.removed)
        })
    }
}
