//! What does the authorization cost that a request goes through? The same service behind mutual TLS with and without the layer: processor
//! time and allocations of the server's thread for a request on a warm connection, the rule found among a hundred, one record in a thousand
//! written. And an axum router that says hello, with everything that a server puts around it and with nothing: requests a second.

use std::{convert::Infallible, hint::black_box, sync::Arc, task::Context, time::Instant};

use axum::{Router, extract::Path, routing::get};
use bonafide_tests::measure::{
    self, Figure, Goal,
    allocations::{self, Counting},
    guarded::{self, Client, HELLO, Hello, Served},
    issued::{Issued, issued},
};
use bonafide_verifier::{
    clock::{Clock as _, SystemClock},
    http::{AuthorizationLayer, Routes},
    policy::Method,
    record::{JsonLines, JsonLinesOptions},
    tls::Peer,
    x509::{self, PresentedChain},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::Layer as _;
use tower_service::Service;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests between two looks at the server's clock.
const BATCH: usize = 200;
/// Connections of the requests that come at once.
const CONNECTIONS: usize = 8;

fn main() {
    let issued = issued(&["config", "export"]);
    let folder = tempfile::tempdir().expect("a folder");
    let records = |name: &str| {
        let lines = JsonLines::open(folder.path().join(name), JsonLinesOptions::default()).expect("a file of records");
        Some(Arc::new(lines) as _)
    };
    let layer = AuthorizationLayer::new(guarded::authorization(&issued, 1, 1000, records("layer")));
    in_memory(&issued, &layer);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    measure::on_one_core(|| {
        let (with, without) = (Served::start(&issued, 0, layer.layer(Hello)), Served::start(&issued, 0, Hello));
        runtime.block_on(over_tls(&issued, &with, &without));
    });

    let all = Routes::new(guarded::authorization(&issued, 1, 1000, records("axum")))
        .route(Method::Get, "/hello/{name}", hello)
        .into_service();
    let bare = Router::new().route("/hello/{name}", get(hello));
    let (with, without) = (Served::start(&issued, 0, all), Served::start(&issued, 0, bare));
    runtime.block_on(axum_hello(&issued, &with, &without));
}

async fn hello(Path(_name): Path<String>) -> &'static str {
    HELLO
}

/// The layer's own part, without a connection around it: a request as the server hands it on.
fn in_memory(issued: &Issued, layer: &AuthorizationLayer) {
    measure::heading("the layer alone, processor time of a request in memory, the least of many short runs");
    let presented = PresentedChain::leaf_first(issued.svids[1].chain()).expect("a chain");
    let peer = x509::verify(&presented, &issued.bundles, SystemClock.now()).expect("a good chain");
    let request = || {
        let mut request = Request::builder()
            .uri("/hello/world")
            .header("host", "config")
            .body(Full::<Bytes>::default())
            .expect("a request");
        request.extensions_mut().insert(Peer::Svid(peer.clone()));
        request
    };
    fn run<S: Service<Request<Full<Bytes>>, Error = Infallible>>(service: &mut S, request: Request<Full<Bytes>>)
    where
        S::Response: Send,
    {
        let mut future = std::pin::pin!(service.call(request));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(black_box(future.as_mut().poll(&mut cx)).is_ready());
    }
    let time = |mut run: Box<dyn FnMut(Request<Full<Bytes>>) + '_>| {
        let requests: Vec<_> = (0..BATCH).map(|_| request()).collect();
        measure::cpu_micros(|| requests.into_iter().for_each(&mut run)) / BATCH as f64
    };
    let (mut with, mut without) = (layer.layer(Hello), Hello);
    let pair = measure::least(
        measure::rounds(400),
        || time(Box::new(|request| run(&mut with, request))),
        || time(Box::new(|request| run(&mut without, request))),
    );
    Figure::alone("layer/time-added-in-memory", pair.value - pair.baseline, "us", Goal::AtMost(1.0)).print();
    let count = |run: &mut dyn FnMut(Request<Full<Bytes>>)| {
        let request = request();
        let before = allocations::of_this_thread();
        run(request);
        (allocations::of_this_thread() - before) as f64
    };
    let added = |_| count(&mut |request| run(&mut with, request)) - count(&mut |request| run(&mut without, request));
    let added = measure::median((0..101).map(added));
    Figure::alone("layer/allocations-added-in-memory", added, "", Goal::None).print();
}

async fn over_tls(issued: &Issued, with: &Served, without: &Served) {
    measure::heading("a request on a warm mTLS connection, processor time of the server, the least of many short runs");
    let (mut with, mut without) = (with.connect(issued, 1).await, without.connect(issued, 1).await);
    let mut least = [(f64::INFINITY, f64::INFINITY); 2];
    for _ in 0..measure::rounds(400) {
        for (client, least) in [&mut with, &mut without].into_iter().zip(&mut least) {
            let (time, allocations) = client.measured(BATCH).await;
            *least = (least.0.min(time), least.1.min(allocations));
        }
    }
    let [with, without] = least;
    Figure::beside("layer/warm-mtls-request", with.0, without.0, "us", Goal::None).print();
    Figure::alone("layer/time-added", with.0 - without.0, "us", Goal::AtMost(1.0)).print();
    Figure::beside("layer/warm-mtls-allocations", with.1, without.1, "", Goal::None).print();
    Figure::alone("layer/allocations-added", with.1 - without.1, "", Goal::AtMost(2.0)).print();
}

async fn axum_hello(issued: &Issued, with: &Served, without: &Served) {
    measure::heading("axum's hello over mTLS, eight connections, one thread of the server");
    let connect = async |served: &Served| {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(served.connect(issued, 1).await);
        }
        clients
    };
    let (mut with, mut without) = (connect(with).await, connect(without).await);
    let mut taken = Vec::new();
    for round in 0..measure::rounds(60) {
        let first = rate(if round % 2 == 0 { &mut with } else { &mut without }).await;
        let second = rate(if round % 2 == 0 { &mut without } else { &mut with }).await;
        taken.push(if round % 2 == 0 { (first, second) } else { (second, first) });
    }
    Figure::paired("layer/axum-hello", measure::of_pairs(&taken), "/s", Goal::RatioAtLeast(0.95)).print();
}

/// Requests a second, from all clients at once.
async fn rate(clients: &mut Vec<Client>) -> f64 {
    let began = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for mut client in clients.drain(..) {
        asking.spawn(async move {
            client.ask(BATCH).await;
            client
        });
    }
    clients.extend(asking.join_all().await);
    (clients.len() * BATCH) as f64 / began.elapsed().as_secs_f64()
}
