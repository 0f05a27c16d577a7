//! How long is a new service on its way? From the return of `service add` to the SVID at a workload that watches, over a
//! real agent, with one node and with a thousand; against a push through a channel inside of this process. For
//! `--on any` it is the last of all nodes, each of which has its SVID issued; all but one of these are simulated in
//! this process, over their own connections and with keys made beforehand.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bonafide_tests::{
    measure::{self, Figure, Goal, Times, fleet, role, workload},
    site::{Node, SOON, Site, user_selector},
};
use tokio::{sync::mpsc, time::timeout};
use tonic::Streaming;

fn main() {
    role::play();
    let mut site = Site::new();
    site.environment = vec![("BONAFIDE_LOG_LEVEL".to_owned(), "warn".to_owned())];
    // A service a second on one node is more than a CA gives, if it is not told to.
    let _ca = role::ca_without_quota(&site.path("."));
    let node = site.join("watched");
    site.add_service("base", &["--on", "watched"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut operator = fleet::operator(&site.path("ca")).await;
        let mut watching = watch(&node).await;
        measure::heading("`service add` returned to SVID at a watching workload");
        let local = channel_push().await;
        let baseline = local.quantile(0.99);
        let rounds = measure::rounds(200);
        let (one, called) = to_one(&mut operator, &mut watching, rounds).await;
        called.print("push/1-node");
        Figure::beside("push/1-node/p50", one.quantile(0.5), local.quantile(0.5), "ms", Goal::None).print();
        Figure::beside("push/1-node/p99", one.quantile(0.99), baseline, "ms", Goal::AtMost(20.0)).print();

        let count = if measure::quick() { 100 } else { 999 };
        let nodes = fleet::join_many(&operator, "simulated", count).await;
        let (told, mut tell) = mpsc::channel(4096);
        for (node, stream) in fleet::connect_many(nodes).await {
            tokio::spawn(simulate(node, stream, told.clone()));
        }
        let (many, called) = to_one(&mut operator, &mut watching, rounds).await;
        let all = count + 1;
        let name = |figure: &str| format!("push/{all}-nodes/{figure}");
        called.print(&name("on-one"));
        Figure::beside(&name("on-one/p50"), many.quantile(0.5), local.quantile(0.5), "ms", Goal::None).print();
        Figure::beside(&name("on-one/p99"), many.quantile(0.99), baseline, "ms", Goal::AtMost(20.0)).print();

        let (mut last, mut middle) = (Times::new(), Times::new());
        let mut called = Called::default();
        for round in 0..measure::rounds(20) {
            let path = format!("everywhere-{round}");
            let began = Instant::now();
            fleet::add_service(&mut operator, &path, &[user_selector()], "any").await;
            let returned = Instant::now();
            let mut taken: Vec<Duration> = vec![arrival(&mut watching, &path, true).await - returned];
            while taken.len() < all {
                if let Told::Issued(at) = next(&mut tell).await {
                    taken.push(at.saturating_duration_since(returned));
                }
            }
            taken.sort();
            called.returned.record(returned - began);
            called.arrived.record(returned - began + taken[all - 1]);
            last.record(taken[all - 1]);
            middle.record(taken[all / 2]);
            fleet::remove_service(&mut operator, &path).await;
            arrival(&mut watching, &path, false).await;
            let mut gone = 1;
            while gone < all {
                gone += usize::from(matches!(next(&mut tell).await, Told::Removed));
            }
        }
        called.print(&name("on-any"));
        Figure::beside(&name("on-any/median-node"), middle.quantile(0.5), baseline, "ms", Goal::None).print();
        Figure::beside(&name("on-any/last-node-p50"), last.quantile(0.5), baseline, "ms", Goal::None).print();
        Figure::beside(&name("on-any/last-node-p99"), last.quantile(0.99), baseline, "ms", Goal::AtMost(500.0)).print();
    });
}

/// The same, counted from the call: most of what `service add` takes is over when the push begins, and the answer to the
/// operator may come after the SVID.
#[derive(Default)]
struct Called {
    returned: Times,
    arrived: Times,
}

impl Called {
    fn print(&self, name: &str) {
        let figure = |what: &str, value| Figure::alone(&format!("{name}/{what}"), value, "ms", Goal::None).print();
        figure("call-to-return-p50", self.returned.quantile(0.5));
        figure("call-to-svid-p50", self.arrived.quantile(0.5));
        figure("call-to-svid-p99", self.arrived.quantile(0.99));
    }
}

/// A service on the watched node comes and goes, again and again.
async fn to_one(
    operator: &mut fleet::Operator,
    watching: &mut Streaming<workload::Svids>,
    rounds: usize,
) -> (Times, Called) {
    let (mut times, mut called) = (Times::new(), Called::default());
    for round in 0..rounds {
        let path = format!("pushed-{round}");
        let began = Instant::now();
        fleet::add_service(operator, &path, &[user_selector()], "watched").await;
        let returned = Instant::now();
        let arrived = arrival(watching, &path, true).await;
        times.record(arrived.saturating_duration_since(returned));
        called.returned.record(returned - began);
        called.arrived.record(arrived - began);
        fleet::remove_service(operator, &path).await;
        arrival(watching, &path, false).await;
    }
    (times, called)
}

async fn watch(node: &Node) -> Streaming<workload::Svids> {
    let began = Instant::now();
    loop {
        if let Ok(mut stream) = workload::fetch(&node.socket()).await
            && workload::next(&mut stream).await.is_ok()
        {
            return stream;
        }
        assert!(began.elapsed() < SOON, "no SVID to watch");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// When the workload has (or has no more) an SVID with this path.
async fn arrival(watching: &mut Streaming<workload::Svids>, path: &str, there: bool) -> Instant {
    let id = format!("spiffe://example.org/{path}");
    loop {
        let next = timeout(SOON, workload::next(watching)).await;
        let svids = next.expect("a message in time").expect("the stream goes on");
        if svids.svids.iter().any(|svid| svid.spiffe_id == id) == there {
            return Instant::now();
        }
    }
}

enum Told {
    Issued(Instant),
    Removed,
}

async fn next(tell: &mut mpsc::Receiver<Told>) -> Told {
    timeout(SOON, tell.recv()).await.expect("a node in time").expect("the nodes run")
}

/// Has every new service's SVID issued, as an agent does.
async fn simulate(mut node: fleet::SimulatedNode, mut stream: fleet::SyncStream, told: mpsc::Sender<Told>) {
    let key = fleet::Key::generate();
    let mut api = node.connect().await;
    loop {
        let update = stream.next().await;
        if !update.services.is_empty() {
            let wanted: Vec<_> = update.services.into_iter().map(|service| (service.id, key.spki.clone())).collect();
            let answer = fleet::issue(&mut api, &wanted).await;
            assert_eq!(fleet::count_leaves(&answer), wanted.len());
            let _ = told.send(Told::Issued(Instant::now())).await;
        }
        if !update.removed.is_empty() {
            let _ = told.send(Told::Removed).await;
        }
    }
}

/// A push through a channel, to a task that waits for it.
async fn channel_push() -> Times {
    let (send, mut receive) = mpsc::channel::<(Instant, Arc<str>)>(1);
    let (back, mut done) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some((sent, _)) = receive.recv().await {
            if back.send(sent.elapsed()).await.is_err() {
                break;
            }
        }
    });
    let mut times = Times::new();
    for _ in 0..1000 {
        send.send((Instant::now(), "pushed".into())).await.expect("a receiver");
        times.record(done.recv().await.expect("an answer"));
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    times
}
