//! `bonafide-ca authority list`.

use bonafide_ca_api::generated::admin::ListAuthoritiesRequest;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::{answer, with_ca};
use super::output::{self, Output};
use super::{At, Failure};

/// Look at the keys that sign
#[derive(Debug, Subcommand)]
pub(crate) enum Authority {
    List(List),
}

/// List root, issuing, JWT and token authorities: the next, the current, and those still to be trusted for a while
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca authority list")]
pub(crate) struct List {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Listing {
    authorities: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    kind: String,
    state: String,
    not_before: Option<String>,
    not_after: Option<String>,
    active_from: Option<String>,
    withdraw_at: Option<String>,
}

impl Authority {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Self::List(list) = self;
        let answer = with_ca(&list.at, async |mut ca| answer(ca.list_authorities(ListAuthoritiesRequest {}).await))?;
        let shown = answer.authorities.into_iter().map(|authority| Shown {
            id: authority.id,
            kind: authority.kind,
            state: authority.state,
            not_before: output::time(authority.not_before_ms),
            not_after: output::time(authority.not_after_ms),
            active_from: output::time(authority.active_from_ms),
            withdraw_at: output::time(authority.withdraw_at_ms),
        });
        list.output.print(&Listing { authorities: shown.collect() }, |listing| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let rows = listing.authorities.iter().map(|shown| {
                vec![
                    shown.kind.clone(),
                    shown.state.clone(),
                    text(&shown.active_from),
                    text(&shown.not_after),
                    text(&shown.withdraw_at),
                    shown.id.clone(),
                ]
            });
            output::table(&["KIND", "STATE", "ACTIVE FROM", "EXPIRES", "WITHDRAWN", "ID"], rows)
        })
    }
}
