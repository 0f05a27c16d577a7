//! What every request on the socket passes, whatever service it is for: the security header (WEP-05, WEP-06, A-25), which
//! keeps away programs that were tricked into sending a request here (SSRF), and the limits of its user.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bonafide_ca_api::{Reason, refusal};
use bonafide_verifier::clock::Clock;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use tonic::{Status, body::Body};
use tower_service::Service;

use super::{
    admission::{Admission, CallSlot},
    socket::Connection,
};
use crate::metrics::{ByOutcome, Metrics, Outcome};

/// The services behind the gate. It is cloned for each request.
#[derive(Clone, Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    keeper: Arc<Keeper>,
}

#[derive(Debug)]
struct Keeper {
    admission: Admission,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

/// Holds the call's place in the counts; a stream takes it along.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) connection: Arc<Connection>,
    _slot: Arc<CallSlot>,
}

impl<S> Gate<S> {
    pub(crate) fn new(inner: S, admission: Admission, metrics: Metrics, clock: Arc<dyn Clock>) -> Gate<S> {
        Gate { inner, keeper: Arc::new(Keeper { admission, metrics, clock }) }
    }
}

impl Keeper {
    fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Status> {
        check_security_header(request.headers())?;
        let connection = request.extensions().get::<Arc<Connection>>().cloned().ok_or_else(|| {
            refusal(Reason::Internal, "a request without a connection; this is a fault of the agent", None)
        })?;
        let slot = self
            .admission
            .call(connection.peer.credentials(), self.clock.boot())
            .map_err(|full| refusal(Reason::TooManyCalls, full.to_string(), None))?;
        request.extensions_mut().insert(Call { connection, _slot: Arc::new(slot) });
        Ok(())
    }
}

/// Exactly one, exactly `true`: the value is case-sensitive.
fn check_security_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        _ => {
            let message = format!(
                "every request must carry the metadata `{SECURITY_HEADER}: true`, once (SPIFFE Workload Endpoint §3)"
            );
            Err(refusal(Reason::SecurityHeader, message, None))
        }
    }
}

/// `application/grpc`, with whatever subtype or parameters; not its relative for browsers (gRPC over HTTP/2, "Requests").
fn check_content_type(headers: &HeaderMap) -> Result<(), Status> {
    let value = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    match value.strip_prefix(b"application/grpc").map(|rest| rest.first()) {
        Some(None | Some(b'+' | b';' | b' ')) => Ok(()),
        _ => {
            let message = "this is a gRPC server: `content-type` must be `application/grpc`";
            Err(refusal(Reason::RequestInvalid, message, None))
        }
    }
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Err(status) = check_content_type(request.headers()) {
            self.keeper.metrics.workload_calls.get_or_create(&ByOutcome { outcome: Outcome::refused }).inc();
            let mut answer = status.into_http();
            *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let outcome = match self.keeper.admit(&mut request) {
            Ok(()) => Outcome::ok,
            Err(status) => {
                self.keeper.metrics.workload_calls.get_or_create(&ByOutcome { outcome: Outcome::refused }).inc();
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        self.keeper.metrics.workload_calls.get_or_create(&ByOutcome { outcome }).inc();
        Box::pin(self.inner.call(request))
    }
}

pub(crate) const SECURITY_HEADER: &str = "workload.spiffe.io";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wep_06_the_security_header_exactly() {
        let cases: &[(&str, &[&[u8]], bool)] = &[
            ("WEP-05 as it should be", &[b"true"], true),
            ("WEP-06 missing", &[], false),
            ("WEP-05 upper case", &[b"TRUE"], false),
            ("WEP-05 title case", &[b"True"], false),
            ("WEP-06 false", &[b"false"], false),
            ("WEP-06 empty", &[b""], false),
            ("WEP-06 list", &[b"true,true"], false),
            ("WEP-06 twice", &[b"true", b"true"], false),
            ("WEP-06 two values", &[b"true", b"false"], false),
            ("WEP-06 longer", &[b"truee"], false),
            ("WEP-06 one", &[b"1"], false),
            ("WEP-06 not text", &[b"\xff"], false),
        ];
        for (requirement, values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(SECURITY_HEADER, http::HeaderValue::from_bytes(value).unwrap());
            }
            let checked = check_security_header(&headers);
            assert_eq!(checked.is_ok(), *expected, "{requirement}");
            if let Err(status) = checked {
                assert_eq!(status.code(), tonic::Code::InvalidArgument, "{requirement}");
            }
        }
    }

    #[test]
    fn wep_02_the_content_type_of_grpc() {
        let cases: &[(&str, Option<&str>, bool)] = &[
            ("plain", Some("application/grpc"), true),
            ("with a subtype", Some("application/grpc+proto"), true),
            ("with a parameter", Some("application/grpc;charset=utf-8"), true),
            ("with a blank", Some("application/grpc ; charset=utf-8"), true),
            ("none", None, false),
            ("empty", Some(""), false),
            ("grpc-web", Some("application/grpc-web"), false),
            ("grpc-web with a subtype", Some("application/grpc-web+proto"), false),
            ("JSON", Some("application/json"), false),
            ("a form, as a browser sends it", Some("text/plain"), false),
        ];
        for (name, value, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(CONTENT_TYPE, value.parse().unwrap());
            }
            let checked = check_content_type(&headers).map_err(|status| status.code());
            assert_eq!(checked, if *expected { Ok(()) } else { Err(tonic::Code::InvalidArgument) }, "WEP-02 {name}");
        }
    }
}
