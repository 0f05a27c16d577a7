//! The issuing authority as issuance needs it: its key, and what a leaf takes from its certificate.

use std::sync::Arc;

use bonafide_verifier::{clock::Timestamp, spiffe::TrustDomain};
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer};

use super::frame::Frames;
use crate::authority::Signing;

/// The keys that sign now, with what was read from the issuing certificate. One is made each time they change.
pub(crate) struct IssuingAuthority {
    signing: Arc<Signing>,
    facts: IssuerFacts,
    frames: Frames,
}

impl IssuingAuthority {
    /// # Errors
    /// The issuing certificate lacks what a leaf needs of it.
    pub(crate) fn new(signing: Arc<Signing>, trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let facts = IssuerFacts::from_certificate(signing.issuing.certificate(), trust_domain)?;
        Ok(Self { signing, facts, frames: Frames::new() })
    }

    pub(crate) fn signing(&self) -> &Arc<Signing> {
        &self.signing
    }

    /// The frames of leaves that it has signed.
    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(crate) fn facts(&self) -> &IssuerFacts {
        &self.facts
    }
}

/// What a leaf takes from the certificate of the authority that signs it.
pub(crate) struct IssuerFacts {
    trust_domain: TrustDomain,
    certificate: Vec<u8>,
    subject: Vec<u8>,
    key_id: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl IssuerFacts {
    /// Reads them from `certificate`, DER.
    ///
    /// # Errors
    /// It cannot be read, is no authority, or has no subject key identifier.
    pub(crate) fn from_certificate(certificate: &[u8], trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| AuthorityError::Unreadable)?;
        if !rest.is_empty() {
            return Err(AuthorityError::Unreadable);
        }
        if !parsed.is_ca() {
            return Err(AuthorityError::NotAnAuthority);
        }
        let key_id = parsed
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .ok_or(AuthorityError::NoKeyIdentifier)?;
        let validity = parsed.validity();
        Ok(Self {
            trust_domain: trust_domain.clone(),
            certificate: certificate.to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            key_id,
            not_before: Timestamp::from_unix_seconds(validity.not_before.timestamp()),
            not_after: Timestamp::from_unix_seconds(validity.not_after.timestamp()),
        })
    }

    /// The trust domain whose leaves it may sign.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its certificate, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its name, DER: the issuer of its leaves.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// Its subject key identifier: the authority key identifier of its leaves.
    pub(crate) fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    pub(crate) fn not_before(&self) -> Timestamp {
        self.not_before
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// The issuing authority's certificate cannot issue leaves.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("the issuing authority's certificate cannot be read")]
    Unreadable,
    #[error("the issuing authority's certificate is not that of an authority (cA is not TRUE)")]
    NotAnAuthority,
    #[error("the issuing authority's certificate has no subject key identifier")]
    NoKeyIdentifier,
}
