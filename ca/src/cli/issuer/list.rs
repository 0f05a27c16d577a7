//! `bonafide-ca issuer list`.

use bonafide_ca_api::generated::admin::ListIssuersRequest;
use clap::Args;
use serde::Serialize;

use super::Shown;
use crate::cli::client::{answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// List the issuers of users and how old their keys are
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bonafide-ca issuer list\n  bonafide-ca issuer list --output json")]
pub(crate) struct List {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Listing {
    issuers: Vec<Shown>,
}

impl List {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let listed = with_ca(&self.at, async |mut ca| answer(ca.list_issuers(ListIssuersRequest {}).await))?;
        self.output.print(&Listing { issuers: listed.issuers.iter().map(Shown::from).collect() }, |listing| {
            if listing.issuers.is_empty() {
                return "no issuers; register one with `bonafide-ca issuer add`".to_owned();
            }
            let rows = listing
                .issuers
                .iter()
                .map(|shown| vec![shown.name.clone(), shown.url.clone(), shown.audiences.join(" "), shown.keys()]);
            output::table(&["NAME", "URL", "AUDIENCES", "KEYS"], rows)
        })
    }
}
