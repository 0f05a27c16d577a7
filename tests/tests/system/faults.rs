//! The CA is killed, or its disk fails, at each step of what it does; strace provokes it. Then a new one looks at what
//! is left.

use std::{collections::BTreeSet, process::Command, time::Duration};

use aws_lc_rs::digest;
use bonafide_examples::process::Process;
use bonafide_tests::site::{Node, Ran, SOON, Site, user_selector};
use data_encoding::HEXLOWER;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The calls by which something becomes durable or visible.
const WRITES: &str = "fsync,fdatasync,rename,renameat,renameat2";
/// The calls by which something is told to somebody.
const WORDS: &str = "write,writev,sendto,sendmsg";

/// A site's CA under strace, with a fault for the `n`th of these calls (counted for each thread).
fn ca_with_fault(site: &Site, calls: &str, fault: &str) -> Process {
    let run = site.ca_run();
    // -D: the CA stays our child, strace stands aside.
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={calls}:{fault}")]);
    strace.arg(run.get_program()).args(run.get_args());
    strace.env("BONAFIDE_LOG_LEVEL", "info");
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

/// F-01, I-01..I-04: the CA is killed at each write of registry changes and issuances, and at each word to those who asked for
/// them. What it acknowledged is there afterwards, anything else is there whole or not at all, the record is unbroken, and
/// nothing was ever handed out without one.
#[test]
fn f01_killed_at_each_write_of_changes_and_issuances() {
    let mut site = Site::started();
    let node = site.join("n1");
    site.add_program("hand", &site.programs.agent, &["--on", "n1", "--ttl", "10s"]);
    let (mut acknowledged, mut handed_out) = (BTreeSet::new(), BTreeSet::new());
    let mut deaths = 0;
    // The start itself writes, too; these counts reach from there into the work.
    let kills = [(WRITES, 1, 3, 9), ("pwrite64", 4, 7, 6), (WORDS, 3, 4, 6)];
    let kills = kills.into_iter().flat_map(|(calls, first, step, times)| {
        (0..times).map(move |time| (calls, format!("signal=SIGKILL:when={}", first + step * time)))
    });
    for (round, (calls, fault)) in kills.enumerate() {
        site.stop_ca();
        let mut ca = ca_with_fault(&site, calls, &fault);
        if ca.ready("listen", SOON).is_ok() {
            for change in 0..4 {
                let name = format!("s-{round}-{change}");
                let added = site.ca(&["service", "add", &name, "--selector", &user_selector(), "--on", "any"]);
                if added.code != 0 {
                    break;
                }
                handed_out.extend(fetched(&node, &name));
                acknowledged.insert(name);
            }
        }
        deaths += usize::from(ca.ended(Duration::from_millis(100)).is_ok());
        let _ = ca.kill();
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
    assert!(deaths >= 8, "{deaths} of the kills hit");
    let (mut serials, mut recorded) = (BTreeSet::new(), BTreeSet::new());
    for line in site.ca(&["audit", "export"]).success().stdout.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        recorded.extend(record["body"]["tbs"].as_str().map(str::to_owned));
        if let Some(serial) = record["body"]["serial"].as_str() {
            assert!(serials.insert(serial.to_owned()), "serial {serial} stands there twice");
        }
    }
    assert!(handed_out.len() > 10, "documents were handed out: {}", handed_out.len());
    for tbs in handed_out {
        assert!(recorded.contains(&tbs), "a document was handed out that has no record: {tbs}");
    }
}

/// What a token and the present certificates of a node's workload were signed over, by its SHA-256. Whether there are any depends
/// on where the CA died.
pub(crate) fn fetched(node: &Node, audience: &str) -> Vec<String> {
    let mut signed = Vec::new();
    let jwt = node.agent(&["fetch", "jwt", "--audience", audience, "--output", "json"]);
    for svid in answered(&jwt) {
        let token = svid["token"].as_str().unwrap();
        signed.push(sha256(token.rsplit_once('.').unwrap().0.as_bytes()));
    }
    for svid in answered(&node.agent(&["fetch", "x509", "--output", "json"])) {
        let pem = svid["chain_pem"].as_str().unwrap();
        let der = CertificateDer::pem_slice_iter(pem.as_bytes()).next().unwrap().unwrap();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        signed.push(sha256(leaf.tbs_certificate.as_ref()));
    }
    signed
}

fn answered(ran: &Ran) -> Vec<Value> {
    if ran.code == 0 { ran.json()["svids"].as_array().unwrap().clone() } else { Vec::new() }
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
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
