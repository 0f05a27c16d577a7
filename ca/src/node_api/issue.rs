//! SVIDs for the services that a node may hold, each item decided by itself.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bonafide_ca_api::{
    Reason,
    generated::node::{
        IssueJwtRequest, IssueJwtResponse, IssueX509Request, IssueX509Response, X509Item, X509Result,
        x509_result::Result as Outcome,
    },
};

use super::{
    NodeApi,
    peer::NodeCaller,
    refuse::{Refused, service_not_held},
};
use crate::{
    audit::SvidKind,
    issuance::{KeyHash, LeafRequest, PublicKey, Recipient, jwt},
    registry::{Node, Service, Snapshot},
};

/// Issues X.509-SVIDs.
///
/// # Errors
/// What keeps the whole batch from being decided. What keeps one item stands in its place.
pub(super) async fn x509(
    api: &NodeApi,
    caller: &NodeCaller,
    request: IssueX509Request,
) -> Result<IssueX509Response, Refused> {
    if request.items.len() > api.limits.batch {
        return Err(Refused::because(
            Reason::BatchTooLarge,
            format!("{} items, at most {} in one request", request.items.len(), api.limits.batch),
        ));
    }
    let snapshot = api.registry.load();
    let node = caller.node_in(&snapshot)?;
    let mut decided = decide(api, &snapshot, node, &request.items);
    take_quota(api, &snapshot, node, &mut decided);

    let mut requests = Vec::with_capacity(decided.len());
    let places: Vec<Result<Arc<Service>, Refused>> = decided
        .into_iter()
        .map(|item| {
            let (service, key) = item?;
            requests.push(LeafRequest::service(
                service.spiffe_id.clone(),
                service.dns_names.clone(),
                service.x509_ttl,
                key,
            ));
            Ok(service)
        })
        .collect();
    let who = caller.who();
    let recipient = Recipient { who: &who, node: Some(caller.name()) };
    let mut issued = match requests.is_empty() {
        true => Vec::new(),
        false => api.issuer.issue(recipient, requests).await?,
    }
    .into_iter();

    // Between the decision and here the node may have been removed, or a service changed: what was signed meanwhile is
    // not given out. Its record says that it was planned.
    let now = api.registry.load();
    let unchanged = now.generation() == snapshot.generation();
    let node = caller.node_in(&now)?;
    let mut issuer_chain = Vec::new();
    let mut count = 0;
    let results = places
        .into_iter()
        .map(|place| {
            let service = place?;
            let svid = issued.next().ok_or_else(Refused::internal)??;
            if !unchanged && !holds_as_it_was(&now, node, &service) {
                return Err(service_not_held());
            }
            if issuer_chain.is_empty() {
                issuer_chain.push(svid.authority().facts().certificate().to_vec());
            }
            count += 1;
            Ok(svid.into_certificate())
        })
        .map(|result: Result<Vec<u8>, Refused>| X509Result {
            result: Some(match result {
                Ok(leaf) => Outcome::Leaf(leaf),
                Err(refused) => {
                    api.note_refusal(refused.reason);
                    Outcome::Refusal(refused.into_item())
                }
            }),
        })
        .collect();
    api.note_issued(SvidKind::Service, count);
    Ok(IssueX509Response { results, issuer_chain })
}

type Decided = Result<(Arc<Service>, PublicKey), Refused>;

/// Decides each item: the service by what this node may hold, the key by what it is and whose it is not.
fn decide(api: &NodeApi, snapshot: &Snapshot, node: &Node, items: &[X509Item]) -> Vec<Decided> {
    let mut seen = HashSet::with_capacity(items.len());
    items
        .iter()
        .map(|item| {
            let service = held(snapshot, node, &item.service_id)?;
            let key = PublicKey::parse(&item.public_key)
                .map_err(|flaw| Refused::because(Reason::KeyInvalid, flaw.to_string()))?;
            if !seen.insert(key.hash()) {
                return Err(Refused::because(
                    Reason::KeyDuplicate,
                    "this key stands in the request twice; each SVID has a key of its own",
                ));
            }
            if reserved(api, snapshot, key.hash()) {
                return Err(Refused::because(
                    Reason::KeyReserved,
                    "this is the key of an authority or of a node; make a new one for the service",
                ));
            }
            Ok((service, key))
        })
        .collect()
}

/// Takes the items that are left from the node's share; those beyond it are refused for now, in their order.
fn take_quota(api: &NodeApi, snapshot: &Snapshot, node: &Node, decided: &mut [Decided]) {
    let wanted = decided.iter().filter(|item| item.is_ok()).count();
    if wanted == 0 {
        return;
    }
    let lifetimes = || snapshot.services_of(node).into_iter().map(|service| service.x509_ttl);
    let taken = api.quota.x509(&node.name, snapshot.generation(), lifetimes, wanted, api.clock.boot());
    for item in decided.iter_mut().filter(|item| item.is_ok()).skip(taken.granted) {
        *item = Err(over_quota(taken.retry_after));
    }
}

/// Issues a JWT-SVID.
///
/// # Errors
/// The service is not this node's, the audiences are not taken, or nothing could be issued.
pub(super) async fn jwt(
    api: &NodeApi,
    caller: &NodeCaller,
    request: IssueJwtRequest,
) -> Result<IssueJwtResponse, Refused> {
    let snapshot = api.registry.load();
    let node = caller.node_in(&snapshot)?;
    let service = held(&snapshot, node, &request.service_id)?;
    let audiences = jwt::Audiences::parse(request.audience)
        .map_err(|flaw| Refused::because(Reason::AudienceInvalid, flaw.to_string()))?;
    let lifetimes = || snapshot.services_of(node).into_iter().map(|service| service.jwt_ttl);
    let taken = api.quota.jwt(caller.name(), snapshot.generation(), lifetimes, api.clock.boot());
    if taken.granted == 0 {
        return Err(over_quota(taken.retry_after));
    }
    let token = api
        .issuer
        .issue_jwt(
            &caller.who(),
            caller.name(),
            jwt::JwtRequest { spiffe_id: service.spiffe_id.clone(), audiences, ttl: service.jwt_ttl },
        )
        .await?;
    let now = api.registry.load();
    if !holds_as_it_was(&now, caller.node_in(&now)?, &service) {
        return Err(service_not_held());
    }
    api.note_jwt_issued();
    Ok(IssueJwtResponse { not_after_ms: token.not_after().unix_millis(), token: token.into_token() })
}

/// The service of that id, if this node may hold it.
fn held(snapshot: &Snapshot, node: &Node, service_id: &str) -> Result<Arc<Service>, Refused> {
    match snapshot.service(service_id) {
        Some(service) if service.may_run_on(node) => Ok(Arc::clone(service)),
        Some(_) | None => Err(service_not_held()),
    }
}

/// Whether the node may still hold the service, with the name and the lifetime that were signed.
fn holds_as_it_was(snapshot: &Snapshot, node: &Node, service: &Service) -> bool {
    held(snapshot, node, &service.id).is_ok_and(|now| {
        now.spiffe_id == service.spiffe_id
            && now.dns_names == service.dns_names
            && now.x509_ttl >= service.x509_ttl
            && now.jwt_ttl >= service.jwt_ttl
    })
}

/// Whether a key is an authority's or a node's.
pub(super) fn reserved(api: &NodeApi, snapshot: &Snapshot, key: KeyHash) -> bool {
    snapshot.node_by_key(key.as_bytes()).is_some() || api.authorities.is_authority_key(key.as_bytes())
}

fn over_quota(retry_after: Duration) -> Refused {
    Refused::for_now(
        Reason::Quota,
        "this node has used up its share of issuances; is an agent, or a workload, asking in a loop?",
        retry_after.max(Duration::from_millis(1)),
    )
}
