use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::json;

use super::*;
use crate::x509::fixtures::{Key, domain};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(NOW + seconds)
}

fn signed(key: &Key, input: SigningInput) -> String {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

/// `authorization.md` §1.1: a service's statement is about itself, signed with the key of its SVID.
#[test]
fn statements_of_services_about_themselves() {
    let (key, renewed, other) = (Key::p256(), Key::p256(), Key::p256());
    let photo = SpiffeId::parse("spiffe://example.org/photo").unwrap();
    let keys: Vec<PublicKey> =
        [&key, &renewed].map(|key| PublicKey::from_spki(&key.spki()).unwrap()).into_iter().collect();
    let code = |token: &str, seconds: i64| {
        let found = verify(token, &photo, &keys, &domain("example.org"), at(seconds));
        found.map_or_else(|error| error.code(), |_| "good")
    };
    let minted = || signing_input(Algorithm::Es256, &photo, &domain("example.org"), at(0), at(300));
    for (what, token, seconds, expected) in [
        ("the key of today", signed(&key, minted()), 0, "good"),
        ("the key of a renewal", signed(&renewed, minted()), 0, "good"),
        ("another key", signed(&other, minted()), 0, "bad-signature"),
        ("the last second", signed(&key, minted()), 299, "good"),
        ("expired, and no leeway", signed(&key, minted()), 300, "expired"),
        ("30 seconds ahead", signed(&key, minted()), -30, "good"),
        ("31 seconds ahead", signed(&key, minted()), -31, "issued-in-future"),
        ("no token", "a.b".to_owned(), 0, "not-a-compact-token"),
    ] {
        assert_eq!(code(&token, seconds), expected, "{what}");
    }
    let claims =
        json!({ "iss": photo.as_str(), "sub": photo.as_str(), "aud": "example.org", "iat": NOW, "exp": NOW + 60 });
    for (what, claim, value, expected) in [
        ("as it is", "aud", json!(["example.org"]), "good"),
        ("a user", "sub", json!("corp:charlie"), "other-subject"),
        ("another service", "sub", json!("spiffe://example.org/web"), "other-subject"),
        ("another issuer", "iss", json!("spiffe://example.org/web"), "other-issuer"),
        ("for two", "aud", json!(["example.org", "example.com"]), "wrong-audience"),
        ("for another", "aud", json!("spiffe://example.org"), "wrong-audience"),
        ("too long a life", "exp", json!(NOW + 301), "lives-too-long"),
        ("T-10 a text for a date", "exp", json!("soon"), "bad-claim"),
        ("T-10 no date", "iat", Value::Null, "bad-claim"),
        ("not yet", "nbf", json!(NOW + 31), "not-yet-valid"),
    ] {
        let mut claims = claims.as_object().unwrap().clone();
        claims.insert(claim.to_owned(), value);
        assert_eq!(code(&signed(&key, SigningInput::new(Algorithm::Es256, "x", &claims)), 0), expected, "{what}");
    }
    let of_other_type = SigningInput::typed("txntoken+jwt", Algorithm::Es256, "x", claims.as_object().unwrap());
    assert_eq!(code(&signed(&key, of_other_type), 0), "wrong-token-type");
    let nobody = verify(&signed(&key, minted()), &photo, &[], &domain("example.org"), at(0));
    assert_eq!(nobody.unwrap_err().code(), "unknown-key", "a requester without an SVID has signed nothing");
}
