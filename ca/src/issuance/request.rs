//! What a leaf says: taken from the registry and the passed time, never from the asker, whose part is the key alone.

use std::time::Duration;

use bonafide_ca_api::{NodeName, ca_id, node_id};
use bonafide_verifier::{
    clock::Timestamp,
    spiffe::{SpiffeId, TrustDomain},
};

use super::{
    authority::IssuerFacts,
    own_key::OwnKey,
    public_key::{KeyHash, PublicKey},
};
use crate::audit::SvidKind;

/// A leaf to be issued. Its names, its lifetime and its kind come from the registry.
#[derive(Clone, Debug)]
pub(crate) struct LeafRequest {
    kind: SvidKind,
    spiffe_id: SpiffeId,
    dns_names: Vec<String>,
    ttl: Duration,
    public_key: PublicKey,
}

impl LeafRequest {
    /// For a registered service.
    pub(crate) fn service(spiffe_id: SpiffeId, dns_names: Vec<String>, ttl: Duration, public_key: PublicKey) -> Self {
        Self { kind: SvidKind::Service, spiffe_id, dns_names, ttl, public_key }
    }

    /// For a node that proved the possession of `public_key` and is allowed to have this name.
    pub(crate) fn node(trust_domain: &TrustDomain, node: &NodeName, ttl: Duration, public_key: PublicKey) -> Self {
        Self { kind: SvidKind::Node, spiffe_id: node_id(trust_domain, node), dns_names: Vec::new(), ttl, public_key }
    }

    /// For this CA process. Only who holds the private key that [`OwnKey`] made in this process can ask.
    pub(crate) fn own(trust_domain: &TrustDomain, dns_names: Vec<String>, ttl: Duration, key: &OwnKey) -> Self {
        Self { kind: SvidKind::Ca, spiffe_id: ca_id(trust_domain), dns_names, ttl, public_key: key.public_key }
    }

    pub(crate) fn kind(&self) -> SvidKind {
        self.kind
    }

    pub(crate) fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    pub(crate) fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The leaf's subject key identifier: the leftmost 160 bits of SHA-256 of its SubjectPublicKeyInfo (RFC 7093 §2,
    /// method 4).
    pub(crate) fn subject_key_id(&self) -> &[u8] {
        let KeyHash(hash) = self.public_key.hash_ref();
        hash.split_at(KEY_ID_LENGTH).0
    }
}

/// When a leaf is valid, in whole seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Validity {
    /// The validity of a leaf issued at `at` with this lifetime: backdated by a tenth of it but at most five minutes, so
    /// that a verifier whose clock is a little behind takes it; never beyond the authority that signs. `None` if the
    /// authority's own life leaves not one second.
    pub(crate) fn of(ttl: Duration, at: Timestamp, issuer: &IssuerFacts) -> Option<Self> {
        let backdate = (ttl / 10).min(MAX_BACKDATE);
        let whole_seconds = |time: Timestamp| Timestamp::from_unix_seconds(time.unix_millis().div_euclid(1000));
        let not_before = whole_seconds(at.saturating_sub(backdate)).max(issuer.not_before());
        let not_after = whole_seconds(at.saturating_add(ttl)).min(issuer.not_after());
        (not_before <= at && at < not_after).then_some(Self { not_before, not_after })
    }
}

/// 128 random bits but two: the first byte lies in 0x40..=0x7f, so that every serial is positive and equally long.
pub(crate) const SERIAL_LENGTH: usize = 16;
const KEY_ID_LENGTH: usize = 20;
const MAX_BACKDATE: Duration = Duration::from_secs(5 * 60);
