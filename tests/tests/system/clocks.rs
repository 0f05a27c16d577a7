//! Processes months ahead: stopped, then started under libfaketime, which shifts every clock of theirs.

use std::{fs, path::PathBuf};

use bonafide_examples::process::Process;
use bonafide_tests::site::{Node, SOON, Site, eventually};

/// The library that `faketime` brings.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    found.expect("libfaketime is needed: see tests/run")
}

/// Shifts the clocks of whatever the site starts from here on.
fn shift(site: &mut Site, by: &str) {
    site.environment = vec![
        ("BONAFIDE_LOG_LEVEL".to_owned(), "info".to_owned()),
        ("LD_PRELOAD".to_owned(), library().display().to_string()),
        ("FAKETIME".to_owned(), by.to_owned()),
    ];
}

/// A site and a node that lived at the true time and are stopped now.
fn asleep() -> (Site, Node) {
    let mut site = Site::new();
    shift(&mut site, "+0d");
    site.start_ca();
    let mut node = site.join("n1");
    site.add_service("web", &["--on", "any"]);
    fetched(&node);
    node.stop();
    site.stop_ca();
    (site, node)
}

/// The node's workloads have an identity.
fn fetched(node: &Node) {
    eventually("an identity", || (node.agent(&["fetch", "x509"]).code == 0).then_some(()));
}

/// T-40, F-09: a CA that was off for three months starts, though all its own certificates have expired, and signs.
#[test]
fn t40_a_ca_that_was_off_for_months_starts_and_signs() {
    let (mut site, _) = asleep();
    shift(&mut site, "+90d");
    site.start_ca();
    site.ca(&["audit", "verify"]).success();
    let node = site.join("n2");
    fetched(&node);
}

/// T-40, F-09: a node that slept for three weeks, long past its own certificate, is back by itself.
#[test]
fn t40_a_node_that_slept_for_weeks_recovers() {
    let (mut site, mut node) = asleep();
    shift(&mut site, "+21d");
    node.shift(&site);
    site.start_ca();
    node.start();
    fetched(&node);
}

/// A node that slept longer than it may is told the one command that mends it, and that command does.
#[test]
fn t40_a_node_that_slept_too_long_is_told_what_to_do() {
    let (mut site, mut node) = asleep();
    shift(&mut site, "+60d");
    node.shift(&site);
    site.start_ca();
    let mut agent = Process::start("bonafide-agent", &mut node.agent_run()).unwrap();
    agent
        .wait_for("name the command", SOON, |line| line.contains("node invite n1").then_some(()))
        .unwrap_or_else(|error| panic!("{error}"));
    let _ = agent.kill();
    let invitation = site.ca(&["node", "invite", "n1", "--replace"]).success().stdout;
    node.join(invitation.trim());
    fetched(&node);
}

/// F-08: a CA whose clock is absurd signs nothing, says so with the flag that mends it, and the flag is recorded.
#[test]
fn f08_a_ca_whose_clock_is_absurd_does_not_sign() {
    {
        let by = "+500d";
        let (mut site, _) = asleep();
        shift(&mut site, by);
        let mut ca = Process::start("bonafide-ca", &mut site.ca_run()).unwrap();
        ca.wait_for("name the flag", SOON, |line| line.contains("--accept-clock").then_some(()))
            .unwrap_or_else(|error| panic!("{by}: {error}"));
        if !ca.printed().iter().any(|line| line.starts_with("ready ")) {
            // It says so before it listens.
            let status = eventually("an answer of the CA", || {
                let answer = site.ca(&["status", "--output", "json"]);
                (answer.code == 0).then(|| answer.json())
            });
            let health = status["health"].as_array().unwrap();
            assert!(
                health.iter().any(|part| part["state"] == "unready"),
                "{by}: it says that it does not sign: {status}"
            );
        }
        let _ = ca.kill();
        site.ca_arguments.push("--accept-clock".to_owned());
        site.start_ca();
        let node = site.join("n2");
        fetched(&node);
        let records = site.ca(&["audit", "list", "--output", "json"]).success().stdout;
        assert!(records.contains("clock"), "{by}: it is recorded: {records}");
    }
}
