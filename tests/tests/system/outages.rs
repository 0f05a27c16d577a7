//! The CA or the agent goes away, in each of the ways they do, and comes back.

use std::{fs, thread, time::Duration};

use bonafide_tests::{
    proxy::{Proxy, Weather},
    site::{Site, eventually},
};
use nix::sys::signal::Signal;

use crate::programs::{Load, Shop};

/// F-01, F-09: the CA is killed under load and started again; nobody who calls notices, and the record is whole.
#[test]
fn f01_ca_killed_and_restarted_under_load() {
    let mut site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "10s");
    let load = Load::start(&shop.web_address);
    load.until_renewed(1);
    site.kill_ca();
    load.until_answered(50);
    site.start_ca();
    load.until_renewed(2);
    load.none_failed();
    site.ca(&["audit", "verify"]).success();
}

/// F-09: away for half of a certificate's life, from the moment that hurts most: just before a renewal.
#[test]
fn f09_ca_away_for_half_a_lifetime() {
    let mut site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "40s");
    let load = Load::start(&shop.web_address);
    load.until_answered(10);
    site.stop_ca();
    // Half of 40 s, less the time that stopping and starting take on a machine that does much else.
    let began = std::time::Instant::now();
    load.until("16 s of calls", |_| began.elapsed() > Duration::from_secs(16));
    site.start_ca();
    load.until_renewed(1);
    load.none_failed();
}

/// F-09, I-09, I-10: away for so long that everything expires. Calls fail then, health says so, and all is well again
/// by itself once the CA is back.
#[test]
fn f09_ca_away_until_everything_has_expired() {
    let mut site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "10s");
    shop.call().unwrap();
    site.kill_ca();
    let load = Load::start(&shop.web_address);
    load.until("a call that fails", |seen| !seen.failed.is_empty());
    drop(load);
    let status = node.agent(&["status", "--output", "json"]).success().json();
    let health = status["health"].as_array().unwrap();
    assert!(health.iter().any(|part| part["state"] != "ready"), "health should say so: {status}");
    site.start_ca();
    let began = std::time::Instant::now();
    eventually("calls succeed again", || shop.call().ok());
    assert!(began.elapsed() < Duration::from_secs(35), "{:?} until all was well again", began.elapsed());
}

/// F-10: with the CA down, the agent is killed and started again, and serves the same workloads the same certificates
/// at once, from its memory-backed state.
#[test]
fn f10_agent_killed_while_the_ca_is_down() {
    let mut site = Site::started();
    let mut node = site.join("n1");
    let shop = Shop::open(&site, &node, "2m");
    site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
    let folder = node.path("fetched");
    let fetch = |node: &bonafide_tests::site::Node| {
        node.agent(&["fetch", "x509", "--write", folder.to_str().unwrap()]).success();
        fs::read_to_string(folder.join("svid.pem")).unwrap()
    };
    let before = fetch(&node);
    let load = Load::start(&shop.web_address);
    load.until_answered(10);
    site.kill_ca();
    node.kill();
    node.start();
    if swap_is_on() {
        // Then nothing is kept, and it must say so.
        let status = node.agent(&["status", "--output", "json"]).success().json();
        assert!(!status["notes"].as_array().unwrap().is_empty(), "{status}");
    } else {
        assert_eq!(fetch(&node), before, "the certificate from before");
    }
    load.until_answered(100);
    load.none_failed();
    site.start_ca();
    eventually("the agent finds the CA again", || {
        let status = node.agent(&["status", "--output", "json"]).success().json();
        status["ca_address"].as_str().filter(|address| !address.is_empty()).map(drop)
    });
}

fn swap_is_on() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// F-07: a process that is paused goes on where it was: the agent renews at once, the CA serves.
#[test]
fn f07_processes_are_paused_and_go_on() {
    let site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "10s");
    let load = Load::start(&shop.web_address);
    load.until_renewed(1);
    for process in [site.ca.as_ref().unwrap(), node.agent.as_ref().unwrap()] {
        process.signal(Signal::SIGSTOP).unwrap();
        // The pause itself; it is the one thing here that no event tells.
        thread::sleep(Duration::from_secs(4));
        process.signal(Signal::SIGCONT).unwrap();
        load.until_renewed(1);
    }
    load.none_failed();
}

/// F-11: the network between agent and CA loses everything without closing a connection. The agent notices, and comes
/// back by itself when the network does.
#[test]
fn f11_the_network_between_agent_and_ca_is_parted() {
    let proxy = Proxy::start().unwrap();
    let mut site = Site::new();
    site.ca_arguments = vec!["--advertise".to_owned(), proxy.address().to_string()];
    site.start_ca();
    proxy.set_target(&site.listen);
    let node = site.join("n1");
    let connected = || {
        let status = node.agent(&["status", "--output", "json"]).success().json();
        status["ca_address"].as_str().is_some_and(|address| !address.is_empty())
    };
    eventually("the agent is connected", || connected().then_some(()));
    proxy.set(Weather::Lost);
    let began = std::time::Instant::now();
    eventually("the agent notices", || (!connected()).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(40), "noticed after {:?}", began.elapsed());
    proxy.set(Weather::Fair);
    eventually("the agent is connected again", || connected().then_some(()));
    site.add_service("late", &["--on", "n1"]);
    eventually("what changes now arrives", || {
        let whoami = node.agent(&["whoami"]);
        whoami.text().contains("spiffe://example.org/late").then_some(())
    });
}

/// T-01, I-03: the CA redeems an invitation and its answer is lost. The agent asks again with the same key, and is in.
#[test]
fn t01_the_answer_to_a_join_is_lost() {
    let proxy = Proxy::start().unwrap();
    let mut site = Site::new();
    site.ca_arguments = vec!["--advertise".to_owned(), proxy.address().to_string()];
    site.start_ca();
    proxy.set_target(&site.listen);
    let invitation = site.invite("n1");
    let mut node = site.node("n1");
    thread::scope(|scope| {
        scope.spawn(|| {
            // Replies of the handshake pass; once the CA has bound the invitation, everything else is lost.
            eventually("the invitation is bound", || {
                let nodes = site.ca(&["node", "list", "--output", "json"]).success().stdout;
                (nodes.contains("bound_at") || nodes.contains("live")).then_some(())
            });
            proxy.set(Weather::Cut);
            thread::sleep(Duration::from_secs(1));
            proxy.set(Weather::Fair);
        });
        node.join(&invitation);
    });
    // The same string is worth nothing to another key.
    let mut thief = site.node("thief");
    fs::write(thief.path("invitation"), &invitation).unwrap();
    let refused = bonafide_tests::site::Ran::of(thief.agent_run().arg("--join-file").arg(thief.path("invitation")));
    let refused = refused.exits(3);
    assert!(refused.text().contains("node invite"), "it names the command that mends it: {}", refused.text());
    thief.stop();
}

/// F-23: a second CA on the same directory is refused and told who has it; the first goes on.
#[test]
fn f23_two_cas_on_one_directory() {
    let site = Site::started();
    let mut second = site.ca_run();
    second.args(["--listen", "127.0.0.1:0"]);
    let refused = bonafide_tests::site::Ran::of(&mut {
        let mut command = std::process::Command::new(&site.programs.ca);
        command.args(["run", "--trust-domain", "example.org", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(site.path("ca"));
        command
    });
    assert_ne!(refused.code, 0);
    let pid = site.ca.as_ref().unwrap().id().to_string();
    assert!(refused.text().contains(&pid), "it names the process that has it: {}", refused.text());
    site.ca(&["status"]).success();
}

/// F-21: asked to end under load, CA and agent end within ten seconds with exit code 0.
#[test]
fn f21_asked_to_end_under_load() {
    let mut site = Site::started();
    let mut node = site.join("n1");
    let shop = Shop::open(&site, &node, "10s");
    let load = Load::start(&shop.web_address);
    load.until_answered(10);
    let began = std::time::Instant::now();
    site.stop_ca();
    assert!(began.elapsed() < Duration::from_secs(11), "the CA took {:?}", began.elapsed());
    let began = std::time::Instant::now();
    node.stop();
    assert!(began.elapsed() < Duration::from_secs(11), "the agent took {:?}", began.elapsed());
    load.none_failed();
}
