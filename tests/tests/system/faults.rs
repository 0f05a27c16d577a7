//! The CA is killed, or its disk fails, at each step of what it does; strace provokes it. Then a new one looks at what
//! is left.

use std::{collections::BTreeSet, process::Command};

use bonafide_examples::process::Process;
use bonafide_tests::site::{Node, SOON, Site, user_selector};

/// The calls by which something becomes durable or visible.
const WRITES: &str = "fsync,fdatasync,rename,renameat,renameat2";

/// A site's CA under strace, with a fault for the `n`th of these calls (counted for each thread).
fn ca_with_fault(site: &Site, calls: &str, fault: &str) -> Process {
    let run = site.ca_run();
    // -D: the CA stays our child, strace stands aside.
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={calls}:{fault}")]);
    strace.arg(run.get_program()).args(run.get_args());
    strace.env("RUST_LOG", "info");
    Process::start("bonafide-ca under strace", &mut strace).expect("strace is needed: see tests/run")
}

/// F-01, I-08: the first start is killed at each call that makes something durable. The next start finds nothing or
/// everything, and is ready without anybody's help.
#[test]
fn f01_first_start_killed_at_each_write() {
    let mut killed = 0;
    for n in 1..60 {
        let mut site = Site::new();
        let mut ca = ca_with_fault(&site, WRITES, &format!("signal=SIGKILL:when={n}"));
        let ready = ca.ready("listen", SOON);
        if ready.is_ok() {
            // It came through: from here on the count hits what it does later, if anything.
            ca.kill().unwrap();
        } else {
            killed += 1;
        }
        site.start_ca();
        site.ca(&["audit", "verify"]).success();
        site.ca(&["node", "invite", "n1"]).success();
        site.stop_ca();
        if ready.is_ok() {
            break;
        }
    }
    assert!(killed >= 3, "the first start makes things durable: {killed}");
}

/// F-01, I-01..I-04: the CA is killed at each write of registry changes and issuances. What it acknowledged is there
/// afterwards, anything else is there whole or not at all, and the record is unbroken.
#[test]
fn f01_killed_at_each_write_of_changes_and_issuances() {
    let mut site = Site::started();
    let node = site.join("n1");
    site.add_program("hand", &site.programs.agent, &["--on", "n1", "--ttl", "10s"]);
    let mut acknowledged = BTreeSet::new();
    let mut deaths = 0;
    for round in 0..14 {
        site.stop_ca();
        // The start itself writes, too; these counts reach from there into the work.
        let mut ca = ca_with_fault(&site, WRITES, &format!("signal=SIGKILL:when={}", 1 + 2 * round));
        if ca.ready("listen", SOON).is_ok() {
            for change in 0..4 {
                let name = format!("s-{round}-{change}");
                let added = site.ca(&["service", "add", &name, "--selector", &user_selector(), "--on", "any"]);
                if added.code == 0 {
                    acknowledged.insert(name);
                }
                fetch(&node);
            }
        }
        deaths += usize::from(ca.kill().is_ok());
        site.start_ca();
        site.ca(&["audit", "verify"]).success();
        let services = site.ca(&["service", "list", "--output", "json"]).success().json();
        let services = services["services"].as_array().unwrap();
        let found: BTreeSet<_> = services
            .iter()
            .map(|one| one["spiffe_id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
            .collect();
        for name in &acknowledged {
            assert!(found.contains(name), "{name} was acknowledged and is gone");
        }
        for one in services {
            assert!(
                !one["selectors"].as_array().unwrap().is_empty() && !one["on"].as_array().unwrap().is_empty(),
                "{one}"
            );
        }
    }
    assert!(deaths > 0);
    // No serial number was given twice.
    let records = site.ca(&["audit", "list", "--output", "json"]).success().json();
    let mut serials = BTreeSet::new();
    for record in records["records"].as_array().unwrap() {
        if let Some(serial) = record["body"]["serial"].as_str() {
            assert!(serials.insert(serial.to_owned()), "serial {serial} stands there twice");
        }
    }
    assert!(!serials.is_empty(), "issuances are recorded: {records}");
}

fn fetch(node: &Node) {
    // Whether it succeeds depends on where the CA died; that it ends is what counts here.
    let _ = node.agent(&["fetch", "jwt", "--audience", "photo"]);
}

/// F-04, F-03: the disk refuses to make anything durable. The CA acknowledges nothing, says why, and what it had is
/// there when the disk works again.
#[test]
fn f04_the_disk_fails() {
    for (name, fault) in [("EIO", "error=EIO:when=1+"), ("ENOSPC", "error=ENOSPC:when=1+")] {
        let mut site = Site::started();
        site.add_service("before", &["--on", "any"]);
        site.stop_ca();
        let calls = if name == "EIO" { "fdatasync" } else { "pwrite64" };
        let mut ca = ca_with_fault(&site, calls, fault);
        if ca.ready("listen", SOON).is_ok() {
            let refused = site.ca(&["service", "add", "never", "--selector", &user_selector(), "--on", "any"]);
            assert_ne!(refused.code, 0, "{name}: nothing may be acknowledged: {}", refused.text());
        } else {
            let said = ca.printed().join("\n");
            assert!(!said.contains("panicked"), "{name}: {said}");
        }
        let _ = ca.kill();
        site.start_ca();
        site.ca(&["service", "show", "before"]).success();
        site.ca(&["service", "show", "never"]).exits(3);
        site.ca(&["audit", "verify"]).success();
    }
}
