//! `bonafide-ca service`: add, list, show, update, remove.

mod add;
mod list;
mod remove;
mod show;
mod update;

use bonafide_ca_api::generated::admin;
use bonafide_ca_api::{Placement, RESERVED_SEGMENT, Selector};
use bonafide_verifier::spiffe::{SpiffeId, TrustDomain};
use clap::Subcommand;
use serde::Serialize;

use super::{Failure, output};

/// Register, list, show, change and remove services
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    Add(add::Add),
    List(list::List),
    Show(show::Show),
    Update(update::Update),
    Remove(remove::Remove),
}

impl Service {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run(),
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Update(update) => update.run(),
            Self::Remove(remove) => remove.run(),
        }
    }
}

/// A service as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) id: String,
    pub(super) spiffe_id: String,
    pub(super) selectors: Vec<String>,
    pub(super) on: Vec<String>,
    pub(super) x509_ttl_s: u32,
    pub(super) jwt_ttl_s: u32,
    pub(super) dns_names: Vec<String>,
    pub(super) hint: String,
    pub(super) version: u64,
    pub(super) created_at: Option<String>,
    pub(super) updated_at: Option<String>,
    pub(super) nodes: u32,
    pub(super) nodes_acknowledged: u32,
    pub(super) edge_scopes: Vec<String>,
    pub(super) edge_issuers: Vec<String>,
}

impl From<&admin::Service> for Shown {
    fn from(service: &admin::Service) -> Self {
        Self {
            id: service.id.clone(),
            spiffe_id: service.spiffe_id.clone(),
            selectors: service.selectors.clone(),
            on: service.on.clone(),
            x509_ttl_s: service.x509_ttl_s,
            jwt_ttl_s: service.jwt_ttl_s,
            dns_names: service.dns_names.clone(),
            hint: service.hint.clone(),
            version: service.version,
            created_at: output::time(service.created_at_ms),
            updated_at: output::time(service.updated_at_ms),
            nodes: service.nodes,
            nodes_acknowledged: service.nodes_acknowledged,
            edge_scopes: service.edge_scopes.clone(),
            edge_issuers: service.edge_issuers.clone(),
        }
    }
}

impl Shown {
    /// Every field, for a person.
    pub(super) fn list(&self) -> String {
        let ttl = |seconds: u32| crate::settings::duration::print(std::time::Duration::from_secs(seconds.into()));
        output::list([
            ("spiffe id", self.spiffe_id.clone()),
            ("selectors", self.selectors.join(" ")),
            ("on", self.on.join(" ")),
            ("x509 ttl", ttl(self.x509_ttl_s)),
            ("jwt ttl", ttl(self.jwt_ttl_s)),
            ("dns names", self.dns_names.join(" ")),
            ("hint", self.hint.clone()),
            ("edge scopes", self.edge_scopes.join(" ")),
            ("edge issuers", self.edge_issuers.join(" ")),
            ("nodes", self.nodes()),
            ("changed", self.updated_at.clone().unwrap_or_default()),
        ])
    }

    /// How far the service has come: `2 of 3`.
    pub(super) fn nodes(&self) -> String {
        match (self.nodes_acknowledged, self.nodes) {
            (_, 0) => "none yet".to_owned(),
            (applied, all) => format!("{applied} of {all} have it"),
        }
    }
}

/// A service's path as it is typed: `photo`, `/photo`, or its whole SPIFFE ID. The CA checks it again, against its own
/// trust domain.
pub(super) fn parse_path(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "/" {
        return Err("a service needs a path, for example `photo`".to_owned());
    }
    let id = if text.contains("://") {
        SpiffeId::parse(text).map_err(|error| error.to_string())?
    } else {
        let path = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
        let any = TrustDomain::parse("x").map_err(|error| error.to_string())?;
        SpiffeId::new(&any, &path).map_err(|error| error.to_string())?
    };
    if id.path().is_empty() {
        return Err("a service needs a path, for example `photo`".to_owned());
    }
    if id.is_reserved() {
        return Err(format!("paths under `/{RESERVED_SEGMENT}` are reserved; choose another"));
    }
    Ok(if text.contains("://") { text.to_owned() } else { id.path().to_owned() })
}

pub(super) fn parse_selector(text: &str) -> Result<String, String> {
    Selector::parse(text).map(|selector| selector.to_string()).map_err(|error| error.to_string())
}

pub(super) fn parse_placement(text: &str) -> Result<String, String> {
    Placement::parse(text).map(|placement| placement.to_string()).map_err(|error| error.to_string())
}

pub(super) const SELECTOR_HELP: &str = "\
Selectors, all of which must match, and one of which must name the user:
  unix:uid:1000                  unix:user:photo
  unix:gid:1000                  unix:group:photo       unix:supplementary-gid:27
  unix:path:/usr/bin/photo       unix:sha256:HEX (of the executable; `sha256sum FILE`)
";
