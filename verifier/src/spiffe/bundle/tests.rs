//! Trust bundles by requirement: what is refused as a whole, what is skipped, and that what is written reads back.

use aws_lc_rs::signature::KeyPair as _;
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};

use super::*;
use crate::spiffe::{Curve, JsonError, PublicKey, PublicKeyError};
use crate::x509::fixtures::*;
use crate::x509::profile::ProfileError;

fn x509_key(authority: &Authority) -> Value {
    let mut jwk = PublicKey::from_spki(&authority.key.spki()).unwrap().to_jwk();
    jwk.insert("use".into(), "x509-svid".into());
    jwk.insert("x5c".into(), json!([Base64::encode_string(&authority.der)]));
    Value::Object(jwk)
}

fn jwt_key(key_id: &str, key: &Key) -> Value {
    let mut jwk = PublicKey::from_spki(&key.spki()).unwrap().to_jwk();
    jwk.insert("use".into(), "jwt-svid".into());
    jwk.insert("kid".into(), key_id.into());
    Value::Object(jwk)
}

/// The key with one member set, or taken out by `null`.
fn with(mut jwk: Value, member: &str, value: Value) -> Value {
    let members = jwk.as_object_mut().unwrap();
    match value {
        Value::Null => members.remove(member),
        value => members.insert(member.into(), value),
    };
    jwk
}

fn read_text(document: &str) -> Result<TrustBundle, BundleError> {
    TrustBundle::parse_spiffe_json(domain("example.org"), document.as_bytes())
}

fn read(keys: &[Value]) -> Result<TrustBundle, BundleError> {
    read_text(&json!({ "keys": keys }).to_string())
}

#[test]
fn documents_that_are_refused_as_a_whole() {
    let root = x509_key(&Authority::root("example.org"));
    let duplicate =
        |member: &str| Err(BundleError::Json { reason: JsonError::DuplicateMember { member: member.into() } });
    let syntax = |line, column| Err(BundleError::Json { reason: JsonError::Syntax { line, column } });
    let deep = |levels: usize| format!(r#"{{"keys":[],"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let large = |bytes: usize| format!(r#"{{"keys":[]{}}}"#, " ".repeat(bytes - 11));
    let many = |count: usize| format!(r#"{{"keys":[{}]}}"#, vec!["1"; count].join(","));
    let cases: Vec<(&str, String, Result<(), BundleError>)> = vec![
        ("TDB-03 a JWK Set", json!({ "keys": [root] }).to_string(), Ok(())),
        ("TDB-04 other members", json!({ "keys": [root], "title": "ours" }).to_string(), Ok(())),
        ("TDB-08 an empty array", r#"{"keys":[]}"#.into(), Ok(())),
        ("TDB-08 no keys", "{}".into(), Err(BundleError::NoKeys)),
        ("TDB-08 keys is an object", r#"{"keys":{}}"#.into(), Err(BundleError::NoKeys)),
        ("TDB-08 an array", "[]".into(), Err(BundleError::NoKeys)),
        ("TDB-06 zero", r#"{"keys":[],"spiffe_sequence":0}"#.into(), Ok(())),
        ("TDB-06 2^64 - 1", r#"{"keys":[],"spiffe_sequence":18446744073709551615}"#.into(), Ok(())),
        ("TDB-06 2^64", r#"{"keys":[],"spiffe_sequence":18446744073709551616}"#.into(), Err(BundleError::Sequence)),
        ("TDB-06 a fraction", r#"{"keys":[],"spiffe_sequence":1.0}"#.into(), Err(BundleError::Sequence)),
        ("TDB-06 negative", r#"{"keys":[],"spiffe_sequence":-1}"#.into(), Err(BundleError::Sequence)),
        ("TDB-06 text", r#"{"keys":[],"spiffe_sequence":"1"}"#.into(), Err(BundleError::Sequence)),
        ("TDB-06 null", r#"{"keys":[],"spiffe_sequence":null}"#.into(), Err(BundleError::Sequence)),
        ("TDB-07 zero", r#"{"keys":[],"spiffe_refresh_hint":0}"#.into(), Ok(())),
        ("TDB-07 10^9", r#"{"keys":[],"spiffe_refresh_hint":1000000000}"#.into(), Ok(())),
        ("TDB-07 2^32", r#"{"keys":[],"spiffe_refresh_hint":4294967296}"#.into(), Err(BundleError::RefreshHint)),
        ("TDB-07 negative", r#"{"keys":[],"spiffe_refresh_hint":-1}"#.into(), Err(BundleError::RefreshHint)),
        ("TDB-07 a fraction", r#"{"keys":[],"spiffe_refresh_hint":0.5}"#.into(), Err(BundleError::RefreshHint)),
        (
            "a private key",
            json!({ "keys": [root, with(root.clone(), "d", json!("AA"))] }).to_string(),
            Err(BundleError::PrivateKey { entry: 1, member: "d".into() }),
        ),
        (
            "a private key in a key that nobody would use",
            r#"{"keys":[{"kty":"RSA","p":"AA"}]}"#.into(),
            Err(BundleError::PrivateKey { entry: 0, member: "p".into() }),
        ),
        (
            "TDB-09 a private key of a kind that nobody knows",
            r#"{"keys":[{"kty":"AKP","alg":"ML-DSA-44","priv":"AA"}]}"#.into(),
            Err(BundleError::PrivateKey { entry: 0, member: "priv".into() }),
        ),
        (
            "a symmetric key",
            r#"{"keys":[{"kty":"oct","k":"AA"}]}"#.into(),
            Err(BundleError::PrivateKey { entry: 0, member: "k".into() }),
        ),
        ("TDB-15 a member twice", r#"{"keys":[],"keys":[]}"#.into(), duplicate("keys")),
        (
            "TDB-15 a member of a key twice",
            r#"{"keys":[{"use":"x509-svid","use":"jwt-svid"}]}"#.into(),
            duplicate("use"),
        ),
        ("TDB-15 twice, once escaped", r#"{"keys":[],"\u006beys":[]}"#.into(), duplicate("keys")),
        ("T-32 as deep as allowed", deep(15), Ok(())),
        ("T-32 one deeper", deep(16), Err(BundleError::Json { reason: JsonError::TooDeep { limit: 16 } })),
        ("T-32 much deeper", deep(100_000), Err(BundleError::Json { reason: JsonError::TooDeep { limit: 16 } })),
        ("1 MiB", large(1024 * 1024), Ok(())),
        ("1 MiB and a byte", large(1024 * 1024 + 1), Err(BundleError::TooLarge { bytes: 1024 * 1024 + 1 })),
        ("10 MiB", large(10 * 1024 * 1024), Err(BundleError::TooLarge { bytes: 10 * 1024 * 1024 })),
        ("1024 keys", many(1024), Ok(())),
        ("1025 keys", many(1025), Err(BundleError::TooManyKeys { limit: 1024 })),
        ("10^5 keys", many(100_000), Err(BundleError::TooManyKeys { limit: 1024 })),
        ("a byte order mark", "\u{feff}{\"keys\":[]}".into(), syntax(1, 1)),
        ("nothing", String::new(), syntax(1, 0)),
        ("more behind it", r#"{"keys":[]}{"keys":[]}"#.into(), syntax(1, 12)),
    ];
    for (requirement, document, expected) in cases {
        assert!(
            expected.as_ref().err().is_none_or(|error| BundleError::CODES.contains(&error.code())),
            "{requirement}"
        );
        assert_eq!(read_text(&document).map(drop), expected, "{requirement}");
    }
}

/// JSONTestSuite's `n_*` in brief: none is a bundle, none panics.
#[test]
fn what_is_not_json_is_not_a_bundle() {
    for text in [
        "[1 true]",
        "[a\u{e5}]",
        "[\"\": 1]",
        "[\"\"],",
        "[,1]",
        "[1,,2]",
        "[\"x\"]]",
        "[\"\",]",
        "[\"x\"",
        "[x",
        "[3[4]]",
        "[1:2]",
        "[,]",
        "[-]",
        "[   , \"\"]",
        "[1,",
        "[nan]",
        "[++1]",
        "[+1]",
        "[-01]",
        "[.1e1]",
        "[0.1.2]",
        "[0e]",
        "[1.]",
        "[0x1]",
        "[Infinity]",
        "[NaN]",
        "[\"\\u00A\"]",
        "[\"\\x00\"]",
        "[\"\u{0}\"]",
        "{\"a\":\"b\",}",
        "{'keys':[]}",
        "{\"keys\":[]}}",
        "{\"keys\":[]}#",
        "{keys:[]}",
        "{\"keys\" []}",
        "{\"keys\":[],}",
        "{\"keys\":[}",
        "\u{feff}",
        "<keys>",
        "",
    ] {
        assert!(read_text(text).is_err(), "{text}");
    }
}

#[test]
fn keys_that_are_skipped_and_leave_the_rest() {
    let root = Authority::root("example.org");
    let (good_x509, good_jwt) = (x509_key(&root), jwt_key("good", &Key::p256()));
    let other = Authority::root_with("example.org", "other", Key::p256(), |_| {});
    let x509 = x509_key(&other);
    let jwt = jwt_key("1", &Key::p256());
    let used = |found: &str| Err(AuthorityError::Use { found: found.into() });
    let key = |flaw| Err(AuthorityError::Key { flaw });
    let certificate = |flaw| Err(AuthorityError::Certificate { flaw });
    let unsupported = |kind: &str| key(PublicKeyError::Unsupported { kind: kind.into() });
    let root_with =
        |change: &dyn Fn(&mut Recipe)| x509_key(&Authority::root_with("example.org", "r", Key::p256(), change));
    let der_of = |der: &[u8]| json!([Base64::encode_string(der)]);
    let cases: Vec<(&str, Value, Result<(), AuthorityError>)> = vec![
        ("X509-37 as it should be", x509.clone(), Ok(())),
        ("JWT-22 as it should be", jwt.clone(), Ok(())),
        ("a number", json!(1), Err(AuthorityError::NotAnObject)),
        // use and kty
        ("TDB-09 TDB-12 no use", with(x509.clone(), "use", Value::Null), used("")),
        ("TDB-09 A-20 wit-svid", with(jwt.clone(), "use", json!("wit-svid")), used("wit-svid")),
        ("TDB-12 use in upper case", with(x509.clone(), "use", json!("X509-SVID")), used("X509-SVID")),
        ("TDB-09 use is a number", with(jwt.clone(), "use", json!(1)), used("")),
        ("TDB-09 no kty", with(jwt.clone(), "kty", Value::Null), key(PublicKeyError::Member { member: "kty" })),
        ("TDB-09 unknown kty", with(jwt.clone(), "kty", json!("AKP")), unsupported("AKP")),
        ("TDB-09 unknown crv", with(jwt.clone(), "crv", json!("secp256k1")), unsupported("secp256k1")),
        ("TDB-11 another member", with(jwt.clone(), "alg", json!("ES256")), Ok(())),
        // X.509
        ("X509-38 with kid", with(x509.clone(), "kid", json!("a")), Ok(())),
        ("X509-42 no x5c", with(x509.clone(), "x5c", Value::Null), Err(AuthorityError::NoCertificate)),
        ("X509-42 empty x5c", with(x509.clone(), "x5c", json!([])), Err(AuthorityError::NoCertificate)),
        (
            "X509-42 x5c is no array",
            with(x509.clone(), "x5c", x509["x5c"][0].clone()),
            Err(AuthorityError::NoCertificate),
        ),
        ("X509-40 X509-43 A-21 the first of two", with(x509.clone(), "x5c", json!([x509["x5c"][0], "!"])), Ok(())),
        (
            "X509-39 base64url",
            with(x509.clone(), "x5c", json!([Base64UrlUnpadded::encode_string(&other.der)])),
            Err(AuthorityError::CertificateEncoding),
        ),
        ("X509-39 a number", with(x509.clone(), "x5c", json!([1])), Err(AuthorityError::CertificateEncoding)),
        (
            "X509-39 no certificate",
            with(x509.clone(), "x5c", der_of(&[5, 0])),
            certificate(ProfileError::Malformed { what: "the certificate" }),
        ),
        ("X509-39 other parameters", with(x509.clone(), "x5c", der_of(&root.der)), Err(AuthorityError::OtherKey)),
        ("X509-39 no parameters", with(x509.clone(), "x", Value::Null), key(PublicKeyError::Member { member: "x" })),
        (
            "X509-41 not self-signed",
            {
                let below = root.intermediate("example.org");
                x509_key(&below)
            },
            Ok(()),
        ),
        (
            "X509-15 no authority",
            root_with(&|r| {
                r.set(basic_constraints(false, None));
            }),
            certificate(ProfileError::NotSigningCertificate),
        ),
        (
            "X509-20 no keyCertSign",
            root_with(&|r| {
                r.set(key_usage(CRL_SIGN));
            }),
            certificate(ProfileError::NoKeyCertSign),
        ),
        (
            "X509-09 A-04 no names",
            root_with(&|r| {
                r.without(SUBJECT_ALT_NAME);
            }),
            Ok(()),
        ),
        (
            "X509-09 A-03 a slash at the end",
            root_with(&|r| {
                r.set(names(&[uri("spiffe://example.org/")]));
            }),
            Ok(()),
        ),
        (
            "X509-10 a path",
            root_with(&|r| {
                r.set(names(&[uri("spiffe://example.org/a")]));
            }),
            certificate(ProfileError::SigningPath { id: "spiffe://example.org/a".into() }),
        ),
        (
            "X509-11 another domain's root",
            x509_key(&Authority::root("example.com")),
            certificate(ProfileError::ForeignAuthority {
                found: "example.com".into(),
                expected: domain("example.org"),
            }),
        ),
        (
            "X509-17 T-22 URI name constraints",
            root_with(&|r| {
                r.set(name_constraints(&[uri("a")], &[]));
            }),
            certificate(ProfileError::UriNameConstraints),
        ),
        ("an expired root is kept, and looked at in time", root_with(&|r| r.not_after = time(at(-1))), Ok(())),
        // JWT
        ("JWT-23 no kid", with(jwt.clone(), "kid", Value::Null), Err(AuthorityError::NoKeyId)),
        ("JWT-23 empty kid", with(jwt.clone(), "kid", json!("")), Err(AuthorityError::KeyIdLength { bytes: 0 })),
        ("JWT-23 kid of 256 bytes", with(jwt.clone(), "kid", json!("a".repeat(256))), Ok(())),
        (
            "JWT-23 kid of 257 bytes",
            with(jwt.clone(), "kid", json!("a".repeat(257))),
            Err(AuthorityError::KeyIdLength { bytes: 257 }),
        ),
        ("JWT-23 kid is a number", with(jwt.clone(), "kid", json!(1)), Err(AuthorityError::NoKeyId)),
        ("JWT-04 Ed25519", jwt_key("1", &Key::ed25519()), Err(AuthorityError::NotForJwt { kind: "Ed25519".into() })),
        ("P-384", jwt_key("1", &Key::p384()), Ok(())),
        ("P-521", jwt_key("1", &Key::p521()), Ok(())),
        ("RSA-2048", jwt_key("1", &Key::rsa2048()), Ok(())),
        (
            "padding",
            with(jwt.clone(), "x", json!(format!("{}=", jwt["x"].as_str().unwrap()))),
            key(PublicKeyError::Base64 { member: "x" }),
        ),
        (
            "all zero",
            with(with(jwt.clone(), "x", json!("A".repeat(43))), "y", json!("A".repeat(43))),
            key(PublicKeyError::Point { curve: Curve::P256 }),
        ),
        (
            "not on the curve",
            with(jwt.clone(), "y", jwt["x"].clone()),
            key(PublicKeyError::Point { curve: Curve::P256 }),
        ),
        (
            "a coordinate too short",
            with(jwt.clone(), "x", json!("AAAA")),
            key(PublicKeyError::Point { curve: Curve::P256 }),
        ),
        (
            "of another curve",
            with(jwt.clone(), "crv", json!("P-384")),
            key(PublicKeyError::Point { curve: Curve::P384 }),
        ),
        ("RSA-1024", rsa(1024, "AQAB"), key(PublicKeyError::RsaModulus { bits: 1024 })),
        ("RSA with e = 1", rsa(2048, "AQ"), key(PublicKeyError::RsaExponent)),
        ("RSA with e even", rsa(2048, "AQAA"), key(PublicKeyError::RsaExponent)),
        ("RSA with e = 3", rsa(2048, "Aw"), Ok(())),
    ];
    for (requirement, entry, expected) in cases {
        let bundle = read(&[good_x509.clone(), entry, good_jwt.clone()]).unwrap();
        let total = bundle.x509_authorities().len() + bundle.jwt_authorities().len();
        assert!(bundle.jwt_authority("good").is_some(), "{requirement}: the others stay");
        assert_eq!(bundle.x509_authorities()[0].der(), root.der.as_ref(), "{requirement}: the others stay");
        match expected {
            Ok(()) => assert_eq!((total, bundle.skipped()), (3, [].as_slice()), "{requirement}"),
            Err(reason) => {
                let codes = [AuthorityError::CODES, ProfileError::CODES].concat();
                assert!(codes.contains(&reason.code()), "{requirement}: {} is not listed", reason.code());
                assert_eq!((total, bundle.skipped()), (2, [Skipped { entry: 1, reason }].as_slice()), "{requirement}")
            }
        }
    }
}

fn rsa(bits: usize, exponent: &str) -> Value {
    let modulus = Base64UrlUnpadded::encode_string(&vec![0xff; bits / 8]);
    json!({ "kty": "RSA", "use": "jwt-svid", "kid": "1", "n": modulus, "e": exponent })
}

#[test]
fn one_key_id_for_two_keys_is_nobodys() {
    let (one, two) = (jwt_key("1", &Key::p256()), jwt_key("1", &Key::p256()));
    let bundle = read(&[one.clone(), jwt_key("2", &Key::p256()), two]).unwrap();
    let reason = AuthorityError::DuplicateKeyId { key_id: "1".into() };
    assert_eq!(bundle.skipped(), [Skipped { entry: 0, reason: reason.clone() }, Skipped { entry: 2, reason }]);
    assert_eq!(bundle.jwt_authorities().len(), 1);
    // The same key twice is one key.
    let bundle = read(&[one.clone(), one]).unwrap();
    assert_eq!((bundle.jwt_authorities().len(), bundle.skipped().len()), (1, 0));
}

#[test]
fn one_root_twice_is_one_root() {
    let root = Authority::root("example.org");
    assert_eq!(read(&[x509_key(&root), x509_key(&root)]).unwrap().x509_authorities().len(), 1);
    assert_eq!(bundle_of("example.org", &[&root.der, &root.der]).x509_authorities().len(), 1);
}

fn full_bundle() -> TrustBundle {
    let roots = [Key::p256(), Key::p384(), Key::p521(), Key::ed25519(), Key::rsa2048()]
        .map(|key| Authority::root_with("example.org", "root", key, |_| {}).der);
    let jwt = [("a", Key::p256()), ("b", Key::p384()), ("c", Key::p521()), ("d", Key::rsa2048())]
        .map(|(key_id, key)| JwtAuthority::new(key_id, &key.spki()).unwrap());
    TrustBundle::new(domain("example.org"), roots, jwt, Some(u64::MAX), Some(Duration::from_secs(300))).unwrap()
}

#[test]
fn what_is_written_reads_back() {
    let bundle = full_bundle();
    let again = read_text(&bundle.to_spiffe_json()).unwrap();
    assert!(again.same_keys(&bundle) && again.skipped().is_empty());
    assert_eq!((again.sequence(), again.refresh_hint()), (Some(u64::MAX), Some(Duration::from_secs(300))));
    assert_eq!(again.to_spiffe_json(), bundle.to_spiffe_json());

    let ders = |bundle: &TrustBundle| bundle.x509_authorities().iter().map(|a| a.der().to_vec()).collect::<Vec<_>>();
    let pem = TrustBundle::parse_pem(domain("example.org"), bundle.to_pem().as_bytes()).unwrap();
    let der = TrustBundle::parse_der(domain("example.org"), &bundle.x509_der_concatenated()).unwrap();
    assert_eq!((ders(&pem), ders(&der)), (ders(&bundle), ders(&bundle)));
    assert!(bundle.to_pem().lines().all(|line| line.len() <= 64));

    let jwks = TrustBundle::parse_jwks(domain("example.org"), bundle.to_jwks().as_bytes()).unwrap();
    assert_eq!(jwks.jwt_authorities(), bundle.jwt_authorities());
    assert!(pem.with_jwt_authorities_of(&jwks).same_keys(&bundle));
}

/// A-19: chosen by kind, so that no other kind slips in.
#[test]
fn wapi_26_a_19_only_jwt_keys_in_a_jwt_bundle() {
    let written: Value = serde_json::from_str(&full_bundle().to_jwks()).unwrap();
    let keys = written["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    assert!(keys.iter().all(|key| key["use"] == "jwt-svid" && key["kid"].is_string() && key.get("x5c").is_none()));
    let empty = TrustBundle::new::<&[u8]>(domain("example.org"), [], [], None, None).unwrap();
    assert_eq!(empty.to_jwks(), r#"{"keys":[]}"#);
}

#[test]
fn tdb_05_07_12_x509_37_40_jwt_22_23_what_we_publish() {
    let written: Value = serde_json::from_str(&full_bundle().to_spiffe_json()).unwrap();
    assert_eq!((&written["spiffe_sequence"], &written["spiffe_refresh_hint"]), (&json!(u64::MAX), &json!(300)));
    for key in written["keys"].as_array().unwrap() {
        let mut members: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        let parameters: &[&str] = match key["kty"].as_str().unwrap() {
            "EC" => &["crv", "x", "y"],
            "RSA" => &["e", "n"],
            "OKP" => &["crv", "x"],
            other => panic!("{other}"),
        };
        let own: &[&str] = if key["use"] == "x509-svid" { &["x5c"] } else { &["kid"] };
        let mut expected = [&["kty", "use"], parameters, own].concat();
        expected.sort_unstable();
        assert_eq!(members, expected);
        assert_eq!(key["use"] == "x509-svid", key["x5c"].as_array().is_some_and(|chain| chain.len() == 1));
    }
}

#[test]
fn a_18_keys_of_the_workload_api_may_lack_their_use() {
    let bare = with(jwt_key("1", &Key::p256()), "use", Value::Null);
    let wit = with(jwt_key("2", &Key::p256()), "use", json!("wit-svid"));
    let root = x509_key(&Authority::root("example.org"));
    let document = json!({ "keys": [bare, wit, root] }).to_string();
    let bundle = TrustBundle::parse_jwks(domain("example.org"), document.as_bytes()).unwrap();
    assert_eq!(bundle.jwt_authorities().len(), 1);
    let skipped: Vec<_> = bundle.skipped().iter().map(|skipped| skipped.entry).collect();
    assert_eq!((skipped, bundle.x509_authorities().len()), (vec![1, 2], 0));
}

#[test]
fn pem_bundles() {
    let (one, two) = (Authority::root("example.org"), Authority::root_with("example.org", "two", Key::p256(), |_| {}));
    let text = |der: &[u8]| pem("CERTIFICATE", der);
    let read = |pem: &str| {
        let bundle = TrustBundle::parse_pem(domain("example.org"), pem.as_bytes())?;
        Ok((bundle.x509_authorities().len(), bundle.skipped().len()))
    };
    let leaf = one.leaf(ID, &Key::p256());
    let key = pem("PRIVATE KEY", &Key::p256().pkcs8());
    let cut = text(&one.der).replace("-----END CERTIFICATE-----", "");
    type Case = (&'static str, String, Result<(usize, usize), BundleError>);
    let cases: Vec<Case> = vec![
        ("two", [text(&one.der), text(&two.der)].concat(), Ok((2, 0))),
        ("text around them", ["# ours\n", &text(&one.der), "\n\nCN = two\n", &text(&two.der)].concat(), Ok((2, 0))),
        ("line ends of Windows", text(&one.der).replace('\n', "\r\n"), Ok((1, 0))),
        ("a leaf among them", [text(&one.der), text(&leaf)].concat(), Ok((1, 1))),
        ("a broken certificate among them", [text(&[5, 0]), text(&one.der)].concat(), Ok((1, 1))),
        ("a public key among them", [text(&one.der), pem("PUBLIC KEY", &one.key.spki())].concat(), Ok((1, 1))),
        (
            "a private key",
            [text(&one.der), key].concat(),
            Err(BundleError::PrivateKey { entry: 1, member: "PRIVATE KEY".into() }),
        ),
        ("nothing", String::new(), Err(BundleError::NoCertificates)),
        ("no PEM", "hello".into(), Err(BundleError::NoCertificates)),
        ("cut", cut, Err(BundleError::Pem { section: 0 })),
        (
            "no base64",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".into(),
            Err(BundleError::Pem { section: 0 }),
        ),
    ];
    for (what, pem, expected) in cases {
        assert_eq!(read(&pem), expected, "{what}");
    }
}

#[test]
fn der_bundles() {
    let root = Authority::root("example.org").der;
    let read = |der: &[u8]| {
        TrustBundle::parse_der(domain("example.org"), der)
            .map(|bundle| (bundle.x509_authorities().len(), bundle.skipped().len()))
    };
    assert_eq!(read(&[]), Ok((0, 0)));
    assert_eq!(read(&root), Ok((1, 0)));
    assert_eq!(read(&[root.as_ref(), &[5, 0]].concat()), Ok((1, 1)));
    assert_eq!(read(&[root.as_ref(), &[0x30]].concat()), Err(BundleError::Der { at: root.len() }));
    assert_eq!(read(&root[..root.len() - 1]), Err(BundleError::Der { at: 0 }));
}

#[test]
fn authorities_of_the_program_itself_must_be_good() {
    let root = Authority::root("example.org");
    let new = |roots: &[&[u8]], jwt: Vec<JwtAuthority>| {
        TrustBundle::new(domain("example.org"), roots, jwt, None, None).map(drop)
    };
    let key = Key::p256();
    let jwt = |key_id| JwtAuthority::new(key_id, &key.spki()).unwrap();
    assert_eq!(new(&[&root.der], vec![jwt("1"), jwt("2")]), Ok(()));
    assert_eq!(
        new(&[&root.der], vec![jwt("1"), jwt("1")]),
        Err(BundleError::Authority { entry: 1, reason: AuthorityError::DuplicateKeyId { key_id: "1".into() } })
    );
    let leaf = root.leaf(ID, &key);
    let flaw = ProfileError::NotSigningCertificate;
    assert_eq!(
        new(&[&root.der, &leaf], vec![]),
        Err(BundleError::Authority { entry: 1, reason: AuthorityError::Certificate { flaw } })
    );
    let malformed = Err(AuthorityError::Key { flaw: PublicKeyError::Malformed });
    assert_eq!(JwtAuthority::new("1", &[key.spki().as_slice(), &[0]].concat()), malformed);
    assert_eq!(JwtAuthority::new("1", &[]), malformed);
    let Key::Ec(pair, _) = &key else { panic!() };
    assert_eq!(JwtAuthority::new("1", pair.public_key().as_ref()), malformed);
}

#[test]
fn the_texts_say_what_to_do() {
    let private = r#"{"keys":[{"kty":"EC","d":"AA"}]}"#;
    assert_eq!(
        read_text(private).unwrap_err().to_string(),
        "entry 0 of the trust bundle holds a private key (`d`): refused as a whole; that key is no longer secret, replace it"
    );
    assert_eq!(
        read_text(r#"{"keys":[],"keys":[]}"#).unwrap_err().to_string(),
        "the trust bundle is not acceptable JSON: the member `keys` stands twice in one object"
    );
}

#[test]
fn every_code_is_listed_once() {
    let mut all = [BundleError::CODES, AuthorityError::CODES].concat();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}
