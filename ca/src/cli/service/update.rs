//! `bonafide-ca service update PATH`.

use std::time::Duration;

use bonafide_ca_api::generated::admin::{StringList, UpdateServiceRequest};
use clap::Args;
use clap::builder::StyledStr;

use super::{Shown, parse_path, parse_placement, parse_selector};
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure, seconds};
use crate::settings::duration;

/// Change a service; what is not named stays as it is
///
/// A list that is named replaces the whole list. Nodes that may no longer hold the service lose it at once; SVIDs
/// issued before stay valid for verifiers until they expire.
#[derive(Args, Debug)]
#[command(after_help = help())]
pub(crate) struct Update {
    /// The path of its SPIFFE ID
    #[arg(value_parser = parse_path)]
    path: String,
    /// The selectors from now on; may be repeated
    #[arg(long = "selector", value_name = "SELECTOR", value_parser = parse_selector)]
    selectors: Vec<String>,
    /// Where it may run from now on; may be repeated
    #[arg(long = "on", value_name = "WHERE", value_parser = parse_placement)]
    on: Vec<String>,
    /// Lifetime of its X.509-SVIDs
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// Lifetime of its JWT-SVIDs
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    jwt_ttl: Option<Duration>,
    /// The DNS names from now on; may be repeated
    #[arg(long = "dns", value_name = "NAME", conflicts_with = "no_dns")]
    dns_names: Vec<String>,
    /// No DNS names from now on
    #[arg(long)]
    no_dns: bool,
    /// The hint from now on; empty takes it away
    #[arg(long, value_name = "WORD")]
    hint: Option<String>,
    /// The scopes of the edge from now on; may be repeated
    #[arg(long = "edge-scope", value_name = "SCOPE", conflicts_with = "no_edge")]
    edge_scopes: Vec<String>,
    /// The issuers of the edge's users from now on; may be repeated
    #[arg(long = "edge-issuer", value_name = "ISSUER", conflicts_with_all = ["no_edge", "no_edge_issuer"])]
    edge_issuers: Vec<String>,
    /// No issuers from now on: an edge that begins transactions of its own alone
    #[arg(long, conflicts_with = "no_edge")]
    no_edge_issuer: bool,
    /// No edge from now on; what was delegated for it ends at once
    #[arg(long)]
    no_edge: bool,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

fn help() -> StyledStr {
    format!("{}\nExample:\n  bonafide-ca service update photo --on group=web --on web-9", super::SELECTOR_HELP).into()
}

impl Update {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let list = |values: Vec<String>| (!values.is_empty()).then_some(StringList { values });
        let request = UpdateServiceRequest {
            path: self.path,
            selectors: list(self.selectors),
            on: list(self.on),
            x509_ttl_s: self.ttl.map(|ttl| seconds(Some(ttl))).transpose()?,
            jwt_ttl_s: self.jwt_ttl.map(|ttl| seconds(Some(ttl))).transpose()?,
            dns_names: if self.no_dns { Some(StringList::default()) } else { list(self.dns_names) },
            hint: self.hint,
            edge_scopes: if self.no_edge { Some(StringList::default()) } else { list(self.edge_scopes) },
            edge_issuers: if self.no_edge_issuer { Some(StringList::default()) } else { list(self.edge_issuers) },
        };
        let nothing = UpdateServiceRequest { path: request.path.clone(), ..UpdateServiceRequest::default() };
        if request == nothing {
            return Err(Failure::Usage("nothing to change; name at least one of the options (see --help)".to_owned()));
        }
        let service = with_ca(&self.at, async |mut ca| answer(ca.update_service(request).await))?;
        self.output.print(&Shown::from(&service), Shown::list)
    }
}
