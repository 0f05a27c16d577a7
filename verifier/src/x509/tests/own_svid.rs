//! One's own SVID.

use super::*;

#[test]
fn own_svids() {
    let realm = Realm::new("example.org");
    let chain = realm.chain(|_| {});
    let svid = X509Svid::new(chain.clone(), realm.key.pkcs8()).unwrap();
    assert_eq!((svid.id().as_str(), svid.not_after(), svid.hint()), (ID, at(3600), None));
    assert_eq!(svid.spki_sha256(), &sha256(&realm.key.spki()));
    // The forms that the Workload API and files have.
    let der = X509Svid::from_der(&svid.chain_der_concatenated(), svid.expose_secret().to_vec()).unwrap();
    let pem = X509Svid::from_pem(svid.chain_pem().as_bytes(), svid.expose_secret_pem().as_bytes()).unwrap();
    let one_file = [svid.chain_pem().as_str(), &svid.expose_secret_pem()].concat();
    let one = X509Svid::from_pem(one_file.as_bytes(), one_file.as_bytes()).unwrap();
    for again in [der, pem, one] {
        assert_eq!((again.chain(), again.expose_secret()), (svid.chain(), svid.expose_secret()));
    }
    assert_eq!(svid.clone().with_hint("internal").hint(), Some("internal"));
    assert_eq!(svid.clone().with_hint("").hint(), None);

    let new = |chain: &[CertificateDer<'static>], key: &[u8]| X509Svid::new(chain.to_vec(), key.to_vec()).map(drop);
    let key = realm.key.pkcs8();
    let other = Realm::new("example.com");
    for (what, found, expected) in [
        ("no certificate", new(&[], &key), SvidError::NoCertificate),
        ("another's key", new(&chain, &Key::p256().pkcs8()), SvidError::OtherKey),
        ("no key", new(&chain, &[]), SvidError::PrivateKey),
        ("a signing certificate", new(&chain[1..], &key), SvidError::Leaf { flaw: ProfileError::SigningCertificate }),
        (
            "a leaf that is no authority",
            new(&[chain[0].clone(), chain[0].clone()], &key),
            SvidError::Authority { number: 2, flaw: ProfileError::NotSigningCertificate },
        ),
        (
            "another trust domain's authority",
            new(&[chain[0].clone(), other.issuing.der.clone()], &key),
            SvidError::Authority {
                number: 2,
                flaw: ProfileError::ForeignAuthority { found: "example.com".into(), expected: domain("example.org") },
            },
        ),
        ("cut DER", X509Svid::from_der(&chain[0][..100], key.clone()).map(drop), SvidError::Der { at: 0 }),
        ("no key in the PEM", X509Svid::from_pem(svid.chain_pem().as_bytes(), b"").map(drop), SvidError::PrivateKey),
    ] {
        let codes = [SvidError::CODES, VerifyError::CODES, ProfileError::CODES].concat();
        assert!(codes.contains(&expected.code()), "{what}");
        assert_eq!(found, Err(expected), "{what}");
    }
}

#[test]
fn a_printed_svid_does_not_show_its_key() {
    let realm = Realm::new("example.org");
    let svid = X509Svid::new(realm.chain(|_| {}), realm.key.pkcs8()).unwrap();
    let shown = format!("{svid:?} {svid:#?}");
    let secret = svid.expose_secret();
    assert!(shown.contains(ID));
    assert!(!shown.contains(&Hex(&secret[36..52]).to_string()));
    assert!(!shown.contains(&format!("{:?}", &secret[36..40]).replace(['[', ']'], "")));
}
