//! A server behind mutual TLS in a thread of its own, with and without authorization, and a client that does nothing but ask.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
};

use bonafide_verifier::{
    authenticate::Authenticators,
    authorization::Authorization,
    clock::{Clock, SystemClock},
    identity::Identity,
    limits::{Limits, Quotas},
    policy::Policy,
    record::RecordSink,
    serve::{ServeOptions, TlsIncoming, serve},
    tls::{Acceptor, AcceptorOptions, Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{allocations, issued::Issued, rules, thread_cpu};

/// What a request to `/mark` is answered: processor time of the server's thread in nanoseconds, and its allocations, both so far.
pub fn mark() -> String {
    format!("{:020} {:020}", thread_cpu().as_nanos(), allocations::of_this_thread())
}

/// What every other request is answered: as long as a mark.
pub const HELLO: &str = "hello, this answer has as many letters as";

/// A service of hyper's kind that answers at once.
#[derive(Clone, Copy, Debug)]
pub struct Hello;

impl<B> tower_service::Service<Request<B>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let text =
            if request.uri().path() == "/mark" { Bytes::from(mark()) } else { Bytes::from_static(HELLO.as_bytes()) };
        ready(Ok(Response::new(Full::new(text))))
    }
}

/// An authorization that takes X.509-SVIDs, with a policy in which the client's rule stands among a hundred others.
pub fn authorization(issued: &Issued, client: usize, one_in: u64, sink: Option<Arc<dyn RecordSink>>) -> Authorization {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = Identity::fixed(issued.svids[0].clone(), issued.bundles.clone(), Arc::clone(&clock));
    let authenticators =
        Authenticators::builder(rules::trust_domain(), identity).x509().build().expect("authenticators");
    let mut builder =
        Authorization::builder(authenticators, Limits::new(Quotas::in_memory(), Arc::clone(&clock)), clock)
            .service(issued.svids[0].id().clone())
            .sample_allowed(one_in);
    if let Some(sink) = sink {
        builder = builder.record_to(sink);
    }
    let authorization = builder.build();
    authorization.replace_policy(policy(issued.svids[client].id().path())).expect("a policy that decides");
    authorization
}

fn policy(client: &str) -> Policy {
    let text = rules::source(100, rules::ALIKE);
    rules::policy(&format!(
        "{text}[[allow]]\nname = \"hello\"\ncallers = [\"{client}\"]\nhttp = [\"GET /hello/{{name}}\", \"GET /mark\"]\n"
    ))
}

/// A server in a thread of its own.
pub struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves with the first of the SVIDs, on one thread, for callers with any other.
    pub fn start<S, B>(issued: &Issued, service: S) -> Self
    where
        S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let identity = Identity::fixed(issued.svids[0].clone(), issued.bundles.clone(), Arc::new(SystemClock));
        let callers = PeerSet::parse(["spiffe://example.org/**"]).expect("a set");
        let acceptor = Acceptor::new(&identity, callers, AcceptorOptions::default()).expect("an acceptor");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                serve(TlsIncoming::new(listener, &acceptor), service, ServeOptions::default(), stopped).await;
            });
        });
        Self { address, stop, thread: Some(thread) }
    }

    /// A connection with this SVID.
    pub async fn connect(&self, issued: &Issued, client: usize) -> Client {
        let identity = Identity::fixed(issued.svids[client].clone(), issued.bundles.clone(), Arc::new(SystemClock));
        let expected = PeerSet::id(issued.svids[0].id().clone());
        let mut options = ConnectorOptions::default();
        options.alpn = vec![b"http/1.1".to_vec()];
        let connector = Connector::new(&identity, expected, options).expect("a connector");
        let tcp = TcpStream::connect(self.address).await.expect("a connection");
        tcp.set_nodelay(true).expect("a socket");
        let stream = connector.connect_over(tcp, "localhost").await.expect("a handshake");
        let mut client = Client { stream: Box::new(stream), answer: 0 };
        // How long an answer is.
        client.stream.write_all(HELLO_REQUEST).await.expect("a request");
        let mut buffer = [0; 4096];
        while !buffer[..client.answer].ends_with(HELLO.as_bytes()) {
            client.answer += client.stream.read(&mut buffer[client.answer..]).await.expect("an answer");
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..client.answer]));
        client
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server's thread");
        }
    }
}

/// A connection that is kept.
pub struct Client {
    stream: Box<bonafide_verifier::tls::SecuredStream<TcpStream>>,
    answer: usize,
}

const HELLO_REQUEST: &[u8] = b"GET /hello/world HTTP/1.1\r\nhost: config\r\n\r\n";
const MARK_REQUEST: &[u8] = b"GET /mark HTTP/1.1\r\nhost: config\r\n\r\n";

impl Client {
    /// So many requests, one after the other.
    pub async fn ask(&mut self, requests: usize) {
        let mut buffer = [0; 4096];
        for _ in 0..requests {
            self.stream.write_all(HELLO_REQUEST).await.expect("a request");
            self.stream.read_exact(&mut buffer[..self.answer]).await.expect("an answer");
        }
        assert!(buffer[..self.answer].ends_with(HELLO.as_bytes()), "another answer");
    }

    /// Processor time and allocations of the server's thread for one of so many requests.
    pub async fn measured(&mut self, requests: usize) -> (f64, f64) {
        let before = self.mark().await;
        self.ask(requests).await;
        let after = self.mark().await;
        let requests = (requests + 1) as f64;
        ((after.0 - before.0) as f64 / 1e3 / requests, (after.1 - before.1) as f64 / requests)
    }

    async fn mark(&mut self) -> (u64, u64) {
        let mut buffer = [0; 4096];
        self.stream.write_all(MARK_REQUEST).await.expect("a request");
        self.stream.read_exact(&mut buffer[..self.answer]).await.expect("an answer");
        let text = std::str::from_utf8(&buffer[self.answer - HELLO.len()..self.answer]).expect("text");
        let mut numbers = text.split(' ').map(|number| number.parse().expect("a number"));
        (numbers.next().expect("nanoseconds"), numbers.next().expect("allocations"))
    }
}
