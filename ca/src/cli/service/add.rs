//! `bonafide-ca service add PATH`.

use std::time::Duration;

use bonafide_ca_api::generated::admin::AddServiceRequest;
use clap::Args;
use clap::builder::StyledStr;

use super::{Shown, parse_path, parse_placement, parse_selector};
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure, seconds};
use crate::settings::duration;

/// Register a service: which processes, on which nodes, have this SPIFFE ID
#[derive(Args, Debug)]
#[command(after_help = help())]
pub(crate) struct Add {
    /// The path of its SPIFFE ID, for example `photo` for spiffe://example.org/photo
    #[arg(value_parser = parse_path)]
    path: String,
    /// A fact that a process must show; may be repeated, then all must match
    #[arg(long = "selector", value_name = "SELECTOR", required = true, value_parser = parse_selector)]
    selectors: Vec<String>,
    /// Where it may run: a node's name, LABEL=VALUE or `any`; may be repeated
    #[arg(long = "on", value_name = "WHERE", required = true, value_parser = parse_placement)]
    on: Vec<String>,
    /// Lifetime of its X.509-SVIDs, at least 10s [default: the CA's, 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// Lifetime of its JWT-SVIDs, at least 10s [default: the CA's, 5m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    jwt_ttl: Option<Duration>,
    /// A DNS name in its X.509-SVIDs; may be repeated
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// A word by which a process with several identities picks this one
    #[arg(long, value_name = "WORD", default_value = "", hide_default_value = true)]
    hint: String,
    /// Makes it an edge, which may have users' tokens exchanged for transaction tokens of this scope; may be repeated
    #[arg(long = "edge-scope", value_name = "SCOPE")]
    edge_scopes: Vec<String>,
    /// Whose users the edge takes, by the name of a registered issuer; may be repeated [default: none, it starts only transactions of its own]
    #[arg(long = "edge-issuer", value_name = "ISSUER", requires = "edge_scopes")]
    edge_issuers: Vec<String>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

fn help() -> StyledStr {
    format!(
        "{}\nExamples:\n  bonafide-ca service add photo --selector unix:user:photo --on group=web\n  \
         bonafide-ca service add db --selector unix:uid:105 --selector unix:path:/bin/db --on n1 --ttl 30m\n  \
         bonafide-ca service add web --selector unix:user:web --on n1 --edge-scope photo.read",
        super::SELECTOR_HELP
    )
    .into()
}

impl Add {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = AddServiceRequest {
            path: self.path,
            selectors: self.selectors,
            on: self.on,
            x509_ttl_s: seconds(self.ttl)?,
            jwt_ttl_s: seconds(self.jwt_ttl)?,
            dns_names: self.dns_names,
            hint: self.hint,
            edge_scopes: self.edge_scopes,
            edge_issuers: self.edge_issuers,
        };
        let service = with_ca(&self.at, async |mut ca| answer(ca.add_service(request).await))?;
        self.output.print(&Shown::from(&service), |shown| {
            let nodes = match shown.nodes {
                0 => "no live node may hold it yet".to_owned(),
                1 => "1 live node may hold it".to_owned(),
                nodes => format!("{nodes} live nodes may hold it"),
            };
            format!("registered {} on {}; {nodes}", shown.spiffe_id, shown.on.join(" "))
        })
    }
}
