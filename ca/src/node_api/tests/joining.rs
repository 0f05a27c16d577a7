//! Join: one invitation, one key.

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{
    InvitationSecret, Reason,
    generated::node::{Hello, JoinRequest, RecoverRequest},
};
use rcgen::KeyPair;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::rig::{DEADLINE, Rig, bundle_of, name, new_spki, reason};
use crate::{
    audit::Kind,
    node_api::Limits,
    store::{Abort, Tx},
};

#[tokio::test]
async fn a_machine_joins_with_one_string_and_gets_all_it_needs() {
    let rig = Rig::start().await;
    let secret = rig.invite("web-1", &[("group", "web")], false).await;
    let key = KeyPair::generate().unwrap();
    let credential = rig.join(&key, &secret).await.unwrap();
    assert_eq!(credential.spiffe_id, "spiffe://example.org/bonafide/node/web-1");
    let verified = rig.verify(&credential.chain);
    assert_eq!(verified.id().as_str(), credential.spiffe_id);
    assert_eq!(bundle_of(&credential).x509_authorities().len(), 1);
    let snapshot = rig.opened.registry.load();
    assert_eq!(snapshot.node(&name("web-1")).unwrap().labels.value("group"), Some("web"));
    // The CA's own certificate and the node's.
    assert_eq!(rig.records(Kind::X509Issued).await, 2);
    rig.finish().await;
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_by_the_same_key_and_by_no_other() {
    let rig = Rig::start().await;
    let secret = rig.invite("n1", &[], false).await;
    let key = KeyPair::generate().unwrap();
    rig.join(&key, &secret).await.unwrap();
    rig.join(&key, &secret).await.unwrap();
    let other = rig.join(&KeyPair::generate().unwrap(), &secret).await.unwrap_err();
    assert_eq!(reason(&other), Reason::InvitationUsed);
    // When, from where, and the command that mends it.
    for part in ["2026-09-21", "127.0.0.1", "bonafide-ca node remove n1", "bonafide-ca node invite n1"] {
        assert!(other.message().contains(part), "`{}` lacks `{part}`", other.message());
    }
    assert_eq!(rig.records(Kind::InvitationRefused).await, 1);
    rig.finish().await;
}

#[tokio::test]
async fn the_first_sync_closes_the_invitation() {
    let rig = Rig::start().await;
    let secret = rig.invite("n1", &[], false).await;
    let key = KeyPair::generate().unwrap();
    let credential = rig.join(&key, &secret).await.unwrap();
    let mut node = super::rig::TestNode::new(&rig, key, credential).await;
    let mut stream = node.sync(Hello::default()).await.unwrap();
    let update = stream.next().await.unwrap();
    stream.apply(&update).await;
    let closed = async {
        while rig.opened.registry.load().invitation(&name("n1")).is_some() {
            rig.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, closed).await.unwrap();
    let again = rig.join(&node.key, &secret).await.unwrap_err();
    assert_eq!(reason(&again), Reason::InvitationClosed);
    rig.finish().await;
}

#[tokio::test]
async fn invitations_that_do_not_let_in() {
    let rig = Rig::start().await;
    let secret = rig.invite("n1", &[], false).await;
    let mut client = rig.with_key(&KeyPair::generate().unwrap()).await;
    let unknown = InvitationSecret::generate().unwrap().expose_secret().to_vec();
    for (what, secret) in [
        ("empty", vec![]),
        ("15 bytes", vec![0; 15]),
        ("31 bytes", secret.expose_secret()[..31].to_vec()),
        ("33 bytes", [secret.expose_secret().as_slice(), &[0]].concat()),
        ("another", unknown),
        ("a quote", b"' OR 1=1 --".to_vec()),
    ] {
        let refused = client.join(JoinRequest { secret, agent: None }).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::InvitationUnknown, "{what}");
    }
    rig.clock.advance(Duration::from_secs(601));
    let late = rig.join(&KeyPair::generate().unwrap(), &secret).await.unwrap_err();
    assert_eq!(reason(&late), Reason::InvitationExpired);
    assert!(late.message().contains("bonafide-ca node invite n1"), "{}", late.message());
    assert_eq!(rig.opened.registry.load().node_count(), 0);
    rig.finish().await;
}

/// 64 keys race one invitation: one wins, the others are told who was first; nobody meets a locked database.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t_01_sixty_four_keys_race_one_invitation() {
    let rig = Rig::start().await;
    for round in 0..3 {
        let secret = rig.invite(&format!("n{round}"), &[], false).await;
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(rig.with_key(&KeyPair::generate().unwrap()).await);
        }
        rig.clock.advance(Duration::from_secs(100));
        let start = std::sync::Arc::new(tokio::sync::Barrier::new(clients.len()));
        let racing: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let start = start.clone();
                let secret = secret.expose_secret().to_vec();
                tokio::spawn(async move {
                    start.wait().await;
                    client.join(JoinRequest { secret, agent: None }).await
                })
            })
            .collect();
        let mut won = 0;
        for outcome in racing {
            match outcome.await.unwrap() {
                Ok(_) => won += 1,
                Err(refused) => assert_eq!(reason(&refused), Reason::InvitationUsed, "{refused:?}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(rig.opened.registry.load().node_count(), 3);
    rig.finish().await;
}

#[tokio::test]
async fn joins_from_one_address_are_bounded_and_say_when_to_ask_again() {
    let mut limits = Limits::default();
    limits.quota.join_burst = 2;
    let rig = Rig::start_with(limits).await;
    let mut client = rig.with_key(&KeyPair::generate().unwrap()).await;
    let request = || JoinRequest { secret: vec![1; 32], agent: None };
    for _ in 0..2 {
        assert_eq!(reason(&client.join(request()).await.unwrap_err()), Reason::InvitationUnknown);
    }
    let refused = client.join(request()).await.unwrap_err();
    let refusal = bonafide_ca_api::Refusal::from_status(&refused).unwrap();
    assert_eq!(refusal.reason, Some(Reason::JoinRate));
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(reason(&client.join(request()).await.unwrap_err()), Reason::InvitationUnknown);
    rig.finish().await;
}

#[tokio::test]
async fn a_key_that_is_somebody_elses_does_not_join() {
    let rig = Rig::start().await;
    let first = rig.node("n1", &[]).await;
    let secret = rig.invite("n2", &[], false).await;
    let refused = rig.join(&first.key, &secret).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::KeyRefused);
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = parameters.self_signed(&p384).unwrap();
    let taken = bonafide_verifier::tls::KeyCredential::new(certificate.der().to_vec(), &p384.serialize_der());
    assert!(taken.is_err(), "another curve is not even presented");
    let _ = new_spki();
    rig.finish().await;
}

#[tokio::test]
async fn nothing_is_bound_while_the_clock_is_doubted() {
    let rig = Rig::start().await;
    let secret = rig.invite("n1", &[], false).await;
    let key = KeyPair::generate().unwrap();
    let mut client = rig.with_key(&key).await;
    rig.clock.jump_wall(-180_000);
    let request = || JoinRequest { secret: secret.expose_secret().to_vec(), agent: None };
    let refused = client.join(request()).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::ClockUntrusted);
    assert!(rig.opened.registry.load().invitation(&name("n1")).unwrap().bound.is_none());
    rig.clock.jump_wall(180_000);
    client.join(request()).await.unwrap();
    rig.finish().await;
}

#[tokio::test]
async fn a_machine_that_takes_a_name_over_ends_what_the_old_one_has() {
    let rig = Rig::start().await;
    let mut old = rig.node("n1", &[]).await;
    let mut stream = old.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    let secret = rig.invite("n1", &[], true).await;
    rig.join(&KeyPair::generate().unwrap(), &secret).await.unwrap();
    assert_eq!(stream.end().await, Reason::StreamReplaced);
    let refused = old.issue(vec![]).await.unwrap_err();
    assert!(matches!(reason(&refused), Reason::KeyUnknown | Reason::KeyStale), "{refused:?}");
    rig.finish().await;
}

/// Nodes come back the moment a CA listens again. Those that came before its certificate was made were once turned away, and
/// came back only when their waiting time was over.
#[tokio::test]
async fn f_09_whoever_comes_before_the_cas_certificate_waits_for_it() {
    let mut rig = Rig::start().await;
    let (api, listener) = (rig.another_api(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    rig.address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (api, stop) = (Arc::clone(&api), stop.clone());
        async move { api.serve(listener, stop).await.unwrap() }
    });
    let key = KeyPair::generate().unwrap();
    {
        let early = rig.try_with_key(&key);
        tokio::pin!(early);
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut early).await.is_err(), "neither in nor out");
        let run = api.run_identity(&stop);
        tokio::pin!(run);
        tokio::select! {
            () = &mut run => panic!("it runs until it is stopped"),
            connected = &mut early => drop(connected.unwrap()),
        }
    }
    stop.cancel();
    serving.await.unwrap();
    rig.finish().await;
}

/// The holder of an invitation that was redeemed and not closed could once have as many node SVIDs as its address may ask for.
#[tokio::test]
async fn t_01_joins_that_are_asked_for_again_count_as_the_nodes_svids() {
    let mut limits = Limits::default();
    limits.quota.node_svids_per_hour = 2;
    let rig = Rig::start_with(limits).await;
    let secret = rig.invite("n1", &[], false).await;
    let key = KeyPair::generate().unwrap();
    for _ in 0..3 {
        rig.join(&key, &secret).await.unwrap();
    }
    let issued = rig.records(Kind::X509Issued).await;
    assert_eq!(reason(&rig.join(&key, &secret).await.unwrap_err()), Reason::Quota);
    assert_eq!((rig.records(Kind::X509Issued).await, rig.records(Kind::InvitationRetried).await), (issued, 2));
    rig.finish().await;
}

/// Keys that no node has once stood in the queue of the one writer.
#[tokio::test]
async fn f_06_an_unknown_key_is_refused_while_the_database_is_busy() {
    let rig = Rig::start().await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let store = rig.opened.store.clone();
    let busy = tokio::spawn(async move {
        let change = move |_: &mut Tx<'_>| {
            let _ = held.recv();
            Ok::<(), Abort<()>>(())
        };
        store.write(change).await
    });
    let mut stranger = rig.with_key(&KeyPair::generate().unwrap()).await;
    let refused = tokio::time::timeout(Duration::from_secs(4), stranger.recover(RecoverRequest { agent: None })).await;
    assert_eq!(reason(&refused.expect("not behind the writer").unwrap_err()), Reason::KeyUnknown);
    release.send(()).unwrap();
    busy.await.unwrap().unwrap();
    rig.finish().await;
}
