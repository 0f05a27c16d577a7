//! Who is let in, and what is never done.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{
    clock::Timestamp,
    tls::{Peer, client_config_handshake_only, fixtures::after, server_config_handshake_only},
};

#[tokio::test]
async fn both_sides_know_each_other_over_tls_1_3_with_the_hybrid_group() {
    let world = World::new();
    let connector = connector(&world.identity("/web"), "spiffe://example.org/db");
    let acceptor = acceptor(&world.identity("/db"), "spiffe://example.org/web");
    let (client, server) = meet(&connector, &acceptor).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer().id(), Some(&world.authority.id("/db")));
    assert_eq!(server.peer().id(), Some(&world.authority.id("/web")));
    assert_eq!((client.ends_at(), server.ends_at()), (after(3_600), after(3_600)));
    let (written, read) = tokio::join!(client.write_all(b"ping"), async {
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer).await.map(|_| buffer)
    });
    written.unwrap();
    assert_eq!(&read.unwrap(), b"ping");
}

/// Both sides' verdicts, for a table that runs against a cold cache, a warm one, and none.
#[tokio::test]
async fn who_is_refused_by_whom_with_and_without_the_cache() {
    let world = World::new();
    let foreign = Authority::new("example.com");
    let stranger = Authority::new("example.org");
    let both = Authority::bundles(&[&world.authority, &foreign]);
    let as_published = |svid: X509Svid, bundles: &BundleSet| {
        let (identity, publisher) = Identity::published(world.clock());
        publisher.publish(Some(svid), bundles.clone());
        identity
    };
    let own = |path: &str| as_published(world.authority.svid(path, 3_600), &both);
    let all = "spiffe://example.org/** spiffe://example.com/**";
    // (what, client, whom it expects, server, whom it takes, client's verdict on the server, server's on the client)
    type Row =
        (&'static str, Identity, &'static str, Identity, &'static str, Option<&'static str>, Option<&'static str>);
    let rows: Vec<Row> = vec![
        ("right names", own("/web"), "spiffe://example.org/db", own("/db"), "spiffe://example.org/web", None, None),
        ("other server", own("/web"), "spiffe://example.org/db", own("/dbx"), all, Some("peer-not-expected"), None),
        ("other caller", own("/web"), all, own("/db"), "spiffe://example.org/app", None, Some("peer-not-expected")),
        (
            "T-25 same path, other trust domain",
            as_published(foreign.svid("/web", 3_600), &both),
            all,
            own("/db"),
            "spiffe://example.org/web",
            None,
            Some("peer-not-expected"),
        ),
        ("foreign and wanted", as_published(foreign.svid("/web", 3_600), &both), all, own("/db"), all, None, None),
        ("reserved by wildcard", own("/bonafide/node/n1"), all, own("/db"), all, None, Some("peer-not-expected")),
        (
            "reserved by name",
            own("/bonafide/node/n1"),
            all,
            own("/db"),
            "spiffe://example.org/bonafide/node/n1",
            None,
            None,
        ),
        (
            "WAPI-12 no bundle for it",
            as_published(foreign.svid("/web", 3_600), &both),
            all,
            as_published(world.authority.svid("/db", 3_600), &world.bundles()),
            all,
            None,
            Some("unknown-trust-domain"),
        ),
        (
            "ID-20 signed by somebody else",
            as_published(stranger.svid("/web", 3_600), &both),
            all,
            own("/db"),
            all,
            None,
            Some("unknown-authority"),
        ),
    ];
    for (what, client, expected, server, callers, client_says, server_says) in rows {
        let (connector, acceptor) = (connector(&client, expected), acceptor(&server, callers));
        for cache in ["cold", "warm", "cleared"] {
            if cache == "cleared" {
                client.verified_chains().clear();
                server.verified_chains().clear();
            }
            let (connected, accepted) = meet(&connector, &acceptor).await;
            let client_code = connected.as_ref().err().map(ConnectError::code);
            assert_eq!(client_code, client_says, "{what}, {cache} cache: {connected:?}");
            match server_says {
                // The client went away, so the server has no verdict of its own.
                None if client_says.is_some() => assert!(accepted.is_err(), "{what}"),
                _ => assert_eq!(accepted.as_ref().err().map(AcceptError::code), server_says, "{what}: {accepted:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_refused_caller_gets_no_byte() {
    let world = World::new();
    let (client, server) = meet(
        &connector(&world.identity("/web"), "spiffe://example.org/db"),
        &acceptor(&world.identity("/db"), "spiffe://example.org/app"),
    )
    .await;
    assert!(server.is_err());
    let error = client.unwrap().read(&mut [0; 1]).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
}

#[tokio::test]
async fn expired_svids_are_not_presented_and_not_taken() {
    let world = World::new();
    let (short, _publisher) = world.published("/web", 600);
    let long = world.identity("/db");
    let (connector, acceptor) =
        (connector(&short, "spiffe://example.org/db"), acceptor(&long, "spiffe://example.org/web"));
    assert!(meet(&connector, &acceptor).await.1.is_ok());
    world.clock.set(after(600));
    let (client, server) = meet(&connector, &acceptor).await;
    assert_eq!(client.unwrap_err().code(), "no-own-svid", "it does not even ask");
    assert!(server.is_err());
    let as_server = super::acceptor(&short, "spiffe://example.org/db");
    let (client, server) = meet(&super::connector(&long, "spiffe://example.org/web"), &as_server).await;
    assert_eq!((client.unwrap_err().code(), server.unwrap_err().code()), ("handshake-failed", "no-own-svid"));
}

#[tokio::test]
async fn expiry_of_the_peer_is_seen_by_our_clock_also_when_the_chain_was_seen_before() {
    let world = World::new();
    // The peer's own clock is wrong: it goes on presenting.
    let slow = super::clock();
    let (peer, publisher) = Identity::published(Arc::new(slow));
    publisher.publish(Some(world.authority.svid("/web", 600)), world.bundles());
    let (connector, acceptor) =
        (connector(&peer, "spiffe://example.org/db"), acceptor(&world.identity("/db"), "spiffe://example.org/web"));
    assert!(meet(&connector, &acceptor).await.1.is_ok());
    world.clock.set(after(601));
    assert_eq!(meet(&connector, &acceptor).await.1.unwrap_err().code(), "expired");
    world.clock.set(Timestamp::from_unix_seconds(1_000_000_000));
    assert_eq!(meet(&connector, &acceptor).await.1.unwrap_err().code(), "no-own-svid");
}

#[tokio::test]
async fn without_an_svid_both_sides_fail_closed() {
    let world = World::new();
    let (empty, publisher) = Identity::published(world.clock());
    publisher.publish(None, world.bundles());
    let full = world.identity("/db");
    let (client, _) =
        meet(&connector(&empty, "spiffe://example.org/db"), &acceptor(&full, "spiffe://example.org/**")).await;
    assert_eq!(client.unwrap_err().code(), "no-own-svid");
    let (_, server) =
        meet(&connector(&full, "spiffe://example.org/**"), &acceptor(&empty, "spiffe://example.org/db")).await;
    assert_eq!(server.unwrap_err().code(), "no-own-svid");
}

/// Our clock is behind the issuer's: nothing more is published, time alone makes it good; and who waits in vain is told.
#[tokio::test]
async fn f_08_who_waits_for_an_svid_gets_it_when_it_begins() {
    let world = World::new();
    let (identity, _publisher) = world.published_as(world.authority.svid_between("/web", after(10), after(600)));
    let late = identity.clone();
    let late = tokio::spawn(async move { late.ready(Duration::from_secs(5)).await });
    let waiting = tokio::spawn(async move { identity.ready(Duration::from_secs(30)).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    world.clock.advance(Duration::from_secs(5));
    let error = late.await.unwrap().unwrap_err().to_string();
    assert_eq!(
        error,
        "no valid SVID within 5s: the SVID of `spiffe://example.org/web` is valid from 2027-01-15T08:00:10Z to \
         2027-01-15T08:10:00Z, and now is 2027-01-15T08:00:05Z"
    );
    world.clock.advance(Duration::from_secs(5));
    assert!(waiting.await.unwrap().is_ok(), "it has begun");
}

#[tokio::test]
async fn t_26_a_client_certificate_is_demanded_whatever_the_sni() {
    let world = World::new();
    let server = world.identity("/db");
    let acceptor = acceptor(&server, "spiffe://example.org/web");
    for host in ["server.test", "SERVER.test", "other.test.", "10.0.0.1", "not a name", "xn--a.test"] {
        // With one any name will do.
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let connector = connector(&world.identity("/web"), "spiffe://example.org/db");
        let (client, server) = tokio::join!(connector.connect_over(ours, host), acceptor.accept(theirs));
        assert!(client.is_ok() && server.is_ok(), "{host}");
        // Without one none does.
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut config = client_config_handshake_only(&world.identity("/web"), set("spiffe://example.org/db")).unwrap();
        config.client_auth_cert_resolver = no_certificate();
        let name = rustls::pki_types::ServerName::try_from("server.test").unwrap();
        let (_, server) =
            tokio::join!(TlsConnector::from(Arc::new(config)).connect(name, ours), acceptor.accept(theirs));
        assert_eq!(server.unwrap_err().code(), "no-certificate", "{host}");
    }
}

fn no_certificate() -> Arc<dyn rustls::client::ResolvesClientCert> {
    #[derive(Debug)]
    struct Nothing;
    impl rustls::client::ResolvesClientCert for Nothing {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
    }
    Arc::new(Nothing)
}

/// A foreign client that would resume, against our server; our client against a foreign server that hands out tickets.
#[tokio::test]
async fn t_04_no_resumption_no_tickets_no_early_data_on_either_side() {
    let world = World::new();
    let (web, db) = (world.identity("/web"), world.identity("/db"));
    let (client, server) = (set("spiffe://example.org/web"), set("spiffe://example.org/db"));
    let ours = server_config_handshake_only(&db, client.clone()).unwrap();
    assert_eq!((ours.send_tls13_tickets, ours.max_early_data_size, ours.send_half_rtt_data), (0, 0, false));
    assert!(!ours.session_storage.can_cache() && !ours.ticketer.enabled());
    let mut eager = client_config_handshake_only(&web, server.clone()).unwrap();
    eager.resumption = rustls::client::Resumption::in_memory_sessions(16);
    eager.enable_early_data = true;

    let strict = client_config_handshake_only(&web, server).unwrap();
    assert!(!strict.enable_early_data);
    let mut generous = server_config_handshake_only(&db, client).unwrap();
    generous.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    generous.send_tls13_tickets = 2;
    generous.max_early_data_size = 1024;

    for (what, client, server, resumed) in [
        ("eager client, our server", eager.clone(), ours, false),
        ("our client, generous server", strict, generous.clone(), false),
        ("the two others, to see that the test would notice", eager, generous, true),
    ] {
        let (client, server) = (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let name = rustls::pki_types::ServerName::try_from("server.test").unwrap();
            let (ours, theirs) = tokio::join!(client.connect(name, ours), server.accept(theirs));
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            theirs.write_all(b"x").await.unwrap();
            theirs.flush().await.unwrap();
            ours.read_exact(&mut [0; 1]).await.unwrap();
            let connection = ours.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            let group = connection.negotiated_key_exchange_group().map(|group| group.name());
            assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
            kinds.push(connection.handshake_kind() == Some(HandshakeKind::Resumed));
        }
        assert_eq!(kinds.contains(&true), resumed, "{what}: {kinds:?}");
    }
}

/// SVIDs of both sides and the root change all the time, published before use and withdrawn after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_24_rotation_under_load_fails_no_handshake() {
    let world = World::new();
    let (web, web_publisher) = world.published("/web", 3_600);
    let (db, db_publisher) = world.published("/db", 3_600);
    let (connector, acceptor) = (connector(&web, "spiffe://example.org/db"), acceptor(&db, "spiffe://example.org/web"));
    let done = Arc::new(AtomicBool::new(false));
    // One count for each of those that meet: a slow one must have gone on, too, before the next step.
    let met: Vec<_> = (0..4).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let load: Vec<_> = met
        .iter()
        .map(|met| {
            let (connector, acceptor, done, met) =
                (connector.clone(), acceptor.clone(), Arc::clone(&done), Arc::clone(met));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let (client, server) = meet(&connector, &acceptor).await;
                    let (client, server) = (client.unwrap(), server.unwrap());
                    assert!(matches!((client.peer(), server.peer()), (Peer::Svid(_), Peer::Svid(_))));
                    met.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut roots = vec![Authority::new("example.org")];
    for round in 0..12 {
        let publish = |svids: &Authority, roots: &[&Authority]| {
            web_publisher.publish(Some(svids.svid("/web", 3_600)), Authority::bundles(roots));
            db_publisher.publish(Some(svids.svid("/db", 3_600)), Authority::bundles(roots));
        };
        let next = Authority::new("example.org");
        let current = if round == 0 { &world.authority } else { roots.last().unwrap() };
        for (svids, bundle) in [(current, vec![current, &next]), (&next, vec![current, &next]), (&next, vec![&next])] {
            publish(svids, &bundle);
            // Each state is seen everywhere before the next: what an authority does by waiting.
            all_meet_again(&met).await;
        }
        roots.push(next);
    }
    done.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
}

/// Waits until everyone has begun and ended a handshake after now.
async fn all_meet_again(met: &[Arc<AtomicUsize>]) {
    let goals: Vec<_> = met.iter().map(|count| count.load(Ordering::Relaxed) + 2).collect();
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while met.iter().zip(&goals).any(|(count, goal)| count.load(Ordering::Relaxed) < *goal) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("handshakes go on");
}

#[tokio::test]
async fn debug_shows_no_key() {
    let world = World::new();
    let svid = world.authority.svid("/web", 3_600);
    let key = svid.expose_secret().to_vec();
    let (identity, publisher) = world.published_as(svid);
    let connector = connector(&identity, "spiffe://example.org/db");
    let shown = format!("{identity:?} {:?} {publisher:?} {connector:?} {:?}", identity.snapshot(), identity.changes());
    assert!(shown.contains("spiffe://example.org/web"));
    // PKCS#8 of P-256: the scalar is bytes 36 to 68.
    let scalar = &key[36..68];
    for text in
        [format!("{scalar:?}"), format!("{:?}", &scalar[..8]), scalar.iter().map(|b| format!("{b:02x}")).collect()]
    {
        assert!(!shown.contains(text.trim_matches(['[', ']'])), "a key is shown");
    }
}
