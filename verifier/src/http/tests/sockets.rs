//! Over real connections: the same requests by mutual TLS and by key get the same answers, and raw bytes that a client library would tidy.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    serve::{Incoming, Origin, PrepareError, Prepared, ServeOptions, TlsIncoming, serve},
    tls::{Acceptor, AcceptorOptions, Connector, ConnectorOptions, PeerSet, fixtures::Authority},
};

/// Connections without TLS, as a proxy in front would make them.
pub(super) struct Plain(pub(super) TcpListener);

impl Incoming for Plain {
    type Raw = TcpStream;
    type Io = TcpStream;

    async fn accept(&self) -> std::io::Result<TcpStream> {
        Ok(self.0.accept().await?.0)
    }

    fn origin(&self, _: &TcpStream) -> Option<Origin> {
        None
    }

    async fn prepare(&self, stream: TcpStream) -> Result<Prepared<TcpStream>, PrepareError> {
        Ok(Prepared::new(stream))
    }
}

struct Served {
    plain: String,
    tls: String,
    connect: Box<dyn Fn(&str) -> Connector>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<crate::serve::Drained>>,
}

impl Served {
    /// One service on two listeners: plain for keys, mutual TLS for SVIDs.
    async fn start(rig: &Rig) -> Self {
        let authority = Arc::new(Authority::new("example.org"));
        let clock: Arc<dyn Clock> = rig.clock.clone();
        let identity = {
            let (authority, clock) = (Arc::clone(&authority), Arc::clone(&clock));
            move |path: &str| {
                Identity::fixed(authority.svid(path, 3600), Authority::bundles(&[&authority]), Arc::clone(&clock))
            }
        };
        let callers = PeerSet::parse(["spiffe://example.org/**"]).unwrap();
        let acceptor = Acceptor::new(&identity("/config"), callers, AcceptorOptions::default()).unwrap();
        let stop = CancellationToken::new();
        let [plain, tls] =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let (plain_address, tls_address) =
            (plain.local_addr().unwrap().to_string(), tls.local_addr().unwrap().to_string());
        let service = rig.service();
        let tasks = vec![
            tokio::spawn(serve(Plain(plain), service.clone(), ServeOptions::default(), stop.clone())),
            tokio::spawn(serve(TlsIncoming::new(tls, &acceptor), service, ServeOptions::default(), stop.clone())),
        ];
        let connect = Box::new(move |path: &str| {
            let expected = PeerSet::parse(["spiffe://example.org/config"]).unwrap();
            Connector::new(&identity(path), expected, ConnectorOptions::default()).unwrap()
        });
        Self { plain: plain_address, tls: tls_address, connect, stop, tasks }
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// Sends these bytes without TLS; gives the status of the first answer, and all of it.
    async fn raw(&self, bytes: &str) -> (u16, String) {
        answer(TcpStream::connect(&self.plain).await.unwrap(), bytes.as_bytes()).await
    }

    async fn over_tls(&self, path: &str, bytes: &str) -> (u16, String) {
        let stream = TcpStream::connect(&self.tls).await.unwrap();
        answer((self.connect)(path).connect_over(stream, "localhost").await.unwrap(), bytes.as_bytes()).await
    }
}

pub(super) async fn answer(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    bytes: &[u8],
) -> (u16, String) {
    stream.write_all(bytes).await.unwrap();
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
    read.expect("an answer in time").unwrap();
    let text = String::from_utf8(text).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    (status, text)
}

fn head(first_line: &str, headers: &str) -> String {
    format!("{first_line} HTTP/1.1\r\nHost: config\r\nConnection: close\r\n{headers}\r\n")
}

/// The parity that everything is for: whoever proves the same ID gets the same answer, whatever proves it.
#[tokio::test]
async fn one_table_of_requests_over_two_tracks() {
    let rig = Rig::new(RULES);
    let served = Served::start(&rig).await;
    for (caller, line, expected) in [
        ("/export", "GET /v1/config/a", 200),
        ("/export", "HEAD /v1/config/a", 200),
        ("/export", "PUT /v1/images/1", 403),
        ("/export", "GET /v1/config/%2e%2e", 400),
        ("/export", "GET /late", 500),
        ("/photo", "GET /v1/config/a", 403),
    ] {
        let (by_key, _) = served.raw(&head(line, &format!("Authorization: {}\r\n", rig.key(caller)))).await;
        let records = rig.lines.take();
        let (by_svid, _) = served.over_tls(caller, &head(line, "")).await;
        // The records of an authenticated request name the same caller, operation, rule and reason.
        assert_eq!((by_key, by_svid, &rig.lines.take()), (expected, expected, &records), "{caller} {line}");
    }
    // The proof itself is known: an edge for each.
    let mut proofs: Vec<_> = rig.authorization.edges().list().into_iter().map(|edge| edge.key.proof).collect();
    proofs.sort_unstable();
    proofs.dedup();
    assert_eq!(proofs, ["api-key", "x509"]);
    // Two credentials that name two callers (trap 7), and one that is bad beside one that is good.
    let key = |key: String| head("GET /v1/config/a", &format!("Authorization: {key}\r\n"));
    assert_eq!(served.over_tls("/export", &key(rig.key("/photo"))).await.0, 401);
    assert_eq!(served.over_tls("/export", &key(rig.key("/export"))).await.0, 200);
    assert_eq!(served.over_tls("/export", &key(format!("{}x", rig.key("/export")))).await.0, 401);
    served.stop().await;
}

#[tokio::test]
async fn t_27_raw_requests_that_a_library_would_tidy() {
    let rig = Rig::new(RULES);
    let served = Served::start(&rig).await;
    let auth = format!("Authorization: {}\r\n", rig.key("/export"));
    let cases = [
        ("as it should be", head("GET /v1/config/a", &auth), 200),
        ("trap 1: dots that curl would take away", head("GET /v1/x/../config/a", &auth), 400),
        ("trap 1: a backslash", head("GET /v1\\config/a", &auth), 400),
        ("trap 1: no leading slash", head("GET v1/config/a", &auth), 400),
        ("trap 5: absolute form, two names", head("GET http://other/v1/config/a", &auth), 400),
        ("trap 5: absolute form, one name", head("GET http://config/v1/config/a", &auth), 200),
        ("trap 5: Host twice", head("GET /v1/config/a", &format!("{auth}Host: config\r\n")), 400),
        ("trap 6: Authorization twice", head("GET /v1/config/a", &format!("{auth}{auth}")), 400),
        (
            "trap 8: who a header says we are",
            head("GET /v1/config/a", "X-Forwarded-Client-Cert: URI=spiffe://example.org/export\r\n"),
            401,
        ),
        ("an unknown method", head("BREW /v1/config/a", &auth), 400),
        ("CONNECT", head("CONNECT config:443", &auth), 400),
    ];
    for (what, request, expected) in cases {
        let (status, text) = served.raw(&request).await;
        assert_eq!(status, expected, "{what}: {text}");
    }
    served.stop().await;
}

/// Who comes without a certificate is a stranger until a request of theirs is allowed: then its connection is like any other.
#[tokio::test]
async fn f_13_a_key_over_tls_without_a_certificate_gives_the_connection_a_place() {
    let rig = Rig::new(RULES);
    let authority = Authority::new("example.org");
    let clock: Arc<dyn Clock> = rig.clock.clone();
    let bundles = Authority::bundles(&[&authority]);
    let identity = Identity::fixed(authority.svid("/config", 3600), bundles.clone(), Arc::clone(&clock));
    let acceptor = AcceptorOptions { dangerously_admit_anonymous: true, ..AcceptorOptions::default() };
    let callers = PeerSet::parse(["spiffe://example.org/**"]).unwrap();
    let acceptor = Acceptor::new(&identity, callers, acceptor).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap().to_string(), CancellationToken::new());
    let options = ServeOptions::default();
    let counters = Arc::clone(&options.counters);
    let served = tokio::spawn(serve(TlsIncoming::new(listener, &acceptor), rig.service(), options, stop.clone()));

    let expected = PeerSet::parse(["spiffe://example.org/config"]).unwrap();
    let nobody = Identity::bundles_only(bundles, clock);
    let mut stream =
        Connector::anonymous(&nobody, expected, ConnectorOptions::default()).unwrap().connect(&address).await.unwrap();
    let key = |caller: &str| format!("Authorization: {}\r\n", rig.key(caller));
    for (credential, status, open) in
        [(String::new(), "401", 0), (key("/photo"), "403", 0), (key("/export"), "200", 1), (String::new(), "401", 1)]
    {
        let request = format!("GET /v1/config/a HTTP/1.1\r\nHost: config\r\n{credential}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer)).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while counters.open() != open {
                tokio::task::yield_now().await;
            }
        });
        assert!(waited.await.is_ok(), "after {status}: {} known connections", counters.open());
    }
    drop(stream);
    stop.cancel();
    served.await.unwrap();
}
