//! Leaves: their profile, their encoding, their keys.

use super::*;

#[test]
fn leaves_by_requirement() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let long_id = |length: usize| format!("spiffe://example.org/{}", "a".repeat(length - 21));
    let id = |uri: &str, error| Err(ProfileError::SpiffeId { uri: uri.chars().take(256).collect(), error });
    let with_uri = |text: &str| {
        let entry = uri(text);
        change(move |recipe| {
            recipe.set(names(from_ref(&entry)));
        })
    };
    let forbidden = |usage| Err(ProfileError::ForbiddenKeyUsage { usage });
    let cases: Vec<(&str, Change, Result<(), ProfileError>)> = vec![
        ("X509-01 as our CA issues it", change(|_| {}), Ok(())),
        (
            "X509-01 A-08 no subject alternative name",
            change(|r| {
                r.without(SUBJECT_ALT_NAME);
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "X509-01 DNS alone",
            change(|r| {
                r.set(names(&[dns("a")]));
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "X509-02 A-08 two SPIFFE IDs",
            change(|r| {
                r.set(names(&[uri(ID), uri(ID)]));
            }),
            Err(ProfileError::SeveralUris { count: 2 }),
        ),
        (
            "X509-02 a SPIFFE ID and another URI",
            change(|r| {
                r.set(names(&[uri(ID), uri("https://a")]));
            }),
            Err(ProfileError::SeveralUris { count: 2 }),
        ),
        (
            "X509-03 URI and DNS",
            change(|r| {
                r.set(names(&[dns("photo.example.org"), uri(ID)]));
            }),
            Ok(()),
        ),
        (
            "X509-03 200 DNS names",
            change(|r| {
                let mut entries = vec![uri(ID)];
                entries.extend((0..200).map(|n| dns(&format!("n{n}.example.org"))));
                r.set(names(&entries));
            }),
            Ok(()),
        ),
        (
            "X509-05 X509-35 A-05 no path",
            with_uri("spiffe://example.org"),
            Err(ProfileError::NoPath { id: SpiffeId::parse("spiffe://example.org").unwrap() }),
        ),
        (
            "X509-06 subject with a name",
            change(|r| {
                r.subject = name("photo");
            }),
            Ok(()),
        ),
        (
            "X509-07 empty subject, names not critical",
            change(|r| {
                r.critical(SUBJECT_ALT_NAME, false);
            }),
            Err(ProfileError::NamesNotCritical),
        ),
        (
            "X509-07 subject, names not critical",
            change(|r| {
                r.subject = name("photo");
                r.critical(SUBJECT_ALT_NAME, false);
            }),
            Ok(()),
        ),
        (
            "X509-13 X509-16 X509-32 cA is true",
            change(|r| {
                r.set(basic_constraints(true, None));
            }),
            Err(ProfileError::SigningCertificate),
        ),
        (
            "X509-16 A-07 no basic constraints",
            change(|r| {
                r.without(BASIC_CONSTRAINTS);
            }),
            Ok(()),
        ),
        (
            "X509-16 basic constraints not critical",
            change(|r| {
                r.critical(BASIC_CONSTRAINTS, false);
            }),
            Ok(()),
        ),
        (
            "X509-18 A-06 no key usage",
            change(|r| {
                r.without(KEY_USAGE);
            }),
            Err(ProfileError::NoKeyUsage),
        ),
        (
            "X509-19 key usage not critical",
            change(|r| {
                r.critical(KEY_USAGE, false);
            }),
            Err(ProfileError::KeyUsageNotCritical),
        ),
        (
            "X509-22 A-06 no digitalSignature",
            change(|r| {
                r.set(key_usage(KEY_AGREEMENT));
            }),
            Err(ProfileError::NoDigitalSignature),
        ),
        (
            "X509-22 T-15 no bit at all",
            change(|r| {
                r.set(key_usage(0));
            }),
            Err(ProfileError::NoDigitalSignature),
        ),
        (
            "X509-23 keyEncipherment and keyAgreement",
            change(|r| {
                r.set(key_usage(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT));
            }),
            Ok(()),
        ),
        (
            "X509-24 X509-33 keyCertSign",
            change(|r| {
                r.set(key_usage(DIGITAL_SIGNATURE | KEY_CERT_SIGN));
            }),
            forbidden("keyCertSign"),
        ),
        (
            "X509-25 X509-33 cRLSign",
            change(|r| {
                r.set(key_usage(DIGITAL_SIGNATURE | CRL_SIGN));
            }),
            forbidden("cRLSign"),
        ),
        (
            "X509-26 no extended key usage",
            change(|r| {
                r.without(EXTENDED_KEY_USAGE);
            }),
            Ok(()),
        ),
        (
            "X509-27 extended key usage critical",
            change(|r| {
                r.critical(EXTENDED_KEY_USAGE, true);
            }),
            Ok(()),
        ),
        (
            "X509-28 T-24 clientAuth alone",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[CLIENT_AUTH]));
            }),
            Err(ProfileError::ExtendedKeyUsage { missing: "serverAuth" }),
        ),
        (
            "X509-28 T-24 serverAuth alone",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[SERVER_AUTH]));
            }),
            Err(ProfileError::ExtendedKeyUsage { missing: "clientAuth" }),
        ),
        (
            "X509-28 T-24 emailProtection alone",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[EMAIL_PROTECTION]));
            }),
            Err(ProfileError::ExtendedKeyUsage { missing: "serverAuth" }),
        ),
        (
            "X509-28 any alone",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[ANY_USAGE]));
            }),
            Err(ProfileError::ExtendedKeyUsage { missing: "serverAuth" }),
        ),
        (
            "X509-28 both and another",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[EMAIL_PROTECTION, SERVER_AUTH, CLIENT_AUTH]));
            }),
            Ok(()),
        ),
        (
            "X509-28 T-15 T-24 empty",
            change(|r| {
                r.set(fixtures::extended_key_usage(&[]));
            }),
            Err(ProfileError::ExtendedKeyUsage { missing: "serverAuth" }),
        ),
        // The name.
        (
            "X509-34 https",
            with_uri("https://example.org/photo"),
            id("https://example.org/photo", SpiffeIdError::Scheme { found: "https://example.".into() }),
        ),
        (
            "X509-34 ID-19 SPIFFE://",
            with_uri("SPIFFE://example.org/photo"),
            id("SPIFFE://example.org/photo", SpiffeIdError::Scheme { found: "SPIFFE://example".into() }),
        ),
        (
            "ID-05 A-01 upper-case domain",
            with_uri("spiffe://Example.org/photo"),
            id("spiffe://Example.org/photo", SpiffeIdError::TrustDomainByte { byte: b'E', at: 9 }),
        ),
        (
            "ID-04 port",
            with_uri("spiffe://example.org:1/photo"),
            id("spiffe://example.org:1/photo", SpiffeIdError::TrustDomainByte { byte: b':', at: 20 }),
        ),
        (
            "ID-04 user part",
            with_uri("spiffe://a@example.org/photo"),
            id("spiffe://a@example.org/photo", SpiffeIdError::TrustDomainByte { byte: b'@', at: 10 }),
        ),
        (
            "ID-03 query",
            with_uri("spiffe://example.org/photo?a"),
            id("spiffe://example.org/photo?a", SpiffeIdError::PathByte { byte: b'?', at: 26 }),
        ),
        (
            "ID-03 fragment",
            with_uri("spiffe://example.org/photo#a"),
            id("spiffe://example.org/photo#a", SpiffeIdError::PathByte { byte: b'#', at: 26 }),
        ),
        (
            "ID-10 percent",
            with_uri("spiffe://example.org/%2e"),
            id("spiffe://example.org/%2e", SpiffeIdError::PathByte { byte: b'%', at: 21 }),
        ),
        (
            "ID-11 two slashes",
            with_uri("spiffe://example.org//photo"),
            id("spiffe://example.org//photo", SpiffeIdError::EmptySegment { at: 21 }),
        ),
        (
            "ID-12 dots",
            with_uri("spiffe://example.org/.."),
            id("spiffe://example.org/..", SpiffeIdError::DotSegment { at: 21 }),
        ),
        (
            "ID-13 slash at the end",
            with_uri("spiffe://example.org/photo/"),
            id("spiffe://example.org/photo/", SpiffeIdError::TrailingSlash),
        ),
        ("ID-16 2048 bytes", with_uri(&long_id(2048)), Ok(())),
        (
            "ID-16 A-02 2049 bytes",
            with_uri(&long_id(2049)),
            id(&long_id(2049), SpiffeIdError::TooLong { length: 2049 }),
        ),
        (
            "ID-14 not ASCII",
            change(|r| {
                r.set(names(&[tlv(0x86, b"spiffe://example.org/\xc3\xb6")]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Text { index: 0 } }),
        ),
        (
            "ID-14 NUL",
            change(|r| {
                r.set(names(&[tlv(0x86, b"spiffe://example.org/a\0b")]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Text { index: 0 } }),
        ),
        (
            "T-24 SPIFFE ID in the DNS name",
            change(|r| {
                r.set(names(&[tlv(0x82, ID.as_bytes())]));
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "T-24 SPIFFE ID in the e-mail",
            change(|r| {
                r.set(names(&[tlv(0x81, ID.as_bytes())]));
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "T-24 SPIFFE ID in another name",
            change(|r| {
                r.set(names(&[tlv(0xa0, &[tlv(6, &[0x2a, 3]), tlv(0xa0, &tlv(0x0c, ID.as_bytes()))].concat())]));
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "T-24 SPIFFE ID in the common name",
            change(|r| {
                r.subject = name(ID);
                r.without(SUBJECT_ALT_NAME);
            }),
            Err(ProfileError::NoUri),
        ),
        (
            "T-45 a second URI that cannot be read",
            change(|r| {
                r.set(names(&[uri(ID), tlv(0x86, b"a\xff")]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Text { index: 1 } }),
        ),
        (
            "T-45 a second URI of length 0",
            change(|r| {
                r.set(names(&[uri(ID), tlv(0x86, b"")]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Text { index: 1 } }),
        ),
        (
            "T-45 a cut entry",
            change(|r| {
                r.set(names(&[uri(ID), vec![0x86, 9, b'a']]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Entry { index: 1 } }),
        ),
        (
            "T-45 an unknown tag",
            change(|r| {
                r.set(names(&[uri(ID), tlv(0x89, b"a")]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Entry { index: 1 } }),
        ),
        (
            "T-15 an empty list",
            change(|r| {
                r.set(names(&[]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::Empty }),
        ),
    ];
    for (requirement, change, expected) in cases {
        let found = verdict(&realm.chain(change), &bundles, NOW);
        assert_eq!(found.map(drop), expected.map_err(leaf_flaw), "{requirement}");
    }
}

#[test]
fn leaves_by_their_encoding() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let malformed = |what| Err(ProfileError::Malformed { what });
    let serial = |serial: &[u8]| Err(ProfileError::Serial { serial: serial.to_vec() });
    let unknown = |critical| Extension { oid: vec![0x2a, 3, 4], critical, value: tlv(5, &[]) };
    let cases: Vec<(&str, Change, Result<(), ProfileError>)> = vec![
        ("version 1", change(|r| r.version = None), Err(ProfileError::Version { version: 1 })),
        ("version 2", change(|r| r.version = Some(1)), Err(ProfileError::Version { version: 2 })),
        ("version 4", change(|r| r.version = Some(3)), Err(ProfileError::Version { version: 4 })),
        ("serial number 0", change(|r| r.serial = vec![0]), serial(&[0])),
        ("serial number -1", change(|r| r.serial = vec![0xff]), serial(&[0xff])),
        ("serial number of 20 bytes", change(|r| r.serial = vec![0x7f; 20]), Ok(())),
        ("serial number of 21 bytes", change(|r| r.serial = vec![0x7f; 21]), serial(&[0x7f; 21])),
        ("serial number with a needless zero", change(|r| r.serial = vec![0, 1]), serial(&[0, 1])),
        ("serial number with a needed zero", change(|r| r.serial = vec![0, 0x80]), Ok(())),
        (
            "inner algorithm is not the outer",
            change(|r| r.inner_algorithm = Some(ECDSA_SHA1.to_vec())),
            Err(ProfileError::SignatureAlgorithmMismatch),
        ),
        (
            "SHA-1",
            change(|r| {
                r.inner_algorithm = Some(ECDSA_SHA1.to_vec());
                r.outer_algorithm = Some(ECDSA_SHA1.to_vec());
            }),
            Err(ProfileError::SignatureAlgorithm { oid: "1.2.840.10045.4.1".into() }),
        ),
        ("an unknown extension", change(move |r| r.extensions.push(unknown(false))), Ok(())),
        (
            "an unknown critical extension",
            change(move |r| r.extensions.push(unknown(true))),
            Err(ProfileError::UnknownCriticalExtension { oid: "1.2.3.4".into() }),
        ),
        (
            "a critical extension of id-ce",
            change(|r| {
                r.set(Extension::new(32, true, sequence::<&[u8]>(&[])));
            }),
            Err(ProfileError::UnknownCriticalExtension { oid: "2.5.29.32".into() }),
        ),
        (
            "key usage twice",
            change(|r| r.extensions.push(key_usage(DIGITAL_SIGNATURE))),
            Err(ProfileError::DuplicateExtension { oid: "2.5.29.15".into() }),
        ),
        (
            "names twice",
            change(|r| r.extensions.push(names(&[uri(ID)]))),
            Err(ProfileError::DuplicateExtension { oid: "2.5.29.17".into() }),
        ),
        (
            "an unknown extension twice",
            change(move |r| r.extensions.extend([unknown(false), unknown(false)])),
            Err(ProfileError::DuplicateExtension { oid: "1.2.3.4".into() }),
        ),
        (
            "32 extensions",
            change(|r| {
                let more = 32 - r.extensions.len();
                r.extensions.extend((0..more).map(|n| Extension {
                    oid: vec![0x2a, n as u8],
                    critical: false,
                    value: vec![5, 0],
                }));
            }),
            Ok(()),
        ),
        (
            "33 extensions",
            change(|r| {
                let more = 33 - r.extensions.len();
                r.extensions.extend((0..more).map(|n| Extension {
                    oid: vec![0x2a, n as u8],
                    critical: false,
                    value: vec![5, 0],
                }));
            }),
            Err(ProfileError::TooManyExtensions { count: 33 }),
        ),
        (
            "T-15 empty value: key usage",
            change(|r| {
                r.set(Extension::new(KEY_USAGE, true, vec![]));
            }),
            malformed("key usage"),
        ),
        (
            "T-15 empty value: names",
            change(|r| {
                r.set(Extension::new(SUBJECT_ALT_NAME, true, vec![]));
            }),
            Err(ProfileError::SubjectAltName { flaw: SanFlaw::NotDer }),
        ),
        (
            "T-15 empty bit string",
            change(|r| {
                r.set(Extension::new(KEY_USAGE, true, tlv(3, &[])));
            }),
            malformed("key usage"),
        ),
        (
            "key usage with unused bits set",
            change(|r| {
                r.set(Extension::new(KEY_USAGE, true, tlv(3, &[7, 0x81])));
            }),
            malformed("key usage"),
        ),
        (
            "key usage of three bytes",
            change(|r| {
                r.set(Extension::new(KEY_USAGE, true, tlv(3, &[0, 0x80, 0, 0])));
            }),
            malformed("key usage"),
        ),
        (
            "key usage in the long form",
            change(|r| {
                r.set(Extension::new(KEY_USAGE, true, vec![3, 0x81, 2, 7, 0x80]));
            }),
            malformed("key usage"),
        ),
        (
            "bytes after the key usage",
            change(|r| {
                r.set(Extension::new(KEY_USAGE, true, vec![3, 2, 7, 0x80, 0]));
            }),
            malformed("key usage"),
        ),
        (
            "T-15 empty identifier of the authority's key",
            change(|r| {
                r.set(Extension::new(AUTHORITY_KEY, false, sequence(&[tlv(0x80, &[])])));
            }),
            malformed("authority key identifier"),
        ),
        (
            "name constraints that are none",
            change(|r| {
                r.set(Extension::new(NAME_CONSTRAINTS, false, sequence(&[tlv(5, &[])])));
            }),
            malformed("name constraints"),
        ),
        // Dates.
        (
            "GeneralizedTime before 2050",
            change(|r| r.not_after = tlv(0x18, b"20261123100000Z")),
            Err(ProfileError::TimeEncoding),
        ),
        ("UTCTime to the end of 2049", change(|r| r.not_after = tlv(0x17, b"491231235959Z")), Ok(())),
        (
            "UTCTime from 50 means 1950",
            change(|r| r.not_after = tlv(0x17, b"500101000000Z")),
            Err(ProfileError::Validity { not_before: at(-60), not_after: Timestamp::from_unix_seconds(-631_152_000) }),
        ),
        ("GeneralizedTime from 2050", change(|r| r.not_after = tlv(0x18, b"20500101000000Z")), Ok(())),
        ("no well-defined end", change(|r| r.not_after = tlv(0x18, b"99991231235959Z")), Ok(())),
        (
            "end before begin",
            change(|r| r.not_after = time(at(-61))),
            Err(ProfileError::Validity { not_before: at(-60), not_after: at(-61) }),
        ),
    ];
    for (requirement, change, expected) in cases {
        let found = verdict(&realm.chain(change), &bundles, NOW);
        assert_eq!(found.map(drop), expected.map_err(leaf_flaw), "{requirement}");
    }
    let refused = [
        ("fractional seconds", change(|r| r.not_after = tlv(0x18, b"20501123100000.5Z"))),
        ("no seconds", change(|r| r.not_after = tlv(0x17, b"2701010000Z"))),
        ("time zone", change(|r| r.not_after = tlv(0x17, b"270101000000+0000"))),
        ("month 13", change(|r| r.not_after = tlv(0x17, b"271301000000Z"))),
        ("no date", change(|r| r.not_after = tlv(0x17, b""))),
        ("IA5String as name", change(|r| r.subject = tlv(0x16, b"a"))),
        ("no key", change(|r| r.spki = sequence::<&[u8]>(&[]))),
    ];
    for (what, change) in refused {
        let found = verdict(&realm.chain(change), &bundles, NOW).unwrap_err();
        assert!(
            VerifyError::CODES.contains(&found.code()) || ProfileError::CODES.contains(&found.code()),
            "{what}: {found}"
        );
    }
}

#[test]
fn bytes_that_are_not_der() {
    let realm = Realm::new("example.org");
    let chain = realm.chain(|_| {});
    let leaf = chain[0].to_vec();
    let with = |leaf: Vec<u8>| verdict(&[leaf.into(), chain[1].clone()], &realm.bundles(), NOW).unwrap_err();
    let malformed = leaf_flaw(ProfileError::Malformed { what: "the certificate" });
    assert_eq!(with(vec![]), malformed, "nothing");
    let trailing = |count| leaf_flaw(ProfileError::TrailingBytes { count });
    assert_eq!(with([leaf.as_slice(), &[0]].concat()), trailing(1), "a byte after it");
    assert_eq!(with([leaf.as_slice(), &leaf].concat()), trailing(leaf.len()), "two of them");
    assert_eq!(with(spiffe_pem(&leaf)), malformed, "PEM");
    let indefinite = [&[0x30, 0x80], &leaf[4..], &[0, 0]].concat();
    assert_eq!(with(indefinite), malformed, "indefinite length");
    let long_length = [&[0x30, 0x83, 0], &leaf[2..]].concat();
    assert_eq!(with(long_length), malformed, "a length in more bytes than needed");
    assert_eq!(with(vec![0x30; 10_000]), malformed, "T-32 ten thousand deep");
    for cut in 0..leaf.len() {
        assert_eq!(with(leaf[..cut].to_vec()), malformed, "cut at {cut}");
    }
}

fn spiffe_pem(der: &[u8]) -> Vec<u8> {
    crate::spiffe::pem("CERTIFICATE", der).into_bytes()
}

#[test]
fn validity_has_no_leeway() {
    let realm = Realm::new("example.org");
    let (chain, bundles) = (realm.chain(|_| {}), realm.bundles());
    let link = Link::Leaf;
    let not_yet = |now| Err(VerifyError::NotYetValid { link, not_before: at(-60), now });
    let expired = |now| Err(VerifyError::Expired { link, not_after: at(3600), now });
    let within_the_last_second = Timestamp::from_unix_millis(at(3600).unix_millis() + 999);
    for (now, expected) in [
        (at(-61), not_yet(at(-61))),
        (at(-60), Ok(())),
        (NOW, Ok(())),
        (at(3600), Ok(())),
        (within_the_last_second, Ok(())),
        (at(3601), expired(at(3601))),
        (Timestamp::MAX, expired(Timestamp::MAX)),
        (Timestamp::from_unix_seconds(0), not_yet(Timestamp::from_unix_seconds(0))),
        (Timestamp::from_unix_seconds(-1), not_yet(Timestamp::from_unix_seconds(-1))),
    ] {
        assert_eq!(verdict(&chain, &bundles, now).map(drop), expected, "at {now}");
    }
}

#[test]
fn keys_of_leaves() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let ec = |parameters: Vec<u8>, point: &[u8]| {
        let algorithm = sequence(&[tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), parameters]);
        sequence(&[algorithm, tlv(3, &[&[0], point].concat())])
    };
    let p256 = tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
    let p192 = tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1]);
    let rsa = |bits: usize, exponent: &[u8]| {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] >>= modulus.len() * 8 - bits;
        if modulus[0] & 0x80 != 0 {
            modulus.insert(0, 0);
        }
        let algorithm = sequence(&[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), tlv(5, &[])]);
        let key = sequence(&[tlv(2, &modulus), tlv(2, exponent)]);
        sequence(&[algorithm, tlv(3, &[&[0], key.as_slice()].concat())])
    };
    let other = |oid: &[u8], bytes: usize| {
        sequence(&[sequence(&[tlv(6, oid)]), tlv(3, &[&[0], vec![1; bytes].as_slice()].concat())])
    };
    let unsupported = |kind: &str| Err(PublicKeyError::Unsupported { kind: kind.into() });
    let modulus = |bits| Err(PublicKeyError::RsaModulus { bits });
    let point = Err(PublicKeyError::Point { curve: Curve::P256 });
    let f4 = [1, 0, 1];
    let cases: Vec<(&str, Vec<u8>, Result<(), PublicKeyError>)> = vec![
        ("P-256", Key::p256().spki(), Ok(())),
        ("P-384", Key::p384().spki(), Ok(())),
        ("P-521", Key::p521().spki(), Ok(())),
        ("Ed25519", Key::ed25519().spki(), Ok(())),
        ("RSA-2048", rsa(2048, &f4), Ok(())),
        ("RSA-2052", rsa(2052, &f4), Ok(())),
        ("RSA-8192", rsa(8192, &f4), Ok(())),
        ("RSA-1024", rsa(1024, &f4), modulus(1024)),
        ("RSA-2047", rsa(2047, &f4), modulus(2047)),
        ("RSA-8193", rsa(8193, &f4), modulus(8193)),
        ("RSA-16384", rsa(16384, &f4), modulus(16384)),
        ("RSA with e = 1", rsa(2048, &[1]), Err(PublicKeyError::RsaExponent)),
        ("RSA with e even", rsa(2048, &[1, 0, 0]), Err(PublicKeyError::RsaExponent)),
        ("RSA with e = 3", rsa(2048, &[3]), Ok(())),
        ("RSA with e of 34 bits", rsa(2048, &[2, 0, 0, 0, 1]), Err(PublicKeyError::RsaExponent)),
        ("P-192", ec(p192, &[4; 49]), unsupported("EC on another curve")),
        ("explicit curve", ec(sequence(&[tlv(2, &[1])]), &[4; 65]), unsupported("EC on another curve")),
        ("no curve", ec(vec![], &[4; 65]), unsupported("EC on another curve")),
        ("compressed", ec(p256.clone(), &[2; 33]), point.clone()),
        ("at infinity", ec(p256.clone(), &[0]), point.clone()),
        ("too short", ec(p256, &[4; 64]), point),
        ("DSA", other(&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1], 128), unsupported("1.2.840.10040.4.1")),
        ("Ed448", other(&[0x2b, 0x65, 0x71], 57), unsupported("1.3.101.113")),
        ("ML-DSA-44", other(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x11], 1312), unsupported("2.16.840.1.101.3.4.3.17")),
        ("Ed25519 of 31 bytes", other(&[0x2b, 0x65, 0x70], 31), Err(PublicKeyError::Ed25519)),
    ];
    for (what, spki, expected) in cases {
        let found = verdict(&realm.chain(|recipe| recipe.spki = spki), &bundles, NOW);
        assert_eq!(found.map(drop), expected.map_err(|flaw| leaf_flaw(ProfileError::PublicKey { flaw })), "{what}");
    }
}
