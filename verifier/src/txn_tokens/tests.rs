use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    jwt::{Algorithm, SigningInput, delegation::DelegatedEdge, txn_token::TYPE},
    spiffe::SpiffeId,
    x509::fixtures::{Key, domain},
};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(NOW + seconds)
}

fn claims() -> Value {
    json!({
        "sub": "charlie", "aud": "example.org", "txn": "t-1", "scope": "photo.read photo.write",
        "req_wl": "spiffe://example.org/photo", "iat": NOW, "exp": NOW + 300,
        "tctx": { "album": 7 }, "rctx": { "req_ip": "192.0.2.1" },
    })
}

fn with(claim: &str, value: Option<Value>) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(claim.into(), value),
        None => members.remove(claim),
    };
    claims
}

fn sign(token_type: &str, key_id: &str, key: &Key, claims: &Value) -> String {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let input = SigningInput::typed(token_type, Algorithm::Es256, key_id, claims.as_object().unwrap());
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

struct World {
    key: Key,
    other: Key,
    tokens: TxnTokens,
}

impl World {
    fn new() -> Self {
        let (key, other) = (Key::p256(), Key::p256());
        let authority = |key_id: &str, key: &Key| JwtAuthority::new(key_id, &key.spki()).unwrap();
        let keys = vec![authority("txn-2", &other), authority("txn-1", &key)];
        let tokens = TxnTokens::new(domain("example.org"), keys).unwrap();
        Self { key, other, tokens }
    }

    fn sign(&self, claims: &Value) -> String {
        sign(TYPE, "txn-1", &self.key, claims)
    }

    fn code(&self, token: &str, seconds: i64) -> &'static str {
        self.tokens.verify(token, at(seconds)).map_or_else(|error| error.code(), |_| "good")
    }
}

#[test]
fn what_a_good_token_says_and_what_of_it_is_shown() {
    let world = World::new();
    let token = world.sign(&claims());
    // The second time from memory.
    for _ in 0..2 {
        let user = world.tokens.verify(&token, at(0)).unwrap();
        assert_eq!((user.sub(), user.txn(), user.scope()), ("charlie", "t-1", "photo.read photo.write"));
        assert_eq!(user.requester().as_str(), "spiffe://example.org/photo");
        assert_eq!((user.tctx()["album"].as_i64(), user.rctx()["req_ip"].as_str()), (Some(7), Some("192.0.2.1")));
        assert_eq!((user.valid_until(), user.key_id(), user.expose_token()), (at(330), "txn-1", token.as_str()));
        assert!(user.has_scope("photo.write photo.read") && user.has_scope("") && !user.has_scope("photo.delete"));
        let shown = format!("{user:?} {:?}", world.tokens);
        assert!(!shown.contains(token.rsplit('.').next().unwrap()) && !shown.contains("charlie"), "{shown}");
    }
}

/// `authorization.md` §1.1, T-09, T-10, trap 10: the receiver's duties by claim.
#[test]
fn t_10_claims_of_transaction_tokens() {
    let world = World::new();
    let long = |bytes: usize| Some(Value::String("x".repeat(bytes)));
    let mut cases = vec![
        ("aud", Some(json!(["example.org"])), "good"),
        ("aud", Some(json!(["example.org", "example.com"])), "txn-token-audience"),
        ("aud", Some(json!("example.com")), "txn-token-audience"),
        ("aud", Some(json!("EXAMPLE.ORG")), "txn-token-audience"),
        ("aud", Some(json!("spiffe://example.org")), "txn-token-audience"),
        ("iss", Some(json!("https://example.org")), "txn-token-requester"),
        ("iss", Some(json!(1)), "txn-token-malformed"),
        ("tctx", None, "good"),
        ("rctx", None, "good"),
        ("tctx", Some(json!("text")), "txn-token-malformed"),
        ("rctx", Some(json!([])), "txn-token-malformed"),
        ("sub", long(512), "good"),
        ("sub", long(513), "txn-token-malformed"),
        ("sub", Some(json!("")), "txn-token-malformed"),
        ("sub", Some(json!("a\nb")), "txn-token-malformed"),
        ("txn", long(129), "txn-token-malformed"),
        ("scope", long(1025), "txn-token-malformed"),
        ("scope", Some(json!("a  b")), "txn-token-malformed"),
        ("scope", Some(json!(" a")), "txn-token-malformed"),
        ("scope", Some(json!("a\"b")), "txn-token-malformed"),
        ("scope", Some(json!(["photo.read"])), "txn-token-malformed"),
        // The draft has had a list here, until June 2026.
        ("req_wl", Some(json!(["spiffe://example.org/photo"])), "txn-token-malformed"),
        ("req_wl", Some(json!("photo")), "txn-token-malformed"),
        ("req_wl", Some(json!("spiffe://example.com/photo")), "txn-token-requester"),
        ("req_wl", Some(json!("spiffe://example.org")), "txn-token-requester"),
        ("req_wl", Some(json!("spiffe://example.org/bonafide/ca")), "txn-token-requester"),
        ("exp", Some(json!(NOW + 600)), "good"),
        ("exp", Some(json!(NOW + 601)), "txn-token-lifetime"),
        ("iat", Some(json!(NOW + 30)), "good"),
        ("iat", Some(json!(NOW + 31)), "txn-token-not-yet-valid"),
        ("nbf", Some(json!(NOW + 31)), "txn-token-not-yet-valid"),
        ("nbf", Some(json!("soon")), "txn-token-malformed"),
        ("more", Some(json!(true)), "good"),
    ];
    for claim in ["sub", "aud", "txn", "scope", "req_wl", "iat", "exp"] {
        cases.push((claim, None, "txn-token-malformed"));
        for value in [json!(null), json!(true), json!({}), json!([]), json!(1.5), json!(-1), json!(1e300)] {
            cases.push((claim, Some(value), "txn-token-malformed"));
        }
    }
    for (claim, value, expected) in cases {
        let row = format!("{claim} = {value:?}");
        assert_eq!(world.code(&world.sign(&with(claim, value)), 0), expected, "{row}");
    }
    // The names that the draft had before 2026.
    let old = with("scope", None).as_object().unwrap().clone();
    let old: serde_json::Map<_, _> = old.into_iter().chain([("purp".to_owned(), json!("photo.read"))]).collect();
    assert_eq!(world.code(&world.sign(&Value::Object(old)), 0), "txn-token-malformed");
}

#[test]
fn it_counts_until_its_end_and_for_nobody_elses_key() {
    let world = World::new();
    let token = world.sign(&claims());
    for (seconds, expected) in
        [(-31, "txn-token-not-yet-valid"), (-30, "good"), (299, "good"), (329, "good"), (330, "txn-token-expired")]
    {
        assert_eq!(world.code(&token, seconds), expected, "at {seconds}");
    }
    let rows = [
        (sign(TYPE, "txn-2", &world.key, &claims()), "txn-token-signature"),
        (sign(TYPE, "txn-3", &world.key, &claims()), "txn-token-key"),
        (sign(TYPE, "", &world.key, &claims()), "txn-token-malformed"),
        (sign("JWT", "txn-1", &world.key, &claims()), "txn-token-type"),
        (sign("at+jwt", "txn-1", &world.key, &claims()), "txn-token-type"),
        (sign("txn_token", "txn-1", &world.key, &claims()), "txn-token-type"),
        (sign("TXNTOKEN+JWT", "txn-1", &world.key, &claims()), "txn-token-type"),
        (sign(TYPE, "txn-2", &world.other, &claims()), "good"),
        (format!("{token}."), "txn-token-malformed"),
        (format!(" {token}"), "txn-token-malformed"),
        (format!("{token}, {token}"), "txn-token-malformed"),
        (String::new(), "txn-token-malformed"),
        ("x".repeat(9000), "txn-token-malformed"),
    ];
    for (row, (token, expected)) in rows.iter().enumerate() {
        assert_eq!(world.code(token, 0), *expected, "row {row}");
        assert!(*expected == "good" || TxnTokenError::CODES.contains(expected));
    }
}

/// Trap 6, and trap 17: what was good under one set of keys is asked again under the next.
#[test]
fn trap_6_one_header_and_trap_17_other_keys() {
    let world = World::new();
    let token = world.sign(&claims());
    let (good, other) = (token.as_bytes(), world.sign(&with("sub", Some(json!("dora")))));
    let find = |headers: &[(&str, &[u8])]| {
        let headers = headers.to_vec();
        let found = world.tokens.find(&Slice(headers), at(0));
        found.map(|user| user.map(|user| user.sub().to_owned())).map_err(|error| error.code())
    };
    assert_eq!(find(&[]), Ok(None));
    assert_eq!(find(&[("Txn-Token", good)]), Ok(Some("charlie".to_owned())));
    assert_eq!(find(&[("txn-token", good), ("Txn-Token", good)]), Err("txn-token-twice"));
    assert_eq!(find(&[("txn-token", good), ("txn-token", other.as_bytes())]), Err("txn-token-twice"));
    assert_eq!(find(&[("txn-token", b"\xff")]), Err("txn-token-malformed"));
    assert_eq!(find(&[("txn-token", b"")]), Err("txn-token-malformed"));

    let twice = || vec![JwtAuthority::new("a", &world.key.spki()).unwrap(); 2];
    assert_eq!(world.tokens.replace_keys(twice()), Err(TxnKeysError::KeyIdTwice { key_id: "a".into() }));
    assert_eq!(world.code(&token, 0), "good", "the earlier keys stayed");
    world.tokens.replace_keys(vec![JwtAuthority::new("txn-1", &world.other.spki()).unwrap()]).unwrap();
    assert_eq!(world.code(&token, 0), "txn-token-signature");
    world.tokens.replace_keys(Vec::new()).unwrap();
    assert_eq!(world.code(&token, 0), "txn-token-key");
}

/// Keys that were looked for.
#[derive(Debug, Default)]
struct Asked(std::sync::Mutex<Vec<String>>);

impl FindTxnKey for Asked {
    fn find(&self, key_id: &str) -> Option<LookUp> {
        self.0.lock().unwrap().push(key_id.to_owned());
        Some(Box::pin(std::future::ready(())))
    }
}

/// A key that is not known is looked for, also after a token of it was good; one that is known is not, whether or not the token was seen before.
#[test]
fn which_keys_are_looked_for() {
    let world = World::new();
    let asked = Arc::new(Asked::default());
    world.tokens.look_up_with(asked.clone());
    let looks = |token: &str| world.tokens.look_up(&Slice(vec![("txn-token", token.as_bytes())])).is_some();
    let token = world.sign(&claims());
    assert!(!looks(&token), "its key is known");
    assert_eq!(world.code(&token, 0), "good");
    assert!(!looks(&token), "and it was seen before");
    let unknown = sign(TYPE, "txn-3", &world.key, &claims());
    assert!(looks(&unknown) && looks(&unknown));
    world.tokens.replace_keys(Vec::new()).unwrap();
    assert!(looks(&token), "its key is gone");
    assert!(!looks(&sign("JWT", "txn-3", &world.key, &claims())) && !looks(&"x".repeat(9000)));
    assert_eq!(*asked.0.lock().unwrap(), ["txn-3", "txn-3", "txn-1"]);
}

struct Slice<'h>(Vec<(&'h str, &'h [u8])>);

impl HeaderView for Slice<'_> {
    fn find(&self, name: &str) -> Found<'_> {
        self.0.as_slice().find(name)
    }
}

/// A key of an agent counts for what was delegated to it, in memory as elsewhere, and not a moment longer.
#[test]
fn a_token_of_an_agent_stays_within_its_delegation() {
    let (world, agent) = (World::new(), Key::p256());
    let delegation = Delegation {
        node: "web-1".into(),
        key: JwtAuthority::new("agent-1", &agent.spki()).unwrap(),
        edges: vec![DelegatedEdge {
            id: SpiffeId::parse("spiffe://example.org/photo").unwrap(),
            scopes: vec!["photo.read".into(), "photo.write".into()],
            issuers: vec!["corp".into()],
        }],
        token_lifetime: std::time::Duration::from_secs(300),
        issued_at: at(-60),
        expires_at: at(3540),
    };
    let service = TxnKey::Service(JwtAuthority::new("txn-1", &world.key.spki()).unwrap());
    let agents = TxnKey::Agent(delegation.clone());
    world.tokens.replace(vec![service.clone(), agents.clone()]).unwrap();
    assert!(world.tokens.knows("agent-1") && !world.tokens.knows("agent-2"));
    let of_user = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut claims = with("sub", Some(json!("corp:charlie")));
        change(claims.as_object_mut().unwrap());
        sign(TYPE, "agent-1", &agent, &claims)
    };
    let good = of_user(&|_| {});
    let delegated = "txn-token-delegation";
    let rows: Vec<(&str, String, i64, &str)> = vec![
        ("as it should be", good.clone(), 0, "good"),
        ("from memory", good.clone(), 10, "good"),
        (
            "a wider scope",
            of_user(&|claims| drop(claims.insert("scope".into(), json!("photo.read admin")))),
            0,
            delegated,
        ),
        (
            "another edge",
            of_user(&|claims| drop(claims.insert("req_wl".into(), json!("spiffe://example.org/blob")))),
            0,
            delegated,
        ),
        (
            "another issuer's user",
            of_user(&|claims| drop(claims.insert("sub".into(), json!("other:charlie")))),
            0,
            delegated,
        ),
        (
            "a service",
            of_user(&|claims| drop(claims.insert("sub".into(), json!("spiffe://example.org/blob")))),
            0,
            delegated,
        ),
        ("a longer life", of_user(&|claims| drop(claims.insert("exp".into(), json!(NOW + 301)))), 0, delegated),
        ("signed by the token service, all of it", world.sign(&with("sub", Some(json!("other:charlie")))), 0, "good"),
        (
            "the token service's name over the agent's key",
            sign(TYPE, "txn-1", &agent, &claims()),
            0,
            "txn-token-signature",
        ),
    ];
    for (name, token, seconds, expected) in rows {
        assert_eq!(world.code(&token, seconds), expected, "{name}");
    }
    // The same delegation told once more changes nothing; one that is narrower counts at once, and so does none.
    world.tokens.replace(vec![service.clone(), agents]).unwrap();
    assert_eq!(world.code(&good, 0), "good");
    let mut narrower = delegation;
    narrower.edges[0].issuers.clear();
    world.tokens.replace(vec![service.clone(), TxnKey::Agent(narrower)]).unwrap();
    assert_eq!(world.code(&good, 0), delegated);
    world.tokens.replace(vec![service]).unwrap();
    assert_eq!(world.code(&good, 0), "txn-token-key");
}
