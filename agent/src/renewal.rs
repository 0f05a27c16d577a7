//! Keeps the SVIDs in demand renewed: makes keys, has the CA certify them in batches, and checks what comes back.
//!
//! An SVID is renewed at 40 to 50 % of its life, each service at a moment of its own, so that a CA may be away for half a
//! lifetime without anyone noticing. A renewal that fails is tried again, later and later, with jitter and never before the
//! time the CA named; it never takes away an SVID that is still valid. Renewal times are wall clock times, since certificates
//! are; pauses between attempts are on the boot clock, which no one sets.

mod attempt;
mod issue;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bonafide_verifier::clock::{Clock, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::attempt::Attempt;
pub(crate) use self::attempt::random;
use crate::{
    ca_client::{CaClient, CaError, IssuedJwt, IssuedX509, ItemRefusal, X509Request},
    health::{Health, Part, State},
    metrics::{ByOutcome, Metrics, Outcome},
    runtime_state::{KeptSvid, RuntimeState},
    svid_cache::{Failure, SvidCache, WorkloadSvid, jwt::JwtCache},
    view::{Service, View, ViewStore},
};

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where certificates and tokens come from: the CA, or a stand-in for it in a test.
pub(crate) trait Authority: fmt::Debug + Send + Sync {
    /// One result for each request, in their order.
    fn issue_x509(
        &self,
        requests: Vec<X509Request>,
    ) -> Boxed<'_, Result<Vec<Result<IssuedX509, ItemRefusal>>, CaError>>;

    fn issue_jwt<'a>(&'a self, service_id: &'a str, audience: &'a [String]) -> Boxed<'a, Result<IssuedJwt, CaError>>;

    /// Completes when a new connection comes up, counted from the call.
    fn reconnected(&self) -> Boxed<'static, ()>;
}

impl Authority for CaClient {
    fn issue_x509(
        &self,
        requests: Vec<X509Request>,
    ) -> Boxed<'_, Result<Vec<Result<IssuedX509, ItemRefusal>>, CaError>> {
        Box::pin(CaClient::issue_x509(self, requests))
    }

    fn issue_jwt<'a>(&'a self, service_id: &'a str, audience: &'a [String]) -> Boxed<'a, Result<IssuedJwt, CaError>> {
        Box::pin(CaClient::issue_jwt(self, service_id, audience))
    }

    fn reconnected(&self) -> Boxed<'static, ()> {
        Box::pin(CaClient::reconnected(self))
    }
}

/// What survives a restart of the agent. Its methods do small file work.
pub(crate) trait Keep: fmt::Debug + Send + Sync {
    fn keep(&self, svid: &KeptSvid);
    fn forget(&self, service_id: &str);
}

impl Keep for RuntimeState {
    fn keep(&self, svid: &KeptSvid) {
        RuntimeState::keep(self, svid);
    }

    fn forget(&self, service_id: &str) {
        RuntimeState::forget(self, service_id);
    }
}

/// How much is asked of the CA at once, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RenewalLimits {
    /// Keys in one request to the CA; more go in the next. Default 100.
    pub(crate) batch: usize,
    /// Requests at once; what is due meanwhile waits and shares the next. Default 4.
    pub(crate) requests: usize,
    /// The first pause after a failure; doubled after each further one. Default 1 s, for short lifetimes 1/50 of them.
    pub(crate) first_pause: Duration,
    /// The longest pause. Default 15 s.
    pub(crate) longest_pause: Duration,
    /// The longest pause that the CA may ask for. Default 10 min.
    pub(crate) longest_hint: Duration,
}

impl Default for RenewalLimits {
    fn default() -> Self {
        RenewalLimits {
            batch: 100,
            requests: 4,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(15),
            longest_hint: Duration::from_secs(600),
        }
    }
}

/// The one task that changes the SVID cache.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) cache: SvidCache,
    pub(crate) jwts: JwtCache,
    pub(crate) views: ViewStore,
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) keep: Arc<dyn Keep>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: RenewalLimits,
}

/// What a request to the CA came to, service by service.
type Outcomes = Vec<(Arc<Service>, Result<WorkloadSvid, Attempt>)>;

/// What is under way and what failed.
#[derive(Default)]
struct Progress {
    requests: JoinSet<Outcomes>,
    asked: HashMap<tokio::task::Id, Vec<Arc<str>>>,
    in_flight: HashSet<Arc<str>>,
    failing: HashMap<Arc<str>, Attempt>,
}

impl Renewal {
    /// Runs until `stop` fires; requests under way are given up then.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut progress = Progress::default();
        let mut views = self.views.changes();
        let mut reconnected = self.authority.reconnected();
        loop {
            views.borrow_and_update();
            let view = self.views.snapshot();
            self.reconcile(&view, &mut progress).await;
            let (wall, pause) = self.start_what_is_due(&view, &mut progress);
            self.tell(&view, &progress);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.cache.wanted() => {}
                changed = views.changed() => if changed.is_err() { break },
                Some(ended) = progress.requests.join_next_with_id() => self.settle(ended, &mut progress).await,
                () = &mut reconnected => {
                    reconnected = self.authority.reconnected();
                    self.try_again_soon(&view, &mut progress);
                }
                () = self.clock.sleep_until(wall) => {}
                () = self.clock.sleep_for(pause) => {}
            }
        }
        progress.requests.shutdown().await;
    }

    /// Drops what is gone, does not apply any more, or has expired.
    async fn reconcile(&self, view: &View, progress: &mut Progress) {
        let now = self.clock.now();
        let mut forget = Vec::new();
        let mut keep = Vec::new();
        // Before the first state from the CA nothing is known to be gone.
        if view.position().is_some() {
            forget = self.cache.retain(view);
            progress.failing.retain(|id, _| view.service(id).is_some());
        }
        for slot in self.cache.slots() {
            let (Some(svid), Some(service)) = (slot.svid(), view.service(slot.service_id())) else { continue };
            if now >= svid.not_after() && slot.is_in_demand(service, now) {
                warn!(spiffe_id = %svid.spiffe_id(), not_after = %svid.not_after(), "X.509-SVID expired without a renewal");
            }
            if now >= svid.not_after() || !svid.applies_to(service) {
                slot.put(None);
                forget.push(service.id.clone());
            } else if svid.kept().service_digest != service.digest() {
                let mut rebound = svid.rebound(service);
                if service.x509_ttl != svid.x509_ttl() {
                    // The operator wants another lifetime, not one after the next renewal.
                    rebound = rebound.due_at(now);
                }
                let rebound = Arc::new(rebound);
                slot.put(Some(rebound.clone()));
                keep.push(rebound);
                progress.failing.remove(&service.id);
            }
        }
        self.jwts.prune(view, now);
        if !forget.is_empty() {
            self.cache.changed();
        }
        self.store(keep, forget).await;
    }

    /// Starts requests for what is due, and says when the next is: on the wall clock, and from now on the boot clock.
    fn start_what_is_due(&self, view: &View, progress: &mut Progress) -> (Timestamp, Duration) {
        let (now, boot) = (self.clock.now(), self.clock.boot());
        let mut wall = now.saturating_add(LONGEST_REST);
        let mut pause = LONGEST_REST;
        let mut due: Vec<(Option<Timestamp>, Arc<Service>)> = Vec::new();
        for slot in self.cache.slots() {
            let Some(service) = view.service(slot.service_id()) else { continue };
            let svid = slot.usable(service, now);
            if let Some(svid) = &svid {
                wall = wall.min(svid.not_after());
            }
            if progress.in_flight.contains(&service.id) || !slot.is_in_demand(service, now) {
                continue;
            }
            if let Some(svid) = &svid
                && now < svid.renew_at()
            {
                wall = wall.min(svid.renew_at());
                continue;
            }
            if let Some(attempt) = progress.failing.get(&service.id)
                && boot < attempt.again
            {
                pause = pause.min(attempt.again - boot);
                continue;
            }
            due.push((svid.map(|svid| svid.not_after()), service.clone()));
        }
        // Who has nothing comes first, then who has the least life left.
        due.sort_by_key(|(not_after, _)| *not_after);
        let services: Vec<Arc<Service>> = due.into_iter().map(|(_, service)| service).collect();
        for batch in services.chunks(self.limits.batch.max(1)) {
            if progress.requests.len() >= self.limits.requests {
                break; // the next to end makes room
            }
            let ids: Vec<Arc<str>> = batch.iter().map(|service| service.id.clone()).collect();
            let before: Vec<u32> = ids.iter().map(|id| progress.failing.get(id).map_or(0, |a| a.failures)).collect();
            progress.in_flight.extend(ids.iter().cloned());
            let request = issue::Request {
                services: batch.to_vec(),
                failures_before: before,
                authority: self.authority.clone(),
                views: self.views.clone(),
                clock: self.clock.clone(),
                limits: self.limits,
            };
            let task = progress.requests.spawn(request.run());
            progress.asked.insert(task.id(), ids);
        }
        (wall, pause)
    }

    /// Publishes what came, notes what did not.
    async fn settle(
        &self,
        ended: Result<(tokio::task::Id, Outcomes), tokio::task::JoinError>,
        progress: &mut Progress,
    ) {
        let (id, outcomes) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a request for certificates ended by a fault of the agent");
                (error.id(), Vec::new())
            }
        };
        let asked = progress.asked.remove(&id).unwrap_or_default();
        for service_id in &asked {
            progress.in_flight.remove(service_id);
        }
        if outcomes.is_empty() {
            let again = self.clock.boot() + self.limits.longest_pause;
            for service_id in asked {
                let failure = Failure { code: "internal".into(), message: "a fault of the agent; see its log".into() };
                progress.failing.insert(service_id, Attempt { failures: 1, again, failure });
            }
        }
        let view = self.views.snapshot();
        let mut keep = Vec::new();
        for (service, outcome) in outcomes {
            let count = |outcome| self.metrics.svid_issuances.get_or_create(&ByOutcome { outcome }).inc();
            // Removed, or changed so that this SVID is not true of it, while the CA was asked.
            let Some(current) = view.service(&service.id) else { continue };
            let slot = self.cache.slot(current);
            match outcome {
                Ok(svid) => {
                    count(Outcome::ok);
                    progress.failing.remove(&service.id);
                    slot.set_failure(None);
                    if !svid.applies_to(current) {
                        continue;
                    }
                    info!(
                        spiffe_id = %svid.spiffe_id(), not_after = %svid.not_after(), renew_at = %svid.renew_at(),
                        "X.509-SVID issued"
                    );
                    let svid = Arc::new(svid);
                    slot.put(Some(svid.clone()));
                    keep.push(svid);
                }
                Err(attempt) => {
                    count(if attempt.failure.code == "ca-unreachable" { Outcome::failed } else { Outcome::refused });
                    let until = slot.usable(current, self.clock.now()).map(|svid| svid.not_after().to_string());
                    warn!(
                        spiffe_id = %service.spiffe_id, reason = %attempt.failure.code, error = %attempt.failure.message,
                        valid_until = until.as_deref().unwrap_or("none"),
                        retry_in_ms = (attempt.again.saturating_sub(self.clock.boot())).as_millis() as u64,
                        "no new X.509-SVID"
                    );
                    slot.set_failure(Some(attempt.failure.clone()));
                    progress.failing.insert(service.id.clone(), attempt);
                }
            }
        }
        self.cache.changed();
        self.store(keep, Vec::new()).await;
    }

    /// A CA is back: who has nothing asks at once, the others spread.
    fn try_again_soon(&self, view: &View, progress: &mut Progress) {
        let (now, boot) = (self.clock.now(), self.clock.boot());
        for (id, attempt) in &mut progress.failing {
            let Some(service) = view.service(id) else { continue };
            let within = match self.cache.slot(service).usable(service, now) {
                None => Duration::ZERO,
                Some(svid) => (svid.not_after().since(now) / 10).min(self.limits.longest_pause),
            };
            attempt.again = attempt.again.min(boot + within.mul_f64(random()));
        }
    }

    async fn store(&self, keep: Vec<Arc<WorkloadSvid>>, forget: Vec<Arc<str>>) {
        if keep.is_empty() && forget.is_empty() {
            return;
        }
        let store = self.keep.clone();
        let writing = tokio::task::spawn_blocking(move || {
            forget.iter().for_each(|service_id| store.forget(service_id));
            keep.iter().for_each(|svid| store.keep(svid.kept()));
        });
        if let Err(error) = writing.await {
            tracing::error!(%error, "keeping SVIDs ended by a fault of the agent");
        }
    }

    fn tell(&self, view: &View, progress: &Progress) {
        let now = self.clock.now();
        let (mut valid, mut lost) = (0, 0);
        for slot in self.cache.slots() {
            let Some(service) = view.service(slot.service_id()) else { continue };
            if slot.usable(service, now).is_some() {
                valid += 1;
            } else if slot.is_in_demand(service, now) && progress.failing.contains_key(&service.id) {
                lost += 1;
            }
        }
        self.metrics.svids.set(valid);
        let first =
            progress.failing.values().next().map(|attempt| attempt.failure.message.as_str()).unwrap_or_default();
        match (lost, progress.failing.len()) {
            (0, 0) => self.health.set(Part::Renewal, State::Ready, ""),
            (0, failing) => {
                self.health.set(Part::Renewal, State::Degraded, format!("{failing} renewals fail: {first}"));
            }
            (lost, _) => {
                self.health.set(Part::Renewal, State::Unready, format!("{lost} services have no valid SVID: {first}"));
            }
        }
    }
}

/// The clocks are looked at again at least this often.
const LONGEST_REST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
