//! The life of a node: it joins, follows its CA, renews its own SVID, recovers after a long sleep, is told that it was removed.
//!
//! One task owns the node's state. Each step is written before it takes effect elsewhere:
//!
//! | step | on disk before | a kill after it |
//! | --- | --- | --- |
//! | join | key and invitation | joins again with the same key |
//! | joined | chain and bundle, invitation gone | is a member |
//! | renewal asked | the next key, as pending | asks again for the same pending key |
//! | renewal answered | the pending key's chain | uses the pending key, which the CA then takes as current |
//! | pending used | pending is current, the old key gone | is a member by the new key |
//! | removed | nothing left | must be invited again |

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{Invitation, Reason, Refusal};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    identity::{Identity, Publisher},
    spiffe::{BundleSet, TrustBundle},
    x509::X509Svid,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    ca_client::{
        CaClient,
        connection::Live,
        dial::{Dialer, Pauses},
        tls::{self, NodeConnector},
    },
    health::{Health, Part, State},
    join::{self, Credential, JoinError, advice},
    metrics::{ByOutcome, Metrics, Outcome},
    node_state::{DataDir, HeldKey, NodeState, key::NodeKey},
    node_status::{AcceptEpoch, NodeStatus},
    runtime_state::RuntimeState,
    state_file::StateError,
    svid_cache::SvidCache,
    sync::{
        Follower,
        session::{Ended, Session},
    },
    view::{Position, View, ViewStore},
};

/// Everything the life of a node touches.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) data: Arc<DataDir>,
    pub(crate) state: NodeState,
    /// The invitation to join by, or a newer one for when the CA refuses what this node has.
    pub(crate) invitation: Option<Invitation>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dialer: Dialer,
    pub(crate) client: CaClient,
    pub(crate) live: watch::Sender<Option<Arc<Live>>>,
    pub(crate) accepts: mpsc::Receiver<AcceptEpoch>,
    pub(crate) identity: Identity,
    pub(crate) publisher: Publisher,
    pub(crate) follower: Follower,
    pub(crate) views: ViewStore,
    pub(crate) runtime_state: RuntimeState,
    pub(crate) status: NodeStatus,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) cache: SvidCache,
}

/// Why a node's life ended before it began. Once a node has joined, nothing ends it but a stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The join was refused, or what answered is not the CA.
    #[error("{reason}")]
    JoinRefused {
        /// The reason's code.
        code: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// No CA answered while the invitation lived.
    #[error("{reason}; the invitation has expired at {expired_at}: get a new one with `bonafide-ca node invite NAME`")]
    JoinUnreachable {
        /// What the last attempt met.
        reason: String,
        /// The invitation's end.
        expired_at: Timestamp,
    },
    /// The node's state cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The node's key cannot be used.
    #[error("{0}")]
    Key(String),
}

/// What ended a time of being connected.
enum Interlude {
    Stopped,
    /// The SVID in use has run out.
    RanOut,
    /// The CA's TLS refuses the SVID in use, though by this clock it is valid.
    CertificateRefused(String),
    Refused(Refusal),
}

impl Membership {
    /// Lives until `stop`.
    ///
    /// # Errors
    /// When the node could not join, or its state cannot be written.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), MembershipError> {
        let mut pauses = Pauses::new(self.dialer.limits().longest_pause);
        while !stop.is_cancelled() {
            if !self.state.has_joined() {
                match self.invitation.take() {
                    Some(invitation) => self.join(&invitation, &stop).await?,
                    None => {
                        // Removed: only a start with a new invitation helps.
                        stop.cancelled().await;
                    }
                }
                continue;
            }
            if self.valid_until(self.clock.now()).is_none() {
                match self.recover(&stop).await? {
                    Ok(()) => {}
                    Err(refusal) => self.refused(&refusal, &stop).await?,
                }
                continue;
            }
            self.publish()?;
            match self.connected(&stop).await? {
                Interlude::Stopped => {}
                Interlude::RanOut => {}
                Interlude::CertificateRefused(reason) => {
                    warn!(error = %reason, "the CA's TLS does not take this node's SVID");
                    let _ = timeout(pauses.next(), stop.cancelled()).await;
                    match self.recover(&stop).await? {
                        Ok(()) => {}
                        Err(refusal) => self.refused(&refusal, &stop).await?,
                    }
                }
                Interlude::Refused(refusal) => self.refused(&refusal, &stop).await?,
            }
        }
        Ok(())
    }

    async fn join(&mut self, invitation: &Invitation, stop: &CancellationToken) -> Result<(), MembershipError> {
        let mut pauses = Pauses::new(self.dialer.limits().longest_pause);
        self.health.set(Part::NodeIdentity, State::Unready, format!("joining `{}`", invitation.trust_domain()));
        info!(trust_domain = %invitation.trust_domain(), "joining");
        let mut said = String::new();
        loop {
            let attempt = join::join(&mut self.dialer, invitation, &self.state.current.key, &self.clock);
            let Some(outcome) = stop.run_until_cancelled(attempt).await else { return Ok(()) };
            let failed = match outcome {
                Ok(credential) => {
                    self.status.measure_clock(credential.ca_ms, self.clock.now());
                    self.state.redeemed = Some(invitation.secret().hash());
                    self.state.invitation = None;
                    self.state.current.chain.clone_from(&credential.chain);
                    self.state.pending = None;
                    self.state.bundle = Some(credential.bundle.to_spiffe_json().into_bytes());
                    self.store().await?;
                    info!(node = %credential.id, "joined");
                    return Ok(());
                }
                Err(failed) => failed,
            };
            if !failed.may_pass() {
                return Err(MembershipError::JoinRefused {
                    code: failed.code().to_owned(),
                    reason: failed.to_string(),
                });
            }
            let text = failed.to_string();
            if text != said {
                warn!(error = %text, until = %invitation.expires_at(), "not joined yet; trying again while the invitation lives");
            }
            self.health.set(Part::NodeIdentity, State::Unready, format!("not joined yet: {text}"));
            if invitation.check_expiry(self.clock.now()).is_err() {
                return Err(MembershipError::JoinUnreachable { reason: text, expired_at: invitation.expires_at() });
            }
            said = text;
            let pause = pauses.next().max(retry_after(&failed).unwrap_or_default());
            if timeout(pause, stop.cancelled()).await.is_ok() {
                return Ok(());
            }
        }
    }

    /// Gets a new SVID by the bare key: the current one, then the pending one. Waits for a CA as long as it takes.
    async fn recover(&mut self, stop: &CancellationToken) -> Result<Result<(), Refusal>, MembershipError> {
        let mut pauses = Pauses::new(self.dialer.limits().longest_pause);
        let mut said = String::new();
        info!("this node's SVID is of no use any more; asking the CA for a new one by the node key");
        loop {
            self.identity_degraded("asking the CA for a new SVID by the node key");
            let Some(outcome) = stop.run_until_cancelled(self.try_recover()).await else { return Ok(Ok(())) };
            let outcome_label = match &outcome {
                Ok(_) => Outcome::ok,
                Err(JoinError::Refused(_)) => Outcome::refused,
                Err(_) => Outcome::failed,
            };
            self.metrics.node_renewals.get_or_create(&ByOutcome { outcome: outcome_label }).inc();
            let failed = match outcome {
                Ok((credential, by_pending)) => {
                    self.status.measure_clock(credential.ca_ms, self.clock.now());
                    if by_pending && let Some(pending) = self.state.pending.take() {
                        self.take_as_current(pending);
                    }
                    self.state.current.chain.clone_from(&credential.chain);
                    self.keep_newer_bundle(&credential.bundle);
                    self.store().await?;
                    self.runtime_state.rebind(self.state.current.key.fingerprint());
                    info!(node = %credential.id, "recovered");
                    return Ok(Ok(()));
                }
                Err(failed) => failed,
            };
            if let JoinError::Refused(refusal) = &failed
                && !failed.may_pass()
            {
                return Ok(Err(refusal.clone()));
            }
            let text = failed.to_string();
            if text != said {
                warn!(error = %text, "no new SVID for this node yet; what is held is served meanwhile");
            }
            self.identity_degraded(&text);
            said = text;
            let pause = pauses.next().max(retry_after(&failed).unwrap_or_default());
            if timeout(pause, stop.cancelled()).await.is_ok() {
                return Ok(Ok(()));
            }
        }
    }

    async fn try_recover(&mut self) -> Result<(Credential, bool), JoinError> {
        let trust_domain = self.state.trust_domain.clone();
        let bundles = self.bundles();
        let key = &self.state.current.key;
        let first = join::recover(&mut self.dialer, &trust_domain, bundles.clone(), key, &self.clock).await;
        let by_current = match first {
            Ok(credential) => return Ok((credential, false)),
            Err(failed) => failed,
        };
        let (JoinError::Refused(_), Some(pending)) = (&by_current, &self.state.pending) else { return Err(by_current) };
        // The CA may know the pending key as the current one: the reply to its first use was lost.
        match join::recover(&mut self.dialer, &trust_domain, bundles, &pending.key, &self.clock).await {
            Ok(credential) => Ok((credential, true)),
            Err(JoinError::Refused(_)) => Err(by_current),
            Err(failed) => Err(failed),
        }
    }

    /// Follows the CA, renewing this node's SVID meanwhile.
    async fn connected(&mut self, stop: &CancellationToken) -> Result<Interlude, MembershipError> {
        let connector: NodeConnector = tls::node_connector(&self.identity, &self.state.trust_domain)
            .map_err(|error| MembershipError::Key(error.to_string()))?;
        let mut changed_views = self.views.changes();
        let mut live = self.live.subscribe();
        // Taken apart, so that the session can run beside what renews.
        let session = Session {
            follower: &mut self.follower,
            dialer: &mut self.dialer,
            identity: self.identity.clone(),
            connector,
            live: &self.live,
            accepts: &mut self.accepts,
            stop: stop.clone(),
        };
        let mut session = Box::pin(session.run());
        let mut own = Own {
            data: &self.data,
            state: &mut self.state,
            clock: &self.clock,
            client: &self.client,
            publisher: &self.publisher,
            views: &self.views,
            runtime_state: &self.runtime_state,
            status: &self.status,
            health: &self.health,
            metrics: &self.metrics,
        };
        let mut renewal = own.next_renewal()?;
        loop {
            let ends = own.svid_in_use()?.not_after();
            tokio::select! {
                ended = &mut session => return Ok(match ended {
                    Ended::Stopped => Interlude::Stopped,
                    Ended::Refused(refusal) => Interlude::Refused(refusal),
                    Ended::CertificateRefused(reason) => Interlude::CertificateRefused(reason),
                }),
                () = own.clock.sleep_until(ends) => return Ok(Interlude::RanOut),
                () = own.clock.sleep_until(renewal) => renewal = own.renew(stop).await?,
                changed = live.changed() => {
                    let used = live.borrow_and_update().as_ref().map(|live| live.key());
                    if changed.is_ok() && let Some(used) = used {
                        own.promote(used).await?;
                    }
                }
                changed = changed_views.changed() => {
                    if changed.is_ok() {
                        own.publish()?;
                    }
                }
            }
        }
    }

    /// The CA said no to this node itself.
    async fn refused(&mut self, refusal: &Refusal, stop: &CancellationToken) -> Result<(), MembershipError> {
        let removed = refusal.reason == Some(Reason::NodeRemoved);
        if removed {
            self.forget(refusal).await?;
        }
        if let Some(invitation) = self.invitation.take() {
            info!("the CA refuses what this node had; joining anew by the invitation it was started with");
            return self.begin_again(invitation).await;
        }
        let text = format!("the CA refuses this node: {}", advice(refusal));
        if removed {
            self.health.set(Part::NodeIdentity, State::Unready, text);
            return Ok(());
        }
        error!(reason = refusal.code, error = %text, "this node is refused");
        self.identity_degraded(&text);
        // An operator may mend it at the CA; asked again now and then, and until then what is held is served.
        let _ = timeout(AFTER_REFUSAL, stop.cancelled()).await;
        Ok(())
    }

    /// This node was removed: what it had is deleted, and its workloads are told.
    async fn forget(&mut self, refusal: &Refusal) -> Result<(), MembershipError> {
        error!(reason = refusal.code, error = %advice(refusal), "this node was removed at the CA; its identities, keys and state are deleted");
        let view = self.views.snapshot();
        let position = view.position().cloned().unwrap_or(Position { epoch: "".into(), version: 0 });
        // Empty, and not unknown: workloads are refused at once and do not wait.
        self.views.publish(View::new(view.trust_domain().clone(), position, Vec::new(), BundleSet::empty()));
        self.publisher.publish(None, BundleSet::empty());
        self.status.set_node(None, None);
        let runtime_state = self.runtime_state.clone();
        let data = Arc::clone(&self.data);
        let forgotten = tokio::task::spawn_blocking(move || {
            runtime_state.forget_all();
            data.forget_node()
        });
        self.state.current.chain.clear();
        self.state.pending = None;
        self.health.set(Part::Sync, State::Unready, "this node was removed at the CA");
        forgotten.await.map_err(|panicked| MembershipError::Key(panicked.to_string()))??;
        Ok(())
    }

    async fn begin_again(&mut self, invitation: Invitation) -> Result<(), MembershipError> {
        let plan = join::begin(invitation).map_err(|error| MembershipError::Key(error.to_string()))?;
        self.runtime_state.forget_all();
        self.state = plan.state;
        self.invitation = plan.invitation;
        self.dialer.set_addresses(self.state.addresses.clone());
        self.store().await
    }

    fn take_as_current(&mut self, next: HeldKey) {
        let before = std::mem::replace(&mut self.state.current, next);
        self.state.replaced = Some(before.key.fingerprint());
    }

    fn keep_newer_bundle(&mut self, bundle: &TrustBundle) {
        let held = self.own_bundle();
        if held.is_none_or(|held| held.sequence() <= bundle.sequence()) {
            self.state.bundle = Some(bundle.to_spiffe_json().into_bytes());
        }
    }

    fn own_bundle(&self) -> Option<Arc<TrustBundle>> {
        own_bundle(&self.state, &self.views.snapshot())
    }

    fn bundles(&self) -> BundleSet {
        bundles(&self.state, &self.views.snapshot())
    }

    /// When the SVID in use ends, if it is valid at `at`.
    fn valid_until(&self, at: Timestamp) -> Option<Timestamp> {
        let svid = svid_in_use(&self.state)?;
        (svid.not_before() <= at && at < svid.not_after()).then(|| svid.not_after())
    }

    fn publish(&mut self) -> Result<(), MembershipError> {
        publish(&self.state, &self.publisher, &self.views, &self.status, &self.health)
    }

    /// Degraded for as long as workloads are still served from what is held, unready after.
    fn identity_degraded(&self, why: &str) {
        let now = self.clock.now().unix_millis();
        let serves = self.cache.status(&self.views.snapshot()).iter().any(|service| service.not_after_ms > now);
        self.health.set(Part::NodeIdentity, if serves { State::Degraded } else { State::Unready }, why);
    }

    async fn store(&self) -> Result<(), MembershipError> {
        store(&self.data, &self.state).await
    }
}

/// What renewing touches, while the session runs.
struct Own<'a> {
    data: &'a Arc<DataDir>,
    state: &'a mut NodeState,
    clock: &'a Arc<dyn Clock>,
    client: &'a CaClient,
    publisher: &'a Publisher,
    views: &'a ViewStore,
    runtime_state: &'a RuntimeState,
    status: &'a NodeStatus,
    health: &'a Health,
    metrics: &'a Metrics,
}

impl Own<'_> {
    fn svid_in_use(&self) -> Result<X509Svid, MembershipError> {
        svid_in_use(self.state).ok_or_else(|| MembershipError::Key("this node has no SVID".into()))
    }

    /// At 40 to 50 % of the SVID's life: jitter only brings it forward.
    fn next_renewal(&self) -> Result<Timestamp, MembershipError> {
        let svid = self.svid_in_use()?;
        Ok(renewal_time(svid.not_before(), svid.not_after(), random_fraction()))
    }

    /// Makes the next key if there is none yet, has it certified, and uses it. Returns when to do so the next time.
    async fn renew(&mut self, stop: &CancellationToken) -> Result<Timestamp, MembershipError> {
        if self.state.pending.is_none() {
            let key = NodeKey::generate().map_err(|error| MembershipError::Key(error.to_string()))?;
            self.state.pending = Some(HeldKey::bare(key));
            if let Err(failed) = self.store().await {
                self.state.pending = None;
                return self.not_written(&failed);
            }
        }
        if self.state.pending.as_ref().is_some_and(|pending| !pending.chain.is_empty()) {
            // Certified and not used yet: the session connects with it when it can.
            self.publish()?;
            return self.retry_at(None);
        }
        let Some(pending) = &self.state.pending else { return self.retry_at(None) };
        let trust_domain = self.state.trust_domain.clone();
        let renewal = join::renew(self.client, &trust_domain, &pending.key, self.clock);
        let Some(outcome) = stop.run_until_cancelled(renewal).await else { return self.retry_at(None) };
        match outcome {
            Ok(credential) => {
                self.metrics.node_renewals.get_or_create(&ByOutcome { outcome: Outcome::ok }).inc();
                self.status.measure_clock(credential.ca_ms, self.clock.now());
                if let Some(pending) = &mut self.state.pending {
                    pending.chain.clone_from(&credential.chain);
                }
                let held = own_bundle(self.state, &self.views.snapshot());
                if held.is_none_or(|held| held.sequence() <= credential.bundle.sequence()) {
                    self.state.bundle = Some(credential.bundle.to_spiffe_json().into_bytes());
                }
                if let Err(failed) = self.store().await {
                    // Not on disk, not used: the CA certifies the same pending key again.
                    if let Some(pending) = &mut self.state.pending {
                        pending.chain.clear();
                    }
                    return self.not_written(&failed);
                }
                self.publish()?;
                info!(node = %credential.id, "renewed this node's SVID");
                self.next_renewal()
            }
            Err(failed) => {
                let refused = matches!(failed, JoinError::Refused(_));
                let outcome = if refused { Outcome::refused } else { Outcome::failed };
                self.metrics.node_renewals.get_or_create(&ByOutcome { outcome }).inc();
                if matches!(&failed, JoinError::Refused(refusal) if refusal.reason == Some(Reason::KeyRefused)) {
                    // The CA does not take this key, whatever the reason: another one is made.
                    self.state.pending = None;
                }
                let next = self.retry_at(retry_after(&failed))?;
                let svid = self.svid_in_use()?;
                let text = format!(
                    "this node's SVID could not be renewed: {failed}; it is valid until {}; next attempt at {next}",
                    svid.not_after()
                );
                warn!(error = %failed, until = %svid.not_after(), next = %next, "retaining this node's valid SVID");
                self.health.set(Part::NodeIdentity, State::Degraded, text);
                Ok(next)
            }
        }
    }

    fn not_written(&self, failed: &MembershipError) -> Result<Timestamp, MembershipError> {
        let next = self.retry_at(None)?;
        warn!(error = %failed, next = %next, "the node's state cannot be written, so its SVID is not renewed yet");
        self.health.set(Part::NodeIdentity, State::Degraded, format!("the node's state cannot be written: {failed}"));
        Ok(next)
    }

    /// A failed renewal is tried again twenty times in what is left, within bounds.
    fn retry_at(&self, least: Option<Duration>) -> Result<Timestamp, MembershipError> {
        let now = self.clock.now();
        let left = self.svid_in_use()?.not_after().since(now);
        let pause = (left / 20).clamp(SHORTEST_RETRY, LONGEST_RETRY).max(least.unwrap_or_default());
        Ok(now.saturating_add(pause.mul_f64(0.75 + random_fraction() / 2.0)))
    }

    /// The CA has taken a connection by this key: if it is the pending one, it is the current one from now on.
    async fn promote(&mut self, used: [u8; 32]) -> Result<(), MembershipError> {
        let is_pending = self
            .state
            .pending
            .as_ref()
            .is_some_and(|pending| pending.key.fingerprint() == used && !pending.chain.is_empty());
        if !is_pending {
            return Ok(());
        }
        if let Some(pending) = self.state.pending.take() {
            let before = std::mem::replace(&mut self.state.current, pending);
            self.state.replaced = Some(before.key.fingerprint());
            if let Err(failed) = self.store().await {
                // On disk the key is still the pending one, certified: a start uses that one first, too.
                warn!(error = %failed, "the node's state cannot be written");
            }
            let runtime_state = self.runtime_state.clone();
            let rebound = tokio::task::spawn_blocking(move || runtime_state.rebind(used));
            rebound.await.map_err(|panicked| MembershipError::Key(panicked.to_string()))?;
        }
        Ok(())
    }

    fn publish(&self) -> Result<(), MembershipError> {
        publish(self.state, self.publisher, self.views, self.status, self.health)
    }

    async fn store(&self) -> Result<(), MembershipError> {
        store(self.data, self.state).await
    }
}

/// The key to connect with: the pending one once it is certified, since using it makes it the current one.
fn held_in_use(state: &NodeState) -> &HeldKey {
    state.pending.as_ref().filter(|pending| !pending.chain.is_empty()).unwrap_or(&state.current)
}

/// The SVID to connect with; `None` before the join.
pub(crate) fn svid_in_use(state: &NodeState) -> Option<X509Svid> {
    let held = held_in_use(state);
    join::svid(&held.chain, &held.key).ok()
}

/// The newer of the bundle that came with the last credential and the one in the view.
fn own_bundle(state: &NodeState, view: &View) -> Option<Arc<TrustBundle>> {
    let in_view = view.bundles().get(&state.trust_domain).cloned();
    let stored = state
        .bundle
        .as_deref()
        .and_then(|json| TrustBundle::parse_spiffe_json(state.trust_domain.clone(), json).ok())
        .map(Arc::new);
    match (in_view, stored) {
        (Some(in_view), Some(stored)) if stored.sequence() > in_view.sequence() => Some(stored),
        (Some(in_view), _) => Some(in_view),
        (None, stored) => stored,
    }
}

pub(crate) fn bundles(state: &NodeState, view: &View) -> BundleSet {
    match own_bundle(state, view) {
        Some(own) => view.bundles().with(own),
        None => view.bundles().clone(),
    }
}

fn publish(
    state: &NodeState,
    publisher: &Publisher,
    views: &ViewStore,
    status: &NodeStatus,
    health: &Health,
) -> Result<(), MembershipError> {
    let svid = svid_in_use(state).ok_or_else(|| MembershipError::Key("this node has no usable SVID".into()))?;
    status.set_node(Some(svid.id().clone()), Some(svid.not_after()));
    health.set(Part::NodeIdentity, State::Ready, format!("{} until {}", svid.id(), svid.not_after()));
    publisher.publish(Some(svid), bundles(state, &views.snapshot()));
    Ok(())
}

/// The write is the step itself: it is on disk when this returns.
async fn store(data: &Arc<DataDir>, state: &NodeState) -> Result<(), MembershipError> {
    let file = DataDir::node_file(state);
    let data = Arc::clone(data);
    let written = tokio::task::spawn_blocking(move || data.write_node_file(&file)).await;
    written.map_err(|panicked| MembershipError::Key(panicked.to_string()))?.map_err(MembershipError::State)
}

fn retry_after(failed: &JoinError) -> Option<Duration> {
    match failed {
        JoinError::Refused(refusal) => refusal.retry_after,
        JoinError::Unreachable(_) | JoinError::NotOurCa { .. } | JoinError::Credential(_) | JoinError::Connector(_) => {
            None
        }
    }
}

/// Between 40 and 50 % of the life; `fraction` 0 is the latest.
fn renewal_time(not_before: Timestamp, not_after: Timestamp, fraction: f64) -> Timestamp {
    let life = not_after.since(not_before);
    not_before.saturating_add(life.mul_f64(0.5 - 0.1 * fraction.clamp(0.0, 1.0)))
}

/// Uniform in 0..1. Without randomness the middle: it only spreads load.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

const SHORTEST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A CA that refuses this node is asked again this late.
const AFTER_REFUSAL: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
