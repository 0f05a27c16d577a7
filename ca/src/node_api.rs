//! The node API: what agents say to this CA, over TLS 1.3 with a client certificate always demanded.
//!
//! [`NodeApi`] is put together once at the start. [`NodeApi::serve`] answers connections; [`NodeApi::run_identity`] keeps
//! this CA's own certificate valid; [`NodeApi::run_hub`] pushes changes and writes down what streams have to tell. All three
//! run until they are told to stop, and are waited for.
//!
//! A request passes the [gate], which knows who calls, then the file of its method.

mod clocks;
mod credential;
mod delegate;
mod gate;
mod hub;
mod issue;
mod join;
mod limits;
mod look_at_issuer;
mod methods;
mod mints;
mod own_identity;
mod peer;
mod recover;
mod refuse;
mod renew;
mod rpc;
mod sync;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{NodeName, Reason, node_name_of};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    identity::{Changes, Identity},
    serve::{Drained, ServeCounters, ServeOptions, TlsIncoming, serve},
    spiffe::{SpiffeId, TrustDomain},
    tls::{Acceptor, AcceptorOptions, Members, PeerSet, TlsConfigError},
};
use tokio::{net::TcpListener, sync::broadcast::error::RecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use self::hub::{Hub, StreamStatus};
pub use self::limits::Limits;
use self::{gate::Gate, hub::EndReason, own_identity::OwnIdentity, refuse::Refused};
use crate::{
    audit::SvidKind,
    authority::Authorities,
    issuance::{Issuer, SvidLifetimes},
    metrics::{IssuedKind, Metrics, Outcome},
    quota::Quota,
    registry::{Change, Node, Registry, Service, What},
    user_issuers::IssuerKeeper,
};

/// What the node API is made of.
pub(crate) struct Parts {
    pub(crate) issuer: Issuer,
    pub(crate) registry: Registry,
    pub(crate) authorities: Authorities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) lifetimes: SvidLifetimes,
    pub(crate) limits: Limits,
    /// DNS names in this CA's own certificate.
    pub(crate) dns_names: Vec<String>,
    /// Keeps the keys of users' issuers.
    pub(crate) issuers: IssuerKeeper,
}

/// The node API of one CA process.
pub(crate) struct NodeApi {
    issuer: Issuer,
    registry: Registry,
    authorities: Authorities,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    lifetimes: SvidLifetimes,
    limits: Limits,
    quota: Quota,
    issuers: IssuerKeeper,
    hub: Arc<Hub>,
    own: OwnIdentity,
    counters: Arc<ServeCounters>,
    stopping: CancellationToken,
}

impl NodeApi {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let own = OwnIdentity::new(
            parts.issuer.clone(),
            parts.registry.clone(),
            Arc::clone(&parts.clock),
            parts.lifetimes.own,
            parts.dns_names,
        );
        Arc::new(Self {
            quota: Quota::new(parts.limits.quota),
            issuers: parts.issuers,
            issuer: parts.issuer,
            registry: parts.registry,
            authorities: parts.authorities,
            clock: parts.clock,
            metrics: parts.metrics,
            lifetimes: parts.lifetimes,
            limits: parts.limits,
            hub: Arc::default(),
            own,
            counters: Arc::default(),
            stopping: CancellationToken::new(),
        })
    }

    /// Who is connected.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What the listener counts.
    pub(crate) fn counters(&self) -> &Arc<ServeCounters> {
        &self.counters
    }

    /// This CA's own identity, for its other listeners.
    pub(crate) fn identity(&self) -> &Identity {
        self.own.identity()
    }

    /// Tells when the certificate that the listener presents was renewed, or withdrawn.
    pub(crate) fn identity_changes(&self) -> Changes {
        self.own.identity().changes()
    }

    /// Whether the listener has a certificate to present.
    ///
    /// # Errors
    /// Why not, for an operator.
    pub(crate) fn identity_ready(&self, at: Timestamp) -> Result<(), String> {
        self.own.ready(at)
    }

    /// Keeps this CA's own certificate valid, until `stop`. Ready is told by [`NodeApi::identity_ready`].
    pub(crate) async fn run_identity(&self, stop: &CancellationToken) {
        self.own.run(stop).await;
    }

    /// Answers connections until `stop`, then ends the streams, lets calls finish and writes what streams had to tell.
    ///
    /// # Errors
    /// The TLS configuration is not possible.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<Drained, TlsConfigError> {
        let nodes = PeerSet::members(Arc::new(AnyNode(self.issuer.trust_domain().clone())));
        let mut options = AcceptorOptions::default();
        // A machine that joins or recovers has no SVID. What such a peer may call is decided in `rpc.rs`.
        options.dangerously_admit_bare_keys = true;
        let acceptor = Acceptor::new(self.own.identity(), nodes, options)?;
        let incoming = TlsIncoming::new(listener, &acceptor);
        // Nodes that come back at a restart wait for the moment that the certificate takes; turned away, they would come late.
        tokio::select! {
            () = self.own.tried() => {}
            () = stop.cancelled() => {}
        }
        let serving = serve(incoming, Gate::new(Arc::clone(self)), self.serve_options(), stop.clone());
        let ending = async {
            stop.cancelled().await;
            self.stopping.cancel();
            // A stream would use up the grace of calls.
            self.hub.end_all(EndReason::Stopping);
        };
        let (drained, ()) = tokio::join!(serving, ending);
        self.write_notes(self.hub.take_notes()).await;
        Ok(drained)
    }

    fn serve_options(&self) -> ServeOptions {
        let mut options = ServeOptions::default();
        options.connections = self.limits.connections;
        options.connections_per_origin = self.limits.connections_per_address;
        options.grace = self.limits.grace;
        options.counters = Arc::clone(&self.counters);
        options.http2.concurrent_streams = self.limits.streams_per_connection;
        options.http2.ping_interval = self.limits.ping_interval;
        options.http2.ping_timeout = self.limits.ping_timeout;
        options
    }

    /// Pushes what changes to the streams that it concerns, and writes down when nodes were seen, until `stop`.
    pub(crate) async fn run_hub(&self, stop: &CancellationToken) {
        tokio::join!(self.push_changes(stop), self.write_down(stop));
    }

    async fn push_changes(&self, stop: &CancellationToken) {
        let mut changes = self.registry.changes();
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                change = changes.recv() => change,
            };
            match change {
                Ok(change) => self.push(&change),
                Err(RecvError::Lagged(missed)) => {
                    debug!(missed, "fell behind the registry's changes; every stream looks for itself");
                    self.hub.wake_where(|_| true);
                    self.forget_removed();
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn push(&self, change: &Change) {
        match &change.what {
            What::Service { before, after } => {
                for service in before.iter().chain(after) {
                    self.wake_nodes_of(service);
                }
            }
            What::Bundle(_)
            | What::Epoch(_)
            | What::Issuer { .. }
            | What::TokenServiceKeys(_)
            | What::UserIssuers(_)
            | What::Delegations { .. } => self.hub.wake_where(|_| true),
            What::NodeJoined(node) => self.end_if_replaced(node),
            What::NodeRemoved(node) => {
                self.hub.remove(&node.name);
                self.forget_removed();
            }
            What::NodeChanged(node) => self.hub.wake([&node.name]),
            What::InvitationOpen(_) | What::InvitationClosed(_) => {}
        }
    }

    /// Wakes the nodes that may hold the service, or might have until now.
    fn wake_nodes_of(&self, service: &Service) {
        use bonafide_ca_api::Placement;
        let names: Option<Vec<_>> = service
            .placements
            .iter()
            .map(|placement| match placement {
                Placement::Node(name) => Some(name),
                Placement::Label { .. } | Placement::Any => None,
            })
            .collect();
        match names {
            Some(names) => self.hub.wake(names),
            None => {
                let snapshot = self.registry.load();
                self.hub.wake_where(|name| snapshot.node(name).is_none_or(|node| service.may_run_on(node)));
            }
        }
    }

    /// A machine that joined under the name of another ends that one's stream; its labels may differ, too.
    fn end_if_replaced(&self, node: &Node) {
        self.hub.end_other_keys(&node.name, crate::issuance::KeyHash(node.current_key));
        self.hub.wake([&node.name]);
    }

    fn forget_removed(&self) {
        let snapshot = self.registry.load();
        self.quota.keep_nodes(|name| snapshot.node(name).is_some());
    }

    async fn write_down(&self, stop: &CancellationToken) {
        loop {
            let notes = tokio::select! {
                () = stop.cancelled() => return,
                notes = self.hub.notes() => notes,
            };
            self.write_notes(notes).await;
            // Many streams that open or end together become one write.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep_for(BETWEEN_NOTES) => {}
            }
        }
    }

    async fn write_notes(&self, notes: std::collections::HashMap<NodeName, hub::Note>) {
        if notes.is_empty() {
            return;
        }
        let seen = notes.iter().map(|(node, note)| (node.clone(), note.seen)).collect();
        let synced: Vec<NodeName> =
            notes.iter().filter(|(_, note)| note.synced).map(|(node, _)| node.clone()).collect();
        let written = async {
            self.registry.mark_seen(seen).await?;
            self.registry.close_invitations(synced).await
        };
        if let Err(fault) = written.await {
            warn!(error = %fault, "could not write down when nodes were seen; tried again later");
            self.hub.put_back(notes);
        }
    }

    fn note_refusal(&self, reason: Reason) {
        self.metrics.refused(reason);
    }

    fn note_issued(&self, kind: SvidKind, count: u64) {
        let kind = match kind {
            SvidKind::Service => IssuedKind::X509,
            SvidKind::Node => IssuedKind::Node,
            SvidKind::Ca => IssuedKind::Own,
        };
        self.metrics.issued(kind, Outcome::Done, count);
    }

    fn note_jwt_issued(&self) {
        self.metrics.issued(IssuedKind::Jwt, Outcome::Done, 1);
    }
}

/// Any ID of the form of a node's. Whether there is such a node, and whether the key is its own, is decided at each call,
/// where a refusal can say why.
#[derive(Debug)]
struct AnyNode(TrustDomain);

impl Members for AnyNode {
    fn contains(&self, id: &SpiffeId) -> bool {
        id.trust_domain() == &self.0 && node_name_of(id).is_some()
    }
}

/// For fuzzing: reads each message of the contract from the same bytes, as far as that needs no registry. What would be
/// stored or shown is bounded.
pub(crate) fn read_messages(data: &[u8]) {
    use bonafide_ca_api::generated::node as wire;
    use prost::Message;

    if let Ok(request) = wire::JoinRequest::decode(data) {
        drop(bonafide_ca_api::InvitationSecret::from_slice(&request.secret));
    }
    if let Ok(request) = wire::IssueX509Request::decode(data) {
        request.items.iter().for_each(|item| drop(crate::issuance::PublicKey::parse(&item.public_key)));
    }
    if let Ok(request) = wire::IssueJwtRequest::decode(data) {
        drop(crate::issuance::jwt::Audiences::parse(request.audience));
    }
    if let Ok(request) = wire::DelegateRequest::decode(data) {
        drop(crate::issuance::PublicKey::parse(&request.public_key));
    }
    if let Ok(request) = wire::CollectMintsRequest::decode(data) {
        // What is taken follows a chain, and is what will be written.
        if let Ok(stretch) = mints::read(request) {
            assert!(stretch.records.windows(2).all(|pair| matches!(pair, [one, next] if next.seq == one.seq + 1)));
            assert!(stretch.records.iter().all(|mint| mint.body.trim_start().starts_with('{')));
        }
    }
    if let Ok(request) = wire::SyncRequest::decode(data) {
        sync::read_request(request);
    }
}

/// What a node is told whose stream or call ends.
fn ended(reason: EndReason, node: &NodeName) -> Refused {
    match reason {
        EndReason::Removed => Refused::because(
            Reason::NodeRemoved,
            format!(
                "the node `{node}` was removed; to have it back run `bonafide-ca node invite {node}` and start the agent with \
                 the invitation"
            ),
        ),
        EndReason::Replaced => Refused::for_now(
            reason.reason(),
            format!("a newer stream, or a newer key, of the node `{node}` takes the place of this one"),
            REPLACED_RETRY,
        ),
        EndReason::Stopping => stopping(),
    }
}

fn over_node_quota(retry_after: Duration) -> Refused {
    Refused::for_now(
        Reason::Quota,
        "this node asks for its own SVID too often; is its agent in a loop?",
        retry_after.max(Duration::from_millis(1)),
    )
}

fn stopping() -> Refused {
    Refused::for_now(Reason::Stopping, "the CA is stopping", STOPPING_RETRY)
}

const BETWEEN_NOTES: Duration = Duration::from_secs(1);
const REPLACED_RETRY: Duration = Duration::from_secs(5);
const STOPPING_RETRY: Duration = Duration::from_secs(1);
const OVERLOAD_RETRY: Duration = Duration::from_secs(5);
