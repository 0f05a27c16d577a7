//! The main job as a person does it by hand, and what each command says.

use std::fs;

use bonafide_tests::site::{Ran, Site, eventually, user_selector};

use crate::programs::{PHOTO, Shop, WEB, copy_of, get, start_web};

/// CA, node, service, identity, written to files, looked at: the commands of the first page of the README.
/// (CORE-02; WEP-04: see the last lines.)
#[test]
fn a_ca_a_node_a_service_and_an_identity() {
    let site = Site::started();
    let node = site.join("n1");
    site.add_service("web", &["--on", "n1"]);
    let whoami = eventually("the service arrives", || {
        let whoami = node.agent(&["whoami", "--output", "json"]).success();
        whoami.stdout.contains(WEB).then_some(whoami)
    });
    let whoami = whoami.json();
    assert!(whoami["selectors"].as_array().unwrap().iter().any(|one| one == &user_selector()), "{whoami}");
    assert_eq!(whoami["services"][0]["spiffe_id"], WEB);

    let folder = node.path("fetched");
    node.agent(&["fetch", "x509", "--write", folder.to_str().unwrap()]).success();
    for (name, mode) in [("svid.pem", 0o644), ("svid.key", 0o600), ("bundle.pem", 0o644)] {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::metadata(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.permissions().mode() & 0o077 & !mode, 0, "{name} is open to others");
    }
    let svid = folder.join("svid.pem").display().to_string();
    let bundle = format!("example.org={}", folder.join("bundle.pem").display());
    let accepted = node.agent(&["inspect", &svid, "--bundle", &bundle, "--output", "json"]).success();
    assert!(accepted.stdout.contains(WEB), "{}", accepted.stdout);
    let late = ["inspect", &svid, "--bundle", &bundle, "--at", "2099-01-01T00:00:00Z", "--output", "json"];
    assert_eq!(node.agent(&late).exits(3).json()["reason"], "expired");
    let other = format!("other.org={}", folder.join("bundle.pem").display());
    node.agent(&["inspect", &svid, "--bundle", &other]).exits(3);
    site.ca(&["audit", "verify"]).success();
    let records = site.ca(&["audit", "list", "--output", "json"]).success().stdout;
    for what in ["n1", WEB] {
        assert!(records.contains(what), "the record names {what}: {records}");
    }
    // WEP-04: nothing of the agent listens on TCP.
    let agent = node.agent.as_ref().unwrap().id();
    assert_eq!(listeners(agent), [""; 0]);
    assert_eq!(listeners(site.ca.as_ref().unwrap().id()).len(), 1, "this test would see a listener");
}

/// The sockets of a process that listen on TCP.
fn listeners(pid: u32) -> Vec<String> {
    let tables: String = ["tcp", "tcp6"]
        .map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default())
        .concat();
    let listening: Vec<&str> = tables
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter_map(|fields| (fields.get(3) == Some(&"0A")).then(|| fields.get(9).copied()).flatten())
        .collect();
    // Our programs hide what they have open from everybody but root.
    let root = nix::unistd::geteuid().is_root();
    let words: &[&str] = if root { &["ls", "-l"] } else { &["sudo", "-n", "ls", "-l"] };
    let (program, arguments) = words.split_first().unwrap();
    let mut list = std::process::Command::new(program);
    let open = Ran::of(list.args(arguments).arg(format!("/proc/{pid}/fd"))).success().stdout;
    listening.iter().map(|inode| format!("socket:[{inode}]")).filter(|socket| open.contains(socket.as_str())).collect()
}

/// Two services know each other by name and refuse everyone else.
/// (CORE-01)
#[test]
fn two_services_talk_and_refuse_everyone_else() {
    let site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "1h");
    let answer = shop.call().unwrap();
    assert_eq!((answer["from"].as_str(), answer["for"].as_str()), (Some(PHOTO), Some(WEB)));

    // A program with another identity, which photo does not take.
    let batch = copy_of(&site.programs.web, site.path("batch"));
    site.add_program("batch", &batch, &["--on", "n1"]);
    let (_batch, address) = start_web(&node, &batch, &shop.photo_address, PHOTO);
    get(&address).expect_err("photo takes web and nobody else");

    // A caller that expects another server.
    let (_web, address) = start_web(&node, &site.programs.web, &shop.photo_address, "spiffe://example.org/other");
    get(&address).expect_err("web expects somebody else");

    // A program without any identity, told what was seen of it.
    let refused = node.agent(&["fetch", "x509"]).exits(3);
    assert!(
        refused.text().contains("no service on this node matches") && refused.text().contains("whoami"),
        "{}",
        refused.text()
    );
    shop.call().unwrap();
}

/// Exit codes: 2 for what was typed wrong, 3 for a refusal, 4 for nobody there.
#[test]
fn exit_codes_tell_whose_fault_it_is() {
    let site = Site::started();
    let node = site.node("n1");
    site.ca(&["service", "add", "web", "--no-such-flag"]).exits(2);
    site.ca(&["service", "add", "web", "--selector", &user_selector()]).exits(2);
    site.ca(&["service", "add", "bonafide/x", "--selector", &user_selector(), "--on", "any"]).exits(2);
    site.ca(&["service", "show", "nobody"]).exits(3);
    node.agent(&["fetch", "x509"]).exits(4);
    let mut nowhere = std::process::Command::new(&site.programs.ca);
    Ran::of(nowhere.args(["node", "list", "--data"]).arg(site.path("nowhere"))).exits(4);
    let mut wrong = site.node("n2");
    fs::write(wrong.path("invitation"), "no invitation at all").unwrap();
    Ran::of(wrong.agent_run().arg("--join-file").arg(wrong.path("invitation"))).exits(2);
    wrong.stop();
}
