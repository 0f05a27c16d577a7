//! The rules by which a CA judges its own certificates.

use super::*;

#[test]
fn rules_of_a_ca() {
    let realm = Realm::new("example.org");
    let example = domain("example.org");
    let leaf = |change: Change| {
        let mut recipe = Recipe::leaf(ID, &realm.key);
        realm.issuing.will_sign(&mut recipe);
        change(&mut recipe);
        let tbs = recipe.to_be_signed(&realm.issuing.key);
        let der = recipe.signed_by(&realm.issuing.key);
        let of_tbs = CertificateView::parse_to_be_signed(&tbs).and_then(|view| profile::issued_leaf(&view));
        let of_der = CertificateView::parse(&der).and_then(|view| profile::issued_leaf(&view));
        assert_eq!(of_tbs, of_der, "to be signed and signed");
        of_der.map(drop)
    };
    let house = |rule| Err(ProfileError::House { rule });
    let cases: Vec<(&str, Change, Result<(), ProfileError>)> = vec![
        ("as issued", change(|_| {}), Ok(())),
        (
            "with DNS names",
            change(|r| {
                r.set(names(&[uri(ID), dns("a")]));
            }),
            Ok(()),
        ),
        (
            "X509-01",
            change(|r| {
                r.without(SUBJECT_ALT_NAME);
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "X509-16",
            change(|r| {
                r.without(BASIC_CONSTRAINTS);
            }),
            house("a leaf says that it is no authority"),
        ),
        (
            "X509-23",
            change(|r| {
                r.set(key_usage(DIGITAL_SIGNATURE | KEY_AGREEMENT));
            }),
            house("a leaf's key usage is digitalSignature alone"),
        ),
        (
            "X509-26",
            change(|r| {
                r.without(EXTENDED_KEY_USAGE);
            }),
            house("a leaf's extended key usage is serverAuth and clientAuth"),
        ),
        (
            "X509-28",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH, ANY_USAGE]));
            }),
            house("a leaf's extended key usage is serverAuth and clientAuth"),
        ),
        ("no issuer", change(|r| r.issuer = name("")), house("the issuer has a name")),
        (
            "no authority key",
            change(|r| {
                r.without(AUTHORITY_KEY);
            }),
            house("a leaf names the key that signs it"),
        ),
        (
            "another extension",
            change(|r| {
                r.extensions.push(Extension { oid: vec![0x2a], critical: false, value: vec![5, 0] });
            }),
            house("there are no extensions beside those of the profile"),
        ),
    ];
    for (requirement, change, expected) in cases {
        assert_eq!(leaf(change), expected, "{requirement}");
    }

    let authority = |change: Change| {
        let root = Authority::root_with("example.org", "root", Key::p256(), &change).der;
        let issuing = realm.root.intermediate_with("example.org", "issuing", Key::p256(), |r| {
            r.set(basic_constraints(true, Some(0)));
            change(r);
        });
        let of_root = CertificateView::parse(&root).and_then(|view| profile::issued_root(&view, &example));
        let of_issuing =
            CertificateView::parse(&issuing.der).and_then(|view| profile::issued_intermediate(&view, &example));
        assert_eq!(of_root, of_issuing, "both kinds of authority");
        of_root
    };
    let cases: Vec<(&str, Change, Result<(), ProfileError>)> = vec![
        ("as issued", change(|_| {}), Ok(())),
        (
            "X509-15",
            change(|r| {
                r.critical(BASIC_CONSTRAINTS, false);
            }),
            house("an authority's basic constraints are critical"),
        ),
        (
            "X509-19",
            change(|r| {
                r.critical(KEY_USAGE, false);
            }),
            Err(ProfileError::KeyUsageNotCritical),
        ),
        (
            "X509-20",
            change(|r| {
                r.set(key_usage(CRL_SIGN));
            }),
            Err(ProfileError::NoKeyCertSign),
        ),
        (
            "X509-45",
            change(|r| {
                r.set(key_usage(KEY_CERT_SIGN | DIGITAL_SIGNATURE));
            }),
            Err(ProfileError::ForbiddenKeyUsage { usage: "digitalSignature" }),
        ),
        (
            "X509-09",
            change(|r| {
                r.without(SUBJECT_ALT_NAME);
            }),
            house("an authority has a SPIFFE ID"),
        ),
        (
            "X509-10",
            change(|r| {
                r.set(names(&[uri("spiffe://example.org/a")]));
            }),
            Err(ProfileError::SigningPath { id: "spiffe://example.org/a".into() }),
        ),
        (
            "X509-11",
            change(|r| {
                r.set(names(&[uri("spiffe://example.com")]));
            }),
            Err(ProfileError::ForeignAuthority { found: "example.com".into(), expected: example.clone() }),
        ),
        (
            "no key identifier",
            change(|r| {
                r.without(SUBJECT_KEY);
            }),
            house("an authority names its own key"),
        ),
        (
            "X509-29",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]));
            }),
            house("an authority has no extended key usage"),
        ),
        (
            "X509-17",
            change(|r| {
                r.set(name_constraints(&[dns("a")], &[]));
            }),
            house("an authority has no name constraints"),
        ),
    ];
    for (requirement, change, expected) in cases {
        assert_eq!(authority(change), expected, "{requirement}");
    }
    let issuing = realm.root.intermediate_with("example.org", "issuing", Key::p256(), |_| {});
    let view = CertificateView::parse(&issuing.der).unwrap();
    assert_eq!(
        profile::issued_intermediate(&view, &example),
        house("an issuing authority has no authority below it (pathLen 0)")
    );
}
