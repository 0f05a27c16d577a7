//! The SPIFFE Workload API and our node-local services, on one Unix socket: the X.509 and the JWT profile whole, WIT answered
//! with `Unimplemented`, reflection (SPIFFE Workload API and Workload Endpoint at revision 665a28f; WAPI-01..37, WEP-01..20).
//!
//! Every message is made from facts attested at that moment ([`crate::attest`]) and holds the full state. Streams are
//! told at once when a service, an SVID or a bundle changes; when the process has no identity any more, or is not the
//! process any more that connected, its streams end with `PermissionDenied`, which takes everything back (WAPI-20).

mod admission;
mod authority;
mod bundles;
mod caller;
mod explain;
mod gate;
mod jwt;
mod service;
mod socket;
mod token_keys;
mod tokens;
mod unfold;
mod x509;

use std::{
    convert::Infallible,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bonafide_verifier::{
    clock::Clock,
    serve::{Drained, ServeOptions, serve},
};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower_service::Service;
use tracing::{error, warn};

pub(crate) use self::{
    admission::{Admission, AdmissionLimits},
    caller::refused,
    explain::{Explainer, is_operator},
    gate::Call,
    socket::BindError,
};
use self::{
    gate::Gate,
    service::WorkloadApi,
    socket::{Socket, Workloads, connections_that_fit},
    tokens::TokensApi,
};
use crate::{
    attest::{self, Attestor, Binding, ExecutableLimits, HostNames, NameLimits, NameService},
    generated::{
        local,
        local::local_server::LocalServer,
        tokens as tokens_wire,
        tokens::tokens_server::{SERVICE_NAME as TOKENS, TokensServer},
        workload,
        workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
    },
    health::{Health, Part, State},
    local_api::{LocalApi, NodeControl},
    metrics::Metrics,
    renewal::random,
    svid_cache::{SvidCache, jwt::JwtCache},
    token_service::TokenService,
    view::ViewStore,
};

/// Bounds of the Workload API, each with what happens there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections; further ones wait in the kernel's backlog. Less where the limit of open files is low. Default 16,384.
    pub(crate) connections: usize,
    /// Open connections of one user; further ones are closed at once. At most a quarter of all. Default 2,048.
    pub(crate) connections_per_user: usize,
    /// What a user or process may hold beyond that.
    pub(crate) admission: AdmissionLimits,
    /// Attestation by path and hash.
    pub(crate) executables: ExecutableLimits,
    /// Attestation by name.
    pub(crate) names: NameLimits,
    /// How long a process without a service is waited for to get one, or the agent for its first state, before it is told
    /// no. Default 2 s.
    pub(crate) wait_for_service: Duration,
    /// How long the default identity's SVID is waited for, and the others' as long as the CA has not said no; then
    /// `Unavailable`. Default 5 s.
    pub(crate) wait_for_svid: Duration,
    /// The largest request; a larger one is refused before it is read. Default 64 KiB.
    pub(crate) request_bytes: usize,
    /// Audiences of one JWT-SVID, and bytes of one; more is `InvalidArgument`. The CA's bounds are the same. Default 16 and 512.
    pub(crate) audiences: usize,
    pub(crate) audience_bytes: usize,
    /// For how long what was found out about a process counts for its next transaction token over the same connection. Default 1 s.
    pub(crate) look_stands: Duration,
    /// When a file system or the name service did not answer, how long until it is asked again for a stream. Default 1 s.
    pub(crate) look_again: Duration,
    /// A change of bundles alone reaches all streams within this, spread out by chance (WAPI-07); with fewer than 64 streams
    /// at once. Default 1 s.
    pub(crate) bundle_spread: Duration,
    /// How often it is looked whether the socket is still in its place. Default 5 s.
    pub(crate) look_at_socket: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16_384,
            connections_per_user: 2048,
            admission: AdmissionLimits::default(),
            executables: ExecutableLimits::default(),
            names: NameLimits::default(),
            wait_for_service: Duration::from_secs(2),
            wait_for_svid: Duration::from_secs(5),
            request_bytes: 64 * 1024,
            audiences: 16,
            audience_bytes: 512,
            look_stands: Duration::from_secs(1),
            look_again: Duration::from_secs(1),
            bundle_spread: Duration::from_secs(1),
            look_at_socket: Duration::from_secs(5),
        }
    }
}

/// What the socket's services are made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) views: ViewStore,
    pub(crate) cache: SvidCache,
    pub(crate) jwts: JwtCache,
    pub(crate) tokens: TokenService,
    pub(crate) node: Arc<dyn NodeControl>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) names: Arc<dyn NameService>,
    pub(crate) limits: Limits,
}

impl Parts {
    /// With the host's name service and the default limits.
    pub(crate) fn new(
        (views, cache, jwts): (ViewStore, SvidCache, JwtCache),
        tokens: TokenService,
        node: Arc<dyn NodeControl>,
        (health, metrics): (Health, Metrics),
        clock: Arc<dyn Clock>,
    ) -> Parts {
        let names = Arc::new(HostNames);
        Parts { views, cache, jwts, tokens, node, health, metrics, clock, names, limits: Limits::default() }
    }
}

/// A bound socket that does not answer yet.
#[derive(Debug)]
pub(crate) struct Endpoint {
    socket: Arc<Socket>,
    binding: Binding,
}

/// What all services on the socket share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) parts: Parts,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) admission: Admission,
    pub(crate) explainer: Explainer,
    pub(crate) notes: Vec<String>,
}

impl Shared {
    /// Waits a moment by chance before a message that all streams get: all at once would be a burst (WAPI-07).
    async fn spread(&self, stop: &CancellationToken) -> Result<(), Status> {
        if self.admission.calls() < FEW_STREAMS {
            return Ok(());
        }
        let delay = self.parts.limits.bundle_spread.mul_f64(random());
        tokio::select! {
            () = self.parts.clock.sleep_for(delay) => Ok(()),
            () = stop.cancelled() => Err(x509::stopping()),
        }
    }
}

impl Shared {
    /// Waits until what did not answer may be asked again.
    async fn look_again(&self, stop: &CancellationToken) -> Result<(), Status> {
        tokio::select! {
            () = self.parts.clock.sleep_for(self.parts.limits.look_again) => Ok(()),
            () = stop.cancelled() => Err(x509::stopping()),
        }
    }
}

impl Endpoint {
    /// Binds the socket. A stale one is replaced, a live one is not.
    ///
    /// # Errors
    /// See [`BindError`].
    pub(crate) fn bind(path: &Path, binding: Binding) -> Result<Endpoint, BindError> {
        Ok(Endpoint { socket: Arc::new(Socket::bind(path)?), binding })
    }

    /// What is not attested, and why: for `status` and `doctor`.
    pub(crate) fn notes(&self) -> Vec<String> {
        let note = match self.binding {
            Binding::PeerPidfd => return Vec::new(),
            Binding::ByPid => attest::BY_PID,
            Binding::UserOnly => attest::USER_ONLY,
        };
        vec![note.to_owned()]
    }

    /// Serves until `stop` fires, then lets calls finish for the server's grace and ends the rest; streams end at once, so
    /// that their clients come back to the next agent.
    /// A socket that is taken away is bound again.
    pub(crate) async fn serve(self, parts: Parts, stop: CancellationToken) -> Drained {
        let notes = self.notes();
        let limits = parts.limits;
        let attestor = Attestor::new(limits.executables, limits.names, parts.names.clone(), parts.clock.clone());
        let shared = Arc::new(Shared {
            attestor: Arc::new(attestor),
            admission: Admission::new(limits.admission),
            explainer: Explainer::new(self.socket.path()),
            notes,
            parts: parts.clone(),
        });
        let mut socket = self.socket;
        loop {
            parts.health.set(Part::WorkloadSocket, State::Ready, "");
            // Ends what is served from this socket, and no more.
            let round = stop.child_token();
            let serving = round_of(socket.clone(), self.binding, shared.clone(), round.clone());
            tokio::pin!(serving);
            let again = tokio::select! {
                drained = &mut serving => {
                    parts.health.set(Part::WorkloadSocket, State::Unready, "stopping");
                    return drained;
                }
                again = bound_again(&socket, &parts) => again,
            };
            // Who is connected comes back to the new socket.
            round.cancel();
            serving.await;
            socket = Arc::new(again);
        }
    }
}

/// Waits until the socket is not in its place any more, and another can be bound there (F-20).
async fn bound_again(socket: &Socket, parts: &Parts) -> Socket {
    loop {
        parts.clock.sleep_for(parts.limits.look_at_socket).await;
        if socket.is_in_place() {
            continue;
        }
        let path = socket.path();
        match Socket::bind(path) {
            Ok(again) => {
                warn!(path = %path.display(), "the socket was taken away from its place; bound it again");
                return again;
            }
            Err(error) => {
                parts.health.set(Part::WorkloadSocket, State::Unready, format!("the socket was taken away: {error}"));
                error!(path = %path.display(), %error, "the socket was taken away from its place and cannot be bound again");
            }
        }
    }
}

async fn round_of(socket: Arc<Socket>, binding: Binding, shared: Arc<Shared>, stop: CancellationToken) -> Drained {
    let parts = &shared.parts;
    let limits = parts.limits;
    let connections = connections_that_fit(limits.connections);
    let mut options = ServeOptions::default();
    options.connections = connections;
    options.connections_per_origin = Some(limits.connections_per_user.min((connections / 4).max(1)));
    options.http2.concurrent_streams = u32::try_from(limits.admission.calls_per_process + 1).unwrap_or(u32::MAX);
    let incoming = Workloads {
        socket,
        binding,
        admission: shared.admission.clone(),
        attestor: shared.attestor.clone(),
        views: parts.views.clone(),
        clock: parts.clock.clone(),
        logged: Mutex::default(),
    };
    let gate = Gate::new(
        services(&shared, stop.clone()),
        shared.admission.clone(),
        parts.metrics.clone(),
        parts.clock.clone(),
    );
    serve(incoming, gate, options, stop).await
}

/// The services of the socket. Ours stand beside the Workload API, never in it (WAPI-02, WEP-18, WEP-19).
fn services(shared: &Arc<Shared>, stop: CancellationToken) -> Services {
    let limit = shared.parts.limits.request_bytes;
    let tokens = TokensServer::new(TokensApi::new(shared.clone(), stop.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(TOKEN_KEYS_BYTES);
    let workload_api = SpiffeWorkloadApiServer::new(WorkloadApi::new(shared.clone(), stop));
    let local_api = LocalServer::new(LocalApi::new(shared.clone()));
    let mut routes = tonic::service::Routes::new(workload_api.max_decoding_message_size(limit))
        .add_service(local_api.max_decoding_message_size(limit));
    // The descriptors are compiled in; the services work without reflection, too.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(workload::DESCRIPTORS)
            .register_encoded_file_descriptor_set(local::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tokens_wire::DESCRIPTORS)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => error!(%error, "no reflection; this is a fault of the agent"),
    }
    Services { tokens, others: routes.into_axum_router() }
}

/// The services by their names. An edge asks for a token at each of its requests: that way is short, and the others go through a router.
#[derive(Clone, Debug)]
struct Services {
    tokens: TokensServer<TokensApi>,
    others: axum::Router,
}

impl Service<Request<Incoming>> for Services {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let rest = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(TOKENS));
        if rest.is_some_and(|rest| rest.starts_with('/')) {
            return self.tokens.call(request);
        }
        let answering = self.others.call(request);
        Box::pin(async move { Ok(answering.await?.map(tonic::body::Body::new)) })
    }
}

/// The largest message with token keys: as much as the CA sends a node.
const TOKEN_KEYS_BYTES: usize = 16 * 1024 * 1024;
/// Streams that may be told at the same moment.
const FEW_STREAMS: usize = 64;

#[cfg(test)]
pub(crate) mod tests;
