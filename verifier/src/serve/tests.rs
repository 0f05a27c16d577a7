//! The loop itself, over plain TCP and a listener that fails on purpose. TLS is tested with [`TlsIncoming`].

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::lifetime::{EndReason, Lifetime};

/// Plain TCP, with what the tests want to go wrong.
#[derive(Debug)]
struct Plain {
    listener: TcpListener,
    errors: Mutex<VecDeque<io::Error>>,
    stall: AtomicBool,
    lifetime: Mutex<Option<Lifetime>>,
    strangers: bool,
    protocol: Option<Protocol>,
}

impl Incoming for Plain {
    type Raw = TcpStream;
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let planned = self.errors.lock().unwrap().pop_front();
        match planned {
            Some(error) => Err(error),
            None => self.listener.accept().await.map(|(stream, _)| stream),
        }
    }

    fn origin(&self, raw: &TcpStream) -> Option<Origin> {
        raw.peer_addr().ok().map(|address| Origin::of(address.ip()))
    }

    async fn prepare(&self, raw: TcpStream) -> Result<Prepared<TcpStream>, PrepareError> {
        if self.stall.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let lifetime = self.lifetime.lock().unwrap().take().unwrap_or_else(Lifetime::unbounded);
        let prepared = Prepared::new(raw).with(Fact("as prepared")).lifetime(lifetime);
        Ok(prepared.stranger(self.strangers).protocol(self.protocol))
    }
}

#[derive(Clone, Debug)]
struct Fact(&'static str);

/// Answers; how many requests for `/never` it is not answering is counted.
#[derive(Clone, Default)]
struct Hello(Arc<AtomicUsize>);

impl tower_service::Service<Request<hyper::body::Incoming>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let fact = request.extensions().get::<Fact>().expect("every request carries the connection's facts").0;
        let standing = request.extensions().get::<Standing>().cloned();
        let unanswered = Arc::clone(&self.0);
        Box::pin(async move {
            match request.uri().path() {
                "/panic" => panic!("as asked"),
                "/known" => {
                    standing.expect("strangers can become known").known();
                    Ok(Response::new(Full::from(fact)))
                }
                "/never" => {
                    unanswered.fetch_add(1, Ordering::SeqCst);
                    std::future::pending().await
                }
                _ => Ok(Response::new(Full::from(fact))),
            }
        })
    }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    counters: Arc<ServeCounters>,
    unanswered: Arc<AtomicUsize>,
    served: JoinHandle<Drained>,
}

async fn start(change: impl FnOnce(&mut Plain, &mut ServeOptions)) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = Plain {
        listener,
        errors: Mutex::default(),
        stall: AtomicBool::new(false),
        lifetime: Mutex::default(),
        strangers: false,
        protocol: None,
    };
    let mut options = ServeOptions::default();
    change(&mut incoming, &mut options);
    let (stop, counters) = (CancellationToken::new(), Arc::clone(&options.counters));
    let hello = Hello::default();
    let unanswered = Arc::clone(&hello.0);
    let served = tokio::spawn(serve(incoming, hello, options, stop.clone()));
    Running { address, stop, counters, unanswered, served }
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn get(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// Reads until the body that [`Hello`] sends, or the end.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
        if answer.ends_with(b"as prepared") {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

async fn eventually(mut done: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(10), async {
        while !done() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "it did not come to that");
}

#[tokio::test]
async fn t_19_f_13_errors_of_accept_never_end_the_loop() {
    let errors = [libc_error(24), libc_error(103), libc_error(105), libc_error(12), libc_error(23), libc_error(4)];
    let running = start(|incoming, _| incoming.errors.get_mut().unwrap().extend(errors)).await;
    let answer = get(&mut connect(running.address).await, "/").await;
    assert!(answer.contains("200 OK") && answer.ends_with("as prepared"), "{answer}");
    assert_eq!(running.counters.accept_errors(), 6);
    running.stop.cancel();
    assert_eq!(running.served.await.unwrap(), Drained::All);
}

fn libc_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

#[test]
fn f_13_a_listener_that_keeps_failing_is_asked_ever_less_often() {
    let mut failures = AcceptFailures::default();
    let waits: Vec<_> = (0..12).map(|_| failures.next(&libc_error(24)).as_millis()).collect();
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
    failures.reset();
    assert_eq!(failures.next(&libc_error(24)).as_millis(), 5);
    let mut failures = AcceptFailures::default();
    let aborted: Vec<_> = (0..66).map(|_| failures.next(&libc_error(103)).as_millis()).collect();
    assert_eq!((aborted[0], aborted[62], aborted[63], aborted[65]), (0, 0, 5, 20), "a flood of aborts is no free spin");
}

#[tokio::test]
async fn t_20_stalled_preparations_hold_up_nobody_and_are_cut() {
    let running = start(|incoming, options| {
        *incoming.stall.get_mut() = true;
        options.handshakes_per_origin = 50;
        options.prepare_deadline = Duration::from_millis(500);
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..80 {
        stalled.push(connect(running.address).await);
    }
    eventually(|| running.counters.refused_at_limit() == 30).await;
    assert_eq!(running.counters.unfinished(), 50, "the oldest made room for the newest");
    eventually(|| running.counters.not_prepared() == 50 && running.counters.unfinished() == 0).await;
    for mut one in stalled {
        assert!(matches!(one.read(&mut [0; 1]).await, Ok(0) | Err(_)), "a stalled connection is closed");
    }
    running.stop.cancel();
    assert_eq!(running.served.await.unwrap(), Drained::All);
}

/// Whoever makes a key gets through the handshake. Connections of such peers once held their places like those of nodes, and a
/// request that never ends kept each of them.
#[tokio::test]
async fn f_13_strangers_make_room_for_each_other_and_take_none_from_others() {
    let running = start(|incoming, options| {
        incoming.strangers = true;
        options.handshakes_per_origin = 2;
        options.grace = Duration::from_millis(300);
    })
    .await;
    let mut held = Vec::new();
    for n in 1..=4 {
        let mut stranger = connect(running.address).await;
        stranger.write_all(b"GET /never HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        eventually(|| running.unanswered.load(Ordering::SeqCst) == n).await;
        held.push(stranger);
    }
    for dropped in &mut held[..2] {
        assert!(matches!(dropped.read(&mut [0; 1]).await, Ok(0) | Err(_)), "the oldest makes room");
    }
    assert_eq!((running.counters.open(), running.counters.refused_at_limit()), (0, 2));
    eventually(|| running.counters.unfinished() == 2).await;
    let last = held.last_mut().unwrap();
    running.stop.cancel();
    let waited = timeout(Duration::from_millis(100), last.read(&mut [0; 1])).await;
    assert!(waited.is_err(), "its request may finish within the grace");
    running.served.await.unwrap();
}

/// Callers that prove themselves in their requests come without a certificate, as those do who only fill places.
#[tokio::test]
async fn f_13_a_stranger_that_became_known_keeps_its_place() {
    let running = start(|incoming, options| {
        incoming.strangers = true;
        options.handshakes_per_origin = 2;
    })
    .await;
    let mut known = connect(running.address).await;
    assert!(get(&mut known, "/known").await.contains("200 OK"));
    eventually(|| running.counters.open() == 1 && running.counters.unfinished() == 0).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut other = connect(running.address).await;
        assert!(get(&mut other, "/").await.contains("200 OK"));
        others.push(other);
    }
    eventually(|| running.counters.refused_at_limit() == 3 && running.counters.unfinished() == 2).await;
    assert!(get(&mut known, "/known").await.contains("200 OK"), "its connection goes on");
    known.write_all(b"GET /never HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    eventually(|| running.unanswered.load(Ordering::SeqCst) == 1).await;
    drop(known);
    eventually(|| running.counters.open() == 0).await;
    running.stop.cancel();
    running.served.await.unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_and_is_counted() {
    let running = start(|_, _| ()).await;
    let mut other = connect(running.address).await;
    assert!(get(&mut other, "/").await.contains("200 OK"));
    assert_eq!(get(&mut connect(running.address).await, "/panic").await, "");
    eventually(|| running.counters.panics() == 1).await;
    assert!(get(&mut other, "/").await.contains("200 OK"), "the other connection goes on");
    running.stop.cancel();
    running.served.await.unwrap();
}

#[tokio::test]
async fn closing_asks_to_finish_and_the_end_cuts() {
    let (close, end) = (CancellationToken::new(), CancellationToken::new());
    let lifetime = Lifetime::new({
        let (close, end) = (close.clone(), end.clone());
        async move {
            close.cancelled_owned().await;
            (EndReason::PeerExpires, async move {
                end.cancelled_owned().await;
                EndReason::PeerExpires
            })
        }
    });
    let running = start(|incoming, _| *incoming.lifetime.get_mut().unwrap() = Some(lifetime)).await;
    let mut stream = connect(running.address).await;
    assert!(!get(&mut stream, "/").await.contains("connection: close"));
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    eventually(|| running.unanswered.load(Ordering::SeqCst) == 1).await;
    close.cancel();
    assert!(timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await.is_err(), "asked, not cut");
    end.cancel();
    assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    eventually(|| running.counters.ended_by_lifetime() == 1 && running.counters.open() == 0).await;
    running.stop.cancel();
    running.served.await.unwrap();
}

#[tokio::test]
async fn f_12_headers_that_do_not_come_and_idle_connections_are_closed() {
    let running = start(|_, options| {
        options.header_deadline = Duration::from_millis(200);
        options.idle = Duration::from_millis(400);
    })
    .await;
    let mut slow = connect(running.address).await;
    slow.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    let mut preface_only = connect(running.address).await;
    preface_only.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for stream in [&mut slow, &mut preface_only] {
        let mut rest = Vec::new();
        assert!(timeout(Duration::from_secs(9), stream.read_to_end(&mut rest)).await.is_ok(), "it is closed");
    }
    eventually(|| running.counters.open() == 0).await;
    running.stop.cancel();
    running.served.await.unwrap();
}

#[tokio::test]
async fn stopping_lets_requests_finish_within_the_grace() {
    let running = start(|_, options| options.grace = Duration::from_millis(300)).await;
    let mut idle = connect(running.address).await;
    assert!(get(&mut idle, "/").await.contains("200 OK"));
    running.stop.cancel();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "an idle connection ends at once");
    assert_eq!(running.served.await.unwrap(), Drained::All);

    let running = start(|_, options| options.grace = Duration::from_millis(300)).await;
    let mut busy = connect(running.address).await;
    busy.write_all(b"GET /never HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    eventually(|| running.unanswered.load(Ordering::SeqCst) == 1).await;
    running.stop.cancel();
    assert_eq!(running.served.await.unwrap(), Drained::Cut(1));
}

/// A frame of HTTP/2: RFC 9113 §4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn t_21_floods_of_http_2_frames_end_their_connection_alone() {
    const GET_NEVER: &[u8] = b"\x82\x86\x04\x06/never\x41\x04test";
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
    let request = |stream| frame(1, 5, stream, GET_NEVER);
    let rapid_reset = |n: u32| [request(2 * n + 1), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat();
    let continuations =
        |n: u32| if n == 0 { frame(1, 1, 1, GET_NEVER) } else { frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']) };
    let settings = |_| frame(4, 0, 0, &[]);
    type Flood<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<u8>, bool);
    // (what, its frames, whether the connection has to end: acknowledged floods are only slow)
    let floods: [Flood<'_>; 3] =
        [("rapid reset", &rapid_reset, true), ("CONTINUATION", &continuations, true), ("SETTINGS", &settings, false)];
    let running = start(|_, _| ()).await;
    let mut other = connect(running.address).await;
    for (what, frames, has_to_end) in floods {
        let mut flooding = connect(running.address).await;
        flooding.write_all(&preface).await.unwrap();
        let (mut read, mut write) = flooding.split();
        let ended = timeout(Duration::from_secs(20), async {
            let flood = async {
                for n in 0..20_000 {
                    if write.write_all(&frames(n)).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await
            };
            let drain = async { while matches!(read.read(&mut [0; 4096]).await, Ok(1..)) {} };
            tokio::select! { () = flood => (), () = drain => () }
        });
        if has_to_end {
            ended.await.unwrap_or_else(|_| panic!("{what}: the connection goes on"));
        } else {
            drop(timeout(Duration::from_millis(300), ended).await);
        }
        drop(flooding);
        assert!(get(&mut other, "/").await.contains("200 OK"), "{what}: the others are served");
    }
    eventually(|| running.counters.open() <= 1).await;
    assert_eq!(running.counters.panics(), 0);
    running.stop.cancel();
    running.served.await.unwrap();
}

/// Where a protocol was agreed on, that one is spoken and no other. When connections could first be taken over, HTTP/2 servers began to wait
/// for the client's first bytes, and served either protocol whatever had been agreed on.
#[tokio::test]
async fn what_was_agreed_on_is_spoken() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let running = start(|incoming, _| incoming.protocol = Some(Protocol::Http2)).await;
    let mut silent = connect(running.address).await;
    let mut frame = [0; 9];
    silent.read_exact(&mut frame).await.expect("the server's settings come first");
    assert_eq!(frame[3], 4, "SETTINGS: {frame:?}");
    let answer = get(&mut connect(running.address).await, "/").await;
    assert!(!answer.contains("as prepared"), "{answer:?}");

    let running = start(|incoming, _| incoming.protocol = Some(Protocol::Http1)).await;
    assert!(get(&mut connect(running.address).await, "/").await.ends_with("as prepared"));
    let mut other = connect(running.address).await;
    other.write_all(PREFACE).await.unwrap();
    let mut answer = Vec::new();
    let _ = other.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
}

#[tokio::test]
async fn f_17_connections_that_break_off_anywhere_leave_nothing_behind() {
    let running = start(|_, options| options.header_deadline = Duration::from_millis(300)).await;
    let beginnings: [&[u8]; 5] = [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nhost: test\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhalf",
        b"PRI * HTTP/2.0\r\n\r\nSM",
    ];
    for round in 0..40 {
        for beginning in beginnings {
            let mut stream = connect(running.address).await;
            stream.write_all(beginning).await.unwrap();
            if round % 2 == 0 {
                stream.shutdown().await.unwrap();
            }
        }
    }
    eventually(|| running.counters.accepted() == 200 && running.counters.open() == 0).await;
    assert_eq!(running.counters.panics(), 0);
    running.stop.cancel();
    assert_eq!(running.served.await.unwrap(), Drained::All);
}
