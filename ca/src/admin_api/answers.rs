//! From what the CA knows to the messages of the contract.

use std::time::Duration;

use bonafide_ca_api::NodeName;
use bonafide_ca_api::generated::admin;
use bonafide_verifier::clock::Timestamp;
use bonafide_verifier::spiffe::{SpiffeId, TrustDomain};
use data_encoding::HEXLOWER;

use crate::authority::Authority;
use crate::node_api::StreamStatus;
use crate::registry::{Invitation, Node, Service, Snapshot};

/// A node: its row if it is live, its stream if it has one, its invitation if one is open.
pub(super) fn node(
    name: &NodeName,
    live: Option<(&Node, &Snapshot)>,
    invitation: Option<&Invitation>,
    stream: Option<StreamStatus>,
) -> admin::Node {
    let mut shown = admin::Node { name: name.to_string(), state: "invited".to_owned(), ..admin::Node::default() };
    if let Some(invitation) = invitation {
        let labels = invitation.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
        shown.labels = labels.collect();
        shown.invitation = Some(admin::Invitation {
            created_at_ms: invitation.created_at.unix_millis(),
            expires_at_ms: invitation.expires_at.unix_millis(),
            bound_at_ms: invitation.bound.as_ref().map_or(0, |bound| bound.at.unix_millis()),
            bound_from: invitation.bound.as_ref().map(|bound| bound.from.clone()).unwrap_or_default(),
            replaces: invitation.replaces,
        });
    }
    if let Some((live, snapshot)) = live {
        "live".clone_into(&mut shown.state);
        shown.labels = live.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        shown.joined_at_ms = live.joined_at.unix_millis();
        shown.last_seen_ms = live.last_seen().unix_millis();
        shown.stale_key_attempts = count_u64(live.stale.count);
        shown.stale_key_last_ms = live.stale.last_at.map_or(0, Timestamp::unix_millis);
        shown.stale_key_last_address = live.stale.last_from.clone().unwrap_or_default();
        shown.key_fingerprint = HEXLOWER.encode(&live.current_key);
        shown.key_pending = live.pending.is_some();
        shown.services = count(snapshot.services_of(live).len());
    }
    if let Some(stream) = stream {
        shown.connected = true;
        shown.address = stream.remote.to_string();
        shown.connected_since_ms = stream.since.unix_millis();
        shown.replaced_streams = stream.replaced;
        shown.replaced_stream_address = stream.replaced_remote.map(|address| address.to_string()).unwrap_or_default();
        shown.agent_version = stream.agent_version;
        shown.clock_offset_ms = stream.clock_ahead_ms;
        shown.refused_update = stream.refused.unwrap_or_default();
        if let Some(applied) = stream.applied {
            shown.acknowledged_version = applied.version;
            shown.acknowledged_epoch = applied.epoch.to_string();
        }
    }
    shown
}

/// A service, and how far it has come.
pub(super) fn service(service: &Service, nodes: usize, acknowledged: usize) -> admin::Service {
    admin::Service {
        id: service.id.to_string(),
        spiffe_id: service.spiffe_id.to_string(),
        selectors: service.selectors.iter().map(ToString::to_string).collect(),
        on: service.placements.iter().map(ToString::to_string).collect(),
        x509_ttl_s: count_u64(service.x509_ttl.as_secs()),
        jwt_ttl_s: count_u64(service.jwt_ttl.as_secs()),
        dns_names: service.dns_names.clone(),
        hint: service.hint.clone(),
        version: service.version,
        created_at_ms: service.created_at.unix_millis(),
        updated_at_ms: service.updated_at.unix_millis(),
        nodes: count(nodes),
        nodes_acknowledged: count(acknowledged),
        edge_scopes: service.edge.as_ref().map(|edge| edge.scopes.clone()).unwrap_or_default(),
        edge_issuers: service.edge.as_ref().map(|edge| edge.issuers.clone()).unwrap_or_default(),
    }
}

/// An authority.
pub(super) fn authority(authority: &Authority) -> admin::Authority {
    admin::Authority {
        id: authority.id.to_string(),
        kind: authority.kind.as_str().to_owned(),
        state: authority.state().as_str().to_owned(),
        not_before_ms: authority.not_before.unix_millis(),
        not_after_ms: authority.not_after.unix_millis(),
        active_from_ms: authority.active_from.unix_millis(),
        withdraw_at_ms: authority.withdraw_at.map_or(0, Timestamp::unix_millis),
    }
}

/// The path of a service of this trust domain, however it was typed: `photo`, `/photo` or the whole SPIFFE ID.
pub(super) fn path_in(trust_domain: &TrustDomain, given: &str) -> Option<String> {
    if given.contains("://") {
        let id = SpiffeId::parse(given).ok()?;
        return (id.trust_domain() == trust_domain).then(|| id.path().to_owned());
    }
    Some(if given.starts_with('/') { given.to_owned() } else { format!("/{given}") })
}

/// A lifetime from the wire, where 0 stands for the default.
pub(super) fn ttl(seconds: u32) -> Option<Duration> {
    (seconds != 0).then(|| Duration::from_secs(seconds.into()))
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn count_u64(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
