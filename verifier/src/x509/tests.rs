//! What is accepted as an identity and what not, by requirement.
//!
//! Each table runs through [`verify`] and through [`VerifiedChains`], twice: the verdicts must be the same.

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
            "X509-01 no subject alternative name",
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
            "X509-02 two SPIFFE IDs",
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
            "X509-05 X509-35 no path",
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
            "X509-18 no key usage",
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
            "X509-22 no digitalSignature",
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
            "ID-05 upper-case domain",
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
        ("ID-16 2049 bytes", with_uri(&long_id(2049)), id(&long_id(2049), SpiffeIdError::TooLong { length: 2049 })),
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
fn x509_04_what_a_verified_peer_says() {
    let realm = Realm::new("example.org");
    let peer = verdict(&realm.chain(|_| {}), &realm.bundles(), NOW).unwrap();
    assert_eq!(peer.id().as_str(), ID);
    assert_eq!((peer.not_before(), peer.not_after()), (at(-60), at(3600)));
    assert_eq!(peer.serial().to_string(), "5a010203");
    assert_eq!(peer.spki_sha256(), &sha256(&realm.key.spki()));
    assert_eq!(peer.authority_sha256(), &sha256(&realm.root.der));

    // The validity is that of the whole chain.
    let root = Authority::root_with("example.org", "root", Key::p256(), |r| r.not_after = time(at(50)));
    let issuing = root.intermediate_with("example.org", "issuing", Key::p256(), |r| r.not_before = time(at(-10)));
    let chain = [issuing.leaf(ID, &realm.key), issuing.der.clone()];
    let peer = verdict(&chain, &bundle_of("example.org", &[&root.der]).into(), NOW).unwrap();
    assert_eq!((peer.not_before(), peer.not_after()), (at(-10), at(50)));
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
        ("X509-11 X509-36 another trust domain", with_uri("spiffe://example.com"), domain_of("example.com")),
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
            "expired",
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
            "signed by another",
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
fn name_constraints_of_other_kinds_are_enforced() {
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
fn roots_must_be_valid_too() {
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
        ("expired", -10, -1, Err(VerifyError::Expired { link, not_after: at(-1), now: NOW })),
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

#[test]
fn id_20_only_the_own_trust_domain_vouches() {
    let (ours, theirs) = (Realm::new("example.org"), Realm::new("example.com"));
    let both: BundleSet = [bundle_of("example.org", &[&ours.root.der]), bundle_of("example.com", &[&theirs.root.der])]
        .into_iter()
        .map(std::sync::Arc::new)
        .collect();
    // T-25: right path, wrong trust domain; both bundles are trusted.
    let forged = [theirs.issuing.leaf(ID, &ours.key), theirs.issuing.der.clone()];
    let foreign = ProfileError::ForeignAuthority { found: "example.com".into(), expected: domain("example.org") };
    assert_eq!(verdict(&forged, &both, NOW), Err(intermediate_flaw(1, foreign)));
    let unknown = Err(VerifyError::UnknownAuthority { trust_domain: domain("example.org") });
    assert_eq!(verdict(&[theirs.root.leaf(ID, &ours.key)], &both, NOW), unknown);
    // X509-31, TDB-02: the bundle of the other one does not count, nor does a set without a bundle.
    let only_theirs = bundle_of("example.com", &[&theirs.root.der]).into();
    let id = SpiffeId::parse(ID).unwrap();
    let missing = Err(VerifyError::UnknownTrustDomain { id });
    assert_eq!(verdict(&ours.chain(|_| {}), &only_theirs, NOW), missing);
    assert_eq!(verdict(&ours.chain(|_| {}), &BundleSet::empty(), NOW), missing);
    // X509-44, TDB-10: a bundle without a root.
    let empty = bundle_of("example.org", &[]).into();
    let none = Err(VerifyError::NoAuthorities { trust_domain: domain("example.org") });
    assert_eq!(verdict(&ours.chain(|_| {}), &empty, NOW), none);
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
fn t_06_bounds_come_before_everything() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let chain = realm.chain(|_| {});
    let padded = |count: usize| {
        let mut chain = chain.clone();
        chain.extend((2..count).map(|n| CertificateDer::from(vec![n as u8; 16])));
        verdict(&chain, &bundles, NOW).map(drop)
    };
    assert_eq!(padded(8), Ok(()));
    assert_eq!(padded(9), Err(VerifyError::TooManyCertificates { count: 9 }));
    assert_eq!(padded(100), Err(VerifyError::TooManyCertificates { count: 100 }));
    let own: usize = chain.iter().map(|certificate| certificate.len()).sum();
    let filled = |bytes: usize| {
        let mut chain = chain.clone();
        chain.push(vec![0; bytes - own].into());
        verdict(&chain, &bundles, NOW).map(drop)
    };
    assert_eq!(filled(16 * 1024), Ok(()));
    assert_eq!(filled(16 * 1024 + 1), Err(VerifyError::ChainTooLarge { bytes: 16 * 1024 + 1 }));
    assert_eq!(filled(100 * 16 * 1024), Err(VerifyError::ChainTooLarge { bytes: 100 * 16 * 1024 }));
    let huge =
        realm.chain(|r| r.extensions.push(Extension { oid: vec![0x2a], critical: false, value: vec![0; 16 * 1024] }));
    assert!(matches!(verdict(&huge, &bundles, NOW), Err(VerifyError::ChainTooLarge { .. })));
    let many_names: Vec<_> = std::iter::once(uri(ID)).chain((0..10_000).map(|n| dns(&format!("n{n}")))).collect();
    let many = realm.chain(|r| {
        r.set(names(&many_names));
    });
    assert!(matches!(verdict(&many, &bundles, NOW), Err(VerifyError::ChainTooLarge { .. })));
}

#[test]
fn t_06_look_alikes_cost_little() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let leaf = realm.issuing.leaf(ID, &realm.key);
    let with = |intermediates: Vec<CertificateDer<'static>>| {
        verdict(&[vec![leaf.clone()], intermediates].concat(), &bundles, NOW).map(drop)
    };
    let alike = |issuer: &str, subject: &str| {
        realm.root.intermediate_with("example.org", subject, Key::p256(), |r| r.issuer = name(issuer)).der
    };
    let issuing = "example.org issuing";
    let seven = |one: &dyn Fn() -> CertificateDer<'static>| (0..7).map(|_| one()).collect::<Vec<_>>();
    let too_many = Err(VerifyError::LookAlikes { count: 7 });
    // All of the issuing authority's name, below the root; below each other; below nobody; all the root's namesakes.
    assert_eq!(with(seven(&|| alike("example.org root", issuing))), too_many);
    assert_eq!(with(seven(&|| alike(issuing, issuing))), too_many);
    assert_eq!(with(seven(&|| alike("nobody", issuing))), too_many);
    assert_eq!(with(seven(&|| alike("example.org root", "example.org root"))), too_many);
    // As many as are allowed, in a ring, and the true one at last.
    let ring = [("a", issuing), ("b", "a"), (issuing, "b"), ("a", issuing), ("b", "a")];
    let mut ring: Vec<_> = ring.iter().map(|(issuer, subject)| alike(issuer, subject)).collect();
    ring.push(realm.issuing.der.clone());
    assert_eq!(with(ring), Ok(()));
    let three = [alike("nobody", issuing), alike("example.org root", issuing), realm.issuing.der.clone()];
    assert_eq!(with(three.to_vec()), Ok(()));
    let mut four = three.to_vec();
    four.push(alike("nobody", issuing));
    assert_eq!(with(four), Err(VerifyError::LookAlikes { count: 4 }));
}

#[test]
fn t_44_many_roots_of_one_name() {
    let key = Key::p256();
    let roots: Vec<_> = (0..150).map(|_| Authority::root_with("example.org", "root", Key::p256(), |_| {})).collect();
    let bundles: BundleSet = bundle_of("example.org", &roots.iter().map(|root| &root.der).collect::<Vec<_>>()).into();
    for last in [&roots[0], &roots[149]] {
        let peer = verdict(&[last.leaf(ID, &key)], &bundles, NOW).unwrap();
        assert_eq!(peer.authority_sha256(), &sha256(&last.der));
        let issuing = last.intermediate("example.org");
        verdict(&[issuing.leaf(ID, &key), issuing.der.clone()], &bundles, NOW).unwrap();
        // Nothing says which of the 150 keys it is.
        let unnamed = last.leaf_with(ID, &key, |r| {
            r.without(AUTHORITY_KEY);
        });
        let peer = verdict(&[unnamed], &bundles, NOW).unwrap();
        assert_eq!(peer.authority_sha256(), &sha256(&last.der));
    }
    let stranger = Authority::root_with("example.org", "root", Key::p256(), |_| {});
    assert_eq!(
        verdict(&[stranger.leaf(ID, &key)], &bundles, NOW),
        Err(VerifyError::UnknownAuthority { trust_domain: domain("example.org") })
    );
    let unnamed = stranger.leaf_with(ID, &key, |r| {
        r.without(AUTHORITY_KEY);
    });
    assert_eq!(verdict(&[unnamed], &bundles, NOW), Err(VerifyError::BadSignature));
}

#[test]
fn a_hit_looks_at_the_time_again_and_a_new_generation_at_everything() {
    let realm = Realm::new("example.org");
    let (chain, bundles) = (realm.chain(|_| {}), realm.bundles());
    let presented = PresentedChain::leaf_first(&chain).unwrap();
    let cache = VerifiedChains::new(16);
    cache.verify(&presented, 1, &bundles, NOW).unwrap();
    // Within the generation even without the bundles: that shows that it was a hit.
    cache.verify(&presented, 1, &BundleSet::empty(), NOW).unwrap();
    for (what, now) in [("after its end", at(3601)), ("before its begin", at(-61))] {
        assert_eq!(cache.verify(&presented, 1, &bundles, now), verify(&presented, &bundles, now), "{what}");
    }
    assert!(cache.verify(&presented, 2, &BundleSet::empty(), NOW).is_err(), "the root has left the bundle");
    assert_eq!(cache.len(), 1);
    cache.clear();
    assert!(cache.verify(&presented, 1, &BundleSet::empty(), NOW).is_err());
}

#[test]
fn the_cache_is_bounded_and_keyed_by_every_byte() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let cache = VerifiedChains::new(8);
    let leaf = realm.issuing.leaf(ID, &realm.key);
    for n in 0..64_u8 {
        let chain = [leaf.clone(), realm.issuing.der.clone(), vec![n].into()];
        cache.verify(&PresentedChain::leaf_first(&chain).unwrap(), 1, &bundles, NOW).unwrap();
    }
    assert!(cache.len() <= 16, "{} chains", cache.len());
    // The same bytes, divided in another way, are another chain.
    let cache = VerifiedChains::new(8);
    for tail in [vec![vec![1, 2].into(), vec![3].into()], vec![vec![1].into(), vec![2, 3].into()]] {
        let chain: Vec<CertificateDer<'_>> = [vec![leaf.clone(), realm.issuing.der.clone()], tail].concat();
        cache.verify(&PresentedChain::leaf_first(&chain).unwrap(), 1, &bundles, NOW).unwrap();
    }
    assert_eq!(cache.len(), 2);
}

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
