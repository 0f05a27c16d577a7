//! What a peer presents, and its bounds.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::asn1_rs::{Any, FromDer};

use super::error::VerifyError;

/// The most certificates in a presented chain (T-06).
pub const MAX_CERTIFICATES: usize = 8;
/// The most bytes in a presented chain, all certificates together (T-06).
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;
/// The most presented intermediates with one subject: an authority that is just being renewed has two. More are what an
/// attacker sends to have many paths tried (T-06).
pub const MAX_LOOK_ALIKES: usize = 3;

/// What a peer sent. Nothing is checked yet, so it has no method that returns an identity.
#[derive(Clone, Copy, Debug)]
pub struct PresentedChain<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
}

impl<'a> PresentedChain<'a> {
    /// As a TLS library hands them over: the leaf, whose key has signed the handshake, and the others.
    #[must_use]
    pub fn new(leaf: &'a CertificateDer<'a>, intermediates: &'a [CertificateDer<'a>]) -> Self {
        Self { leaf, intermediates }
    }

    /// A whole chain, leaf first.
    ///
    /// # Errors
    /// [`VerifyError::NoCertificate`] when there is none.
    pub fn leaf_first(chain: &'a [CertificateDer<'a>]) -> Result<Self, VerifyError> {
        match chain {
            [leaf, intermediates @ ..] => Ok(Self { leaf, intermediates }),
            [] => Err(VerifyError::NoCertificate),
        }
    }

    pub(super) fn certificates(&self) -> impl Iterator<Item = &'a CertificateDer<'a>> {
        std::iter::once(self.leaf).chain(self.intermediates)
    }

    /// The bounds, which cost nothing to look at, before anything is parsed or hashed.
    pub(super) fn check_bounds(&self) -> Result<(), VerifyError> {
        let count = 1 + self.intermediates.len();
        if count > MAX_CERTIFICATES {
            return Err(VerifyError::TooManyCertificates { count });
        }
        let bytes = self.certificates().map(|certificate| certificate.len()).sum();
        if bytes > MAX_CHAIN_BYTES {
            return Err(VerifyError::ChainTooLarge { bytes });
        }
        Ok(())
    }
}

/// Takes certificates in DER apart that stand one behind the other, as the Workload API carries them. They are not looked into.
///
/// # Errors
/// The offset from which the bytes are no DER element.
pub fn split_der(bytes: &[u8]) -> Result<Vec<&[u8]>, usize> {
    let mut certificates = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let (behind, _) = Any::from_der(rest).map_err(|_| at)?;
        let (certificate, behind) = rest.split_at_checked(rest.len() - behind.len()).ok_or(at)?;
        certificates.push(certificate);
        rest = behind;
    }
    Ok(certificates)
}

/// The certificates in a PEM text, in their order. Text around them and sections of other kinds are ignored.
///
/// # Errors
/// The number of the section, from 0, that is broken.
pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, usize> {
    let mut certificates = Vec::new();
    for (section, found) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).enumerate() {
        match found.map_err(|_| section)? {
            (SectionKind::Certificate, der) => certificates.push(der.into()),
            _ => continue,
        }
    }
    Ok(certificates)
}
