//! The way in: no request reaches a method of the node API without the caller that the method takes.
//!
//! The gate looks the method up in the [closed list](super::rpc), asks [`NodeApi::authenticate`], and hands the request on
//! with the [`Caller`] attached. The methods read the caller and nothing of the connection.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bonafide_ca_api::{Reason, generated::node::node_api_server::NodeApiServer};
use bonafide_verifier::{serve::ConnectionInfo, tls::Peer};
use tonic::{Status, body::Body};
use tower_service::Service;
use tracing::{info, warn};

use super::{
    NodeApi,
    methods::Methods,
    peer::Caller,
    refuse::Refused,
    rpc::{PeerKind, Rpc},
};

/// The service that [`bonafide_verifier::serve`] drives.
#[derive(Clone)]
pub(super) struct Gate {
    api: Arc<NodeApi>,
    /// For peers that have proved only a key: small messages.
    keys: NodeApiServer<Methods>,
    nodes: NodeApiServer<Methods>,
    /// For streams, which begin with a hello.
    streams: NodeApiServer<Methods>,
}

impl Gate {
    pub(super) fn new(api: Arc<NodeApi>) -> Self {
        let methods = Arc::new(Methods::new(Arc::clone(&api)));
        let limits = &api.limits;
        Self {
            keys: NodeApiServer::from_arc(Arc::clone(&methods)).max_decoding_message_size(limits.key_message_bytes),
            nodes: NodeApiServer::from_arc(Arc::clone(&methods)).max_decoding_message_size(limits.node_message_bytes),
            streams: NodeApiServer::from_arc(methods)
                .max_decoding_message_size(limits.hello_bytes)
                .max_encoding_message_size(limits.update_bytes),
            api,
        }
    }
}

impl<B> Service<http::Request<B>> for Gate
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let Some(rpc) = Rpc::of_path(request.uri().path()) else {
            return answer(Status::unimplemented("the node API has no such method"));
        };
        if !is_grpc(request.headers()) {
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(async move { Ok(response) });
        }
        let api = Arc::clone(&self.api);
        let mut methods = match rpc.takes() {
            PeerKind::Key => self.keys.clone(),
            PeerKind::Node if rpc == Rpc::Sync => self.streams.clone(),
            PeerKind::Node => self.nodes.clone(),
        };
        let extensions = request.extensions();
        let (Some(peer), Some(connection)) = (extensions.get::<Peer>().cloned(), extensions.get::<ConnectionInfo>())
        else {
            // Without these nobody knows who asks. It cannot happen behind our own acceptor.
            return answer(Refused::internal().into());
        };
        let remote = connection.remote;
        Box::pin(async move {
            if api.stopping.is_cancelled() {
                return Ok(Status::from(super::stopping()).into_http());
            }
            match api.authenticate(rpc, &peer, remote).await {
                Ok(caller) => {
                    request.extensions_mut().insert::<Caller>(caller);
                    let answering = methods.call(request);
                    // A stream lives on; it has deadlines of its own.
                    if rpc == Rpc::Sync {
                        return answering.await;
                    }
                    // The message counts, too: whoever sends it slowly, or never, holds no place for long.
                    let limit = match rpc {
                        // Most of it is waiting for other nodes.
                        Rpc::Delegate => api.limits.call + api.limits.rollout,
                        _ => api.limits.call,
                    };
                    match tokio::time::timeout(limit, answering).await {
                        Ok(answered) => answered,
                        Err(_) => {
                            api.note_refusal(Reason::Overloaded);
                            Ok(Status::from(late(limit)).into_http())
                        }
                    }
                }
                Err(refused) => {
                    api.note_refusal(refused.reason);
                    match refused.reason {
                        // Already told, with what is known.
                        Reason::KeyStale | Reason::KeyUnknown | Reason::StoreUnavailable | Reason::DiskFull => {}
                        Reason::NodeRemoved => {
                            info!(peer = %remote, method = rpc.name(), reason = refused.reason.code(), "refused a call");
                        }
                        _ => {
                            warn!(peer = %remote, method = rpc.name(), reason = refused.reason.code(),
                                  error = refused.message, "refused a call");
                        }
                    }
                    Ok(Status::from(refused).into_http())
                }
            }
        })
    }
}

fn late(limit: Duration) -> Refused {
    let message = format!("the call was not done within {} s, its message included; ask again", limit.as_secs());
    Refused::for_now(Reason::Overloaded, message, super::OVERLOAD_RETRY)
}

/// gRPC over HTTP/2 and nothing like it: not gRPC-Web, not JSON.
fn is_grpc(headers: &http::HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE).map_or(&[][..], http::HeaderValue::as_bytes);
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest.starts_with(b"+proto") || rest.starts_with(b";"),
        None => false,
    }
}

fn answer(status: Status) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>> {
    Box::pin(async move { Ok(status.into_http()) })
}
