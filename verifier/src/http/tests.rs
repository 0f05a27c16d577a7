#![cfg(all(feature = "axum", feature = "policy-file"))]

#[cfg(all(feature = "serve", feature = "jwt", feature = "tonic", feature = "cedar"))]
mod lasting;
#[cfg(all(feature = "serve", feature = "jwt", feature = "tonic", feature = "cedar"))]
mod parity;
#[cfg(all(feature = "serve", feature = "jwt", feature = "tonic", feature = "cedar"))]
mod raw_h2;
#[cfg(feature = "serve")]
mod sockets;
#[cfg(all(feature = "serve", feature = "jwt", feature = "tonic", feature = "cedar"))]
mod tracks;
#[cfg(all(feature = "serve", feature = "jwt", feature = "tonic", feature = "cedar"))]
mod traps;
#[cfg(feature = "jwt")]
mod users;

use std::{
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::axum::{
    body::{Body, to_bytes},
    extract::Path,
    http::{HeaderMap, Request, Response, StatusCode},
    routing::get,
};
use tower_layer::Layer as _;
use tower_service::Service;

use super::*;
use crate::{
    api_key::ApiKey,
    authenticate::Authenticators,
    authorization::Refused,
    caller::{Caller, Roles},
    clock::{Clock, ManualClock, Timestamp},
    identity::Identity,
    key_records::{KeyRecord, KeyRecords, Keyed, MOST_LIFETIME, Secrets},
    limits::{Limits, Quotas},
    policy::{Facts, Method, Policy},
    record::{Outcome, Record, RecordSink},
    spiffe::{SpiffeId, TrustDomain},
};

const NOW: i64 = 1_800_000_000;

/// What was recorded, a line each.
#[derive(Debug, Default)]
struct Lines(Mutex<Vec<String>>);

impl RecordSink for Lines {
    fn record(&self, record: &Record<'_>) {
        let caller = record.caller.map_or("-", |caller| caller.service().map_or(caller.id().as_str(), SpiffeId::path));
        let shadow = record.shadow.map_or(String::new(), |shadow| format!(" would-be {}", shadow.outcome.as_str()));
        let user =
            record.user.map_or(String::new(), |user| format!(" for {user} in {}", record.transaction.unwrap_or("-")));
        let line = format!(
            "{} {caller}{user} {} {}{shadow}",
            record.outcome.as_str(),
            record.operation,
            if record.outcome == Outcome::Allowed { record.rule.unwrap_or("-") } else { record.reason },
        );
        self.0.lock().unwrap().push(line);
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Rig {
    authorization: Authorization,
    lines: Arc<Lines>,

    clock: Arc<ManualClock>,
    /// Of `/export` and of `/photo`.
    keys: Vec<(&'static str, String)>,
}

fn policy(text: &str) -> Policy {
    let accept = "version = 1\n[accept]\napi-key = { until = 2027-03-31 }\n";
    let at = Timestamp::from_unix_seconds(NOW);
    Policy::parse(&format!("{accept}{text}"), &TrustDomain::parse("example.org").unwrap(), at).unwrap().policy
}

impl Rig {
    fn new(rules: &str) -> Self {
        Self::with(rules, |builder| builder)
    }

    fn with(rules: &str, more: impl FnOnce(crate::authorization::Builder) -> crate::authorization::Builder) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(NOW)));
        let domain = TrustDomain::parse("example.org").unwrap();
        let mut keys = Vec::new();
        let records: Vec<KeyRecord> = ["/export", "/photo"]
            .map(|path| {
                let id: Arc<str> = path.trim_start_matches('/').into();
                let key = ApiKey::generate(&format!("{id}.1")).unwrap();
                keys.push((path, key.expose_secret().to_string()));
                KeyRecord {
                    owner: SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap(),
                    audience: "spiffe://example.org/config".into(),
                    subject: "x".into(),
                    roles: Roles::default(),
                    most_lifetime: MOST_LIFETIME,
                    expires_at: Timestamp::from_unix_seconds(NOW + 1000),
                    secrets: Secrets::ApiKey(vec![Keyed {
                        key_id: key.key_id().into(),
                        secret: key.hash(),
                        created_at: Timestamp::from_unix_seconds(NOW - 1000),
                    }]),
                    id,
                }
            })
            .into();
        let records = KeyRecords::new(domain.clone(), records).unwrap();
        let shared: Arc<dyn Clock> = clock.clone();
        let (identity, _publisher) = Identity::published(Arc::clone(&shared));
        let authenticators = Authenticators::builder(domain, identity)
            .audience("spiffe://example.org/config")
            .x509()
            .key_records(records)
            .build()
            .unwrap();
        let lines = Arc::new(Lines::default());
        let limits = Limits::new(Quotas::in_memory(), Arc::clone(&shared));
        let builder = Authorization::builder(authenticators, limits, shared).record_to(lines.clone());
        let authorization = more(builder).build();
        authorization.replace_policy(policy(rules)).unwrap();
        Self { authorization, lines, clock, keys }
    }

    fn key(&self, of: &str) -> String {
        let (_, key) = self.keys.iter().find(|(path, _)| *path == of).unwrap();
        format!("ApiKey {key}")
    }

    fn request(&self, method: &str, uri: &str) -> Request<Body> {
        let request = Request::builder().method(method).uri(uri).header("authorization", self.key("/export"));
        request.body(Body::empty()).unwrap()
    }

    fn service(&self) -> Protected {
        Routes::new(self.authorization.clone())
            .route(Method::Get, "/v1/config/{key}", read)
            .route(Method::Put, "/v1/images/{id}", change)
            .route(Method::Put, "/v1/forgetful/{id}", read)
            .raw(|router| {
                router.route("/late", get(async || "late")).route("/v1/config/{key}/late", get(async || "late"))
            })
            .into_service()
    }
}

async fn read(caller: Caller, Path(key): Path<String>) -> String {
    format!("{} {key}", caller.service().unwrap().path())
}

async fn change(grant: Grant, Path(id): Path<String>) -> Result<String, Refused> {
    grant.check(&Facts::default().with("owner", id.as_str()))?;
    Ok("changed".to_owned())
}

const RULES: &str = r#"
[[allow]]
name = "read"
callers = ["/export"]
http = ["GET /v1/config/{key}", "GET /late", "GET /v1/config/{key}/late"]
proof = "api-key"
"#;

async fn send<S, B>(service: &S, request: Request<Body>) -> (StatusCode, HeaderMap, String)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<::axum::BoxError>,
{
    let Ok(response) = service.clone().call(request).await;
    let (head, body) = response.into_parts();
    let body = to_bytes(Body::new(body), 65_536).await.unwrap();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn who_may_gets_through_and_the_handler_knows_who() {
    let rig = Rig::new(RULES);
    let service = rig.service();
    let (status, _, body) = send(&service, rig.request("GET", "/v1/config/a?x=1")).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "/export a"));
    // HEAD goes where GET goes (trap 4).
    let (status, ..) = send(&service, rig.request("HEAD", "/v1/config/a")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        rig.lines.take(),
        ["allowed /export GET /v1/config/{key} read", "allowed /export HEAD /v1/config/{key} read"]
    );
    let edges = rig.authorization.edges().list();
    assert_eq!(edges.len(), 2);
    assert_eq!((edges[0].key.proof, edges[0].key.operation.as_str()), ("api-key", "GET /v1/config/{key}"));
}

/// `authorization.md` §4.1: what each kind of refusal looks like; T-27 and the traps of §5 with what a test can send without a socket.
#[tokio::test]
async fn t_27_refusals_over_http() {
    let rig = Rig::new(RULES);
    let service = rig.service();
    let plain = |uri: &str| rig.request("GET", uri);
    let with = |uri: &str, name: &'static str, value: &str| {
        let mut request = rig.request("GET", uri);
        request.headers_mut().append(name, value.parse().unwrap());
        request
    };
    let mut nobody = plain("/v1/config/a");
    nobody.headers_mut().clear();
    let mut basic = plain("/v1/config/a");
    basic.headers_mut().insert("authorization", "Basic eDp5".parse().unwrap());
    let mut other = plain("/v1/config/a");
    other.headers_mut().insert("authorization", rig.key("/photo").parse().unwrap());
    let mut wrong = plain("/v1/config/a");
    wrong.headers_mut().insert("authorization", format!("{}x", rig.key("/export")).parse().unwrap());
    let cases = [
        ("no credential", nobody, 401, "no-credential"),
        ("another scheme", basic, 401, "scheme"),
        ("a wrong secret", wrong, 401, ""),
        ("another caller", other, 403, "no-rule"),
        ("no route, and a fallback behind our back", plain("/v1/other"), 403, "no-route"),
        ("another method", rig.request("POST", "/v1/config/a"), 403, "undeclared-method"),
        ("a route behind our back", plain("/late"), 500, "undeclared-route"),
        ("one below a declared one", plain("/v1/config/a/late"), 500, "undeclared-route"),
        ("trap 1: an escaped slash", plain("/v1/config/..%2fadmin"), 400, "encoded-slash"),
        ("trap 1: dots", plain("/v1/config/../config/a"), 400, "dot-segment"),
        ("trap 1: escaped dots", plain("/v1/config/%2e%2e"), 400, "dot-segment"),
        ("trap 1: a needless escape", plain("/v1/%63onfig/a"), 400, "needless-escape"),
        ("trap 1: two slashes", plain("//v1/config/a"), 400, "empty-segment"),
        ("trap 1: a slash at the end", plain("/v1/config/a/"), 400, "trailing-slash"),
        ("trap 1: a null byte", plain("/v1/config/%00"), 400, "control"),
        ("trap 4: TRACE", rig.request("TRACE", "/v1/config/a"), 400, "method"),
        ("trap 4: get", rig.request("get", "/v1/config/a"), 400, "method"),
        ("trap 4: an override changes nothing", with("/v1/other", "x-http-method-override", "GET"), 403, "no-route"),
        ("trap 5: two hosts", with("http://one/v1/config/a", "host", "two"), 400, "host-mismatch"),
        (
            "trap 6: two credentials",
            with("/v1/config/a", "authorization", "ApiKey x.y"),
            400,
            "duplicate-credential-header",
        ),
        (
            "trap 7: a good key and a bad token",
            with("/v1/config/a", "authorization", "Bearer x"),
            400,
            "duplicate-credential-header",
        ),
        ("the asterisk", rig.request("OPTIONS", "*"), 400, "no-leading-slash"),
    ];
    for (what, request, expected, reason) in cases {
        let (status, headers, body) = send(&service, request).await;
        assert_eq!(status.as_u16(), expected, "{what}");
        assert_eq!(headers["content-type"], "application/problem+json", "{what}");
        let challenge = headers.get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!(challenge, (expected == 401).then_some("Bearer, ApiKey"), "{what}");
        let document: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["status"], expected, "{what}");
        assert_eq!(document.as_object().unwrap().len(), 3, "{what}: no reason on the wire");
        let lines = rig.lines.take();
        assert_eq!(lines.len(), 1, "{what}: one record");
        assert!(lines[0].ends_with(reason), "{what}: {}", lines[0]);
    }
}

#[tokio::test]
async fn too_much_is_told_when_to_come_back() {
    let rig = Rig::new(&format!("{RULES}limit = \"1/min burst 2\"\n"));
    let service = rig.service();
    for expected in [200, 200, 429] {
        let (status, headers, _) = send(&service, rig.request("GET", "/v1/config/a")).await;
        assert_eq!(status.as_u16(), expected);
        assert_eq!(headers.get("retry-after").map(|value| value.to_str().unwrap()), (expected == 429).then_some("60"));
    }
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(send(&service, rig.request("GET", "/v1/config/a")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn no_policy_is_503_and_a_shadow_policy_never_decides() {
    let rig = Rig::new(RULES);
    let shadow = "mode = \"shadow\"\n";
    let at = Timestamp::from_unix_seconds(NOW);
    let domain = TrustDomain::parse("example.org").unwrap();
    let in_shadow = Policy::parse(&format!("version = 1\n{shadow}"), &domain, at).unwrap().policy;
    assert!(rig.authorization.replace_policy(in_shadow.clone()).is_err());
    rig.authorization.try_beside(Some(in_shadow));
    let (status, ..) = send(&rig.service(), rig.request("GET", "/v1/config/a")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(rig.lines.take(), ["allowed /export GET /v1/config/{key} read would-be denied"]);
}

#[cfg(feature = "cedar")]
#[tokio::test]
async fn a_second_stage_is_asked_or_the_answer_is_500() {
    let rig = Rig::new(
        r#"
[[allow]]
name = "owners"
callers = ["/export"]
http = ["PUT /v1/images/{id}", "PUT /v1/forgetful/{id}"]
proof = "api-key"
when = "resource.owner == \"john\""
"#,
    );
    let service = rig.service();
    for (uri, expected, records) in
        [("/v1/images/john", 200, 2), ("/v1/images/mary", 403, 2), ("/v1/forgetful/john", 500, 2)]
    {
        let (status, ..) = send(&service, rig.request("PUT", uri)).await;
        assert_eq!(status.as_u16(), expected, "{uri}");
        assert_eq!(rig.lines.take().len(), records, "{uri}");
    }
}

#[tokio::test]
async fn grpc_is_what_was_declared_not_what_a_request_says() {
    let rules = r#"
[[allow]]
name = "everything over HTTP"
callers = ["/export"]
http = ["POST /**"]
proof = "api-key"
[[allow]]
name = "get"
callers = ["/photo"]
grpc = ["config.v1.Config/Get"]
proof = "api-key"
"#;
    let rig = Rig::new(rules);
    let inner = tower_service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("inside"))));
    let service = AuthorizationLayer::with_grpc(rig.authorization.clone(), ["config.v1.Config"]).layer(inner);
    let ask = |key: &str, uri: &str, grpc: bool| {
        let mut request = rig.request("POST", uri);
        request.headers_mut().insert("authorization", rig.key(key).parse().unwrap());
        if grpc {
            request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        }
        request
    };
    // A rule about HTTP never lets a gRPC call in, however it is dressed; the refusal is in gRPC's words.
    for grpc in [true, false] {
        let (status, headers, body) = send(&service, ask("/export", "/config.v1.Config/Get", grpc)).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
        assert_eq!(
            (headers["grpc-status"].as_bytes(), headers["content-type"].as_bytes()),
            (&b"7"[..], &b"application/grpc"[..])
        );
        let (_, _, body) = send(&service, ask("/photo", "/config.v1.Config/Get", grpc)).await;
        assert_eq!(body, "inside");
        let (_, headers, _) = send(&service, ask("/photo", "/config.v1.Config/Set", grpc)).await;
        assert_eq!(headers["grpc-status"], "7");
    }
    // T-27, gRPC-Go's CVE-2026-33186: a path that is not canonical is no way around.
    let (_, headers, _) = send(&service, ask("/photo", "/config.v1.Config/Get/", true)).await;
    assert_eq!(headers["grpc-status"], "3");
}

/// A service from a function.
fn tower_service_fn<F, Fut>(function: F) -> Function<F>
where
    F: Fn(Request<Body>) -> Fut + Clone,
{
    Function(function)
}

#[derive(Clone)]
struct Function<F>(F);

impl<F, Fut, B> Service<Request<Body>> for Function<F>
where
    F: Fn(Request<Body>) -> Fut,
    Fut: Future<Output = Result<Response<B>, Infallible>>,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Fut {
        (self.0)(request)
    }
}

/// A stream ends with the credential, and with the rule that allowed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_24_what_lasts_ends_with_its_permission() {
    // A stream that mostly waits, and one that always has the next piece at hand.
    for (how, busy) in [("credential", false), ("policy", false), ("credential", true), ("policy", true)] {
        let rig = Rig::new(RULES);
        let inner =
            tower_service_fn(move |_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Endless { busy }))));
        let mut service = AuthorizationLayer::new(rig.authorization.clone()).layer(inner);
        let Ok(response) = service.call(rig.request("GET", "/v1/config/a")).await;
        let clock = Arc::clone(&rig.clock);
        let authorization = rig.authorization.clone();
        let moving = tokio::spawn(async move {
            if how == "policy" {
                authorization.replace_policy(policy("")).unwrap();
            }
            // In steps so small that the policy is looked at long before the credential ends.
            let step = Duration::from_millis(if how == "policy" { 1 } else { 1000 });
            loop {
                tokio::task::yield_now().await;
                clock.advance(step);
            }
        });
        let error = to_bytes(Body::new(response.into_body()), 10).await.unwrap_err();
        moving.abort();
        assert!(error.to_string().contains("no longer have this"), "{error}");
        let last = rig.lines.take().pop().unwrap();
        let reason = if how == "policy" { "no-rule" } else { "credential-expired" };
        assert!(last.ends_with(reason), "{last}");
    }
}

struct Endless {
    busy: bool,
}

impl Body_ for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.busy { Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::new())))) } else { Poll::Pending }
    }
}

use http_body::Body as Body_;

#[test]
fn the_report_names_every_route_and_who_can_use_it() {
    let rig = Rig::new(RULES);
    let report: Vec<String> = rig.service().report().iter().map(ToString::to_string).collect();
    assert_eq!(
        report,
        [
            "GET /v1/config/{key}: read",
            "PUT /v1/images/{id}: no rule allows it",
            "PUT /v1/forgetful/{id}: no rule allows it",
        ]
    );
    let said = rig.service().start_report(["mutual TLS on [::]:8443", "a socket"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines[..3],
        ["listener: mutual TLS on [::]:8443", "listener: a socket", "route: GET /v1/config/{key}: read"]
    );
    assert_eq!(lines.len(), 5);
}
