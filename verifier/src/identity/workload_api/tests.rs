//! Against a Workload API that does as the test says, over a Unix socket and real gRPC.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::Message;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::*;
use crate::{
    clock::SystemClock,
    generated::workload::{
        JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidResponse, X509svid,
        X509svidResponse,
    },
    serve::{Incoming, PrepareError, Prepared, ServeOptions, serve},
    tls::fixtures::Authority,
    x509::X509Svid,
};

/// One call that the fake received, to be answered by the test.
struct Call {
    method: String,
    header: Option<String>,
    message: Bytes,
    answer: oneshot::Sender<mpsc::UnboundedReceiver<Event>>,
}

enum Event {
    Message(Vec<u8>),
    End(Code, &'static str),
}

impl Call {
    /// Begins to answer; what is sent goes out at once.
    fn answer(self) -> mpsc::UnboundedSender<Event> {
        let (send, events) = mpsc::unbounded_channel();
        let _ = self.answer.send(events);
        send
    }

    fn refuse(self, code: Code, message: &'static str) {
        self.answer().send(Event::End(code, message)).unwrap();
    }
}

struct Events(mpsc::UnboundedReceiver<Event>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| {
            Some(Ok(match event? {
                Event::Message(message) => {
                    let mut frame = BytesMut::new();
                    frame.put_u8(0);
                    frame.put_u32(u32::try_from(message.len()).unwrap());
                    frame.put_slice(&message);
                    Frame::data(frame.freeze())
                }
                Event::End(code, message) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", i32::from(code).into());
                    trailers.insert("grpc-message", message.parse().unwrap());
                    Frame::trailers(trailers)
                }
            }))
        })
    }
}

#[derive(Clone)]
struct Fake(mpsc::UnboundedSender<Call>);

impl tower_service::Service<http::Request<hyper::body::Incoming>> for Fake {
    type Response = Response<Events>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let calls = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let message = body.collect().await.unwrap().to_bytes().slice(5..);
            let method = parts.uri.path().trim_start_matches("/SpiffeWorkloadAPI/").to_owned();
            let header = parts.headers.get("workload.spiffe.io").map(|value| value.to_str().unwrap().to_owned());
            let (answer, answered) = oneshot::channel();
            let _ = calls.send(Call { method, header, message, answer });
            let events = match answered.await {
                Ok(events) => events,
                Err(_) => mpsc::unbounded_channel().1,
            };
            Ok(Response::builder().header("content-type", "application/grpc").body(Events(events)).unwrap())
        })
    }
}

struct Unix(UnixListener);

impl Incoming for Unix {
    type Raw = UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }

    async fn prepare(&self, raw: UnixStream) -> Result<Prepared<UnixStream>, PrepareError> {
        Ok(Prepared::new(raw))
    }
}

struct World {
    authority: Authority,
    calls: mpsc::UnboundedReceiver<Call>,
    endpoint: Endpoint,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (send, calls) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        tokio::spawn(serve(Unix(listener), Fake(send), ServeOptions::default(), stop.clone()));
        let endpoint = Endpoint::parse(&format!("unix://{}", path.display())).unwrap();
        Self { authority: Authority::new("example.org"), calls, endpoint, _folder: folder, _stop: stop.drop_guard() }
    }

    fn api(&self) -> WorkloadApi {
        let options = WorkloadApiOptions {
            jwt_bundles: false,
            shortest_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(20),
            message_bytes: 64 * 1024,
            ..WorkloadApiOptions::default()
        };
        WorkloadApi::with_options(self.endpoint.clone(), options)
    }

    async fn call(&mut self, method: &str) -> Call {
        let call = timeout(Duration::from_secs(10), self.calls.recv()).await.expect("a call comes").unwrap();
        assert_eq!(call.method, method);
        assert_eq!(call.header.as_deref(), Some("true"), "WEP-05");
        call
    }

    /// A clock of the time of the fixtures, which the system's is not.
    fn clock() -> Arc<dyn Clock> {
        #[derive(Debug)]
        struct Shifted(SystemClock, crate::clock::Timestamp);
        impl Clock for Shifted {
            fn now(&self) -> crate::clock::Timestamp {
                crate::tls::fixtures::START.saturating_add(self.0.now().since(self.1))
            }
            fn boot(&self) -> Duration {
                self.0.boot()
            }
            fn sleep_until(&self, at: crate::clock::Timestamp) -> crate::clock::Sleep<'_> {
                self.0.sleep_for(at.since(self.now()))
            }
            fn sleep_for(&self, duration: Duration) -> crate::clock::Sleep<'_> {
                self.0.sleep_for(duration)
            }
        }
        Arc::new(Shifted(SystemClock, SystemClock.now()))
    }

    fn state(&self, svids: &[&X509Svid]) -> Event {
        let svids = svids
            .iter()
            .map(|svid| X509svid {
                spiffe_id: svid.id().to_string(),
                x509_svid: svid.chain_der_concatenated(),
                x509_svid_key: svid.expose_secret().to_vec(),
                bundle: self.authority.root_der(),
                hint: String::new(),
            })
            .collect();
        let message = X509svidResponse { svids, crl: Vec::new(), federated_bundles: HashMap::new() };
        Event::Message(message.encode_to_vec())
    }
}

async fn until(identity: &Identity, what: &str, mut done: impl FnMut(&super::super::Snapshot) -> bool) {
    let mut changes = identity.changes();
    let waited = timeout(Duration::from_secs(10), async {
        while !done(&identity.snapshot()) {
            changes.next().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

fn serial(snapshot: &super::super::Snapshot) -> Option<crate::x509::SerialNumber> {
    snapshot.svid().map(X509Svid::serial)
}

#[tokio::test]
async fn wapi_03_an_identity_follows_its_stream_and_reconnects() {
    let mut world = World::new();
    let identity = Identity::spawn(&world.api(), World::clock());
    let first = world.authority.svid("/web", 3_600);
    let stream = world.call("FetchX509SVID").await.answer();
    stream.send(world.state(&[&first])).unwrap();
    let ready = identity.ready(Duration::from_secs(10)).await.unwrap();
    assert_eq!(serial(&ready), Some(first.serial()));
    assert_eq!(ready.bundles().len(), 1);
    let second = world.authority.svid("/web", 3_600);
    stream.send(world.state(&[&second])).unwrap();
    until(&identity, "a renewal", |now| serial(now) == Some(second.serial())).await;

    // The stream ends, then the API fails for a while: what was good stays.
    stream.send(Event::End(Code::Ok, "")).unwrap();
    for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::ResourceExhausted] {
        world.call("FetchX509SVID").await.refuse(code, "not now");
    }
    let stream = world.call("FetchX509SVID").await.answer();
    assert_eq!(serial(&identity.snapshot()), Some(second.serial()));
    let (_, why) = identity.source().last_failure().unwrap();
    assert!(why.contains("not now"), "{why}");
    let third = world.authority.svid("/web", 3_600);
    stream.send(world.state(&[&third])).unwrap();
    until(&identity, "the next renewal", |now| serial(now) == Some(third.serial())).await;
    assert!(identity.source().last_failure().is_none());
}

/// A-27: the refusal is waited out, and asked again.
#[tokio::test]
async fn wapi_20_a_35_permission_denied_takes_everything_away_and_is_tried_again() {
    let mut world = World::new();
    let identity = Identity::spawn(&world.api(), World::clock());
    world.call("FetchX509SVID").await.refuse(Code::PermissionDenied, "no identity issued to uid 1000");
    let error = identity.ready(Duration::from_millis(100)).await.unwrap_err().to_string();
    assert!(error.contains("no identity issued to uid 1000"), "the one who waits is told why: {error}");
    let svid = world.authority.svid("/web", 3_600);
    let stream = world.call("FetchX509SVID").await.answer();
    stream.send(world.state(&[&svid])).unwrap();
    until(&identity, "registered meanwhile", |now| now.svid().is_some()).await;
    stream.send(Event::End(Code::PermissionDenied, "removed")).unwrap();
    until(&identity, "redacted", |now| now.svid().is_none() && now.bundles().is_empty()).await;
    let stream = world.call("FetchX509SVID").await.answer();
    stream.send(world.state(&[&svid])).unwrap();
    until(&identity, "and back", |now| now.svid().is_some()).await;
    stream.send(world.state(&[])).unwrap();
    until(&identity, "WAPI-09 no longer listed", |now| now.svid().is_none()).await;
}

#[tokio::test]
async fn wep_15_invalid_argument_is_not_tried_again() {
    let mut world = World::new();
    let (identity, driver) = Identity::connect(&world.api(), World::clock());
    let driver = tokio::spawn(driver);
    world.call("FetchX509SVID").await.refuse(Code::InvalidArgument, "header missing");
    assert!(matches!(driver.await.unwrap(), Ended::InvalidArgument { message } if message == "header missing"));
    assert!(identity.snapshot().svid().is_none());
    assert!(timeout(Duration::from_millis(200), world.calls.recv()).await.is_err(), "nobody calls again");
}

#[tokio::test]
async fn f_16_a_message_beyond_the_bound_or_without_its_fields_changes_nothing() {
    let mut world = World::new();
    let identity = Identity::spawn(&world.api(), World::clock());
    let svid = world.authority.svid("/web", 3_600);
    let stream = world.call("FetchX509SVID").await.answer();
    stream.send(world.state(&[&svid])).unwrap();
    until(&identity, "good", |now| now.svid().is_some()).await;
    let failures = identity.source().failures();
    let incomplete = X509svidResponse { svids: vec![X509svid::default()], ..X509svidResponse::default() };
    stream.send(Event::Message(incomplete.encode_to_vec())).unwrap();
    stream.send(Event::Message(vec![0xff; 32])).unwrap();
    let stream = world.call("FetchX509SVID").await.answer();
    stream.send(Event::Message(vec![0; 64 * 1024 + 1])).unwrap();
    let stream = world.call("FetchX509SVID").await.answer();
    assert!(identity.source().failures() >= failures + 3);
    assert_eq!(serial(&identity.snapshot()), Some(svid.serial()));
    drop(stream);
}

#[tokio::test]
async fn jwt_bundles_come_beside_and_may_be_missing() {
    let mut world = World::new();
    let mut api = world.api();
    api.options.jwt_bundles = true;
    let identity = Identity::spawn(&api, World::clock());
    let svid = world.authority.svid("/web", 3_600);
    let mut jwt = None;
    let mut x509 = None;
    for _ in 0..2 {
        let call = timeout(Duration::from_secs(10), world.calls.recv()).await.unwrap().unwrap();
        match call.method.as_str() {
            "FetchX509SVID" => {
                let stream = call.answer();
                stream.send(world.state(&[&svid])).unwrap();
                x509 = Some(stream);
            }
            _ => jwt = Some(call),
        }
    }
    let keys = |count: usize| {
        let key = |number| {
            format!(
                r#"{{"kty":"EC","kid":"k{number}","crv":"P-256","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}}"#
            )
        };
        let keys: Vec<_> = (0..count).map(key).collect();
        let bundles = HashMap::from([(
            "spiffe://example.org".to_owned(),
            format!(r#"{{"keys":[{}]}}"#, keys.join(",")).into_bytes(),
        )]);
        Event::Message(JwtBundlesResponse { bundles }.encode_to_vec())
    };
    let count = |now: &super::super::Snapshot| {
        now.bundles().get(&world.authority.trust_domain).map_or(0, |bundle| bundle.jwt_authorities().len())
    };
    let stream = jwt.unwrap().answer();
    stream.send(keys(2)).unwrap();
    until(&identity, "both kinds", |now| now.svid().is_some() && count(now) == 2).await;
    stream.send(keys(1)).unwrap();
    until(&identity, "a key less", |now| count(now) == 1).await;
    stream.send(Event::End(Code::PermissionDenied, "")).unwrap();
    until(&identity, "redacted, the SVID not touched", |now| now.svid().is_some() && count(now) == 0).await;
    let call = timeout(Duration::from_secs(10), world.calls.recv()).await.unwrap().unwrap();
    assert_eq!(call.method, "FetchJWTBundles");
    call.refuse(Code::Unimplemented, "no JWT here");
    assert!(timeout(Duration::from_millis(200), world.calls.recv()).await.is_err(), "not asked again");
    assert!(identity.snapshot().svid().is_some());
    drop(x509);
}

#[tokio::test]
async fn jwt_svids_are_fetched_and_validated() {
    let mut world = World::new();
    let (api, id) = (world.api(), world.authority.id("/web"));
    let fetching = tokio::spawn({
        let (api, id) = (api.clone(), id.clone());
        async move { api.fetch_jwt_svid("spiffe://example.org/db", Some(&id)).await }
    });
    let call = world.call("FetchJWTSVID").await;
    let request = JwtsvidRequest::decode(call.message.clone()).unwrap();
    assert_eq!(
        (request.audience.as_slice(), request.spiffe_id),
        (&["spiffe://example.org/db".to_owned()][..], id.to_string())
    );
    let svid = Jwtsvid { spiffe_id: id.to_string(), svid: "a.secret.token".to_owned(), hint: "h".to_owned() };
    let answer = JwtsvidResponse { svids: vec![svid] }.encode_to_vec();
    let stream = call.answer();
    stream.send(Event::Message(answer)).unwrap();
    stream.send(Event::End(Code::Ok, "")).unwrap();
    let svid = fetching.await.unwrap().unwrap();
    assert_eq!((svid.id(), svid.expose_secret(), svid.hint()), (&id, "a.secret.token", Some("h")));
    assert!(!format!("{svid:?}").contains("secret"));

    let validating = tokio::spawn({
        let api = api.clone();
        async move { api.validate_jwt_svid("me", "a.b.c").await }
    });
    let claims = prost_types::Struct {
        fields: [
            ("exp".to_owned(), prost_types::value::Kind::NumberValue(1_800_000_000.0)),
            ("sub".to_owned(), prost_types::value::Kind::StringValue(id.to_string())),
        ]
        .into_iter()
        .map(|(name, kind)| (name, prost_types::Value { kind: Some(kind) }))
        .collect(),
    };
    let answer = ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims: Some(claims) }.encode_to_vec();
    let stream = world.call("ValidateJWTSVID").await.answer();
    stream.send(Event::Message(answer)).unwrap();
    stream.send(Event::End(Code::Ok, "")).unwrap();
    let validated = validating.await.unwrap().unwrap();
    assert_eq!((validated.id, &validated.claims["exp"]), (id, &serde_json::json!(1_800_000_000)));

    let refused = tokio::spawn(async move { api.validate_jwt_svid("me", "a.b.c").await });
    world.call("ValidateJWTSVID").await.refuse(Code::InvalidArgument, "expired");
    assert!(
        matches!(refused.await.unwrap(), Err(WorkloadApiError::InvalidArgument { message }) if message == "expired")
    );
}

#[tokio::test]
async fn wapi_11_answers_that_lack_something_or_are_for_others_are_refused() {
    let mut world = World::new();
    let (api, id) = (world.api(), world.authority.id("/web"));
    let svid =
        |id: &str, token: &str| Jwtsvid { spiffe_id: id.to_owned(), svid: token.to_owned(), hint: String::new() };
    for (svids, what) in [
        (vec![], "nothing"),
        (vec![svid("", "t")], "no id"),
        (vec![svid(id.as_str(), "")], "no token"),
        (vec![svid("https://x", "t")], "no SPIFFE ID"),
        (vec![svid("spiffe://example.org/other", "t")], "another's"),
    ] {
        let fetching = tokio::spawn({
            let (api, id) = (api.clone(), id.clone());
            async move { api.fetch_jwt_svids(&["a"], Some(&id)).await }
        });
        let stream = world.call("FetchJWTSVID").await.answer();
        stream.send(Event::Message(JwtsvidResponse { svids }.encode_to_vec())).unwrap();
        stream.send(Event::End(Code::Ok, "")).unwrap();
        assert!(fetching.await.unwrap().is_err(), "{what}");
    }
}

#[tokio::test]
async fn an_api_that_is_not_there_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let endpoint = Endpoint::parse(&format!("unix://{}", path.display())).unwrap();
    let mut world = World::new();
    let mut api = world.api();
    api.endpoint = endpoint;
    let identity = Identity::spawn(&api, World::clock());
    let error = identity.ready(Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(error.contains("agent.sock") || error.contains("unavailable"), "{error}");
    let listener = UnixListener::bind(&path).unwrap();
    let (send, calls) = mpsc::unbounded_channel();
    tokio::spawn(serve(Unix(listener), Fake(send), ServeOptions::default(), CancellationToken::new()));
    world.calls = calls;
    let svid = world.authority.svid("/web", 3_600);
    let stream = world.call("FetchX509SVID").await.answer();
    stream.send(world.state(&[&svid])).unwrap();
    assert!(identity.ready(Duration::from_secs(10)).await.is_ok());
}
