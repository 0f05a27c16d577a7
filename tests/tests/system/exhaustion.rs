//! File descriptors run out (F-19), in processes that run: what is open goes on, what is new waits, and when there are some
//! again all is well without a restart.

use std::{fs, process::Command};

use bonafide_examples::process::Process;
use bonafide_tests::site::{Ran, SOON, Site, eventually, user_selector};

use crate::programs::{Load, Shop};

/// How many files a process has open.
fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Changes the soft limit of a process that runs.
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
    limit(ca.id(), &open_files(ca.id()).to_string());
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

/// The agent has no descriptor left: workloads that have their identities go on, and new ones get theirs when there are some.
#[test]
fn f19_an_agent_without_file_descriptors_goes_on_when_it_has_some() {
    let site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "10s");
    site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
    let load = Load::start(&shop.web_address);
    load.until_answered(10);
    let agent = node.agent.as_ref().unwrap();
    let before = soft_limit(agent.id());
    limit(agent.id(), &open_files(agent.id()).to_string());
    let mut late = node.workload(&site.programs.agent);
    let mut late = Process::start("bonafide-agent fetch", late.args(["fetch", "x509", "--timeout", "60"])).unwrap();
    agent
        .wait_for("say so", SOON, |line| line.contains("cannot accept connections").then_some(()))
        .unwrap_or_else(|error| panic!("{error}"));
    load.until_answered(50);
    limit(agent.id(), &before);
    late.ended(SOON).unwrap_or_else(|error| panic!("{error}"));
    eventually("a new workload has its identity", || (node.agent(&["fetch", "x509"]).code == 0).then_some(()));
    load.until_renewed(2);
    load.none_failed();
}
