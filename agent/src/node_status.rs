//! What this agent tells about itself: to `status` over the local API, and the one command that changes something,
//! `accept-epoch`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_verifier::{
    clock::Timestamp,
    spiffe::{SpiffeId, TrustDomain},
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use crate::{
    ca_client::{Connection, connection::Live},
    health::{Health, Part, PartHealth, State},
    metrics::Metrics,
    sync::update::Held,
    view::{Position, ViewStore},
};

/// What others may know of this agent. Cheap to clone; all clones tell the same.
#[derive(Clone, Debug)]
pub(crate) struct NodeStatus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    facts: Mutex<Facts>,
    health: Health,
    metrics: Metrics,
    views: ViewStore,
    live: watch::Receiver<Option<Arc<Live>>>,
    accept: mpsc::Sender<AcceptEpoch>,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    node: Option<SpiffeId>,
    node_not_after: Option<Timestamp>,
    held: Option<Held>,
    clock_offset_ms: Option<i64>,
    notes: Vec<String>,
}

/// An operator's word, on its way to the task that follows the CA.
#[derive(Debug)]
pub(crate) struct AcceptEpoch {
    pub(crate) epoch: String,
    pub(crate) answer: oneshot::Sender<Result<(), AcceptEpochError>>,
}

/// Why an epoch was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AcceptEpochError {
    #[error("no epoch is held: there is nothing to accept")]
    NothingHeld,
    #[error("the epoch that is held is `{held}`; look at `bonafide-agent status` again, and accept what you see there")]
    OtherEpoch { held: Arc<str> },
    #[error("the answer could not be written down: {reason}")]
    NotWritten { reason: String },
    #[error("this agent does not follow a CA at the moment; see `bonafide-agent status`")]
    NotFollowing,
    #[error("the agent is stopping")]
    Stopping,
}

/// This agent at one moment.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) version: &'static str,
    pub(crate) trust_domain: TrustDomain,
    /// `None` before the node has joined, and after it was removed.
    pub(crate) node: Option<SpiffeId>,
    pub(crate) node_not_after: Option<Timestamp>,
    pub(crate) ca: Option<Connection>,
    pub(crate) position: Option<Position>,
    pub(crate) bundle_sequence: Option<u64>,
    pub(crate) held: Option<Held>,
    /// The CA's clock minus this node's.
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) health: Vec<PartHealth>,
    /// What works with less.
    pub(crate) notes: Vec<String>,
}

impl NodeStatus {
    /// The receiver belongs to the task that follows the CA.
    pub(crate) fn new(
        health: Health,
        metrics: Metrics,
        views: ViewStore,
        live: watch::Receiver<Option<Arc<Live>>>,
    ) -> (Self, mpsc::Receiver<AcceptEpoch>) {
        let (accept, accepted) = mpsc::channel(4);
        let facts = Mutex::new(Facts::default());
        (Self(Arc::new(Shared { facts, health, metrics, views, live, accept })), accepted)
    }

    /// All of it, as of now.
    pub(crate) fn read(&self) -> NodeFacts {
        let view = self.0.views.snapshot();
        let facts = self.lock().clone();
        NodeFacts {
            version: env!("CARGO_PKG_VERSION"),
            trust_domain: view.trust_domain().clone(),
            node: facts.node,
            node_not_after: facts.node_not_after,
            ca: self.0.live.borrow().as_ref().map(|live| live.connection()),
            position: view.position().cloned(),
            bundle_sequence: view.bundles().get(view.trust_domain()).and_then(|bundle| bundle.sequence()),
            held: facts.held,
            clock_offset_ms: facts.clock_offset_ms,
            health: self.0.health.parts(),
            notes: facts.notes,
        }
    }

    /// Lets a held epoch in.
    pub(crate) async fn accept_epoch(&self, epoch: &str) -> Result<(), AcceptEpochError> {
        let (answer, answered) = oneshot::channel();
        let word = AcceptEpoch { epoch: epoch.to_owned(), answer };
        self.0.accept.try_send(word).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AcceptEpochError::NotFollowing,
            mpsc::error::TrySendError::Closed(_) => AcceptEpochError::Stopping,
        })?;
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(AcceptEpochError::Stopping),
            Err(_) => Err(AcceptEpochError::NotFollowing),
        }
    }

    pub(crate) fn set_node(&self, node: Option<SpiffeId>, not_after: Option<Timestamp>) {
        self.0.metrics.node_svid_expiry.set(not_after.map_or(0, Timestamp::unix_seconds));
        let mut facts = self.lock();
        facts.node = node;
        facts.node_not_after = not_after;
    }

    pub(crate) fn set_held(&self, held: Option<Held>) {
        self.lock().held = held;
    }

    /// Adds a line on what works with less.
    pub(crate) fn note(&self, note: String) {
        let mut facts = self.lock();
        if !facts.notes.contains(&note) {
            facts.notes.push(note);
        }
    }

    /// Takes in what the CA's clock said. Half the way back and forth is not known, and small against what matters here.
    pub(crate) fn measure_clock(&self, ca_ms: i64, now: Timestamp) {
        if ca_ms <= 0 {
            return;
        }
        let offset = ca_ms.saturating_sub(now.unix_millis());
        let before = self.lock().clock_offset_ms.replace(offset);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a clock's error")]
        self.0.metrics.clock_offset.set(offset as f64 / 1000.0);
        let far = |offset: i64| offset.unsigned_abs() >= FAR_MS;
        if !far(offset) {
            self.0.health.set(Part::Clock, State::Ready, "");
            return;
        }
        let text = describe_offset(offset);
        if !before.is_some_and(far) {
            warn!(offset_ms = offset, "{text}");
        }
        self.0.health.set(Part::Clock, State::Degraded, text);
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.0.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With the sign in words: which clock is behind decides which one to set.
pub(crate) fn describe_offset(ca_minus_node_ms: i64) -> String {
    let seconds = ca_minus_node_ms.unsigned_abs() / 1000;
    let side = if ca_minus_node_ms > 0 { "behind" } else { "ahead of" };
    format!(
        "this node's clock is {seconds} s {side} the CA's; set the wrong one of the two, or certificates count as expired or \
         not yet valid"
    )
}

/// The task that follows the CA answers within this, or it does not follow one.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(5);
/// From here on a difference of clocks is told: SVIDs are backdated by at least a second, JWTs have 30 s of leeway.
const FAR_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::View;

    fn status() -> (NodeStatus, Health) {
        let health = Health::new();
        let views = ViewStore::new(View::empty(TrustDomain::parse("example.org").unwrap()));
        let (_, live) = watch::channel(None);
        (NodeStatus::new(health.clone(), Metrics::new(), views, live).0, health)
    }

    #[test]
    fn clocks_are_compared_with_their_sign() {
        let (status, health) = status();
        let now = Timestamp::from_unix_seconds(1_000_000);
        status.measure_clock(1_000_009_999, now);
        assert_eq!(health.part(Part::Clock).state, State::Ready);
        status.measure_clock(1_000_042_000, now);
        assert!(health.part(Part::Clock).reason.starts_with("this node's clock is 42 s behind the CA's"));
        status.measure_clock(999_958_000, now);
        assert!(health.part(Part::Clock).reason.starts_with("this node's clock is 42 s ahead of the CA's"));
        assert_eq!(status.read().clock_offset_ms, Some(-42_000));
        status.measure_clock(0, now);
        assert_eq!(status.read().clock_offset_ms, Some(-42_000), "a CA that says no time is not compared");
        status.measure_clock(1_000_000_000, now);
        assert_eq!(health.part(Part::Clock).state, State::Ready);
    }

    #[tokio::test]
    async fn nobody_to_accept_an_epoch_is_an_error() {
        let (status, _) = status();
        assert!(matches!(status.accept_epoch("e").await, Err(AcceptEpochError::Stopping)));
    }
}
