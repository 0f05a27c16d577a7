//! Served over TLS with our own clients: identities in requests, stalled peers, and the end of HTTP connections.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    serve::{ConnectionInfo, Drained, ServeCounters, ServeOptions, TlsIncoming, serve},
    tls::Peer,
};

/// Answers with the caller's ID; `/hold` waits until told.
#[derive(Clone)]
struct WhoAmI {
    go_on: CancellationToken,
    holding: Arc<AtomicUsize>,
}

impl tower_service::Service<Request<hyper::body::Incoming>> for WhoAmI {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let (go_on, holding) = (self.go_on.clone(), Arc::clone(&self.holding));
        Box::pin(async move {
            if request.uri().path() == "/hold" {
                holding.fetch_add(1, Ordering::SeqCst);
                go_on.cancelled().await;
            }
            let info = request.extensions().get::<ConnectionInfo>().expect("where it came from");
            assert!(info.remote.ip().is_loopback() && info.local.ip().is_loopback());
            let name = match request.extensions().get::<Peer>() {
                Some(peer) => peer.id().map(ToString::to_string).unwrap_or_default(),
                None => "no peer".to_owned(),
            };
            Ok(Response::new(Full::from(name)))
        })
    }
}

struct Server {
    address: SocketAddr,
    go_on: CancellationToken,
    holding: Arc<AtomicUsize>,
    stop: CancellationToken,
    counters: Arc<ServeCounters>,
    served: JoinHandle<Drained>,
}

impl Server {
    async fn start(acceptor: &Acceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (go_on, stop, options) = (CancellationToken::new(), CancellationToken::new(), ServeOptions::default());
        let counters = Arc::clone(&options.counters);
        let holding = Arc::<AtomicUsize>::default();
        let service = WhoAmI { go_on: go_on.clone(), holding: Arc::clone(&holding) };
        let served = tokio::spawn(serve(TlsIncoming::new(listener, acceptor), service, options, stop.clone()));
        Self { address, go_on, holding, stop, counters, served }
    }

    fn uri(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.served.await.unwrap();
    }
}

type HttpClient = Client<Connector, Empty<Bytes>>;

fn http_client(connector: Connector, http2: bool) -> HttpClient {
    Client::builder(TokioExecutor::new()).http2_only(http2).build(connector)
}

async fn get(client: &HttpClient, uri: String) -> Result<String, String> {
    let request = Request::get(uri).body(Empty::new()).unwrap();
    let response = timeout(Duration::from_secs(20), client.request(request)).await.expect("an answer in time");
    let response = response.map_err(|error| format!("{error:?}"))?;
    assert_eq!(response.extensions().get::<Peer>().and_then(Peer::id).unwrap().path(), "/db", "who answered is known");
    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while !done() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test]
async fn requests_know_their_caller() {
    let world = World::new();
    let server = Server::start(&acceptor(&world.identity("/db"), "spiffe://example.org/web")).await;
    // Either agrees on HTTP/2 with our server.
    for http2 in [false, true] {
        let connector = connector(&world.identity("/web"), "spiffe://example.org/db");
        let client = http_client(connector, http2);
        for _ in 0..3 {
            assert_eq!(get(&client, server.uri("/")).await.unwrap(), "spiffe://example.org/web");
        }
    }
    eventually("one connection each", || server.counters.accepted() == 2).await;
    let refused = http_client(connector(&world.identity("/app"), "spiffe://example.org/db"), true);
    assert!(get(&refused, server.uri("/")).await.is_err());
    eventually("the refusal is counted", || server.counters.not_prepared() == 1).await;
    server.stop().await;
}

/// Whoever takes `Peer` in the extensions for a proof shall not find one there. And as anybody can connect like this, such a
/// connection takes no place from those who are known.
#[tokio::test]
async fn t_26_requests_of_anonymous_clients_carry_no_peer_and_are_strangers() {
    let world = World::new();
    let options = AcceptorOptions { dangerously_admit_anonymous: true, ..AcceptorOptions::default() };
    let acceptor = Acceptor::new(&world.identity("/db"), set("spiffe://example.org/web"), options).unwrap();
    let server = Server::start(&acceptor).await;
    let expected = set("spiffe://example.org/db");
    let known = http_client(connector(&world.identity("/web"), "spiffe://example.org/db"), true);
    assert_eq!(get(&known, server.uri("/")).await.unwrap(), "spiffe://example.org/web");
    for http2 in [false, true] {
        let connector =
            Connector::anonymous(&world.identity("/web"), expected.clone(), ConnectorOptions::default()).unwrap();
        let client = http_client(connector, http2);
        assert_eq!(get(&client, server.uri("/")).await.unwrap(), "no peer");
        assert_eq!(server.counters.open(), 1, "that of the one who is known");
    }
    server.stop().await;
}

/// The server's side: its client's SVID ends first. Asked by GOAWAY, then cut.
#[tokio::test]
async fn t_05_the_servers_side_says_goaway_and_then_cuts() {
    let world = World::new();
    let server = Server::start(&acceptor(&world.identity("/db"), "spiffe://example.org/web")).await;
    let (web, _publisher) = world.published("/web", 600);
    // A client that does not look after its own end: its own clock stands still.
    let standing = Arc::new(super::clock());
    let (careless, publisher) = Identity::published(standing);
    publisher.publish(web.snapshot().svid().cloned(), world.bundles());
    let stream =
        connector(&careless, "spiffe://example.org/db").connect_http(&server.address.to_string()).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| Request::get(server.uri(path)).body(Empty::<Bytes>::new()).unwrap();
    assert!(send.send_request(request("/")).await.is_ok());
    let held = tokio::spawn(send.send_request(request("/hold")));
    // One more answered request, so that the held one has surely been taken.
    assert!(send.send_request(request("/")).await.is_ok());

    world.clock.set(super::super::fixtures::after(570));
    let refused = timeout(Duration::from_secs(20), async { while send.send_request(request("/")).await.is_ok() {} });
    refused.await.expect("no new request after GOAWAY");
    assert!(!held.is_finished(), "a request in flight goes on");
    world.clock.set(super::super::fixtures::after(600));
    assert!(timeout(Duration::from_secs(10), held).await.expect("cut").unwrap().is_err());
    eventually("counted", || server.counters.ended_by_lifetime() == 1 && server.counters.open() == 0).await;
    server.stop().await;
}

/// The client's side: the server does not look after the end, our connector does.
#[tokio::test]
async fn the_clients_side_moves_to_a_new_connection_and_finishes_on_the_old() {
    let world = World::new();
    // The server's clock stands still, so that nothing comes from its side.
    let (db, db_publisher) = Identity::published(Arc::new(super::clock()));
    db_publisher.publish(Some(world.authority.svid("/db", 7_200)), world.bundles());
    let server = Server::start(&acceptor(&db, "spiffe://example.org/web")).await;
    let (web, web_publisher) = world.published("/web", 600);
    let client = http_client(connector(&web, "spiffe://example.org/db"), true);
    assert!(get(&client, server.uri("/")).await.is_ok());
    let held = tokio::spawn({
        let (client, uri) = (client.clone(), server.uri("/hold"));
        async move { get(&client, uri).await }
    });
    assert!(get(&client, server.uri("/")).await.is_ok());
    eventually("one connection", || server.counters.accepted() == 1).await;

    web_publisher.publish(Some(world.authority.svid("/web", 7_200)), world.bundles());
    world.clock.set(super::super::fixtures::after(570));
    for _ in 0..50 {
        assert!(get(&client, server.uri("/")).await.is_ok(), "no request fails on the way");
    }
    eventually("a new connection", || server.counters.accepted() == 2).await;
    server.go_on.cancel();
    assert!(held.await.unwrap().is_ok(), "what was in flight finished on the old connection");
    world.clock.set(super::super::fixtures::after(600));
    eventually("the old one is gone", || server.counters.open() <= 1).await;
    assert!(get(&client, server.uri("/")).await.is_ok());
    server.stop().await;
}

/// A server of HTTP/1.1 that looks after nothing; `/hold` is answered in two halves, the second one when told.
struct OldServer {
    address: SocketAddr,
    go_on: CancellationToken,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

impl OldServer {
    async fn start(world: &World) -> Self {
        let (db, publisher) = Identity::published(Arc::new(super::clock()));
        publisher.publish(Some(world.authority.svid("/db", 7_200)), world.bundles());
        let options = AcceptorOptions { alpn: vec![b"http/1.1".to_vec()], ..AcceptorOptions::default() };
        let acceptor = Acceptor::new(&db, set("spiffe://example.org/web"), options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            go_on: CancellationToken::new(),
            open: Arc::default(),
            accepted: Arc::default(),
        };
        let (go_on, open, accepted) = (this.go_on.clone(), Arc::clone(&this.open), Arc::clone(&this.accepted));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, go_on, open) = (acceptor.clone(), go_on.clone(), Arc::clone(&open));
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    open.fetch_add(1, Ordering::SeqCst);
                    answer(&mut stream, &go_on).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        this
    }

    fn uri(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

async fn answer(stream: &mut SecuredStream<TcpStream>, go_on: &CancellationToken) {
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        request.extend_from_slice(&buffer[..read]);
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
        stream.flush().await.unwrap();
        if request.starts_with(b"GET /hold ") {
            go_on.cancelled().await;
        }
        stream.write_all(b"lf").await.unwrap();
        stream.flush().await.unwrap();
        request.clear();
    }
}

/// HTTP/1.1 connections were used up to the hard end, and a request that was under way then failed.
#[tokio::test]
async fn t_05_the_clients_side_leaves_http_1_1_connections_at_the_closing_moment() {
    let world = World::new();
    let server = OldServer::start(&world).await;
    let (web, publisher) = world.published("/web", 600);
    let client = http_client(connector(&web, "spiffe://example.org/db"), false);
    for _ in 0..3 {
        assert_eq!(get(&client, server.uri("/")).await.unwrap(), "half");
    }
    let held = tokio::spawn({
        let (client, uri) = (client.clone(), server.uri("/hold"));
        async move { get(&client, uri).await }
    });
    eventually("one at rest, or held", || server.accepted.load(Ordering::SeqCst) >= 1).await;
    // A second connection, at rest, beside the one that is held.
    while server.open.load(Ordering::SeqCst) < 2 {
        assert_eq!(get(&client, server.uri("/")).await.unwrap(), "half");
    }
    publisher.publish(Some(world.authority.svid("/web", 7_200)), world.bundles());
    world.clock.set(super::super::fixtures::after(569));
    assert_eq!(get(&client, server.uri("/")).await.unwrap(), "half");
    assert_eq!(server.accepted.load(Ordering::SeqCst), 2, "before it, connections are used again");
    world.clock.set(super::super::fixtures::after(570));
    eventually("the one at rest is closed", || server.open.load(Ordering::SeqCst) == 1).await;
    assert!(!held.is_finished(), "the response under way goes on");
    for _ in 0..3 {
        assert_eq!(get(&client, server.uri("/")).await.unwrap(), "half", "no request fails on the way");
    }
    assert_eq!(server.accepted.load(Ordering::SeqCst), 3, "a new connection, and that is used again");
    server.go_on.cancel();
    assert_eq!(held.await.unwrap().unwrap(), "half", "it was finished on the old connection");
    eventually("then that one is closed, too", || server.open.load(Ordering::SeqCst) == 1).await;
    world.clock.set(super::super::fixtures::after(600));
    assert_eq!(get(&client, server.uri("/")).await.unwrap(), "half");
    assert_eq!(server.accepted.load(Ordering::SeqCst), 3);
}

/// The server's side of HTTP/1.1: the answer under way says that it is the last, a connection at rest is closed.
#[tokio::test]
async fn t_05_the_servers_side_of_http_1_1_says_connection_close() {
    let world = World::new();
    let server = Server::start(&acceptor(&world.identity("/db"), "spiffe://example.org/web")).await;
    // The client's own clock stands still.
    let (careless, publisher) = Identity::published(Arc::new(super::clock()));
    publisher.publish(Some(world.authority.svid("/web", 600)), world.bundles());
    let options = ConnectorOptions { alpn: vec![b"http/1.1".to_vec()], ..ConnectorOptions::default() };
    let connector = Connector::new(&careless, set("spiffe://example.org/db"), options).unwrap();
    let address = server.address.to_string();
    let (mut busy, mut resting) =
        (connector.connect(&address).await.unwrap(), connector.connect(&address).await.unwrap());
    assert_eq!(busy.alpn(), Some(&b"http/1.1"[..]));
    for (at_rest, path) in [(true, "/"), (false, "/"), (false, "/hold")] {
        let stream = if at_rest { &mut resting } else { &mut busy };
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        if path == "/" {
            let answer = read_answer(stream).await;
            assert!(answer.ends_with("spiffe://example.org/web") && !answer.contains("connection: close"), "{answer}");
        }
    }
    eventually("it is held", || server.holding.load(Ordering::SeqCst) == 1).await;
    world.clock.set(super::super::fixtures::after(570));
    let closed = timeout(Duration::from_secs(10), resting.read(&mut [0; 1])).await.expect("closed at rest");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    server.go_on.cancel();
    let answer = read_answer(&mut busy).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(matches!(busy.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    eventually("none is left", || server.counters.open() == 0).await;
    assert_eq!(server.counters.ended_by_lifetime(), 0, "none had to be cut");
    server.stop().await;
}

/// Up to the end of the name that [`WhoAmI`] answers with.
async fn read_answer(stream: &mut SecuredStream<TcpStream>) -> String {
    let (mut answer, mut buffer) = (String::new(), [0; 1024]);
    while !answer.ends_with("/web") {
        let read = timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.expect("an answer").unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    answer
}

#[tokio::test]
async fn withdrawal_of_a_root_ends_served_connections() {
    let world = World::new();
    let (db, publisher) = world.published("/db", 3_600);
    let server = Server::start(&acceptor(&db, "spiffe://example.org/web")).await;
    let client = http_client(connector(&world.identity("/web"), "spiffe://example.org/db"), true);
    assert!(get(&client, server.uri("/")).await.is_ok());
    let held = tokio::spawn({
        let (client, uri) = (client.clone(), server.uri("/hold"));
        async move { get(&client, uri).await }
    });
    assert!(get(&client, server.uri("/")).await.is_ok());
    let other = Authority::new("example.org");
    publisher.publish(Some(other.svid("/db", 3_600)), Authority::bundles(&[&other]));
    let cut = async {
        while !held.is_finished() {
            world.clock.advance(Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), cut).await.expect("the stream is ended");
    assert!(held.await.unwrap().is_err());
    eventually("no connection is left", || server.counters.open() == 0).await;
    server.stop().await;
}

/// What every listener meets all day: connections that are reset before or while they are accepted, that speak something else,
/// or break off in the handshake. After each kind a good client is served, and nothing of them is left.
#[tokio::test]
async fn t_19_f_17_junk_and_resets_end_no_listener() {
    let world = World::new();
    let server = Server::start(&acceptor(&world.identity("/db"), "spiffe://example.org/web")).await;
    let kinds: [(&[u8], bool); 6] = [
        (b"", true),
        (b"", false),
        (b"GET / HTTP/1.1\r\n\r\n", true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
        (&[22, 3, 1, 0, 5, 1, 0], true),
        (&[21, 3, 3, 0, 2, 2, 40], false),
    ];
    for (bytes, reset) in kinds {
        for _ in 0..50 {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            drop(socket.write_all(bytes).await);
            if reset {
                socket.set_zero_linger().unwrap();
            }
        }
        let client = http_client(connector(&world.identity("/web"), "spiffe://example.org/db"), true);
        assert_eq!(get(&client, server.uri("/")).await.unwrap(), "spiffe://example.org/web", "after {bytes:?}");
    }
    eventually("nothing is left of them", || server.counters.unfinished() == 0).await;
    assert_eq!((server.counters.accepted(), server.counters.panics()), (kinds.len() as u64, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_20_two_hundred_stalled_handshakes_do_not_hold_up_a_good_client() {
    let world = World::new();
    let options = AcceptorOptions { handshake_deadline: Duration::from_secs(3), ..AcceptorOptions::default() };
    let acceptor = Acceptor::new(&world.identity("/db"), set("spiffe://example.org/web"), options).unwrap();
    let server = Server::start(&acceptor).await;
    let mut stalled = Vec::new();
    for number in 0..200 {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        if number % 2 == 0 {
            socket.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        stalled.push(socket);
    }
    eventually("all stall", || server.counters.unfinished() == 200).await;
    for _ in 0..10 {
        let client = http_client(connector(&world.identity("/web"), "spiffe://example.org/db"), true);
        let answer = timeout(Duration::from_secs(2), get(&client, server.uri("/"))).await;
        assert!(answer.expect("not held up").is_ok());
    }
    eventually("the stalled are cut at the deadline", || server.counters.unfinished() == 0).await;
    assert_eq!(server.counters.not_prepared(), 200);
    server.stop().await;
}
