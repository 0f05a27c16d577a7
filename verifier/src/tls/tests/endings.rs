//! A connection never outlives its credential.

use std::{io, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    lifetime::EndReason,
    tls::{CredentialEnded, fixtures::after},
};

/// A pair of streams, the client's SVID good for 600 s, the server's for 3600.
async fn pair(world: &World) -> (SecuredStream<DuplexStream>, SecuredStream<DuplexStream>, Publisher, Publisher) {
    let ((web, web_publisher), (db, db_publisher)) = (world.published("/web", 600), world.published("/db", 3_600));
    let (client, server) =
        meet(&connector(&web, "spiffe://example.org/db"), &acceptor(&db, "spiffe://example.org/web")).await;
    (client.unwrap(), server.unwrap(), web_publisher, db_publisher)
}

fn reason(error: &io::Error) -> EndReason {
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    error.get_ref().unwrap().downcast_ref::<CredentialEnded>().expect("says that a credential ended").reason()
}

#[tokio::test]
async fn t_05_both_ends_are_told_and_then_cut_when_a_leaf_expires() {
    let world = World::new();
    let (mut client, mut server, _web, _db) = pair(&world).await;
    assert_eq!((client.ends_at(), server.ends_at()), (after(600), after(600)), "the shorter of both");
    let (client_closing, server_closing) = (tokio::spawn(client.closing()), tokio::spawn(server.closing()));
    let reader = tokio::spawn(async move {
        let mut buffer = [0; 16];
        (client.read(&mut buffer).await, client.read(&mut buffer).await)
    });
    server.write_all(b"still open").await.unwrap();
    server.flush().await.unwrap();
    // A tenth of 600 s is more than 30 s, so 30 s before the end.
    world.clock.set(after(569));
    tokio::task::yield_now().await;
    assert!(!client_closing.is_finished() && !server_closing.is_finished());
    world.clock.set(after(570));
    assert_eq!(client_closing.await.unwrap(), EndReason::OwnSvidExpires);
    assert_eq!(server_closing.await.unwrap(), EndReason::PeerExpires);
    assert!(server.write_all(b"!").await.is_ok(), "closing is a request, no cut");
    world.clock.set(after(600));
    assert_eq!(reason(&server.write_all(b"late").await.unwrap_err()), EndReason::PeerExpires);
    assert!(server.transport().is_none(), "the transport is dropped with it");
    let (first, second) = reader.await.unwrap();
    assert!(first.is_ok());
    assert_eq!(reason(&second.unwrap_err()), EndReason::OwnSvidExpires, "a reader that waits is woken and cut");
}

/// The writer looked last: the reader, in another task, was not woken by the end and held the connection open.
#[tokio::test]
async fn t_05_a_reader_and_a_writer_in_two_tasks_are_both_cut() {
    let world = World::new();
    let (client, server, _web, _db) = pair(&world).await;
    let (mut reads, mut writes) = tokio::io::split(client);
    let reader = tokio::spawn(async move { reads.read(&mut [0; 1]).await });
    tokio::task::yield_now().await;
    let writer = tokio::spawn(async move {
        writes.write_all(b"x").await.unwrap();
        writes.flush().await.unwrap();
        // Has nothing more to say, and keeps its half.
        std::future::pending::<()>().await;
        drop(writes);
    });
    let (mut reads, _writes) = tokio::io::split(server);
    reads.read_exact(&mut [0; 1]).await.unwrap();
    world.clock.set(after(600));
    let cut = tokio::time::timeout(Duration::from_secs(10), reader).await.expect("the reader is woken by the end");
    assert_eq!(reason(&cut.unwrap().unwrap_err()), EndReason::OwnSvidExpires);
    writer.abort();
}

#[tokio::test]
async fn a_short_life_is_announced_a_tenth_before_its_end() {
    let world = World::new();
    let (web, _publisher) = world.published("/web", 20);
    let (client, _server) = meet(
        &connector(&web, "spiffe://example.org/db"),
        &acceptor(&world.identity("/db"), "spiffe://example.org/web"),
    )
    .await;
    let closing = tokio::spawn(client.unwrap().closing());
    world.clock.advance(Duration::from_millis(17_900));
    tokio::task::yield_now().await;
    assert!(!closing.is_finished());
    world.clock.advance(Duration::from_millis(100));
    assert_eq!(closing.await.unwrap(), EndReason::OwnSvidExpires);
}

/// Within 5 s: the signal at once, the cut 3 s later.
async fn ends_within_5_s(world: &World, mut stream: SecuredStream<DuplexStream>, expected: EndReason) {
    assert_eq!(stream.closing().await, expected);
    let reader = tokio::spawn(async move { stream.read(&mut [0; 1]).await });
    // The reader has to see the signal before the clock moves on: its three seconds count from then.
    while !reader.is_finished() {
        world.clock.advance(Duration::from_millis(500));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(world.clock.boot() <= Duration::from_secs(5), "not cut within 5 s");
    }
    let error = reader.await.unwrap().unwrap_err();
    assert_eq!(reason(&error), expected);
}

#[tokio::test]
async fn withdrawal_of_the_peers_root_ends_the_connection_within_5_s() {
    let world = World::new();
    let (_client, server, _web, db_publisher) = pair(&world).await;
    let other = Authority::new("example.org");
    let svid = db_publisher.current().svid().cloned();
    db_publisher.publish(svid, Authority::bundles(&[&other]));
    ends_within_5_s(&world, server, EndReason::AuthorityWithdrawn).await;
}

#[tokio::test]
async fn wapi_20_redaction_of_the_own_svid_ends_the_connection_within_5_s() {
    let world = World::new();
    let (client, _server, web_publisher, _db) = pair(&world).await;
    web_publisher.publish(None, world.bundles());
    ends_within_5_s(&world, client, EndReason::OwnSvidWithdrawn).await;
}

#[tokio::test]
async fn another_own_identity_ends_the_connections_of_the_former() {
    let world = World::new();
    let (client, _server, web_publisher, _db) = pair(&world).await;
    web_publisher.publish(Some(world.authority.svid("/renamed", 3_600)), world.bundles());
    ends_within_5_s(&world, client, EndReason::OwnSvidWithdrawn).await;
}

#[tokio::test]
async fn a_renewal_and_a_further_root_end_nothing() {
    let world = World::new();
    let (mut client, mut server, web_publisher, db_publisher) = pair(&world).await;
    let other = Authority::new("example.org");
    let both = Authority::bundles(&[&world.authority, &other]);
    web_publisher.publish(Some(world.authority.svid("/web", 3_600)), both.clone());
    db_publisher.publish(Some(world.authority.svid("/db", 7_200)), both);
    world.clock.advance(Duration::from_secs(10));
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(client.ends_at(), after(600), "the credential it was made with counts, not the renewed one");
}

#[tokio::test]
async fn what_is_withdrawn_during_the_handshake_is_noticed() {
    let world = World::new();
    let (web, publisher) = world.published("/web", 600);
    let before = crate::tls::lifetime::Before::handshake(&web);
    publisher.publish(None, world.bundles());
    let peer = crate::x509::verify(
        &crate::x509::PresentedChain::leaf_first(world.authority.svid("/db", 60).chain()).unwrap(),
        &world.bundles(),
        world.clock.now(),
    )
    .unwrap();
    let bounds = crate::tls::lifetime::Bounds::of_identity(&web, before, &crate::tls::Peer::Svid(peer));
    assert_eq!(bounds.closing().await, EndReason::OwnSvidWithdrawn);
}
