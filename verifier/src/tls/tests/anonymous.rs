//! Clients without a certificate, where they are let in.

use rustls::{HandshakeKind, client::Resumption};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    lifetime::EndReason,
    tls::{CredentialEnded, Peer, client::anonymous_client_config, fixtures::after, fixtures::node_key},
};

fn open_acceptor(identity: &Identity, callers: &str) -> Acceptor {
    let options = AcceptorOptions { dangerously_admit_anonymous: true, ..AcceptorOptions::default() };
    Acceptor::new(identity, set(callers), options).unwrap()
}

fn anonymous(identity: &Identity, expected: &str) -> Connector {
    Connector::anonymous(identity, set(expected), ConnectorOptions::default()).unwrap()
}

fn nobody(world: &World) -> Identity {
    Identity::bundles_only(world.bundles(), world.clock())
}

/// The three columns are a listener that admits anonymous clients, one that does not, and one for the keys of nodes.
#[tokio::test]
async fn t_26_no_certificate_is_nobody_and_a_bad_one_is_refused_where_none_is_needed() {
    let world = World::new();
    let (db, stranger) = (world.identity("/db"), Authority::new("example.org"));
    let of = |svid: X509Svid| world.published_as(svid).0;
    let connects = |identity: &Identity| connector(identity, "spiffe://example.org/db");
    // The peer's own clock is wrong: it goes on presenting what has ended.
    let (late, publisher) = Identity::published(Arc::new(clock()));
    publisher.publish(Some(world.authority.svid_between("/web", after(0), after(600))), world.bundles());
    world.clock.set(after(700));
    type Verdict = Result<Option<&'static str>, &'static str>;
    let rows: [(&str, Connector, Verdict, Verdict); 6] = [
        ("none", anonymous(&nobody(&world), "spiffe://example.org/db"), Ok(None), Err("no-certificate")),
        (
            "none, of one that has an SVID",
            anonymous(&world.identity("/web"), "spiffe://example.org/db"),
            Ok(None),
            Err("no-certificate"),
        ),
        ("a good one", connects(&world.identity("/web")), Ok(Some("/web")), Ok(Some("/web"))),
        ("of another caller", connects(&world.identity("/app")), Err("peer-not-expected"), Err("peer-not-expected")),
        (
            "signed by somebody else",
            connects(&of(stranger.svid("/web", 3_600))),
            Err("unknown-authority"),
            Err("unknown-authority"),
        ),
        ("expired", connects(&late), Err("expired"), Err("expired")),
    ];
    for (what, connector, admitting, demanding) in rows {
        for (acceptor, expected) in [
            (open_acceptor(&db, "spiffe://example.org/web"), admitting),
            (acceptor(&db, "spiffe://example.org/web"), demanding),
        ] {
            let (client, server) = meet(&connector, &acceptor).await;
            assert!(client.is_ok(), "{what}: {client:?}");
            let found = server.map(|stream| match stream.peer() {
                Peer::Svid(peer) => Some(peer.id().path().to_owned()),
                Peer::Anonymous => None,
                Peer::Key(_) => panic!("{what}: no key was admitted"),
            });
            let expected = expected.map(|path| path.map(str::to_owned));
            assert_eq!(found.map_err(|error| error.code()), expected, "{what}");
        }
    }
}

#[tokio::test]
async fn admitting_the_anonymous_admits_no_bare_key_and_the_other_way_round() {
    let world = World::new();
    let db = world.identity("/db");
    let expected = world.authority.id("/db");
    let trust = || crate::tls::ServerTrust::Bundles { bundles: world.bundles(), expected: expected.clone() };
    for (anonymous_too, keys_too) in [(true, false), (false, true), (true, true)] {
        let options = AcceptorOptions {
            dangerously_admit_anonymous: anonymous_too,
            dangerously_admit_bare_keys: keys_too,
            ..AcceptorOptions::default()
        };
        let acceptor = Acceptor::new(&db, set("spiffe://example.org/web"), options).unwrap();
        let (_, server) = meet(&anonymous(&nobody(&world), "spiffe://example.org/db"), &acceptor).await;
        assert_eq!(server.is_ok_and(|stream| matches!(stream.peer(), Peer::Anonymous)), anonymous_too);
        let keys =
            crate::tls::KeyConnector::new(node_key().0, trust(), world.clock(), ConnectorOptions::default()).unwrap();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (_, server) = tokio::join!(keys.connect_over(ours, "db.test"), acceptor.accept(theirs));
        assert_eq!(server.is_ok_and(|stream| matches!(stream.peer(), Peer::Key(_))), keys_too);
    }
}

/// A client without an SVID of its own is as careful about its server as any other.
#[tokio::test]
async fn an_anonymous_client_takes_its_server_and_no_other() {
    let world = World::new();
    let (caller, stranger) = (nobody(&world), Authority::new("example.org"));
    for (what, server, code) in [
        ("the right one", world.identity("/db"), None),
        ("another", world.identity("/dbx"), Some("peer-not-expected")),
        ("of another authority", world.published_as(stranger.svid("/db", 3_600)).0, Some("unknown-authority")),
    ] {
        let acceptor = open_acceptor(&server, "spiffe://example.org/web");
        let (client, _) = meet(&anonymous(&caller, "spiffe://example.org/db"), &acceptor).await;
        assert_eq!(client.as_ref().err().map(ConnectError::code), code, "{what}: {client:?}");
    }
}

fn reason(error: &std::io::Error) -> EndReason {
    error.get_ref().unwrap().downcast_ref::<CredentialEnded>().expect("says that a credential ended").reason()
}

#[tokio::test]
async fn t_05_an_anonymous_connection_ends_with_the_servers_svid_on_both_sides() {
    let world = World::new();
    let (db, _publisher) = world.published("/db", 600);
    let (web, _web) = world.published("/web", 60);
    let (client, server) =
        meet(&anonymous(&web, "spiffe://example.org/db"), &open_acceptor(&db, "spiffe://example.org/web")).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!((client.ends_at(), server.ends_at()), (after(600), after(600)), "what is not presented bounds nothing");
    world.clock.set(after(599));
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
    world.clock.set(after(600));
    assert_eq!(reason(&client.write_all(b"x").await.unwrap_err()), EndReason::PeerExpires);
    assert_eq!(reason(&server.write_all(b"x").await.unwrap_err()), EndReason::OwnSvidExpires);
}

#[tokio::test]
async fn an_anonymous_connection_ends_when_a_side_loses_what_it_was_made_with() {
    let world = World::new();
    let ((db, db_publisher), (web, web_publisher)) = (world.published("/db", 600), world.published("/web", 600));
    let (client, server) =
        meet(&anonymous(&web, "spiffe://example.org/db"), &open_acceptor(&db, "spiffe://example.org/web")).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    // Its own SVID is not what this connection was made with: whether it is there or not ends nothing.
    let mut closing = Box::pin(client.closing());
    let mut poll = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(closing.as_mut().poll(&mut poll).is_pending());
    web_publisher.publish(None, world.bundles());
    assert!(closing.as_mut().poll(&mut poll).is_pending());
    web_publisher.publish(None, Authority::bundles(&[&Authority::new("example.org")]));
    assert_eq!(closing.await, EndReason::AuthorityWithdrawn);
    db_publisher.publish(None, world.bundles());
    assert_eq!(server.closing().await, EndReason::OwnSvidWithdrawn);
}

/// Resumption would skip the verifier: a session that was begun without a certificate is not gone on with, either.
#[tokio::test]
async fn t_04_anonymous_clients_resume_nothing() {
    let world = World::new();
    let acceptor = open_acceptor(&world.identity("/db"), "spiffe://example.org/web");
    let mut eager = anonymous_client_config(&nobody(&world), set("spiffe://example.org/db")).unwrap();
    assert!(!eager.enable_early_data);
    eager.resumption = Resumption::in_memory_sessions(16);
    eager.enable_early_data = true;
    let eager = TlsConnector::from(Arc::new(eager));
    for _ in 0..3 {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let name = rustls::pki_types::ServerName::try_from("server.test").unwrap();
        let (client, server) = tokio::join!(eager.connect(name, ours), acceptor.accept(theirs));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}
