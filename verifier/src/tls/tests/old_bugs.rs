//! What went wrong elsewhere: peers that stall, cut their messages up, or say goodbye in the middle.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;
use crate::tls::client_config_handshake_only;

/// A ClientHello of our own client, as it goes over the wire.
fn client_hello(world: &World) -> Vec<u8> {
    let config = client_config_handshake_only(&world.identity("/web"), set("spiffe://example.org/db")).unwrap();
    let name = ServerName::try_from("server.test").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// close_notify, unencrypted.
const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];

#[tokio::test]
async fn t_17_close_notify_in_the_handshake_ends_it() {
    let world = World::new();
    let acceptor = acceptor(&world.identity("/db"), "spiffe://example.org/web");
    let hello = client_hello(&world);
    for before in [&[][..], &hello[..1], &hello[..hello.len() / 2], &hello[..]] {
        let (mut ours, theirs) = loopback().await;
        ours.write_all(before).await.unwrap();
        ours.write_all(&CLOSE_NOTIFY).await.unwrap();
        ours.shutdown().await.unwrap();
        let ended = timeout(Duration::from_secs(2), acceptor.accept(theirs)).await;
        assert!(ended.expect("it does not go round in circles").is_err());
    }
}

#[tokio::test]
async fn t_18_a_hello_in_pieces_works_wherever_it_is_cut() {
    let world = World::new();
    let acceptor = acceptor(&world.identity("/db"), "spiffe://example.org/web");
    let hello = client_hello(&world);
    // The hello's own bytes, to be put into records of other sizes (RFC 8446 §5.1 allows any).
    let payload = &hello[5..];
    let record = |part: &[u8]| {
        let mut record = vec![22, 3, 1];
        record.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        record.extend_from_slice(part);
        record
    };
    let mut shapes: Vec<Vec<Vec<u8>>> = vec![payload.chunks(1).map(record).collect()];
    for cut in (1..payload.len()).step_by(97).chain([1, 2, 3, 4, 5, payload.len() - 1]) {
        shapes.push(vec![record(&payload[..cut]), record(&payload[cut..])]);
        shapes.push(vec![hello[..cut].to_vec(), hello[cut..].to_vec()]);
    }
    for shape in shapes {
        let (mut ours, theirs) = loopback().await;
        let accepting = tokio::spawn({
            let acceptor = acceptor.clone();
            async move { acceptor.accept(theirs).await.map(drop) }
        });
        for part in shape {
            ours.write_all(&part).await.unwrap();
            ours.flush().await.unwrap();
        }
        // A ServerHello comes (a handshake record), or an alert: the process lives either way.
        let mut first = [0; 1];
        timeout(Duration::from_secs(5), ours.read_exact(&mut first)).await.expect("an answer").unwrap();
        assert!([21, 22].contains(&first[0]), "{first:?}");
        drop(ours);
        assert!(accepting.await.expect("no panic").is_err());
    }
}

#[tokio::test]
async fn f_12_who_says_nothing_or_stops_half_way_is_cut_at_the_deadline() {
    let world = World::new();
    let options = AcceptorOptions {
        hello_deadline: Duration::from_millis(100),
        handshake_deadline: Duration::from_millis(300),
        ..AcceptorOptions::default()
    };
    let acceptor = Acceptor::new(&world.identity("/db"), set("spiffe://example.org/web"), options).unwrap();
    let hello = client_hello(&world);
    for (sent, code) in [
        (&[][..], "no-hello"),
        (&hello[..1], "no-hello"),
        (&hello[..hello.len() - 1], "no-hello"),
        (&hello[..], "handshake-stalled"),
    ] {
        let (mut ours, theirs) = loopback().await;
        ours.write_all(sent).await.unwrap();
        assert_eq!(acceptor.accept(theirs).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn junk_instead_of_tls_is_an_error_and_no_more() {
    let world = World::new();
    let acceptor = acceptor(&world.identity("/db"), "spiffe://example.org/web");
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[22, 3, 1, 0xff, 0xff], &[0x80; 2048]] {
        let (mut ours, theirs) = loopback().await;
        ours.write_all(junk).await.unwrap();
        ours.shutdown().await.unwrap();
        assert!(acceptor.accept(theirs).await.is_err());
    }
}

#[tokio::test]
async fn a_server_that_stalls_does_not_hold_its_client() {
    let world = World::new();
    let options = ConnectorOptions { handshake_deadline: Duration::from_millis(200), ..ConnectorOptions::default() };
    let connector = Connector::new(&world.identity("/web"), set("spiffe://example.org/db"), options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(connector.connect(&address).await.unwrap_err().code(), "handshake-stalled");
    drop(listener);
    assert_eq!(connector.connect(&address).await.unwrap_err().code(), "no-answer");
    assert_eq!(connector.connect("name.invalid:1").await.unwrap_err().code(), "host-unknown");
    assert_eq!(connector.connect("no-port").await.unwrap_err().code(), "address-invalid");
}

/// Later than the hello: the server's flight is read in part or whole, then the client says goodbye instead of going on.
#[tokio::test]
async fn t_17_close_notify_at_each_later_step_ends_the_handshake() {
    let world = World::new();
    let acceptor = acceptor(&world.identity("/db"), "spiffe://example.org/web");
    for read_at_most in [0, 1, 100, 1500, usize::MAX] {
        let config = client_config_handshake_only(&world.identity("/web"), set("spiffe://example.org/db")).unwrap();
        let name = ServerName::try_from("server.test").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let (mut ours, theirs) = loopback().await;
        let accepting = tokio::spawn({
            let acceptor = acceptor.clone();
            async move { acceptor.accept(theirs).await.map(drop) }
        });
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        ours.write_all(&bytes).await.unwrap();
        let mut flight = vec![0; 16 * 1024];
        let read = timeout(Duration::from_secs(5), ours.read(&mut flight)).await.unwrap().unwrap();
        let part = &flight[..read.min(read_at_most)];
        client.read_tls(&mut &*part).unwrap();
        drop(client.process_new_packets());
        // Its own answer to the flight is thrown away; close_notify comes with whatever keys it has now.
        bytes.clear();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        client.send_close_notify();
        bytes.clear();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        if bytes.is_empty() {
            bytes.extend_from_slice(&CLOSE_NOTIFY);
        }
        ours.write_all(&bytes).await.unwrap();
        ours.shutdown().await.unwrap();
        let ended = timeout(Duration::from_secs(5), accepting).await.expect("it does not go round in circles");
        assert!(ended.expect("no panic").is_err(), "after {read_at_most} bytes of the server's");
    }
}

/// A chain as a client can send it at most: thousands of certificates, or one that fills the message.
#[tokio::test]
async fn t_06_a_huge_certificate_message_is_refused_by_its_bounds() {
    #[derive(Debug)]
    struct Sends(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Sends {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let world = World::new();
    let acceptor = acceptor(&world.identity("/db"), "spiffe://example.org/web");
    let svid = world.authority.svid("/web", 600);
    let filler = |count: usize, bytes: usize| vec![rustls::pki_types::CertificateDer::from(vec![0x30; bytes]); count];
    for (more, code) in [
        (filler(0, 0), None),
        (filler(6, 8), None),
        (filler(7, 8), Some("too-many-certificates")),
        (filler(5_000, 1), Some("too-many-certificates")),
        (filler(1, 16 * 1024), Some("chain-too-large")),
        (filler(1, 48 * 1024), Some("chain-too-large")),
        (filler(6, 10 * 1024), Some("chain-too-large")),
    ] {
        let mut key = (**svid.certified_key()).clone();
        key.cert.extend(more);
        let mut config = client_config_handshake_only(&world.identity("/web"), set("spiffe://example.org/db")).unwrap();
        config.client_auth_cert_resolver = Arc::new(Sends(Arc::new(key)));
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let name = ServerName::try_from("server.test").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (_, accepted) = tokio::join!(connector.connect(name, ours), acceptor.accept(theirs));
        assert_eq!(accepted.as_ref().err().map(AcceptError::code), code, "{accepted:?}");
    }
    // A Certificate message of other than the leaf's key: whoever copies a chain has not its key.
    let stranger = world.authority.svid("/web", 600);
    let mixed = rustls::sign::CertifiedKey::new(svid.chain().to_vec(), Arc::clone(&stranger.certified_key().key));
    let mut config = client_config_handshake_only(&world.identity("/web"), set("spiffe://example.org/db")).unwrap();
    config.client_auth_cert_resolver = Arc::new(Sends(Arc::new(mixed)));
    for turn in ["first", "with its chain in the cache"] {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("server.test").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config.clone()));
        let (_, accepted) = tokio::join!(connector.connect(name, ours), acceptor.accept(theirs));
        assert_eq!(accepted.unwrap_err().code(), "handshake-failed", "T-03 {turn}");
    }
}
