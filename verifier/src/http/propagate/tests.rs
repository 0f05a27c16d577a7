//! A user carried from one service to the next, over real connections.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{Request, Response, StatusCode},
};
use http_body_util::{BodyExt, Empty};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    authenticate::Authenticators,
    authorization::Authorization,
    clock::{Clock, ManualClock},
    http::{Protected, Routes},
    identity::Identity,
    jwt::{Algorithm, SigningInput, txn_token::TYPE},
    limits::{Limits, Quotas},
    policy::{Method, Policy},
    record::{Record, RecordSink},
    serve::{Drained, ServeOptions, TlsIncoming, serve},
    spiffe::JwtAuthority,
    tls::{
        Acceptor, AcceptorOptions, Connector, ConnectorOptions, PeerSet,
        fixtures::{Authority, START, clock},
    },
    txn_tokens::TxnTokens,
    x509::fixtures::{Key, domain},
};

const POLICY: &str = r#"
version = 1
[[allow]]
name = "the chain"
callers = ["/photo", "/image"]
http = ["GET /{what}"]
grpc = ["blob.v1.Blobs/Get"]
"#;

/// For whom each service decided, in which transaction.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>);

impl RecordSink for Seen {
    fn record(&self, record: &Record<'_>) {
        let caller = record.caller.unwrap().service().unwrap().path();
        let (user, txn) = (record.user.unwrap_or("-"), record.transaction.unwrap_or("-"));
        let service = record.service.unwrap().path();
        self.0.lock().unwrap().push(format!("{caller} {service} {user} {txn}"));
    }
}

/// A trust domain with its token service's key.
struct World {
    authority: Authority,
    clock: Arc<ManualClock>,
    key: Key,
    seen: Arc<Seen>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<Drained>>>,
}

impl World {
    fn new() -> Self {
        Self {
            authority: Authority::new("example.org"),
            clock: Arc::new(clock()),
            key: Key::p256(),
            seen: Arc::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        }
    }

    fn identity(&self, path: &str) -> Identity {
        let clock: Arc<dyn Clock> = self.clock.clone();
        Identity::fixed(self.authority.svid(path, 3600), Authority::bundles(&[&self.authority]), clock)
    }

    fn connector(&self, path: &str, expected: &str) -> Connector {
        let expected = PeerSet::parse([expected]).unwrap();
        Connector::new(&self.identity(path), expected, ConnectorOptions::default()).unwrap()
    }

    fn token(&self, sub: &str) -> String {
        let now = START.unix_seconds();
        let claims = json!({
            "sub": sub, "aud": "example.org", "txn": format!("t-{sub}"), "scope": "photo.read",
            "req_wl": "spiffe://example.org/photo", "iat": now, "exp": now + 60,
        });
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.key.pkcs8()).unwrap();
        let input = SigningInput::typed(TYPE, Algorithm::Es256, "txn-1", claims.as_object().unwrap());
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    }

    fn tokens(&self) -> TxnTokens {
        TxnTokens::new(domain("example.org"), vec![JwtAuthority::new("txn-1", &self.key.spki()).unwrap()]).unwrap()
    }

    fn user(&self, sub: &str) -> OnBehalfOf {
        self.tokens().verify(&self.token(sub), START).unwrap()
    }

    /// Serves over mutual TLS as `/path`; gives the address.
    async fn serve(&self, path: &str, routes: impl FnOnce(Routes) -> Protected) -> String {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let authenticators =
            Authenticators::builder(domain("example.org"), self.identity(path)).x509().build().unwrap();
        let limits = Limits::new(Quotas::in_memory(), Arc::clone(&clock));
        let authorization = Authorization::builder(authenticators, limits, clock)
            .service(self.authority.id(path))
            .record_to(self.seen.clone())
            .users(self.tokens())
            .build();
        authorization.replace_policy(Policy::parse(POLICY, &domain("example.org"), START).unwrap().policy).unwrap();
        let callers = PeerSet::parse(["spiffe://example.org/**"]).unwrap();
        let acceptor = Acceptor::new(&self.identity(path), callers, AcceptorOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = routes(Routes::new(authorization));
        let incoming = TlsIncoming::new(listener, &acceptor);
        self.tasks.lock().unwrap().push(tokio::spawn(serve(
            incoming,
            service,
            ServeOptions::default(),
            self.stop.clone(),
        )));
        address
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks.into_inner().unwrap() {
            task.await.unwrap();
        }
    }
}

type Next = UserClient<HttpClient<Empty<Bytes>>>;

async fn ask(client: &Next, uri: &str) -> Result<(StatusCode, String), String> {
    let answer =
        client.request(Request::get(uri).body(Empty::new()).unwrap()).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    Ok((status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()))
}

async fn blob(user: Option<OnBehalfOf>) -> String {
    user.map_or_else(|| "nobody".to_owned(), |user| user.sub().to_owned())
}

/// The middle of the chain. Each way of asking blob is a path of its own.
async fn image(axum::extract::Path(how): axum::extract::Path<String>, next: Next, uri: String) -> Response<Body> {
    let asked = match how.as_str() {
        "plain" => ask(&next, &uri).await,
        "spawned" => spawn(async move { ask(&next, &uri).await }).await.unwrap(),
        "lost" => tokio::spawn(async move { ask(&next, &uri).await }).await.unwrap(),
        "own" => tokio::spawn(for_nobody(async move { ask(&next, &uri).await })).await.unwrap(),
        "required" => ask(&next.require_user(), &uri).await,
        // The body of the answer is made after the handler has returned.
        "streamed" => {
            let body = futures_once(async move { ask(&next, &uri).await.unwrap().1 });
            return Response::new(body);
        }
        other => panic!("{other}"),
    };
    match asked {
        Ok((_, text)) => Response::new(Body::from(text)),
        Err(error) => Response::builder().status(502).body(Body::from(error)).unwrap(),
    }
}

/// A body of one piece that is made when it is asked for.
fn futures_once(future: impl Future<Output = String> + Send + 'static) -> Body {
    struct Once(Pin<Box<dyn Future<Output = String> + Send>>, bool);

    impl http_body::Body for Once {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            if self.1 {
                return std::task::Poll::Ready(None);
            }
            let text = std::task::ready!(self.0.as_mut().poll(cx));
            self.1 = true;
            std::task::Poll::Ready(Some(Ok(http_body::Frame::data(text.into()))))
        }
    }

    Body::new(Once(Box::pin(future), false))
}

#[tokio::test]
async fn a_user_goes_along_the_chain_and_is_never_lost_silently() {
    let world = World::new();
    let blob_at = world.serve("/blob", |routes| routes.route(Method::Get, "/{what}", blob).into_service()).await;
    let uri = format!("https://{blob_at}/x");
    let next: Next =
        UserClient::http(world.connector("/image", "spiffe://example.org/blob"), &format!("https://{blob_at}"))
            .unwrap();
    let image_at = world
        .serve("/image", |routes| {
            let handler = move |how, State(()): State<()>| image(how, next.clone(), uri.clone());
            routes.route(Method::Get, "/{what}", handler).into_service()
        })
        .await;
    let origin = format!("https://{image_at}");
    let photo: Next = UserClient::http(world.connector("/photo", "spiffe://example.org/image"), &origin).unwrap();
    let lost = "outside of any request";
    for (how, user, status, text) in [
        ("plain", Some("charlie"), 200, "charlie"),
        ("plain", None, 200, "nobody"),
        ("spawned", Some("charlie"), 200, "charlie"),
        ("spawned", None, 200, "nobody"),
        ("streamed", Some("charlie"), 200, "charlie"),
        ("lost", Some("charlie"), 502, lost),
        ("lost", None, 502, lost),
        ("own", Some("charlie"), 200, "nobody"),
        ("required", Some("charlie"), 200, "charlie"),
        ("required", None, 502, "for users only"),
    ] {
        world.seen.0.lock().unwrap().clear();
        let context = user.map(|user| world.user(user));
        let answer = within(context, ask(&photo, &format!("{origin}/{how}"))).await.unwrap();
        assert!(answer.0.as_u16() == status && answer.1.contains(text), "{how} for {user:?}: {answer:?}");
        let seen = world.seen.0.lock().unwrap().clone();
        let of = |user: &str| if user == "-" { "- -".to_owned() } else { format!("{user} t-{user}") };
        let mut expected = vec![format!("/photo /image {}", of(user.unwrap_or("-")))];
        if status == 200 {
            expected.push(format!("/image /blob {}", of(if text == "nobody" { "-" } else { text })));
        }
        assert_eq!(seen, expected, "{how}: the records of both services have the transaction");
    }
    world.stop().await;
}

/// Where a token does not go: another origin, another trust domain, anywhere without a context; and none is replaced.
#[tokio::test]
async fn a_token_leaves_for_the_own_trust_domain_alone() {
    let world = World::new();
    let address = world.serve("/blob", |routes| routes.route(Method::Get, "/{what}", blob).into_service()).await;
    let origin = format!("https://{address}");
    let client = |expected: &str| -> Next { UserClient::http(world.connector("/image", expected), &origin).unwrap() };
    let blob = client("spiffe://example.org/blob");
    let (uri, user) = (format!("{origin}/x"), || Some(world.user("charlie")));

    let expect = async |client: &Next, request: Request<Empty<Bytes>>, expected: &str| {
        let error = within(user(), client.request(request)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error:?}").contains(&world.token("charlie")[..40]), "{error:?}");
    };
    let get = |uri: &str| Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    // What a redirect would ask for, a look-alike, and plain text.
    for other in [
        "https://elsewhere.example/x".to_owned(),
        format!("https://{address}0/x"),
        format!("http://{address}/x"),
        format!("https://user@{address}/x"),
        "/x".to_owned(),
    ] {
        expect(&blob, get(&other), "not for there").await;
    }
    expect(&client("spiffe://example.com/blob"), get(&uri), "the servers are of `example.com`").await;
    // Verified, but somebody else of the own domain: the connector refuses, nothing is sent.
    let error = within(user(), client("spiffe://example.org/other").request(get(&uri))).await.unwrap_err();
    assert!(world.seen.0.lock().unwrap().is_empty(), "{error}");
    let mut request = get(&uri);
    request.headers_mut().insert("txn-token", world.token("dora").parse().unwrap());
    expect(&blob, request, "another `Txn-Token`").await;
    let mut request = get(&uri);
    request.headers_mut().insert("txn-token", world.token("charlie").parse().unwrap());
    assert!(for_nobody(blob.request(request)).await.unwrap_err().to_string().contains("another `Txn-Token`"));
    assert!(ask(&blob, &uri).await.unwrap_err().contains("outside of any request"));

    // Ended meanwhile: a call that a slow handler makes too late.
    let late = user();
    world.clock.advance(std::time::Duration::from_secs(90));
    let error = within(late, blob.request(get(&uri))).await.unwrap_err();
    assert!(error.to_string().contains("ended at"), "{error}");
    assert!(world.seen.0.lock().unwrap().is_empty());
    assert!(to_bytes(Body::empty(), 1).await.is_ok());
    world.stop().await;
}

#[tokio::test]
async fn clients_that_could_come_to_strangers_are_not_made() {
    let world = World::new();
    let connector = |expected: &[&str]| {
        let expected = PeerSet::parse(expected).unwrap();
        Connector::new(&world.identity("/image"), expected, ConnectorOptions::default()).unwrap()
    };
    let own = ["spiffe://example.org/blob"];
    for (expected, origin, good) in [
        (&own[..], "https://blob:8443", true),
        (&own[..], "https://blob:8443/", true),
        (&["spiffe://example.org/a", "spiffe://example.org/b/*"][..], "https://blob", true),
        (&["spiffe://example.org/a", "spiffe://example.com/b"][..], "https://blob", false),
        (&["spiffe://example.org/**", "spiffe://example.com/**"][..], "https://blob", false),
        (&own[..], "http://blob:8443", false),
        (&own[..], "https://blob:8443/path", false),
        (&own[..], "https://me@blob:8443", false),
        (&own[..], "blob:8443", false),
        (&own[..], "", false),
    ] {
        let made: Result<Next, _> = UserClient::http(connector(expected), origin);
        assert_eq!(made.is_ok(), good, "{expected:?} {origin}: {made:?}");
    }
    #[derive(Debug)]
    struct Changing;
    impl crate::tls::Members for Changing {
        fn contains(&self, _: &crate::spiffe::SpiffeId) -> bool {
            true
        }
    }
    let changing = PeerSet::members(Arc::new(Changing));
    let connector = Connector::new(&world.identity("/image"), changing, ConnectorOptions::default()).unwrap();
    let made: Result<Next, _> = UserClient::http(connector, "https://blob");
    assert!(matches!(made, Err(UserClientError::Servers { .. })));
}

/// Issue 5 §3: a server with a certificate of the public web's, and a redirect to it. Neither gets a byte of a request.
#[tokio::test]
async fn a_public_tls_host_and_a_redirect_get_no_token() {
    let world = World::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let public = format!("https://{}", listener.local_addr().unwrap());
    let (came, asked) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Vec::new())));
    let serving = tokio::spawn({
        let (came, asked) = (Arc::clone(&came), Arc::clone(&asked));
        async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                *came.lock().unwrap() += 1;
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut read = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut read).await;
                asked.lock().unwrap().extend(read);
            }
        }
    });
    let user = || Some(world.user("charlie"));
    let client: Next = UserClient::http(world.connector("/image", "spiffe://example.org/blob"), &public).unwrap();
    within(user(), ask(&client, &format!("{public}/x"))).await.unwrap_err();
    assert_eq!(*came.lock().unwrap(), 1, "it was connected to, and refused in the handshake");

    let to = format!("{public}/x");
    let address = world
        .serve("/blob", |routes| {
            let redirect = async move || (StatusCode::TEMPORARY_REDIRECT, [("location", to)]);
            routes.route(Method::Get, "/{what}", redirect).into_service()
        })
        .await;
    let origin = format!("https://{address}");
    let client: Next = UserClient::http(world.connector("/image", "spiffe://example.org/blob"), &origin).unwrap();
    let answer = within(user(), ask(&client, &format!("{origin}/x"))).await.unwrap();
    assert_eq!(answer.0, StatusCode::TEMPORARY_REDIRECT, "a redirect is an answer");
    assert_eq!((*came.lock().unwrap(), asked.lock().unwrap().len()), (1, 0));
    serving.abort();
    world.stop().await;
}

#[cfg(all(feature = "tonic", feature = "workload-api"))]
mod grpc {
    use std::task::{Context, Poll};

    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::generated::tokens::{FindKeyRequest, FindKeyResponse};

    /// A service that keeps the tokens that come with calls.
    #[derive(Clone, Default)]
    struct Blobs(Arc<Mutex<Vec<String>>>);

    impl tonic::server::NamedService for Blobs {
        const NAME: &'static str = "blob.v1.Blobs";
    }

    impl tower_service::Service<Request<Body>> for Blobs {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let user = request.extensions().get::<OnBehalfOf>();
            let token = user.map_or_else(|| "nobody".to_owned(), |user| user.expose_token().to_owned());
            self.0.lock().unwrap().push(token);
            let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
            std::future::ready(Ok(response.body(Body::empty()).unwrap()))
        }
    }

    fn descriptor() -> Vec<u8> {
        let method = prost_types::MethodDescriptorProto { name: Some("Get".into()), ..Default::default() };
        let service = prost_types::ServiceDescriptorProto {
            name: Some("Blobs".into()),
            method: vec![method],
            ..Default::default()
        };
        let file = prost_types::FileDescriptorProto {
            package: Some("blob.v1".into()),
            service: vec![service],
            ..Default::default()
        };
        prost::Message::encode_to_vec(&prost_types::FileDescriptorSet { file: vec![file] })
    }

    /// What became of a call; the service answers with nothing, which a client of its own would miss.
    async fn call(client: &UserClient<Channel>) -> String {
        let mut grpc = tonic::client::Grpc::new(client.clone());
        if let Err(error) = grpc.ready().await {
            return error.to_string();
        }
        let codec = tonic_prost::ProstCodec::<FindKeyRequest, FindKeyResponse>::default();
        let path = http::uri::PathAndQuery::from_static("/blob.v1.Blobs/Get");
        match grpc.unary(tonic::Request::new(FindKeyRequest::default()), path, codec).await {
            Ok(_) => "answered".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    }

    /// The token is read where the call is made, before the channel, which connects later and in a task of its own.
    #[tokio::test]
    async fn a_user_goes_along_with_calls_over_grpc() {
        let world = World::new();
        let blobs = Blobs::default();
        let kept = || std::mem::take(&mut *blobs.0.lock().unwrap());
        let service = blobs.clone();
        let address = world.serve("/blob", |routes| routes.grpc(service, &descriptor()).unwrap().into_service()).await;
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        let client = |expected: &str| UserClient::grpc(world.connector("/image", expected), &endpoint).unwrap();
        let blob = client("spiffe://example.org/blob");
        let (charlie, dora) = (world.user("charlie"), world.user("dora"));
        let user = |user: &OnBehalfOf| Some(user.clone());
        within(user(&charlie), call(&blob)).await;
        assert_eq!(kept(), [charlie.expose_token()], "unchanged");
        let seen = || std::mem::take(&mut *world.seen.0.lock().unwrap());
        assert_eq!(seen(), ["/image /blob charlie t-charlie"]);
        // One channel, many users at once.
        let (one, other) = (within(user(&charlie), call(&blob)), within(user(&dora), call(&blob)));
        tokio::join!(one, other, for_nobody(call(&blob)));
        let mut tokens = kept();
        tokens.sort();
        let mut expected = [charlie.expose_token(), dora.expose_token(), "nobody"];
        expected.sort_unstable();
        assert_eq!(tokens, expected);
        seen();
        for (answer, expected) in [
            (call(&blob).await, "outside of any request"),
            (for_nobody(call(&blob.clone().require_user())).await, "for users only"),
            (
                within(user(&charlie), call(&client("spiffe://example.com/blob"))).await,
                "the servers are of `example.com`",
            ),
        ] {
            assert!(answer.contains(expected), "{answer}");
        }
        // Verified, and not whom it expects.
        within(user(&charlie), call(&client("spiffe://example.org/other"))).await;
        assert!(kept().is_empty() && seen().is_empty());
        drop(blob);
        world.stop().await;
    }
}
