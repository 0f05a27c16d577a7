//! A service that takes every kind of credential, on two listeners (mutual TLS, and plain for what stands in a header), and callers who
//! prove themselves by each. Requests are bytes on sockets, so that no library tidies them.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    sockets::{Plain, answer},
    *,
};
use crate::{
    caller::ProofKind,
    identity::Publisher,
    jwt::{Algorithm, SigningInput},
    on_behalf_of::OnBehalfOf,
    serve::{Drained, ServeOptions, TlsIncoming, serve},
    spiffe::{BundleSet, JwtAuthority, TrustBundle},
    tls::{Acceptor, AcceptorOptions, Connector, ConnectorOptions, PeerSet, fixtures::Authority},
    txn_tokens::TxnTokens,
    x509::{Hex, fixtures::Key},
};

pub(super) const OWN: &str = "spiffe://example.org/config";
pub(super) const ISSUER: &str = "https://tokens.example.org";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const API_SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// Callers who have keys.
const KEYED: [&str; 4] = ["/export", "/photo", "/batch/legacy", "/export2"];

/// How a service can prove itself.
pub(super) const TRACKS: [ProofKind; 5] =
    [ProofKind::X509Svid, ProofKind::JwtSvid, ProofKind::AccessToken, ProofKind::SharedSecret, ProofKind::ApiKey];

/// Every record, as it is written.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<Vec<Value>>);

impl RecordSink for Written {
    fn record(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(serde_json::to_value(record).unwrap());
    }
}

impl Written {
    pub(super) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The reason of the one record since the last look.
    pub(super) fn reason(&self) -> String {
        let records = self.take();
        assert_eq!(records.len(), 1, "{records:?}");
        records[0]["reason"].as_str().unwrap_or_default().to_owned()
    }
}

pub(super) struct World {
    pub(super) authorization: Authorization,
    pub(super) records: Arc<Written>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) publisher: Publisher,
    pub(super) jwt: Key,
    pub(super) token_service: Key,
    pub(super) users: Key,
    authority: Arc<Authority>,
    partner: Arc<Authority>,
    plain: String,
    tls: String,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Drained>>,
}

fn key_records() -> KeyRecords {
    let mut text = String::from("version = 1\n");
    for path in KEYED {
        let id = path.trim_start_matches('/').replace('/', "-");
        let common = format!(
            "owner = \"spiffe://example.org{path}\"\naudience = \"{OWN}\"\nroles = [\"reader\"]\nexpires = 2027-12-31T00:00:00Z"
        );
        let hash = Hex(crate::api_key::SecretHash::of(API_SECRET).as_bytes()).to_string();
        let value = Base64UrlUnpadded::encode_string(SECRET);
        text.push_str(&format!(
            "[[key]]\nid = \"{id}-a\"\nkind = \"api-key\"\n{common}\n[[key.secret]]\nid = \"{id}-a.1\"\nsha256 = \"{hash}\"\n\
             created = 2026-01-01T00:00:00Z\n\
             [[key]]\nid = \"{id}-s\"\nkind = \"shared-secret\"\n{common}\n[[key.secret]]\nid = \"{id}-s.1\"\nvalue = \"{value}\"\n\
             created = 2026-01-01T00:00:00Z\n"
        ));
    }
    KeyRecords::parse(&text, &TrustDomain::parse("example.org").unwrap()).unwrap()
}

impl World {
    pub(super) async fn new(policy: &str) -> Self {
        Self::with(policy, |builder| builder).await
    }

    pub(super) async fn with(
        policy: &str,
        change: impl FnOnce(crate::authenticate::Builder) -> crate::authenticate::Builder,
    ) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(NOW)));
        let shared: Arc<dyn Clock> = clock.clone();
        let domain = TrustDomain::parse("example.org").unwrap();
        let (jwt, token_service, users) = (Key::p256(), Key::p256(), Key::p256());
        let signs = |key_id: &str, key: &Key| JwtAuthority::new(key_id, &key.spki()).unwrap();
        let (identity, publisher) = Identity::published(Arc::clone(&shared));
        let bundle = TrustBundle::new::<&[u8]>(domain.clone(), [], [signs("jwt-1", &jwt)], None, None).unwrap();
        publisher.publish(None, bundle.into());
        let builder = Authenticators::builder(domain.clone(), identity)
            .audience(OWN)
            .x509()
            .jwt_svids()
            .key_records(key_records())
            .access_tokens(ISSUER, vec![signs("at-1", &token_service)])
            .via([SpiffeId::parse("spiffe://example.org/edge").unwrap()]);
        let records = Arc::new(Written::default());
        let limits = Limits::new(Quotas::in_memory(), Arc::clone(&shared));
        let authorization = Authorization::builder(change(builder).build().unwrap(), limits, shared)
            .service(SpiffeId::parse(OWN).unwrap())
            .users(TxnTokens::new(domain.clone(), vec![signs("txn-1", &users)]).unwrap())
            .record_to(records.clone())
            .build();
        let at = Timestamp::from_unix_seconds(NOW);
        let loaded = Policy::parse(policy, &domain, at).unwrap_or_else(|errors| panic!("{errors}"));
        authorization.replace_policy(loaded.policy).unwrap();
        let (authority, partner) =
            (Arc::new(Authority::new("example.org")), Arc::new(Authority::new("partner.example")));
        let mut world = Self {
            authorization,
            records,
            clock,
            publisher,
            jwt,
            token_service,
            users,
            authority,
            partner,
            plain: String::new(),
            tls: String::new(),
            stop: CancellationToken::new(),
            tasks: Vec::new(),
        };
        world.serve().await;
        world
    }

    async fn serve(&mut self) {
        let [plain, tls] =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        self.plain = plain.local_addr().unwrap().to_string();
        self.tls = tls.local_addr().unwrap().to_string();
        let callers = PeerSet::parse(["spiffe://example.org/**", "spiffe://partner.example/**"]).unwrap();
        let acceptor =
            Acceptor::new(&self.identity(&self.authority, "/config"), callers, AcceptorOptions::default()).unwrap();
        let service = routes(self.authorization.clone());
        let (options, stop) = (ServeOptions::default, || self.stop.clone());
        self.tasks = vec![
            tokio::spawn(serve(Plain(plain), service.clone(), options(), stop())),
            tokio::spawn(serve(TlsIncoming::new(tls, &acceptor), service, options(), stop())),
        ];
    }

    fn identity(&self, authority: &Authority, path: &str) -> Identity {
        let bundles = Authority::bundles(&[&self.authority, &self.partner]);
        Identity::fixed(authority.svid(path, 3600), bundles, self.clock.clone() as Arc<dyn Clock>)
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    pub(super) async fn plain_stream(&self) -> TcpStream {
        TcpStream::connect(&self.plain).await.unwrap()
    }

    pub(super) async fn tls_stream(&self, path: &str) -> crate::tls::SecuredStream<TcpStream> {
        self.stream_of(&self.authority, path).await
    }

    async fn stream_of(&self, authority: &Authority, path: &str) -> crate::tls::SecuredStream<TcpStream> {
        let expected = PeerSet::parse([OWN]).unwrap();
        let connector = Connector::new(&self.identity(authority, path), expected, ConnectorOptions::default()).unwrap();
        connector.connect_over(TcpStream::connect(&self.tls).await.unwrap(), "localhost").await.unwrap()
    }

    /// Who a server that speaks no HTTP finds at the other end of a connection with this SVID.
    pub(super) async fn server_side_peer(&self, path: &str) -> crate::tls::Peer {
        let callers = PeerSet::parse(["spiffe://example.org/**"]).unwrap();
        let acceptor =
            Acceptor::new(&self.identity(&self.authority, "/config"), callers, AcceptorOptions::default()).unwrap();
        let connector = Connector::new(
            &self.identity(&self.authority, path),
            PeerSet::parse([OWN]).unwrap(),
            ConnectorOptions::default(),
        );
        let (ours, theirs) = tokio::io::duplex(16_384);
        let connector = connector.unwrap();
        let (accepted, connected) = tokio::join!(acceptor.accept(ours), connector.connect_over(theirs, "localhost"));
        drop(connected.unwrap());
        accepted.unwrap().peer().clone()
    }

    /// Sends these bytes without TLS; gives the status of the first answer, and all of it.
    pub(super) async fn raw(&self, bytes: &[u8]) -> (u16, String) {
        answer(self.plain_stream().await, bytes).await
    }

    /// The same with an SVID of this path.
    pub(super) async fn raw_as(&self, path: &str, bytes: &[u8]) -> (u16, String) {
        answer(self.tls_stream(path).await, bytes).await
    }

    /// The same with an SVID of another trust domain.
    pub(super) async fn raw_as_partner(&self, path: &str, bytes: &[u8]) -> (u16, String) {
        answer(self.stream_of(&self.partner, path).await, bytes).await
    }

    /// A request as this caller, proven in this way.
    pub(super) async fn ask(&self, kind: ProofKind, path: &str, line: &str, more: &str) -> (u16, String) {
        match kind {
            ProofKind::X509Svid => self.raw_as(path, head(line, more).as_bytes()).await,
            _ => self.raw(head(line, &format!("{more}{}", self.authorization_of(kind, path))).as_bytes()).await,
        }
    }

    /// The header with which a caller proves itself, its line's end included.
    pub(super) fn authorization_of(&self, kind: ProofKind, path: &str) -> String {
        let id = path.trim_start_matches('/').replace('/', "-");
        match kind {
            ProofKind::X509Svid => String::new(),
            ProofKind::JwtSvid => bearer(&self.jwt_svid(path)),
            ProofKind::AccessToken => bearer(&self.access_token(path)),
            ProofKind::SharedSecret => bearer(&hs256(&format!("{id}-s.1"), &hs_claims(path))),
            ProofKind::ApiKey => format!("Authorization: ApiKey {}\r\n", api_key(path)),
            ProofKind::IdToken | ProofKind::UserAccessToken | ProofKind::Session => panic!("{kind} proves no service"),
        }
    }

    pub(super) fn jwt_svid(&self, path: &str) -> String {
        let claims =
            json!({ "sub": format!("spiffe://example.org{path}"), "aud": [OWN], "exp": NOW + 300, "iat": NOW });
        signed(&self.jwt, None, "jwt-1", &claims)
    }

    pub(super) fn access_token(&self, path: &str) -> String {
        let id = format!("spiffe://example.org{path}");
        let claims = json!({
            "iss": ISSUER, "sub": id, "client_id": id, "aud": OWN, "exp": NOW + 300, "iat": NOW, "jti": "a1",
        });
        signed(&self.token_service, Some("at+jwt"), "at-1", &claims)
    }

    pub(super) fn txn_token(&self, sub: &str, scope: &str) -> String {
        let claims = json!({
            "sub": sub, "aud": "example.org", "txn": format!("t-{sub}"), "scope": scope,
            "req_wl": "spiffe://example.org/edge", "iat": NOW, "exp": NOW + 60,
        });
        signed(&self.users, Some("txntoken+jwt"), "txn-1", &claims)
    }

    pub(super) fn bundles_without_jwt_keys(&self) -> BundleSet {
        let domain = TrustDomain::parse("example.org").unwrap();
        TrustBundle::new::<&[u8]>(domain, [], [], None, None).unwrap().into()
    }
}

/// Signed with ES256, of this `typ` or of that of JWT-SVIDs.
pub(super) fn signed(key: &Key, typ: Option<&str>, key_id: &str, claims: &Value) -> String {
    let claims = claims.as_object().unwrap();
    let input = match typ {
        Some(typ) => SigningInput::typed(typ, Algorithm::Es256, key_id, claims),
        None => SigningInput::new(Algorithm::Es256, key_id, claims),
    };
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

pub(super) fn hs_claims(path: &str) -> Value {
    json!({ "sub": format!("spiffe://example.org{path}"), "aud": OWN, "exp": NOW + 300, "roles": ["reader"] })
}

pub(super) fn hs256(key_id: &str, claims: &Value) -> String {
    let encode = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    let input = format!("{}.{}", encode(&json!({ "alg": "HS256", "kid": key_id, "typ": "JWT" })), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
    format!("{input}.{}", Base64UrlUnpadded::encode_string(tag.as_ref()))
}

pub(super) fn api_key(path: &str) -> String {
    format!("{}-a.1.{API_SECRET}", path.trim_start_matches('/').replace('/', "-"))
}

pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A request over HTTP/1.1 whose answer ends its connection.
pub(super) fn head(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: config\r\nConnection: close\r\n{headers}\r\n")
}

/// The rest of an answer behind its head.
pub(super) fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

async fn read(caller: Caller, Path(key): Path<String>) -> String {
    format!("{} reads {key}", caller.service().unwrap().path())
}

async fn change(grant: Grant, Path(id): Path<String>) -> Result<String, Refused> {
    grant.check(&Facts::default().with("owner", id.as_str()))?;
    Ok(format!("{} changes {id}", grant.caller().service().unwrap().path()))
}

async fn mine(user: Option<OnBehalfOf>) -> String {
    user.map_or_else(|| "of nobody".to_owned(), |user| format!("of {}", user.sub()))
}

/// Takes its connection over, and sends back what comes.
async fn echo(mut request: Request<Body>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    });
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(Body::empty()).unwrap()
}

pub(super) fn routes(authorization: Authorization) -> Protected {
    Routes::new(authorization)
        .route(Method::Get, "/v1/config/{key}", read)
        .route(Method::Delete, "/v1/config/{key}", read)
        .route(Method::Get, "/v1/limited/{key}", read)
        .route(Method::Put, "/v1/images/{id}", change)
        .route(Method::Put, "/v1/forgetful/{id}", read)
        .route(Method::Get, "/v1/mine", mine)
        .route(Method::Get, "/v1/echo", echo)
        .route(Method::Options, "/v1/config/{key}", async || "options")
        .edges("/v1/edges")
        .grpc(Config, &descriptor())
        .unwrap()
        .raw(|router| {
            // The last one has the path of a declared template, too.
            let router = router.route("/v1/config/late", get(async || "late"));
            router.route("/late", get(async || "late")).merge(Router::new().route("/merged", get(async || "merged")))
        })
        .into_service()
}

use ::axum::Router;

/// A gRPC service that answers each call with nothing and success.
#[derive(Clone)]
struct Config;

impl tonic::server::NamedService for Config {
    const NAME: &'static str = "config.v1.Config";
}

impl Service<Request<Body>> for Config {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(request.extensions().get::<Caller>().is_some(), "tonic's handlers find the caller in the extensions");
        let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
        ready(Ok(response.body(Body::empty()).unwrap()))
    }
}

/// What a proto compiler would have made beside it.
fn descriptor() -> Vec<u8> {
    let method = |name: &str| prost_types::MethodDescriptorProto { name: Some(name.into()), ..Default::default() };
    let service = prost_types::ServiceDescriptorProto {
        name: Some("Config".into()),
        method: vec![method("Get"), method("Set")],
        ..Default::default()
    };
    let file = prost_types::FileDescriptorProto {
        package: Some("config.v1".into()),
        service: vec![service],
        ..Default::default()
    };
    prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec()
}
