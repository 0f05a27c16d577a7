//! What the messages of the Workload API's streams mean: plain functions, no IO.
//!
//! Each message is the whole state (WAPI-04): what it does not list is gone (WAPI-08, -09). A message that lacks a field it
//! must have is no state at all and is dropped (WAPI-11). An SVID or bundle in it that cannot be used does not take the rest
//! with it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use zeroize::Zeroizing;

use crate::{
    clock::Timestamp,
    generated::workload::{JwtBundlesResponse, X509svid, X509svidResponse},
    spiffe::{BundleError, BundleSet, SpiffeId, SpiffeIdError, TrustBundle, TrustDomain},
    x509::{SvidError, X509Svid},
};

/// Which of several identities is meant.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Pick {
    /// The first listed: the API's default identity.
    #[default]
    Default,
    /// The first with this hint.
    Hint(String),
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
}

/// So many identities or bundles of one message are taken; one with more is dropped.
const MAX_ENTRIES: usize = 1024;

/// Bundles of one kind, by trust domain.
pub(super) type Bundles = BTreeMap<TrustDomain, TrustBundle>;

/// A message of the X.509 stream, understood.
#[derive(Debug)]
pub(super) struct X509State {
    pub(super) svid: Option<X509Svid>,
    pub(super) bundles: Bundles,
    /// What in it could not be used.
    pub(super) problems: Vec<Problem>,
}

/// Why a message is no state.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the Workload API sent an identity without `{field}`; the message is dropped")]
    MissingField { field: &'static str },
    #[error(
        "the Workload API sent {count} entries in one message, at most {MAX_ENTRIES} are taken; the message is dropped"
    )]
    TooManyEntries { count: usize },
}

/// Why a part of a message is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("the Workload API sent `{id}`, which is no SPIFFE ID: {source}")]
    Id { id: String, source: SpiffeIdError },
    #[error("the Workload API sent an SVID for `{id}` that is none: {source}")]
    Svid { id: SpiffeId, source: SvidError },
    #[error("the Workload API sent an SVID for `{id}` that says `{found}`")]
    OtherId { id: SpiffeId, found: SpiffeId },
    #[error("the Workload API sent an SVID for `{id}` that expired at {not_after}; now is {now}")]
    Expired { id: SpiffeId, not_after: Timestamp, now: Timestamp },
    #[error("the Workload API sent a trust bundle for `{name}` that is none: {source}")]
    Bundle { name: TrustDomain, source: BundleError },
    #[error("the Workload API lists no identity that is {wanted}")]
    NotListed { wanted: String },
}

/// Understands a message of the X.509 stream. `last` is the SVID in use: it stays when its identity is still listed with
/// a document that cannot be used.
pub(super) fn x509(
    response: X509svidResponse,
    pick: &Pick,
    last: Option<&X509Svid>,
    now: Timestamp,
) -> Result<X509State, MessageError> {
    let X509svidResponse { svids, crl: _, federated_bundles } = response;
    let count = svids.len() + federated_bundles.len();
    if count > MAX_ENTRIES {
        return Err(MessageError::TooManyEntries { count });
    }
    svids.iter().try_for_each(complete)?;

    let mut problems = Vec::new();
    let mut bundles = Bundles::new();
    let mut picked = None;
    let mut hints = HashSet::new();
    for (index, entry) in svids.into_iter().enumerate() {
        let key = Zeroizing::new(entry.x509_svid_key);
        let id = match SpiffeId::parse(&entry.spiffe_id) {
            Ok(id) => id,
            Err(source) => {
                problems.push(Problem::Id { id: shown(&entry.spiffe_id), source });
                continue;
            }
        };
        add_bundle(&mut bundles, id.trust_domain(), &entry.bundle, &mut problems);
        // A hint that was there already is not this one's (WAPI-18).
        let hint_is_its = entry.hint.is_empty() || hints.insert(entry.hint.clone());
        let wanted = match pick {
            // Where the first names nobody, the second is not the default instead (WAPI-35).
            Pick::Default => index == 0,
            Pick::Hint(hint) => hint_is_its && entry.hint == *hint,
            Pick::Id(wanted) => id == *wanted,
        };
        if wanted && picked.is_none() {
            picked = Some((id, entry.x509_svid, key, entry.hint));
        }
    }
    for (name, der) in federated_bundles {
        match foreign_name(&name) {
            // The own bundle wins over a foreign one of that name.
            Ok(trust_domain) if bundles.contains_key(&trust_domain) => (),
            Ok(trust_domain) => add_bundle(&mut bundles, &trust_domain, &der, &mut problems),
            Err(source) => problems.push(Problem::Id { id: shown(&name), source }),
        }
    }
    let svid = match picked {
        Some((id, chain, key, hint)) => match usable(&id, &chain, key, now) {
            Ok(svid) => Some(svid.with_hint(&hint)),
            Err(problem) => {
                problems.push(problem);
                last.filter(|last| *last.id() == id).cloned()
            }
        },
        None => {
            let wanted = match pick {
                Pick::Default => "ours".to_owned(),
                Pick::Hint(hint) => format!("hinted `{}`", shown(hint)),
                Pick::Id(id) => format!("`{id}`"),
            };
            problems.push(Problem::NotListed { wanted });
            None
        }
    };
    Ok(X509State { svid, bundles, problems })
}

/// Understands a message of the JWT bundle stream.
pub(super) fn jwt(response: JwtBundlesResponse) -> Result<(Bundles, Vec<Problem>), MessageError> {
    let count = response.bundles.len();
    if count > MAX_ENTRIES {
        return Err(MessageError::TooManyEntries { count });
    }
    let (mut bundles, mut problems) = (Bundles::new(), Vec::new());
    for (name, document) in response.bundles {
        let parsed = match foreign_name(&name) {
            Ok(trust_domain) => TrustBundle::parse_jwks(trust_domain.clone(), &document)
                .map_err(|source| Problem::Bundle { name: trust_domain, source }),
            Err(source) => Err(Problem::Id { id: shown(&name), source }),
        };
        match parsed {
            Ok(bundle) => drop(bundles.insert(bundle.trust_domain().clone(), bundle)),
            Err(problem) => problems.push(problem),
        }
    }
    Ok((bundles, problems))
}

/// The bundles of both kinds, each kind for its own SVIDs alone (WAPI-13).
pub(super) fn merged(x509: &Bundles, jwt: &Bundles) -> BundleSet {
    let with_both = x509.iter().map(|(name, bundle)| match jwt.get(name) {
        Some(keys) => bundle.with_jwt_authorities_of(keys),
        None => bundle.clone(),
    });
    let jwt_alone = jwt.iter().filter(|(name, _)| !x509.contains_key(*name)).map(|(_, bundle)| bundle.clone());
    with_both.chain(jwt_alone).map(Arc::new).collect()
}

/// WAPI-15: every field but the hint.
fn complete(entry: &X509svid) -> Result<(), MessageError> {
    let missing = [
        ("spiffe_id", entry.spiffe_id.is_empty()),
        ("x509_svid", entry.x509_svid.is_empty()),
        ("x509_svid_key", entry.x509_svid_key.is_empty()),
        ("bundle", entry.bundle.is_empty()),
    ];
    match missing.into_iter().find(|(_, missing)| *missing) {
        Some((field, _)) => Err(MessageError::MissingField { field }),
        None => Ok(()),
    }
}

fn usable(id: &SpiffeId, chain: &[u8], key: Zeroizing<Vec<u8>>, now: Timestamp) -> Result<X509Svid, Problem> {
    let svid = X509Svid::from_der(chain, key).map_err(|source| Problem::Svid { id: id.clone(), source })?;
    if svid.id() != id {
        return Err(Problem::OtherId { id: id.clone(), found: svid.id().clone() });
    }
    if svid.not_after() <= now {
        return Err(Problem::Expired { id: id.clone(), not_after: svid.not_after(), now });
    }
    Ok(svid)
}

/// The same trust domain's bundle stands beside each of its SVIDs; the first one that can be read counts.
fn add_bundle(bundles: &mut Bundles, trust_domain: &TrustDomain, der: &[u8], problems: &mut Vec<Problem>) {
    if bundles.contains_key(trust_domain) {
        return;
    }
    match TrustBundle::parse_der(trust_domain.clone(), der) {
        Ok(bundle) => drop(bundles.insert(trust_domain.clone(), bundle)),
        Err(source) => problems.push(Problem::Bundle { name: trust_domain.clone(), source }),
    }
}

/// Keys of the maps are SPIFFE IDs of trust domains; the bare name is taken too, as other clients do.
fn foreign_name(name: &str) -> Result<TrustDomain, SpiffeIdError> {
    let id = match name.starts_with("spiffe://") {
        true => SpiffeId::parse(name)?,
        false => SpiffeId::parse(&format!("spiffe://{name}"))?,
    };
    Ok(id.trust_domain().clone())
}

/// A stranger's text, fit for a log.
fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
