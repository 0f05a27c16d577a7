//! JWT-SVIDs, shared by the workloads of a service: one for each list of audiences, until half of its life is over. After
//! that a new one is asked for, and where none comes soon the old one is handed out for as long as it is valid (T-37).

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    jwt,
    spiffe::SpiffeId,
};
use quick_cache::sync::Cache;
use zeroize::Zeroizing;

use super::Failure;
use crate::{
    rate::{Bucket, Rate},
    renewal::Authority,
    view::{Service, View},
};

/// How many tokens are kept, and how long is waited for new ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JwtLimits {
    /// Tokens kept; the least used is forgotten. Default 4,096.
    pub(crate) entries: usize,
    /// The longest wait for a new token where there is a valid one. Default 1 s.
    pub(crate) patience: Duration,
    /// After a wait in vain, how long the valid one is handed out at once. Default 5 s.
    pub(crate) rest: Duration,
    /// New tokens for one service; more are refused, so that a workload that asks for ever new audiences uses up its
    /// service's share and not the node's. Default 10 a second, 100 at once.
    pub(crate) per_service: Rate,
}

impl Default for JwtLimits {
    fn default() -> Self {
        JwtLimits {
            entries: 4096,
            patience: Duration::from_secs(1),
            rest: Duration::from_secs(5),
            per_service: Rate { per_second: 10, burst: 100 },
        }
    }
}

/// A JWT-SVID that has been verified with this node's bundle.
pub(crate) struct JwtSvid {
    spiffe_id: SpiffeId,
    token: Zeroizing<String>,
    kid: String,
    renew_at: Timestamp,
    not_after: Timestamp,
}

/// The tokens of this node's services. Clones are the same cache.
#[derive(Clone, Debug)]
pub(crate) struct JwtCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    authority: Arc<dyn Authority>,
    clock: Arc<dyn Clock>,
    limits: JwtLimits,
    entries: Cache<Key, Arc<Entry>>,
    budgets: Mutex<HashMap<Arc<str>, Bucket>>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    service_id: Arc<str>,
    audience: Arc<[String]>,
}

#[derive(Debug, Default)]
struct Entry {
    svid: ArcSwapOption<JwtSvid>,
    /// One request at a time; who waits finds its result.
    flight: tokio::sync::Mutex<()>,
    /// Boot clock, milliseconds: no request before.
    rest_until: AtomicU64,
}

impl JwtCache {
    pub(crate) fn new(authority: Arc<dyn Authority>, clock: Arc<dyn Clock>, limits: JwtLimits) -> JwtCache {
        let entries = Cache::new(limits.entries);
        JwtCache(Arc::new(Shared { authority, clock, limits, entries, budgets: Mutex::default() }))
    }

    /// A token of `service` for `audience`. Waits for the CA as long as the client of the CA does, less if there is a
    /// valid token. May be dropped at any time.
    ///
    /// # Errors
    /// The CA gave none, and there is no valid one.
    pub(crate) async fn fetch(
        &self,
        service: &Service,
        audience: &[String],
        view: &View,
    ) -> Result<Arc<JwtSvid>, Failure> {
        let Shared { clock, limits, entries, .. } = &*self.0;
        let key = Key { service_id: service.id.clone(), audience: audience.into() };
        let entry = entries.get(&key).unwrap_or_else(|| {
            let made = Arc::new(Entry::default());
            match entries.get_or_insert_with(&key, || Ok::<_, std::convert::Infallible>(made)) {
                Ok(entry) => entry,
            }
        });
        let valid = || entry.svid.load_full().filter(|svid| svid.is_usable(service, view, clock.now()));
        let fresh = || valid().filter(|svid| clock.now() < svid.renew_at);
        if let Some(svid) = fresh() {
            return Ok(svid);
        }
        let renew = async {
            let _flight = entry.flight.lock().await;
            match fresh() {
                Some(svid) => Ok(svid),
                None => self.issue(service, audience, view).await.inspect(|svid| entry.svid.store(Some(svid.clone()))),
            }
        };
        let Some(old) = valid() else { return renew.await };
        if clock.boot() < Duration::from_millis(entry.rest_until.load(Ordering::Relaxed)) {
            return Ok(old);
        }
        match tokio::time::timeout(limits.patience, renew).await {
            Ok(Ok(svid)) => Ok(svid),
            Ok(Err(_)) | Err(_) => {
                let until = (clock.boot() + limits.rest).as_millis();
                entry.rest_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
                Ok(valid().unwrap_or(old))
            }
        }
    }

    async fn issue(&self, service: &Service, audience: &[String], view: &View) -> Result<Arc<JwtSvid>, Failure> {
        let Shared { authority, clock, limits, budgets, .. } = &*self.0;
        let allowed = {
            let mut budgets = budgets.lock().unwrap_or_else(PoisonError::into_inner);
            let boot = clock.boot();
            budgets.entry(service.id.clone()).or_insert_with(|| Bucket::full(limits.per_service)).take(boot)
        };
        if !allowed {
            let message = format!(
                "more than {} new JWT-SVIDs a second for this service; use the same audiences again",
                limits.per_service.per_second
            );
            return Err(Failure { code: "too-many-requests".into(), message });
        }
        let asked_at = clock.now();
        let issued = authority
            .issue_jwt(&service.id, audience)
            .await
            .map_err(|error| Failure { code: error.code().to_owned(), message: error.to_string() })?;
        let unusable = |message: String| Failure { code: "token-unusable".into(), message };
        let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
        let token = Zeroizing::new(issued.token);
        let verified = jwt::verify(&token, &audience, view.bundles(), clock.now())
            .map_err(|error| unusable(format!("the CA's token does not verify on this node: {error}")))?;
        if *verified.id() != service.spiffe_id {
            return Err(unusable(format!("the CA's token is for `{}`", verified.id())));
        }
        let not_after = verified.expires_at();
        let renew_at = asked_at.saturating_add(not_after.since(asked_at) / 2);
        let kid = verified.key_id().to_owned();
        Ok(Arc::new(JwtSvid { spiffe_id: service.spiffe_id.clone(), token, kid, renew_at, not_after }))
    }

    /// Forgets what has expired and what belongs to no service of this node.
    pub(crate) fn prune(&self, view: &View, now: Timestamp) {
        let known = |service_id: &str| view.position().is_none() || view.service(service_id).is_some();
        self.0.entries.retain(|key, entry| {
            let expired = entry.svid.load().as_ref().is_some_and(|svid| now >= svid.not_after);
            known(&key.service_id) && !expired
        });
        self.0.budgets.lock().unwrap_or_else(PoisonError::into_inner).retain(|service_id, _| known(service_id));
    }
}

impl JwtSvid {
    pub(crate) fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The token itself, a bearer credential.
    pub(crate) fn expose_secret(&self) -> &str {
        &self.token
    }

    /// Valid, of this service, and signed by a key that the bundle still has.
    fn is_usable(&self, service: &Service, view: &View, now: Timestamp) -> bool {
        now < self.not_after
            && self.spiffe_id == service.spiffe_id
            && view.bundles().get(view.trust_domain()).is_some_and(|bundle| bundle.jwt_authority(&self.kid).is_some())
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
