use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::json;

use super::*;
use crate::x509::fixtures::{Key, domain};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(NOW + seconds)
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn authority(key_id: &str, key: &Key) -> JwtAuthority {
    JwtAuthority::new(key_id, &key.spki()).unwrap()
}

fn delegation(agent: &Key) -> Delegation {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
    Delegation {
        node: "web-1".into(),
        key: authority("agent-1", agent),
        edges: vec![
            DelegatedEdge { id: id("/web"), scopes: words(&["photo.read", "photo.write"]), issuers: words(&["corp"]) },
            DelegatedEdge { id: id("/export"), scopes: words(&["export.run"]), issuers: vec![] },
        ],
        token_lifetime: MOST_TOKEN_LIFETIME,
        issued_at: at(0),
        expires_at: at(3600),
    }
}

fn signed(service: &Key, input: SigningInput) -> String {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &service.pkcs8()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

#[test]
fn what_is_signed_is_read_again_and_only_by_the_token_service_s_key() {
    let (service, agent, other) = (Key::p256(), Key::p256(), Key::p256());
    let delegation = delegation(&agent);
    let statement = signed(&service, delegation.signing_input(&domain("example.org"), "txn-1").unwrap());
    let keys = [authority("txn-0", &other), authority("txn-1", &service)];
    assert_eq!(Delegation::verify(&statement, &keys, &domain("example.org")), Ok(delegation.clone()));
    let code = |statement: &str, keys: &[JwtAuthority], name: &str| {
        Delegation::verify(statement, keys, &domain(name)).map_or_else(|error| error.code(), |_| "good")
    };
    assert_eq!(code(&statement, &keys, "example.com"), "wrong-audience");
    assert_eq!(code(&statement, &keys[..1], "example.org"), "unknown-key");
    assert_eq!(code(&statement, &[authority("txn-1", &other)], "example.org"), "bad-signature");
    let by_agent = signed(&agent, delegation.signing_input(&domain("example.org"), "agent-1").unwrap());
    assert_eq!(code(&by_agent, &keys, "example.org"), "unknown-key", "an agent delegates nothing to itself");
    let input = SigningInput::typed("JWT", Algorithm::Es256, "txn-1", &Map::new());
    assert_eq!(code(&signed(&service, input), &keys, "example.org"), "wrong-token-type");
}

#[test]
fn every_claim_is_as_it_must_be_and_there_is_no_other() {
    let agent = Key::p256();
    let good = |change: &dyn Fn(&mut Map<String, Value>)| {
        let input = delegation(&agent).signing_input(&domain("example.org"), "txn-1").unwrap();
        let text = std::str::from_utf8(input.as_bytes()).unwrap().to_owned();
        let token = format!("{text}.AA");
        let mut claims = Compact::parse(&token).unwrap().claims().unwrap();
        change(&mut claims);
        read(&claims, &domain("example.org")).map_or_else(|error| error.code(), |_| "good")
    };
    assert_eq!(good(&|_| {}), "good");
    let edge = |id: &str, scope: &str, issuers: Value| json!([{ "id": id, "scope": scope, "issuers": issuers }]);
    let web = "spiffe://example.org/web";
    let many: Vec<Value> = (0..65).map(|n| json!({ "id": format!("{web}{n}"), "scope": "a", "issuers": [] })).collect();
    let mut private = delegation(&agent).key.public_key().to_jwk();
    private.insert("d".into(), "AA".into());
    let mut rsa = Map::new();
    rsa.insert("kty".into(), "RSA".into());
    let cases = [
        ("a claim of a later version", "limits", Some(json!({})), "unknown-claim"),
        ("no audience", "aud", None, "missing-claim"),
        ("two audiences", "aud", Some(json!(["example.org", "example.com"])), "wrong-audience"),
        ("no node", "node", None, "missing-claim"),
        ("an empty node", "node", Some(json!("")), "bad-claim"),
        ("no key", "jwk", None, "bad-claim"),
        ("a private key", "jwk", Some(Value::Object(private)), "bad-claim"),
        ("a key of another kind", "jwk", Some(Value::Object(rsa)), "bad-claim"),
        ("an empty kid", "kid", Some(json!("")), "bad-claim"),
        ("a longer life", "exp", Some(json!(NOW + 3601)), "lives-too-long"),
        ("longer tokens", "max_lifetime", Some(json!(301)), "bad-claim"),
        ("tokens without a life", "max_lifetime", Some(json!(0)), "bad-claim"),
        ("a fraction", "max_lifetime", Some(json!(1.5)), "bad-claim"),
        ("no edges", "edges", Some(json!([])), "bad-claim"),
        ("too many edges", "edges", Some(json!(many)), "bad-claim"),
        ("no scope", "edges", Some(edge(web, "", json!([]))), "bad-claim"),
        ("two blanks", "edges", Some(edge(web, "a  b", json!([]))), "bad-claim"),
        ("another trust domain's", "edges", Some(edge("spiffe://example.com/web", "a", json!([]))), "no-client"),
        ("a reserved ID", "edges", Some(edge("spiffe://example.org/bonafide/ca", "a", json!([]))), "no-client"),
        ("an issuer that looks like a service", "edges", Some(edge(web, "a", json!(["spiffe"]))), "bad-claim"),
        ("an issuer within an issuer", "edges", Some(edge(web, "a", json!(["a:b"]))), "bad-claim"),
        ("an issuer that is no text", "edges", Some(edge(web, "a", json!([1]))), "bad-claim"),
        ("issuers as text", "edges", Some(edge(web, "a", json!("corp"))), "bad-claim"),
        (
            "an edge twice",
            "edges",
            Some(json!([
                { "id": web, "scope": "a", "issuers": [] },
                { "id": web, "scope": "b", "issuers": [] },
            ])),
            "bad-claim",
        ),
        (
            "a member more",
            "edges",
            Some(json!([{ "id": web, "scope": "a", "issuers": [], "unless": "monday" }])),
            "bad-claim",
        ),
    ];
    for (flaw, claim, value, expected) in cases {
        let changed = good(&|claims| match &value {
            Some(value) => drop(claims.insert(claim.into(), value.clone())),
            None => drop(claims.remove(claim)),
        });
        assert_eq!(changed, expected, "{flaw}");
    }
}

proptest::proptest! {
    /// The property of the fuzz target, over claims with a part in them replaced.
    #[test]
    fn whatever_the_claims_are_the_property_holds(
        at in 0usize..400, length in 0usize..12, instead in "[ -~]{0,8}", other in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
    ) {
        let input = delegation(&Key::p256()).signing_input(&domain("example.org"), "txn-1").unwrap();
        let text = std::str::from_utf8(input.as_bytes()).unwrap();
        let claims = Base64UrlUnpadded::decode_vec(text.split('.').nth(1).unwrap()).unwrap();
        crate::fuzzing::delegation_claims(&claims);
        let start = at.min(claims.len());
        let end = (start + length).min(claims.len());
        let changed = [&claims[..start], instead.as_bytes(), &claims[end..]].concat();
        crate::fuzzing::delegation_claims(&changed);
        crate::fuzzing::delegation_claims(&other);
    }
}

#[test]
fn a_token_stays_within_the_delegation_of_its_key() {
    let delegation = delegation(&Key::p256());
    let (web, export, blob) = (id("/web"), id("/export"), id("/blob"));
    let good =
        Minted { requester: &web, sub: "corp:charlie", scope: "photo.read", issued_at: at(0), expires_at: at(300) };
    let all = "photo.write photo.read";
    let cases: Vec<(&str, Minted<'_>, bool)> = vec![
        ("as it should be", good, true),
        ("all its scopes", Minted { scope: all, ..good }, true),
        ("of its own", Minted { sub: "spiffe://example.org/web", ..good }, true),
        (
            "an edge without issuers, of its own",
            Minted { requester: &export, sub: export.as_str(), scope: "export.run", ..good },
            true,
        ),
        ("an edge without issuers, of a user", Minted { requester: &export, scope: "export.run", ..good }, false),
        ("no edge of the node", Minted { requester: &blob, ..good }, false),
        ("another edge's scope", Minted { scope: "photo.read export.run", ..good }, false),
        ("a longer word", Minted { scope: "photo.reads", ..good }, false),
        ("no word", Minted { scope: "", ..good }, false),
        ("a user of another issuer", Minted { sub: "other:charlie", ..good }, false),
        ("an issuer by a longer name", Minted { sub: "corp2:charlie", ..good }, false),
        ("nobody of the issuer", Minted { sub: "corp:", ..good }, false),
        ("no issuer", Minted { sub: "charlie", ..good }, false),
        ("another service", Minted { sub: "spiffe://example.org/export", ..good }, false),
        ("a second too long", Minted { expires_at: at(301), ..good }, false),
        ("at its end", Minted { issued_at: at(3300), expires_at: at(3600), ..good }, true),
        ("beyond its end", Minted { issued_at: at(3301), expires_at: at(3601), ..good }, false),
        ("a clock that is behind", Minted { issued_at: at(-30), expires_at: at(200), ..good }, true),
        ("before its time", Minted { issued_at: at(-31), expires_at: at(200), ..good }, false),
    ];
    for (name, token, expected) in cases {
        assert_eq!(delegation.permits(&token).is_ok(), expected, "{name}");
    }
}
