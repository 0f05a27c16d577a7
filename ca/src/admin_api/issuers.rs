//! Commands about issuers of users.

use bonafide_ca_api::{
    Reason,
    generated::admin::{self, AddIssuerRequest},
    refusal,
};
use bonafide_verifier::{
    clock::Timestamp,
    jwt::{Algorithm, MAX_AUDIENCES, user_issuers::UserIssuerSettings},
    user::IssuerName,
};
use tonic::Status;
use tracing::info;

use super::{AdminApi, bounded, invalid, refuse};
use crate::{
    audit::Who,
    registry::{Issuer, KeySource, NewIssuer},
};

impl AdminApi {
    /// Registers an issuer and asks it for its keys at once: what is wrong with it shows while somebody looks.
    pub(super) async fn issuer_added(&self, request: AddIssuerRequest, who: Who) -> Result<admin::Issuer, Status> {
        bounded("audiences", &request.audiences, MAX_AUDIENCES)?;
        bounded("algorithms", &request.algorithms, Algorithm::ALL.len())?;
        let algorithms = match request.algorithms.as_slice() {
            [] => DEFAULT_ALGORITHMS.to_vec(),
            names => names.iter().map(|name| algorithm(name)).collect::<Result<_, _>>()?,
        };
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let new = NewIssuer {
            settings: UserIssuerSettings {
                name: parse_name(&request.name)?,
                url: request.url,
                audiences: request.audiences,
                algorithms,
                roles_claim: text(request.roles_claim),
            },
            roots: text(request.ca_pem),
            jwks: Some(request.jwks).filter(|jwks| !jwks.is_empty()),
        };
        let added = self.registry.add_issuer(new, who.clone()).await.map_err(refuse::issuer)?;
        info!(issuer = %added.name(), url = added.settings.url, by = %who, "registered issuer");
        if added.source == KeySource::Fetched {
            // A failure is told in the answer; the issuer is registered either way.
            let _ = self.issuers.refresh(added.name(), who).await;
        }
        let snapshot = self.registry.load();
        Ok(self.issuer(snapshot.issuer(added.name()).unwrap_or(&added)))
    }

    /// The issuer of that name as it is now.
    pub(super) fn issuer_shown(&self, name: &str) -> Result<admin::Issuer, Status> {
        let snapshot = self.registry.load();
        let issuer = IssuerName::parse(name).ok().and_then(|name| snapshot.issuer(&name).cloned());
        issuer.map(|issuer| self.issuer(&issuer)).ok_or_else(|| refuse::issuer_unknown(name))
    }

    /// Fetches its keys now.
    pub(super) async fn issuer_refreshed(&self, name: &str, who: Who) -> Result<admin::Issuer, Status> {
        let name = IssuerName::parse(name).map_err(|_| refuse::issuer_unknown(name))?;
        let refreshed = self.issuers.refresh(&name, who).await;
        refreshed.map(|issuer| self.issuer(&issuer)).map_err(refuse::refresh)
    }

    /// An edge names issuers that are registered, beside those that it has named before: a name that is mistyped would refuse its users without a word.
    pub(super) fn issuers_known(&self, named: &[String], before: &[String]) -> Result<(), Status> {
        let snapshot = self.registry.load();
        let registered: Vec<&str> = snapshot.issuers().map(|issuer| issuer.name().as_str()).collect();
        // What is no name at all, the registry refuses.
        let is_known = |name: &&String| {
            registered.contains(&name.as_str()) || before.contains(name) || IssuerName::parse(name).is_err()
        };
        match named.iter().find(|name| !is_known(name)) {
            Some(name) => Err(refuse::edge_issuer_unknown(name, &registered)),
            None => Ok(()),
        }
    }

    /// The paths of the edges that name an issuer.
    pub(super) fn edges_of(&self, name: &IssuerName) -> Vec<String> {
        let names = |issuers: &[String]| issuers.iter().any(|named| named == name.as_str());
        let snapshot = self.registry.load();
        let services = snapshot.services().into_iter();
        let edges = services.filter(|service| service.edge.as_ref().is_some_and(|edge| names(&edge.issuers)));
        edges.map(|service| service.path().to_owned()).collect()
    }

    pub(super) fn issuer(&self, issuer: &Issuer) -> admin::Issuer {
        let settings = &issuer.settings;
        let failure = self.issuers.failure(issuer.name());
        let keys = issuer.keys.iter().flat_map(|held| held.keys.key_ids());
        let counts = issuer.believed_at(self.clock.now()).ok();
        let counts = |key_id: &&str| counts.as_ref().is_some_and(|issuer| issuer.has_key(key_id));
        admin::Issuer {
            name: settings.name.to_string(),
            url: settings.url.clone(),
            audiences: settings.audiences.clone(),
            algorithms: settings.algorithms.iter().map(ToString::to_string).collect(),
            roles_claim: settings.roles_claim.clone().unwrap_or_default(),
            own_roots: issuer.roots.is_some(),
            keys_from_file: issuer.source == KeySource::File,
            key_ids: keys.filter(counts).map(str::to_owned).collect(),
            keys_at_ms: issuer.keys.as_ref().map_or(0, |held| held.at.unix_millis()),
            keys_until_ms: issuer.keys_until().map_or(0, Timestamp::unix_millis),
            failure: failure.as_ref().map(ToString::to_string).unwrap_or_default(),
            failure_reason: failure.map(|failure| failure.code().to_owned()).unwrap_or_default(),
            created_at_ms: issuer.created_at.unix_millis(),
            updated_at_ms: issuer.updated_at.unix_millis(),
        }
    }
}

fn parse_name(name: &str) -> Result<IssuerName, Status> {
    IssuerName::parse(name).map_err(invalid)
}

fn algorithm(name: &str) -> Result<Algorithm, Status> {
    let names = || Algorithm::ALL.map(Algorithm::name).join(", ");
    Algorithm::from_name(name).ok_or_else(|| {
        let name: String = name.chars().take(32).collect();
        let text = format!("`{}` is no algorithm that is taken; {} are", name.escape_debug(), names());
        refusal(Reason::InvalidValue, text, None)
    })
}

/// What nearly all providers sign with.
const DEFAULT_ALGORITHMS: [Algorithm; 2] = [Algorithm::Es256, Algorithm::Rs256];
