//! `bonafide-ca service list`.

use bonafide_ca_api::generated::admin::{self, ListServicesRequest};
use clap::Args;
use serde::Serialize;

use super::Shown;
use crate::cli::client::{answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// List the services and how many nodes have them
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bonafide-ca service list\n  bonafide-ca service list --output json")]
pub(crate) struct List {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Listing {
    services: Vec<Shown>,
}

impl List {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let services = with_ca(&self.at, async |mut ca| {
            let mut services: Vec<admin::Service> = Vec::new();
            loop {
                let after = services.last().map(|service| path_of(&service.spiffe_id)).unwrap_or_default();
                let page = answer(ca.list_services(ListServicesRequest { page_size: 0, after }).await)?;
                let more = page.more && !page.services.is_empty();
                services.extend(page.services);
                if !more {
                    return Ok(services);
                }
            }
        })?;
        self.output.print(&Listing { services: services.iter().map(Shown::from).collect() }, |listing| {
            if listing.services.is_empty() {
                return "no services; register one with `bonafide-ca service add`".to_owned();
            }
            let rows = listing.services.iter().map(|shown| {
                let ttl = std::time::Duration::from_secs(shown.x509_ttl_s.into());
                vec![
                    shown.spiffe_id.clone(),
                    shown.selectors.join(" "),
                    shown.on.join(" "),
                    crate::settings::duration::print(ttl),
                    shown.edge_scopes.join(" "),
                    shown.nodes(),
                ]
            });
            output::table(&["SPIFFE ID", "SELECTORS", "ON", "TTL", "EDGE", "NODES"], rows)
        })
    }
}

/// `/photo` of `spiffe://example.org/photo`.
fn path_of(spiffe_id: &str) -> String {
    let without_scheme = spiffe_id.split_once("://").map_or(spiffe_id, |(_, rest)| rest);
    without_scheme.split_once('/').map(|(_, path)| format!("/{path}")).unwrap_or_default()
}
