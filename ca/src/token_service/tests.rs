//! The token endpoint over real TLS: who asks, what is given, and what is refused with which word.

use std::{fs, net::SocketAddr};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use bonafide_ca_api::{NodeName, ca_id};
use bonafide_verifier::{
    jwt::{Algorithm, self_signed, user_issuers::IssuerKeys},
    spiffe::{BundleSet, JwtAuthority, SpiffeId},
    tls::{Connector, ConnectorOptions},
    x509::X509Svid,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::{
    audit::{Filter, Kind, Who},
    fixtures::{self, Home, admin},
    issuance::{
        LeafRequest, PublicKey, Recipient, SvidLifetimes,
        jwt::{Audiences, JwtRequest},
    },
    node_api::{self, NodeApi},
    user_issuers::{self, tests::Provider},
};

const POLICY: &str = r#"
version = 1
[[allow]]
name = "users of corp"
callers = ["/web"]
app = ["exchange /photo.read", "exchange /photo.write"]
when = 'resource.subject_type == "access_token" && resource.issuer == "corp"'

[[allow]]
name = "whoever they say they are"
callers = ["/*"]
app = ["exchange /photo.read", "exchange /photo.delete"]
when = 'resource.subject_type == "id_token"'

[[allow]]
name = "on their own account"
callers = ["/old"]
app = ["exchange /photo.read"]
when = 'resource.own && resource.edge'

[[allow]]
name = "earlier transactions"
callers = ["/*"]
app = ["exchange /**"]
when = 'resource.subject_type == "txn_token"'

[[allow]]
name = "night"
callers = ["/web", "/old"]
app = ["access-token /photo.read", "access-token /"]
when = 'resource.audience == "image"'
"#;

/// A CA's token endpoint, and a provider of users.
struct Rig {
    home: Home,
    provider: Provider,
    issuer: Issuer,
    service: TokenService,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Rig {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut TokenLimits)) -> Self {
        let (home, provider) = (Home::new().await, Provider::start().await);
        let opened = &home.opened;
        opened.registry.add_issuer(provider.new_issuer("corp"), admin()).await.unwrap();
        for path in ["web", "image", "shop", "old"] {
            let mut new = fixtures::service(path, &["unix:uid:1"], &["any"]);
            if matches!(path, "web" | "old") {
                new.edge_scopes = vec!["photo.read".to_owned()];
                // The other begins transactions of its own alone.
                new.edge_issuers = if path == "web" { vec!["corp".to_owned()] } else { Vec::new() };
            }
            opened.registry.add_service(new, admin()).await.unwrap();
        }
        let issuer = Issuer::new(
            opened.trust_domain.clone(),
            opened.store.clone(),
            opened.authorities.clone(),
            opened.clock_guard.clone(),
        );
        let node_api = NodeApi::new(node_api::Parts {
            issuer: issuer.clone(),
            registry: opened.registry.clone(),
            authorities: opened.authorities.clone(),
            clock: home.clock.clone(),
            metrics: Metrics::new(fixtures::start()),
            lifetimes: SvidLifetimes::default(),
            limits: node_api::Limits::default(),
            dns_names: vec!["tokens.example.org".to_owned()],
            issuers: IssuerKeeper::new(opened.registry.clone(), home.clock.clone(), user_issuers::Limits::default()),
        });
        let policy = home.options.directory.join("tokens.toml");
        fs::write(&policy, POLICY).unwrap();
        let issuers = IssuerKeeper::new(opened.registry.clone(), home.clock.clone(), user_issuers::Limits::default());
        issuers.refresh(&"corp".parse_name(), admin()).await.unwrap();
        let mut limits = TokenLimits::default();
        change(&mut limits);
        let service = TokenService::new(Parts {
            issuer: issuer.clone(),
            authorities: opened.authorities.clone(),
            store: opened.store.clone(),
            registry: opened.registry.clone(),
            issuers,
            identity: node_api.identity().clone(),
            clock: home.clock.clone(),
            metrics: Metrics::new(fixtures::start()),
            url: "https://tokens.example.org".to_owned(),
            policy,
            limits,
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, mut tasks) = (listener.local_addr().unwrap(), CancellationToken::new(), JoinSet::new());
        let identity = node_api.identity().clone();
        tasks.spawn({
            let (api, stop) = (node_api, stop.clone());
            async move { api.run_identity(&stop).await }
        });
        tasks.spawn({
            let (service, stop) = (service.clone(), stop.clone());
            async move { service.run_policy(stop).await }
        });
        tasks.spawn({
            let (service, stop) = (service.clone(), stop.clone());
            async move { service.run_keys(stop).await }
        });
        identity.ready(Duration::from_secs(20)).await.unwrap();
        tasks.spawn({
            let (service, stop) = (service.clone(), stop.clone());
            async move {
                service.serve(listener, stop).await.unwrap();
            }
        });
        let rig = Self { home, provider, issuer, service, address, stop, tasks };
        rig.eventually(|| rig.service.policy_ready().is_ok()).await;
        rig
    }

    async fn eventually(&self, mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
    }

    async fn finish(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    fn bundles(&self) -> BundleSet {
        BundleSet::empty().with(self.home.opened.registry.load().bundle().clone())
    }

    /// A workload with an SVID of that path.
    async fn workload(&self, path: &str) -> Workload<'_> {
        let key = KeyPair::generate().unwrap();
        let id = SpiffeId::new(&self.home.opened.trust_domain, path).unwrap();
        let public_key = PublicKey::parse(&key.subject_public_key_info()).unwrap();
        let request = LeafRequest::service(id.clone(), vec![], Duration::from_secs(3600), public_key);
        let recipient = Recipient { who: &Who::Ca, node: None };
        let issued = self.issuer.issue_one(recipient, request).await.unwrap();
        let chain = issued.authority().signing().issuing.chain().to_vec();
        let chain = std::iter::once(issued.into_certificate()).chain(chain.into_iter().take(1));
        let chain = chain.map(CertificateDer::from).collect();
        let svid = X509Svid::new(chain, key.serialize_der()).unwrap();
        let identity = Identity::fixed(svid, self.bundles(), self.home.clock.clone());
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
        let expected = PeerSet::id(ca_id(&self.home.opened.trust_domain));
        let connector = Connector::new(&identity, expected, ConnectorOptions::default()).unwrap();
        Workload { rig: self, id, connector, signer: Some(signer) }
    }

    /// A client without a certificate.
    fn nobody(&self) -> Workload<'_> {
        let (identity, publisher) = Identity::published(self.home.clock.clone());
        publisher.publish(None, self.bundles());
        let trust_domain = &self.home.opened.trust_domain;
        let expected = PeerSet::id(ca_id(trust_domain));
        let connector = Connector::anonymous(&identity, expected, ConnectorOptions::default()).unwrap();
        Workload { rig: self, id: SpiffeId::new(trust_domain, "/nobody").unwrap(), connector, signer: None }
    }

    async fn jwt_svid(&self, path: &str, audience: &str) -> String {
        let request = JwtRequest {
            spiffe_id: SpiffeId::new(&self.home.opened.trust_domain, path).unwrap(),
            audiences: Audiences::parse(vec![audience.to_owned()]).unwrap(),
            ttl: Duration::from_secs(300),
        };
        let node = NodeName::parse("n1").unwrap();
        self.issuer.issue_jwt(&Who::Ca, &node, request).await.unwrap().into_token()
    }

    fn access_token(&self, scope: &str) -> String {
        let now = self.home.clock.now().unix_seconds();
        self.provider.sign(&json!({
            "iss": self.provider.url, "sub": "charlie", "aud": "web", "client_id": "browser", "scope": scope,
            "iat": now, "exp": now + 3600,
        }))
    }

    fn txn_tokens(&self) -> TxnTokens {
        TxnTokens::new(self.home.opened.trust_domain.clone(), self.home.opened.authorities.token_keys()).unwrap()
    }

    async fn records(&self) -> Vec<Value> {
        let filter = Filter { kinds: vec![Kind::TokenIssued], limit: 1000, ..Default::default() };
        let page = fixtures::list(&self.home.opened.store, filter).await.unwrap();
        page.entries.iter().map(|entry| serde_json::from_str(&entry.body).unwrap()).collect()
    }
}

trait ParseName {
    fn parse_name(&self) -> bonafide_verifier::user::IssuerName;
}

impl ParseName for str {
    fn parse_name(&self) -> bonafide_verifier::user::IssuerName {
        bonafide_verifier::user::IssuerName::parse(self).unwrap()
    }
}

struct Workload<'r> {
    rig: &'r Rig,
    id: SpiffeId,
    connector: Connector,
    signer: Option<EcdsaKeyPair>,
}

impl Workload<'_> {
    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = self.connector.connect(&self.rig.address.to_string()).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    /// Status, `error`, and all that was answered.
    async fn ask(&self, form: &[(&str, &str)]) -> (StatusCode, String, Value) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post("/token")
            .header("host", "tokens.example.org")
            .header("content-type", "application/x-www-form-urlencoded");
        self.read(self.send(request.body(body.into()).unwrap()).await).await
    }

    async fn read(&self, response: Response<Incoming>) -> (StatusCode, String, Value) {
        let status = response.status();
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        if status != StatusCode::OK {
            // The reason stays here: one word goes out.
            assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        }
        (status, answer["error"].as_str().unwrap_or_default().to_owned(), answer)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = Request::get(path).header("host", "x").body(Full::default()).unwrap();
        let response = self.send(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn self_signed(&self) -> String {
        let now = self.rig.home.clock.now();
        let trust_domain = &self.rig.home.opened.trust_domain;
        let until = now.saturating_add(Duration::from_secs(60));
        let input = self_signed::signing_input(Algorithm::Es256, &self.id, trust_domain, now, until);
        let signer = self.signer.as_ref().unwrap();
        let signature = signer.sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    }
}

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TXN: &str = "urn:ietf:params:oauth:token-type:txn_token";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID: &str = "urn:ietf:params:oauth:token-type:id_token";
const SELF_SIGNED: &str = "urn:ietf:params:oauth:token-type:self_signed";

fn exchange<'a>(token: &'a str, kind: &'a str, scope: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("grant_type", EXCHANGE),
        ("requested_token_type", TXN),
        ("audience", "example.org"),
        ("scope", scope),
        ("subject_token", token),
        ("subject_token_type", kind),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_becomes_a_transaction_token_and_its_record_is_there_before_it() {
    let rig = Rig::start().await;
    let web = rig.workload("/web").await;
    let token = rig.access_token("photo.read openid");
    let mut form = exchange(&token, ACCESS, "photo.read");
    form.extend([("request_details", r#"{"album":7}"#), ("request_context", r#"{"req_ip":"192.0.2.1"}"#)]);
    let (status, _, answer) = web.ask(&form).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        (&answer["token_type"], &answer["issued_token_type"], &answer["expires_in"], &answer["scope"]),
        (&json!("N_A"), &json!(TXN), &json!(300), &json!("photo.read"))
    );
    assert!(answer.get("refresh_token").is_none());
    let issued = answer["access_token"].as_str().unwrap();
    let user = rig.txn_tokens().verify(issued, rig.home.clock.now()).unwrap();
    assert_eq!((user.sub(), user.scope(), user.requester()), ("corp:charlie", "photo.read", &web.id));
    assert_eq!((user.tctx()["album"].as_i64(), &user.rctx()["authn"]), (Some(7), &json!("access_token")));
    let [record] = rig.records().await.try_into().unwrap();
    let hash = data_encoding::HEXLOWER.encode(&crate::audit::sha256(issued.as_bytes()));
    assert_eq!((&record["sha256"], &record["id"]), (&json!(hash), &json!(user.txn())));
    assert_eq!((&record["who"], &record["sub"]), (&json!("service spiffe://example.org/web"), &json!("corp:charlie")));
    assert_eq!((&record["issuer"], &record["token"]), (&json!(user.key_id()), &json!("txntoken+jwt")));
    // T-12: what was written down is no token.
    let text = record.to_string();
    assert!(!text.contains("eyJ") && !text.contains(issued) && !text.contains(&token), "{text}");

    // Narrowed by the next service, in the same transaction.
    let image = rig.workload("/image").await;
    let (status, _, answer) = image.ask(&exchange(issued, TXN, "photo.read")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let next = rig.txn_tokens().verify(answer["access_token"].as_str().unwrap(), rig.home.clock.now()).unwrap();
    assert_eq!((next.txn(), next.sub(), next.requester()), (user.txn(), "corp:charlie", &image.id));
    assert_eq!((next.earlier_requesters(), next.tctx()), ([web.id.clone()].as_slice(), user.tctx()));
    assert!(next.expires_at() <= user.expires_at());
    fixtures::verify(&rig.home.opened.store).await.unwrap();
    drop((web, image));
    rig.finish().await;
}

/// Issue 5 §1, §3, RFC 6749 §5.2: each bad request by the word on the wire; the rest of its reason is not there.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_get_no_token() {
    let rig = Rig::start().await;
    let (web, shop) = (rig.workload("/web").await, rig.workload("/shop").await);
    let token = rig.access_token("photo.read photo.delete");
    let good = || exchange(&token, ACCESS, "photo.read");
    let with = |name: &'static str, value: &'static str| {
        let mut form = good();
        form.retain(|(other, _)| *other != name);
        form.push((name, value));
        form
    };
    let without = |name: &str| good().into_iter().filter(|(other, _)| *other != name).collect::<Vec<_>>();
    let own = web.self_signed();
    let now = rig.home.clock.now().unix_seconds();
    let expired = rig.provider.sign(&json!({
        "iss": rig.provider.url, "sub": "charlie", "aud": "web", "client_id": "b", "scope": "photo.read",
        "iat": now - 3600, "exp": now,
    }));
    let other = Provider::start().await;
    let forged = {
        let now = rig.home.clock.now().unix_seconds();
        other.sign(&json!({
            "iss": rig.provider.url, "sub": "admin", "aud": "web", "client_id": "b", "scope": "photo.read",
            "iat": now, "exp": now + 60,
        }))
    };
    for (what, form, expected) in [
        ("good", good(), ""),
        ("no grant type", without("grant_type"), "invalid_request"),
        ("another grant type", with("grant_type", "password"), "unsupported_grant_type"),
        ("no subject token", without("subject_token"), "invalid_request"),
        ("no type", without("subject_token_type"), "invalid_request"),
        (
            "a refresh token",
            with("subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
            "invalid_request",
        ),
        ("unsigned", with("subject_token_type", "urn:ietf:params:oauth:token-type:unsigned_json"), "invalid_request"),
        ("as an ID token", with("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"), "invalid_request"),
        ("no scope", without("scope"), "invalid_request"),
        ("no audience", without("audience"), "invalid_request"),
        ("another trust domain", with("audience", "example.com"), "invalid_target"),
        ("no wanted type", without("requested_token_type"), "invalid_request"),
        ("another wanted type", with("requested_token_type", ACCESS), "invalid_request"),
        ("a scope not in the policy", with("scope", "photo.delete"), "invalid_scope"),
        ("a scope not in the token", with("scope", "photo.write"), "invalid_scope"),
        ("a scope that is a path", with("scope", "a/../photo.read"), "invalid_scope"),
        ("an empty word", with("scope", "photo.read  photo.write"), "invalid_scope"),
        ("facts that are no object", with("request_details", "[]"), "invalid_request"),
        ("a fact twice", with("request_details", r#"{"a":1,"a":2}"#), "invalid_request"),
        ("how it was proved", with("request_context", r#"{"authn":"id_token"}"#), "invalid_request"),
        ("an actor token", with("actor_token", "x"), "invalid_request"),
        ("a resource", with("resource", "https://x"), "invalid_request"),
        ("expired", exchange(&expired, ACCESS, "photo.read"), "invalid_request"),
        ("signed by another", exchange(&forged, ACCESS, "photo.read"), "invalid_request"),
        ("no token", exchange("x", ACCESS, "photo.read"), "invalid_request"),
        (
            "its own transaction, which the policy does not allow",
            exchange(&own, SELF_SIGNED, "photo.read"),
            "invalid_scope",
        ),
    ] {
        let (status, error, answer) = web.ask(&form).await;
        assert_eq!(error, expected, "{what}: {answer}");
        let good = if expected.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        assert_eq!(status, good, "{what}");
    }
    let (_, error, _) = shop.ask(&good()).await;
    assert_eq!(error, "invalid_scope", "a service that the policy does not name");
    assert_eq!(rig.records().await.len(), 1, "what was refused left no token");
    let sent = |kind: &'static str, body: &'static str| {
        Request::post("/token").header("host", "x").header("content-type", kind).body(Full::from(body)).unwrap()
    };
    for (what, request) in [
        ("JSON", sent("application/json", "{}")),
        ("a parameter twice", sent("application/x-www-form-urlencoded", "grant_type=a&grant_type=b")),
        ("no text", sent("application/x-www-form-urlencoded", "grant_type=%ff")),
    ] {
        let (status, error, _) = web.read(web.send(request).await).await;
        assert_eq!((status, error.as_str()), (StatusCode::BAD_REQUEST, "invalid_request"), "{what}");
    }
    let large = Request::post("/token").header("host", "x").header("content-type", "application/x-www-form-urlencoded");
    let large = large.body(Full::from("a=".to_owned() + &"x".repeat(form::MAX_BODY))).unwrap();
    assert_eq!(web.read(web.send(large).await).await.1, "invalid_request");
    for (method, path, status) in
        [("GET", "/token", 405), ("POST", "/jwks", 405), ("GET", "/", 404), ("GET", "/admin", 404)]
    {
        let request = Request::builder().method(method).uri(path).header("host", "x").body(Full::default()).unwrap();
        assert_eq!(web.send(request).await.status().as_u16(), status, "{method} {path}");
    }
    drop((web, shop));
    rig.finish().await;
}

/// `authorization.md` §1.1: an unknown scope is bounded by what the edge is registered for, and is not unlimited.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_without_a_scope_need_an_edge() {
    let rig = Rig::start().await;
    let (web, image, old) = (rig.workload("/web").await, rig.workload("/image").await, rig.workload("/old").await);
    let token = rig.provider.id_token(rig.home.clock.now());
    for (what, workload, scope, expected) in [
        ("an edge", &web, "photo.read", ""),
        ("an edge, for what it is not registered for", &web, "photo.delete", "invalid_scope"),
        ("an edge for no users", &old, "photo.read", "invalid_request"),
        ("no edge", &image, "photo.read", "invalid_request"),
    ] {
        let (_, error, answer) = workload.ask(&exchange(&token, ID, scope)).await;
        assert_eq!(error, expected, "{what}: {answer}");
    }
    // Remembered, and yet of no use in another's hands, as another type, or to who is not allowed.
    assert_eq!(web.ask(&exchange(&token, ID, "photo.read")).await.1, "");
    assert_eq!(web.ask(&exchange(&token, ACCESS, "photo.read")).await.1, "invalid_request");
    assert_eq!(image.ask(&exchange(&token, ID, "photo.read")).await.1, "invalid_request");
    let statement = old.self_signed();
    let (_, _, answer) = old.ask(&exchange(&statement, SELF_SIGNED, "photo.read")).await;
    let own = rig.txn_tokens().verify(answer["access_token"].as_str().unwrap(), rig.home.clock.now()).unwrap();
    assert_eq!(
        (own.sub(), own.requester(), own.rctx()["authn"].as_str()),
        (old.id.as_str(), &old.id, Some("self_signed"))
    );
    assert!(
        own.expires_at() <= rig.home.clock.now().saturating_add(Duration::from_secs(60)),
        "as long as the statement"
    );
    // Another's statement, even by a service that could have made one.
    assert_eq!(web.ask(&exchange(&statement, SELF_SIGNED, "photo.read")).await.1, "invalid_request");
    // A key that the provider has since a moment is looked up once.
    rig.provider.new_key("k2");
    rig.home.clock.advance(Duration::from_secs(60));
    let token = rig.provider.id_token(rig.home.clock.now());
    assert_eq!(web.ask(&exchange(&token, ID, "photo.read")).await.1, "");
    let asked = rig.provider.asked();
    rig.provider.new_key("k3");
    let token = rig.provider.id_token(rig.home.clock.now());
    for _ in 0..5 {
        assert_eq!(web.ask(&exchange(&token, ID, "photo.read")).await.1, "invalid_request");
    }
    assert_eq!(rig.provider.asked(), asked, "not per request");
    // What was believed is no longer, nor what is over.
    let token = rig.access_token("photo.read");
    assert_eq!(web.ask(&exchange(&token, ACCESS, "photo.read")).await.1, "invalid_request", "k3 is not known yet");
    rig.home.clock.advance(Duration::from_secs(60));
    assert_eq!(web.ask(&exchange(&token, ACCESS, "photo.read")).await.1, "");
    rig.home.opened.registry.remove_issuer("corp", admin()).await.unwrap();
    assert_eq!(web.ask(&exchange(&token, ACCESS, "photo.read")).await.1, "invalid_request");
    drop((web, image, old));
    rig.finish().await;
}

/// RFC 6749 §4.4, RFC 7523, RFC 9068: tokens for a service itself, by its certificate or by an assertion.
#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_by_certificate_and_by_assertion() {
    let rig = Rig::start().await;
    let (web, nobody) = (rig.workload("/web").await, rig.nobody());
    let ask = [("grant_type", "client_credentials"), ("scope", "photo.read"), ("audience", "image")];
    let authenticators =
        Authenticators::builder(rig.home.opened.trust_domain.clone(), rig.service.inner.identity.clone())
            .audience("image")
            .access_tokens("https://tokens.example.org", rig.home.opened.authorities.token_keys())
            .build()
            .unwrap();
    let caller_of = |answer: &Value| {
        let header = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        let headers: &[(&str, &[u8])] = &[("authorization", header.as_bytes())];
        let presented = bonafide_verifier::authenticate::Presented {
            connection: None,
            headers: &Headers(headers),
            address: None,
            session: None,
            at: rig.home.clock.now(),
        };
        authenticators.authenticate(&presented).unwrap().unwrap().service().unwrap().clone()
    };
    let (status, _, answer) = web.ask(&ask).await;
    assert_eq!((status, &answer["token_type"]), (StatusCode::OK, &json!("Bearer")), "{answer}");
    assert_eq!((&answer["expires_in"], &answer["scope"]), (&json!(300), &json!("photo.read")));
    assert_eq!(caller_of(&answer), web.id);
    let record = rig.records().await.remove(0);
    assert_eq!(
        (&record["token"], &record["by"], &record["audience"]),
        (&json!("at+jwt"), &json!("x509-svid"), &json!(["image"]))
    );

    const BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    const SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
    let good = rig.jwt_svid("/old", "https://tokens.example.org").await;
    let endpoint = rig.jwt_svid("/old", "https://tokens.example.org/token").await;
    let elsewhere = rig.jwt_svid("/old", "https://other.example.org").await;
    for (what, kind, assertion, expected) in [
        ("for the issuer", BEARER, &good, ""),
        ("for the endpoint", SPIFFE, &endpoint, ""),
        ("for somebody else", BEARER, &elsewhere, "invalid_client"),
        ("of another type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer", &good, "invalid_client"),
        ("no token", BEARER, &"x".to_owned(), "invalid_client"),
    ] {
        let mut form = ask.to_vec();
        form.extend([("client_assertion_type", kind), ("client_assertion", assertion)]);
        let (status, error, answer) = nobody.ask(&form).await;
        assert_eq!(error, expected, "{what}: {answer}");
        if expected.is_empty() {
            assert_eq!(caller_of(&answer).path(), "/old");
        } else {
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
        }
    }
    let with = |more: &[(&'static str, &'static str)]| [ask.as_slice(), more].concat();
    for (what, client, form, expected) in [
        ("nobody", &nobody, ask.to_vec(), "invalid_client"),
        ("a secret", &web, with(&[("client_secret", "x")]), "invalid_client"),
        ("its ID", &web, with(&[("client_id", "spiffe://example.org/web")]), ""),
        ("another's ID", &web, with(&[("client_id", "spiffe://example.org/shop")]), "invalid_client"),
        (
            "an assertion beside its certificate",
            &web,
            [ask.as_slice(), &[("client_assertion_type", BEARER), ("client_assertion", good.as_str())]].concat(),
            "invalid_request",
        ),
        ("half an assertion", &nobody, with(&[("client_assertion", "x")]), "invalid_request"),
        ("no scope", &web, vec![ask[0], ask[2]], ""),
        ("no audience", &web, vec![ask[0], ask[1]], "invalid_request"),
        ("as a resource", &web, vec![ask[0], ask[1], ("resource", "image")], ""),
        ("two receivers", &web, with(&[("resource", "image")]), "invalid_request"),
        ("for another receiver", &web, vec![ask[0], ask[1], ("audience", "blob")], "invalid_scope"),
        ("for another receiver, no scope", &web, vec![ask[0], ("audience", "blob")], "unauthorized_client"),
        ("for more", &web, vec![ask[0], ask[2], ("scope", "photo.read photo.write")], "invalid_scope"),
    ] {
        let (_, error, answer) = client.ask(&form).await;
        assert_eq!(error, expected, "{what}: {answer}");
    }
    // An SVID that is still valid, of a service that is not registered any more.
    rig.home.opened.registry.remove_service("old".to_owned(), admin()).await.unwrap();
    let mut form = ask.to_vec();
    form.extend([("client_assertion_type", BEARER), ("client_assertion", good.as_str())]);
    assert_eq!(nobody.ask(&form).await.1, "invalid_client");
    let basic = Request::post("/token").header("host", "x").header("authorization", "Basic eDp5");
    let basic = basic
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from("grant_type=client_credentials"))
        .unwrap();
    let response = web.send(basic).await;
    assert!(response.headers().contains_key("www-authenticate"));
    assert_eq!(web.read(response).await.1, "invalid_client");
    // An access token is no transaction token, and the other way round (trap 10).
    let now = rig.home.clock.now();
    let refused = rig.txn_tokens().verify(answer["access_token"].as_str().unwrap(), now).unwrap_err();
    assert_eq!(refused.code(), "txn-token-type");
    drop((web, nobody));
    rig.finish().await;
}

struct Headers<'a>(&'a [(&'a str, &'a [u8])]);

impl bonafide_verifier::authenticate::HeaderView for Headers<'_> {
    fn find(&self, name: &str) -> bonafide_verifier::authenticate::Found<'_> {
        bonafide_verifier::authenticate::HeaderView::find(self.0, name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_keys_are_for_everybody() {
    let rig = Rig::start().await;
    let nobody = rig.nobody();
    let (status, metadata) = nobody.get("/.well-known/oauth-authorization-server").await;
    assert_eq!((status, &metadata["issuer"]), (StatusCode::OK, &json!("https://tokens.example.org")), "RFC 8414 §3.3");
    assert_eq!(metadata["token_endpoint"], "https://tokens.example.org/token");
    assert_eq!(metadata["jwks_uri"], "https://tokens.example.org/jwks");
    let (_, jwks) = nobody.get("/jwks").await;
    let read = IssuerKeys::parse_jwks(jwks.to_string().as_bytes()).unwrap();
    let kid = rig.home.opened.authorities.current().token.kid().to_owned();
    assert_eq!(read.key_ids().collect::<Vec<_>>(), [kid.as_str()]);
    assert_eq!(jwks["keys"][0]["alg"], "ES256");
    // Four days on there is a next one, published before it signs; the earlier one's tokens still count.
    let old: Vec<JwtAuthority> = rig.home.opened.authorities.token_keys();
    rig.home.clock.advance(Duration::from_secs(2 * 86_400));
    rig.home.opened.authorities.rotate_due().await.unwrap();
    assert_eq!(rig.home.opened.authorities.token_keys().len(), 2);
    assert_eq!(old.len(), 1);
    drop(nobody);
    rig.finish().await;
}

/// Too many requests, no policy, a policy that cannot be read, and one that is changed.
#[tokio::test(flavor = "multi_thread")]
async fn limits_and_policies() {
    let rig = Rig::with(|limits| limits.per_client = NonZeroU32::MIN).await;
    let (web, old) = (rig.workload("/web").await, rig.workload("/old").await);
    let ask = [("grant_type", "client_credentials"), ("audience", "image")];
    // Twice as many at once as in a second, for each client by itself.
    for expected in [200, 200, 429] {
        assert_eq!(web.ask(&ask).await.0.as_u16(), expected);
    }
    assert_eq!(old.ask(&ask).await.0, StatusCode::OK);
    let body = "grant_type=client_credentials&audience=image";
    let request =
        Request::post("/token").header("host", "x").header("content-type", "application/x-www-form-urlencoded");
    let response = web.send(request.body(Full::from(body)).unwrap()).await;
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);

    let policy = rig.service.inner.policy.clone();
    fs::write(&policy, "version = 1\n[[allow]]\nname = \"other\"\ncallers = [\"/other\"]\napp = [\"exchange /x\"]\n")
        .unwrap();
    let changed = async |rig: &Rig, workload: &Workload<'_>, expected: u16| {
        for _ in 0..200 {
            rig.home.clock.advance(Duration::from_secs(2));
            if workload.ask(&ask).await.0.as_u16() == expected {
                return;
            }
        }
        panic!("not {expected}");
    };
    changed(&rig, &web, 400).await;
    // One that cannot be read changes nothing, and says so.
    fs::write(&policy, "version = 2").unwrap();
    // The task may just be about to sleep: the clock moves again, a few seconds in all.
    for attempt in 0.. {
        assert!(attempt < 200, "the file was not looked at");
        rig.home.clock.advance(Duration::from_secs(1));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        if rig.service.policy_ready().is_err() {
            break;
        }
    }
    assert_eq!(web.ask(&ask).await.0.as_u16(), 400);
    fs::write(&policy, POLICY).unwrap();
    changed(&rig, &web, 200).await;
    drop((web, old));
    rig.finish().await;
}
