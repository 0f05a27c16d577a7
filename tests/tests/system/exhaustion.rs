//! File descriptors or memory run out (F-18, F-19) in processes that run: what is open goes on, what is new waits, and when there
//! is some again all is well without a restart.

use std::{fs, path::Path, process::Command};

use bonafide_ca_api::generated::admin::UpdateServiceRequest;
use bonafide_examples::process::Process;
use bonafide_tests::{
    measure::{
        fleet,
        workload::{self, Svids},
    },
    site::{Ran, SOON, Site, eventually, user_selector},
};
use hyper_util::rt::TokioIo;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::programs::{Load, Shop};

/// Changes the soft limit of a process that runs. It bounds the numbers of new descriptors, so at 3 there is none whatever is open.
fn limit(pid: u32, files: &str) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={pid}")).arg(format!("--nofile={files}:"));
    Ran::of(&mut command).success();
}

fn soft_limit(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

/// The CA has no descriptor left: a command waits for it, a node's stream stays, and nothing is lost or half done afterwards.
#[test]
fn f19_a_ca_without_file_descriptors_goes_on_when_it_has_some() {
    let site = Site::started();
    let node = site.join("n1");
    site.add_service("before", &["--on", "n1"]);
    let ca = site.ca.as_ref().unwrap();
    let before = soft_limit(ca.id());
    limit(ca.id(), "3");
    let mut late = Command::new(&site.programs.ca);
    late.args(["service", "add", "late", "--selector", &user_selector(), "--on", "n1", "--data"]).arg(site.path("ca"));
    let mut late = Process::start("bonafide-ca service add", &mut late).unwrap();
    ca.wait_for("say so", SOON, |line| line.contains("cannot accept connections").then_some(()))
        .unwrap_or_else(|error| panic!("{error}"));
    let status = node.agent(&["status", "--output", "json"]).success().json();
    assert_eq!(status["ca_address"].as_str(), Some(site.listen.as_str()), "the node's stream stays: {status}");
    limit(ca.id(), &before);
    late.ended(SOON).unwrap_or_else(|error| panic!("{error}"));
    eventually("changes are made again", || {
        let added = site.ca(&["service", "add", "after", "--selector", &user_selector(), "--on", "n1"]);
        (added.code == 0).then_some(())
    });
    eventually("and pushed", || node.agent(&["whoami"]).text().contains("/after").then_some(()));
    let _second = site.join("n2");
    site.ca(&["audit", "verify"]).success();
}

/// The agent has no descriptor left, over a renewal: it cannot look at its workloads, so it tells them nothing, and takes nothing
/// from them. New ones get their identities when there are descriptors again.
#[test]
fn f19_an_agent_without_file_descriptors_takes_nothing_back() {
    let site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "30s");
    site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
    let load = Load::start(&shop.web_address);
    load.until_answered(10);
    let agent = node.agent.as_ref().unwrap();
    let before = soft_limit(agent.id());
    limit(agent.id(), "3");
    let mut late = node.workload(&site.programs.agent);
    let mut late = Process::start("bonafide-agent fetch", late.args(["fetch", "x509", "--timeout", "60"])).unwrap();
    agent
        .wait_for("say so", SOON, |line| line.contains("cannot accept connections").then_some(()))
        .unwrap_or_else(|error| panic!("{error}"));
    // The second of each is the renewal, of which the workloads cannot be told yet.
    let mut issued = 0;
    agent
        .wait_for("renew both", SOON, |line| {
            issued += usize::from(line.contains("X.509-SVID issued"));
            (issued >= 4).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    load.until_answered(50);
    limit(agent.id(), &before);
    late.ended(SOON).unwrap_or_else(|error| panic!("{error}"));
    eventually("a new workload has its identity", || (node.agent(&["fetch", "x509"]).code == 0).then_some(()));
    load.until_renewed(1);
    load.none_failed();
}

/// F-18: two hundred streams that nobody reads, and a registry that changes all the time. Once the buffers on the way are full,
/// the agent has a few MiB left to allocate, and needs no more than that: what is not read is replaced, not queued.
#[test]
fn f18_streams_that_nobody_reads_take_no_more_memory() {
    let site = Site::started();
    let node = site.join("n1");
    let agent = node.agent.as_ref().unwrap().id();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut operator = fleet::operator(&site.path("ca")).await;
        fleet::add_service(&mut operator, "/web", &[user_selector()], "n1").await;
        let mut reader = workload::fetch(&node.socket()).await.unwrap();
        let mut unread = Vec::new();
        for _ in 0..200 {
            unread.push(workload::fetch_over(narrow_channel(&node.socket()).await).await.unwrap());
        }
        let mut changes = 0..;
        change(&mut operator, &mut reader, changes.by_ref().take(30)).await;
        // In bytes; what the program has mapped to write to, not what lies in memory of it.
        let data = (status(agent, "VmData:") + 8 * 1024) * 1024;
        let mut command = Command::new("prlimit");
        Ran::of(command.arg(format!("--pid={agent}")).arg(format!("--data={data}:"))).success();
        // 200 streams times 150 messages of 2 KiB would be sixty MiB.
        change(&mut operator, &mut reader, changes.by_ref().take(150)).await;
        drop(unread);
        change(&mut operator, &mut reader, changes.take(1)).await;
    });
    node.agent(&["fetch", "x509"]).success();
}

/// Gives the service one hint after the other; each has come to the reader before the next.
async fn change(operator: &mut fleet::Operator, reader: &mut Streaming<Svids>, numbers: impl Iterator<Item = i32>) {
    for number in numbers {
        let hint = format!("hint-{number}");
        let request =
            UpdateServiceRequest { path: "/web".into(), hint: Some(hint.clone()), ..UpdateServiceRequest::default() };
        operator.update_service(request).await.unwrap();
        while workload::next(reader).await.unwrap().svids.first().unwrap().hint != hint {}
    }
}

/// A connection of its own that takes little before somebody reads.
async fn narrow_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static("http://agent").initial_stream_window_size(4096);
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// A figure of `/proc/PID/status`, in KiB.
fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
