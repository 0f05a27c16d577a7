//! The issuers of users with the keys that they have now: fetched every hour, kept over restarts, and believed until they are too old.
//!
//! A provider that is down costs nothing for a day: that long what was fetched serves (`registry/issuer.rs`). A token
//! with a key that is not known has its issuer asked once more, at most every minute for all such tokens together.

mod fetch;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    jwt::user_issuers::{IssuerKeys, UserIssuer, UserIssuers},
    user::IssuerName,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use self::fetch::{FetchError, Limits, roots_of_pem};
use crate::{
    audit::Who,
    registry::{Issuer, IssuerError, KeySource, Registry, no_usable_key},
    store::WriteError,
};

/// Keeps the keys of all registered issuers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct IssuerKeeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    clock: Arc<dyn Clock>,
    limits: Limits,
    believed: ArcSwap<Believed>,
    /// Of each issuer that was asked.
    asked: Mutex<BTreeMap<IssuerName, Arc<Asked>>>,
}

/// What is believed at a moment.
#[derive(Debug)]
pub(crate) struct Believed {
    /// The registry's generation for which this was built.
    pub(crate) generation: Option<u64>,
    /// Keys are too old from then on.
    pub(crate) until: Timestamp,
    pub(crate) issuers: UserIssuers,
}

/// How it went when an issuer was asked.
#[derive(Debug)]
struct Asked {
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Last>,
    /// Grows with each answer, good or bad.
    answers: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    /// By the boot clock.
    at: Option<Duration>,
    /// Since the last good answer.
    failures: u32,
    failure: Option<Arc<FetchError>>,
}

/// Why keys were not refreshed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    /// No such issuer, or none whose keys are fetched, or none that the answer has.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// It has no answer that counts.
    #[error("the issuer `{name}` did not give its keys: {source}")]
    Fetch { name: IssuerName, source: Arc<FetchError> },
    /// Its keys are those of a file.
    #[error(
        "the keys of the issuer `{name}` come from a file and are not fetched; remove it and add it again with another file"
    )]
    FromFile { name: IssuerName },
    /// The answer could not be kept.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

impl IssuerKeeper {
    pub(crate) fn new(registry: Registry, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let believed = Believed { generation: None, until: Timestamp::MAX, issuers: UserIssuers::default() };
        let believed = ArcSwap::from_pointee(believed);
        Self { inner: Arc::new(Inner { registry, clock, limits, believed, asked: Mutex::default() }) }
    }

    /// The issuers, with the keys that count now.
    pub(crate) fn believed(&self) -> Arc<Believed> {
        let now = self.inner.clock.now();
        let snapshot = self.inner.registry.load();
        let generation = Some(snapshot.issuers_generation());
        let believed = self.inner.believed.load_full();
        if believed.generation == generation && now < believed.until {
            return believed;
        }
        let until = snapshot.issuers().filter_map(|issuer| issuer.keys_until()).filter(|until| now < *until).min();
        // INVARIANT: settings were checked before they were stored, and names and URLs are unique there.
        let issuers: Vec<UserIssuer> = snapshot.issuers().filter_map(|issuer| issuer.believed_at(now).ok()).collect();
        let issuers = UserIssuers::new(issuers).unwrap_or_default();
        let until = until.unwrap_or(Timestamp::MAX);
        let believed = Arc::new(Believed { generation, until, issuers });
        self.inner.believed.store(believed.clone());
        believed
    }

    /// Which issuers have not given their keys when they were asked last, for an operator.
    pub(crate) fn troubled(&self) -> Option<String> {
        let snapshot = self.inner.registry.load();
        let now = self.inner.clock.now();
        let of = |issuer: &Arc<Issuer>| {
            let failure = self.failure(issuer.name())?;
            let keys = match issuer.keys_until() {
                Some(until) if now < until => format!("its keys of before count until {until}"),
                Some(_) => "its keys are too old to count".to_owned(),
                None => "it has no keys".to_owned(),
            };
            Some(format!("`{}`: {failure}; {keys}", issuer.name()))
        };
        let troubled: Vec<String> = snapshot.issuers().filter_map(of).collect();
        (!troubled.is_empty()).then(|| troubled.join("; "))
    }

    /// Why its keys could not be fetched when that was tried last.
    pub(crate) fn failure(&self, name: &IssuerName) -> Option<Arc<FetchError>> {
        let asked = self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(name).and_then(|asked| asked.last().failure)
    }

    /// Asks an issuer now, because an administrator says so.
    pub(crate) async fn refresh(&self, name: &IssuerName, who: Who) -> Result<Arc<Issuer>, RefreshError> {
        let asked = self.asked(name);
        let _turn = asked.turn.lock().await;
        self.ask(name, &asked, who).await
    }

    /// Asks an issuer again because a token names a key of it that is not known; at most once in [`Limits::look_again`], however many such
    /// tokens come. Whoever comes while it is asked waits for that answer. Whether there is an answer newer than this call.
    pub(crate) async fn look_again(&self, name: &IssuerName) -> bool {
        let asked = self.asked(name);
        let before = *asked.answers.borrow();
        let _turn = asked.turn.lock().await;
        if *asked.answers.borrow() != before {
            return true;
        }
        let now = self.inner.clock.boot();
        if asked.last().at.is_some_and(|at| now.saturating_sub(at) < self.inner.limits.look_again) {
            return false;
        }
        self.ask(name, &asked, Who::Ca).await.is_ok()
    }

    /// Keeps all keys fresh, until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut changes = self.inner.registry.subscribe();
        // One for each issuer at most, so at most as many as there are issuers.
        let mut open: JoinSet<IssuerName> = JoinSet::new();
        let mut under_way: Vec<IssuerName> = Vec::new();
        loop {
            self.withdraw_old().await;
            let wait = self.start_due(&mut open, &mut under_way);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = open.join_next() => match ended {
                    Ok(name) => under_way.retain(|other| *other != name),
                    Err(error) => {
                        warn!(%error, "a look at an issuer failed");
                        under_way.clear();
                    }
                },
                changed = changes.changed() => if changed.is_err() { break },
                () = self.inner.clock.sleep_for(wait) => {}
            }
        }
        open.shutdown().await;
    }

    /// Nodes forget keys as soon as they are too old here.
    async fn withdraw_old(&self) {
        let (snapshot, now) = (self.inner.registry.load(), self.inner.clock.now());
        let told = &snapshot.token_keys().issuers;
        let too_old = |issuer: &Arc<Issuer>| {
            let is_told = told.iter().any(|told| told.name == issuer.name().as_str() && !told.jwks.is_empty());
            is_told && issuer.keys_until().is_some_and(|until| until <= now)
        };
        if snapshot.issuers().any(too_old)
            && let Err(error) = self.inner.registry.withdraw_old_keys().await
        {
            warn!(%error, "keys of an issuer are too old, and nodes could not be told; trying again");
        }
    }

    /// Starts what is due; how long until the next is.
    fn start_due(&self, open: &mut JoinSet<IssuerName>, under_way: &mut Vec<IssuerName>) -> Duration {
        let snapshot = self.inner.registry.load();
        self.inner
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| snapshot.issuer(name).is_some());
        let mut wait = LONGEST_WAIT;
        for issuer in snapshot.issuers().filter(|issuer| issuer.source == KeySource::Fetched) {
            if under_way.contains(issuer.name()) {
                continue;
            }
            let due_in = self.due_in(issuer);
            if due_in > Duration::ZERO {
                wait = wait.min(due_in);
                continue;
            }
            let (keeper, name) = (self.clone(), issuer.name().clone());
            under_way.push(name.clone());
            open.spawn(async move {
                // What went wrong is told where it is asked.
                let _ = keeper.refresh(&name, Who::Ca).await;
                name
            });
        }
        wait.max(SHORTEST_WAIT)
    }

    fn due_in(&self, issuer: &Issuer) -> Duration {
        let limits = &self.inner.limits;
        let last = self.asked(issuer.name()).last();
        let since_asked = last.at.map(|at| self.inner.clock.boot().saturating_sub(at));
        match (since_asked, &issuer.keys) {
            // A failure is tried again: soon at first, and then less often.
            (Some(since), _) if last.failures > 0 => {
                let wait = limits.retry.saturating_mul(1 << (last.failures - 1).min(10)).min(limits.longest_retry);
                wait.saturating_sub(since)
            }
            (Some(since), _) => limits.refresh.saturating_sub(since),
            (None, Some(held)) => {
                held.at.saturating_add(limits.refresh).since(self.inner.clock.now()).min(limits.refresh)
            }
            (None, None) => Duration::ZERO,
        }
    }

    fn asked(&self, name: &IssuerName) -> Arc<Asked> {
        let mut asked = self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.entry(name.clone()).or_default().clone()
    }

    /// Asks, and keeps the answer. The caller has the turn.
    async fn ask(&self, name: &IssuerName, asked: &Asked, who: Who) -> Result<Arc<Issuer>, RefreshError> {
        let snapshot = self.inner.registry.load();
        let issuer = snapshot.issuer(name).ok_or_else(|| IssuerError::Unknown { name: name.to_string() })?;
        if issuer.source == KeySource::File {
            return Err(RefreshError::FromFile { name: name.clone() });
        }
        let fetched = fetch::keys(issuer, &self.inner.limits, &self.inner.clock).await;
        let outcome = match fetched {
            Ok(keys) => self.keep(issuer, keys, who).await,
            Err(error) => Err(RefreshError::Fetch { name: name.clone(), source: Arc::new(error) }),
        };
        let failure = match &outcome {
            Ok(_) => None,
            Err(RefreshError::Fetch { source, .. }) => Some(source.clone()),
            Err(other) => Some(Arc::new(FetchError::NotKept { reason: other.to_string() })),
        };
        match &failure {
            None => info!(issuer = %name, "the issuer gave its keys"),
            Some(error) => {
                let keys_until = issuer.keys_until().map(|until| until.to_string());
                warn!(issuer = %name, reason = error.code(), %error, keys_until, "the issuer did not give its keys");
            }
        }
        asked.note(self.inner.clock.boot(), failure);
        outcome
    }

    async fn keep(&self, issuer: &Issuer, keys: IssuerKeys, who: Who) -> Result<Arc<Issuer>, RefreshError> {
        let settings = issuer.settings.clone();
        if UserIssuer::new(settings.clone(), &keys).map_err(IssuerError::Settings)?.key_count() == 0 {
            // Most likely a mistake at the provider or in `--algorithm`; what was good goes on until it is too old.
            return Err(no_usable_key(&settings).into());
        }
        self.inner.registry.set_issuer_keys(issuer.name(), keys, who).await.map_err(|error| match error {
            WriteError::Refused(refused) => RefreshError::Issuer(refused),
            WriteError::Store(error) => RefreshError::Store(error),
        })
    }
}

impl Default for Asked {
    fn default() -> Self {
        Self { turn: tokio::sync::Mutex::default(), last: Mutex::default(), answers: watch::Sender::new(0) }
    }
}

impl Asked {
    fn last(&self) -> Last {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, at: Duration, failure: Option<Arc<FetchError>>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = if failure.is_some() { last.failures.saturating_add(1) } else { 0 };
        *last = Last { at: Some(at), failures, failure };
        self.answers.send_modify(|answers| *answers += 1);
    }
}

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// The wall clock may have been set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
