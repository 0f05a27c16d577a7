//! The power goes (F-02): whatever was acknowledged is there afterwards, from what the disk was asked to make durable alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bonafide_examples::process::Process;
use bonafide_tests::{
    power_cut::{Disk, Event, Unsynced, by_root, events, traced},
    site::{Node, SOON, Site, eventually, user_selector},
};
use serde_json::Value;

use crate::{
    faults::fetched,
    minting::{Edge, records},
    tokens::claims,
};

/// Something that somebody was told, and when: from then on it must be true after a cut.
struct Told {
    at: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Root(String),
    Service(&'static str),
    Removed(&'static str),
    Node(&'static str),
    Documents(Vec<String>),
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

/// The moments to cut the power at: just before and just after a call that changes what a cut leaves, spread over the trace.
fn moments(events: &[Event], most: usize) -> Vec<usize> {
    let turns: BTreeSet<usize> =
        events.iter().enumerate().filter(|(_, event)| event.is_turn()).flat_map(|(at, _)| [at, at + 1]).collect();
    let step = turns.len().div_ceil(most).max(1);
    let last = events.len();
    turns.into_iter().rev().step_by(step).chain([last]).collect()
}

/// A CA under strace, from its first start over changes and issuances to its end. The power is cut at moments all along the
/// way; a CA that starts from what is left then has what was told to anybody before, in an unbroken record, and goes on.
/// (I-01, I-04)
#[test]
fn f02_what_a_ca_has_acknowledged_survives_a_power_cut() {
    if !by_root() {
        return;
    }
    let mut site = Site::new();
    let trace = site.path("trace-of-ca");
    site.start_ca_by(|run| traced(&run, &trace));
    let mut told = Vec::new();
    let mut tell = |what| told.push(Told { at: now(), what });
    let root = site.ca(&["status", "--output", "json"]).success().json()["root_sha256"].as_str().unwrap().to_owned();
    tell(What::Root(root));
    let node = site.join("n1");
    tell(What::Node("n1"));
    site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
    tell(What::Service("hand"));
    let documents = eventually("documents", || Some(fetched(&node, "a")).filter(|all| all.len() == 2));
    tell(What::Documents(documents));
    site.add_service("short-lived", &["--on", "any"]);
    site.ca(&["service", "remove", "short-lived"]).success();
    tell(What::Removed("short-lived"));
    tell(What::Documents(fetched(&node, "b")));
    site.stop_ca();

    let events = events(&trace, &site_root(&site)).unwrap();
    assert!(events.len() > 100, "the CA wrote down what it did: {}", events.len());
    for (index, cut) in moments(&events, 20).into_iter().enumerate() {
        let (before, after) = events.split_at(cut);
        let at = after.first().map_or(u64::MAX, |next| next.at);
        let seed = u64::try_from(index).unwrap();
        for unsynced in [Unsynced::Lost, Unsynced::ByChance(seed)] {
            let mut next = Site::new();
            Disk::after(before).cut(unsynced, &site_root(&next)).unwrap();
            next.start_ca();
            let what = format!("cut after {cut} of {} changes, {unsynced:?}", events.len());
            check(&next, told.iter().filter(|told| told.at < at), &what);
            next.stop_ca();
        }
    }
}

fn site_root(site: &Site) -> PathBuf {
    site.path("ca").parent().unwrap().to_owned()
}

fn check<'a>(site: &Site, told: impl Iterator<Item = &'a Told>, when: &str) {
    site.ca(&["audit", "verify"]).success();
    let json = |arguments: &[&str]| site.ca(arguments).success().json();
    let services = json(&["service", "list", "--output", "json"]).to_string();
    let nodes = json(&["node", "list", "--output", "json"]);
    let exported = site.ca(&["audit", "export"]).success().stdout;
    let listed = |name: &str| services.contains(&format!("spiffe://example.org/{name}\""));
    for told in told {
        match &told.what {
            What::Root(root) => {
                let found = json(&["status", "--output", "json"]);
                assert_eq!(found["root_sha256"].as_str(), Some(root.as_str()), "{when}: another root");
            }
            What::Node(name) => {
                let live = |node: &Value| node["name"] == *name && node["state"] == "live";
                assert!(nodes["nodes"].as_array().unwrap().iter().any(live), "{when}: {name} is gone: {nodes}");
            }
            What::Documents(all) => {
                let missing = all.iter().find(|document| !exported.contains(document.as_str()));
                assert_eq!(missing, None, "{when}: a document was handed out that has no record");
            }
            What::Service(name) => assert!(listed(name), "{when}: service {name} was acknowledged and is gone"),
            What::Removed(name) => assert!(!listed(name), "{when}: service {name} was removed and is back"),
        }
    }
    site.ca(&["service", "add", "after", "--selector", &user_selector(), "--on", "any"]).success();
}

/// A node that has joined, its agent under strace, and the string that it joined with.
fn join_traced(site: &Site, trace: &Path) -> (Node, String) {
    let mut node = site.node("n1");
    let invitation = site.invite("n1");
    let file = node.path("invitation");
    fs::write(&file, &invitation).unwrap();
    let mut run = node.agent_run();
    run.arg("--join-file").arg(&file);
    let agent = Process::start("bonafide-agent under strace", &mut traced(&run, trace)).unwrap();
    agent.ready("node", SOON).unwrap_or_else(|error| panic!("{error}"));
    node.agent = Some(agent);
    (node, invitation)
}

/// A CA as it was after these changes, where the agent looks for it, and the node whose power was cut after those, not started.
fn after_cut<'a>(
    site: &Site,
    of_ca: impl Iterator<Item = &'a Event>,
    of_agent: impl IntoIterator<Item = &'a Event>,
    unsynced: Unsynced,
) -> (Site, Node) {
    let mut next = Site::new();
    next.ca_arguments.clone_from(&site.ca_arguments);
    next.listen.clone_from(&site.listen);
    Disk::after(of_ca).cut(Unsynced::Kept, &site_root(&next)).unwrap();
    next.start_ca();
    let node = next.node("n1");
    let home = next.path("node-n1");
    fs::remove_dir_all(&home).unwrap();
    Disk::after(of_agent).cut(unsynced, &home).unwrap();
    fs::create_dir_all(home.join("run")).unwrap();
    (next, node)
}

/// An agent under strace that joins and renews its node key. The power of its machine is cut at moments all along the way;
/// its CA stays. Started again with the same string, it is in, by whatever key it has: it never used one that it could lose.
/// (I-03)
#[test]
fn f02_an_agent_never_loses_a_key_that_the_ca_knows() {
    if !by_root() {
        return;
    }
    let mut site = Site::new();
    // The node's certificate is renewed after four or five seconds.
    site.ca_arguments = ["--node-ttl", "10s"].map(str::to_owned).to_vec();
    let (trace_of_ca, trace_of_agent) = (site.path("trace-of-ca"), site.path("trace-of-agent"));
    site.start_ca_by(|run| traced(&run, &trace_of_ca));
    let (mut node, invitation) = join_traced(&site, &trace_of_agent);
    eventually("a second key comes into use", || {
        let kinds = site.ca(&["audit", "list", "--kind", "node-key-activated", "--output", "json"]).success().json();
        (!kinds["records"].as_array().unwrap().is_empty()).then_some(())
    });
    node.stop();
    site.stop_ca();

    let of_ca = events(&trace_of_ca, &site_root(&site)).unwrap();
    let of_agent = events(&trace_of_agent, &site.path("node-n1")).unwrap();
    assert!(of_agent.len() > 30, "the agent wrote down what it has, more than once: {of_agent:?}");
    for (index, cut) in moments(&of_agent, 20).into_iter().enumerate() {
        let (before, after) = of_agent.split_at(cut);
        let at = after.first().map_or(u64::MAX, |next| next.at);
        let unsynced = if index % 2 == 0 { Unsynced::Lost } else { Unsynced::ByChance(u64::try_from(index).unwrap()) };
        let when = format!("cut after {cut} of {} changes, {unsynced:?}", of_agent.len());
        println!("{when}");
        let (mut next, mut again) = after_cut(&site, of_ca.iter().take_while(|event| event.at < at), before, unsynced);
        again.join(&invitation);
        let shown = next.ca(&["node", "show", "n1", "--output", "json"]).success().json();
        assert_eq!(shown["state"], "live", "{when}: {shown}");
        again.stop();
        next.stop_ca();
    }
}

/// An agent under strace mints for an edge, and its CA collects what it has minted. The power of the agent's machine is cut at moments all along the way; its CA
/// stays. What the CA has is in the log that is left, so the two go on together, and of the tokens that left only those since the last sync may be in
/// no record. (I-01)
#[tokio::test(flavor = "multi_thread")]
async fn f02_a_power_cut_takes_the_last_moment_of_a_mint_log_and_no_more() {
    if !by_root() {
        return;
    }
    let mut site = Site::new();
    let (trace_of_ca, trace_of_agent) = (site.path("trace-of-ca"), site.path("trace-of-agent"));
    site.start_ca_by(|run| traced(&run, &trace_of_ca));
    site.add_service("export", &["--on", "n1", "--edge-scope", "export.run"]);
    let (mut node, invitation) = join_traced(&site, &trace_of_agent);
    let edge = Edge::at(&node).await;
    let mut left = vec![(edge.mint_soon().await, now())];
    // For longer than a record may be on its way, and than the CA lets some of them gather.
    while now() < left[0].1 + 4_000_000 {
        let _ = tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>()).await;
        left.push((edge.mint().await.unwrap(), now()));
    }
    eventually("all are collected", || (records(&site, "token-minted").len() == left.len()).then_some(()));
    drop(edge);
    node.stop();
    site.stop_ca();

    let of_ca = events(&trace_of_ca, &site_root(&site)).unwrap();
    let of_agent = events(&trace_of_agent, &site.path("node-n1")).unwrap();
    let minting = left[0].1..left[left.len() - 1].1;
    let synced =
        of_agent.iter().filter(|event| event.is_sync_of("data/mint.log") && minting.contains(&event.at)).count();
    assert!(synced > 5, "{synced} syncs for {} tokens", left.len());
    // Around what the agent makes durable, and just when the CA has taken records.
    let moment = |cut: usize| of_agent.get(cut).map_or(u64::MAX, |next| next.at);
    let taken = of_ca.iter().filter(|event| event.is_turn() && minting.contains(&event.at)).map(|event| event.at + 1);
    let cuts: BTreeSet<u64> = moments(&of_agent, 10).into_iter().map(moment).chain(taken).collect();
    assert!(cuts.iter().filter(|at| minting.contains(at)).count() > 5, "{cuts:?}");
    for (index, at) in cuts.into_iter().enumerate() {
        let before = of_agent.iter().take_while(|event| event.at < at);
        let unsynced = if index % 4 == 0 { Unsynced::Kept } else { Unsynced::Lost };
        let when = format!("cut at {at}, {unsynced:?}");
        println!("{when}");
        let (mut next, mut again) = after_cut(&site, of_ca.iter().take_while(|event| event.at < at), before, unsynced);
        again.join(&invitation);
        let goes_on = Edge::at(&again).await.mint_soon().await;
        let txn = |token: &str| claims(token)["txn"].as_str().unwrap().to_owned();
        let recorded = eventually("what is minted now is collected", || {
            let recorded = records(&next, "token-minted").iter().map(ToString::to_string).collect::<String>();
            recorded.contains(&txn(&goes_on)).then_some(recorded)
        });
        let synced = of_agent.iter().rfind(|event| event.at < at && event.is_sync_of("data/mint.log"));
        for (token, _) in left.iter().filter(|(_, told)| synced.is_some_and(|synced| *told < synced.at)) {
            assert!(recorded.contains(&txn(token)), "{when}: a token that left before the last sync has no record");
        }
        assert!(records(&next, "mint-log-broken").is_empty(), "{when}");
        next.ca(&["audit", "verify"]).success();
        again.stop();
        next.stop_ca();
    }
}
