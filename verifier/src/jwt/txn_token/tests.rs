//! What is minted is what receivers take, and what they would not take is not minted.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::json;

use super::*;
use crate::{
    txn_tokens::TxnTokens,
    x509::fixtures::{Key, domain},
};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(NOW + seconds)
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap()
}

fn claims() -> TxnClaims {
    TxnClaims {
        sub: "corp:charlie".into(),
        txn: "t-1".into(),
        scope: "photo.read photo.write".into(),
        requester: id("photo"),
        earlier_requesters: Vec::new(),
        tctx: json!({ "album": 7 }).as_object().unwrap().clone(),
        rctx: Map::new(),
        issued_at: at(0),
        expires_at: at(300),
    }
}

fn nested(depth: usize) -> Map<String, Value> {
    let value = (0..depth).fold(Value::Null, |inner, _| json!([inner]));
    [("a".to_owned(), value)].into_iter().collect()
}

#[test]
fn what_is_minted_is_verified_and_says_the_same() {
    let key = Key::p256();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let authority = JwtAuthority::new("k", &key.spki()).unwrap();
    let tokens = TxnTokens::new(domain("example.org"), vec![authority]).unwrap();
    let chain: Vec<SpiffeId> = ["image", "photo"].map(id).into();
    let full: Vec<SpiffeId> = (0..MOST_REQUESTERS - 1).map(|at| id(&format!("s{at}"))).collect();
    for minted in [
        claims(),
        TxnClaims { earlier_requesters: chain, requester: id("blob"), ..claims() },
        TxnClaims { earlier_requesters: full, ..claims() },
        TxnClaims { tctx: Map::new(), rctx: nested(MAX_DEPTH_OF_FACTS), ..claims() },
    ] {
        let input = minted.signing_input(&domain("example.org"), "k").unwrap();
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        let user = tokens.verify(&input.with_signature(signature.as_ref()), at(0)).unwrap();
        let said = TxnClaims {
            sub: user.sub().into(),
            txn: user.txn().into(),
            scope: user.scope().into(),
            requester: user.requester().clone(),
            earlier_requesters: user.earlier_requesters().to_vec(),
            tctx: user.tctx().clone(),
            rctx: user.rctx().clone(),
            issued_at: user.issued_at(),
            expires_at: user.expires_at(),
        };
        assert!(said == minted, "{minted:?}");
    }
    assert!(!format!("{:?}", claims()).contains("charlie"));
}

/// 16 levels in all, of which the claims and the facts are two.
const MAX_DEPTH_OF_FACTS: usize = 14;

#[test]
fn what_no_receiver_takes_is_not_minted() {
    let long = |bytes: usize| "x".repeat(bytes);
    let eight: Vec<SpiffeId> = (0..MOST_REQUESTERS).map(|at| id(&format!("s{at}"))).collect();
    let foreign = || SpiffeId::parse("spiffe://example.com/photo").unwrap();
    let big = json!({ "a": long(9000) }).as_object().unwrap().clone();
    let cases: Vec<(&str, TxnClaims, &str)> = vec![
        ("no subject", TxnClaims { sub: String::new(), ..claims() }, "bad-claim"),
        ("a subject too long", TxnClaims { sub: long(513), ..claims() }, "bad-claim"),
        ("two lines", TxnClaims { sub: "a\nb".into(), ..claims() }, "bad-claim"),
        ("no transaction", TxnClaims { txn: String::new(), ..claims() }, "bad-claim"),
        ("no scope", TxnClaims { scope: String::new(), ..claims() }, "bad-claim"),
        ("two blanks", TxnClaims { scope: "a  b".into(), ..claims() }, "bad-claim"),
        ("a requester of another trust domain", TxnClaims { requester: foreign(), ..claims() }, "no-client"),
        ("the CA as requester", TxnClaims { requester: id("bonafide/ca"), ..claims() }, "no-client"),
        (
            "one before of another trust domain",
            TxnClaims { earlier_requesters: vec![foreign()], ..claims() },
            "no-client",
        ),
        ("more requesters than possible", TxnClaims { earlier_requesters: eight, ..claims() }, "bad-claim"),
        ("facts too deep", TxnClaims { tctx: nested(MAX_DEPTH_OF_FACTS + 1), ..claims() }, "bad-claim"),
        ("facts too large", TxnClaims { tctx: big, ..claims() }, "token-too-large"),
        ("no life", TxnClaims { expires_at: at(0), ..claims() }, "bad-claim"),
        ("an end before the beginning", TxnClaims { expires_at: at(-1), ..claims() }, "bad-claim"),
        ("too long a life", TxnClaims { expires_at: at(601), ..claims() }, "lives-too-long"),
    ];
    for (what, claims, expected) in cases {
        let found = claims.signing_input(&domain("example.org"), "k").map_or_else(|error| error.code(), |_| "minted");
        assert_eq!(found, expected, "{what}");
    }
}

/// `authorization.md` §1.2: the chain of requesters in a token that replaces another.
#[test]
fn chains_of_requesters() {
    let photo = "spiffe://example.org/photo";
    let deep = (0..MOST_REQUESTERS).fold(json!({ "sub": photo }), |act, _| json!({ "sub": photo, "act": act }));
    for (what, act, expected) in [
        ("none", None, "good"),
        ("one before", Some(json!({ "sub": photo, "act": { "sub": "spiffe://example.org/web" } })), "good"),
        ("the requester alone", Some(json!({ "sub": photo })), "bad-claim"),
        ("another first", Some(json!({ "sub": "spiffe://example.org/web", "act": { "sub": photo } })), "bad-claim"),
        ("no object", Some(json!(photo)), "bad-claim"),
        ("a list", Some(json!([photo, photo])), "bad-claim"),
        ("no ID", Some(json!({ "sub": photo, "act": {} })), "bad-claim"),
        ("no SPIFFE ID", Some(json!({ "sub": photo, "act": { "sub": "corp:charlie" } })), "bad-claim"),
        ("a member more", Some(json!({ "sub": photo, "iss": "x", "act": { "sub": photo } })), "bad-claim"),
        (
            "of another trust domain",
            Some(json!({ "sub": photo, "act": { "sub": "spiffe://example.com/a" } })),
            "no-client",
        ),
        ("too many", Some(deep), "bad-claim"),
    ] {
        let mut payload = json!({
            "sub": "corp:charlie", "aud": "example.org", "txn": "t", "scope": "a", "req_wl": photo,
            "iat": NOW, "exp": NOW + 60,
        });
        if let Some(act) = act {
            payload["act"] = act;
        }
        let found = read(payload.as_object().unwrap(), &domain("example.org"));
        assert_eq!(found.map_or_else(|error| error.code(), |_| "good"), expected, "{what}");
    }
}
