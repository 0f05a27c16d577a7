//! Trust domains made up for tests: a root, an issuing authority below it, SVIDs and keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::KeyCredential;
use crate::{
    clock::{ManualClock, Timestamp},
    spiffe::{BundleSet, SpiffeId, TrustBundle, TrustDomain},
    x509::X509Svid,
};

/// When tests begin.
pub(crate) const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A clock that shows [`START`].
pub(crate) fn clock() -> ManualClock {
    ManualClock::at(START)
}

/// That long after [`START`].
pub(crate) fn after(seconds: u64) -> Timestamp {
    START.saturating_add(Duration::from_secs(seconds))
}

/// The authorities of a trust domain.
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Self {
        // Names as our CA gives them: no two authorities have the same.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let authority = |name: &str| {
            let mut params = params(START.saturating_sub(Duration::from_secs(3_600)), after(10 * 365 * 86_400));
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::CommonName, format!("{name} {}", NUMBER.fetch_add(1, Ordering::Relaxed)));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
            params
        };
        let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
        let issuing = CertifiedIssuer::signed_by(authority("issuing"), KeyPair::generate().unwrap(), &root).unwrap();
        Self { trust_domain: TrustDomain::parse(trust_domain).unwrap(), root, issuing }
    }

    /// An SVID that is valid from a minute before [`START`] until so long after it.
    pub(crate) fn svid(&self, path: &str, seconds: u64) -> X509Svid {
        self.svid_between(path, START.saturating_sub(Duration::from_secs(60)), after(seconds))
    }

    pub(crate) fn svid_between(&self, path: &str, from: Timestamp, until: Timestamp) -> X509Svid {
        let (chain, key) = self.chain_and_key(path, from, until);
        X509Svid::new(chain.into_iter().map(Into::into).collect(), key.serialize_der()).unwrap()
    }

    /// The same with the root at the end, as the CA presents itself.
    pub(crate) fn svid_with_root(&self, path: &str, seconds: u64) -> X509Svid {
        let (mut chain, key) = self.chain_and_key(path, START, after(seconds));
        chain.push(self.root_der());
        X509Svid::new(chain.into_iter().map(Into::into).collect(), key.serialize_der()).unwrap()
    }

    pub(crate) fn chain_and_key(&self, path: &str, from: Timestamp, until: Timestamp) -> (Vec<Vec<u8>>, KeyPair) {
        let id = SpiffeId::new(&self.trust_domain, path).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = params(from, until);
        params.subject_alt_names = vec![uri(id.as_str())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuing).unwrap();
        (vec![leaf.der().to_vec(), self.issuing.der().to_vec()], key)
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).unwrap()
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    /// The roots of all of these, which may be of one trust domain.
    pub(crate) fn bundles(authorities: &[&Self]) -> BundleSet {
        let mut bundles = BundleSet::empty();
        for authority in authorities {
            let roots: Vec<_> = authorities
                .iter()
                .filter(|other| other.trust_domain == authority.trust_domain)
                .map(|other| other.root_der())
                .collect();
            let bundle = TrustBundle::new(authority.trust_domain.clone(), roots, [], None, None).unwrap();
            bundles = bundles.with(Arc::new(bundle));
        }
        bundles
    }
}

fn params(from: Timestamp, until: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::from_unix_timestamp(from.unix_seconds()).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(until.unix_seconds()).unwrap();
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A self-signed certificate that names nobody, and its key.
pub(crate) fn bare_certificate(algorithm: &'static rcgen::SignatureAlgorithm, sans: &[&str]) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = params(START, after(60));
    params.distinguished_name.push(DnType::CommonName, "node key");
    params.subject_alt_names = sans.iter().map(|san| uri(san)).collect();
    (params.self_signed(&key).unwrap().der().to_vec(), key)
}

/// A node's key as it is presented, and its public half.
pub(crate) fn node_key() -> (KeyCredential, Vec<u8>) {
    let (certificate, key) = bare_certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
    (KeyCredential::new(certificate, &key.serialize_der()).unwrap(), key.subject_public_key_info())
}

trait PublicKeyInfo {
    fn subject_public_key_info(&self) -> Vec<u8>;
}

impl PublicKeyInfo for KeyPair {
    fn subject_public_key_info(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(self)
    }
}
