//! `bonafide-ca issuer refresh NAME`.

use bonafide_ca_api::generated::admin::RefreshIssuerRequest;
use clap::Args;

use super::{Shown, parse_name};
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure};

/// Fetch an issuer's keys now
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca issuer refresh corp")]
pub(crate) struct Refresh {
    /// Its name
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

impl Refresh {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = RefreshIssuerRequest { name: self.name };
        let issuer = with_ca(&self.at, async |mut ca| answer(ca.refresh_issuer(request).await))?;
        self.output.print(&Shown::from(&issuer), Shown::list)
    }
}
