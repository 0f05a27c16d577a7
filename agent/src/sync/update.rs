//! An update from the CA, judged as a whole before any of it counts: the next view, or the reason for none.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bonafide_ca_api::{Reason, Selector, SelectorError, generated::node};
use bonafide_verifier::spiffe::{BundleSet, SpiffeId, TrustBundle, TrustDomain};

use crate::view::{Position, Service, View};

/// What an update asks for.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// This view is next.
    Apply(View),
    /// A new epoch that takes services away: it waits for an operator's word.
    Hold(Held),
}

/// An epoch that waits for an operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Held {
    pub(crate) epoch: Arc<str>,
    /// How many of this node's services it takes away.
    pub(crate) services_removed: usize,
}

/// Why an update is refused whole.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(
        "version {offered} of epoch `{epoch}` lies before version {held}, which is applied: the CA has lost or hides changes; \
             if it was restored from a backup, that must begin a new epoch"
    )]
    VersionLowered { epoch: Arc<str>, offered: u64, held: u64 },
    #[error("the bundle of `{trust_domain}` has sequence {offered}, {held} is held; a bundle never goes back")]
    BundleSequenceLowered { trust_domain: TrustDomain, offered: u64, held: u64 },
    #[error("the bundle of `{trust_domain}` has sequence {sequence} as the one that is held, and other keys")]
    BundleChanged { trust_domain: TrustDomain, sequence: u64 },
    #[error("the update cannot be read: {0}")]
    Unreadable(String),
}

impl UpdateError {
    /// The reason in the acknowledgement, the log and the metrics.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::VersionLowered { .. } => Reason::VersionLowered,
            Self::BundleSequenceLowered { .. } | Self::BundleChanged { .. } => Reason::BundleSequenceLowered,
            Self::Unreadable(_) => Reason::UpdateUnreadable,
        }
    }
}

/// Judges `update` over `view`. `accepted` is the epoch that an operator has let in.
///
/// # Errors
/// When any part of it cannot be applied: then none is.
pub(crate) fn judge(view: &View, accepted: Option<&str>, update: &node::SyncResponse) -> Result<Verdict, UpdateError> {
    let position = position(update)?;
    let before = view.position();
    if let Some(before) = before
        && before.epoch == position.epoch
        && position.version < before.version
    {
        return Err(UpdateError::VersionLowered {
            epoch: position.epoch,
            offered: position.version,
            held: before.version,
        });
    }
    let bundles = bundles(view, update)?;
    let services = services(view, update)?;
    let token_keys = match &update.token_keys {
        None => Arc::clone(view.token_keys()),
        Some(change) => {
            let next = view.token_keys().with(change, view.trust_domain());
            Arc::new(next.map_err(|reason| unreadable(format!("token keys: {reason}")))?)
        }
    };
    if let Some(before) = before
        && before.epoch != position.epoch
        && accepted != Some(&*position.epoch)
    {
        let services_removed = view.services().iter().filter(|service| !services.contains_key(&service.id)).count();
        if services_removed > 0 {
            return Ok(Verdict::Hold(Held { epoch: position.epoch, services_removed }));
        }
    }
    let next = View::new(view.trust_domain().clone(), position, services.into_values().collect(), bundles);
    Ok(Verdict::Apply(next.with_token_keys(token_keys)))
}

/// The whole state that makes this view out of an empty one: as it is kept on disk.
pub(crate) fn whole(view: &View) -> node::SyncResponse {
    node::SyncResponse {
        position: view
            .position()
            .map(|position| node::Position { epoch: position.epoch.to_string(), version: position.version }),
        whole: true,
        services: view.services().iter().map(|service| to_wire(service)).collect(),
        removed: Vec::new(),
        bundles: view
            .bundles()
            .iter()
            .map(|bundle| node::TrustBundle {
                trust_domain: bundle.trust_domain().as_str().to_owned(),
                spiffe_json: bundle.to_spiffe_json().into(),
            })
            .collect(),
        now_ms: 0,
        token_keys: Some(view.token_keys().whole()),
    }
}

fn position(update: &node::SyncResponse) -> Result<Position, UpdateError> {
    let position = update.position.as_ref().ok_or_else(|| unreadable("it has no position"))?;
    let well_formed = !position.epoch.is_empty()
        && position.epoch.len() <= EPOCH_LIMIT
        && position.epoch.bytes().all(|byte| byte.is_ascii_graphic());
    if !well_formed {
        return Err(unreadable(format!("its epoch is not 1 to {EPOCH_LIMIT} printable characters")));
    }
    Ok(Position { epoch: position.epoch.as_str().into(), version: position.version })
}

fn bundles(view: &View, update: &node::SyncResponse) -> Result<BundleSet, UpdateError> {
    if update.bundles.len() > BUNDLES_LIMIT {
        return Err(unreadable(format!("{} bundles are more than {BUNDLES_LIMIT}", update.bundles.len())));
    }
    let mut next = if update.whole { BundleSet::empty() } else { view.bundles().clone() };
    let mut seen = std::collections::BTreeSet::new();
    for sent in &update.bundles {
        let trust_domain = TrustDomain::parse(&sent.trust_domain)
            .map_err(|error| unreadable(format!("the trust domain of a bundle: {error}")))?;
        if !seen.insert(trust_domain.clone()) {
            return Err(unreadable(format!("two bundles of `{trust_domain}`")));
        }
        let bundle = TrustBundle::parse_spiffe_json(trust_domain.clone(), &sent.spiffe_json)
            .map_err(|error| unreadable(format!("the bundle of `{trust_domain}`: {error}")))?;
        if bundle.x509_authorities().is_empty() && trust_domain == *view.trust_domain() {
            return Err(unreadable("the trust domain's own bundle has no X.509 authority"));
        }
        if let Some(held) = view.bundles().get(&trust_domain) {
            not_back(held, &bundle)?;
        }
        next = next.with(Arc::new(bundle));
    }
    if next.get(view.trust_domain()).is_none() {
        return Err(unreadable(format!("it leaves no bundle of `{}`", view.trust_domain())));
    }
    Ok(next)
}

fn not_back(held: &TrustBundle, offered: &TrustBundle) -> Result<(), UpdateError> {
    let (Some(held_sequence), Some(sequence)) = (held.sequence(), offered.sequence()) else { return Ok(()) };
    if sequence < held_sequence {
        return Err(UpdateError::BundleSequenceLowered {
            trust_domain: held.trust_domain().clone(),
            offered: sequence,
            held: held_sequence,
        });
    }
    if sequence == held_sequence && !held.same_keys(offered) {
        return Err(UpdateError::BundleChanged { trust_domain: held.trust_domain().clone(), sequence });
    }
    Ok(())
}

fn services(view: &View, update: &node::SyncResponse) -> Result<BTreeMap<Arc<str>, Arc<Service>>, UpdateError> {
    let mut next: BTreeMap<Arc<str>, Arc<Service>> = if update.whole {
        if !update.removed.is_empty() {
            return Err(unreadable("it is the whole state and names removed services"));
        }
        BTreeMap::new()
    } else {
        view.services().iter().map(|service| (Arc::clone(&service.id), Arc::clone(service))).collect()
    };
    for id in &update.removed {
        next.remove(id.as_str());
    }
    let mut seen = std::collections::BTreeSet::new();
    for sent in &update.services {
        if !seen.insert(&sent.id) || update.removed.contains(&sent.id) {
            return Err(unreadable(format!("the service `{}` stands in it twice", sent.id.escape_debug())));
        }
        match service(view.trust_domain(), sent)? {
            Some(service) => {
                next.insert(Arc::clone(&service.id), Arc::new(service));
            }
            // Fails closed: what cannot be attested here is not given to anyone here.
            None => {
                next.remove(sent.id.as_str());
            }
        }
    }
    if next.len() > SERVICES_LIMIT {
        return Err(unreadable(format!("{} services are more than {SERVICES_LIMIT}", next.len())));
    }
    Ok(next)
}

/// A service; `None` when it wants a kind of selector that this agent does not know: a newer CA may have some.
fn service(trust_domain: &TrustDomain, sent: &node::Service) -> Result<Option<Service>, UpdateError> {
    let name = sent.spiffe_id.escape_debug();
    let refuse = |reason: String| unreadable(format!("the service `{name}`: {reason}"));
    if sent.id.is_empty() || sent.id.len() > ID_LIMIT {
        return Err(refuse(format!("its id is not 1 to {ID_LIMIT} bytes")));
    }
    let spiffe_id = SpiffeId::parse(&sent.spiffe_id).map_err(|error| refuse(error.to_string()))?;
    if spiffe_id.trust_domain() != trust_domain {
        return Err(refuse(format!("it is not of `{trust_domain}`")));
    }
    if spiffe_id.is_reserved() || spiffe_id.path().is_empty() {
        return Err(refuse("no service may have this SPIFFE ID".into()));
    }
    if sent.selectors.len() > Selector::MAX_COUNT || sent.dns_names.len() > DNS_NAMES_LIMIT {
        return Err(refuse("it has too many selectors or DNS names".into()));
    }
    let mut selectors = Vec::with_capacity(sent.selectors.len());
    for text in &sent.selectors {
        match Selector::parse(text) {
            Ok(selector) => selectors.push(selector),
            Err(SelectorError::Kind { kind }) => {
                tracing::warn!(
                    spiffe_id = %spiffe_id,
                    selector = kind,
                    "the service wants a selector that this agent does not know; it is given to nobody here until the agent is updated"
                );
                return Ok(None);
            }
            Err(error) => return Err(refuse(error.to_string())),
        }
    }
    if !selectors.iter().any(Selector::is_user) {
        return Err(refuse("its selectors name no user".into()));
    }
    if sent.x509_ttl_s == 0 || sent.jwt_ttl_s == 0 {
        return Err(refuse("its SVIDs would live 0 s".into()));
    }
    if sent.edge_scopes.len() > EDGE_LIMIT || sent.edge_issuers.len() > EDGE_LIMIT {
        return Err(refuse(format!("it has more than {EDGE_LIMIT} scopes or issuers as an edge")));
    }
    let is_word =
        |word: &String| (1..=EDGE_WORD_LIMIT).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic());
    if !sent.edge_scopes.iter().chain(&sent.edge_issuers).all(is_word) {
        return Err(refuse("a scope or an issuer of it as an edge is no word".into()));
    }
    if sent.hint.len() > HINT_LIMIT {
        return Err(refuse(format!("its hint is longer than {HINT_LIMIT} bytes")));
    }
    Ok(Some(Service {
        id: sent.id.as_str().into(),
        version: sent.version,
        spiffe_id,
        selectors,
        x509_ttl: Duration::from_secs(sent.x509_ttl_s.into()),
        jwt_ttl: Duration::from_secs(sent.jwt_ttl_s.into()),
        dns_names: sent.dns_names.clone(),
        hint: sent.hint.clone(),
        edge_scopes: sent.edge_scopes.clone(),
        edge_issuers: sent.edge_issuers.clone(),
    }))
}

fn to_wire(service: &Service) -> node::Service {
    let seconds = |ttl: Duration| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    node::Service {
        id: service.id.to_string(),
        version: service.version,
        spiffe_id: service.spiffe_id.as_str().to_owned(),
        selectors: service.selectors.iter().map(ToString::to_string).collect(),
        x509_ttl_s: seconds(service.x509_ttl),
        jwt_ttl_s: seconds(service.jwt_ttl),
        dns_names: service.dns_names.clone(),
        hint: service.hint.clone(),
        edge_scopes: service.edge_scopes.clone(),
        edge_issuers: service.edge_issuers.clone(),
    }
}

fn unreadable(reason: impl Into<String>) -> UpdateError {
    UpdateError::Unreadable(reason.into())
}

const EPOCH_LIMIT: usize = 64;
const ID_LIMIT: usize = 128;
const HINT_LIMIT: usize = 1024;
const EDGE_LIMIT: usize = 64;
const EDGE_WORD_LIMIT: usize = 256;
const DNS_NAMES_LIMIT: usize = 64;
const SERVICES_LIMIT: usize = 200_000;
const BUNDLES_LIMIT: usize = 1_000;

#[cfg(test)]
mod tests;
