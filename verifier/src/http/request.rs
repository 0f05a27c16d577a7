//! From an HTTP request to what is decided on.

use http::{Request, Uri, header};

use super::{
    Grant, GrpcService, Shared,
    grant::{Asked, Undeclared},
};
#[cfg(all(feature = "jwt", feature = "tokio"))]
use crate::user::PresentedUser;
use crate::{
    authenticate::{Presented, SessionUser},
    authorization::{Attempt, Exchanged, Refusal},
    clock::Timestamp,
    policy::{CanonicalPath, Method, Operation},
    record::{RecordedOperation, TraceId},
    tls::Peer,
};

/// As what a request is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    Http,
    Grpc,
}

/// Decides on a request from its head.
pub(super) fn decide<B>(shared: &Shared, request: &Request<B>) -> Result<Grant, (Refusal, Seen)> {
    let authorization = &shared.authorization;
    let at = authorization.clock().now();
    let asked = Asked::new(shared, request);
    let seen = if asked.is_grpc() { Seen::Grpc } else { Seen::Http };
    let refuse =
        |refusal, reason| (authorization.refuse_undecided(at, asked.recorded(), refusal, reason).refusal, seen);

    if let Some(reason) = odd_host(request) {
        return Err(refuse(Refusal::Malformed, reason));
    }
    let Some(method) = Method::parse(request.method().as_str()) else {
        return Err(refuse(Refusal::Malformed, "method"));
    };
    let path = CanonicalPath::parse(request.uri().path()).map_err(|error| refuse(Refusal::Malformed, error.code()))?;
    let operation = operation(&asked, method, path);
    let presented = presented(request, at);
    let trace =
        request.headers().get("traceparent").and_then(|value| value.to_str().ok()).and_then(TraceId::of_traceparent);
    let recorded = asked.recorded();
    let attempt = Attempt { presented, operation, recorded, trace };
    match asked.undeclared(shared, method) {
        None => {}
        Some(Undeclared::Method) => {
            return Err((authorization.refuse_known(&attempt, Refusal::Denied, "undeclared-method").refusal, seen));
        }
        Some(Undeclared::Fallback) => {
            return Err((authorization.refuse_known(&attempt, Refusal::Denied, "no-route").refusal, seen));
        }
        Some(Undeclared::Route) => {
            let path = request.uri().path();
            tracing::error!(path, "a route that nobody declared; declare it where its router is built");
            return Err(refuse(Refusal::Broken, "undeclared-route"));
        }
    }
    let exchanged = request.extensions().get::<Exchanged>();
    match authorization.authorize_exchanged(&attempt, exchanged) {
        Ok(granted) => {
            known(request);
            Ok(Grant::new(authorization.clone(), granted, asked))
        }
        Err(refused) => Err((refused.refusal, seen)),
    }
}

/// The user whose token an edge is to exchange for this request, and the scope that it asks for. See [`super::edge`].
#[cfg(all(feature = "jwt", feature = "tokio"))]
pub(super) fn to_be_exchanged<B>(
    shared: &Shared,
    request: &Request<B>,
    scope: impl Fn(&PresentedUser) -> String,
) -> Option<(PresentedUser, String)> {
    let asked = Asked::new(shared, request);
    let method = Method::parse(request.method().as_str())?;
    let operation = operation(&asked, method, CanonicalPath::parse(request.uri().path()).ok()?);
    let presented = presented(request, shared.authorization.clock().now());
    let attempt = Attempt { presented, operation, recorded: asked.recorded(), trace: None };
    shared.authorization.to_be_exchanged(&attempt, scope)
}

fn operation<'a>(asked: &'a Asked, method: Method, path: CanonicalPath<'a>) -> Operation<'a> {
    match asked.grpc() {
        Some((service, method)) => Operation::Grpc { service: &service.name, method },
        None => Operation::Http { method, path },
    }
}

fn presented<B>(request: &Request<B>, at: Timestamp) -> Presented<'_> {
    Presented {
        connection: match request.extensions().get::<Peer>() {
            Some(Peer::Svid(peer)) => Some(peer),
            Some(Peer::Key(_) | Peer::Anonymous) | None => None,
        },
        session: request.extensions().get::<SessionUser>(),
        headers: request.headers(),
        address: address(request),
        at,
    }
}

/// Who comes without a certificate has no lesser place than others once a request of theirs was allowed.
#[cfg(feature = "serve")]
fn known<B>(request: &Request<B>) {
    if let Some(standing) = request.extensions().get::<crate::serve::Standing>() {
        standing.known();
    }
}

#[cfg(not(feature = "serve"))]
fn known<B>(_: &Request<B>) {}

#[cfg(feature = "serve")]
pub(super) fn address<B>(request: &Request<B>) -> Option<std::net::IpAddr> {
    request.extensions().get::<crate::serve::ConnectionInfo>().map(|info| info.remote.ip())
}

#[cfg(not(feature = "serve"))]
pub(super) fn address<B>(_: &Request<B>) -> Option<std::net::IpAddr> {
    None
}

/// Two names for the server in one request (trap 5).
fn odd_host<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Some("several-hosts");
    }
    match (request.uri().authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Some("host-mismatch")
        }
        _ => None,
    }
}

/// `/package.Service/Method`, of one of these services.
pub(super) fn grpc_call<'u, 's>(uri: &'u Uri, services: &'s [GrpcService]) -> Option<(&'s GrpcService, &'u str)> {
    let (service, method) = uri.path().strip_prefix('/')?.split_once('/')?;
    services.iter().find(|known| known.name == service).map(|known| (known, method))
}

/// A method of gRPC as it is recorded: where the methods are known, a stranger's own words are not.
pub(super) fn recorded_grpc<'a>(service: &'a GrpcService, method: &'a str) -> RecordedOperation<'a> {
    let known = service.methods.as_ref().is_none_or(|methods| methods.iter().any(|known| known == method));
    RecordedOperation::Grpc { service: &service.name, method: if known { method } else { "other" } }
}

/// A method as it is recorded: a stranger's own words are not.
pub(super) fn recorded_http<'a>(method: Option<Method>, route: &'a str) -> RecordedOperation<'a> {
    RecordedOperation::Http { method: method.map_or("other", Method::as_str), route }
}
