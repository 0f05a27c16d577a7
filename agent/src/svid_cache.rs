//! The X.509-SVIDs of this node's services, each shared by all workloads of its service. Readers take no lock: a slot per
//! service holds the current SVID behind an atomic swap. [`crate::renewal`] fills the slots, the Workload API reads them.
//!
//! An SVID is made when a workload first asks for its service, and renewed for as long as someone watches it or asked
//! within its last lifetime: what nobody asks for costs no key, no certificate and none of the node's quota.

pub(crate) mod jwt;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    spiffe::{PublicKey, SpiffeId},
};
use tokio::sync::{Notify, watch};

use crate::{
    generated::local::ServiceStatus,
    runtime_state::KeptSvid,
    view::{Service, View},
};

/// The current SVIDs. Clones are the same cache.
#[derive(Clone, Debug)]
pub(crate) struct SvidCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    slots: ArcSwap<HashMap<Arc<str>, Arc<Slot>>>,
    generation: watch::Sender<u64>,
    wanted: Notify,
}

/// An SVID and its key, as made for one service.
#[derive(Debug)]
pub(crate) struct WorkloadSvid {
    kept: KeptSvid,
    dns_names: Vec<String>,
    x509_ttl: Duration,
    chain_der: Vec<u8>,
    public_key: Option<PublicKey>,
}

/// The place of one service's SVID.
#[derive(Debug)]
pub(crate) struct Slot {
    service_id: Arc<str>,
    svid: ArcSwapOption<WorkloadSvid>,
    failure: ArcSwapOption<Failure>,
    watchers: AtomicU32,
    /// Milliseconds since the Unix epoch.
    asked_at: AtomicI64,
}

/// Why there is no new SVID for a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    /// Stable word for logs and programs.
    pub(crate) code: String,
    /// One line for an operator.
    pub(crate) message: String,
}

/// Someone who wants to be told of every new SVID of a service.
#[derive(Debug)]
pub(crate) struct Watcher(Arc<Slot>);

impl SvidCache {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> SvidCache {
        SvidCache(Arc::new(Shared {
            clock,
            slots: ArcSwap::default(),
            generation: watch::Sender::new(0),
            wanted: Notify::new(),
        }))
    }

    /// Takes in what an agent before this one kept, as far as `view` still holds its service. Counts as asked for now.
    pub(crate) fn take_back(&self, view: &View, kept: Vec<KeptSvid>) {
        for kept in kept {
            let Some(service) = view.service(&kept.service_id) else { continue };
            let slot = self.slot(service);
            slot.asked_at.store(self.0.clock.now().unix_millis(), Ordering::Relaxed);
            slot.svid.store(Some(Arc::new(WorkloadSvid::new(kept, service))));
        }
        self.changed();
    }

    /// The slot of a service, made if there was none.
    pub(crate) fn slot(&self, service: &Service) -> Arc<Slot> {
        if let Some(slot) = self.existing(&service.id) {
            return slot;
        }
        self.0.slots.rcu(|slots| {
            let mut slots = HashMap::clone(slots);
            slots.entry(service.id.clone()).or_insert_with(|| Arc::new(Slot::new(service.id.clone())));
            slots
        });
        // Removed again at once only with its service; then a slot of no consequence serves.
        self.existing(&service.id).unwrap_or_else(|| Arc::new(Slot::new(service.id.clone())))
    }

    fn existing(&self, service_id: &str) -> Option<Arc<Slot>> {
        self.0.slots.load().get(service_id).cloned()
    }

    /// All slots there are.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.0.slots.load().values().cloned().collect()
    }

    /// The SVID of a service as it may be handed out now, and a note that it was asked for.
    pub(crate) fn ask(&self, service: &Service) -> Option<Arc<WorkloadSvid>> {
        let slot = self.slot(service);
        let now = self.0.clock.now();
        slot.asked_at.store(now.unix_millis(), Ordering::Relaxed);
        let svid = slot.usable(service, now);
        if svid.is_none() {
            self.0.wanted.notify_one();
        }
        svid
    }

    /// Keeps the SVID of a service renewed for as long as the watcher lives.
    pub(crate) fn watch(&self, service: &Service) -> Watcher {
        let slot = self.slot(service);
        slot.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher(slot)
    }

    /// Waits until some service was asked for that has no SVID. One caller: the renewal.
    pub(crate) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Changes whenever an SVID came, went or failed to come.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    pub(crate) fn changed(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Drops the slots of services that are gone, and returns their ids. What was issued for them is gone with them.
    pub(crate) fn retain(&self, view: &View) -> Vec<Arc<str>> {
        let held: std::collections::HashSet<&str> = view.services().iter().map(|service| &*service.id).collect();
        let gone: Vec<Arc<str>> = self.0.slots.load().keys().filter(|id| !held.contains(&***id)).cloned().collect();
        if !gone.is_empty() {
            self.0.slots.rcu(|slots| {
                let mut slots = HashMap::clone(slots);
                for id in &gone {
                    // A stream may hold the slot a moment longer; the key must not live on in it.
                    if let Some(slot) = slots.remove(id) {
                        slot.svid.store(None);
                    }
                }
                slots
            });
        }
        gone
    }

    /// How every service that has been asked for is doing.
    pub(crate) fn status(&self, view: &View) -> Vec<ServiceStatus> {
        let slots = self.0.slots.load();
        let status = |service: &Arc<Service>| {
            let slot = slots.get(&service.id)?;
            let svid = slot.svid();
            let failure = slot.failure();
            Some(ServiceStatus {
                spiffe_id: service.spiffe_id.to_string(),
                not_after_ms: svid.as_ref().map_or(0, |svid| svid.not_after().unix_millis()),
                renew_at_ms: svid.as_ref().map_or(0, |svid| svid.renew_at().unix_millis()),
                streams: slot.watchers.load(Ordering::Relaxed),
                last_error: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
            })
        };
        view.services().iter().filter_map(status).collect()
    }
}

impl Slot {
    fn new(service_id: Arc<str>) -> Slot {
        Slot {
            service_id,
            svid: ArcSwapOption::empty(),
            failure: ArcSwapOption::empty(),
            watchers: AtomicU32::new(0),
            asked_at: AtomicI64::new(i64::MIN),
        }
    }

    pub(crate) fn service_id(&self) -> &Arc<str> {
        &self.service_id
    }

    /// What is held, whether it still applies or not.
    pub(crate) fn svid(&self) -> Option<Arc<WorkloadSvid>> {
        self.svid.load_full()
    }

    /// What may be handed out for the service as it is now.
    pub(crate) fn usable(&self, service: &Service, now: Timestamp) -> Option<Arc<WorkloadSvid>> {
        self.svid().filter(|svid| svid.applies_to(service) && now < svid.not_after())
    }

    pub(crate) fn failure(&self) -> Option<Arc<Failure>> {
        self.failure.load_full()
    }

    /// Whether someone watches, or asked within the last lifetime.
    pub(crate) fn is_in_demand(&self, service: &Service, now: Timestamp) -> bool {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            return true;
        }
        let asked_at = self.asked_at.load(Ordering::Relaxed);
        asked_at != i64::MIN && now.since(Timestamp::from_unix_millis(asked_at)) < service.x509_ttl
    }

    pub(crate) fn put(&self, svid: Option<Arc<WorkloadSvid>>) {
        self.svid.store(svid);
    }

    pub(crate) fn set_failure(&self, failure: Option<Failure>) {
        self.failure.store(failure.map(Arc::new));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watcher {
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.0
    }
}

fn public_key(leaf: &[u8]) -> Option<PublicKey> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    PublicKey::from_spki(certificate.tbs_certificate.subject_pki.raw).ok()
}

impl WorkloadSvid {
    pub(crate) fn new(kept: KeptSvid, service: &Service) -> WorkloadSvid {
        let chain_der = kept.chain.concat();
        let public_key = kept.chain.first().and_then(|leaf| public_key(leaf));
        WorkloadSvid { kept, dns_names: service.dns_names.clone(), x509_ttl: service.x509_ttl, chain_der, public_key }
    }

    /// The same SVID, bound to the service as it is now.
    pub(crate) fn rebound(&self, service: &Service) -> WorkloadSvid {
        let kept = KeptSvid { service_digest: service.digest(), ..self.kept.clone() };
        WorkloadSvid {
            kept,
            dns_names: self.dns_names.clone(),
            x509_ttl: service.x509_ttl,
            chain_der: self.chain_der.clone(),
            public_key: self.public_key.clone(),
        }
    }

    /// The same SVID, due for renewal at another time.
    pub(crate) fn due_at(self, renew_at: Timestamp) -> WorkloadSvid {
        WorkloadSvid { kept: KeptSvid { renew_at, ..self.kept }, ..self }
    }

    /// Whether it says of the service what is true of it. A change of selectors or lifetime leaves it true, one of the
    /// SPIFFE ID or the DNS names does not.
    pub(crate) fn applies_to(&self, service: &Service) -> bool {
        self.kept.service_id == service.id
            && self.kept.spiffe_id == service.spiffe_id
            && self.dns_names == service.dns_names
    }

    pub(crate) fn kept(&self) -> &KeptSvid {
        &self.kept
    }

    pub(crate) fn spiffe_id(&self) -> &SpiffeId {
        &self.kept.spiffe_id
    }

    /// DER, leaf first, one certificate after the other (WAPI-16).
    pub(crate) fn chain_der(&self) -> &[u8] {
        &self.chain_der
    }

    /// The private key: unencrypted PKCS#8 DER (WAPI-16).
    pub(crate) fn expose_secret(&self) -> &[u8] {
        &self.kept.key_pkcs8
    }

    /// The key that it certifies.
    pub(crate) fn public_key(&self) -> Option<PublicKey> {
        self.public_key.clone()
    }

    pub(crate) fn x509_ttl(&self) -> Duration {
        self.x509_ttl
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.kept.not_after
    }

    pub(crate) fn renew_at(&self) -> Timestamp {
        self.kept.renew_at
    }
}
