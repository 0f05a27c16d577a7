//! Renewal and recovery: current and pending keys, older ones refused.

use std::time::Duration;

use bonafide_ca_api::{
    Reason,
    generated::node::{Hello, RecoverRequest, RenewRequest},
};
use rcgen::KeyPair;
use tonic::Status;

use super::rig::{Rig, TestNode, name, reason, spki};
use crate::audit::Kind;

async fn renew(
    node: &mut TestNode,
    next: &KeyPair,
) -> Result<bonafide_ca_api::generated::node::NodeCredential, Status> {
    let request = RenewRequest { public_key: spki(next), agent: None };
    Ok(node.client.renew(request).await?.into_inner().credential.unwrap())
}

#[tokio::test]
async fn the_next_key_is_pending_until_it_is_used() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let next = KeyPair::generate().unwrap();
    renew(&mut node, &next).await.unwrap();
    // The reply was lost: the same key again, by the old key, which still works for everything.
    let credential = renew(&mut node, &next).await.unwrap();
    node.issue(vec![]).await.unwrap();
    let row = rig.opened.registry.load().node(&name("n1")).unwrap().clone();
    assert!(row.pending.is_some());

    let mut old_stream = node.sync(Hello::default()).await.unwrap();
    old_stream.next().await.unwrap();
    let mut renewed = TestNode::new(&rig, next, credential).await;
    renewed.issue(vec![]).await.unwrap();
    let row = rig.opened.registry.load().node(&name("n1")).unwrap().clone();
    assert!(row.pending.is_none());
    assert_eq!(rig.records(Kind::NodeKeyActivated).await, 1);
    // The stream and the calls of the older key end.
    assert_eq!(old_stream.end().await, Reason::StreamReplaced);
    assert_eq!(reason(&node.issue(vec![]).await.unwrap_err()), Reason::KeyStale);
    rig.finish().await;
}

#[tokio::test]
async fn an_older_key_is_refused_counted_and_shown_with_its_address() {
    let rig = Rig::start().await;
    let mut copy = rig.node("n1", &[]).await;
    let next = KeyPair::generate().unwrap();
    let credential = renew(&mut copy, &next).await.unwrap();
    let mut node = TestNode::new(&rig, next, credential).await;
    node.issue(vec![]).await.unwrap();
    // Calls that crossed with the change of key are no sign of a copy.
    assert_eq!(reason(&copy.issue(vec![]).await.unwrap_err()), Reason::KeyStale);
    assert_eq!(rig.opened.registry.load().node(&name("n1")).unwrap().stale.count, 0);
    rig.clock.advance(Duration::from_secs(61));
    let refused = copy.issue(vec![]).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::KeyStale);
    assert!(refused.message().contains("copy"), "{}", refused.message());
    let stale = rig.opened.registry.load().node(&name("n1")).unwrap().stale.clone();
    assert_eq!(stale.count, 1);
    assert!(stale.last_from.unwrap().starts_with("127.0.0.1:"));
    assert_eq!(rig.records(Kind::NodeStaleKeyRefused).await, 1);
    // The holder of the current key goes on; recovery with the older key is refused likewise.
    node.issue(vec![]).await.unwrap();
    let refused = rig.with_key(&copy.key).await.recover(RecoverRequest { agent: None }).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::KeyStale);
    rig.finish().await;
}

#[tokio::test]
async fn keys_that_are_not_new_are_not_certified() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let other = rig.node("n2", &[]).await;
    let current = KeyPair::try_from(node.key.serialize_der()).unwrap();
    assert_eq!(reason(&renew(&mut node, &current).await.unwrap_err()), Reason::KeyRefused, "its own");
    assert_eq!(reason(&renew(&mut node, &other.key).await.unwrap_err()), Reason::KeyRefused, "another node's");
    let next = KeyPair::generate().unwrap();
    let credential = renew(&mut node, &next).await.unwrap();
    let mut renewed = TestNode::new(&rig, next, credential).await;
    renewed.issue(vec![]).await.unwrap();
    assert_eq!(reason(&renew(&mut renewed, &node.key).await.unwrap_err()), Reason::KeyRefused, "an older one");
    let authority = rig.opened.authorities.root().certificate().to_vec();
    let authority_key = {
        use x509_parser::prelude::FromDer;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&authority).unwrap();
        parsed.public_key().raw.to_vec()
    };
    for (what, public_key) in [("an authority's", authority_key), ("none", vec![]), ("no key", vec![4; 91])] {
        let refused = renewed.client.renew(RenewRequest { public_key, agent: None }).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::KeyRefused, "{what}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_pending_key_gives_way_to_another_one() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let lost = KeyPair::generate().unwrap();
    let lost_credential = renew(&mut node, &lost).await.unwrap();
    let next = KeyPair::generate().unwrap();
    let credential = renew(&mut node, &next).await.unwrap();
    rig.clock.advance(Duration::from_secs(61));
    let mut abandoned = TestNode::new(&rig, lost, lost_credential).await;
    assert_eq!(reason(&abandoned.issue(vec![]).await.unwrap_err()), Reason::KeyStale);
    TestNode::new(&rig, next, credential).await.issue(vec![]).await.unwrap();
    rig.finish().await;
}

#[tokio::test]
async fn a_node_that_slept_recovers_with_its_key_for_thirty_days() {
    let rig = Rig::start().await;
    let node = rig.node("n1", &[]).await;
    let day = Duration::from_secs(24 * 60 * 60);
    rig.pass(2 * day).await;
    assert!(rig.try_with_svid(node.svid()).await.is_err(), "its SVID has expired");
    let mut client = rig.with_key(&node.key).await;
    let credential = client.recover(RecoverRequest { agent: None }).await.unwrap().into_inner().credential.unwrap();
    rig.verify(&credential.chain);
    assert_eq!(rig.records(Kind::NodeRecovered).await, 1);

    rig.pass(30 * day).await;
    let mut client = rig.with_key(&node.key).await;
    client.recover(RecoverRequest { agent: None }).await.unwrap();
    rig.pass(30 * day + Duration::from_secs(1)).await;
    let mut client = rig.with_key(&node.key).await;
    let refused = client.recover(RecoverRequest { agent: None }).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::RecoveryTooLate);
    assert!(refused.message().contains("bonafide-ca node invite n1 --replace"), "{}", refused.message());
    rig.finish().await;
}

#[tokio::test]
async fn recovery_with_the_pending_key_brings_it_into_use() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let next = KeyPair::generate().unwrap();
    renew(&mut node, &next).await.unwrap();
    rig.with_key(&next).await.recover(RecoverRequest { agent: None }).await.unwrap();
    assert_eq!(reason(&node.issue(vec![]).await.unwrap_err()), Reason::KeyStale);
    rig.finish().await;
}

#[tokio::test]
async fn a_stranger_does_not_recover() {
    let rig = Rig::start().await;
    let mut stranger = rig.with_key(&KeyPair::generate().unwrap()).await;
    let refused = stranger.recover(RecoverRequest { agent: None }).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::KeyUnknown);
    let node = rig.node("n1", &[]).await;
    rig.opened.registry.remove_node(name("n1"), super::rig::ADMIN).await.unwrap();
    let refused = rig.with_key(&node.key).await.recover(RecoverRequest { agent: None }).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::KeyUnknown, "a removed node is a stranger");
    rig.finish().await;
}
