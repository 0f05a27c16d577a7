//! What a node must be told to stand where the registry stands: plain data in, one message or nothing out.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_ca_api::generated::node::{self as wire, Hello, SyncResponse};
use bonafide_verifier::clock::Timestamp;

use super::token_keys::HeldKeys;
use crate::registry::{Node, Position, Service, Snapshot};

/// Where a node stood when it said hello, compared with this CA's history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// It has nothing, or a state of another epoch: it gets the whole state.
    Elsewhere,
    /// It has a state of this epoch: it gets what differs.
    Behind,
}

/// A node has a version of this epoch that this CA has not reached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the node has version {node} of epoch `{epoch}`, this CA has {ca}: the CA's database is older than what it has given \
     out; put back its newest state, or, to go on without what is lost, stop the CA, remove `state/head` in its data directory \
     and start it again: a new epoch begins, and nodes hold back removals until an operator confirms them"
)]
pub(super) struct PositionAhead {
    epoch: String,
    node: u64,
    ca: u64,
}

impl Standing {
    pub(super) fn of_hello(hello: &Hello, here: &Position) -> Result<Self, PositionAhead> {
        match &hello.applied {
            Some(applied) if *applied.epoch == *here.epoch => {
                if applied.version > here.version {
                    return Err(PositionAhead {
                        epoch: applied.epoch.clone(),
                        node: applied.version,
                        ca: here.version,
                    });
                }
                Ok(Self::Behind)
            }
            Some(_) | None => Ok(Self::Elsewhere),
        }
    }
}

/// What a node holds, as far as this stream knows.
#[derive(Debug)]
pub(super) enum Held {
    /// As it said, before the first update.
    Told {
        standing: Standing,
        /// Versions by service id.
        services: BTreeMap<String, u64>,
        bundle_sequence: u64,
    },
    /// As it was sent.
    Sent {
        /// By id.
        services: Vec<Arc<Service>>,
        bundle_sequence: u64,
    },
}

impl Held {
    pub(super) fn of_hello(hello: Hello, standing: Standing) -> Self {
        Self::Told {
            standing,
            services: hello.held.into_iter().map(|held| (held.service_id, held.version)).collect(),
            bundle_sequence: hello.bundle_sequence,
        }
    }

    /// The update that brings the node to `snapshot`, and from here on it counts as held. `None` if there is nothing to
    /// tell; the first one is always told, so that the node knows that it stands where the CA does.
    pub(super) fn advance(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        keys: &mut HeldKeys,
        now: Timestamp,
    ) -> Option<SyncResponse> {
        let may_hold = snapshot.services_of(node);
        let sequence = snapshot.bundle().sequence().unwrap_or_default();
        let mut update = SyncResponse {
            position: Some(wire::Position { epoch: snapshot.epoch().to_string(), version: snapshot.version() }),
            whole: false,
            services: Vec::new(),
            removed: Vec::new(),
            bundles: Vec::new(),
            now_ms: now.unix_millis(),
            token_keys: keys.advance(snapshot.token_keys()),
        };
        let bundle_changed;
        let tell;
        match self {
            Self::Told { standing: Standing::Elsewhere, .. } => {
                update.whole = true;
                update.services = may_hold.iter().map(|service| to_wire(service)).collect();
                bundle_changed = true;
                tell = true;
            }
            Self::Told { standing: Standing::Behind, services, bundle_sequence } => {
                for service in &may_hold {
                    if services.remove(&*service.id) != Some(service.version) {
                        update.services.push(to_wire(service));
                    }
                }
                // What is left, the node holds and may hold no more.
                update.removed = std::mem::take(services).into_keys().collect();
                bundle_changed = *bundle_sequence != sequence;
                tell = true;
            }
            Self::Sent { services, bundle_sequence } => {
                difference(services, &may_hold, &mut update);
                bundle_changed = *bundle_sequence != sequence;
                tell = bundle_changed
                    || !update.services.is_empty()
                    || !update.removed.is_empty()
                    || update.token_keys.is_some();
            }
        }
        if bundle_changed {
            update.bundles.push(wire::TrustBundle {
                trust_domain: snapshot.trust_domain().as_str().to_owned(),
                spiffe_json: snapshot.bundle().to_spiffe_json().into_bytes(),
            });
        }
        if tell {
            *self = Self::Sent { services: may_hold.into_iter().cloned().collect(), bundle_sequence: sequence };
        }
        tell.then_some(update)
    }
}

/// Both lists are sorted by id.
fn difference(held: &[Arc<Service>], may_hold: &[&Arc<Service>], update: &mut SyncResponse) {
    let mut held = held.iter().peekable();
    for service in may_hold {
        while let Some(gone) = held.next_if(|held| held.id < service.id) {
            update.removed.push(gone.id.to_string());
        }
        match held.next_if(|held| held.id == service.id) {
            Some(same) if same.version == service.version => {}
            _ => update.services.push(to_wire(service)),
        }
    }
    update.removed.extend(held.map(|gone| gone.id.to_string()));
}

fn to_wire(service: &Service) -> wire::Service {
    let seconds = |lifetime: std::time::Duration| u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
    wire::Service {
        id: service.id.to_string(),
        version: service.version,
        spiffe_id: service.spiffe_id.as_str().to_owned(),
        selectors: service.selectors.iter().map(ToString::to_string).collect(),
        x509_ttl_s: seconds(service.x509_ttl),
        jwt_ttl_s: seconds(service.jwt_ttl),
        dns_names: service.dns_names.clone(),
        hint: service.hint.clone(),
        edge_scopes: service.edge.as_ref().map(|edge| edge.scopes.clone()).unwrap_or_default(),
        edge_issuers: service.edge.as_ref().map(|edge| edge.issuers.clone()).unwrap_or_default(),
    }
}
