//! Trust bundles (SPIFFE Trust Domain and Bundle §3, §4).

mod authority;
mod error;
mod spiffe_json;

use std::time::Duration;

use base64ct::{Base64, Encoding};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use zeroize::Zeroizing;

pub use self::authority::{JwtAuthority, X509Authority};
pub use self::error::{AuthorityError, BundleError, Skipped};
#[cfg(feature = "jwt")]
pub(crate) use self::spiffe_json::PRIVATE_JWK_MEMBERS;
use super::TrustDomain;

/// The public keys by which the SVIDs of one trust domain are verified.
///
/// A value of this type is the whole truth about its trust domain: an SVID that no key in it vouches for is refused, and
/// a bundle without any key refuses them all (TDB-10). Keys that were in a document but cannot be used are in
/// [`TrustBundle::skipped`], with the reason; they never take the others with them (TDB-09, X509-42).
///
/// ```no_run
/// use bonafide_verifier::spiffe::{BundleSet, TrustBundle, TrustDomain};
/// let bundle = TrustBundle::parse_spiffe_json(TrustDomain::parse("example.org")?, &std::fs::read("bundle.json")?)?;
/// for skipped in bundle.skipped() {
///     eprintln!("key {} of the bundle is not used: {}", skipped.entry, skipped.reason);
/// }
/// let bundles = BundleSet::from(bundle);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    x509: Vec<X509Authority>,
    // INVARIANT: as long as `x509`, each the anchor of the authority at its place.
    anchors: Vec<TrustAnchor<'static>>,
    jwt: Vec<JwtAuthority>,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
    skipped: Vec<Skipped>,
}

/// The largest document that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// The most keys in one document.
pub const MAX_BUNDLE_KEYS: usize = 1024;
/// The longest `kid`, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 256;

impl TrustBundle {
    /// Puts a bundle together from keys that are known to be good: what a CA does. Equal certificates count once.
    ///
    /// # Errors
    /// The first authority that cannot be used, or two JWT keys with one identifier.
    pub fn new<R: AsRef<[u8]>>(
        trust_domain: TrustDomain,
        x509_roots: impl IntoIterator<Item = R>,
        jwt_authorities: impl IntoIterator<Item = JwtAuthority>,
        sequence: Option<u64>,
        refresh_hint: Option<Duration>,
    ) -> Result<Self, BundleError> {
        let mut bundle = Self::empty(trust_domain);
        (bundle.sequence, bundle.refresh_hint) = (sequence, refresh_hint);
        for (entry, root) in x509_roots.into_iter().enumerate() {
            bundle.add_root(root.as_ref()).map_err(|reason| BundleError::Authority { entry, reason })?;
        }
        for (entry, authority) in jwt_authorities.into_iter().enumerate() {
            if bundle.jwt_authority(authority.key_id()).is_some() {
                let reason = AuthorityError::DuplicateKeyId { key_id: authority.key_id().into() };
                return Err(BundleError::Authority { entry, reason });
            }
            bundle.jwt.push(authority);
        }
        Ok(bundle)
    }

    /// Reads a SPIFFE bundle document: a JWK Set with `use` on every key (§4; TDB-03..12, X509-37..44, JWT-22..25).
    ///
    /// Strict about the document, lenient about its keys: those that are unknown or broken are skipped and listed. A
    /// document that holds a private key is refused as a whole.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn parse_spiffe_json(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        spiffe_json::read(trust_domain, document, spiffe_json::Keys::OfSpiffeBundle)
    }

    /// Reads the JWK Set of JWT keys that a Workload API hands out for a trust domain, in which keys may lack `use`
    /// (A-18); one with another use is skipped.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn parse_jwks(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        spiffe_json::read(trust_domain, document, spiffe_json::Keys::OfWorkloadApi)
    }

    /// Reads root certificates in PEM. Text around the certificates is ignored.
    ///
    /// # Errors
    /// When there is no certificate, a section is broken, or a private key is among them.
    pub fn parse_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        check_size(pem)?;
        let mut bundle = Self::empty(trust_domain);
        let mut entry = 0;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|_| BundleError::Pem { section: entry })?;
            let der = Zeroizing::new(der);
            match kind {
                SectionKind::Certificate if entry == MAX_BUNDLE_KEYS => {
                    return Err(BundleError::TooManyKeys { limit: MAX_BUNDLE_KEYS });
                }
                SectionKind::Certificate => bundle.add_root_or_skip(entry, &der),
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                    return Err(BundleError::PrivateKey { entry, member: "PRIVATE KEY".into() });
                }
                _ => bundle.skip(entry, AuthorityError::NotACertificate),
            }
            entry += 1;
        }
        if entry == 0 { Err(BundleError::NoCertificates) } else { Ok(bundle) }
    }

    /// Reads root certificates in DER, one behind the other, as the Workload API carries them.
    ///
    /// # Errors
    /// When the bytes are not a row of certificates.
    pub fn parse_der(trust_domain: TrustDomain, der: &[u8]) -> Result<Self, BundleError> {
        check_size(der)?;
        let certificates = crate::x509::split_der(der).map_err(|at| BundleError::Der { at })?;
        if certificates.len() > MAX_BUNDLE_KEYS {
            return Err(BundleError::TooManyKeys { limit: MAX_BUNDLE_KEYS });
        }
        let mut bundle = Self::empty(trust_domain);
        for (entry, certificate) in certificates.iter().enumerate() {
            bundle.add_root_or_skip(entry, certificate);
        }
        Ok(bundle)
    }

    /// This bundle with the JWT authorities of another of the same trust domain in place of its own: the Workload API hands out
    /// the two kinds in two documents.
    #[must_use]
    pub fn with_jwt_authorities_of(&self, other: &Self) -> Self {
        Self { jwt: other.jwt.clone(), ..self.clone() }
    }

    /// The trust domain whose keys these are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates.
    #[must_use]
    pub fn x509_authorities(&self) -> &[X509Authority] {
        &self.x509
    }

    /// The keys that sign JWT-SVIDs.
    #[must_use]
    pub fn jwt_authorities(&self) -> &[JwtAuthority] {
        &self.jwt
    }

    /// The key that signs JWT-SVIDs with this `kid`.
    #[must_use]
    pub fn jwt_authority(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt.iter().find(|authority| authority.key_id() == key_id)
    }

    /// The root certificate with this SHA-256.
    #[must_use]
    pub fn x509_authority(&self, sha256: &[u8; 32]) -> Option<&X509Authority> {
        self.x509.iter().find(|authority| authority.sha256() == sha256)
    }

    /// `spiffe_sequence`: grows with every change of the content (TDB-06).
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// `spiffe_refresh_hint`: how often the publisher wishes to be asked (TDB-07). Whoever polls sets a floor.
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// What stood in the document and is not used, and why.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Whether the other bundle holds the same keys of the same trust domain, in whatever order. Sequence and hint do not count.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.x509.len() == other.x509.len()
            && self.jwt.len() == other.jwt.len()
            && self.x509.iter().all(|authority| other.x509_authority(authority.sha256()).is_some())
            && self.jwt.iter().all(|authority| other.jwt.contains(authority))
    }

    /// The SPIFFE bundle document (§4), in a form that is the same for the same content.
    #[must_use]
    pub fn to_spiffe_json(&self) -> String {
        spiffe_json::write(self)
    }

    /// The JWT keys alone as a JWK Set, as the Workload API hands them out (WAPI-25, WAPI-26): none of another use is among
    /// them, and `use` says so.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        spiffe_json::write_jwks(self)
    }

    /// The root certificates in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.x509.iter().map(|authority| pem("CERTIFICATE", authority.der())).collect()
    }

    /// The root certificates in DER, one behind the other, as the Workload API carries them.
    #[must_use]
    pub fn x509_der_concatenated(&self) -> Vec<u8> {
        self.x509.iter().flat_map(|authority| authority.der()).copied().collect()
    }

    /// Tells the log of each key that is not used (TDB-09): nobody else reads a bundle that came over the wire.
    #[cfg(feature = "tokio")]
    pub(crate) fn log_skipped(&self) {
        for Skipped { entry, reason } in &self.skipped {
            tracing::warn!(trust_domain = %self.trust_domain, entry, reason = reason.code(), error = %reason, "a key of the trust bundle is not used");
        }
    }

    /// As `webpki` wants them, in the order of [`TrustBundle::x509_authorities`].
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509: Vec::new(),
            anchors: Vec::new(),
            jwt: Vec::new(),
            sequence: None,
            refresh_hint: None,
            skipped: Vec::new(),
        }
    }

    fn add_root(&mut self, der: &[u8]) -> Result<(), AuthorityError> {
        let (authority, anchor) = X509Authority::read(&self.trust_domain, CertificateDer::from(der.to_vec()))?;
        if self.x509_authority(authority.sha256()).is_none() {
            self.x509.push(authority);
            self.anchors.push(anchor);
        }
        Ok(())
    }

    fn add_root_or_skip(&mut self, entry: usize, der: &[u8]) {
        if let Err(reason) = self.add_root(der) {
            self.skip(entry, reason);
        }
    }

    fn skip(&mut self, entry: usize, reason: AuthorityError) {
        self.skipped.push(Skipped { entry, reason });
    }
}

fn check_size(document: &[u8]) -> Result<(), BundleError> {
    if document.len() > MAX_BUNDLE_BYTES { Err(BundleError::TooLarge { bytes: document.len() }) } else { Ok(()) }
}

/// One section of PEM (RFC 7468). It may be a private key: no copy of it stays behind in memory that is given back.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = String::with_capacity(der.len().div_ceil(48) * 65 + 2 * (label.len() + 20));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    // 48 bytes make a line of 64 characters.
    let mut line = Zeroizing::new([0; 64]);
    for bytes in der.chunks(48) {
        text.push_str(Base64::encode(bytes, line.as_mut_slice()).unwrap_or_default());
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests;
