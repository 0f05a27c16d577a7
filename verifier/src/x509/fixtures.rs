//! Certificates for tests, good ones and each flaw by its name. Made by code, byte by byte where a flaw needs it.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding};
use rustls::pki_types::CertificateDer;

use super::{PresentedChain, VerifiedPeer, VerifyError, sha256, verify};
use crate::clock::Timestamp;
use crate::spiffe::{BundleSet, TrustBundle, TrustDomain};

/// 2026-11-23T09:00:00Z: the time of all tests.
pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_424_400);

pub(crate) const ID: &str = "spiffe://example.org/photo";

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// NOW, so many seconds later or earlier.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(NOW.unix_seconds() + seconds)
}

// ---- DER ----

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        length @ 0..0x80 => der.push(length as u8),
        length @ 0x80..0x100 => der.extend([0x81, length as u8]),
        length @ 0x100..0x1_0000 => der.extend([0x82, (length >> 8) as u8, length as u8]),
        length => der.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(content);
    der
}

pub(crate) fn sequence<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
    tlv(0x30, &parts.iter().flat_map(|part| part.as_ref()).copied().collect::<Vec<_>>())
}

/// A name with one common name; the empty text makes the empty name.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    if common_name.is_empty() {
        return sequence::<&[u8]>(&[]);
    }
    let attribute = sequence(&[tlv(6, &[0x55, 4, 3]), tlv(0x0c, common_name.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

pub(crate) fn time(at: Timestamp) -> Vec<u8> {
    let moment = time::OffsetDateTime::from_unix_timestamp(at.unix_seconds()).unwrap();
    let (date, clock) = (moment.date(), moment.time());
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    );
    match date.year() {
        year @ 1950..2050 => tlv(0x17, format!("{:02}{rest}", year % 100).as_bytes()),
        year => tlv(0x18, format!("{year:04}{rest}").as_bytes()),
    }
}

// ---- keys ----

pub(crate) enum Key {
    Ec(EcdsaKeyPair, Vec<u8>),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

pub(crate) const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ECDSA_SHA512: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
pub(crate) const ECDSA_SHA1: &[u8] = &[0x30, 0x09, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
const RSA_SHA256: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b, 5, 0];

impl Key {
    fn ec(algorithm: &'static EcdsaSigningAlgorithm, identifier: &[u8]) -> Self {
        Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), identifier.to_vec())
    }

    pub(crate) fn p256() -> Self {
        Self::ec(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_SHA256)
    }

    pub(crate) fn p384() -> Self {
        Self::ec(&signature::ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_SHA384)
    }

    pub(crate) fn p521() -> Self {
        Self::ec(&signature::ECDSA_P521_SHA512_ASN1_SIGNING, ECDSA_SHA512)
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn rsa2048() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        match self {
            Self::Ec(pair, _) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        match self {
            Self::Ec(pair, _) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.to_pkcs8().unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'static>>::as_der(pair).unwrap().as_ref().to_vec()
            }
        }
    }

    fn identifier(&self) -> &[u8] {
        match self {
            Self::Ec(_, identifier) => identifier,
            Self::Ed25519(_) => ED25519,
            Self::Rsa(_) => RSA_SHA256,
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ec(pair, _) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => self.sign_rsa(pair, &signature::RSA_PKCS1_SHA256, message),
        }
    }

    fn sign_rsa(&self, pair: &RsaKeyPair, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
}

// ---- extensions ----

#[derive(Clone)]
pub(crate) struct Extension {
    pub(crate) oid: Vec<u8>,
    pub(crate) critical: bool,
    pub(crate) value: Vec<u8>,
}

/// id-ce, 2.5.29.N.
pub(crate) const SUBJECT_KEY: u8 = 14;
pub(crate) const KEY_USAGE: u8 = 15;
pub(crate) const SUBJECT_ALT_NAME: u8 = 17;
pub(crate) const BASIC_CONSTRAINTS: u8 = 19;
pub(crate) const NAME_CONSTRAINTS: u8 = 30;
pub(crate) const AUTHORITY_KEY: u8 = 35;
pub(crate) const EXTENDED_KEY_USAGE: u8 = 37;

pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const KEY_ENCIPHERMENT: u8 = 0x20;
pub(crate) const KEY_AGREEMENT: u8 = 0x08;
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
pub(crate) const CRL_SIGN: u8 = 0x02;

pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const EMAIL_PROTECTION: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 4];
pub(crate) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0];

impl Extension {
    pub(crate) fn new(number: u8, critical: bool, value: Vec<u8>) -> Self {
        Self { oid: vec![0x55, 0x1d, number], critical, value }
    }

    fn der(&self) -> Vec<u8> {
        let critical = if self.critical { tlv(1, &[0xff]) } else { Vec::new() };
        sequence(&[tlv(6, &self.oid), critical, tlv(4, &self.value)])
    }
}

pub(crate) fn key_usage(bits: u8) -> Extension {
    let value = if bits == 0 { tlv(3, &[0]) } else { tlv(3, &[bits.trailing_zeros() as u8, bits]) };
    Extension::new(KEY_USAGE, true, value)
}

pub(crate) fn extended_key_usage(purposes: &[&[u8]]) -> Extension {
    let purposes: Vec<_> = purposes.iter().map(|purpose| tlv(6, purpose)).collect();
    Extension::new(EXTENDED_KEY_USAGE, false, sequence(&purposes))
}

pub(crate) fn basic_constraints(ca: bool, path_length: Option<u8>) -> Extension {
    let ca = if ca { tlv(1, &[0xff]) } else { Vec::new() };
    let length = path_length.map_or(Vec::new(), |length| tlv(2, &[length]));
    Extension::new(BASIC_CONSTRAINTS, true, sequence(&[ca, length]))
}

pub(crate) fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, text.as_bytes())
}

pub(crate) fn dns(text: &str) -> Vec<u8> {
    tlv(0x82, text.as_bytes())
}

pub(crate) fn names(entries: &[Vec<u8>]) -> Extension {
    Extension::new(SUBJECT_ALT_NAME, true, sequence(entries))
}

/// `permitted` and `excluded`: general names, as in [`names`].
pub(crate) fn name_constraints(permitted: &[Vec<u8>], excluded: &[Vec<u8>]) -> Extension {
    let list = |tag: u8, bases: &[Vec<u8>]| {
        let subtrees: Vec<u8> = bases.iter().flat_map(|base| sequence(&[base])).collect();
        if bases.is_empty() { Vec::new() } else { tlv(tag, &subtrees) }
    };
    Extension::new(NAME_CONSTRAINTS, true, sequence(&[list(0xa0, permitted), list(0xa1, excluded)]))
}

// ---- certificates ----

/// What a certificate will be made of.
#[derive(Clone)]
pub(crate) struct Recipe {
    /// The content of the version; `None` leaves it out, which means 1.
    pub(crate) version: Option<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) not_before: Vec<u8>,
    pub(crate) not_after: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    /// Instead of the identifier that fits the key.
    pub(crate) inner_algorithm: Option<Vec<u8>>,
    pub(crate) outer_algorithm: Option<Vec<u8>>,
}

impl Recipe {
    pub(crate) fn leaf(id: &str, key: &Key) -> Self {
        Self {
            version: Some(2),
            serial: vec![0x5a, 1, 2, 3],
            issuer: name(""),
            subject: name(""),
            not_before: time(at(-60)),
            not_after: time(at(3600)),
            spki: key.spki(),
            extensions: vec![
                basic_constraints(false, None),
                key_usage(DIGITAL_SIGNATURE),
                extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]),
                names(&[uri(id)]),
            ],
            inner_algorithm: None,
            outer_algorithm: None,
        }
    }

    pub(crate) fn authority(trust_domain: &str, common_name: &str, key: &Key) -> Self {
        let mut names = names(&[uri(&format!("spiffe://{trust_domain}"))]);
        names.critical = false;
        Self {
            subject: name(common_name),
            not_before: time(at(-86_400)),
            not_after: time(at(7 * 86_400)),
            extensions: vec![
                basic_constraints(true, None),
                key_usage(KEY_CERT_SIGN | CRL_SIGN),
                names,
                Extension::new(SUBJECT_KEY, false, tlv(4, &key_id(key))),
            ],
            ..Self::leaf("", key)
        }
    }

    pub(crate) fn set(&mut self, extension: Extension) -> &mut Self {
        match self.extensions.iter_mut().find(|present| present.oid == extension.oid) {
            Some(present) => *present = extension,
            None => self.extensions.push(extension),
        }
        self
    }

    pub(crate) fn without(&mut self, number: u8) -> &mut Self {
        self.extensions.retain(|extension| extension.oid != [0x55, 0x1d, number]);
        self
    }

    pub(crate) fn critical(&mut self, number: u8, critical: bool) -> &mut Self {
        for extension in self.extensions.iter_mut().filter(|extension| extension.oid == [0x55, 0x1d, number]) {
            extension.critical = critical;
        }
        self
    }

    pub(crate) fn to_be_signed(&self, issuer_key: &Key) -> Vec<u8> {
        let extensions: Vec<_> = self.extensions.iter().map(Extension::der).collect();
        sequence(&[
            self.version.map_or(Vec::new(), |version| tlv(0xa0, &tlv(2, &[version]))),
            tlv(2, &self.serial),
            self.inner_algorithm.clone().unwrap_or_else(|| issuer_key.identifier().to_vec()),
            self.issuer.clone(),
            sequence(&[&self.not_before, &self.not_after]),
            self.subject.clone(),
            self.spki.clone(),
            if extensions.is_empty() { Vec::new() } else { tlv(0xa3, &sequence(&extensions)) },
        ])
    }

    pub(crate) fn signed_by(&self, issuer_key: &Key) -> CertificateDer<'static> {
        let tbs = self.to_be_signed(issuer_key);
        let signature = [&[0], issuer_key.sign(&tbs).as_slice()].concat();
        let outer = self.outer_algorithm.clone().unwrap_or_else(|| issuer_key.identifier().to_vec());
        sequence(&[tbs, outer, tlv(3, &signature)]).into()
    }
}

pub(crate) fn key_id(key: &Key) -> Vec<u8> {
    sha256(&key.spki())[..20].to_vec()
}

/// A key that signs certificates, and its own certificate.
pub(crate) struct Authority {
    pub(crate) key: Key,
    pub(crate) name: Vec<u8>,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn root(trust_domain: &str) -> Self {
        Self::root_with(trust_domain, &format!("{trust_domain} root"), Key::p256(), |_| {})
    }

    pub(crate) fn root_with(trust_domain: &str, common_name: &str, key: Key, change: impl FnOnce(&mut Recipe)) -> Self {
        let mut recipe = Recipe::authority(trust_domain, common_name, &key);
        recipe.issuer = recipe.subject.clone();
        change(&mut recipe);
        Self { der: recipe.signed_by(&key), name: recipe.subject, key }
    }

    pub(crate) fn intermediate(&self, trust_domain: &str) -> Self {
        self.intermediate_with(trust_domain, &format!("{trust_domain} issuing"), Key::p256(), |recipe| {
            recipe.set(basic_constraints(true, Some(0)));
        })
    }

    pub(crate) fn intermediate_with(
        &self,
        trust_domain: &str,
        common_name: &str,
        key: Key,
        change: impl FnOnce(&mut Recipe),
    ) -> Self {
        let mut recipe = Recipe::authority(trust_domain, common_name, &key);
        self.will_sign(&mut recipe);
        change(&mut recipe);
        Self { der: recipe.signed_by(&self.key), name: recipe.subject, key }
    }

    /// Sets what names this authority as issuer.
    pub(crate) fn will_sign(&self, recipe: &mut Recipe) {
        recipe.issuer = self.name.clone();
        recipe.set(Extension::new(AUTHORITY_KEY, false, sequence(&[tlv(0x80, &key_id(&self.key))])));
    }

    pub(crate) fn leaf(&self, id: &str, key: &Key) -> CertificateDer<'static> {
        self.leaf_with(id, key, |_| {})
    }

    pub(crate) fn leaf_with(&self, id: &str, key: &Key, change: impl FnOnce(&mut Recipe)) -> CertificateDer<'static> {
        let mut recipe = Recipe::leaf(id, key);
        self.will_sign(&mut recipe);
        change(&mut recipe);
        recipe.signed_by(&self.key)
    }
}

/// A trust domain as our CA builds it: a root, an issuing authority below it, and a key for leaves.
pub(crate) struct Realm {
    pub(crate) root: Authority,
    pub(crate) issuing: Authority,
    pub(crate) key: Key,
}

impl Realm {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let root = Authority::root(trust_domain);
        Self { issuing: root.intermediate(trust_domain), root, key: Key::p256() }
    }

    pub(crate) fn bundles(&self) -> BundleSet {
        bundle_of("example.org", &[&self.root.der]).into()
    }

    pub(crate) fn chain(&self, change: impl FnOnce(&mut Recipe)) -> Vec<CertificateDer<'static>> {
        vec![self.issuing.leaf_with(ID, &self.key, change), self.issuing.der.clone()]
    }
}

pub(crate) fn bundle_of(trust_domain: &str, roots: &[&CertificateDer<'_>]) -> TrustBundle {
    TrustBundle::new(domain(trust_domain), roots, [], None, None).unwrap()
}

pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    at: Timestamp,
) -> Result<VerifiedPeer, VerifyError> {
    verify(&PresentedChain::leaf_first(chain)?, bundles, at)
}
