//! Builds the to-be-signed bytes of a leaf with rcgen.
//!
//! rcgen cannot build without signing, so it is handed a key that keeps the bytes and signs nothing. What it returns is
//! thrown away; what it wanted signed is what the rules see and what the authority signs.

use std::cell::Cell;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;

use super::{
    IssueError,
    authority::IssuerFacts,
    public_key::PublicKey,
    request::{LeafRequest, SERIAL_LENGTH, Validity},
};

/// Builds leaves below one authority; made once for a batch.
pub(super) struct TbsBuilder {
    issuer: Issuer<'static, KeepsBytes>,
}

impl TbsBuilder {
    pub(super) fn new(issuer: &IssuerFacts) -> Result<Self, IssueError> {
        let issuer = Issuer::from_ca_cert_der(&issuer.certificate().into(), KeepsBytes::default())
            .map_err(|source| IssueError::Build { source })?;
        Ok(Self { issuer })
    }

    /// The DER of the TBSCertificate.
    pub(super) fn build(
        &self,
        request: &LeafRequest,
        validity: Validity,
        serial: [u8; SERIAL_LENGTH],
    ) -> Result<Vec<u8>, IssueError> {
        self.encode(&parameters(request, validity, serial)?, request.public_key())
    }

    /// Encodes whatever the parameters say: tests break each rule with it.
    pub(super) fn encode(&self, parameters: &CertificateParams, key: &PublicKey) -> Result<Vec<u8>, IssueError> {
        parameters.signed_by(key, &self.issuer).map_err(|source| IssueError::Build { source })?;
        Ok(self.issuer.key().kept.take())
    }
}

/// The leaf profile, as rcgen wants to be told.
pub(super) fn parameters(
    request: &LeafRequest,
    validity: Validity,
    serial: [u8; SERIAL_LENGTH],
) -> Result<CertificateParams, IssueError> {
    let build = |source| IssueError::Build { source };
    let mut parameters = CertificateParams::default();
    parameters.not_before = date_time(validity.not_before.unix_seconds())?;
    parameters.not_after = date_time(validity.not_after.unix_seconds())?;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.distinguished_name = DistinguishedName::new();
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_identifier_method = KeyIdMethod::PreSpecified(request.subject_key_id().to_vec());
    parameters.subject_alt_names.push(SanType::URI(request.spiffe_id().as_str().try_into().map_err(build)?));
    for name in request.dns_names() {
        parameters.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(build)?));
    }
    Ok(parameters)
}

pub(super) fn date_time(unix_seconds: i64) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|_| IssueError::Time { unix_seconds })
}

/// Takes the place of the authority's key: keeps what it is asked to sign.
#[derive(Default)]
struct KeepsBytes {
    kept: Cell<Vec<u8>>,
}

impl SigningKey for KeepsBytes {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.kept.set(message.to_vec());
        Ok(Vec::new())
    }
}

impl PublicKeyData for KeepsBytes {
    /// Not asked for: the authority's key identifier is read from its certificate.
    fn der_bytes(&self) -> &[u8] {
        &[]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
