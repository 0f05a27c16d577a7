use std::sync::Arc;

use bonafide_ca_api::generated::node;
use bonafide_verifier::{
    clock::{ManualClock, Timestamp},
    spiffe::TrustBundle,
};

use super::*;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn follower(path: &std::path::Path) -> Follower {
    let data = Arc::new(DataDir::open(path).unwrap());
    let (view, memory) = load(&data, &trust_domain()).unwrap();
    let (health, metrics) = (Health::new(), Metrics::new());
    let views = ViewStore::new(view);
    let (_, live) = tokio::sync::watch::channel(None);
    let (status, _) = NodeStatus::new(health.clone(), metrics.clone(), views.clone(), live);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    Follower { data, views, status, health, metrics, clock, memory }
}

fn bundle(sequence: u64) -> node::TrustBundle {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let uri = rcgen::string::Ia5String::try_from("spiffe://example.org").unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let root = params.self_signed(&key).unwrap().der().to_vec();
    let bundle = TrustBundle::new(trust_domain(), [root], [], Some(sequence), None).unwrap();
    node::TrustBundle { trust_domain: "example.org".into(), spiffe_json: bundle.to_spiffe_json().into() }
}

fn update(epoch: &str, version: u64, services: &[&str], bundle: &node::TrustBundle) -> node::SyncResponse {
    let service = |id: &&str| node::Service {
        id: (*id).into(),
        version,
        spiffe_id: format!("spiffe://example.org/{id}"),
        selectors: vec!["unix:uid:1000".into()],
        x509_ttl_s: 3600,
        jwt_ttl_s: 300,
        dns_names: vec![],
        hint: String::new(),
        edge_scopes: Vec::new(),
        edge_issuers: Vec::new(),
    };
    node::SyncResponse {
        position: Some(node::Position { epoch: epoch.into(), version }),
        whole: true,
        services: services.iter().map(service).collect(),
        removed: vec![],
        bundles: vec![bundle.clone()],
        now_ms: 1_800_000_000_000,
        token_keys: None,
    }
}

fn services(follower: &Follower) -> usize {
    follower.views.snapshot().services().len()
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let bundle = bundle(3);
    let mut before = follower(&path);
    assert_eq!((before.hello().applied, before.hello().bundle_sequence), (None, 0));
    let acknowledged = before.take(update("e", 5, &["a", "b"], &bundle)).await;
    assert_eq!(acknowledged.refused, "");
    assert_eq!(acknowledged.position.unwrap().version, 5);
    let hello = before.hello();
    drop(before);
    let mut after = follower(&path);
    assert_eq!((after.hello(), services(&after)), (hello.clone(), 2), "the same position, the same services");
    assert_eq!((hello.bundle_sequence, hello.held.len()), (3, 2));
    // The floor holds after a restart, too.
    let lowered = after.take(update("e", 4, &["a"], &bundle)).await;
    assert_eq!(lowered.refused, "version-lowered");
    assert_eq!(services(&after), 2);
    let alarm = after.health.part(Part::Sync);
    assert!(
        alarm.state == State::Degraded && alarm.reason.contains("version 4 of epoch `e` lies before version 5"),
        "{alarm:?}"
    );
    assert_eq!(after.take(update("e", 6, &["a"], &bundle)).await.refused, "");
    assert_eq!(after.health.part(Part::Sync).state, State::Ready);
}

#[tokio::test]
async fn an_epoch_that_takes_services_away_waits_for_an_operator_over_restarts() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let bundle = bundle(3);
    let mut following = follower(&path);
    following.take(update("e", 5, &["a", "b"], &bundle)).await;
    assert!(matches!(following.accept("f").await, Err(AcceptEpochError::NothingHeld)));
    let restored = update("f", 1, &["b"], &bundle);
    assert_eq!(following.take(restored.clone()).await.refused, "epoch-removes-services");
    assert_eq!(services(&following), 2, "what it had is served");
    let held = following.health.part(Part::Sync);
    assert!(held.reason.contains("bonafide-agent accept-epoch f"), "{held:?}");
    drop(following);
    let mut following = follower(&path);
    assert_eq!(following.memory.held.as_ref().map(|held| (&*held.epoch, held.services_removed)), Some(("f", 1)));
    assert!(matches!(following.accept("g").await, Err(AcceptEpochError::OtherEpoch { .. })));
    following.accept("f").await.unwrap();
    drop(following);
    // Accepted, killed before the CA said it again.
    let mut following = follower(&path);
    assert_eq!(following.take(restored).await.refused, "");
    assert_eq!(services(&following), 1);
    assert_eq!(following.memory, Memory::default(), "an accepted epoch is used once");
}

#[tokio::test]
async fn f_03_an_update_that_cannot_be_written_is_not_applied() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let mut following = follower(&path);
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(following.take(update("e", 1, &["a"], &bundle(1))).await.refused, "internal");
    assert_eq!(services(&following), 0);
    let health = following.health.part(Part::Sync);
    assert!(health.reason.contains("could not be written down"), "{health:?}");
}
