//! One server loop for everything that speaks HTTP here: hyper services, axum routers, tonic routes; over mutual TLS,
//! Unix sockets or whatever else an [`Incoming`] brings in.
//!
//! What it holds to (`T-19`, `T-20`, `F-12`, `F-13`):
//! - Preparing a connection (TLS handshake, attestation) happens in the connection's own task under a deadline; it
//!   never holds up another. When too many are unfinished, the oldest is dropped for the newest.
//! - Failing to accept never ends the loop; it backs off.
//! - A connection is asked to finish at its closing moment (GOAWAY, `Connection: close`) and cut at its end.
//! - A handler may take a connection over (`Upgrade`, a WebSocket); it stays in the server's count, and ends as all others do.
//! - A panic in a handler ends that request's connection or stream alone, and is counted.

mod admission;
mod connection;
mod counters;
mod incoming;
mod io;
mod options;
mod request;
mod standing;
mod taken_over;
mod tls_incoming;
mod unix_incoming;

use std::{io::ErrorKind, sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

#[cfg_attr(not(feature = "tower"), allow(unused_imports, reason = "the authorization layer uses it"))]
pub(crate) use self::taken_over::TakenOver;
use self::{
    admission::Admission,
    connection::{Connections, Streams},
};
pub use self::{
    counters::ServeCounters,
    incoming::{Incoming, Origin, PrepareError, Prepared, Protocol},
    options::{Http2Options, ServeOptions},
    standing::Standing,
    tls_incoming::{ConnectionInfo, TlsIncoming},
    unix_incoming::UnixIncoming,
};

/// How a server came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Drained {
    /// Every connection finished by itself within the grace.
    All,
    /// So many connections were still open when the grace was over, and were cut.
    Cut(usize),
}

/// Serves until `stop` fires, then gives open connections [`ServeOptions::grace`] to finish, and ends the rest.
///
/// `service` is an `axum::Router`, tonic's routes as one, or any tower service; it is cloned for each connection. A request's
/// extensions hold what the connection's [`Prepared`] gave along: over [`TlsIncoming`] the [`Peer`](crate::tls::Peer) and
/// the [`ConnectionInfo`].
///
/// At [`ServeOptions::connections`] open connections it stops accepting; the kernel's backlog, also bounded, holds the others.
/// Dropping the future cuts all connections at once.
///
#[cfg_attr(all(feature = "axum", feature = "workload-api"), doc = "```no_run")]
#[cfg_attr(not(all(feature = "axum", feature = "workload-api")), doc = "```ignore")]
/// use std::{sync::Arc, time::Duration};
///
/// use axum::{Extension, Router, routing::get};
/// use bonafide_verifier::{
///     clock::SystemClock,
///     identity::{Identity, workload_api::WorkloadApi},
///     serve::{ServeOptions, TlsIncoming, serve},
///     tls::{Acceptor, AcceptorOptions, Peer, PeerSet},
/// };
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = Identity::spawn(&WorkloadApi::from_env()?, Arc::new(SystemClock));
/// identity.ready(Duration::from_secs(30)).await?;
/// let callers = PeerSet::parse(["spiffe://example.org/web", "spiffe://example.org/batch/*"])?;
/// let acceptor = Acceptor::new(&identity, callers, AcceptorOptions::default())?;
///
/// // Of tonic: `tonic::service::Routes::new(server).into_axum_router()`.
/// let app = Router::new().route("/", get(async |Extension(peer): Extension<Peer>| format!("{:?}", peer.id())));
/// let listener = tokio::net::TcpListener::bind("[::]:8443").await?;
/// serve(TlsIncoming::new(listener, &acceptor), app, ServeOptions::default(), CancellationToken::new()).await;
/// # Ok(()) }
/// ```
pub async fn serve<I, S, B>(incoming: I, service: S, options: ServeOptions, stop: CancellationToken) -> Drained
where
    I: Incoming,
    S: tower_service::Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let counters = Arc::clone(&options.counters);
    let streams = Streams::new(TaskTracker::new(), Arc::clone(&counters));
    let admission = Arc::new(Admission::new(&options));
    let grace = options.grace;
    let connections = Arc::new(Connections::new(incoming, options, streams.clone(), stop.clone()));
    let mut open = JoinSet::new();
    let mut failures = AcceptFailures::default();

    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = open.join_next(), if !open.is_empty() => report(ended, &counters),
            accepted = accept(&connections, &admission) => match accepted {
                Ok(raw) => {
                    failures.reset();
                    let origin = connections.incoming.origin(&raw);
                    match admission.admit(origin) {
                        Some(slot) => drop(open.spawn(Arc::clone(&connections).run(raw, slot, service.clone()))),
                        None => counters.refused(),
                    }
                }
                Err(error) => {
                    counters.accept_failed();
                    let wait = failures.next(&error);
                    if wait.is_zero() {
                        debug!(%error, "a connection was gone before it was accepted");
                    } else {
                        warn!(%error, wait_ms = wait.as_millis(), "cannot accept connections");
                        // Whatever frees descriptors (connections that end) goes on meanwhile in its own tasks.
                        let _ = timeout(wait, stop.cancelled()).await;
                    }
                }
            },
        }
    }

    admission.drop_unfinished();
    drop(connections);
    let in_time = timeout(grace, async {
        while let Some(ended) = open.join_next().await {
            report(ended, &counters);
        }
    })
    .await;
    let left = open.len();
    open.shutdown().await;
    // The tasks of HTTP/2 streams end with their connections; whoever blocks in a handler is not waited for.
    streams.finished(STREAMS_END).await;
    if in_time.is_ok() { Drained::All } else { Drained::Cut(left) }
}

/// How long to wait for the handlers of cut HTTP/2 streams to be gone.
const STREAMS_END: Duration = Duration::from_secs(1);

async fn accept<I: Incoming>(connections: &Connections<I>, admission: &Admission) -> std::io::Result<I::Raw> {
    admission.wait_for_room().await;
    connections.incoming.accept().await
}

fn report(ended: Result<(), tokio::task::JoinError>, counters: &ServeCounters) {
    if let Err(error) = ended
        && error.is_panic()
    {
        counters.panicked();
        error!("a connection's task panicked; the connection is gone, the others are not affected");
    }
}

/// How long to wait after an accept that failed: not at all when only that one connection was concerned, else ever longer.
#[derive(Default)]
struct AcceptFailures {
    in_a_row: u32,
}

impl AcceptFailures {
    /// So many aborted connections in a row are taken as they come, before the loop also backs off from them.
    const FREE: u32 = 64;
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_secs(1);

    fn reset(&mut self) {
        self.in_a_row = 0;
    }

    fn next(&mut self, error: &std::io::Error) -> Duration {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let concerns_one_connection = matches!(
            error.kind(),
            ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionRefused
                | ErrorKind::Interrupted
                | ErrorKind::BrokenPipe
        );
        let exponent = if concerns_one_connection {
            match self.in_a_row.checked_sub(Self::FREE) {
                None => return Duration::ZERO,
                Some(beyond) => beyond,
            }
        } else {
            self.in_a_row - 1
        };
        Self::SHORTEST.saturating_mul(1 << exponent.min(16)).min(Self::LONGEST)
    }
}

#[cfg(test)]
mod tests;
