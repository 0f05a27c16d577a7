//! What a refused caller is answered: enough to act on, nothing about why.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::GuardedBody;
#[cfg(feature = "tonic")]
use crate::authorization::Refused;
use crate::{authenticate::Authenticators, authorization::Refusal};

/// What a refused caller could prove itself with, as `WWW-Authenticate` says it (RFC 9110 §11.6.1). A certificate has no scheme there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Challenge(&'static str);

impl Challenge {
    /// The least that a 401 may say.
    pub(super) const BEARER: Self = Self("Bearer");

    pub(super) fn of(authenticators: &Authenticators) -> Self {
        if authenticators.takes_api_keys() { Self("Bearer, ApiKey") } else { Self::BEARER }
    }
}

/// Over plain HTTP a status and a problem document (RFC 9457) without reasons; over gRPC an answer of trailers alone.
pub(super) fn response<B>(refusal: Refusal, challenge: Challenge, grpc: bool) -> Response<GuardedBody<B>> {
    if grpc { over_grpc(refusal) } else { over_http(refusal, challenge) }
}

fn over_http<B>(refusal: Refusal, challenge: Challenge) -> Response<GuardedBody<B>> {
    let (status, body) = match refusal {
        Refusal::Unauthenticated => (StatusCode::UNAUTHORIZED, problem!("Unauthorized", 401)),
        Refusal::Denied => (StatusCode::FORBIDDEN, problem!("Forbidden", 403)),
        Refusal::TxnToken => (StatusCode::FORBIDDEN, TXN_TOKEN_DOCUMENT),
        Refusal::Malformed => (StatusCode::BAD_REQUEST, problem!("Bad Request", 400)),
        Refusal::Limited { .. } => (StatusCode::TOO_MANY_REQUESTS, problem!("Too Many Requests", 429)),
        Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, problem!("Service Unavailable", 503)),
        Refusal::Broken => (StatusCode::INTERNAL_SERVER_ERROR, problem!("Internal Server Error", 500)),
    };
    let mut response = Response::new(GuardedBody::refused(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if refusal == Refusal::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge.0));
    }
    if let Refusal::Limited { retry_after } = refusal {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(retry_after)));
    }
    response
}

/// RFC 9457 without a type, so that the status says it all.
macro_rules! problem {
    ($title:literal, $status:literal) => {
        concat!(r#"{"type":"about:blank","title":""#, $title, r#"","status":"#, $status, "}")
    };
}
use problem;

/// Its type is [`TXN_TOKEN_PROBLEM`](crate::authorization::TXN_TOKEN_PROBLEM).
const TXN_TOKEN_DOCUMENT: &str =
    r#"{"type":"tag:bonafide.id,2026:problem/txn-token","title":"Transaction Token Not Accepted","status":403}"#;

fn grpc_status(refusal: Refusal) -> (i32, &'static str) {
    match refusal {
        Refusal::Unauthenticated => (16, "unauthenticated"),
        Refusal::Denied => (7, "permission denied"),
        Refusal::TxnToken => (7, "transaction token not accepted"),
        Refusal::Malformed => (3, "malformed request"),
        Refusal::Limited { .. } => (8, "too many requests"),
        Refusal::Unavailable => (14, "unavailable"),
        Refusal::Broken => (13, "internal error"),
    }
}

/// So that a handler of tonic hands on what [`Grant::check`](super::Grant::check) says with `?`.
#[cfg(feature = "tonic")]
impl From<Refused> for tonic::Status {
    fn from(refused: Refused) -> Self {
        let (code, message) = grpc_status(refused.refusal);
        let mut status = Self::new(tonic::Code::from_i32(code), message);
        if let Refusal::Limited { retry_after } = refused.refusal {
            status.metadata_mut().insert("retry-after", seconds(retry_after).into());
        }
        status
    }
}

fn over_grpc<B>(refusal: Refusal) -> Response<GuardedBody<B>> {
    let (status, message) = grpc_status(refusal);
    let mut response = Response::new(GuardedBody::refused(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(status));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    if let Refusal::Limited { retry_after } = refusal {
        headers.insert("retry-after", HeaderValue::from(seconds(retry_after)));
    }
    response
}

/// Whole seconds, rounded up: who comes back then is not refused again.
fn seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
