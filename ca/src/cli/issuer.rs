//! `bonafide-ca issuer`: add, list, show, refresh, remove.

mod add;
mod list;
mod refresh;
mod remove;
mod show;

use bonafide_ca_api::generated::admin;
use bonafide_verifier::user::IssuerName;
use clap::Subcommand;
use serde::Serialize;

use super::{Failure, output};

/// Register, list, show, refresh and remove issuers of users: OpenID Connect providers whose tokens about users are believed
#[derive(Debug, Subcommand)]
pub(crate) enum Issuer {
    Add(add::Add),
    List(list::List),
    Show(show::Show),
    Refresh(refresh::Refresh),
    Remove(remove::Remove),
}

impl Issuer {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run(),
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Refresh(refresh) => refresh.run(),
            Self::Remove(remove) => remove.run(),
        }
    }
}

/// An issuer as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) audiences: Vec<String>,
    pub(super) algorithms: Vec<String>,
    pub(super) roles_claim: Option<String>,
    pub(super) own_roots: bool,
    pub(super) keys_from_file: bool,
    pub(super) keys: Vec<String>,
    pub(super) keys_at: Option<String>,
    pub(super) keys_until: Option<String>,
    pub(super) failure: Option<String>,
    pub(super) failure_reason: Option<String>,
    pub(super) created_at: Option<String>,
    pub(super) updated_at: Option<String>,
}

impl From<&admin::Issuer> for Shown {
    fn from(issuer: &admin::Issuer) -> Self {
        let text = |text: &String| Some(output::printable(text)).filter(|text| !text.is_empty());
        Self {
            name: issuer.name.clone(),
            url: issuer.url.clone(),
            audiences: issuer.audiences.clone(),
            algorithms: issuer.algorithms.clone(),
            roles_claim: text(&issuer.roles_claim),
            own_roots: issuer.own_roots,
            keys_from_file: issuer.keys_from_file,
            keys: issuer.key_ids.iter().map(|key_id| output::printable(key_id)).collect(),
            keys_at: output::time(issuer.keys_at_ms),
            keys_until: output::time(issuer.keys_until_ms),
            failure: text(&issuer.failure),
            failure_reason: text(&issuer.failure_reason),
            created_at: output::time(issuer.created_at_ms),
            updated_at: output::time(issuer.updated_at_ms),
        }
    }
}

impl Shown {
    /// Every field, for a person.
    pub(super) fn list(&self) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        output::list([
            ("name", self.name.clone()),
            ("url", self.url.clone()),
            ("audiences", self.audiences.join(" ")),
            ("algorithms", self.algorithms.join(" ")),
            ("roles claim", text(&self.roles_claim)),
            ("tls roots", if self.own_roots { "given" } else { "of the system" }.to_owned()),
            ("keys", self.keys.join(" ")),
            (
                "keys from",
                if self.keys_from_file { "a file".to_owned() } else { format!("the issuer, {}", text(&self.keys_at)) },
            ),
            ("keys until", text(&self.keys_until)),
            ("failing", text(&self.failure)),
            ("changed", text(&self.updated_at)),
        ])
    }

    /// Its keys in a few words: what an operator looks for first.
    pub(super) fn keys(&self) -> String {
        match (self.keys.len(), &self.failure) {
            (0, Some(failure)) => format!("no keys: {failure}"),
            (0, None) => "no keys".to_owned(),
            (count, Some(_)) => format!("{count}, not fetched since {}", self.keys_at.as_deref().unwrap_or("?")),
            (count, None) => count.to_string(),
        }
    }
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    IssuerName::parse(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}
