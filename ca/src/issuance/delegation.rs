//! Delegations: what an agent's key may sign, out of the registry and of nothing that the node says.

use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_ca_api::NodeName;
use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        JwtError,
        delegation::{DelegatedEdge, Delegation, MOST_LIFETIME, MOST_TOKEN_LIFETIME},
    },
    spiffe::{JwtAuthority, TrustDomain},
};
use data_encoding::HEXLOWER;

use super::{IssueError, PublicKey, sha256};
use crate::{
    authority::Signing,
    registry::{Delegated, NewDelegation, Service},
};

/// Writes the statement for this key and these services, all of them edges, and signs it. It is read again as verifiers read it before it
/// is signed; it must not leave before [`crate::registry::Registry::add_delegation`] has written it.
///
/// # Errors
/// The authority has no life left, there are more edges than fit, or what was written is not what was meant.
pub(crate) fn sign(
    trust_domain: &TrustDomain,
    node: &NodeName,
    key: &PublicKey,
    services: Vec<Arc<Service>>,
    signing: &Signing,
    at: Timestamp,
) -> Result<NewDelegation, IssueError> {
    let authority = &signing.token;
    let whole_seconds = |at: Timestamp| Timestamp::from_unix_seconds(at.unix_millis().div_euclid(1000));
    let issued_at = whole_seconds(at);
    // The authority is withdrawn that long after its last signature: a longer delegation would outlive its key.
    let lifetime = MOST_LIFETIME.min(authority.longest_token());
    let expires_at = whole_seconds(issued_at.saturating_add(lifetime).min(authority.not_after()));
    if expires_at <= at {
        return Err(IssueError::AuthorityTooShort { not_after: authority.not_after(), at });
    }
    let key_id = key_id(key);
    let differs = |error: &dyn std::fmt::Display| IssueError::Jwt { finding: format!("a delegation: {error}") };
    let edges = services
        .iter()
        .filter_map(|service| {
            let edge = service.edge.as_ref()?;
            let (scopes, issuers) = (edge.scopes.clone(), edge.issuers.clone());
            Some(DelegatedEdge { id: service.spiffe_id.clone(), scopes, issuers })
        })
        .collect();
    let delegation = Delegation {
        node: node.to_string(),
        key: JwtAuthority::new(&key_id, key.spki()).map_err(|error| differs(&error))?,
        edges,
        token_lifetime: MOST_TOKEN_LIFETIME,
        issued_at,
        expires_at,
    };
    let input = delegation.signing_input(trust_domain, authority.kid()).map_err(|error| match error {
        JwtError::TooLarge { bytes } => IssueError::TooManyEdges { bytes },
        other => differs(&other),
    })?;
    let signed = HEXLOWER.encode(&sha256(input.as_bytes()));
    let signature = authority.sign(input.as_bytes()).map_err(|source| IssueError::Sign { source })?;
    if signature.len() != ES256_SIGNATURE {
        return Err(IssueError::ReadAgain);
    }
    let delegated = Delegated {
        key_id: key_id.into(),
        node: node.clone(),
        statement: input.with_signature(&signature).into(),
        services: services.iter().map(|service| Arc::clone(&service.id)).collect(),
        issued_at,
        expires_at,
    };
    Ok(NewDelegation { delegated, services, signed, issuer: authority.kid().to_owned() })
}

/// The thumbprint of the key (RFC 7638 §3): no agent chooses under which name its tokens are verified, and two keys never have one.
fn key_id(key: &PublicKey) -> String {
    let (x, y) = key.point().get(1..).unwrap_or_default().split_at(COORDINATE);
    let [x, y] = [x, y].map(Base64UrlUnpadded::encode_string);
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    Base64UrlUnpadded::encode_string(&sha256(members.as_bytes()))
}

const COORDINATE: usize = 32;
const ES256_SIGNATURE: usize = 64;
