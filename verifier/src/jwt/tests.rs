//! Which tokens are an identity and which not, by requirement.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, RsaEncoding,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::spiffe::{BundleSet, JsonError, JwtAuthority, SpiffeId, SpiffeIdError, TrustBundle};
use crate::x509::fixtures::{ID, Key, NOW, at, domain};

const AUDIENCE: &str = "spiffe://example.org/db";

/// Keys of all kinds, each under the name of its kind.
struct Keys {
    p256: Key,
    p384: Key,
    p521: Key,
    rsa: Key,
}

impl Keys {
    fn new() -> Self {
        Self { p256: Key::p256(), p384: Key::p384(), p521: Key::p521(), rsa: Key::rsa2048() }
    }

    fn bundles(&self) -> BundleSet {
        let keys = [("p256", &self.p256), ("p384", &self.p384), ("p521", &self.p521), ("rsa", &self.rsa)]
            .map(|(key_id, key)| JwtAuthority::new(key_id, &key.spki()).unwrap());
        TrustBundle::new::<&[u8]>(domain("example.org"), [], keys, None, None).unwrap().into()
    }
}

pub(crate) fn sign(key: &Key, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    let ec = |fixed: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::from_pkcs8(fixed, &key.pkcs8()).unwrap();
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    };
    let rsa = |encoding: &'static dyn RsaEncoding| {
        let Key::Rsa(pair) = key else { panic!("an RSA key") };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    match algorithm {
        Algorithm::Es256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::Es384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::Es512 => ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
        Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
        Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
        Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
        Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
        Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
        Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
    }
}

fn claims() -> Value {
    json!({ "sub": ID, "aud": [AUDIENCE], "exp": at(300).unix_seconds(), "iat": NOW.unix_seconds() })
}

fn encode(text: &str) -> String {
    Base64UrlUnpadded::encode_string(text.as_bytes())
}

/// A token of these two texts, whatever they are, signed with ES256.
fn token_of(key: &Key, header: &str, claims: &str) -> String {
    let input = format!("{}.{}", encode(header), encode(claims));
    let signature = sign(key, Algorithm::Es256, input.as_bytes());
    format!("{input}.{}", Base64UrlUnpadded::encode_string(&signature))
}

const HEADER: &str = r#"{"alg":"ES256","kid":"p256","typ":"JWT"}"#;

/// A-17: ES512 among them, which others leave out.
#[test]
fn jwt_04_jwt_05_a_17_all_nine_algorithms_and_the_keys_they_fit() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    let claims = claims();
    for (key_id, key) in [("p256", &keys.p256), ("p384", &keys.p384), ("p521", &keys.p521), ("rsa", &keys.rsa)] {
        for algorithm in Algorithm::ALL {
            let fitting = match algorithm {
                Algorithm::Es256 => "p256",
                Algorithm::Es384 => "p384",
                Algorithm::Es512 => "p521",
                _ => "rsa",
            };
            let input = SigningInput::new(algorithm, key_id, claims.as_object().unwrap());
            let signature = if fitting == key_id { sign(key, algorithm, input.as_bytes()) } else { vec![0; 64] };
            let found = verify(&input.with_signature(&signature), &[AUDIENCE], &bundles, NOW);
            match found {
                Ok(jwt) => {
                    assert_eq!((fitting, jwt.key_id(), jwt.id().as_str()), (key_id, key_id, ID), "{algorithm}");
                }
                Err(error) => {
                    assert_ne!(fitting, key_id, "{algorithm}: {error}");
                    assert_eq!(error.code(), "algorithm-not-of-the-key", "{algorithm} with {key_id}");
                }
            }
        }
    }
}

#[test]
fn what_a_verified_token_says() {
    let keys = Keys::new();
    let mut claims = claims();
    claims["role"] = json!({ "name": "x" });
    let jwt =
        verify(&token_of(&keys.p256, HEADER, &claims.to_string()), &["other", AUDIENCE], &keys.bundles(), NOW).unwrap();
    assert_eq!((jwt.id().as_str(), jwt.key_id()), (ID, "p256"));
    assert_eq!(jwt.audience(), [AUDIENCE]);
    assert_eq!((jwt.expires_at(), jwt.issued_at()), (at(300), Some(NOW)));
    assert_eq!(jwt.claims(), claims.as_object().unwrap());
}

#[test]
fn headers_by_requirement() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    let algorithm = |found: &str| Err(JwtError::Algorithm { found: found.into() });
    let kind = |found: &str| Err(JwtError::Type { found: found.into() });
    let member = |member: &str| Err(JwtError::HeaderMember { member: member.into() });
    let header = |member| Err(JwtError::Header { member });
    let duplicate = |member: &str| {
        Err(JwtError::Json { part: Part::Header, reason: JsonError::DuplicateMember { member: member.into() } })
    };
    let unknown = |key_id: &str| {
        Err(JwtError::UnknownKey { key_id: key_id.chars().take(64).collect(), trust_domain: domain("example.org") })
    };
    let of_length = |length: usize| format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(length));
    let cases: Vec<(&str, String, Result<(), JwtError>)> = vec![
        ("JWT-02 as our CA writes it", HEADER.into(), Ok(())),
        ("JWT-07 no typ", r#"{"alg":"ES256","kid":"p256"}"#.into(), Ok(())),
        ("JWT-07 JOSE", r#"{"alg":"ES256","kid":"p256","typ":"JOSE"}"#.into(), Ok(())),
        ("JWT-07 lower case", r#"{"alg":"ES256","kid":"p256","typ":"jwt"}"#.into(), kind("jwt")),
        ("JWT-07 A-16 a WIT", r#"{"alg":"ES256","kid":"p256","typ":"wit+jwt"}"#.into(), kind("wit+jwt")),
        ("JWT-07 an access token", r#"{"alg":"ES256","kid":"p256","typ":"at+jwt"}"#.into(), kind("at+jwt")),
        ("JWT-07 empty", r#"{"alg":"ES256","kid":"p256","typ":""}"#.into(), kind("")),
        ("JWT-07 null", r#"{"alg":"ES256","kid":"p256","typ":null}"#.into(), header("typ")),
        ("JWT-05 none", r#"{"alg":"none","kid":"p256"}"#.into(), algorithm("none")),
        ("JWT-05 None", r#"{"alg":"None","kid":"p256"}"#.into(), algorithm("None")),
        ("JWT-05 lower case", r#"{"alg":"es256","kid":"p256"}"#.into(), algorithm("es256")),
        ("JWT-05 EdDSA", r#"{"alg":"EdDSA","kid":"p256"}"#.into(), algorithm("EdDSA")),
        ("JWT-05 ES256K", r#"{"alg":"ES256K","kid":"p256"}"#.into(), algorithm("ES256K")),
        ("JWT-05 HS256", r#"{"alg":"HS256","kid":"p256"}"#.into(), algorithm("HS256")),
        ("JWT-05 empty", r#"{"alg":"","kid":"p256"}"#.into(), algorithm("")),
        ("JWT-28 no alg", r#"{"kid":"p256"}"#.into(), header("alg")),
        ("JWT-28 alg is a list", r#"{"alg":["ES256"],"kid":"p256"}"#.into(), header("alg")),
        ("JWT-06 A-10 no kid", r#"{"alg":"ES256"}"#.into(), header("kid")),
        ("A-10 empty kid", r#"{"alg":"ES256","kid":""}"#.into(), header("kid")),
        ("A-10 kid is a number", r#"{"alg":"ES256","kid":1}"#.into(), header("kid")),
        ("an unknown kid", r#"{"alg":"ES256","kid":"p257"}"#.into(), unknown("p257")),
        ("a path as kid", r#"{"alg":"ES256","kid":"../p256"}"#.into(), unknown("../p256")),
        ("SQL as kid", r#"{"alg":"ES256","kid":"' OR 1=1 --"}"#.into(), unknown("' OR 1=1 --")),
        ("a long kid", of_length(4000), unknown(&"k".repeat(4000))),
        ("A-11 crit", r#"{"alg":"ES256","crit":["exp"],"kid":"p256"}"#.into(), member("crit")),
        ("A-11 jku", r#"{"alg":"ES256","jku":"https://a","kid":"p256"}"#.into(), member("jku")),
        ("A-11 jwk", r#"{"alg":"ES256","jwk":{},"kid":"p256"}"#.into(), member("jwk")),
        ("A-11 x5c", r#"{"alg":"ES256","kid":"p256","x5c":[]}"#.into(), member("x5c")),
        ("A-11 x5u", r#"{"alg":"ES256","kid":"p256","x5u":""}"#.into(), member("x5u")),
        ("JWT-03 zip", r#"{"alg":"ES256","kid":"p256","zip":"DEF"}"#.into(), member("zip")),
        ("a nested token", r#"{"alg":"ES256","cty":"JWT","kid":"p256"}"#.into(), member("cty")),
        ("RFC 7797", r#"{"alg":"ES256","b64":false,"kid":"p256"}"#.into(), member("b64")),
        ("kid twice", r#"{"alg":"ES256","kid":"p256","kid":"p256"}"#.into(), duplicate("kid")),
        ("alg twice, once escaped", r#"{"alg":"none","\u0061lg":"ES256","kid":"p256"}"#.into(), duplicate("alg")),
        ("an array", "[]".into(), Err(JwtError::NotAnObject { part: Part::Header })),
        (
            "no JSON",
            "{".into(),
            Err(JwtError::Json { part: Part::Header, reason: JsonError::Syntax { line: 1, column: 1 } }),
        ),
        (
            "nothing",
            String::new(),
            Err(JwtError::Json { part: Part::Header, reason: JsonError::Syntax { line: 1, column: 0 } }),
        ),
        (
            "NUL behind it",
            format!("{HEADER}\0"),
            Err(JwtError::Json { part: Part::Header, reason: JsonError::Syntax { line: 1, column: 41 } }),
        ),
    ];
    for (requirement, header, expected) in cases {
        let token = token_of(&keys.p256, &header, &claims().to_string());
        assert!(expected.as_ref().err().is_none_or(|error| JwtError::CODES.contains(&error.code())), "{requirement}");
        assert_eq!(verify(&token, &[AUDIENCE], &bundles, NOW).map(drop), expected, "{requirement}");
    }
}

#[test]
fn jwt_01_jwt_03_forms() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    let good = token_of(&keys.p256, HEADER, &claims().to_string());
    let parts: Vec<_> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let byte = |byte, at| Err(JwtError::Byte { byte, at });
    let base64 = |part| Err(JwtError::Base64 { part });
    let count = |count| Err(JwtError::Parts { count });
    let padded = |length: usize| {
        let token = format!("{header}.{payload}.");
        format!("{token}{}", "A".repeat(length - token.len()))
    };
    let in_json = json!({ "protected": header, "payload": payload, "signature": signature }).to_string();
    let nothing = |part| Err(JwtError::Json { part, reason: JsonError::Syntax { line: 1, column: 0 } });
    // The last of the signature's 86 characters carries four bits: here are those that it does not carry.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let trailing_bits = format!("{}{next}", &good[..good.len() - 1]);
    let cases: Vec<(&str, String, Result<(), JwtError>)> = vec![
        ("good", good.clone(), Ok(())),
        ("empty", String::new(), count(1)),
        ("one part", "AAAA".into(), count(1)),
        ("two parts", format!("{header}.{payload}"), count(2)),
        ("four parts", format!("{good}.AAAA"), count(4)),
        ("JWT-03 five parts, encrypted", format!("{good}.AAAA.AAAA"), count(5)),
        ("a dot before it", format!(".{good}"), count(4)),
        ("a dot behind it", format!("{good}."), count(4)),
        ("no header", format!(".{payload}.{signature}"), nothing(Part::Header)),
        ("no claims", format!("{header}..{signature}"), nothing(Part::Claims)),
        ("no signature", format!("{header}.{payload}."), Err(JwtError::BadSignature)),
        ("T-30 8 KiB of dots", ".".repeat(8192), count(8193)),
        ("T-30 1 MiB of dots", ".".repeat(1024 * 1024), Err(JwtError::TooLarge { bytes: 1024 * 1024 })),
        ("8 KiB, looked at", padded(8192), base64(Part::Signature)),
        ("8 KiB and a byte", padded(8193), Err(JwtError::TooLarge { bytes: 8193 })),
        ("JWT-01 JSON", in_json, byte(b'{', 0)),
        ("padding", format!("{good}="), byte(b'=', good.len())),
        ("a blank before it", format!(" {good}"), byte(b' ', 0)),
        ("a line end behind it", format!("{good}\r\n"), byte(b'\r', good.len())),
        ("NUL behind it", format!("{good}\0"), byte(0, good.len())),
        (
            "the other alphabet",
            format!("{header}.{payload}.+/{}", &signature[2..]),
            byte(b'+', header.len() + payload.len() + 2),
        ),
        ("bits left over", trailing_bits, base64(Part::Signature)),
        ("an impossible length", format!("{header}.{payload}.{}", &signature[..85]), base64(Part::Signature)),
        ("an impossible header", format!("{header}AAA.{payload}.{signature}"), base64(Part::Header)),
    ];
    for (what, token, expected) in cases {
        assert_eq!(verify(&token, &[AUDIENCE], &bundles, NOW).map(drop), expected, "{what}");
    }
}

#[test]
fn signatures() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    let input = SigningInput::new(Algorithm::Es256, "p256", claims().as_object().unwrap());
    let good = sign(&keys.p256, Algorithm::Es256, input.as_bytes());
    let Key::Ec(pair, _) = &keys.p256 else { panic!() };
    let der = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec();
    let of_another = sign(&Key::p256(), Algorithm::Es256, input.as_bytes());
    // s and n - s verify alike: JWS does not forbid either.
    let order: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut mirrored = good.clone();
    let mut borrow = 0;
    for (at, byte) in order.iter().enumerate().rev() {
        let difference = i16::from(*byte) - i16::from(good[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        mirrored[32 + at] = difference.rem_euclid(256) as u8;
    }
    let with_zero = |range: std::ops::Range<usize>| {
        let mut signature = good.clone();
        signature[range].fill(0);
        signature
    };
    for (what, signature, accepted) in [
        ("good", good.clone(), true),
        ("s mirrored", mirrored, true),
        ("DER", der, false),
        ("another's key", of_another, false),
        ("r is zero", with_zero(0..32), false),
        ("s is zero", with_zero(32..64), false),
        ("both are zero", with_zero(0..64), false),
        ("cut", good[..63].to_vec(), false),
        ("a byte more", [good.as_slice(), &[0]].concat(), false),
        ("none", vec![], false),
    ] {
        let found = verify(&input.clone().with_signature(&signature), &[AUDIENCE], &bundles, NOW).map(drop);
        assert_eq!(found, if accepted { Ok(()) } else { Err(JwtError::BadSignature) }, "{what}");
    }
    // T-02: no character of a good token can be another.
    let token = input.with_signature(&good);
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(verify(std::str::from_utf8(&changed).unwrap(), &[AUDIENCE], &bundles, NOW).is_err(), "at {at}");
    }
}

#[test]
fn claims_by_requirement() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    let missing = |claim| Err(JwtError::MissingClaim { claim });
    let text = |claim| Err(JwtError::Claim { claim, expected: "a string" });
    let date = |claim| Err(JwtError::Claim { claim, expected: "a whole number of seconds from 0 to 2^53 - 1" });
    let audience = Err(JwtError::Claim { claim: "aud", expected: "a string or a list of strings, none of them empty" });
    let subject = |error| Err(JwtError::Subject { error });
    let names = |count: usize| {
        let mut names: Vec<_> = (1..count).map(|n| format!("a{n}")).collect();
        names.push(AUDIENCE.into());
        json!(names)
    };
    let seconds = |seconds: i64| json!(at(seconds).unix_seconds());
    let expired = |by: i64| Err(JwtError::Expired { expires_at: at(-by), now: NOW });
    let id = |uri: &str| SpiffeId::parse(uri).unwrap();
    // A claim, its value (none: taken out), and what comes of it.
    type Case = (&'static str, &'static str, Option<Value>, Result<(), JwtError>);
    let cases: Vec<Case> = vec![
        ("as our CA writes it", "x", None, Ok(())),
        ("JWT-08 another claim", "groups", Some(json!(["a"])), Ok(())),
        // sub
        ("JWT-09 T-09 no sub", "sub", None, missing("sub")),
        (
            "JWT-09 not a SPIFFE ID",
            "sub",
            Some(json!("photo")),
            subject(SpiffeIdError::Scheme { found: "photo".into() }),
        ),
        ("JWT-09 empty", "sub", Some(json!("")), subject(SpiffeIdError::Scheme { found: String::new() })),
        (
            "A-01 upper case",
            "sub",
            Some(json!("spiffe://Example.org/a")),
            subject(SpiffeIdError::TrustDomainByte { byte: b'E', at: 9 }),
        ),
        (
            "A-15 no path",
            "sub",
            Some(json!("spiffe://example.org")),
            Err(JwtError::SubjectWithoutPath { id: id("spiffe://example.org") }),
        ),
        (
            "WAPI-31 another domain",
            "sub",
            Some(json!("spiffe://example.com/a")),
            Err(JwtError::UnknownTrustDomain { id: id("spiffe://example.com/a") }),
        ),
        // aud
        ("JWT-11 T-09 no aud", "aud", None, missing("aud")),
        ("JWT-10 empty list", "aud", Some(json!([])), missing("aud")),
        ("A-12 a string", "aud", Some(json!(AUDIENCE)), Ok(())),
        ("A-13 one of several", "aud", Some(json!(["a", AUDIENCE])), Ok(())),
        ("JWT-12 another", "aud", Some(json!(["spiffe://example.org/other"])), Err(JwtError::Audience)),
        ("JWT-12 other case", "aud", Some(json!(AUDIENCE.to_uppercase())), Err(JwtError::Audience)),
        ("JWT-12 a prefix", "aud", Some(json!("spiffe://example.org/d")), Err(JwtError::Audience)),
        ("JWT-12 longer", "aud", Some(json!(format!("{AUDIENCE}/x"))), Err(JwtError::Audience)),
        ("JWT-12 empty string", "aud", Some(json!("")), audience.clone()),
        ("JWT-12 an empty string in the list", "aud", Some(json!([AUDIENCE, ""])), audience.clone()),
        ("JWT-10 a list in the list", "aud", Some(json!([[AUDIENCE]])), audience.clone()),
        ("JWT-10 a number in the list", "aud", Some(json!([AUDIENCE, 1])), audience.clone()),
        ("32 audiences", "aud", Some(names(32)), Ok(())),
        ("33 audiences", "aud", Some(names(33)), Err(JwtError::TooManyAudiences { count: 33 })),
        // exp, A-14
        ("JWT-15 JWT-16 T-09 no exp", "exp", None, missing("exp")),
        ("JWT-20 not yet", "exp", Some(seconds(1)), Ok(())),
        ("JWT-20 now, within the leeway", "exp", Some(seconds(0)), Ok(())),
        ("JWT-20 leeway less one", "exp", Some(seconds(-29)), Ok(())),
        ("JWT-19 JWT-20 leeway", "exp", Some(seconds(-30)), expired(30)),
        ("JWT-20 leeway and one", "exp", Some(seconds(-31)), expired(31)),
        ("T-10 2^53 - 1", "exp", Some(json!(9_007_199_254_740_991_u64)), Ok(())),
        ("T-10 2^53", "exp", Some(json!(9_007_199_254_740_992_u64)), date("exp")),
        ("T-10 2^53 + 1", "exp", Some(json!(9_007_199_254_740_993_u64)), date("exp")),
        ("T-10 2^64 - 1", "exp", Some(json!(u64::MAX)), date("exp")),
        // nbf, iat
        ("A-14 nbf now", "nbf", Some(seconds(0)), Ok(())),
        ("A-14 nbf within the leeway", "nbf", Some(seconds(30)), Ok(())),
        ("A-14 nbf beyond it", "nbf", Some(seconds(31)), Err(JwtError::NotYetValid { not_before: at(31), now: NOW })),
        ("A-14 iat within the leeway", "iat", Some(seconds(30)), Ok(())),
        ("A-14 iat beyond it", "iat", Some(seconds(31)), Err(JwtError::IssuedInFuture { issued_at: at(31), now: NOW })),
        ("A-14 no iat", "iat", None, Ok(())),
        ("JWT-26 jti", "jti", Some(json!("1")), Ok(())),
        ("iss", "iss", Some(json!("https://example.org")), Ok(())),
    ];
    let wrong_types = [json!(1.5), json!(-1), json!(null), json!(true), json!({}), json!([]), json!("1"), json!(1)];
    let mut all = cases;
    for claim in ["sub", "aud", "exp", "nbf", "iat", "iss", "jti"] {
        for value in &wrong_types {
            let expected = match claim {
                "sub" | "iss" | "jti" if value.is_string() => continue,
                "sub" | "iss" | "jti" => text(claim),
                "aud" if value.is_string() || value.is_array() => continue,
                "aud" => audience.clone(),
                _ if value.is_u64() => continue,
                _ => date(claim),
            };
            all.push(("T-10 of the wrong type", claim, Some(value.clone()), expected));
        }
    }
    for (requirement, claim, value, expected) in all {
        let mut claims: Map<String, Value> = claims().as_object().unwrap().clone();
        let shown = format!("{requirement}: {claim} = {value:?}");
        match value {
            Some(value) => claims.insert(claim.into(), value),
            None => claims.remove(claim),
        };
        let token = token_of(&keys.p256, HEADER, &Value::Object(claims).to_string());
        assert_eq!(verify(&token, &[AUDIENCE], &bundles, NOW).map(drop), expected, "{shown}");
    }
}

#[test]
fn t_10_claims_as_text() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    let exp = at(300).unix_seconds();
    let found = |claims: String| verify(&token_of(&keys.p256, HEADER, &claims), &[AUDIENCE], &bundles, NOW).map(drop);
    let with = |more: &str| format!(r#"{{"sub":"{ID}","aud":"{AUDIENCE}","exp":{exp}{more}}}"#);
    assert_eq!(found(with("")), Ok(()));
    let twice = |member: &str| {
        Err(JwtError::Json { part: Part::Claims, reason: JsonError::DuplicateMember { member: member.into() } })
    };
    assert_eq!(found(with(r#","exp":1"#)), twice("exp"));
    assert_eq!(found(with(r#","\u0065xp":1"#)), twice("exp"));
    assert_eq!(found(with(&format!(r#","sub":"{ID}""#))), twice("sub"));
    assert_eq!(found(with(r#","x":{"a":1,"a":1}"#)), twice("a"));
    assert_eq!(found(with(r#","nbf":1e400"#)).unwrap_err().code(), "bad-token-json");
    assert_eq!(found(with(r#","nbf":1e3"#)).unwrap_err().code(), "bad-claim");
    assert_eq!(
        found(with(&format!(r#","x":{}{}"#, "[".repeat(1000), "]".repeat(1000)))).unwrap_err().code(),
        "bad-token-json"
    );
    assert_eq!(found("[]".into()), Err(JwtError::NotAnObject { part: Part::Claims }));
    assert_eq!(found(format!("\"{ID}\"")), Err(JwtError::NotAnObject { part: Part::Claims }));
    // An escape is only a way of writing.
    assert_eq!(found(with("").replace("\"sub\"", "\"\\u0073ub\"")), Ok(()));
}

#[test]
fn only_jwt_keys_of_the_own_trust_domain() {
    let keys = Keys::new();
    let token = token_of(&keys.p256, HEADER, &claims().to_string());
    let found = |bundles: &BundleSet| verify(&token, &[AUDIENCE], bundles, NOW).map(drop);
    let bundle = |name: &str, key: &Key| {
        let authority = JwtAuthority::new("p256", &key.spki()).unwrap();
        std::sync::Arc::new(TrustBundle::new::<&[u8]>(domain(name), [], [authority], None, None).unwrap())
    };
    // The key is known, but of another trust domain.
    let other = BundleSet::empty().with(bundle("example.com", &keys.p256));
    assert_eq!(found(&other), Err(JwtError::UnknownTrustDomain { id: SpiffeId::parse(ID).unwrap() }));
    assert_eq!(found(&other.with(bundle("example.org", &Key::p256()))), Err(JwtError::BadSignature));
    let root = crate::x509::fixtures::Authority::root("example.org");
    let x509_only = crate::x509::fixtures::bundle_of("example.org", &[&root.der]).into();
    let none = Err(JwtError::NoAuthorities { trust_domain: domain("example.org") });
    assert_eq!(found(&x509_only), none, "JWT-24 JWT-25 an X.509 key of the trust domain signs no tokens");
}

#[test]
fn jwt_18_the_algorithm_is_looked_at_before_the_claims() {
    let header = encode(r#"{"alg":"HS256","kid":"p256"}"#);
    for claims in ["", "e30", "bm8"] {
        let found = UnverifiedJwt::parse(&format!("{header}.{claims}.")).map(drop);
        assert_eq!(found, Err(JwtError::Algorithm { found: "HS256".into() }));
    }
}

/// Two trust domains with one `kid`, and one key under two names: the bundle of `sub` and its `kid` decide, nothing else.
#[test]
fn wapi_31_jwt_24_the_same_kid_in_two_trust_domains() {
    let (ours, theirs) = (Key::p256(), Key::p256());
    let bundle = |name: &str, keys: &[(&str, &Key)]| {
        let keys = keys.iter().map(|(key_id, key)| JwtAuthority::new(key_id, &key.spki()).unwrap());
        std::sync::Arc::new(TrustBundle::new::<&[u8]>(domain(name), [], keys, None, None).unwrap())
    };
    let set = BundleSet::empty()
        .with(bundle("example.org", &[("p256", &ours), ("old", &theirs)]))
        .with(bundle("example.com", &[("p256", &theirs)]));
    let mut foreign = claims();
    foreign["sub"] = json!("spiffe://example.com/photo");
    let found = |key: &Key, header: &str, claims: &Value| {
        verify(&token_of(key, header, &claims.to_string()), &[AUDIENCE], &set, NOW).map(|jwt| jwt.id().to_string())
    };
    const OLD: &str = r#"{"alg":"ES256","kid":"old"}"#;
    assert_eq!(found(&ours, HEADER, &claims()), Ok(ID.into()));
    assert_eq!(found(&theirs, HEADER, &claims()), Err(JwtError::BadSignature), "T-25 a key of the other trust domain");
    assert_eq!(found(&theirs, OLD, &claims()), Ok(ID.into()), "what our bundle says is ours");
    assert_eq!(found(&ours, OLD, &claims()), Err(JwtError::BadSignature), "T-03 no other key is tried");
    assert_eq!(found(&theirs, HEADER, &foreign), Ok("spiffe://example.com/photo".into()));
    assert_eq!(found(&ours, HEADER, &foreign), Err(JwtError::BadSignature));
}

/// PS512 and ES512 as an attacker would bend them: another hash, DER, r or s cut, a signature of the other padding.
#[test]
fn jwt_04_a_17_es512_and_ps512_bent() {
    let keys = Keys::new();
    let bundles = keys.bundles();
    for (algorithm, others, key_id, key) in [
        (Algorithm::Es512, vec![Algorithm::Es256, Algorithm::Es384], "p521", &keys.p521),
        (Algorithm::Ps512, vec![Algorithm::Ps256, Algorithm::Ps384, Algorithm::Rs512], "rsa", &keys.rsa),
        (Algorithm::Rs256, vec![Algorithm::Ps256, Algorithm::Rs384], "rsa", &keys.rsa),
    ] {
        let input = SigningInput::new(algorithm, key_id, claims().as_object().unwrap());
        let good = sign(key, algorithm, input.as_bytes());
        let found =
            |signature: &[u8]| verify(&input.clone().with_signature(signature), &[AUDIENCE], &bundles, NOW).map(drop);
        assert_eq!(found(&good), Ok(()), "{algorithm}");
        let mut bent = vec![good[1..].to_vec(), good[..good.len() - 1].to_vec(), [&[0], good.as_slice()].concat()];
        bent.push([good.as_slice(), &good].concat());
        bent.push(vec![0; good.len()]);
        bent.push(vec![0xff; good.len()]);
        for other in others {
            match (algorithm, other) {
                (Algorithm::Es512, Algorithm::Es256) => bent.push(sign(&keys.p256, other, input.as_bytes())),
                (Algorithm::Es512, _) => bent.push(sign(&keys.p384, other, input.as_bytes())),
                _ => bent.push(sign(key, other, input.as_bytes())),
            }
        }
        for signature in bent {
            assert_eq!(found(&signature), Err(JwtError::BadSignature), "{algorithm}, {} bytes", signature.len());
        }
    }
}

#[test]
fn jwt_12_jwt_20_a_service_without_a_name_accepts_nothing() {
    let keys = Keys::new();
    let token = token_of(&keys.p256, HEADER, &claims().to_string());
    assert_eq!(verify(&token, &[], &keys.bundles(), NOW), Err(JwtError::NoOwnAudience));
    assert_eq!(verify(&token, &[""], &keys.bundles(), NOW), Err(JwtError::Audience));
}

#[test]
fn times_at_the_ends_of_the_range() {
    let keys = Keys::new();
    let token = token_of(&keys.p256, HEADER, &claims().to_string());
    for (now, code) in [
        (Timestamp::from_unix_seconds(0), "issued-in-future"),
        (Timestamp::from_unix_millis(i64::MIN), "issued-in-future"),
        (Timestamp::MAX, "expired"),
    ] {
        assert_eq!(verify(&token, &[AUDIENCE], &keys.bundles(), now).unwrap_err().code(), code);
    }
}

/// Somebody else's signer: the tokens of `jsonwebtoken` verify here, and ours there.
#[test]
fn tokens_of_another_library() {
    use jsonwebtoken as other;
    let keys = Keys::new();
    let claims = claims();
    for (algorithm, theirs, key_id, key) in [
        (Algorithm::Es256, other::Algorithm::ES256, "p256", &keys.p256),
        (Algorithm::Es384, other::Algorithm::ES384, "p384", &keys.p384),
        (Algorithm::Rs256, other::Algorithm::RS256, "rsa", &keys.rsa),
        (Algorithm::Rs384, other::Algorithm::RS384, "rsa", &keys.rsa),
        (Algorithm::Rs512, other::Algorithm::RS512, "rsa", &keys.rsa),
        (Algorithm::Ps256, other::Algorithm::PS256, "rsa", &keys.rsa),
        (Algorithm::Ps384, other::Algorithm::PS384, "rsa", &keys.rsa),
        (Algorithm::Ps512, other::Algorithm::PS512, "rsa", &keys.rsa),
    ] {
        let pem = |label: &str, der: &[u8]| crate::spiffe::pem(label, der).into_bytes();
        let (private, public) = (pem("PRIVATE KEY", &key.pkcs8()), pem("PUBLIC KEY", &key.spki()));
        let (encoding, decoding) = if key_id == "rsa" {
            (other::EncodingKey::from_rsa_pem(&private).unwrap(), other::DecodingKey::from_rsa_pem(&public).unwrap())
        } else {
            (other::EncodingKey::from_ec_pem(&private).unwrap(), other::DecodingKey::from_ec_pem(&public).unwrap())
        };
        let header = other::Header { kid: Some(key_id.into()), ..other::Header::new(theirs) };
        let token = other::encode(&header, &claims, &encoding).unwrap();
        assert_eq!(verify(&token, &[AUDIENCE], &keys.bundles(), NOW).unwrap().id().as_str(), ID, "{algorithm}");

        let input = SigningInput::new(algorithm, key_id, claims.as_object().unwrap());
        let signature = sign(key, algorithm, input.as_bytes());
        let mut validation = other::Validation::new(theirs);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_exp = false;
        let read = other::decode::<Value>(input.with_signature(&signature), &decoding, &validation).unwrap();
        assert_eq!(read.claims, claims, "{algorithm}");
    }
}

#[test]
fn nothing_printed_can_be_used_as_a_token() {
    let keys = Keys::new();
    let token = token_of(&keys.p256, HEADER, &claims().to_string());
    let signature = token.rsplit('.').next().unwrap();
    let unverified = UnverifiedJwt::parse(&token).unwrap();
    assert_eq!((unverified.key_id(), unverified.trust_domain().as_str()), ("p256", "example.org"));
    assert_eq!(unverified.unverified_expiry(), at(300));
    let verified = verify(&token, &[AUDIENCE], &keys.bundles(), NOW).unwrap();
    let refused = verify(&token, &["other"], &keys.bundles(), NOW).unwrap_err();
    let shown = format!("{unverified:?} {verified:?} {refused:?} {refused}");
    assert!(!shown.contains(signature) && !shown.contains(&token));
}

#[test]
fn every_code_is_listed_once() {
    let mut all = JwtError::CODES.to_vec();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), JwtError::CODES.len());
}

#[test]
fn the_texts_say_what_is_wrong() {
    let keys = Keys::new();
    let text = |header: &str, claims: &Value, audience: &[&str]| {
        verify(&token_of(&keys.p256, header, &claims.to_string()), audience, &keys.bundles(), NOW)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        text(r#"{"alg":"ES256","kid":"old"}"#, &claims(), &[AUDIENCE]),
        "no key `old` for JWT-SVIDs is in the trust bundle of `example.org`"
    );
    assert_eq!(text(HEADER, &claims(), &["other"]), "the token is for other audiences than this service's");
    let mut old = claims();
    old["exp"] = json!(at(-60).unix_seconds());
    assert_eq!(
        text(HEADER, &old, &[AUDIENCE]),
        "the token expired at 2026-11-23T08:59:00Z, now it is 2026-11-23T09:00:00Z"
    );
    assert_eq!(
        text("{\"alg\":\"\\u001b[2J\"}", &claims(), &[AUDIENCE]),
        "the algorithm `\\u{1b}[2J` is not accepted",
        "T-31"
    );
}
