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
    authorization::{Authorization, Builder},
    clock::{Clock, SystemClock},
    limits::{Limits, Quotas},
    record::RecordSink,
    serve::{ServeOptions, TlsIncoming, serve},
    spiffe::SpiffeId,
    tls::{Acceptor, AcceptorOptions, PeerSet},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::{
    allocations,
    issued::Issued,
    kept::{self, Kept},
    rules, thread_cpu,
};

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
    let client = issued.svids[client].id().path();
    let rule = format!("callers = [\"{client}\"]\nhttp = [\"GET /hello/{{name}}\", \"GET /mark\"]\n");
    authorization_by(issued, 0, &rule, |builder| match sink {
        Some(sink) => builder.sample_allowed(one_in).record_to(sink),
        None => builder.sample_allowed(one_in),
    })
}

/// The same of this service, with the whole rule given but its name.
pub fn authorization_by(
    issued: &Issued,
    server: usize,
    rule: &str,
    further: impl FnOnce(Builder) -> Builder,
) -> Authorization {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authenticators =
        Authenticators::builder(rules::trust_domain(), issued.identity(server)).x509().build().expect("authenticators");
    let limits = Limits::new(Quotas::in_memory(), Arc::clone(&clock));
    let builder = Authorization::builder(authenticators, limits, clock).service(issued.svids[server].id().clone());
    let authorization = further(builder).build();
    let others = rules::source(100, rules::ALIKE);
    let policy = rules::policy(&format!("{others}[[allow]]\nname = \"the one\"\n{rule}"));
    authorization.replace_policy(policy).expect("a policy that decides");
    authorization
}

/// A server in a thread of its own.
pub struct Served {
    address: SocketAddr,
    id: SpiffeId,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves with this one of the SVIDs, on one thread, for callers with any other.
    pub fn start<S, B>(issued: &Issued, server: usize, service: S) -> Self
    where
        S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let identity = issued.identity(server);
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
        Self { address, id: issued.svids[server].id().clone(), stop, thread: Some(thread) }
    }

    /// Where it is, for HTTP clients.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Who answers there.
    pub fn id(&self) -> SpiffeId {
        self.id.clone()
    }

    /// A connection with this SVID.
    pub async fn kept(&self, issued: &Issued, client: usize) -> Kept {
        let connector = kept::connector(&issued.identity(client), PeerSet::id(self.id()));
        Kept::open(&connector, self.address).await
    }

    /// The same, for [`Hello`].
    pub async fn connect(&self, issued: &Issued, client: usize) -> Client {
        Client(self.kept(issued, client).await)
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

/// Asks [`Hello`] over a connection that is kept.
pub struct Client(Kept);

const HELLO_REQUEST: &[u8] = b"GET /hello/world HTTP/1.1\r\nhost: config\r\n\r\n";
const MARK_REQUEST: &[u8] = b"GET /mark HTTP/1.1\r\nhost: config\r\n\r\n";

impl Client {
    /// So many requests, one after the other.
    pub async fn ask(&mut self, requests: usize) {
        for request in 0..requests {
            let answer = self.0.ask(HELLO_REQUEST).await;
            assert!(request > 0 || answer.ends_with(HELLO.as_bytes()), "another answer");
        }
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
        let answer = self.0.ask(MARK_REQUEST).await;
        let text = std::str::from_utf8(&answer[answer.len() - HELLO.len()..]).expect("text");
        let mut numbers = text.split(' ').map(|number| number.parse().expect("a number"));
        (numbers.next().expect("nanoseconds"), numbers.next().expect("allocations"))
    }
}
