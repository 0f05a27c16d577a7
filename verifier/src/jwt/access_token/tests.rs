use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

use super::*;
use crate::x509::fixtures::{Key, domain};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000 + seconds)
}

fn claims() -> AccessTokenClaims {
    AccessTokenClaims {
        issuer: "https://ca.example.org:8444".into(),
        client: SpiffeId::parse("spiffe://example.org/photo").unwrap(),
        audience: vec!["image".into()],
        scope: Some("photo.read".into()),
        token_id: "j-1".into(),
        issued_at: at(0),
        expires_at: at(300),
    }
}

#[test]
fn what_is_minted_is_taken() {
    let key = Key::p256();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let authority = JwtAuthority::new("k", &key.spki()).unwrap();
    for minted in [claims(), AccessTokenClaims { scope: None, ..claims() }] {
        let input = minted.signing_input(&domain("example.org"), "k").unwrap();
        let token = input.clone().with_signature(pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref());
        let trust_domain = domain("example.org");
        let issuer = Issuer { name: &minted.issuer, trust_domain: &trust_domain, key: &authority };
        let found = verify(&Compact::parse(&token).unwrap(), &issuer, &["image".to_owned()], at(0)).unwrap();
        assert_eq!(
            (found.client, found.token_id, found.expires_at),
            (minted.client, minted.token_id, minted.expires_at)
        );
    }
}

#[test]
fn what_nobody_takes_is_not_minted() {
    let id = |text: &str| SpiffeId::parse(text).unwrap();
    let cases: Vec<(&str, AccessTokenClaims, &str)> = vec![
        ("no audience", AccessTokenClaims { audience: vec![], ..claims() }, "missing-claim"),
        ("an empty audience", AccessTokenClaims { audience: vec![String::new()], ..claims() }, "missing-claim"),
        ("33 audiences", AccessTokenClaims { audience: vec!["a".into(); 33], ..claims() }, "too-many-audiences"),
        ("no issuer", AccessTokenClaims { issuer: String::new(), ..claims() }, "missing-claim"),
        ("no ID", AccessTokenClaims { token_id: String::new(), ..claims() }, "missing-claim"),
        ("an empty scope", AccessTokenClaims { scope: Some(String::new()), ..claims() }, "bad-claim"),
        ("no life", AccessTokenClaims { expires_at: at(0), ..claims() }, "bad-claim"),
        (
            "a trust domain",
            AccessTokenClaims { client: id("spiffe://example.org"), ..claims() },
            "spiffe-id-without-path",
        ),
        ("the CA", AccessTokenClaims { client: id("spiffe://example.org/bonafide/ca"), ..claims() }, "no-client"),
        ("a stranger", AccessTokenClaims { client: id("spiffe://example.com/photo"), ..claims() }, "no-client"),
        ("too large", AccessTokenClaims { audience: vec!["a".repeat(400); 20], ..claims() }, "token-too-large"),
    ];
    for (what, claims, expected) in cases {
        let found = claims.signing_input(&domain("example.org"), "k").map_or_else(|error| error.code(), |_| "minted");
        assert_eq!(found, expected, "{what}");
    }
}
