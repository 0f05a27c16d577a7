//! What is taken away is gone at once: at the CA, on the node, at the workloads, and on open connections.

use bonafide_tests::site::{Site, eventually};

use crate::programs::{Load, Shop};

/// A removed service's process loses its identity, and its connections with it.
#[test]
fn t05_a_removed_service_loses_its_connections() {
    let site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "1h");
    let load = Load::start(&shop.web_address);
    load.until_answered(10);
    let began = std::time::Instant::now();
    site.ca(&["service", "remove", "web"]).success();
    load.until("calls that fail", |seen| !seen.failed.is_empty());
    assert!(began.elapsed().as_secs() < 10, "calls went on for {:?}", began.elapsed());
    drop(load);
    // Registered again, it is back without a restart.
    site.add_program("web", &site.programs.web, &["--on", "n1"]);
    eventually("the service is back", || shop.call().ok());
}

/// A removed node gets nothing new, its workloads are told, and its agent says what happened.
#[test]
fn t05_a_removed_node_is_cut_off() {
    let site = Site::started();
    let mut node = site.join("n1");
    let shop = Shop::open(&site, &node, "1h");
    site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
    node.agent(&["fetch", "x509"]).success();
    shop.call().unwrap();
    site.ca(&["node", "remove", "n1"]).success();
    eventually("calls fail", || shop.call().err());
    eventually("the hand tool gets nothing", || (node.agent(&["fetch", "x509"]).code != 0).then_some(()));
    let agent = node.agent.as_mut().unwrap();
    let said = agent.printed().join("\n");
    assert!(said.contains("removed"), "the agent says what happened: {said}");
    // Nothing on the node is good for coming back.
    let listed = site.ca(&["node", "list", "--output", "json"]).success().json();
    assert!(!listed.to_string().contains("\"live\""), "{listed}");
    // A new invitation is.
    node.kill();
    node.join(&site.invite("n1"));
    eventually("calls succeed again", || shop.call().ok());
}
