//! The delegation under which this agent mints: asked for when the node has edges, renewed at half of its time with a new key, dropped as
//! soon as the CA ends it. Where the CA is away, the one that is held goes on to its end.

use std::{pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use bonafide_ca_api::NodeName;
use bonafide_verifier::{
    clock::Timestamp,
    jwt::delegation::{DelegatedEdge, Delegation},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{TokenService, mint_log::MintLog};
use crate::{
    ca_client::CaError,
    health::{Part, State},
    renewal::random,
    view::View,
};

/// A delegation, and the key that it is for. The key is in the memory of this process and nowhere else.
pub(super) struct Held {
    pub(super) delegation: Delegation,
    pub(super) pair: EcdsaKeyPair,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("key_id", &self.delegation.key.key_id()).finish_non_exhaustive()
    }
}

/// The task that keeps it.
pub(super) struct Delegating {
    pub(super) service: TokenService,
    pub(super) opened: watch::Sender<Option<MintLog>>,
}

type Asking = Pin<Box<dyn Future<Output = Result<(EcdsaKeyPair, String), Refusal>> + Send>>;

/// Why there is no new delegation.
struct Refusal {
    text: String,
    hint: Option<Duration>,
}

/// How it stands between two attempts.
#[derive(Default)]
struct Progress {
    asking: Option<Asking>,
    failures: u32,
    /// On the boot clock.
    again: Duration,
    trouble: String,
    /// The held one was among those of a view: one that is not there any more has ended.
    seen: bool,
}

impl Delegating {
    pub(super) async fn run(self, stop: &CancellationToken) {
        let parts = self.service.0.parts.clone();
        let mut progress = Progress::default();
        let mut views = parts.views.changes();
        let mut reconnected = Box::pin(parts.ca.reconnected());
        loop {
            views.borrow_and_update();
            let view = parts.views.snapshot();
            let wanted = edges(&view);
            self.drop_what_ended(&view, &wanted, &mut progress);
            let due = self.due(&wanted, &mut progress);
            self.tell(&wanted, &progress);
            let end = self.service.0.held.load().as_ref().map(|held| held.delegation.expires_at);
            let waits = progress.asking.is_none() && progress.failures > 0;
            let asking = async {
                match progress.asking.as_mut() {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = views.changed() => if changed.is_err() { break },
                () = &mut reconnected => {
                    reconnected = Box::pin(parts.ca.reconnected());
                    progress.again = Duration::ZERO;
                }
                answer = asking => {
                    progress.asking = None;
                    self.take(answer, &mut progress).await;
                }
                () = parts.clock.sleep_until(due.unwrap_or(Timestamp::MAX)), if due.is_some() => {}
                () = parts.clock.sleep_until(end.unwrap_or(Timestamp::MAX)), if end.is_some() => {}
                () = parts.clock.sleep_for(progress.again.saturating_sub(parts.clock.boot())),
                    if waits => {}
            }
        }
        self.service.0.held.store(None);
    }

    /// What has ended is used no more, at once.
    fn drop_what_ended(&self, view: &View, wanted: &[DelegatedEdge], progress: &mut Progress) {
        let shared = &self.service.0;
        let Some(held) = shared.held.load_full() else { return };
        let (now, key_id) = (shared.parts.clock.now(), held.delegation.key.key_id());
        let is_there = view.token_keys().delegation(key_id).is_some();
        let why = if is_there {
            progress.seen = true;
            (now >= held.delegation.expires_at).then_some("its time is over")
        } else if progress.seen {
            Some("the CA has ended it")
        } else if now >= held.delegation.expires_at {
            Some("its time is over")
        } else {
            None
        };
        if let Some(why) = why.or(wanted.is_empty().then_some("the node has no edge any more")) {
            warn!(key_id, why, "a delegation ended; nothing is minted under it any more");
            shared.held.store(None);
        }
    }

    /// Asks if it is time to. Gives the time of the next renewal, while there is nothing to ask.
    fn due(&self, wanted: &[DelegatedEdge], progress: &mut Progress) -> Option<Timestamp> {
        let parts = &self.service.0.parts;
        if wanted.is_empty() {
            (progress.failures, progress.asking) = (0, None);
            return None;
        }
        if progress.asking.is_some() {
            return None;
        }
        if let Some(held) = self.service.0.held.load().as_ref() {
            let mut has = held.delegation.edges.clone();
            has.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
            let half = half_time(&held.delegation);
            if has == wanted && parts.clock.now() < half {
                return Some(half);
            }
        }
        if progress.failures > 0 && parts.clock.boot() < progress.again {
            return None;
        }
        let ca = parts.ca.clone();
        progress.asking = Some(Box::pin(async move {
            let broken = |text: &str| Refusal { text: text.to_owned(), hint: None };
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .map_err(|_| broken("the cryptographic library makes no key"))?;
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())
                .map_err(|_| broken("the cryptographic library does not encode a key"))?;
            let refused = |error: CaError| Refusal { text: error.to_string(), hint: error.retry_after() };
            let statement = ca.delegate(spki.as_ref()).await.map_err(refused)?;
            Ok((pair, statement))
        }));
        None
    }

    async fn take(&self, answer: Result<(EcdsaKeyPair, String), Refusal>, progress: &mut Progress) {
        let outcome = match answer {
            Ok((pair, statement)) => self.accept(pair, &statement).await,
            Err(refusal) => Err(refusal),
        };
        let parts = &self.service.0.parts;
        match outcome {
            Ok(held) => {
                info!(
                    key_id = held.delegation.key.key_id(), edges = held.delegation.edges.len(), until = %held.delegation.expires_at,
                    "transaction tokens are minted here under a delegation of the CA"
                );
                let key_id = held.delegation.key.key_id();
                progress.seen = parts.views.snapshot().token_keys().delegation(key_id).is_some();
                (progress.failures, progress.trouble) = (0, String::new());
                parts.metrics.delegations.inc();
                self.service.0.held.store(Some(Arc::new(held)));
            }
            Err(refusal) => {
                progress.failures = progress.failures.saturating_add(1);
                let pause = pause(progress.failures, refusal.hint, random());
                progress.again = parts.clock.boot().saturating_add(pause);
                if progress.trouble != refusal.text {
                    warn!(error = refusal.text, "no new delegation for transaction tokens");
                }
                progress.trouble = refusal.text;
            }
        }
    }

    /// The statement must be what was asked for: of this node, for this very key, by the token service.
    async fn accept(&self, pair: EcdsaKeyPair, statement: &str) -> Result<Held, Refusal> {
        let unusable = |why: String| Refusal { text: format!("the CA's delegation cannot be used: {why}"), hint: None };
        let shared = &self.service.0;
        let view = shared.parts.views.snapshot();
        let delegation = Delegation::verify(statement, view.token_keys().service(), &shared.trust_domain)
            .map_err(|error| unusable(error.to_string()))?;
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key());
        if !spki.is_ok_and(|spki| spki.as_ref() == delegation.key.public_key().spki()) {
            return Err(unusable("it is for another key".into()));
        }
        let node = NodeName::parse(&delegation.node).map_err(|error| unusable(error.to_string()))?;
        match self.service.log_of(node).await {
            Some(log) => drop(self.opened.send_replace(Some(log))),
            None => return Err(unusable("the mint log cannot be opened".into())),
        }
        Ok(Held { delegation, pair })
    }

    fn tell(&self, wanted: &[DelegatedEdge], progress: &Progress) {
        let shared = &self.service.0;
        let held = shared.held.load_full();
        let expiry = held.as_ref().map_or(0, |held| held.delegation.expires_at.unix_seconds());
        shared.parts.metrics.delegation_expiry.set(expiry);
        let (state, reason) = match (wanted.is_empty(), &held, progress.trouble.as_str()) {
            (true, _, _) | (false, Some(_), "") => (State::Ready, String::new()),
            (false, None, "") => (State::Degraded, "the node has edge services and no delegation yet".to_owned()),
            (false, None, trouble) => {
                (State::Degraded, format!("no transaction tokens are minted for the node's edge services: {trouble}"))
            }
            (false, Some(held), trouble) => {
                let until = held.delegation.expires_at;
                (State::Degraded, format!("the delegation could not be renewed and ends at {until}: {trouble}"))
            }
        };
        shared.parts.health.set(Part::Delegation, state, reason);
    }
}

/// The edges of a view, as a delegation names them, by ID.
fn edges(view: &View) -> Vec<DelegatedEdge> {
    let mut edges: Vec<_> = view
        .services()
        .iter()
        .filter(|service| service.is_edge())
        .map(|service| DelegatedEdge {
            id: service.spiffe_id.clone(),
            scopes: service.edge_scopes.clone(),
            issuers: service.edge_issuers.clone(),
        })
        .collect();
    edges.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
    edges
}

fn half_time(delegation: &Delegation) -> Timestamp {
    delegation.issued_at.saturating_add(delegation.expires_at.since(delegation.issued_at) / 2)
}

/// Doubles from a second to a minute, less up to a half by chance. The CA's word counts in full.
fn pause(failures: u32, hint: Option<Duration>, random: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
    let own = doubled.mul_f64(0.5 + random / 2.0);
    hint.map_or(own, |hint| own.max(hint.min(LONGEST_HINT)))
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_HINT: Duration = Duration::from_secs(600);
