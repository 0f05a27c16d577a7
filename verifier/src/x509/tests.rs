//! What is accepted as an identity and what not, by requirement.
//!
//! Each table runs through [`verify`] and through [`VerifiedChains`], twice: the verdicts must be the same.

mod authority;
mod issued;
mod leaf;
mod limits;
mod own_svid;

use std::slice::from_ref;

use rustls::pki_types::CertificateDer;

use super::fixtures::*;
use super::*;
use crate::spiffe::{BundleSet, Curve, PublicKeyError, SpiffeId, SpiffeIdError, TrustBundle};

type Change = Box<dyn Fn(&mut Recipe)>;

fn change(change: impl Fn(&mut Recipe) + 'static) -> Change {
    Box::new(change)
}

/// The verdict, the same with the cache and without, on the first and on the second time.
fn verdict(chain: &[CertificateDer<'_>], bundles: &BundleSet, at: Timestamp) -> Result<VerifiedPeer, VerifyError> {
    let plain = verify_chain(chain, bundles, at);
    if let Err(error) = &plain {
        assert!([VerifyError::CODES, ProfileError::CODES].concat().contains(&error.code()), "{error}");
    }
    if let Ok(presented) = PresentedChain::leaf_first(chain) {
        let cache = VerifiedChains::new(16);
        for turn in ["first", "second"] {
            assert_eq!(cache.verify(&presented, 7, bundles, at), plain, "with a cache, {turn} time");
        }
        assert_eq!(cache.len(), usize::from(plain.is_ok()), "refusals are not remembered");
    }
    plain
}

fn leaf_flaw(flaw: ProfileError) -> VerifyError {
    VerifyError::Certificate { link: Link::Leaf, flaw }
}

fn intermediate_flaw(number: usize, flaw: ProfileError) -> VerifyError {
    VerifyError::Certificate { link: Link::Intermediate(number), flaw }
}

#[test]
fn t_02_no_byte_can_be_changed() {
    let realm = Realm::new("example.org");
    let (chain, bundles) = (realm.chain(|_| {}), realm.bundles());
    for (index, certificate) in chain.iter().enumerate() {
        for at in 0..certificate.len() {
            let mut changed = chain.clone();
            let mut bytes = certificate.to_vec();
            bytes[at] ^= 1 << (at % 8);
            changed[index] = bytes.into();
            assert!(verify_chain(&changed, &bundles, NOW).is_err(), "certificate {index}, byte {at}");
        }
    }
}

#[test]
fn x509_04_what_a_verified_peer_says() {
    let realm = Realm::new("example.org");
    let peer = verdict(&realm.chain(|_| {}), &realm.bundles(), NOW).unwrap();
    assert_eq!(peer.id().as_str(), ID);
    assert_eq!((peer.not_before(), peer.not_after()), (at(-60), at(3600)));
    assert_eq!(peer.serial().to_string(), "5a010203");
    assert_eq!((peer.spki(), peer.spki_sha256()), (realm.key.spki().as_slice(), &sha256(&realm.key.spki())));
    assert_eq!(peer.authority_sha256(), &sha256(&realm.root.der));

    // The validity is that of the whole chain.
    let root = Authority::root_with("example.org", "root", Key::p256(), |r| r.not_after = time(at(50)));
    let issuing = root.intermediate_with("example.org", "issuing", Key::p256(), |r| r.not_before = time(at(-10)));
    let chain = [issuing.leaf(ID, &realm.key), issuing.der.clone()];
    let peer = verdict(&chain, &bundle_of("example.org", &[&root.der]).into(), NOW).unwrap();
    assert_eq!((peer.not_before(), peer.not_after()), (at(-10), at(50)));
}

/// ID-28, FED-08, FED-33: an ID counts with its trust domain, and bundles are never mixed.
#[test]
fn id_20_only_the_own_trust_domain_vouches() {
    let (ours, theirs) = (Realm::new("example.org"), Realm::new("example.com"));
    let both: BundleSet = [bundle_of("example.org", &[&ours.root.der]), bundle_of("example.com", &[&theirs.root.der])]
        .into_iter()
        .map(std::sync::Arc::new)
        .collect();
    let forged = [theirs.issuing.leaf(ID, &ours.key), theirs.issuing.der.clone()];
    let foreign = ProfileError::ForeignAuthority { found: "example.com".into(), expected: domain("example.org") };
    assert_eq!(verdict(&forged, &both, NOW), Err(intermediate_flaw(1, foreign)), "T-25 right path, wrong trust domain");
    let unknown = Err(VerifyError::UnknownAuthority { trust_domain: domain("example.org") });
    assert_eq!(verdict(&[theirs.root.leaf(ID, &ours.key)], &both, NOW), unknown);
    let only_theirs = bundle_of("example.com", &[&theirs.root.der]).into();
    let id = SpiffeId::parse(ID).unwrap();
    let missing = Err(VerifyError::UnknownTrustDomain { id });
    assert_eq!(verdict(&ours.chain(|_| {}), &only_theirs, NOW), missing, "X509-31 TDB-02 the bundle of another");
    assert_eq!(verdict(&ours.chain(|_| {}), &BundleSet::empty(), NOW), missing, "X509-31 no bundle");
    let empty = bundle_of("example.org", &[]).into();
    let none = Err(VerifyError::NoAuthorities { trust_domain: domain("example.org") });
    assert_eq!(verdict(&ours.chain(|_| {}), &empty, NOW), none, "X509-44 TDB-10 a bundle without a root");
    // A root of the same name with another key, with and without key identifiers to tell.
    let namesake = bundle_of("example.org", &[&Authority::root("example.org").der]).into();
    assert_eq!(verdict(&ours.chain(|_| {}), &namesake, NOW), unknown);
    let leaf = ours.root.leaf_with(ID, &ours.key, |r| {
        r.without(AUTHORITY_KEY);
    });
    assert_eq!(verdict(&[leaf], &namesake, NOW), Err(VerifyError::BadSignature));
}

#[test]
fn x509_13_signing_certificates_are_nobody() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let refused = Err(leaf_flaw(ProfileError::SigningCertificate));
    assert_eq!(verdict(from_ref(&realm.issuing.der), &bundles, NOW), refused);
    assert_eq!(verdict(from_ref(&realm.root.der), &bundles, NOW), refused);
    // A leaf that signs another leaf.
    let leaf = Authority { der: realm.issuing.leaf(ID, &realm.key), name: name(""), key: Key::p256() };
    let below = leaf.leaf(ID, &Key::p256());
    let chain = [below, leaf.der, realm.issuing.der.clone()];
    assert_eq!(verdict(&chain, &bundles, NOW), Err(intermediate_flaw(1, ProfileError::NotSigningCertificate)));
}

#[test]
fn t_03_the_identity_comes_from_the_leaf_and_nothing_else() {
    let (realm, other) = (Realm::new("example.org"), Realm::new("example.com"));
    let bundles = realm.bundles();
    let leaf = realm.issuing.leaf(ID, &realm.key);
    let another = realm.issuing.leaf("spiffe://example.org/admin", &realm.key);
    let (issuing, root) = (realm.issuing.der.clone(), realm.root.der.clone());
    let foreign = other.issuing.der.clone();
    for (what, chain) in [
        ("with the root", vec![leaf.clone(), issuing.clone(), root.clone()]),
        ("root first", vec![leaf.clone(), root, issuing.clone()]),
        ("twice", vec![leaf.clone(), issuing.clone(), issuing.clone()]),
        ("the leaf again", vec![leaf.clone(), leaf.clone(), issuing.clone()]),
        ("another leaf behind it", vec![leaf.clone(), another, issuing.clone()]),
        ("a foreign authority", vec![leaf.clone(), foreign, issuing.clone()]),
        ("something that is no certificate", vec![leaf.clone(), vec![5, 0].into(), issuing.clone()]),
    ] {
        assert_eq!(verdict(&chain, &bundles, NOW).unwrap().id().as_str(), ID, "{what}");
    }
    assert_eq!(
        verdict(from_ref(&leaf), &bundles, NOW),
        Err(VerifyError::UnknownAuthority { trust_domain: domain("example.org") }),
        "no issuing authority"
    );
    assert_eq!(verdict(&[], &bundles, NOW), Err(VerifyError::NoCertificate));
    assert_eq!(
        verdict(&[issuing, leaf], &bundles, NOW),
        Err(leaf_flaw(ProfileError::SigningCertificate)),
        "in the wrong order"
    );
}

#[test]
fn an_authority_that_two_roots_have_signed() {
    let (old, new) = (Authority::root("example.org"), Authority::root_with("example.org", "new", Key::p256(), |_| {}));
    let issuing = old.intermediate("example.org");
    let mut recipe = Recipe::authority("example.org", "example.org issuing", &issuing.key);
    new.will_sign(&mut recipe);
    let crossed = recipe.signed_by(&new.key);
    let leaf = issuing.leaf(ID, &Key::p256());
    for roots in [vec![&old.der], vec![&new.der], vec![&old.der, &new.der]] {
        let bundles = bundle_of("example.org", &roots).into();
        let chain = [leaf.clone(), issuing.der.clone(), crossed.clone()];
        verdict(&chain, &bundles, NOW).unwrap();
    }
    // An old certificate of the issuing authority beside its new one does not get in the way.
    recipe.not_after = time(at(-1));
    let expired = recipe.signed_by(&new.key);
    let bundles = bundle_of("example.org", &[&old.der, &new.der]).into();
    verdict(&[leaf, expired, issuing.der], &bundles, NOW).unwrap();
}

#[test]
fn certificates_that_rcgen_makes_are_accepted() {
    use rcgen::*;
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (root_key, leaf_key) = (key(), key());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.subject_alt_names = vec![uri("spiffe://example.org")];
    let der = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::from_params(&root, &root_key);
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.subject_alt_names = vec![uri(ID)];
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let bundles = bundle_of("example.org", &[der.der()]).into();
    assert_eq!(verdict(&[leaf.der().clone()], &bundles, NOW).unwrap().id().as_str(), ID);
}

#[test]
fn every_code_is_listed_once_and_readable() {
    let mut all: Vec<_> = [VerifyError::CODES, ProfileError::CODES].concat();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(
        all.iter()
            .all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte.is_ascii_digit()))
    );
}

#[test]
fn the_texts_say_what_and_where() {
    let realm = Realm::new("example.org");
    let text = |change: Change| verify_chain(&realm.chain(change), &realm.bundles(), NOW).unwrap_err().to_string();
    assert_eq!(
        text(change(|r| {
            r.set(names(&[uri(ID), uri("https://a")]));
        })),
        "the leaf certificate is refused: it has 2 URIs among its subject alternative names, exactly one is accepted"
    );
    assert_eq!(
        text(change(|r| r.not_after = time(at(-1)))),
        "the leaf certificate expired at 2026-11-23T08:59:59Z, now it is 2026-11-23T09:00:00Z"
    );
    assert_eq!(
        verify_chain(&realm.chain(|_| {}), &BundleSet::empty(), NOW).unwrap_err().to_string(),
        "`spiffe://example.org/photo` is of the trust domain `example.org`, for which there is no trust bundle"
    );
    let empty = TrustBundle::new::<&[u8]>(domain("example.org"), [], [], None, None).unwrap();
    assert_eq!(
        verify_chain(&realm.chain(|_| {}), &empty.into(), NOW).unwrap_err().to_string(),
        "the trust bundle of `example.org` has no root certificate"
    );
}
