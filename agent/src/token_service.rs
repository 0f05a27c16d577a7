//! The trust domain's token service on this node: it mints the transaction tokens of edge services under a delegation of the CA, so that an
//! edge pays a call on a Unix socket and none over the network.
//!
//! [`delegation`] keeps a delegation for a key that never leaves this process; [`exchange`] turns a subject token into a transaction token by
//! the rules that the CA itself goes by, and [`look`] has the CA ask for a key of an issuer that is not known; [`mint_log`] has a record of it
//! written before the token leaves, and [`collect`] brings those to the CA.

mod collect;
mod delegation;
mod exchange;
mod look;
mod mint_log;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bonafide_ca_api::NodeName;
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    jwt::user_issuers::UserIssuers,
    spiffe::TrustDomain,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub(crate) use self::exchange::{Asked, MintError};
use self::{
    collect::Collector,
    delegation::{Delegating, Held},
    exchange::Subjects,
    look::Looks,
    mint_log::{MintLog, MintLogLimits, MintLogStatus},
};
use crate::{
    ca_client::CaClient,
    health::{Health, Part, State},
    metrics::Metrics,
    view::{TokenKeys, ViewStore},
};

/// What it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) views: ViewStore,
    pub(crate) ca: CaClient,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    /// The agent's data directory.
    pub(crate) directory: PathBuf,
}

/// The token service of this agent. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct TokenService(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    trust_domain: TrustDomain,
    /// What may be minted with at this moment.
    held: ArcSwapOption<Held>,
    /// Once the node has a name and its first delegation.
    log: OnceLock<MintLog>,
    believed: ArcSwap<Believed>,
    looks: Looks,
    subjects: Subjects,
}

/// By whose word subject tokens are believed, as the CA told it.
#[derive(Debug)]
struct Believed {
    /// What they were made of.
    keys: Arc<TokenKeys>,
    users: UserIssuers,
    /// Until when these issuers' keys count.
    until: Timestamp,
    /// Grows with each change.
    generation: u64,
}

/// The token service at one moment, for `status`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TokenStatus {
    /// `kid` of the key that is delegated to.
    pub(crate) key_id: Option<String>,
    pub(crate) expires_at: Option<Timestamp>,
    /// The edges it is for.
    pub(crate) edges: Vec<String>,
    pub(crate) log: Option<MintLogStatus>,
}

impl TokenService {
    pub(crate) fn new(parts: Parts) -> Self {
        let view = parts.views.snapshot();
        let trust_domain = view.trust_domain().clone();
        let believed =
            Believed { keys: Arc::default(), users: UserIssuers::default(), until: Timestamp::MAX, generation: 0 };
        Self(Arc::new(Shared {
            subjects: Subjects::new(trust_domain.clone()),
            trust_domain,
            held: ArcSwapOption::empty(),
            log: OnceLock::new(),
            believed: ArcSwap::from_pointee(believed),
            looks: Looks::default(),
            parts,
        }))
    }

    /// Keeps the delegation renewed and brings what was minted to the CA, until `stop` fires.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let log = tokio::sync::watch::Sender::new(None);
        let delegating = Delegating { service: self.clone(), opened: log.clone() };
        let collector = Collector { service: self.clone(), opened: log.subscribe() };
        tokio::join!(delegating.run(&stop), collector.run(&stop), self.follow(&stop));
    }

    /// Keeps what subject tokens are believed by.
    async fn follow(&self, stop: &CancellationToken) {
        let mut views = self.0.parts.views.changes();
        loop {
            views.borrow_and_update();
            self.believe(self.0.parts.views.snapshot().token_keys());
            tokio::select! {
                () = stop.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What is believed now.
    fn believed(&self, now: Timestamp) -> Arc<Believed> {
        let believed = self.0.believed.load_full();
        if now < believed.until {
            return believed;
        }
        self.publish(&believed.keys, &believed);
        self.0.believed.load_full()
    }

    fn believe(&self, keys: &Arc<TokenKeys>) {
        let before = self.0.believed.load_full();
        if !Arc::ptr_eq(&before.keys, keys) {
            self.0.subjects.replace_keys(keys.txn_keys());
            self.publish(keys, &before);
        }
    }

    fn publish(&self, keys: &Arc<TokenKeys>, before: &Believed) {
        let (users, until) = exchange::user_issuers(keys.issuers(), self.0.parts.clock.now());
        let generation = before.generation + 1;
        self.0.believed.store(Arc::new(Believed { keys: Arc::clone(keys), users, until, generation }));
    }

    /// For `status`.
    pub(crate) fn status(&self) -> TokenStatus {
        let held = self.0.held.load_full();
        TokenStatus {
            key_id: held.as_ref().map(|held| held.delegation.key.key_id().to_owned()),
            expires_at: held.as_ref().map(|held| held.delegation.expires_at),
            edges: held
                .map(|held| held.delegation.edges.iter().map(|edge| edge.id.to_string()).collect())
                .unwrap_or_default(),
            log: self.0.log.get().map(MintLog::status),
        }
    }

    /// The log, opened at the first delegation.
    async fn log_of(&self, node: NodeName) -> Option<MintLog> {
        if let Some(log) = self.0.log.get() {
            return Some(log.clone());
        }
        let directory = self.0.parts.directory.clone();
        let clock = Arc::clone(&self.0.parts.clock);
        let open = move || MintLog::open(&directory, &node, MintLogLimits::default(), clock);
        let opening = tokio::task::spawn_blocking(open);
        let log = opening.await.ok()?;
        let log = self.0.log.get_or_init(|| log).clone();
        self.tell_log();
        Some(log)
    }

    /// How the log is, for health and metrics.
    fn tell_log(&self) {
        let Some(status) = self.0.log.get().map(MintLog::status) else { return };
        let metrics = &self.0.parts.metrics;
        metrics.mint_log_waiting.set(i64::try_from(status.waiting).unwrap_or(i64::MAX));
        metrics.mint_log_bytes.set(i64::try_from(status.bytes).unwrap_or(i64::MAX));
        let health = &self.0.parts.health;
        match status.trouble {
            Some(trouble) => {
                if health.part(Part::MintLog).state == State::Ready {
                    warn!(error = %trouble, "no transaction tokens are minted: they cannot be recorded");
                }
                health.set(Part::MintLog, State::Degraded, trouble.to_string());
            }
            None => health.set(Part::MintLog, State::Ready, ""),
        }
    }
}
