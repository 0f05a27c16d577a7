//! T-13: every method and every kind of caller.

use std::time::Duration;

use bonafide_ca_api::{
    MintChain, Reason, Refusal,
    generated::node::{
        CollectMintsRequest, DelegateRequest, Hello, IssueJwtRequest, IssueX509Request, JoinRequest,
        LookAtIssuerRequest, MintRecord, RecoverRequest, RenewRequest, SyncRequest, node_api_client::NodeApiClient,
        sync_request::Message,
    },
};
use bonafide_verifier::{tls::Connector, x509::X509Svid};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use tonic::{Code, Status, transport::Channel};

use super::rig::{ADMIN, Rig, TestNode, name, new_spki, trust_domain};
use crate::{
    audit::Who,
    issuance::{LeafRequest, OwnKey, Recipient},
    node_api::rpc::Rpc,
};

/// Calls a method with a message that is right but for who sends it.
async fn call(client: &mut NodeApiClient<Channel>, rpc: Rpc) -> Result<(), Status> {
    match rpc {
        Rpc::Join => client.join(JoinRequest { secret: vec![1; 32], agent: None }).await.map(drop),
        Rpc::Recover => client.recover(RecoverRequest { agent: None }).await.map(drop),
        Rpc::Renew => client.renew(RenewRequest { public_key: new_spki(), agent: None }).await.map(drop),
        Rpc::Sync => {
            let hello = SyncRequest { message: Some(Message::Hello(Hello::default())) };
            client.sync(tokio_stream::once(hello)).await.map(drop)
        }
        Rpc::IssueX509 => client.issue_x509(IssueX509Request { items: vec![] }).await.map(drop),
        Rpc::IssueJwt => {
            let request = IssueJwtRequest { service_id: "none".into(), audience: vec!["a".into()] };
            client.issue_jwt(request).await.map(drop)
        }
        Rpc::Delegate => client.delegate(DelegateRequest { public_key: new_spki() }).await.map(drop),
        Rpc::LookAtIssuer => client.look_at_issuer(LookAtIssuerRequest { issuer: "corp".into() }).await.map(drop),
        Rpc::CollectMints => {
            let place = MintChain::begin(&name("a"), "log");
            let record = MintRecord { seq: 1, at_ms: 1, body: b"{}".to_vec() };
            let (log, previous) = (place.log, place.hash.to_vec());
            client.collect_mints(CollectMintsRequest { log, previous, records: vec![record] }).await.map(drop)
        }
    }
}

/// What came of a call: its code and our reason.
fn outcome(result: Result<(), Status>) -> (Code, Option<Reason>) {
    match result {
        Ok(()) => (Code::Ok, None),
        Err(status) => (status.code(), Refusal::from_status(&status).and_then(|refusal| refusal.reason)),
    }
}

/// A kind of caller, its client, and what each method answers it.
type Kind = (&'static str, NodeApiClient<Channel>, fn(Rpc) -> (Code, Option<Reason>));

#[tokio::test]
async fn t_13_every_method_by_every_kind_of_caller() {
    let rig = Rig::start().await;
    let node = rig.node("a", &[]).await;
    rig.edge("edge", &["a"], &["photo.read"], &[]).await;
    let removed = rig.node("b", &[]).await;
    rig.opened.registry.remove_node(name("b"), ADMIN).await.unwrap();
    let mut stale = rig.node("c", &[]).await;
    let next = KeyPair::generate().unwrap();
    let renewal = RenewRequest { public_key: super::rig::spki(&next), agent: None };
    let credential = stale.client.renew(renewal).await.unwrap().into_inner().credential.unwrap();
    TestNode::new(&rig, next, credential).await.issue(vec![]).await.unwrap();
    // A machine that took over the name has the same ID, but another key.
    let replaced = rig.node("d", &[]).await;
    let secret = rig.invite("d", &[], true).await;
    rig.join(&KeyPair::generate().unwrap(), &secret).await.unwrap();

    let denied = Code::PermissionDenied;
    let kinds: Vec<Kind> = vec![
        ("a bare key", rig.with_key(&KeyPair::generate().unwrap()).await, |rpc| match rpc {
            Rpc::Join => (Code::PermissionDenied, Some(Reason::InvitationUnknown)),
            Rpc::Recover => (Code::PermissionDenied, Some(Reason::KeyUnknown)),
            Rpc::Renew
            | Rpc::Sync
            | Rpc::IssueX509
            | Rpc::IssueJwt
            | Rpc::Delegate
            | Rpc::CollectMints
            | Rpc::LookAtIssuer => (Code::PermissionDenied, Some(Reason::PeerKind)),
        }),
        ("a node", node.client.clone(), |rpc| match rpc {
            Rpc::Join | Rpc::Recover => (Code::PermissionDenied, Some(Reason::PeerKind)),
            Rpc::Renew | Rpc::Sync | Rpc::IssueX509 => (Code::Ok, None),
            Rpc::IssueJwt => (Code::PermissionDenied, Some(Reason::ServiceNotHeld)),
            Rpc::Delegate => (Code::Ok, None),
            Rpc::CollectMints | Rpc::LookAtIssuer => (Code::Ok, None),
        }),
        ("a node's bare key", rig.with_key(&node.key).await, |rpc| match rpc {
            Rpc::Join => (Code::PermissionDenied, Some(Reason::InvitationUnknown)),
            Rpc::Recover => (Code::Ok, None),
            Rpc::Renew
            | Rpc::Sync
            | Rpc::IssueX509
            | Rpc::IssueJwt
            | Rpc::Delegate
            | Rpc::CollectMints
            | Rpc::LookAtIssuer => (Code::PermissionDenied, Some(Reason::PeerKind)),
        }),
        ("a removed node", removed.client.clone(), |rpc| match rpc {
            Rpc::Join | Rpc::Recover => (Code::PermissionDenied, Some(Reason::PeerKind)),
            Rpc::Renew
            | Rpc::Sync
            | Rpc::IssueX509
            | Rpc::IssueJwt
            | Rpc::Delegate
            | Rpc::CollectMints
            | Rpc::LookAtIssuer => (Code::PermissionDenied, Some(Reason::NodeRemoved)),
        }),
        ("a node by an older key", stale.client.clone(), |rpc| match rpc {
            Rpc::Join | Rpc::Recover => (Code::PermissionDenied, Some(Reason::PeerKind)),
            Rpc::Renew
            | Rpc::Sync
            | Rpc::IssueX509
            | Rpc::IssueJwt
            | Rpc::Delegate
            | Rpc::CollectMints
            | Rpc::LookAtIssuer => (Code::PermissionDenied, Some(Reason::KeyStale)),
        }),
        ("the machine that a node's name was taken from", replaced.client.clone(), |rpc| match rpc {
            Rpc::Join | Rpc::Recover => (Code::PermissionDenied, Some(Reason::PeerKind)),
            Rpc::Renew
            | Rpc::Sync
            | Rpc::IssueX509
            | Rpc::IssueJwt
            | Rpc::Delegate
            | Rpc::CollectMints
            | Rpc::LookAtIssuer => (Code::PermissionDenied, Some(Reason::KeyUnknown)),
        }),
    ];
    for (kind, mut client, expected) in kinds {
        for rpc in Rpc::ALL {
            let got = outcome(call(&mut client, rpc).await);
            let expected = expected(rpc);
            assert_eq!(got, expected, "{} by {kind}", rpc.name());
            assert!(expected.0 == Code::Ok || expected.0 == denied);
        }
    }
    rig.finish().await;
}

/// Those who are refused before they can call anything.
#[tokio::test]
async fn t_13_others_do_not_get_past_the_handshake() {
    let rig = Rig::start().await;
    let mut node = rig.node("a", &[]).await;
    let service = rig.service("photo", &["a"]).await;
    let key = KeyPair::generate().unwrap();
    let chain = node.issue(vec![(service.id.to_string(), super::rig::spki(&key))]).await.unwrap().remove(0).unwrap();
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
    let workload = X509Svid::new(chain, key.serialize_der()).unwrap();

    // The CA's own identity, which only its process can have issued.
    let own = OwnKey::generate().unwrap();
    let request = LeafRequest::own(&trust_domain(), Vec::new(), Duration::from_secs(3600), &own);
    let recipient = Recipient { who: &Who::Ca, node: None };
    let issued = rig.api.issuer.issue_one(recipient, request).await.unwrap();
    let issuing = issued.authority().facts().certificate().to_vec();
    let ca = X509Svid::new(vec![issued.into_certificate().into(), issuing.into()], own.into_secret()).unwrap();

    // A node of another CA with the same trust domain name: another root.
    let other_rig = Rig::start().await;
    let foreign = other_rig.node("a", &[]).await.svid();

    for (kind, svid) in [("a workload", workload), ("the CA itself", ca), ("a node of another root", foreign)] {
        // In TLS 1.3 the client hears of the refusal after its own part of the handshake.
        let Ok(mut client) = rig.try_with_svid(svid).await else { continue };
        for rpc in Rpc::ALL {
            let status = call(&mut client, rpc).await.unwrap_err();
            assert_eq!(Refusal::from_status(&status), None, "{} by {kind}: the connection is cut", rpc.name());
            assert_ne!(status.code(), Code::Ok);
        }
    }
    assert_eq!(rig.opened.registry.load().node_count(), 1);
    other_rig.finish().await;
    rig.finish().await;
}

/// The listener takes the CA's own SVID alone: an agent that pins the root refuses a service or a node that poses as the CA.
#[tokio::test]
async fn the_ca_is_who_it_says_and_shows_its_root() {
    let rig = Rig::start().await;
    let node = rig.node("a", &[]).await;
    let connector: Connector = rig.connector(node.svid());
    let stream = connector.connect(&rig.address.to_string()).await.unwrap();
    assert_eq!(stream.peer().id().unwrap().as_str(), "spiffe://example.org/bonafide/ca");
    let snapshot = rig.api.own.identity().snapshot();
    let chain = snapshot.svid().unwrap().chain();
    assert_eq!(chain.len(), 3);
    assert_eq!(crate::issuance::KeyHash::of(&chain[2]).0, rig.opened.root_hash, "the last one is the root");
    rig.finish().await;
}

#[tokio::test]
async fn the_cas_own_certificate_is_renewed_at_half_of_its_life() {
    let rig = Rig::start().await;
    let identity = rig.api.own.identity().clone();
    let first = identity.snapshot().svid().unwrap().not_after();
    assert!(rig.api.identity_ready(super::rig::START).is_ok());
    rig.clock.advance(Duration::from_secs(12 * 60 * 60));
    super::rig::eventually("a newer one", || identity.snapshot().svid().unwrap().not_after() > first).await;
    rig.finish().await;
}
