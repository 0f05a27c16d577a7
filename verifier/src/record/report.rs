//! Who calls what, over HTTP, wherever the host program serves it.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::{Edge, Edges};

/// Answers GET, whatever the path, with all [`Edges`] as JSON: `{"edges": [...], "beyond": 0}`.
///
/// It asks nobody who they are. Serve it where only those can ask who may know: on a
/// [`UnixIncoming`](crate::serve::UnixIncoming), which `bonafide-ca callers` reads, or as a route behind an authorization.
///
/// ```no_run
/// use bonafide_verifier::{
///     authorization::Authorization,
///     record::EdgesReport,
///     serve::{ServeOptions, UnixIncoming, serve},
/// };
/// use tokio_util::sync::CancellationToken;
///
/// # async fn of(authorization: Authorization, stop: CancellationToken) -> std::io::Result<()> {
/// let report = EdgesReport::new(authorization.edges());
/// serve(UnixIncoming::bind("/run/limits/callers.sock")?, report, ServeOptions::default(), stop).await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct EdgesReport(Edges);

#[derive(Serialize)]
struct Listing {
    edges: Vec<Edge>,
    beyond: u64,
}

impl EdgesReport {
    /// Of these.
    #[must_use]
    pub fn new(edges: &Edges) -> Self {
        Self(edges.clone())
    }

    fn answer(&self, method: &Method) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if *method != Method::GET && *method != Method::HEAD {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return response;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match serde_json::to_vec(&Listing { edges: self.0.list(), beyond: self.0.beyond() }) {
            Ok(json) => *response.body_mut() = Full::from(json),
            Err(error) => {
                tracing::error!(%error, "the report of callers cannot be written");
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
        response
    }
}

impl<B> tower_service::Service<Request<B>> for EdgesReport {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(request.method())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;
    use tokio::{net::UnixStream, time::timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        caller::{Caller, Proof, ProofKind},
        clock::Timestamp,
        record::{Outcome, Record, RecordSink, RecordedOperation},
        serve::{ServeOptions, UnixIncoming, serve},
        spiffe::SpiffeId,
    };

    #[tokio::test]
    async fn who_still_uses_an_old_credential_is_read_from_a_socket() {
        let edges = Edges::new();
        let id = SpiffeId::parse("spiffe://example.org/export").unwrap();
        let caller = Caller::new(id, Proof { kind: ProofKind::ApiKey, key_id: "k".into() }, Timestamp::MAX);
        let operation = RecordedOperation::Http { method: "GET", route: "/v1/limits/{job}" };
        let mut record = Record::new(Timestamp::from_unix_seconds(1_800_000_000), operation, Outcome::Allowed, "");
        record.caller = Some(&caller);
        edges.record(&record);

        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (folder.path().join("callers.sock"), CancellationToken::new());
        let incoming = UnixIncoming::bind(&path).unwrap();
        let served = tokio::spawn(serve(incoming, EdgesReport::new(&edges), ServeOptions::default(), stop.clone()));
        let ask = async |method: &str| {
            let stream = UnixStream::connect(&path).await.unwrap();
            let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri("/").header("host", "x").body(Empty::<Bytes>::new());
            let answer = timeout(Duration::from_secs(10), send.send_request(request.unwrap())).await;
            let answer = answer.expect("an answer").unwrap();
            (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
        };
        let (status, body) = ask("GET").await;
        assert_eq!(status, 200);
        assert_eq!(
            String::from_utf8(body.to_vec()).unwrap(),
            r#"{"edges":[{"caller":"spiffe://example.org/export","proof":"api-key","operation":"GET /v1/limits/{job}","allowed":1,"refused":0,"first_seen":"2027-01-15T08:00:00Z","last_seen":"2027-01-15T08:00:00Z"}],"beyond":0}"#
        );
        assert_eq!(ask("HEAD").await, (200, Bytes::new()));
        assert_eq!(ask("DELETE").await.0, 405);
        stop.cancel();
        served.await.unwrap();
        assert!(!path.exists());
    }
}
