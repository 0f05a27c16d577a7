//! `bonafide-ca issuer show NAME`.

use bonafide_ca_api::generated::admin::ShowIssuerRequest;
use clap::Args;

use super::{Shown, parse_name};
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure};

/// Show one issuer of users: its settings, its keys, why they could not be fetched
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca issuer show corp")]
pub(crate) struct Show {
    /// Its name
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

impl Show {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = ShowIssuerRequest { name: self.name };
        let issuer = with_ca(&self.at, async |mut ca| answer(ca.show_issuer(request).await))?;
        self.output.print(&Shown::from(&issuer), Shown::list)
    }
}
