//! The edge: what is exchanged, what is taken off, and what never gets through.

#[cfg(all(feature = "serve", feature = "connect"))]
mod sockets;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use ::axum::body::Body;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use http::{HeaderMap, Response};
use serde_json::json;
use tower_service::Service as _;

use super::*;
use crate::{
    authenticate::{Authenticators, FindUserKey},
    authorization::Authorization,
    caller::Caller,
    clock::{Clock, ManualClock, Timestamp},
    http::{Protected, RequireUser, Routes, propagate},
    identity::Identity,
    jwt::{
        Algorithm, SigningInput,
        txn_token::{self, MAX_FACTS_BYTES, MAX_FACTS_DEPTH},
        user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings, UserIssuers},
        user_token,
    },
    limits::{Limits, Quotas},
    policy::{Method, Policy},
    record::{Record, RecordSink},
    spiffe::{JwtAuthority, PublicKey, SpiffeId},
    txn_tokens::TxnTokens,
    user::IssuerName,
    x509::fixtures::{Authority, Key, NOW, at, domain, verify_chain},
};

const CORP: &str = "https://login.example.com";
const OWN: &str = "spiffe://example.org/photo";

const RULES: &str = r#"
version = 1
[[allow]]
name = "people and the export"
callers = ["/export", "spiffe://partner.example/**"]
users = ["corp"]
http = ["GET /photos/{id}"]
scope = "photo.read"
[[allow]]
name = "anybody looks"
callers = ["/export", "spiffe://partner.example/**"]
users = ["corp"]
http = ["GET /look"]
[[allow]]
name = "editors"
users = ["role:editor"]
http = ["DELETE /photos/{id}"]
"#;

fn sign(key: &Key, token_type: &str, key_id: &str, claims: &Value) -> String {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let input = SigningInput::typed(token_type, Algorithm::Es256, key_id, claims.as_object().unwrap());
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

/// A token service in the process: what it answers is the test's to say.
struct Service {
    now: Timestamp,
    key: Key,
    asked: AtomicUsize,
    last: Mutex<Option<(String, String)>>,
    answer: Mutex<Answer>,
}

#[derive(Clone, Debug)]
enum Answer {
    /// A good token for what was asked, with these claims otherwise.
    With(Value),
    Fails(NotExchanged),
    Never,
    Text(String),
}

#[derive(Clone)]
struct Shown(Arc<Service>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown(..)")
    }
}

impl Service {
    fn txn_token(&self, more: &Value) -> String {
        let now = self.now.unix_seconds();
        let mut claims = json!({
            "sub": "corp:charlie", "aud": "example.org", "txn": "t-1", "scope": "photo.read", "req_wl": OWN, "iat": now,
            "exp": now + 60,
        });
        for (claim, value) in more.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        sign(&self.key, txn_token::TYPE, "txn-1", &claims)
    }
}

impl Exchanger for Shown {
    fn exchange<'e>(&'e self, wanted: &'e Wanted) -> Exchanging<'e> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        *self.0.last.lock().unwrap() = Some((wanted.subject_token.to_string(), wanted.scope.clone()));
        let answer = self.0.answer.lock().unwrap().clone();
        let mut claims = json!({ "scope": wanted.scope });
        for (claim, facts) in [("tctx", &wanted.details), ("rctx", &wanted.context)] {
            if !facts.is_empty() {
                claims[claim] = Value::Object(facts.clone());
            }
        }
        Box::pin(async move {
            match answer {
                Answer::With(more) => {
                    for (claim, value) in more.as_object().unwrap() {
                        claims[claim] = value.clone();
                    }
                    Ok(Zeroizing::new(self.0.txn_token(&claims)))
                }
                Answer::Fails(error) => Err(error),
                Answer::Never => std::future::pending().await,
                Answer::Text(text) => Ok(Zeroizing::new(text)),
            }
        })
    }
}

#[derive(Debug, Default)]
struct Lines(Mutex<Vec<String>>);

impl RecordSink for Lines {
    fn record(&self, record: &Record<'_>) {
        let caller = record.caller.map_or("-", |caller| caller.id().as_str());
        let user = record.user.map_or(String::new(), |user| format!(" for {user}"));
        let txn = record.transaction.map_or(String::new(), |txn| format!(" in {txn}"));
        let reason = if record.reason.is_empty() { record.rule.unwrap_or("-") } else { record.reason };
        self.0.lock().unwrap().push(format!("{} {caller}{user}{txn}: {reason}", record.outcome.as_str()));
    }
}

impl Lines {
    fn last(&self) -> String {
        self.0.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

/// The issuer `corp` with this key.
fn issuers(key: &Key, key_id: &str) -> UserIssuers {
    let mut jwk = PublicKey::from_spki(&key.spki()).unwrap().to_jwk();
    jwk.insert("kid".into(), key_id.into());
    let keys = json!({ "keys": [Value::Object(jwk)] }).to_string();
    let settings = UserIssuerSettings {
        name: IssuerName::parse("corp").unwrap(),
        url: CORP.into(),
        audiences: vec!["photo".into()],
        algorithms: vec![Algorithm::Es256],
        roles_claim: Some("groups".into()),
    };
    let issuer = UserIssuer::new(settings, &IssuerKeys::parse_jwks(keys.as_bytes()).unwrap()).unwrap();
    UserIssuers::new(vec![issuer]).unwrap()
}

struct Rig {
    corp: Key,
    issuers: UserIssuers,
    service: Arc<Service>,
    lines: Arc<Lines>,
    clock: Arc<ManualClock>,
    authorization: Authorization,
    edge: AtEdge<Protected>,
}

impl Rig {
    fn new() -> Self {
        Self::at(NOW)
    }

    fn at(now: Timestamp) -> Self {
        let (corp, key) = (Key::p256(), Key::p256());
        let issuers = issuers(&corp, "k");
        let clock = Arc::new(ManualClock::at(now));
        let shared: Arc<dyn Clock> = clock.clone();
        let (identity, _publisher) = Identity::published(Arc::clone(&shared));
        let authenticators = Authenticators::builder(domain("example.org"), identity)
            .x509()
            .users_from(issuers.clone())
            .sessions()
            .build()
            .unwrap();
        let tokens = TxnTokens::new(domain("example.org"), vec![JwtAuthority::new("txn-1", &key.spki()).unwrap()]);
        let lines = Arc::new(Lines::default());
        let limits = Limits::new(Quotas::in_memory(), Arc::clone(&shared));
        let authorization = Authorization::builder(authenticators, limits, shared)
            .users(tokens.unwrap())
            .service(SpiffeId::parse(OWN).unwrap())
            .record_to(lines.clone())
            .build();
        let policy = Policy::parse(RULES, &domain("example.org"), now).unwrap().policy;
        authorization.replace_policy(policy).unwrap();
        let service = Arc::new(Service {
            now,
            key,
            asked: AtomicUsize::new(0),
            last: Mutex::default(),
            answer: Mutex::new(Answer::With(json!({}))),
        });
        let edge = routes(&authorization)
            .at_edge(Edge::new().exchange(Shown(Arc::clone(&service)), "photo.read photo.write"))
            .unwrap();
        Self { corp, issuers, service, lines, clock, authorization, edge }
    }

    fn token(&self, more: &Value) -> String {
        self.token_by(&self.corp, "k", more)
    }

    fn token_by(&self, key: &Key, key_id: &str, more: &Value) -> String {
        let now = self.service.now.unix_seconds();
        let mut claims = json!({ "iss": CORP, "sub": "charlie", "aud": "photo", "iat": now, "exp": now + 300 });
        for (claim, value) in more.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        sign(key, "JWT", key_id, &claims)
    }

    fn request(&self, path: &str, token: Option<&str>) -> Request<Body> {
        let (method, uri) = path.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(Body::empty()).unwrap()
    }

    /// From a service over mutual TLS.
    fn from(&self, id: &str, mut request: Request<Body>) -> Request<Body> {
        let trust_domain = SpiffeId::parse(id).unwrap().trust_domain().as_str().to_owned();
        let root = Authority::root(&trust_domain);
        let bundles = crate::x509::fixtures::bundle_of(&trust_domain, &[&root.der]).into();
        let peer = verify_chain(&[root.leaf(id, &Key::p256())], &bundles, NOW).unwrap();
        request.extensions_mut().insert(Peer::Svid(peer));
        request
    }

    async fn send(&self, request: Request<Body>) -> (u16, String) {
        let Ok(response) = self.edge.clone().call(request).await;
        told(response).await
    }

    fn asked(&self) -> usize {
        self.service.asked.swap(0, Ordering::Relaxed)
    }
}

async fn told<B>(response: Response<B>) -> (u16, String)
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<::axum::BoxError>> + Send + 'static,
{
    let status = response.status().as_u16();
    let body = ::axum::body::to_bytes(Body::new(response.into_body()), 65_536).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Who calls, for whom, and what goes along with calls that are made because of it.
async fn look(caller: Caller, user: Option<OnBehalfOf>, headers: HeaderMap) -> String {
    let carried = match propagate::current() {
        Ok(user) => user.map_or("nobody".to_owned(), |user| format!("{} with {}", user.sub(), user.scope())),
        Err(_) => "no context".to_owned(),
    };
    let named = headers.keys().any(|name| name.as_str().starts_with("x-user") || name == "x-forwarded-client-cert");
    let user = user.map_or("-".to_owned(), |user| user.txn().to_owned());
    format!("{} {user} {carried}{}", caller.id(), if named { " NAMED" } else { "" })
}

async fn needs_user(RequireUser(user): RequireUser) -> String {
    user.sub().to_owned()
}

fn routes(authorization: &Authorization) -> Protected {
    Routes::new(authorization.clone())
        .route(Method::Get, "/photos/{id}", look)
        .route(Method::Get, "/look", look)
        .route(Method::Delete, "/photos/{id}", needs_user)
        .into_service()
}

#[tokio::test]
async fn a_users_token_is_exchanged_once_and_goes_along() {
    let rig = Rig::new();
    let token = rig.token(&json!({}));
    let (status, body) = rig.send(rig.request("GET /photos/1", Some(&token))).await;
    assert_eq!((status, body.as_str()), (200, "corp:charlie t-1 corp:charlie with photo.read photo.write"));
    assert_eq!(rig.asked(), 1);
    assert_eq!(*rig.service.last.lock().unwrap(), Some((token.clone(), "photo.read photo.write".into())));
    assert_eq!(rig.lines.last(), "allowed corp:charlie for corp:charlie in t-1: people and the export");
    // A service that shows a user's token acts for that user.
    let (status, body) =
        rig.send(rig.from("spiffe://example.org/export", rig.request("GET /photos/1", Some(&token)))).await;
    assert_eq!((status, body.starts_with("spiffe://example.org/export t-1 corp:charlie")), (200, true), "{body}");
    assert_eq!(rig.lines.last(), "allowed spiffe://example.org/export for corp:charlie in t-1: people and the export");
    assert_eq!(rig.asked(), 1);
    // One for itself has nothing to exchange, and calls for nobody.
    let (_, body) = rig.send(rig.from("spiffe://example.org/export", rig.request("GET /look", None))).await;
    assert_eq!((body.as_str(), rig.asked()), ("spiffe://example.org/export - nobody", 0));
    // No more is asked for than the user's token says.
    let narrow = rig.token(&json!({ "scope": "openid photo.read", "azp": "spa" }));
    let (_, body) = rig.send(rig.request("GET /photos/1", Some(&narrow))).await;
    assert_eq!((body.as_str(), rig.asked()), ("corp:charlie t-1 corp:charlie with photo.read", 1));
    let (status, body) =
        rig.send(rig.request("DELETE /photos/1", Some(&rig.token(&json!({ "groups": ["editor"] }))))).await;
    assert_eq!((status, body.as_str(), rig.asked()), (200, "corp:charlie", 1));
}

#[tokio::test]
async fn who_may_not_anyway_costs_no_exchange() {
    let rig = Rig::new();
    let good = rig.token(&json!({}));
    for (what, path, token, expected, reason) in [
        ("no rule", "DELETE /photos/1", Some(good.as_str()), 403, "no-rule"),
        ("no route", "GET /other", Some(&good), 403, "no-route"),
        ("nobody", "GET /photos/1", None, 401, "no-credential"),
        ("too little scope", "GET /photos/1", Some(&rig.token(&json!({ "scope": "openid" }))), 403, "scope-too-small"),
        ("expired", "GET /photos/1", Some(&rig.token(&json!({ "iat": 1, "exp": 2 }))), 401, "user-token-expired"),
        ("another audience", "GET /photos/1", Some(&rig.token(&json!({ "aud": "x" }))), 401, "user-token-audience"),
    ] {
        let (status, body) = rig.send(rig.request(path, token)).await;
        assert_eq!((status, rig.asked()), (expected, 0), "{what}: {body}");
        assert!(rig.lines.last().ends_with(reason), "{what}: {}", rig.lines.last());
        assert!(!body.contains("token") && !body.contains("scope"), "{what}: {body}");
    }
    let none = rig.token(&json!({ "scope": "openid" }));
    let (status, _) = rig.send(rig.request("GET /look", Some(&none))).await;
    assert_eq!((status, rig.asked()), (403, 0));
    assert!(rig.lines.last().ends_with("exchange-scope"), "{}", rig.lines.last());
}

/// 401, 403 or 503 by whose fault it is; the reason only in the record.
#[tokio::test]
async fn failures_of_the_exchange() {
    let rig = Rig::new();
    let reason = || "of its own".to_owned();
    let other = sign(&Key::p256(), txn_token::TYPE, "txn-1", &json!({}));
    for (what, answer, expected, recorded) in [
        ("subject", Answer::Fails(NotExchanged::Subject { reason: reason() }), 401, "exchange-subject"),
        ("refused", Answer::Fails(NotExchanged::Refused { reason: reason() }), 403, "exchange-refused"),
        ("not now", Answer::Fails(NotExchanged::Unavailable { reason: reason() }), 503, "exchange-unavailable"),
        ("no token", Answer::Text("hello".into()), 503, "exchange-answer"),
        ("forged", Answer::Text(other), 503, "exchange-answer"),
        ("the user's own back", Answer::Text(rig.token(&json!({}))), 503, "exchange-answer"),
        ("of another user", Answer::With(json!({ "sub": "corp:dora" })), 503, "exchange-answer"),
        ("of another service", Answer::With(json!({ "req_wl": "spiffe://example.org/x" })), 503, "exchange-answer"),
        ("of another trust domain", Answer::With(json!({ "aud": "partner.example" })), 503, "exchange-answer"),
        ("expired", Answer::With(json!({ "iat": 1, "exp": 2 })), 503, "exchange-answer"),
    ] {
        *rig.service.answer.lock().unwrap() = answer;
        let (status, body) = rig.send(rig.request("GET /photos/1", Some(&rig.token(&json!({}))))).await;
        assert_eq!(status, expected, "{what}");
        assert_eq!(
            rig.lines.last(),
            format!("{} corp:charlie for corp:charlie: {recorded}", outcome(status)),
            "{what}"
        );
        assert!(
            EXCHANGE_REASONS.contains(&recorded) && !body.contains("exchange") && !body.contains("of its own"),
            "{body}"
        );
    }
    *rig.service.answer.lock().unwrap() = Answer::Never;
    let waiting = rig.send(rig.request("GET /photos/1", Some(&rig.token(&json!({})))));
    let moving = async {
        loop {
            tokio::task::yield_now().await;
            rig.clock.advance(Duration::from_secs(1));
        }
    };
    let (status, _) = tokio::select! { answer = waiting => answer, () = moving => unreachable!() };
    assert_eq!((status, rig.lines.last().ends_with("exchange-unavailable")), (503, true));
}

fn outcome(status: u16) -> &'static str {
    match status {
        401 => "unauthenticated",
        403 => "denied",
        _ => "unavailable",
    }
}

/// T-29: what is minted for one user is bounded, also where no rule says so; for another it is not used up.
#[tokio::test]
async fn t_29_exchanges_of_one_user_are_bounded() {
    let mut rig = Rig::new();
    let two = NonZeroU32::new(2).unwrap();
    let edge = Edge::new().exchange(Shown(Arc::clone(&rig.service)), "photo.read").per_user(NonZeroU32::MIN, two);
    rig.edge = routes(&rig.authorization).at_edge(edge).unwrap();
    let charlie = rig.token(&json!({}));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(rig.send(rig.request("GET /look", Some(&charlie))).await.0);
    }
    assert_eq!((statuses, rig.asked()), (vec![200, 200, 429, 429], 2));
    assert_eq!(rig.lines.last(), "limited corp:charlie for corp:charlie: exchange-limit");
    *rig.service.answer.lock().unwrap() = Answer::With(json!({ "sub": "corp:dora" }));
    let dora = rig.token(&json!({ "sub": "dora" }));
    assert_eq!(rig.send(rig.request("GET /look", Some(&dora))).await.0, 200);
    rig.clock.advance(Duration::from_secs(1));
    *rig.service.answer.lock().unwrap() = Answer::With(json!({}));
    assert_eq!(rig.send(rig.request("GET /look", Some(&charlie))).await.0, 200);
}

#[tokio::test]
async fn a_token_replaced_by_one_with_a_wider_scope_is_refused() {
    let rig = Rig::new();
    for (asked, scope, expected) in [
        (json!({}), "photo.read photo.write photo.admin", 503),
        (json!({}), "photo.read", 200),
        (json!({ "scope": "photo.read" }), "photo.read photo.write", 503),
    ] {
        *rig.service.answer.lock().unwrap() = Answer::With(json!({ "scope": scope }));
        let (status, _) = rig.send(rig.request("GET /photos/1", Some(&rig.token(&asked)))).await;
        assert_eq!(status, expected, "{asked} {scope}: {}", rig.lines.last());
    }
}

/// Trap 10.
#[tokio::test]
async fn a_transaction_token_is_no_callers_credential() {
    let rig = Rig::new();
    let txn = rig.service.txn_token(&json!({}));
    let (status, _) = rig.send(rig.request("GET /look", Some(&txn))).await;
    assert_eq!((status, rig.asked()), (401, 0));
    let (status, _) = rig.send(rig.from("spiffe://example.org/export", rig.request("GET /look", Some(&txn)))).await;
    assert_eq!((status, rig.asked()), (401, 0));
}

fn with_txn_token(mut request: Request<Body>, tokens: &[&str]) -> Request<Body> {
    for token in tokens {
        request.headers_mut().append("txn-token", token.parse().unwrap());
    }
    request
}

/// Trap 10.
#[tokio::test]
async fn a_callers_credential_is_no_transaction_token() {
    let rig = Rig::new();
    let request = with_txn_token(rig.request("GET /look", None), &[&rig.token(&json!({}))]);
    let (status, _) = rig.send(rig.from("spiffe://example.org/export", request)).await;
    assert_eq!(status, 400);
    assert!(rig.lines.last().ends_with("txn-token-key"), "{}", rig.lines.last());
}

#[tokio::test]
async fn a_second_transaction_token_is_refused() {
    let rig = Rig::new();
    let (one, other) = (rig.service.txn_token(&json!({})), rig.service.txn_token(&json!({ "txn": "t-2" })));
    let request = with_txn_token(rig.request("GET /look", None), &[&one, &other]);
    let (status, _) = rig.send(rig.from("spiffe://example.org/export", request)).await;
    assert_eq!((status, rig.lines.last().ends_with("txn-token-twice")), (400, true));
    // The one that came in, and one of the user's own token: two users, whoever they are.
    let request = with_txn_token(rig.request("GET /look", Some(&rig.token(&json!({})))), &[&one]);
    let (status, _) = rig.send(rig.from("spiffe://example.org/export", request)).await;
    assert_eq!((status, rig.lines.last().ends_with("two-users"), rig.asked()), (400, true, 0));
}

#[tokio::test]
async fn a_transaction_token_from_outside_the_edge_is_refused() {
    let rig = Rig::new();
    let good = rig.service.txn_token(&json!({}));
    let request = with_txn_token(rig.request("GET /look", Some(&rig.token(&json!({})))), &[&good]);
    let (status, _) = rig.send(request).await;
    assert_eq!((status, rig.asked()), (403, 0));
    assert_eq!(rig.lines.last(), "denied corp:charlie: txn-token-from-outside");
    let partner = rig.from("spiffe://partner.example/a", with_txn_token(rig.request("GET /look", None), &[&good]));
    let (status, _) = rig.send(partner).await;
    assert_eq!(status, 403);
    assert!(rig.lines.last().ends_with("txn-token-from-outside"), "{}", rig.lines.last());
    // From inside it is what it is.
    let request = with_txn_token(rig.request("GET /look", None), &[&good]);
    let (status, body) = rig.send(rig.from("spiffe://example.org/export", request)).await;
    assert_eq!((status, body.as_str()), (200, "spiffe://example.org/export t-1 corp:charlie with photo.read"));
}

#[tokio::test]
async fn a_transaction_token_of_another_trust_domain_is_refused() {
    let rig = Rig::new();
    let foreign = rig.service.txn_token(&json!({ "aud": "partner.example" }));
    let request = with_txn_token(rig.request("GET /look", None), &[&foreign]);
    let (status, _) = rig.send(rig.from("spiffe://example.org/export", request)).await;
    assert_eq!((status, rig.lines.last().ends_with("txn-token-audience")), (403, true));
}

/// Trap 8.
#[tokio::test]
async fn trap_8_identity_headers_from_outside_are_taken_off() {
    let rig = Rig::new();
    let named = |mut request: Request<Body>| {
        request.headers_mut().append("x-forwarded-client-cert", "URI=spiffe://example.org/ops".parse().unwrap());
        request.headers_mut().append("x-user", "root".parse().unwrap());
        request
    };
    let token = rig.token(&json!({}));
    let (_, body) = rig.send(named(rig.request("GET /look", Some(&token)))).await;
    assert!(body.starts_with("corp:charlie") && !body.ends_with("NAMED"), "{body}");
    let partner = rig.from("spiffe://partner.example/a", named(rig.request("GET /look", None)));
    let (_, body) = rig.send(partner).await;
    assert!(body.starts_with("spiffe://partner.example/a") && !body.ends_with("NAMED"), "{body}");
    let inside = rig.from("spiffe://example.org/export", named(rig.request("GET /look", None)));
    let (_, body) = rig.send(inside).await;
    assert!(body.ends_with("NAMED"), "{body}");
}

/// Nobody is lost: what cannot be exchanged has no context, and calls onward fail.
#[tokio::test]
async fn a_user_who_was_not_exchanged_has_no_context() {
    let rig = Rig::new();
    let user = user_token::verify(&rig.token(&json!({})), &rig.issuers, NOW).unwrap();
    let session = SessionUser::new(&user, at(600));
    let with = |session: SessionUser| {
        let mut request = rig.request("GET /look", None);
        request.extensions_mut().insert(session);
        request
    };
    let (status, body) = rig.send(with(session.clone())).await;
    assert_eq!((status, body.as_str(), rig.asked()), (200, "corp:charlie - no context", 0));
    let token = rig.token(&json!({}));
    let (_, body) = rig.send(with(session.with_token(token.clone(), UserTokenKind::IdToken))).await;
    assert_eq!((body.as_str(), rig.asked()), ("corp:charlie t-1 corp:charlie with photo.read photo.write", 1));
    // The same without an edge.
    let Ok(response) = routes(&rig.authorization).call(rig.request("GET /look", Some(&token))).await;
    assert_eq!(told(response).await, (200, "corp:charlie - no context".to_owned()));
}

#[test]
fn edges_that_cannot_work() {
    let rig = Rig::new();
    let edge = |scope: &str| Edge::new().exchange(Shown(Arc::clone(&rig.service)), scope);
    for scope in ["", "a  b", " a", "a\"b"] {
        let error = routes(&rig.authorization).at_edge(edge(scope)).unwrap_err();
        assert_eq!(error, EdgeError::Scope { scope: scope.into() });
    }
    let (identity, _publisher) = Identity::published(Arc::new(ManualClock::at(Timestamp::default())));
    let authenticators = Authenticators::builder(domain("example.org"), identity).x509().build().unwrap();
    let clock: Arc<dyn Clock> = rig.clock.clone();
    let limits = Limits::new(Quotas::in_memory(), Arc::clone(&clock));
    let without = Authorization::builder(authenticators, limits, clock).build();
    assert_eq!(routes(&without).at_edge(edge("a")).unwrap_err(), EdgeError::NoTxnTokens);
    assert!(routes(&without).at_edge(Edge::new().strip("x-acme")).is_ok());
}

/// What is about the transaction and about where it came from goes into the token, and stands at the next service; what cannot is the edge's own mistake.
#[tokio::test]
async fn what_the_edge_says_of_a_request_stands_in_its_token() {
    let mut rig = Rig::new();
    let facts = async |user: Option<OnBehalfOf>| {
        user.map_or_else(String::new, |user| json!([user.tctx(), user.rctx()]).to_string())
    };
    let with = |rig: &Rig, change: fn(Edge) -> Edge| {
        let edge = change(Edge::new().exchange(Shown(Arc::clone(&rig.service)), "photo.read"));
        Routes::new(rig.authorization.clone()).route(Method::Get, "/look", facts).into_service().at_edge(edge).unwrap()
    };
    let token = rig.token(&json!({}));
    let ask = |rig: &Rig, from: Option<&str>| {
        let mut request = rig.request("GET /look?album=7", Some(&token));
        if let Some(from) = from {
            let (remote, local) = (format!("{from}:4711").parse().unwrap(), "127.0.0.1:1".parse().unwrap());
            request.extensions_mut().insert(crate::serve::ConnectionInfo { remote, local, ends_at: at(600) });
        }
        request
    };
    rig.edge = with(&rig, |edge| edge);
    assert_eq!(rig.send(ask(&rig, None)).await, (200, "[{},{}]".into()), "where nobody knows from where");
    let by_default = rig.send(ask(&rig, Some("192.0.2.7"))).await;
    assert_eq!(by_default, (200, r#"[{},{"req_ip":"192.0.2.7"}]"#.into()));
    let acts = rig.send(rig.from("spiffe://example.org/export", ask(&rig, Some("192.0.2.8")))).await;
    assert_eq!(acts, (200, "[{},{}]".into()), "a service's address is not its user's");

    rig.edge = with(&rig, |edge| {
        edge.details_of(|request| {
            let shown = format!("{request:?}");
            assert!(!shown.contains("eyJ") && !shown.contains("album"), "no token, and nothing of the query: {shown}");
            let album = request.uri.query().and_then(|query| query.strip_prefix("album="));
            json!({ "album": album, "method": request.method.as_str() }).as_object().unwrap().clone()
        })
        .context_of(|request| {
            let mut context = request.default_context();
            context.insert("user".into(), request.user.id().as_str().into());
            context.insert("language".into(), request.headers.contains_key("accept-language").into());
            context
        })
    });
    let said = rig.send(ask(&rig, Some("192.0.2.7"))).await.1;
    let expected = r#"[{"album":"7","method":"GET"},{"req_ip":"192.0.2.7","user":"corp:charlie","language":false}]"#;
    assert_eq!(said, expected);
    rig.asked();

    let deep = |depth: usize| (1..depth).fold(json!(1), |value, _| json!([value]));
    let of_size = |bytes: usize| json!({ "a": "x".repeat(bytes - 8) }).as_object().unwrap().clone();
    assert!(check_facts(&of_size(MAX_FACTS_BYTES)).is_ok() && check_facts(&of_size(MAX_FACTS_BYTES + 1)).is_err());
    assert!(check_facts(&Map::from_iter([("a".to_owned(), deep(MAX_FACTS_DEPTH))])).is_ok());
    assert!(check_facts(&Map::from_iter([("a".to_owned(), deep(MAX_FACTS_DEPTH + 1))])).is_err());
    let too_much: [fn(Edge) -> Edge; 2] = [
        |edge| edge.details_of(|_| Map::from_iter([("a".to_owned(), "x".repeat(MAX_FACTS_BYTES).into())])),
        |edge| edge.context_of(|_| Map::from_iter([("a".to_owned(), "x".repeat(MAX_FACTS_BYTES).into())])),
    ];
    for change in too_much {
        rig.edge = with(&rig, change);
        let (status, _) = rig.send(ask(&rig, None)).await;
        assert_eq!((status, rig.asked(), rig.lines.last().ends_with("exchange-facts")), (500, 0, true));
    }
}

/// Gives the authenticators a key of the issuer's, a moment after it was asked for the first time.
#[derive(Debug)]
struct Later {
    authenticators: Authenticators,
    issuers: UserIssuers,
    asked: Mutex<Vec<String>>,
}

impl FindUserKey for Later {
    fn find(&self, issuer: &IssuerName, key_id: &str) -> Option<LookUp> {
        let name = format!("{issuer} {key_id}");
        let mut asked = self.asked.lock().unwrap();
        if asked.contains(&name) {
            return None;
        }
        asked.push(name);
        let (authenticators, issuers) = (self.authenticators.clone(), self.issuers.clone());
        Some(Box::pin(async move {
            tokio::task::yield_now().await;
            authenticators.replace_user_issuers(issuers).unwrap();
        }))
    }
}

/// Issue 5 §3: a key unknown to the cache is looked up once, bounded, not per request. Here at the edge itself.
#[tokio::test]
async fn a_users_key_that_is_not_known_is_looked_up_before_the_request_is_decided() {
    for exchanges in [true, false] {
        let mut rig = Rig::new();
        if !exchanges {
            rig.edge = routes(&rig.authorization).at_edge(Edge::new()).unwrap();
        }
        let rotated = Key::p256();
        let authenticators = rig.authorization.authenticators().clone();
        let later = Arc::new(Later {
            authenticators: authenticators.clone(),
            issuers: issuers(&rotated, "k2"),
            asked: Mutex::default(),
        });
        authenticators.look_up_user_keys_with(later.clone());
        let send = async |token: &str| rig.send(rig.request("GET /look", Some(token))).await.0;
        let asked = || std::mem::take(&mut *later.asked.lock().unwrap());
        assert_eq!(send(&rig.token(&json!({}))).await, 200);
        assert_eq!(send("no.token.atall").await, 401);
        let stranger = rig.token_by(&rotated, "k2", &json!({ "iss": "https://other.example" }));
        assert_eq!(send(&stranger).await, 401);
        assert!(asked().is_empty(), "for keys that are known, and issuers that are not, nobody is asked");
        let records = rig.lines.0.lock().unwrap().len();

        let token = rig.token_by(&rotated, "k2", &json!({}));
        assert_eq!((send(&token).await, send(&token).await), (200, 200));
        assert_eq!(asked(), ["corp k2"]);
        assert_eq!(rig.lines.0.lock().unwrap().len(), records + 2, "one record for each request");
        assert_eq!(rig.asked(), if exchanges { 3 } else { 0 });
        let made_up = rig.token_by(&rotated, "k3", &json!({}));
        assert_eq!((send(&made_up).await, later.asked.lock().unwrap().len()), (401, 1));
        assert!(rig.lines.last().ends_with("user-token-key"), "{}", rig.lines.last());
        assert_eq!((send(&made_up).await, asked().len()), (401, 1), "not for each request");
    }
}
