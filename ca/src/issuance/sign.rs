//! Signs what was checked, and lets it go only against the proof that its record is durable.

use std::{fmt, sync::Arc};

use super::{
    IssueError, Recipient,
    authority::IssuingAuthority,
    der::{self, BIT_STRING, Elements, NotDer, SEQUENCE},
    request::{LeafRequest, SERIAL_LENGTH, Validity},
};
use crate::{
    audit::{Record, X509Issued},
    store::Recorded,
};

/// The to-be-signed bytes of a leaf on which every profile rule holds. Only [`super::prepare`] makes one.
///
/// Not `Clone`: one check pays for one signature. It belongs to the authority for which it was checked.
pub(crate) struct CheckedTbs {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: [u8; 32],
    pub(super) serial: [u8; SERIAL_LENGTH],
    pub(super) request: LeafRequest,
    pub(super) validity: Validity,
    pub(super) authority: Arc<IssuingAuthority>,
}

impl CheckedTbs {
    /// The record of this issuance, to be made durable before the certificate is released.
    pub(crate) fn record(&self, recipient: Recipient<'_>) -> Record {
        Record::x509_issued(&X509Issued {
            who: recipient.who,
            node: recipient.node,
            kind: self.request.kind(),
            spiffe_id: self.request.spiffe_id(),
            serial: &self.serial,
            key_hash: self.request.public_key().hash_ref().as_bytes(),
            tbs_hash: &self.hash,
            issuer: self.authority.signing().issuing.id(),
            not_before: self.validity.not_before,
            not_after: self.validity.not_after,
            dns_names: self.request.dns_names(),
        })
    }

    /// Signs the checked bytes with the key of the authority for which they were checked, puts the certificate together,
    /// and reads it again. Costs a signature: call it outside the async runtime when there are many.
    ///
    /// # Errors
    /// The key does not sign, or what came out is not what went in.
    pub(crate) fn sign(self) -> Result<UnreleasedSvid, IssueError> {
        let signature =
            self.authority.signing().issuing.sign(&self.bytes).map_err(|source| IssueError::Sign { source })?;
        let certificate = assemble(&self.bytes, &signature);
        read_again(&certificate, &self.bytes, &signature)?;
        Ok(UnreleasedSvid {
            tbs_hash: self.hash,
            issued: IssuedSvid { certificate, serial: self.serial, validity: self.validity, authority: self.authority },
        })
    }
}

impl fmt::Debug for CheckedTbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedTbs({})", self.request.spiffe_id())
    }
}

/// A signed leaf whose record may not be durable yet. It shows no bytes.
pub(crate) struct UnreleasedSvid {
    tbs_hash: [u8; 32],
    issued: IssuedSvid,
}

impl UnreleasedSvid {
    /// Lets the certificate go, against the proof that the record of exactly these to-be-signed bytes is durable.
    ///
    /// # Errors
    /// The proof is of another record.
    pub(crate) fn release(self, recorded: Recorded) -> Result<IssuedSvid, IssueError> {
        if !recorded.covers(&self.tbs_hash) {
            return Err(IssueError::ForeignRecord);
        }
        Ok(self.issued)
    }
}

impl fmt::Debug for UnreleasedSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnreleasedSvid(..)")
    }
}

/// A leaf that may be handed out.
pub(crate) struct IssuedSvid {
    certificate: Vec<u8>,
    serial: [u8; SERIAL_LENGTH],
    validity: Validity,
    authority: Arc<IssuingAuthority>,
}

impl IssuedSvid {
    /// The leaf, DER.
    pub(crate) fn into_certificate(self) -> Vec<u8> {
        self.certificate
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// The authority that signed it.
    pub(crate) fn authority(&self) -> &Arc<IssuingAuthority> {
        &self.authority
    }
}

impl fmt::Debug for IssuedSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuedSvid({})", data_encoding::HEXLOWER.encode(&self.serial))
    }
}

/// Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue } (RFC 5280 §4.1).
pub(super) fn assemble(tbs: &[u8], signature: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(tbs);
            writer.next().write_der(&ECDSA_WITH_SHA256);
            writer.next().write_bitvec_bytes(signature, signature.len() * 8);
        });
    })
}

/// The certificate, read by another program than the one that wrote it, holds the checked bytes, names the same algorithm
/// outside as inside, holds this signature, and ends there.
pub(super) fn read_again(certificate: &[u8], tbs: &[u8], signature: &[u8]) -> Result<(), IssueError> {
    let parts = || {
        let mut parts = Elements::of(der::only(certificate, SEQUENCE)?.content);
        let (signed, algorithm) = (parts.next_of(SEQUENCE)?, parts.next_of(SEQUENCE)?);
        let value = parts.next_of(BIT_STRING)?;
        parts.end()?;
        Ok::<_, NotDer>((signed.whole, algorithm.whole, value.content))
    };
    match parts() {
        // The first byte of a BIT STRING tells how many bits are not used: none.
        Ok((signed, algorithm, [0, value @ ..]))
            if signed == tbs && algorithm == ECDSA_WITH_SHA256 && value == signature =>
        {
            Ok(())
        }
        Ok(_) | Err(NotDer) => Err(IssueError::ReadAgain),
    }
}

/// SEQUENCE { ecdsa-with-SHA256 } (RFC 5758 §3.2).
pub(super) const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
