//! What the CA told this node: its services, the trust bundles, and where in the CA's history that is. Sync
//! publishes views, everything that answers workloads reads them.

mod token_keys;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use bonafide_ca_api::Selector;
use bonafide_verifier::spiffe::{BundleSet, SpiffeId, TrustDomain};
use tokio::sync::watch;

pub(crate) use self::token_keys::TokenKeys;

/// One state of the CA, as far as this node may see it. Never changed after it was made.
#[derive(Clone, Debug)]
pub(crate) struct View {
    trust_domain: TrustDomain,
    position: Option<Position>,
    services: Vec<Arc<Service>>,
    bundles: BundleSet,
    token_keys: Arc<TokenKeys>,
}

/// A position in the CA's history: the epoch is new at the CA's creation and at a restore, the version only grows
/// within an epoch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Position {
    pub(crate) epoch: Arc<str>,
    pub(crate) version: u64,
}

/// A service that may run on this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Service {
    /// Opaque; the CA's name for it in tombstones and issuance.
    pub(crate) id: Arc<str>,
    /// The CA's version of its last change.
    pub(crate) version: u64,
    pub(crate) spiffe_id: SpiffeId,
    /// All must be among the facts of a process.
    pub(crate) selectors: Vec<Selector>,
    pub(crate) x509_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    pub(crate) dns_names: Vec<String>,
    /// Empty: none.
    pub(crate) hint: String,
    /// What it may have users' tokens exchanged for; empty: it is no edge.
    pub(crate) edge_scopes: Vec<String>,
    /// Whose users, by the names of their issuers.
    pub(crate) edge_issuers: Vec<String>,
}

impl View {
    /// The view of an agent that has heard nothing from its CA yet.
    pub(crate) fn empty(trust_domain: TrustDomain) -> View {
        let (bundles, token_keys) = (BundleSet::default(), Arc::default());
        View { trust_domain, position: None, services: Vec::new(), bundles, token_keys }
    }

    /// Brings the services into the order in which identities are listed: the one with more selectors first, since
    /// it says more about the process; then by SPIFFE ID, then by id. The order depends on what is registered and
    /// on nothing else, so it is the same on every node and after every restart (WAPI-35, A-30).
    pub(crate) fn new(
        trust_domain: TrustDomain,
        position: Position,
        mut services: Vec<Arc<Service>>,
        bundles: BundleSet,
    ) -> View {
        services.sort_by(|a, b| {
            let key = |service: &Service| Reverse(service.selectors.len());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.spiffe_id.as_str().cmp(b.spiffe_id.as_str()))
                .then_with(|| a.id.cmp(&b.id))
        });
        View { trust_domain, position: Some(position), services, bundles, token_keys: Arc::default() }
    }

    /// The same with these token keys.
    #[must_use]
    pub(crate) fn with_token_keys(self, token_keys: Arc<TokenKeys>) -> View {
        View { token_keys, ..self }
    }

    /// By what transaction tokens and the tokens of users are verified.
    pub(crate) fn token_keys(&self) -> &Arc<TokenKeys> {
        &self.token_keys
    }

    /// The trust domain of the CA that this node belongs to.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// `None` until the first state has come.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The default identity of a process is the first that matches it.
    pub(crate) fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// The service of this id.
    pub(crate) fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| &*service.id == id)
    }

    /// The bundles of the own and of the federated trust domains.
    pub(crate) fn bundles(&self) -> &BundleSet {
        &self.bundles
    }
}

impl Service {
    /// Whether it may have tokens exchanged for transaction tokens.
    pub(crate) fn is_edge(&self) -> bool {
        !self.edge_scopes.is_empty()
    }

    /// SHA-256 over everything the service is, each field with its length. What was kept for a service is good
    /// only for a service of the same digest.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        let mut field = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        field(self.id.as_bytes());
        field(&self.version.to_be_bytes());
        field(self.spiffe_id.as_str().as_bytes());
        field(&self.x509_ttl.as_millis().to_be_bytes());
        field(&self.jwt_ttl.as_millis().to_be_bytes());
        field(self.hint.as_bytes());
        field(&(self.selectors.len() as u64).to_be_bytes());
        for selector in &self.selectors {
            field(selector.to_string().as_bytes());
        }
        for name in &self.dns_names {
            field(name.as_bytes());
        }
        // Those of what is no edge stay as they were before there were edges.
        if self.is_edge() {
            for list in [&self.edge_scopes, &self.edge_issuers] {
                field(&(list.len() as u64).to_be_bytes());
                list.iter().for_each(|word| field(word.as_bytes()));
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

/// Where the current [`View`] is. Clones are the same store.
#[derive(Clone, Debug)]
pub(crate) struct ViewStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<View>,
    generation: watch::Sender<u64>,
}

impl ViewStore {
    pub(crate) fn new(view: View) -> ViewStore {
        ViewStore(Arc::new(Shared { current: ArcSwap::from_pointee(view), generation: watch::Sender::new(0) }))
    }

    /// The view as it is now.
    pub(crate) fn snapshot(&self) -> Arc<View> {
        self.0.current.load_full()
    }

    /// Replaces the view, then tells everyone who waits.
    pub(crate) fn publish(&self, view: View) {
        self.0.current.store(Arc::new(view));
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Changes after each [`publish`](Self::publish). What is subscribed to first and read then misses nothing.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn service(id: &str, path: &str, selectors: &[&str]) -> Arc<Service> {
        Arc::new(Service {
            id: id.into(),
            version: 1,
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap(),
            selectors: selectors.iter().map(|selector| selector.parse().unwrap()).collect(),
            x509_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
            dns_names: Vec::new(),
            hint: String::new(),
            edge_scopes: Vec::new(),
            edge_issuers: Vec::new(),
        })
    }

    pub(crate) fn view(services: Vec<Arc<Service>>) -> View {
        let position = Position { epoch: "e".into(), version: 1 };
        View::new(TrustDomain::parse("example.org").unwrap(), position, services, BundleSet::default())
    }

    ///
    #[test]
    fn wapi_35_default_identity_does_not_depend_on_the_order_of_arrival() {
        let wide = service("1", "/a", &["unix:uid:1000"]);
        let wide_too = service("0", "/b", &["unix:uid:1000"]);
        let narrow = service("2", "/z", &["unix:uid:1000", "unix:path:/usr/bin/photo"]);
        let expected: Vec<&str> = vec!["/z", "/a", "/b"];
        for arrival in [
            vec![wide.clone(), wide_too.clone(), narrow.clone()],
            vec![narrow.clone(), wide_too.clone(), wide.clone()],
            vec![wide_too, narrow, wide],
        ] {
            let view = view(arrival);
            let order: Vec<&str> = view.services().iter().map(|service| service.spiffe_id.path()).collect();
            assert_eq!(order, expected);
        }
    }

    #[test]
    fn digest_covers_every_field() {
        let base = Service::clone(&service("1", "/a", &["unix:uid:1000"]));
        let changed = [
            Service { id: "2".into(), ..base.clone() },
            Service { version: 2, ..base.clone() },
            Service { spiffe_id: SpiffeId::parse("spiffe://example.org/b").unwrap(), ..base.clone() },
            Service { selectors: vec!["unix:uid:1001".parse().unwrap()], ..base.clone() },
            Service { x509_ttl: Duration::from_secs(1), ..base.clone() },
            Service { jwt_ttl: Duration::from_secs(1), ..base.clone() },
            Service { dns_names: vec!["a.example.org".into()], ..base.clone() },
            Service { hint: "h".into(), ..base.clone() },
            Service { edge_scopes: vec!["photo.read".into()], ..base.clone() },
            Service { edge_scopes: vec!["photo.read".into()], edge_issuers: vec!["corp".into()], ..base.clone() },
        ];
        for other in changed {
            assert_ne!(other.digest(), base.digest(), "{other:?}");
        }
        assert_eq!(base.clone().digest(), base.digest());
    }

    #[tokio::test]
    async fn publish_wakes_those_who_wait() {
        let store = ViewStore::new(View::empty(TrustDomain::parse("example.org").unwrap()));
        let mut changes = store.changes();
        assert!(store.snapshot().position().is_none());
        store.publish(view(Vec::new()));
        changes.changed().await.unwrap();
        assert_eq!(store.snapshot().position().unwrap().version, 1);
    }
}
