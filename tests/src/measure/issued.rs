//! SVIDs as a CA issues them.

use std::sync::Arc;

use bonafide_ca::Settings;
use bonafide_verifier::{
    clock::SystemClock,
    identity::Identity,
    spiffe::{BundleSet, TrustDomain},
    x509::X509Svid,
};

use super::fleet;

/// What a CA has given out.
#[derive(Debug)]
pub struct Issued {
    /// The services' SVIDs, leaf and issuing authority each, in the order in which they were asked for.
    pub svids: Vec<X509Svid>,
    /// The trust bundle.
    pub bundles: BundleSet,
    /// The root, in DER.
    pub root: Vec<u8>,
}

impl Issued {
    /// One of the services, as it knows itself.
    pub fn identity(&self, service: usize) -> Identity {
        Identity::fixed(self.svids[service].clone(), self.bundles.clone(), Arc::new(SystemClock))
    }
}

/// These services' SVIDs from a CA that runs for as long as it takes to get them.
pub fn issued(paths: &[&str]) -> Issued {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let data = tempfile::tempdir().expect("a folder");
    let folder = data.path().join("ca");
    let trust_domain = TrustDomain::parse("example.org").expect("a trust domain");
    let mut settings = Settings::new(&folder, Some(trust_domain.clone()));
    settings.listen = ([127, 0, 0, 1], 0).into();
    runtime.block_on(async {
        let ca = bonafide_ca::start(settings, Arc::new(SystemClock)).await.expect("the CA starts");
        ca.ready().await;
        let mut operator = fleet::operator(&folder).await;
        let selectors = ["unix:uid:1000".to_owned()];
        let mut wanted = Vec::new();
        let keys: Vec<_> = paths.iter().map(|_| fleet::Key::generate()).collect();
        for (path, key) in paths.iter().zip(&keys) {
            let id = fleet::add_service(&mut operator, path, &selectors, "any").await;
            wanted.push((id, key.spki.clone()));
        }
        let mut node = fleet::SimulatedNode::join(&fleet::invite(&mut operator, "n1").await).await;
        let mut api = node.connect().await;
        let svids = fleet::svids(fleet::issue(&mut api, &wanted).await, &keys);
        assert_eq!(svids[0].id().path().strip_prefix('/'), Some(paths[0]));
        assert_eq!(svids[0].chain().len(), 2, "leaf and issuing authority");
        let bundles = node.identity.snapshot().bundles().clone();
        let bundle = bundles.get(&trust_domain).expect("the bundle").clone();
        let root = bundle.x509_authorities()[0].der().to_vec();
        ca.stop().await;
        Issued { svids, bundles, root }
    })
}
