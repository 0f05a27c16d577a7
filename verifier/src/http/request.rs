//! From an HTTP request to what is decided on.

use std::sync::Arc;

use http::{HeaderName, Request, header};

use super::{
    Grant, GrpcService, Shared,
    grant::{Asked, Place},
};
#[cfg(all(feature = "jwt", feature = "tokio"))]
use crate::user::PresentedUser;
use crate::{
    authenticate::{Presented, SessionUser},
    authorization::{Attempt, Exchanged, Refusal},
    clock::Timestamp,
    policy::{CanonicalPath, Method},
    record::{RecordedOperation, TraceId},
    tls::Peer,
};

/// As what a request is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    Http,
    Grpc,
}

/// What becomes of a request.
pub(super) enum Decided {
    Granted(Grant),
    Refused(Refusal, Seen),
    /// No declared route has its path, and the router may have others: refused by [`refuse_undeclared`], once the router has found out which.
    LeftToRouter,
}

/// Decides on a request from its head.
pub(super) fn decide<B>(shared: &Arc<Shared>, request: &Request<B>) -> Decided {
    let authorization = &shared.authorization;
    let at = authorization.clock().now();
    let asked = Asked::new(shared, request);
    let recorded = asked.recorded(shared);
    let seen = if asked.is_grpc() { Seen::Grpc } else { Seen::Http };
    let refuse =
        |refusal, reason| Decided::Refused(authorization.refuse_undecided(at, recorded, refusal, reason).refusal, seen);

    if let Some(reason) = odd_host(request) {
        return refuse(Refusal::Malformed, reason);
    }
    let Some(method) = asked.method() else { return refuse(Refusal::Malformed, "method") };
    let path = match CanonicalPath::parse(asked.path()) {
        Ok(path) => path,
        Err(error) => return refuse(Refusal::Malformed, error.code()),
    };
    let operation = asked.operation_of(shared, method, path);
    let attempt = Attempt { presented: presented(request, at), operation, recorded, trace: trace(request) };
    let refuse_known =
        |reason| Decided::Refused(authorization.refuse_known(&attempt, Refusal::Denied, reason).refusal, seen);
    match asked.place(shared) {
        Place::Anywhere | Place::Declared { takes_method: true } => {}
        Place::Declared { takes_method: false } => return refuse_known("undeclared-method"),
        Place::Nowhere => return refuse_known(NO_ROUTE),
        Place::Unknown => return Decided::LeftToRouter,
    }
    let exchanged = request.extensions().get::<Exchanged>();
    match authorization.authorize_exchanged(&attempt, exchanged) {
        Ok(granted) => {
            known(request);
            Decided::Granted(Grant::new(Arc::clone(shared), granted, asked))
        }
        Err(refused) => Decided::Refused(refused.refusal, seen),
    }
}

const NO_ROUTE: &str = "no-route";

/// Refuses a request at a route that nobody declared, or at none.
#[cfg(feature = "axum")]
pub(super) fn refuse_undeclared<B>(shared: &Shared, request: &Request<B>) -> (Refusal, Seen) {
    let authorization = &shared.authorization;
    let at = authorization.clock().now();
    let asked = Asked::at_route_of(shared, request);
    let recorded = asked.recorded(shared);
    let seen = if asked.is_grpc() { Seen::Grpc } else { Seen::Http };
    let refusal = if asked.has_route() {
        let path = asked.path();
        tracing::error!(path, "a route that nobody declared; declare it where its router is built");
        authorization.refuse_undecided(at, recorded, Refusal::Broken, "undeclared-route").refusal
    } else {
        match asked.operation(shared) {
            Some(operation) => {
                let attempt = Attempt { presented: presented(request, at), operation, recorded, trace: trace(request) };
                authorization.refuse_known(&attempt, Refusal::Denied, NO_ROUTE).refusal
            }
            None => authorization.refuse_undecided(at, recorded, Refusal::Malformed, "path").refusal,
        }
    };
    (refusal, seen)
}

/// The user whose token an edge is to exchange for this request, and the scope that it asks for. See [`super::edge`].
#[cfg(all(feature = "jwt", feature = "tokio"))]
pub(super) fn to_be_exchanged<B>(
    shared: &Shared,
    request: &Request<B>,
    scope: impl Fn(&PresentedUser) -> String,
) -> Option<(PresentedUser, String)> {
    let asked = Asked::new(shared, request);
    let presented = presented(request, shared.authorization.clock().now());
    let attempt =
        Attempt { presented, operation: asked.operation(shared)?, recorded: asked.recorded(shared), trace: None };
    shared.authorization.to_be_exchanged(&attempt, scope)
}

/// W3C Trace Context §3.2.
fn trace<B>(request: &Request<B>) -> Option<TraceId> {
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    let value = request.headers().get(TRACEPARENT)?;
    value.to_str().ok().and_then(TraceId::of_traceparent)
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

/// A method of gRPC as it is recorded: where the methods are known, a stranger's own words are not.
pub(super) fn recorded_grpc<'a>(service: &'a GrpcService, method: &'a str) -> RecordedOperation<'a> {
    let known = service.methods.as_ref().is_none_or(|methods| methods.iter().any(|known| known == method));
    RecordedOperation::Grpc { service: &service.name, method: if known { method } else { "other" } }
}

/// A method as it is recorded: a stranger's own words are not.
pub(super) fn recorded_http<'a>(method: Option<Method>, route: &'a str) -> RecordedOperation<'a> {
    RecordedOperation::Http { method: method.map_or("other", Method::as_str), route }
}
