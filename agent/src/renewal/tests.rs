//! Renewal over a moved clock, with a CA that issues, refuses, lies and goes away.

use std::sync::atomic::Ordering;

use bonafide_verifier::clock::ManualClock;

use super::*;
use crate::{
    svid_cache::{Watcher, jwt::JwtLimits},
    testing::ca::{Kept, Mood, TestCa, trust_domain},
    view::tests::service as any_service,
};

struct Agent {
    clock: ManualClock,
    ca: Arc<TestCa>,
    cache: SvidCache,
    kept: Arc<Kept>,
    health: Health,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

fn start() -> Agent {
    start_with(Vec::new())
}

fn start_with(kept: Vec<KeptSvid>) -> Agent {
    let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000));
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let views = ViewStore::new(View::empty(trust_domain()));
    let ca = TestCa::new(shared.clone(), views.clone());
    start_on(clock, ca, kept)
}

fn start_on(clock: ManualClock, ca: Arc<TestCa>, kept: Vec<KeptSvid>) -> Agent {
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let cache = SvidCache::new(shared.clone());
    cache.take_back(&ca.views.snapshot(), kept);
    let (store, health, stop) = (Arc::new(Kept::default()), Health::new(), CancellationToken::new());
    let renewal = Renewal {
        cache: cache.clone(),
        jwts: JwtCache::new(ca.clone(), shared.clone(), JwtLimits::default()),
        views: ca.views.clone(),
        authority: ca.clone(),
        keep: store.clone(),
        health: health.clone(),
        metrics: Metrics::new(),
        clock: shared,
        limits: RenewalLimits::default(),
    };
    let running = tokio::spawn(renewal.run(stop.clone()));
    Agent { clock, ca, cache, kept: store, health, stop, running }
}

fn service(id: &str, ttl: Duration) -> Arc<Service> {
    let base = any_service(id, &format!("/{id}"), &["unix:uid:1000"]);
    Arc::new(Service { x509_ttl: ttl, ..Service::clone(&base) })
}

impl Agent {
    /// Waits until the cache holds what `condition` wants to see.
    async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.cache.changes();
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Some(found) = condition() {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        })
        .await
        .expect("the cache does not change as it should")
    }

    async fn svid(&self, service: &Service) -> Arc<WorkloadSvid> {
        self.until(|| self.cache.ask(service)).await
    }

    async fn another_svid(&self, service: &Service, than: &Arc<WorkloadSvid>) -> Arc<WorkloadSvid> {
        self.until(|| self.cache.ask(service).filter(|svid| !Arc::ptr_eq(svid, than))).await
    }

    async fn failure(&self, service: &Service) -> Arc<Failure> {
        self.until(|| self.cache.slot(service).failure()).await
    }

    /// Gives every task that can run the time to do so.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn issued_on_demand_and_shared() {
    let agent = start();
    let (a, b) = (service("a", HOUR), service("b", HOUR));
    agent.ca.publish(vec![a.clone(), b.clone()]);
    agent.settle().await;
    assert_eq!(agent.ca.x509_items.load(Ordering::Relaxed), 0, "nobody asked");
    let svid = agent.svid(&a).await;
    assert_eq!(svid.spiffe_id().as_str(), "spiffe://example.org/a");
    for _ in 0..10 {
        assert!(Arc::ptr_eq(&svid, &agent.svid(&a).await), "one for all workloads of the service");
    }
    assert_eq!(agent.ca.x509_items.load(Ordering::Relaxed), 1);
    assert!(agent.cache.slot(&b).svid().is_none());
    agent.settle().await;
    assert_eq!(agent.kept.0.lock().unwrap().len(), 1, "what was issued is kept for a restart");
    agent.end().await;
}

#[tokio::test]
async fn one_request_however_many_ask() {
    let agent = start();
    let services: Vec<_> = (0..150).map(|number| service(&format!("s{number}"), HOUR)).collect();
    agent.ca.publish(services.clone());
    for _ in 0..3 {
        services.iter().for_each(|service| drop(agent.cache.ask(service)));
    }
    for service in &services {
        agent.svid(service).await;
    }
    assert_eq!(agent.ca.x509_items.load(Ordering::Relaxed), 150, "single flight");
    assert!(agent.ca.x509_calls.load(Ordering::Relaxed) <= 3, "in batches");
    agent.end().await;
}

#[tokio::test]
async fn renewed_between_40_and_50_percent_of_life() {
    let agent = start();
    let services: Vec<_> = (0..20).map(|number| service(&format!("s{number}"), HOUR)).collect();
    agent.ca.publish(services.clone());
    let watchers: Vec<Watcher> = services.iter().map(|service| agent.cache.watch(service)).collect();
    let mut times = std::collections::BTreeSet::new();
    let mut first = Vec::new();
    for service in &services {
        let svid = agent.svid(service).await;
        let life = svid.not_after().since(svid.kept().not_before);
        let share = svid.renew_at().since(svid.kept().not_before).as_secs_f64() / life.as_secs_f64();
        assert!((0.4..=0.5).contains(&share), "{share}");
        times.insert(svid.renew_at());
        first.push(svid);
    }
    assert!(times.len() > 10, "each at a moment of its own");
    agent.clock.set(*times.first().unwrap());
    agent.clock.advance(HOUR / 8);
    for (service, svid) in services.iter().zip(&first) {
        agent.another_svid(service, svid).await;
    }
    drop(watchers);
    agent.end().await;
}

#[tokio::test]
async fn f_07_a_renewal_that_fails_never_takes_away_what_is_valid() {
    let agent = start();
    let service = service("a", HOUR);
    agent.ca.publish(vec![service.clone()]);
    let watcher = agent.cache.watch(&service);
    let svid = agent.svid(&service).await;
    for mood in [Mood::Away, Mood::Refuses(None), Mood::WrongId, Mood::UnknownRoot] {
        agent.ca.set(mood);
        let asked = agent.ca.x509_calls.load(Ordering::Relaxed);
        while agent.ca.x509_calls.load(Ordering::Relaxed) == asked {
            agent.clock.advance(Duration::from_secs(30));
            agent.settle().await;
        }
        assert!(Arc::ptr_eq(&svid, &agent.svid(&service).await), "{mood:?}");
        assert_eq!(agent.health.part(Part::Renewal).state, State::Degraded, "{mood:?}");
    }
    agent.ca.set(Mood::Issues);
    agent.clock.advance(Duration::from_secs(30));
    agent.another_svid(&service, &svid).await;
    agent.settle().await;
    assert_eq!(agent.health.part(Part::Renewal).state, State::Ready);
    drop(watcher);
    agent.end().await;
}

#[tokio::test]
async fn what_the_ca_sends_is_checked() {
    for (mood, code) in [(Mood::WrongId, "certificate-unusable"), (Mood::UnknownRoot, "certificate-unusable")] {
        let agent = start();
        let service = service("a", HOUR);
        agent.ca.publish(vec![service.clone()]);
        agent.ca.set(mood);
        assert!(agent.cache.ask(&service).is_none());
        assert_eq!(agent.failure(&service).await.code, code, "{mood:?}");
        assert!(agent.cache.ask(&service).is_none(), "{mood:?}");
        agent.end().await;
    }
}

#[tokio::test]
async fn f_07_an_expired_svid_is_gone_and_a_new_one_comes_when_the_ca_does() {
    let agent = start();
    let service = service("a", HOUR);
    agent.ca.publish(vec![service.clone()]);
    let watcher = agent.cache.watch(&service);
    let svid = agent.svid(&service).await;
    agent.ca.set(Mood::Away);
    agent.clock.set(svid.not_after());
    agent.until(|| agent.cache.slot(&service).svid().is_none().then_some(())).await;
    agent.settle().await;
    assert!(agent.kept.0.lock().unwrap().is_empty(), "and not kept");
    assert_eq!(agent.health.part(Part::Renewal).state, State::Unready);
    let asked = agent.ca.x509_calls.load(Ordering::Relaxed);
    // The clock stands still: the new connection alone brings it.
    agent.ca.set(Mood::Issues);
    agent.svid(&service).await;
    assert_eq!(agent.ca.x509_calls.load(Ordering::Relaxed), asked + 1);
    drop(watcher);
    agent.end().await;
}

#[tokio::test]
async fn f_08_after_a_suspend_what_is_due_is_renewed() {
    let agent = start();
    let service = service("a", HOUR);
    agent.ca.publish(vec![service.clone()]);
    let watcher = agent.cache.watch(&service);
    let svid = agent.svid(&service).await;
    agent.clock.jump_wall(40 * 60 * 1000); // the wall clock went on, nothing else did
    agent.another_svid(&service, &svid).await;
    drop(watcher);
    agent.end().await;
}

#[tokio::test]
async fn pauses_grow_and_the_cas_hint_is_kept() {
    let agent = start();
    let service = service("a", HOUR);
    agent.ca.publish(vec![service.clone()]);
    agent.ca.set(Mood::Refuses(Some(Duration::from_secs(120))));
    drop(agent.cache.ask(&service));
    agent.failure(&service).await;
    let asked = || agent.ca.x509_calls.load(Ordering::Relaxed);
    assert_eq!(asked(), 1);
    agent.clock.advance(Duration::from_secs(119));
    agent.settle().await;
    drop(agent.cache.ask(&service));
    agent.settle().await;
    assert_eq!(asked(), 1, "not before the CA's time, however often it is asked for");
    agent.clock.advance(Duration::from_secs(26));
    agent.settle().await;
    assert_eq!(asked(), 2);
    agent.end().await;
}

#[tokio::test]
async fn what_nobody_wants_is_not_renewed() {
    let agent = start();
    let service = service("a", HOUR);
    agent.ca.publish(vec![service.clone()]);
    agent.svid(&service).await;
    // Asked for within the last lifetime: renewed once, then no more.
    for _ in 0..40 {
        agent.clock.advance(HOUR / 10);
        agent.settle().await;
    }
    let items = agent.ca.x509_items.load(Ordering::Relaxed);
    assert!((2..=3).contains(&items), "{items}");
    assert!(agent.cache.slot(&service).svid().is_none(), "expired, and forgotten");
    agent.end().await;
}

#[tokio::test]
async fn a_service_that_changes_keeps_what_is_still_true() {
    let agent = start();
    let base = service("a", HOUR);
    agent.ca.publish(vec![base.clone()]);
    let watcher = agent.cache.watch(&base);
    let svid = agent.svid(&base).await;
    let published = |change: Service| {
        let changed = Arc::new(change);
        agent.ca.publish(vec![changed.clone()]);
        changed
    };

    let selectors =
        published(Service { version: 2, selectors: vec!["unix:uid:7".parse().unwrap()], ..Service::clone(&base) });
    agent.settle().await;
    let rebound = agent.svid(&selectors).await;
    assert_eq!(rebound.chain_der(), svid.chain_der(), "selectors are no part of it");
    assert_eq!(
        agent.kept.0.lock().unwrap()["a"].service_digest,
        selectors.digest(),
        "but what is kept is bound to them"
    );

    let shorter = published(Service { version: 3, x509_ttl: HOUR / 4, ..Service::clone(&base) });
    let renewed = agent.until(|| agent.cache.ask(&shorter).filter(|now| now.chain_der() != svid.chain_der())).await;
    assert!(renewed.not_after() < svid.not_after(), "a new lifetime is wanted now");

    let named = published(Service { version: 4, dns_names: vec!["a.example.org".into()], ..Service::clone(&base) });
    assert!(agent.cache.ask(&named).is_none(), "the old one does not say this, at no moment");
    agent.svid(&named).await;

    let other_id = "spiffe://example.org/b".parse().unwrap();
    let renamed = published(Service { version: 5, spiffe_id: other_id, ..Service::clone(&base) });
    assert!(agent.cache.ask(&renamed).is_none(), "nor this");
    assert_eq!(agent.svid(&renamed).await.spiffe_id().path(), "/b");

    let slot = agent.cache.slot(&renamed);
    agent.ca.publish(Vec::new());
    agent.until(|| slot.svid().is_none().then_some(())).await;
    agent.settle().await;
    assert!(agent.kept.0.lock().unwrap().is_empty(), "removed: key and certificate are gone");
    drop(watcher);
    agent.end().await;
}

#[tokio::test]
async fn a_restarted_agent_serves_what_was_kept_while_the_ca_is_away() {
    let first = start();
    let service = service("a", HOUR);
    first.ca.publish(vec![service.clone()]);
    let svid = first.svid(&service).await;
    first.settle().await;
    let kept: Vec<KeptSvid> = first.kept.0.lock().unwrap().values().cloned().collect();
    let (clock, ca) = (first.clock.clone(), first.ca.clone());
    first.end().await;
    ca.set(Mood::Away);
    let second = start_on(clock, ca, kept);
    let again = second.cache.ask(&service).expect("at once");
    assert_eq!((again.chain_der(), again.expose_secret()), (svid.chain_der(), svid.expose_secret()));
    assert_eq!(again.renew_at(), svid.renew_at());
    second.end().await;
}

#[tokio::test]
async fn nothing_prints_a_key() {
    let agent = start();
    let service = service("a", HOUR);
    agent.ca.publish(vec![service.clone()]);
    let svid = agent.svid(&service).await;
    let printed = format!("{svid:?} {:?} {:?}", agent.cache, agent.cache.slot(&service));
    let key = svid.expose_secret();
    let listed = format!("{key:?}");
    assert!(!printed.contains(listed.trim_matches(['[', ']'])));
    assert!(!printed.contains(&data_encoding::BASE64.encode(key)) && !printed.contains("PRIVATE"));
    agent.end().await;
}
