//! Intermediates and roots.

use super::*;

#[test]
fn authorities_may_sign_with_every_accepted_key() {
    for (what, key) in [
        ("P-256", Key::p256()),
        ("P-384", Key::p384()),
        ("P-521", Key::p521()),
        ("Ed25519", Key::ed25519()),
        ("RSA-2048", Key::rsa2048()),
    ] {
        let root = Authority::root_with("example.org", "root", key, |_| {});
        let leaf = root.leaf(ID, &Key::p256());
        let bundles = bundle_of("example.org", &[&root.der]).into();
        let peer = verdict(&[leaf], &bundles, NOW).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(peer.authority_sha256(), &sha256(&root.der), "{what}");
    }
}

#[test]
fn intermediates_by_requirement() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let flaw = |flaw| Err(intermediate_flaw(1, flaw));
    let with_uri = |text: &str| {
        let entry = uri(text);
        change(move |recipe| {
            recipe.set(names(from_ref(&entry)));
        })
    };
    let domain_of = |found: &str| {
        Err(intermediate_flaw(
            1,
            ProfileError::ForeignAuthority { found: found.into(), expected: domain("example.org") },
        ))
    };
    let cases: Vec<(&str, Change, Result<(), VerifyError>)> = vec![
        ("X509-08 as our CA issues it", change(|_| {}), Ok(())),
        (
            "X509-09 A-04 no names",
            change(|r| {
                r.without(SUBJECT_ALT_NAME);
            }),
            Ok(()),
        ),
        ("X509-09 a URI of another scheme", with_uri("https://example.com/ca"), Ok(())),
        (
            "X509-10 a path",
            with_uri("spiffe://example.org/ca"),
            flaw(ProfileError::SigningPath { id: "spiffe://example.org/ca".into() }),
        ),
        ("X509-10 A-03 a slash at the end", with_uri("spiffe://example.org/"), Ok(())),
        ("X509-11 X509-36 A-09 another trust domain", with_uri("spiffe://example.com"), domain_of("example.com")),
        ("X509-11 another trust domain and a slash", with_uri("spiffe://example.com/"), domain_of("example.com")),
        (
            "X509-11 the scheme in upper case",
            with_uri("SPIFFE://example.com"),
            flaw(ProfileError::SpiffeId {
                uri: "SPIFFE://example.com".into(),
                error: SpiffeIdError::Scheme { found: "SPIFFE://example".into() },
            }),
        ),
        (
            "X509-02 two URIs",
            change(|r| {
                r.set(names(&[uri("spiffe://example.org"), uri("https://a")]));
            }),
            flaw(ProfileError::SeveralUris { count: 2 }),
        ),
        (
            "X509-14 pathLen 0",
            change(|r| {
                r.set(basic_constraints(true, Some(0)));
            }),
            Ok(()),
        ),
        (
            "X509-15 cA is false",
            change(|r| {
                r.set(basic_constraints(false, None));
            }),
            flaw(ProfileError::NotSigningCertificate),
        ),
        (
            "X509-15 no basic constraints",
            change(|r| {
                r.without(BASIC_CONSTRAINTS);
            }),
            flaw(ProfileError::NotSigningCertificate),
        ),
        (
            "X509-18 no key usage",
            change(|r| {
                r.without(KEY_USAGE);
            }),
            flaw(ProfileError::NoKeyUsage),
        ),
        (
            "X509-20 no keyCertSign",
            change(|r| {
                r.set(key_usage(CRL_SIGN));
            }),
            flaw(ProfileError::NoKeyCertSign),
        ),
        (
            "X509-21 no cRLSign",
            change(|r| {
                r.set(key_usage(KEY_CERT_SIGN));
            }),
            Ok(()),
        ),
        (
            "A-33 digitalSignature too",
            change(|r| {
                r.set(key_usage(KEY_CERT_SIGN | DIGITAL_SIGNATURE));
            }),
            Ok(()),
        ),
        (
            "X509-29 both extended key usages",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[CLIENT_AUTH, SERVER_AUTH]));
            }),
            Ok(()),
        ),
        (
            "X509-29 any extended key usage",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[ANY_USAGE]));
            }),
            Ok(()),
        ),
        (
            "X509-29 one extended key usage",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[CLIENT_AUTH]));
            }),
            flaw(ProfileError::ExtendedKeyUsage { missing: "serverAuth" }),
        ),
        (
            "X509-17 T-22 URIs permitted",
            change(|r| {
                r.set(name_constraints(&[uri("example.org")], &[]));
            }),
            flaw(ProfileError::UriNameConstraints),
        ),
        (
            "X509-17 T-22 URIs excluded",
            change(|r| {
                r.set(name_constraints(&[], &[uri("example.com")]));
            }),
            flaw(ProfileError::UriNameConstraints),
        ),
        (
            "DNS names permitted, the leaf has none",
            change(|r| {
                r.set(name_constraints(&[dns("example.org")], &[]));
            }),
            Ok(()),
        ),
        (
            "an unknown critical extension",
            change(|r| {
                r.extensions.push(Extension { oid: vec![0x2a, 3], critical: true, value: vec![5, 0] });
            }),
            flaw(ProfileError::UnknownCriticalExtension { oid: "1.2.3".into() }),
        ),
        (
            "X509-30 expired",
            change(|r| r.not_after = time(at(-1))),
            Err(VerifyError::Expired { link: Link::Intermediate(1), not_after: at(-1), now: NOW }),
        ),
        (
            "not valid yet",
            change(|r| r.not_before = time(at(1))),
            Err(VerifyError::NotYetValid { link: Link::Intermediate(1), not_before: at(1), now: NOW }),
        ),
        ("its last second", change(|r| r.not_after = time(NOW)), Ok(())),
        (
            "X509-30 signed by another",
            change(|r| r.issuer = name("another")),
            Err(VerifyError::UnknownAuthority { trust_domain: domain("example.org") }),
        ),
        ("serial number 0", change(|r| r.serial = vec![0]), flaw(ProfileError::Serial { serial: vec![0] })),
        (
            "a name that cannot be read",
            change(|r| {
                r.set(names(&[uri("spiffe://example.org"), vec![0x86]]));
            }),
            flaw(ProfileError::SubjectAltName { flaw: SanFlaw::Entry { index: 1 } }),
        ),
    ];
    for (requirement, change, expected) in cases {
        let issuing = realm.root.intermediate_with("example.org", "issuing", Key::p256(), change);
        let chain = [issuing.leaf(ID, &realm.key), issuing.der.clone()];
        assert_eq!(verdict(&chain, &bundles, NOW).map(drop), expected, "{requirement}");
    }
}

#[test]
fn x509_30_name_constraints_of_other_kinds_are_enforced() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let address = |bytes: &[u8]| tlv(0x87, bytes);
    let directory = |text: &str| tlv(0xa4, &name(text));
    for (what, constraints, subject, entries, expected) in [
        ("DNS inside", name_constraints(&[dns("example.org")], &[]), "", vec![dns("a.example.org")], Ok(())),
        (
            "DNS outside",
            name_constraints(&[dns("example.org")], &[]),
            "",
            vec![dns("a.example.com")],
            Err(VerifyError::NameConstraints),
        ),
        (
            "DNS excluded",
            name_constraints(&[], &[dns("example.org")]),
            "",
            vec![dns("a.example.org")],
            Err(VerifyError::NameConstraints),
        ),
        (
            "address outside",
            name_constraints(&[address(&[10, 0, 0, 0, 255, 0, 0, 0])], &[]),
            "",
            vec![address(&[192, 168, 0, 1])],
            Err(VerifyError::NameConstraints),
        ),
        (
            "address inside",
            name_constraints(&[address(&[10, 0, 0, 0, 255, 0, 0, 0])], &[]),
            "",
            vec![address(&[10, 0, 0, 1])],
            Ok(()),
        ),
        (
            "directory name outside",
            name_constraints(&[directory("a")], &[]),
            "b",
            vec![],
            Err(VerifyError::NameConstraints),
        ),
    ] {
        let issuing = realm.root.intermediate_with("example.org", "issuing", Key::p256(), |r| {
            r.set(constraints);
        });
        let leaf = issuing.leaf_with(ID, &realm.key, |r| {
            r.subject = name(subject);
            r.set(names(&[vec![uri(ID)], entries].concat()));
        });
        assert_eq!(verdict(&[leaf, issuing.der.clone()], &bundles, NOW).map(drop), expected, "{what}");
    }
}

#[test]
fn x509_14_path_lengths() {
    let key = Key::p256();
    let limited = |limit| {
        move |r: &mut Recipe| {
            r.set(basic_constraints(true, limit));
        }
    };
    for (what, of_root, of_first, expected) in [
        ("none says anything", None, None, Ok(())),
        ("the upper allows one", None, Some(1), Ok(())),
        ("the upper allows none", None, Some(0), Err(VerifyError::PathTooLong { link: Link::Intermediate(2) })),
        ("the root allows two", Some(2), None, Ok(())),
        ("the root allows one", Some(1), None, Err(VerifyError::PathTooLong { link: Link::Root })),
    ] {
        let root = Authority::root_with("example.org", "root", Key::p256(), limited(of_root));
        let first = root.intermediate_with("example.org", "first", Key::p256(), limited(of_first));
        let second = first.intermediate_with("example.org", "second", Key::p256(), limited(None));
        let chain = [second.leaf(ID, &key), second.der.clone(), first.der.clone()];
        let bundles = bundle_of("example.org", &[&root.der]).into();
        assert_eq!(verdict(&chain, &bundles, NOW).map(drop), expected, "{what}");
    }
}

#[test]
fn x509_30_roots_must_be_valid_too() {
    let key = Key::p256();
    let within = |from: i64, to: i64| {
        move |r: &mut Recipe| {
            r.not_before = time(at(from));
            r.not_after = time(at(to));
        }
    };
    let link = Link::Root;
    for (what, from, to, expected) in [
        ("valid", -10, 10, Ok(())),
        ("its last second", -10, 0, Ok(())),
        ("X509-30 expired", -10, -1, Err(VerifyError::Expired { link, not_after: at(-1), now: NOW })),
        ("not yet valid", 1, 10, Err(VerifyError::NotYetValid { link, not_before: at(1), now: NOW })),
    ] {
        let root = Authority::root_with("example.org", "root", Key::p256(), within(from, to));
        let issuing = root.intermediate("example.org");
        let bundles: BundleSet = bundle_of("example.org", &[&root.der]).into();
        assert_eq!(verdict(&[root.leaf(ID, &key)], &bundles, NOW).map(drop), expected, "{what}, leaf below it");
        let chain = [issuing.leaf(ID, &key), issuing.der.clone()];
        assert_eq!(verdict(&chain, &bundles, NOW).map(drop), expected, "{what}, issuing authority below it");
    }

    // A root that was certified anew with the same key: the old certificate does not get in the way.
    let mut recipe = Recipe::authority("example.org", "root", &key);
    recipe.issuer = recipe.subject.clone();
    within(-10, -1)(&mut recipe);
    let old = recipe.signed_by(&key);
    within(-5, 100)(&mut recipe);
    let new = Authority { der: recipe.signed_by(&key), name: recipe.subject, key };
    let leaf = new.leaf(ID, &Key::p256());
    for roots in [[&old, &new.der], [&new.der, &old]] {
        let peer = verdict(from_ref(&leaf), &bundle_of("example.org", &roots).into(), NOW).unwrap();
        assert_eq!(peer.authority_sha256(), &sha256(&new.der));
        assert_eq!(peer.not_after(), at(100));
    }
}
