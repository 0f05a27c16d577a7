//! What does it cost to do nothing? Resident memory of CA and agent, idle and with many peers; processor time of a
//! thousand idle nodes. The baseline is a bare tonic server over mTLS, in its own process, with as many streams.

use std::time::{Duration, Instant};

use bonafide_tests::{
    measure::{self, Figure, Goal, bare, fleet, process, role, workload},
    site::{SOON, Site},
};
use bytes::Bytes;
use tokio_stream::StreamExt;

fn main() {
    role::play();
    let count = if measure::quick() { 200 } else { 1000 };
    let mut site = Site::new();
    site.environment = vec![("BONAFIDE_LOG_LEVEL".to_owned(), "warn".to_owned())];
    site.ca_arguments = ["--max-joins-per-minute", "100000"].map(str::to_owned).to_vec();
    site.start_ca();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    measure::heading("memory and idle processor time");
    let mib = |pid: u32| process::resident_kib(pid) / 1024.0;
    let pid = site.ca.as_ref().expect("a CA").id();
    settle();
    Figure::alone("footprint/ca-idle", mib(pid), "MiB", Goal::AtMost(32.0)).print();

    let (nodes, svid, root) = runtime.block_on(async {
        let mut operator = fleet::operator(&site.path("ca")).await;
        let nodes = fleet::join_many(&operator, "idle", count).await;
        let (svid, root) = plain_identity(&mut operator).await;
        (nodes, svid, root)
    });
    // A CA that has just been started and knows its nodes, so that nothing that the joins left behind is counted or used.
    site.stop_ca();
    site.start_ca();
    let pid = site.ca.as_ref().expect("a CA").id();
    settle();
    let before = process::resident_kib(pid);
    let connected = runtime.block_on(fleet::connect_many(nodes));
    settle();
    let per_node = (process::resident_kib(pid) - before) / count as f64;

    let folder = site.path("bare");
    std::fs::create_dir(&folder).expect("a folder");
    let (server, address) = role::bare_tls(&folder, &svid, &root);
    settle();
    let before = process::resident_kib(server.id());
    let streams = runtime.block_on(bare_streams(count, &address, &svid, &root));
    settle();
    let per_stream = (process::resident_kib(server.id()) - before) / count as f64;
    Figure::beside("footprint/ca-per-idle-node", per_node, per_stream, "KiB", Goal::RatioAtMost(1.15)).print();

    let watched = Duration::from_secs(if measure::quick() { 20 } else { 60 });
    let (ours, theirs) = (process::cpu(pid), process::cpu(server.id()));
    let began = Instant::now();
    std::thread::sleep(watched);
    let share = |used: Duration| used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0 * 1000.0 / count as f64;
    let (ours, theirs) = (process::cpu(pid) - ours, process::cpu(server.id()) - theirs);
    Figure::beside("footprint/ca-cpu-of-1000-idle-nodes", share(ours), share(theirs), "%", Goal::AtMost(1.0)).print();
    drop((connected, streams, server));

    let node = site.join("real");
    site.add_service("bench", &["--on", "any"]);
    let agent = node.agent.as_ref().expect("an agent").id();
    settle();
    Figure::alone("footprint/agent-idle", mib(agent), "MiB", Goal::AtMost(16.0)).print();
    let streams = runtime.block_on(async {
        let mut streams = Vec::with_capacity(count);
        let began = Instant::now();
        while streams.len() < count {
            match workload::fetch(&node.socket()).await {
                Ok(mut stream) => match workload::next(&mut stream).await {
                    Ok(_) => streams.push(stream),
                    Err(status) => assert!(began.elapsed() < SOON, "{} streams, then {status}", streams.len()),
                },
                Err(status) => assert!(began.elapsed() < SOON, "{} streams, then {status}", streams.len()),
            }
        }
        streams
    });
    settle();
    let name = format!("footprint/agent-with-{count}-streams");
    Figure::alone(&name, mib(agent), "MiB", Goal::AtMost(48.0)).print();
    drop(streams);
}

/// Gives what was just done time to end: tasks, timers, the last page faults.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

/// An SVID for the bare server and its clients, and the root above it.
async fn plain_identity(operator: &mut fleet::Operator) -> (bonafide_verifier::x509::X509Svid, Vec<u8>) {
    let id = fleet::add_service(operator, "plain", &["unix:uid:1".to_owned()], "plain").await;
    let mut node = fleet::SimulatedNode::join(&fleet::invite(operator, "plain").await).await;
    let key = fleet::Key::generate();
    let mut api = node.connect().await;
    let answer = fleet::issue(&mut api, &[(id, key.spki.clone())]).await;
    let svid = fleet::svids(answer, &[key]).pop().expect("an SVID");
    let snapshot = node.identity.snapshot();
    let bundle = snapshot.bundles().get(svid.id().trust_domain()).expect("the bundle");
    (svid, bundle.x509_authorities()[0].der().to_vec())
}

async fn bare_streams(
    count: usize,
    address: &str,
    svid: &bonafide_verifier::x509::X509Svid,
    root: &[u8],
) -> Vec<Box<dyn std::any::Any + Send>> {
    let config = bare::client_config(svid, root);
    let mut open: Vec<Box<dyn std::any::Any + Send>> = Vec::with_capacity(count);
    for _ in 0..count {
        let channel = bare::tls_channel(address, config.clone()).await;
        let hello = tokio_stream::once(Bytes::from_static(b"hello")).chain(tokio_stream::pending());
        open.push(Box::new(bare::stream(channel, hello).await.expect("a stream")));
    }
    open
}
