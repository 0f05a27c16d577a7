//! The token endpoint and issuers of users, with the real programs, a client and a provider that nobody here wrote, and a provider that does
//! everything wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_tests::{
    oidc_provider::OidcProvider,
    site::{Node, Ran, SOON, Site, eventually},
};
use bonafide_verifier::{
    agent_tokens::AgentTokens,
    authenticate::Authenticators,
    authorization::Authorization,
    clock::{Clock, SystemClock},
    http::{
        RequireUser, Routes,
        edge::{AtEdge, Edge},
    },
    identity::{
        Identity,
        workload_api::{Endpoint, WorkloadApi},
    },
    jwt::{Algorithm, SigningInput, user_issuers::UserIssuers},
    limits::{Limits, Quotas},
    policy::{Method, Policy},
    spiffe::TrustDomain,
    user::IssuerName,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

const POLICY: &str = r#"
version = 1
[[allow]]
name = "export at night"
callers = ["/export"]
app = ["access-token /photo.read"]
when = 'resource.audience == "image"'
[[allow]]
name = "transactions say less"
callers = ["/export"]
app = ["exchange /**"]
when = 'resource.subject_type == "txn_token"'
"#;

/// A site whose CA serves tokens as `tokens.example.org`, and a node on which every process of this user is `export`.
pub(crate) fn site_with_tokens() -> (Site, Node, String) {
    let mut site = Site::new();
    let policy = site.path("tokens.toml");
    fs::write(&policy, POLICY).unwrap();
    let arguments = ["--token-listen", "127.0.0.1:0", "--token-dns", "tokens.example.org", "--token-policy"];
    site.ca_arguments = arguments.map(str::to_owned).to_vec();
    site.ca_arguments.push(policy.display().to_string());
    site.start_ca();
    let address = site.ca.as_ref().unwrap().ready("tokens", SOON).unwrap_or_else(|error| panic!("{error}"));
    let node = site.join("n1");
    // An edge: its node's agent may sign, too.
    site.add_service("export", &["--on", "n1", "--edge-scope", "photo.read", "--edge-scope", "photo.write"]);
    (site, node, address)
}

/// `curl` at the token endpoint, with this node's SVID when `with` is its folder.
pub(crate) fn curl(svid: &Path, address: &str, with_svid: bool, path: &str, form: &[&str]) -> Ran {
    let port = address.rsplit_once(':').unwrap().1;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]);
    command.args(["--resolve", &format!("tokens.example.org:{port}:127.0.0.1")]);
    command.arg("--cacert").arg(svid.join("bundle.pem"));
    if with_svid {
        command.arg("--cert").arg(svid.join("svid.pem")).arg("--key").arg(svid.join("svid.key"));
    }
    for field in form {
        command.args(["--data-urlencode", field]);
    }
    Ran::of(command.arg(format!("https://tokens.example.org:{port}{path}"))).success()
}

/// Status and body.
pub(crate) fn answer(ran: &Ran) -> (u16, Value) {
    let (body, status) = ran.stdout.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
}

pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(payload).unwrap()).unwrap()
}

/// RFC 6749 §4.4, RFC 8414, T-12: curl, with the files of an SVID, gets a token; without one it gets keys and a refusal; no token is in a log.
#[test]
fn curl_asks_the_token_endpoint() {
    let (site, node, address) = site_with_tokens();
    let svid = node.path("svid");
    fs::create_dir(&svid).unwrap();
    node.agent(&["fetch", "x509", "--write", svid.to_str().unwrap()]).success();
    let port = address.rsplit_once(':').unwrap().1;
    let issuer = format!("https://tokens.example.org:{port}");
    let form = ["grant_type=client_credentials", "scope=photo.read", "audience=image"];
    let (status, got) = answer(&curl(&svid, &address, true, "/token", &form));
    assert_eq!((status, &got["token_type"], &got["expires_in"]), (200, &json!("Bearer"), &json!(300)), "{got}");
    let token = got["access_token"].as_str().unwrap();
    let said = claims(token);
    assert_eq!((&said["iss"], &said["sub"]), (&json!(issuer), &json!("spiffe://example.org/export")));
    assert_eq!((&said["aud"], &said["scope"]), (&json!(["image"]), &json!("photo.read")));

    // By an assertion, without a certificate.
    let assertion = node.agent(&["fetch", "jwt", "--audience", &issuer]).success().stdout.trim().to_owned();
    let kind = "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let asserted = format!("client_assertion={assertion}");
    let (status, _) = answer(&curl(&svid, &address, false, "/token", &[form.as_slice(), &[kind, &asserted]].concat()));
    assert_eq!(status, 200);

    let (status, refused) = answer(&curl(&svid, &address, false, "/token", &form));
    assert_eq!((status, refused), (401, json!({ "error": "invalid_client" })));
    let more = ["grant_type=client_credentials", "scope=photo.delete", "audience=image"];
    let (status, refused) = answer(&curl(&svid, &address, true, "/token", &more));
    assert_eq!((status, refused), (400, json!({ "error": "invalid_scope" })));
    let (_, metadata) = answer(&curl(&svid, &address, false, "/.well-known/oauth-authorization-server", &[]));
    assert_eq!(metadata["issuer"], json!(issuer));
    // The token authority's, and that of the agent, to which the CA has delegated.
    let keys = eventually("two keys", || {
        let (_, keys) = answer(&curl(&svid, &address, false, "/jwks", &[]));
        (keys["keys"].as_array().unwrap().len() == 2).then_some(keys)
    });
    let authorities = site.ca(&["authority", "list", "--output", "json"]).success().json();
    let signs = authorities["authorities"].as_array().unwrap().iter().find(|one| one["kind"] == "token").unwrap();
    let kids: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| &key["kid"]).collect();
    assert!(kids.contains(&&signs["id"]), "{kids:?}");
    // They are nobody's identity: no bundle has them.
    let bundle = site.ca(&["bundle", "show"]).success().stdout;
    let fetched = node.agent(&["fetch", "bundle", "--output", "json"]).success();
    for kid in &kids {
        let kid = kid.as_str().unwrap();
        assert!(!bundle.contains(kid) && !fetched.stdout.contains(kid), "{kid} is in a SPIFFE bundle");
    }

    let records = site.ca(&["audit", "list", "--kind", "token-issued", "--output", "json"]).success();
    assert_eq!(records.json()["records"].as_array().unwrap().len(), 2);
    site.ca(&["audit", "verify"]).success();
    let log = site.ca.as_ref().unwrap().printed().join("\n");
    let database = fs::read(site.path("ca/state/ca.db")).unwrap();
    let wal = fs::read(site.path("ca/state/ca.db-wal")).unwrap_or_default();
    for secret in [token, assertion.as_str()] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!log.contains(signature) && !records.stdout.contains(signature), "a token in a log");
        let holds = |bytes: &[u8]| bytes.windows(signature.len()).any(|window| window == signature.as_bytes());
        assert!(!holds(&database) && !holds(&wal), "a token in the database");
    }
    assert!(log.contains("refused a token") && log.contains("no-rule"), "the reason is told here");
}

/// A provider that nobody here wrote: its keys are fetched, kept while it is down, and kept over a restart of the CA.
#[test]
fn a_real_provider_goes_down() {
    let mut provider = OidcProvider::start();
    let mut site = Site::started();
    let certificate = provider.certificate().display().to_string();
    let url = provider.issuer.clone();
    let add = ["issuer", "add", "corp", &url, "--audience", "web", "--ca-file", &certificate];
    site.ca(&add).success();
    let keys = |site: &Site| site.ca(&["issuer", "show", "corp", "--output", "json"]).success().json()["keys"].clone();
    let fetched = keys(&site);
    assert!(!fetched.as_array().unwrap().is_empty(), "{fetched}");
    provider.kill();
    let refused = site.ca(&["issuer", "refresh", "corp"]).exits(3);
    assert!(refused.stderr.contains("cannot connect") && refused.stderr.contains("issuer-keys"), "{refused:?}");
    site.stop_ca();
    site.start_ca();
    assert_eq!(keys(&site), fetched);
}

/// What the faulty provider does.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Redirects,
    Huge,
    Changed,
    Silent,
    None,
}

/// A provider for faults, on a thread of its own.
struct Faulty {
    url: String,
    certificate: PathBuf,
    fault: Arc<Mutex<Fault>>,
    /// What it signs with now, and how often it was asked for that.
    keys: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Faulty {
    fn start(site: &Site) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let path = site.path("faulty.pem");
        fs::write(&path, certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let fault = Arc::new(Mutex::new(Fault::None));
        let (keys, asked) = (Arc::new(Mutex::new(KEYS.to_owned())), Arc::new(AtomicUsize::new(0)));
        runtime.spawn({
            let (url, fault, keys, asked) = (url.clone(), fault.clone(), keys.clone(), asked.clone());
            async move {
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(stream) = acceptor.accept(stream).await else { continue };
                    let fault = *fault.lock().unwrap();
                    tokio::spawn(answer_with(stream, url.clone(), fault, keys.clone(), asked.clone()));
                }
            }
        });
        Self { url, certificate: path, fault, keys, asked, _runtime: runtime }
    }
}

const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","use":"sig",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

async fn answer_with(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    url: String,
    fault: Fault,
    keys: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let discovery = |issuer: &str| ok(&json!({ "issuer": issuer, "jwks_uri": format!("{url}/keys") }).to_string());
    let wants_keys = head.starts_with(b"GET /keys ");
    let answer = match fault {
        Fault::Redirects => {
            "HTTP/1.1 301 Moved\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n".to_owned()
        }
        Fault::Huge => ok(&"x".repeat(300_000)),
        Fault::Changed => discovery("https://evil.example"),
        Fault::Silent => std::future::pending().await,
        Fault::None if wants_keys => {
            asked.fetch_add(1, Ordering::Relaxed);
            ok(&keys.lock().unwrap())
        }
        Fault::None => discovery(&url),
    };
    // The CA may have heard enough.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Issue 5 §3: a provider's redirects, huge documents, slow answers, changed issuer: refused by name, while its keys of before serve.
#[test]
fn a_provider_that_does_everything_wrong() {
    let site = Site::started();
    let faulty = Faulty::start(&site);
    let certificate = faulty.certificate.display().to_string();
    site.ca(&["issuer", "add", "corp", &faulty.url, "--audience", "web", "--ca-file", &certificate]).success();
    for (fault, text, reason) in [
        (Fault::Redirects, "redirects to `https://evil.example/`", "issuer-redirects"),
        (Fault::Huge, "more than 262144 bytes", "issuer-too-large"),
        (Fault::Changed, "speaks for the issuer `https://evil.example`", "issuer-other"),
        (Fault::Silent, "was not read within", "issuer-timed-out"),
    ] {
        *faulty.fault.lock().unwrap() = fault;
        let refused = site.ca(&["issuer", "refresh", "corp"]).exits(3);
        assert!(refused.stderr.contains(text), "{fault:?}: {refused:?}");
        let shown = site.ca(&["issuer", "show", "corp", "--output", "json"]).success().json();
        assert_eq!((&shown["failure_reason"], &shown["keys"]), (&json!(reason), &json!(["k1"])), "{fault:?}");
    }
    let state_of_issuers = || {
        let status = site.ca(&["status", "--output", "json"]).success().json();
        let health = status["health"].as_array().unwrap().clone();
        health.into_iter().find(|part| part["part"] == "user-issuers").unwrap()["state"].clone()
    };
    eventually("health tells of the issuer", || (state_of_issuers() == "degraded").then_some(()));
    *faulty.fault.lock().unwrap() = Fault::None;
    site.ca(&["issuer", "refresh", "corp"]).success();
}

/// A provider's key, and what it signs with it.
struct Signs {
    key_id: &'static str,
    pair: EcdsaKeyPair,
}

impl Signs {
    fn new(key_id: &'static str) -> Self {
        Self { key_id, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn jwks(&self) -> String {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(Base64UrlUnpadded::encode_string);
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": self.key_id, "use": "sig", "x": x, "y": y }] })
            .to_string()
    }

    fn id_token(&self, issuer: &str) -> String {
        let now = SystemClock.now().unix_seconds();
        let claims = json!({ "iss": issuer, "sub": "charlie", "aud": "web", "iat": now, "exp": now + 300 });
        let input = SigningInput::typed("JWT", Algorithm::Es256, self.key_id, claims.as_object().unwrap());
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    }
}

type AtTheEdge = AtEdge<bonafide_verifier::http::Protected>;

/// The edge `export` of the node, in this process.
async fn edge(node: &Node) -> (AtTheEdge, AgentTokens) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let domain = TrustDomain::parse("example.org").unwrap();
    let api = WorkloadApi::at(Endpoint::Unix(node.socket()));
    let identity = Identity::spawn(&api, Arc::clone(&clock));
    identity.ready(SOON).await.unwrap();
    let tokens = AgentTokens::spawn(&api, domain.clone(), Arc::clone(&clock));
    tokens.ready(SOON).await.unwrap();
    let authenticators = Authenticators::builder(domain.clone(), identity);
    let authenticators = authenticators.x509().users_from(UserIssuers::default()).build().unwrap();
    tokio::spawn(tokens.supply(authenticators.clone(), vec![IssuerName::parse("corp").unwrap()]));
    let limits = Limits::new(Quotas::in_memory(), Arc::clone(&clock));
    let authorization =
        Authorization::builder(authenticators, limits, clock).users(tokens.txn_tokens().clone()).build();
    let rules = "version = 1\n[[allow]]\nname = \"all\"\nusers = [\"corp\"]\nhttp = [\"GET /me\"]\n";
    authorization.replace_policy(Policy::parse(rules, &domain, SystemClock.now()).unwrap().policy).unwrap();
    let me = async |RequireUser(user): RequireUser| user.sub().to_owned();
    let service = Routes::new(authorization).route(Method::Get, "/me", me).into_service();
    (service.at_edge(Edge::new().exchange(tokens.clone(), "photo.read")).unwrap(), tokens)
}

async fn ask(edge: &AtTheEdge, token: &str) -> u16 {
    let request = http::Request::get("/me").header("authorization", format!("Bearer {token}"));
    let request = request.body(axum::body::Body::empty()).unwrap();
    tower::ServiceExt::oneshot(edge.clone(), request).await.unwrap().status().as_u16()
}

/// Issue 5 §3: a provider has changed its keys a moment ago. The edge has the agent ask, the agent the CA, the CA the provider, once, and the first
/// request that needs the new key is answered as any other. Made-up keys cost a provider nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_provider_has_just_begun_to_sign_with() {
    let mut site = Site::started();
    let (before, after) = (Signs::new("k1"), Signs::new("k2"));
    let provider = tokio::task::block_in_place(|| Faulty::start(&site));
    let certificate = provider.certificate.display().to_string();
    *provider.keys.lock().unwrap() = before.jwks();
    site.ca(&["issuer", "add", "corp", &provider.url, "--audience", "web", "--ca-file", &certificate]).success();
    let node = site.join("n1");
    site.add_service("export", &["--on", "n1", "--edge-scope", "photo.read", "--edge-issuer", "corp"]);
    let (edge, tokens) = edge(&node).await;
    let good = before.id_token(&provider.url);
    let taken = async {
        while ask(&edge, &good).await != 200 {
            let _ = tokio::time::timeout(std::time::Duration::from_millis(100), std::future::pending::<()>()).await;
        }
    };
    tokio::time::timeout(SOON, taken).await.expect("the users are known, and there is a delegation");

    // The CA has not asked within the minute, since it has just started.
    site.stop_ca();
    site.start_ca();
    let connected = || site.ca(&["node", "show", "n1", "--output", "json"]).json()["connected"] == true;
    eventually("the agent is back", || connected().then_some(()));
    provider.asked.store(0, Ordering::Relaxed);
    *provider.keys.lock().unwrap() = after.jwks();
    let rotated = after.id_token(&provider.url);
    // Two at once: the one that comes second waits for the same answer.
    assert_eq!(tokio::join!(ask(&edge, &rotated), ask(&edge, &rotated)), (200, 200));
    assert_eq!(ask(&edge, &good).await, 401, "the earlier key is the issuer's no more");
    let made_up = Signs::new("k3");
    for _ in 0..5 {
        assert_eq!(ask(&edge, &made_up.id_token(&provider.url)).await, 401);
    }
    assert_eq!(provider.asked.load(Ordering::Relaxed), 1, "asked once");
    drop(tokens);
    // Its runtime ends where waiting is allowed.
    tokio::task::spawn_blocking(move || drop(provider)).await.unwrap();
}
