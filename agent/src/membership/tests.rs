//! A node's life against a real CA: joined, renewed, slept, copied, killed at each write, removed.

mod site;
mod tokens;

use std::time::Duration;

use bonafide_ca_api::{CaAddress, Invitation, InvitationSecret};
use bonafide_verifier::spiffe::TrustDomain;
use tokio::time::timeout;

use self::site::{SOON, Site, fetch, fetch_all, health, parse, stop, until};
use super::*;
use crate::{
    ca_client::Limits,
    running::{EndError, StartError},
};

const HOUR: Duration = Duration::from_secs(3600);

fn dialer(invitation: &Invitation) -> Dialer {
    Dialer::new(invitation.addresses().to_vec(), Arc::new(Limits::default()))
}

#[test]
fn renewal_lies_between_40_and_50_percent_of_life() {
    let (start, end) = (Timestamp::from_unix_seconds(1000), Timestamp::from_unix_seconds(2000));
    assert_eq!(renewal_time(start, end, 0.0), Timestamp::from_unix_seconds(1500));
    assert_eq!(renewal_time(start, end, 1.0), Timestamp::from_unix_seconds(1400));
    for _ in 0..100 {
        let at = renewal_time(start, end, random_fraction());
        assert!(at >= Timestamp::from_unix_seconds(1400) && at <= Timestamp::from_unix_seconds(1500));
    }
}

#[tokio::test]
async fn a_node_joins_once_and_goes_on_with_what_it_has() {
    let site = Site::start().await;
    let home = site.home("n1");
    let invitation = site.invite("n1", false).await;
    site.add_service("/web", "n1").await;
    let agent = site.agent(&home, Some(&invitation)).await;
    assert_eq!(agent.ready().await.node, "spiffe://example.org/bonafide/node/n1");
    assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    let state = home.peek();
    assert!(state.invitation.is_none() && state.redeemed.is_some(), "the secret is gone from the disk");
    stop(agent).await;
    for join in [None, Some(invitation.as_str())] {
        let agent = site.agent(&home, join).await;
        health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
        assert_eq!(home.peek().current.key.fingerprint(), state.current.key.fingerprint());
        stop(agent).await;
    }
    // Another root, by name; and another agent on the same directory.
    let elsewhere = Invitation::new(
        vec![CaAddress::parse("127.0.0.1:1").unwrap()],
        TrustDomain::parse("other.org").unwrap(),
        [1; 32],
        InvitationSecret::generate().unwrap(),
        Timestamp::from_unix_seconds(1_900_000_000),
    )
    .unwrap();
    let refused = site.try_agent(&home, Some(&elsewhere.expose_secret_string())).await.unwrap_err();
    assert!(
        matches!(&refused, StartError::Elsewhere(why) if why.contains("is a member of `example.org`")),
        "{refused}"
    );
    let agent = site.agent(&home, None).await;
    // It waits a moment, by our clock: who holds the directory could be one that was killed and is not quite gone.
    let mut second = std::pin::pin!(site.try_agent(&home, None));
    let second = loop {
        match timeout(Duration::from_millis(5), &mut second).await {
            Ok(second) => break second.unwrap_err(),
            Err(_) => site.clock.advance(Duration::from_millis(100)),
        }
    };
    assert!(matches!(second, StartError::State(StateError::InUse { .. })), "{second}");
    stop(agent).await;
}

/// The reply to a join is lost: the same key asks again and is let in; another key never is.
#[tokio::test]
async fn t_01_a_lost_reply_locks_no_node_out() {
    let site = Site::start().await;
    let clock = site.clock();
    let invitation = parse(&site.invite("n1", false).await);
    let key = NodeKey::generate().unwrap();
    let mut dialer = dialer(&invitation);
    let first = join::join(&mut dialer, &invitation, &key, &clock).await.unwrap();
    let again = join::join(&mut dialer, &invitation, &key, &clock).await.unwrap();
    assert_eq!(first.id, again.id);
    let other = NodeKey::generate().unwrap();
    let refused = join::join(&mut dialer, &invitation, &other, &clock).await.unwrap_err();
    assert_eq!((refused.code(), refused.may_pass()), ("invitation-used", false), "{refused}");
    // An agent that was killed after its key was written and before the reply came goes on by itself.
    let home = site.home("n1");
    let plan = join::plan(None, Some(invitation), "d").unwrap();
    let state = NodeState { current: HeldKey::bare(key), ..plan.state };
    home.open().store_node(&state).unwrap();
    let agent = site.agent(&home, None).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    stop(agent).await;
}

#[tokio::test]
async fn a_join_that_cannot_be_is_refused_with_the_reason() {
    let mut site = Site::start().await;
    let good = parse(&site.invite("n1", false).await);
    let with = |root: [u8; 32], secret: InvitationSecret| {
        let address = good.addresses().to_vec();
        let invitation =
            Invitation::new(address, good.trust_domain().clone(), root, secret, good.expires_at()).unwrap();
        invitation.expose_secret_string().to_string()
    };
    let cases = [
        (
            "another root",
            with([7; 32], InvitationSecret::generate().unwrap()),
            "is not the CA that the invitation names",
        ),
        ("unknown", with(*good.root_sha256(), InvitationSecret::generate().unwrap()), "(invitation-unknown)"),
    ];
    for (name, join, expected) in cases {
        let home = site.home(name);
        let agent = site.try_agent(&home, Some(&join)).await.unwrap();
        match timeout(SOON, agent.ended()).await.unwrap() {
            Err(EndError::JoinRefused(reason)) => assert!(reason.contains(expected), "{name}: {reason}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Expired: the CA's word, since it is the CA's clock that counts.
    let invitation = site.invite("n2", false).await;
    site.clock.advance(Duration::from_secs(601));
    let home = site.home("late");
    let agent = site.try_agent(&home, Some(&invitation)).await.unwrap();
    match timeout(SOON, agent.ended()).await.unwrap() {
        Err(EndError::JoinRefused(reason)) => assert!(reason.contains("(invitation-expired)"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // No CA: tried for as long as the invitation lives.
    let invitation = site.invite("n3", false).await;
    site.stop_ca().await;
    let home = site.home("nobody");
    let agent = site.try_agent(&home, Some(&invitation)).await.unwrap();
    health(&agent, Part::NodeIdentity, |part| part.reason.starts_with("not joined yet: no CA answers")).await;
    site.clock.advance(Duration::from_secs(601));
    match timeout(SOON, agent.ended()).await.unwrap() {
        Err(EndError::JoinUnreachable(reason)) => assert!(reason.contains("node invite"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// A listener with an ordinary service's SVID, whose chain ends in the very same root, gets neither the secret nor a stream.
#[tokio::test]
async fn an_ordinary_services_svid_is_not_the_ca() {
    use bonafide_verifier::tls::{Acceptor, AcceptorOptions, PeerSet};
    use rustls::pki_types::CertificateDer;
    let site = Site::start().await;
    let home = site.home("n1");
    site.add_service("/web", "n1").await;
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    let svid = fetch_all(&home.socket()).await.unwrap().svids.remove(0);
    let state = home.peek();
    // The whole chain, root included, as the CA presents its own.
    let mut chain: Vec<CertificateDer<'static>> = bonafide_verifier::x509::split_der(&svid.x509_svid)
        .unwrap()
        .into_iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    chain.push(CertificateDer::from(svid.bundle));
    let service = X509Svid::new(chain, svid.x509_svid_key).unwrap();
    let bundles = bundles(&state, &View::empty(state.trust_domain.clone()));
    let identity = Identity::fixed(service, bundles, site.clock());
    let mut options = AcceptorOptions::default();
    options.dangerously_admit_bare_keys = true;
    options.alpn = vec![b"h2".to_vec()];
    let acceptor = Acceptor::new(&identity, PeerSet::any_of(state.trust_domain.clone()), options).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = CaAddress::try_from(listener.local_addr().unwrap()).unwrap();
    let impostor = tokio::spawn(async move {
        let mut finished = 0;
        for _ in 0..2 {
            let (socket, _) = listener.accept().await.unwrap();
            finished += usize::from(acceptor.accept(socket).await.is_ok());
        }
        finished
    });
    let good = parse(&site.invite("n2", false).await);
    let secret = InvitationSecret::from_slice(good.secret().expose_secret()).unwrap();
    let there = vec![address.clone()];
    let misled =
        Invitation::new(there.clone(), good.trust_domain().clone(), *good.root_sha256(), secret, good.expires_at())
            .unwrap();
    let clock = site.clock();
    let key = NodeKey::generate().unwrap();
    let refused = join::join(&mut dialer(&misled), &misled, &key, &clock).await.unwrap_err();
    assert!(matches!(refused, JoinError::NotOurCa { .. }), "{refused}");
    // The same for a node that is a member.
    let (own, publisher) = Identity::published(site.clock());
    publisher.publish(svid_in_use(&state), self::bundles(&state, &View::empty(state.trust_domain.clone())));
    let connector = tls::node_connector(&own, &state.trust_domain).unwrap();
    let refused = Dialer::new(there, Arc::new(Limits::default())).dial(&connector).await.unwrap_err();
    assert!(refused.impostor().is_some(), "{refused}");
    let finished = timeout(SOON, impostor).await.unwrap().unwrap();
    assert_eq!(finished, 0, "no handshake was finished, so nothing was said");
    stop(agent).await;
}

/// Every renewal makes a new key, which is in use before the old one is dropped; what is served goes on.
#[tokio::test]
async fn a_renewal_makes_a_new_key_and_nobody_notices() {
    let site = Site::start().await;
    let home = site.home("n1");
    site.add_service("/web", "n1").await;
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    let before = home.peek().current.key.fingerprint();
    for _ in 0..3 {
        let old = home.peek().current.key.fingerprint();
        site.clock.advance(12 * HOUR);
        until("the new key is the current one", async || {
            let state = home.peek();
            state.current.key.fingerprint() != old && state.pending.is_none() && state.replaced == Some(old)
        })
        .await;
        health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
        assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    }
    assert_ne!(home.peek().current.key.fingerprint(), before);
    let node = site.node("n1").await;
    assert_eq!((node.connected, node.stale_key_attempts), (true, 0), "{node:?}");
    assert_eq!(node.key_fingerprint, data_encoding::HEXLOWER.encode(&home.peek().current.key.fingerprint()));
    stop(agent).await;
}

/// Killed after each write of a renewal: every start goes on by itself, and ends with one key that the CA knows.
#[tokio::test]
async fn a_kill_after_any_write_of_a_renewal_is_mended_by_a_start() {
    let site = Site::start().await;
    let clock = site.clock();
    let home = site.home("n1");
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    stop(agent).await;
    // 1. The pending key is written, nothing was asked yet.
    let mut state = home.state();
    let pending = NodeKey::generate().unwrap();
    let fingerprint = pending.fingerprint();
    state.pending = Some(HeldKey::bare(pending));
    home.open().store_node(&state).unwrap();
    let agent = site.agent(&home, None).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    site.clock.advance(12 * HOUR);
    until("the pending key is used", async || home.peek().current.key.fingerprint() == fingerprint).await;
    stop(agent).await;
    // 2. The CA has certified a pending key, and the reply was lost; 3. the reply was written, and the key never used.
    for reply_written in [false, true] {
        let agent = site.agent(&home, None).await;
        health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
        let pending = NodeKey::generate().unwrap();
        let fingerprint = pending.fingerprint();
        let client = client_of(&site, &home).await;
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        // The running agent's stream is replaced by this one; it comes back when this one is gone.
        let credential = join::renew(&client.0, &trust_domain, &pending, &clock).await.unwrap();
        drop(client);
        stop(agent).await;
        let mut state = home.state();
        let chain = if reply_written { credential.chain } else { Vec::new() };
        state.pending = Some(HeldKey { key: pending, chain });
        home.open().store_node(&state).unwrap();
        let agent = site.agent(&home, None).await;
        if !reply_written {
            health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
            site.clock.advance(12 * HOUR);
        }
        until("the pending key is used", async || home.peek().current.key.fingerprint() == fingerprint).await;
        health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
        stop(agent).await;
    }
    assert_eq!(site.node("n1").await.stale_key_attempts, 0);
}

/// A client with the node's SVID as it lies on disk.
async fn client_of(site: &Site, home: &site::Home) -> (CaClient, watch::Sender<Option<Arc<Live>>>) {
    let state = home.peek();
    let (identity, publisher) = Identity::published(site.clock());
    let view = View::empty(state.trust_domain.clone());
    publisher.publish(svid_in_use(&state), bundles(&state, &view));
    let connector = tls::node_connector(&identity, &state.trust_domain).unwrap();
    let limits = Arc::new(Limits::default());
    let (address, channel) = Dialer::new(state.addresses.clone(), Arc::clone(&limits)).dial(&connector).await.unwrap();
    let live = Live::new(address.to_string(), site.clock.now(), channel, state.current.key.fingerprint(), 1 << 20);
    let (sender, receiver) = watch::channel(Some(Arc::new(live)));
    (CaClient::new(receiver, limits), sender)
}

/// F-09: the node's SVID ran out while the CA or the node was away; both come back by themselves.
#[tokio::test]
async fn f_09_a_node_recovers_by_its_key_after_its_svid_has_expired() {
    let mut site = Site::start().await;
    let home = site.home("n1");
    site.add_service("/web", "n1").await;
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    // The CA is away for three lives of the node's SVID, the agent runs.
    site.stop_ca().await;
    health(&agent, Part::CaConnection, |part| part.state == State::Degraded).await;
    site.clock.advance(72 * HOUR);
    health(&agent, Part::NodeIdentity, |part| part.state == State::Unready && part.reason.contains("no CA answers"))
        .await;
    site.start_ca().await;
    health(&agent, Part::NodeIdentity, |part| part.state == State::Ready).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    stop(agent).await;
    // The node is away for 29 days.
    until("the CA has seen the node go", async || !site.node("n1").await.connected).await;
    site.clock.advance(29 * 24 * HOUR);
    let agent = site.agent(&home, None).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    stop(agent).await;
}

/// After 30 days the message has the command to run, and the command works.
#[tokio::test]
async fn f_09_after_30_days_a_new_invitation_is_needed_and_is_enough() {
    let site = Site::start().await;
    let home = site.home("n1");
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    stop(agent).await;
    // The CA notes when it saw the node last: before the clock moves.
    until("the CA has seen the node go", async || !site.node("n1").await.connected).await;
    site.clock.advance(31 * 24 * HOUR);
    let agent = site.try_agent(&home, None).await.unwrap();
    let refused = health(&agent, Part::NodeIdentity, |part| part.reason.contains("recovery-too-late")).await;
    assert_eq!(refused.state, State::Unready);
    assert!(refused.reason.contains("bonafide-ca node invite n1"), "{}", refused.reason);
    stop(agent).await;
    let again = site.invite("n1", true).await;
    let agent = site.agent(&home, Some(&again)).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    stop(agent).await;
}

/// The state directory is copied and both run: once the original has renewed, the copy is refused and shown at the CA, and the
/// original goes on.
#[tokio::test]
async fn a_copy_of_the_state_is_refused_and_the_original_goes_on() {
    let site = Site::start().await;
    let (home, copy) = (site.home("n1"), site.home("copy"));
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    home.copy_to(&copy);
    let old = home.peek().current.key.fingerprint();
    site.clock.advance(12 * HOUR);
    until("renewed", async || home.peek().current.key.fingerprint() != old).await;
    // Late calls by the replaced key are not counted for a minute.
    site.clock.advance(Duration::from_secs(120));
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    // Its SVID is still valid, so the socket comes up; what the CA says is what counts.
    let thief = site.try_agent(&copy, None).await.unwrap();
    let refused = health(&thief, Part::NodeIdentity, |part| part.reason.contains("key-stale")).await;
    assert!(refused.reason.contains("bonafide-ca node invite"), "{}", refused.reason);
    assert_eq!(refused.state, State::Unready, "its SVID has life left and is of no use");
    until("the CA shows the copy", async || site.node("n1").await.stale_key_attempts > 0).await;
    assert_eq!(agent.health().part(Part::CaConnection).state, State::Ready);
    assert!(site.node("n1").await.connected);
    stop(thief).await;
    stop(agent).await;
}

/// A removed node drops everything it had, tells its workloads, and stays up; with a new invitation it is back.
#[tokio::test]
async fn a_removed_node_forgets_everything() {
    let site = Site::start().await;
    let home = site.home("n1");
    site.add_service("/web", "n1").await;
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    until("kept", async || std::fs::read_dir(home.kept()).unwrap().count() == 1).await;
    site.remove_node("n1").await;
    let removed = health(&agent, Part::NodeIdentity, |part| part.reason.contains("node-removed")).await;
    assert_eq!(removed.state, State::Unready);
    assert_eq!(fetch(&home.socket()).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    until("keys and state are deleted", async || {
        !home.data().join("node").exists()
            && !home.data().join("view").exists()
            && std::fs::read_dir(home.kept()).unwrap().count() == 0
    })
    .await;
    stop(agent).await;
    assert!(matches!(site.try_agent(&home, None).await, Err(StartError::Plan(_))));
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    // Services name the node, so the new one of that name has them.
    assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    stop(agent).await;
}

/// F-10: the agent is gone, the CA is down; a new agent serves the same workloads at once.
#[tokio::test]
async fn f_10_a_new_agent_serves_what_was_kept_without_a_ca() {
    let mut site = Site::start().await;
    let home = site.home("n1");
    site.add_service("/web", "n1").await;
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    until("kept", async || std::fs::read_dir(home.kept()).unwrap().count() == 1).await;
    site.stop_ca().await;
    stop(agent).await;
    let agent = site.agent(&home, None).await;
    assert_eq!(fetch(&home.socket()).await.unwrap(), ["spiffe://example.org/web"]);
    assert_eq!(agent.health().part(Part::CaConnection).state, State::Degraded);
    site.start_ca().await;
    health(&agent, Part::CaConnection, |part| part.state == State::Ready).await;
    stop(agent).await;
}

/// The CA's data is an older copy of itself: the same epoch, a lower version. Refused and alarmed; what is held is served.
#[tokio::test]
async fn f_25_a_ca_that_has_gone_back_is_refused() {
    let mut site = Site::start().await;
    let home = site.home("n1");
    site.add_service("/old", "n1").await;
    let agent = site.agent(&home, Some(&site.invite("n1", false).await)).await;
    until("the CA has seen the node", async || site.node("n1").await.acknowledged_version > 0).await;
    site.stop_ca().await;
    let (data, older) = (site.ca_data(), site.temp.path().join("older"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    };
    copy(&data, &older);
    site.start_ca().await;
    site.add_service("/new", "n1").await;
    let both = ["spiffe://example.org/new", "spiffe://example.org/old"];
    until("the new service has come", async || {
        let mut ids = fetch(&home.socket()).await.unwrap();
        ids.sort();
        ids == both
    })
    .await;
    site.stop_ca().await;
    std::fs::remove_dir_all(&data).unwrap();
    copy(&older, &data);
    site.start_ca().await;
    let alarmed = health(&agent, Part::Sync, |part| part.state == State::Degraded).await;
    assert!(alarmed.reason.contains("gone back"), "{}", alarmed.reason);
    let mut ids = fetch(&home.socket()).await.unwrap();
    ids.sort();
    assert_eq!(ids, both, "I7: never a shorter view by accident");
    stop(agent).await;
}
