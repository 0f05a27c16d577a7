//! Keys without an identity, and clients without one.

use tokio::io::AsyncWriteExt;

use super::*;
use crate::{
    tls::{
        BareKey, BareKeyError, KeyConnector, KeyCredential, Peer, PinnedRoot, ServerTrust,
        fixtures::{bare_certificate, node_key},
    },
    x509::{X509Svid, sha256},
};

struct Ca {
    world: World,
    acceptor: Acceptor,
}

impl Ca {
    fn new(bare_keys: bool) -> Self {
        let world = World::new();
        let svid = world.authority.svid_with_root("/bonafide/ca", 3_600);
        Self::presenting(world, svid, bare_keys)
    }

    fn presenting(world: World, svid: X509Svid, bare_keys: bool) -> Self {
        let (identity, _publisher) = world.published_as(svid);
        let options = AcceptorOptions { dangerously_admit_bare_keys: bare_keys, ..AcceptorOptions::default() };
        let acceptor = Acceptor::new(&identity, set("spiffe://example.org/bonafide/node/n1"), options).unwrap();
        Self { world, acceptor }
    }

    fn pinned(&self) -> PinnedRoot {
        PinnedRoot {
            trust_domain: self.world.authority.trust_domain.clone(),
            root_sha256: sha256(&self.world.authority.root_der()),
            expected: self.world.authority.id("/bonafide/ca"),
        }
    }

    async fn meet(&self, key: KeyCredential, trust: ServerTrust) -> (KeyConnector, Connected, Accepted) {
        let connector = KeyConnector::new(key, trust, self.world.clock(), ConnectorOptions::default()).unwrap();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (client, server) = tokio::join!(connector.connect_over(ours, "ca.test"), self.acceptor.accept(theirs));
        (connector, client, server)
    }
}

#[tokio::test]
async fn a_first_contact_shows_the_key_to_the_pinned_ca_and_learns_its_root() {
    let ca = Ca::new(true);
    let (key, spki) = node_key();
    let (connector, client, server) = ca.meet(key, ServerTrust::Pinned(ca.pinned())).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer().id(), Some(&ca.world.authority.id("/bonafide/ca")));
    let Peer::Key(seen) = server.peer() else { panic!("a key has no identity") };
    assert_eq!((seen.spki_der(), seen.spki_sha256()), (spki.as_slice(), &sha256(&spki)));
    assert_eq!(server.peer().id(), None);
    assert_eq!(connector.root_der().unwrap().as_ref(), ca.world.authority.root_der());
}

#[tokio::test]
async fn a_first_contact_refuses_everything_else() {
    let ca = Ca::new(true);
    let refused = async |ca: &Ca, pinned: PinnedRoot| {
        let (connector, client, server) = ca.meet(node_key().0, ServerTrust::Pinned(pinned)).await;
        assert!(connector.root_der().is_none(), "nothing is learnt from a server that is refused");
        assert!(server.is_err() || server.unwrap().write_all(b"x").await.is_ok());
        client.unwrap_err().code()
    };
    assert_eq!(refused(&ca, PinnedRoot { root_sha256: [0; 32], ..ca.pinned() }).await, "root-not-pinned");
    let other_name = PinnedRoot { expected: ca.world.authority.id("/photo"), ..ca.pinned() };
    assert_eq!(refused(&ca, other_name).await, "peer-not-expected");
    let other_domain = PinnedRoot { trust_domain: Authority::new("example.com").trust_domain, ..ca.pinned() };
    assert_eq!(refused(&ca, other_domain).await, "foreign-authority");

    // A service whose chain ends in the very same root, and a CA that does not show its root.
    let world = World::new();
    let svid = world.authority.svid_with_root("/photo", 3_600);
    let service = Ca::presenting(world, svid, true);
    assert_eq!(refused(&service, service.pinned()).await, "peer-not-expected");
    let world = World::new();
    let svid = world.authority.svid("/bonafide/ca", 3_600);
    let rootless = Ca::presenting(world, svid, true);
    assert_eq!(refused(&rootless, rootless.pinned()).await, "root-not-pinned");

    // The right root, but under a leaf that another authority signed.
    let (world, stranger) = (World::new(), Authority::new("example.org"));
    let (der, key) = stranger.chain_and_key("/bonafide/ca", world.clock.now(), crate::tls::fixtures::after(60));
    let mut chain: Vec<rustls::pki_types::CertificateDer<'static>> = der.into_iter().map(Into::into).collect();
    chain.push(world.authority.root_der().into());
    let svid = X509Svid::new(chain, key.serialize_der()).unwrap();
    let forged = Ca::presenting(world, svid, true);
    assert_eq!(refused(&forged, forged.pinned()).await, "unknown-authority");
}

#[tokio::test]
async fn a_node_whose_svid_expired_comes_back_with_its_key_and_the_bundle_it_knows() {
    let ca = Ca::new(true);
    let expected = ca.world.authority.id("/bonafide/ca");
    let trust = ServerTrust::Bundles { bundles: ca.world.bundles(), expected: expected.clone() };
    let (_, client, server) = ca.meet(node_key().0, trust).await;
    assert_eq!(client.unwrap().peer().id(), Some(&expected));
    assert!(matches!(server.unwrap().peer(), Peer::Key(_)));
    let stranger = Authority::new("example.org");
    let trust = ServerTrust::Bundles { bundles: Authority::bundles(&[&stranger]), expected };
    assert_eq!(ca.meet(node_key().0, trust).await.1.unwrap_err().code(), "unknown-authority");
}

#[tokio::test]
async fn bare_keys_are_refused_unless_they_are_dangerously_admitted() {
    let ca = Ca::new(false);
    let (_, _, server) = ca.meet(node_key().0, ServerTrust::Pinned(ca.pinned())).await;
    let error = server.unwrap_err();
    assert!(matches!(error, AcceptError::Peer(_)), "{error}");
}

#[tokio::test]
async fn admitting_bare_keys_admits_no_other_identity() {
    let ca = Ca::new(true);
    for (path, code) in [("/bonafide/node/n1", None), ("/photo", Some("peer-not-expected"))] {
        let connector = connector(&ca.world.identity(path), "spiffe://example.org/bonafide/ca");
        let (_, server) = meet(&connector, &ca.acceptor).await;
        assert_eq!(server.as_ref().err().map(AcceptError::code), code, "{path}: {server:?}");
    }
    // An SVID of an unknown authority is no bare key.
    let stranger = Authority::new("example.org");
    let (identity, publisher) = Identity::published(ca.world.clock());
    publisher.publish(Some(stranger.svid("/bonafide/node/n1", 3_600)), ca.world.bundles());
    let (_, server) = meet(&connector(&identity, "spiffe://example.org/bonafide/ca"), &ca.acceptor).await;
    assert_eq!(server.unwrap_err().code(), "unknown-authority");
}

#[test]
fn which_certificates_prove_a_key() {
    let of = |der: Vec<u8>| BareKey::of_presented(&der.into(), &[]).map(|key| key.map(drop));
    let (good, _) = bare_certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
    assert_eq!(of(good.clone()), Some(Ok(())));
    let (named, _) = bare_certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["spiffe://example.org/a"]);
    assert_eq!(of(named), None, "whoever has a name is judged by it");
    let (p384, _) = bare_certificate(&rcgen::PKCS_ECDSA_P384_SHA384, &[]);
    assert_eq!(of(p384), Some(Err(BareKeyError::NotP256)));
    let (ed25519, _) = bare_certificate(&rcgen::PKCS_ED25519, &[]);
    assert_eq!(of(ed25519), Some(Err(BareKeyError::NotP256)));
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(of(forged), Some(Err(BareKeyError::NotSelfSigned)));
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(of(longer), None, "bytes after the certificate");
    assert_eq!(of(vec![0x30; BareKey::MAX_CERTIFICATE + 1]), None);
    assert_eq!(of(Vec::new()), None);
    let two = BareKey::of_presented(&good.clone().into(), &[good.into()]);
    assert!(two.is_none(), "a key comes alone");
    for cut in 0..100 {
        let (good, _) = bare_certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
        assert_ne!(of(good[..good.len() - 1 - cut].to_vec()), Some(Ok(())));
    }
}

/// A key is known by the hash of its SubjectPublicKeyInfo, so there must be one way to write it: the same key with its point
/// compressed was another key.
#[test]
fn x509_30_a_bare_key_is_written_in_one_way() {
    use crate::x509::fixtures::{Key, Recipe, SUBJECT_ALT_NAME, name, sequence, tlv};
    let key = Key::p256();
    let spki = key.spki();
    let point = &spki[spki.len() - 65..];
    let compressed = [&[2 + point[64] % 2], &point[1..33]].concat();
    let written = |point: &[u8]| {
        let algorithm =
            [tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7])];
        sequence(&[sequence(&algorithm), tlv(3, &[&[0], point].concat())])
    };
    assert_eq!(written(point), spki);
    for (what, spki, expected) in [
        ("as everybody writes it", spki.clone(), Some(Ok(()))),
        ("compressed", written(&compressed), Some(Err(BareKeyError::NotP256))),
        ("hybrid", written(&[&[6 + point[64] % 2], &point[1..]].concat()), Some(Err(BareKeyError::NotP256))),
    ] {
        let mut recipe = Recipe::leaf("spiffe://example.org/a", &key);
        (recipe.subject, recipe.issuer, recipe.spki) = (name("node"), name("node"), spki);
        recipe.without(SUBJECT_ALT_NAME);
        let found = BareKey::of_presented(&recipe.signed_by(&key), &[]);
        assert_eq!(found.map(|key| key.map(drop)), expected, "{what}");
    }
}

#[test]
fn a_credential_is_checked_before_it_is_used() {
    let (certificate, key) = bare_certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
    let other = rcgen::KeyPair::generate().unwrap().serialize_der();
    assert!(KeyCredential::new(certificate.clone(), &key.serialize_der()).is_ok());
    assert!(KeyCredential::new(certificate.clone(), &other).is_err());
    assert!(KeyCredential::new(certificate, b"no key").is_err());
    assert!(KeyCredential::new(b"no certificate".to_vec(), &other).is_err());
}
