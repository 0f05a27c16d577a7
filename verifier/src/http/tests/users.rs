//! Requests that are made for somebody: rules that ask for a user, limits by user, records, handlers that need one.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::json;

use super::*;
use crate::{
    authorization::TXN_TOKEN_PROBLEM,
    http::RequireUser,
    jwt::{Algorithm, SigningInput, txn_token::TYPE},
    on_behalf_of::OnBehalfOf,
    spiffe::JwtAuthority,
    txn_tokens::{FindTxnKey, LookUp, TxnKey, TxnTokens},
    x509::fixtures::{Key, domain},
};

const RULES: &str = r#"
[[allow]]
name = "for a user"
callers = ["/export"]
http = ["PUT /v1/images/{id}"]
proof = "api-key"
user = "required"
scope = "photo.write"
limit = ["3/h burst 3 per rule", "2/h burst 2 per user"]

[[allow]]
name = "for anybody"
callers = ["/export"]
http = ["GET /v1/config/{key}", "GET /v1/mine"]
proof = "api-key"
"#;

fn tokens(key: &Key) -> TxnTokens {
    TxnTokens::new(domain("example.org"), vec![JwtAuthority::new("txn-1", &key.spki()).unwrap()]).unwrap()
}

fn token(key: &Key, sub: &str, scope: &str, aud: &str) -> String {
    let claims = json!({
        "sub": sub, "aud": aud, "txn": format!("t-{sub}"), "scope": scope,
        "req_wl": "spiffe://example.org/photo", "iat": NOW, "exp": NOW + 60,
    });
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let input = SigningInput::typed(TYPE, Algorithm::Es256, "txn-1", claims.as_object().unwrap());
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

async fn change(grant: Grant, RequireUser(user): RequireUser) -> String {
    assert_eq!(grant.on_behalf_of().unwrap().txn(), user.txn());
    format!("changed for {}", user.sub())
}

async fn read(user: Option<OnBehalfOf>) -> String {
    user.map_or_else(|| "for nobody".to_owned(), |user| format!("for {}", user.sub()))
}

fn service(rig: &Rig) -> Protected {
    Routes::new(rig.authorization.clone())
        .route(Method::Put, "/v1/images/{id}", change)
        .route(Method::Get, "/v1/config/{key}", read)
        .route(Method::Get, "/v1/mine", change)
        .into_service()
}

/// `authorization.md` §4.1: a token that is there and bad is never ignored; trap 18: what needs a user is refused without one.
#[tokio::test]
async fn trap_18_users_over_http() {
    let key = Key::p256();
    let rig = Rig::with(RULES, |builder| builder.users(tokens(&key)));
    let service = service(&rig);
    let good = |sub: &str| token(&key, sub, "photo.read photo.write", "example.org");
    let (charlie, narrow) = (good("charlie"), token(&key, "charlie", "photo.read", "example.org"));
    let foreign = token(&key, "charlie", "photo.write", "example.com");
    let forged = token(&Key::p256(), "charlie", "photo.write", "example.org");
    let changed = |token: &str| format!("{}x", &token[..token.len() - 1]);
    for (name, method, uri, tokens, expected, answer) in [
        ("a user", "PUT", "/v1/images/1", vec![charlie.clone()], 200, "changed for charlie"),
        ("none", "PUT", "/v1/images/1", vec![], 403, "denied user-required"),
        ("too little scope", "PUT", "/v1/images/1", vec![narrow], 403, "denied scope-too-small"),
        ("of another domain", "PUT", "/v1/images/1", vec![foreign.clone()], 403, "denied txn-token-audience"),
        ("forged", "PUT", "/v1/images/1", vec![forged], 400, "malformed txn-token-signature"),
        ("two", "PUT", "/v1/images/1", vec![charlie.clone(), charlie.clone()], 400, "malformed txn-token-twice"),
        ("no user needed", "GET", "/v1/config/a", vec![], 200, "for nobody"),
        ("none needed, one there", "GET", "/v1/config/a", vec![charlie.clone()], 200, "for charlie"),
        ("none needed, a bad one there", "GET", "/v1/config/a", vec![foreign], 403, "denied txn-token-audience"),
        ("none needed, one cut", "GET", "/v1/config/a", vec![changed(&charlie)], 400, "malformed txn-token-malformed"),
        ("a handler that needs one", "GET", "/v1/mine", vec![charlie.clone()], 200, "changed for charlie"),
        ("a handler that needs one, none", "GET", "/v1/mine", vec![], 403, "denied user-required"),
    ] {
        let mut request = rig.request(method, uri);
        for token in tokens {
            request.headers_mut().append("txn-token", token.parse().unwrap());
        }
        rig.lines.take();
        let (status, _, body) = send(&service, request).await;
        assert_eq!(status.as_u16(), expected, "{name}: {body}");
        let line = rig.lines.take().pop().unwrap();
        if status.is_success() {
            assert_eq!(body, answer, "{name}");
        } else {
            let (outcome, reason) = answer.split_once(' ').unwrap();
            assert!(line.starts_with(outcome) && line.ends_with(reason), "{name}: {line}");
            // A token that a fresh one can take the place of is told apart, and that is all that is told (`authorization.md` §4.1).
            let document: serde_json::Value = serde_json::from_str(&body).unwrap();
            let stale = reason == "txn-token-audience";
            assert_eq!(document["type"], if stale { TXN_TOKEN_PROBLEM } else { "about:blank" }, "{name}");
            let told = body.replace(TXN_TOKEN_PROBLEM, "");
            assert!(!["txn", "user", "audience", "scope"].iter().any(|word| told.contains(word)), "{name}: {body}");
        }
    }
    // The limit is each user's, and the record says who: charlie has used one of two. What is refused by it does not count for the rule, which
    // has one of three left.
    let put = async |sub: &str| {
        let mut request = rig.request("PUT", "/v1/images/1");
        request.headers_mut().append("txn-token", good(sub).parse().unwrap());
        let (status, headers, _) = send(&service, request).await;
        (status.as_u16(), headers.contains_key("retry-after"))
    };
    assert_eq!((put("charlie").await, put("charlie").await), ((200, false), (429, true)));
    assert_eq!(put("dora").await, (200, false));
    assert_eq!(rig.lines.take().pop().unwrap(), "allowed /export for dora in t-dora PUT /v1/images/{id} for a user");
    // A transaction token is nobody's credential (trap 10).
    let bearer = Request::builder().uri("/v1/config/a").header("authorization", format!("Bearer {charlie}"));
    let (status, ..) = send(&service, bearer.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

/// A server that does not look at users ignores the header, and no rule that requires one allows anything.
#[tokio::test]
async fn without_users_none_is_there() {
    let rig = Rig::new(RULES);
    let service = service(&rig);
    let forged = token(&Key::p256(), "charlie", "photo.write", "example.org");
    for (method, uri, expected) in
        [("PUT", "/v1/images/1", 403), ("GET", "/v1/config/a", 200), ("GET", "/v1/mine", 403)]
    {
        let mut request = rig.request(method, uri);
        request.headers_mut().append("txn-token", forged.parse().unwrap());
        let (status, _, body) = send(&service, request).await;
        assert_eq!(status.as_u16(), expected, "{uri}");
        assert!(!status.is_success() || body == "for nobody", "{body}");
    }
}

/// F-24, trap 15: what lasts because of a user ends with the user's token, and what does not need one goes on.
#[tokio::test]
async fn trap_15_what_lasts_for_a_user_ends_with_the_token() {
    let key = Key::p256();
    let rig = Rig::with(RULES, |builder| builder.users(tokens(&key)));
    for (method, path, ends) in [("PUT", "/v1/images/1", true), ("GET", "/v1/config/a", false)] {
        let inner = tower_service_fn(|request: Request<Body>| {
            let grant = request.extensions().get::<Grant>().unwrap().clone();
            assert_eq!(request.extensions().get::<OnBehalfOf>().unwrap().sub(), "charlie");
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(grant);
            ready(Ok::<_, Infallible>(response))
        });
        let mut request = rig.request(method, path);
        request
            .headers_mut()
            .append("txn-token", token(&key, "charlie", "photo.write", "example.org").parse().unwrap());
        let Ok(response) = AuthorizationLayer::new(rig.authorization.clone()).layer(inner).call(request).await;
        let grant = response.extensions().get::<Grant>().unwrap();
        rig.clock.advance(Duration::from_secs(89));
        assert!(grant.still_holds(), "{path}: within the leeway");
        rig.clock.advance(Duration::from_secs(1));
        assert_eq!(grant.still_holds(), !ends, "{path}");
        if ends {
            tokio::select! {
                () = grant.ended() => {}
                () = async { loop { tokio::task::yield_now().await; rig.clock.advance(Duration::from_secs(1)); } } => {}
            }
            assert_eq!(rig.lines.take().pop().unwrap(), "denied /export PUT  user-required");
        }
        rig.clock.set(Timestamp::from_unix_seconds(NOW));
    }
}

/// Knows one key, a moment later.
#[derive(Debug)]
struct Later {
    tokens: TxnTokens,
    key: JwtAuthority,
    asked: std::sync::atomic::AtomicUsize,
}

impl FindTxnKey for Later {
    fn find(&self, key_id: &str) -> Option<LookUp> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (tokens, key) = (self.tokens.clone(), self.key.clone());
        let is_it = key_id == key.key_id();
        Some(Box::pin(async move {
            tokio::task::yield_now().await;
            if is_it {
                tokens.replace(vec![TxnKey::Service(key)]).unwrap();
            }
        }))
    }
}

/// A delegation may be a moment younger than what this process was told of it.
#[tokio::test]
async fn a_key_that_is_not_known_yet_is_looked_up_before_the_request_is_decided() {
    let key = Key::p256();
    let users = TxnTokens::empty(domain("example.org"));
    let known = JwtAuthority::new("txn-1", &key.spki()).unwrap();
    let later = Arc::new(Later { tokens: users.clone(), key: known, asked: 0.into() });
    users.look_up_with(later.clone());
    let rig = Rig::with(RULES, |builder| builder.users(users));
    let service = service(&rig);
    let mut statuses = Vec::new();
    let charlie = token(&key, "charlie", "photo.write", "example.org");
    for tokens in
        [vec![], vec![charlie.clone(), charlie.clone()], vec!["x.y.z".to_owned()], vec![charlie.clone()], vec![charlie]]
    {
        let mut request = rig.request("GET", "/v1/config/a");
        for token in tokens {
            request.headers_mut().append("txn-token", token.parse().unwrap());
        }
        let (status, _, body) = send(&service, request).await;
        statuses.push((status.as_u16(), body.starts_with("for ")));
    }
    assert_eq!(statuses, [(200, true), (400, false), (400, false), (200, true), (200, true)]);
    assert_eq!(later.asked.load(std::sync::atomic::Ordering::Relaxed), 1, "once, and for a token that could be one");
    assert_eq!(rig.lines.take().len(), 5, "one record for each request");
}
