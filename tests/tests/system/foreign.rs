//! Programs that nobody here wrote, unchanged: go-spiffe, the Python and the Rust `spiffe` packages, openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_examples::process::Process;
use bonafide_tests::{
    browser::Browser,
    oidc_provider::{ALICE, CHARLIE, OidcProvider},
    repository,
    site::{Node, Ran, SOON, Site, eventually},
};
use serde_json::Value;
use spiffe::{JwtSource, JwtSvid, TrustDomain, X509Source, bundle::BundleSource};

use crate::programs::{PHOTO, WEB, get, openssl, start_photo, start_web};

const PEER: &str = "spiffe://example.org/peer";

/// The go-spiffe program, built from its locked modules.
fn go_client() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let root = repository::root();
            let program = root.join("target/foreign/go-client");
            let mut go = Command::new("go");
            go.args(["build", "-o"]).arg(&program).arg(".").current_dir(root.join("tests/foreign/go"));
            // Compiling may take longer than anything else that is waited for.
            let built = go.output().expect("Go is needed: see tests/run");
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            program
        })
        .clone()
}

/// The Python interpreter that has the `spiffe` package.
fn python_client(node: &Node) -> Command {
    let root = repository::root();
    let python = root.join("target/foreign/python/bin/python");
    assert!(python.exists(), "the Python package is installed by tests/run");
    let mut command = node.workload(python);
    command.arg(root.join("tests/foreign/python/client.py"));
    command
}

/// A site with a node on which every process of this user is `peer`, with short-lived certificates.
fn site(ttl: &str) -> (Site, Node) {
    let site = Site::started();
    let node = site.join("n1");
    site.add_service("peer", &["--on", "n1", "--ttl", ttl, "--jwt-ttl", "1m"]);
    (site, node)
}

fn events(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What every foreign client must have got by asking once.
fn check_fetched(ran: &Ran) {
    let events = events(&ran.stdout);
    let of =
        |name: &str| events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("{name}: {ran:?}"));
    assert_eq!(of("x509")["ids"], serde_json::json!([PEER]));
    assert_eq!(of("x509")["trust_domains"], serde_json::json!(["example.org"]));
    assert_eq!(of("x509-bundles")["trust_domains"], 1);
    assert!(!of("jwt-bundles")["keys"]["example.org"].as_array().unwrap().is_empty());
    let jwt = of("jwt");
    assert_eq!((&jwt["id"], &jwt["agent_says"]), (&PEER.into(), &PEER.into()));
    assert_eq!((&jwt["audience"], &jwt["wrong_audience_refused"]), (&serde_json::json!(["photo"]), &true.into()));
}

/// Waits until a watching client has seen three certificates of the same identity, each ending later than the one before.
fn check_watched(watching: &Process) {
    let mut ends: Vec<i64> = Vec::new();
    let mut keys = false;
    let seen = watching.wait_for("see two renewals", 2 * SOON, |line| {
        let event: Value = serde_json::from_str(line).ok()?;
        keys |= event["event"] == "jwt-bundles";
        if event["event"] == "x509" {
            assert_eq!(event["ids"], serde_json::json!([PEER]));
            ends.push(event["not_after"].as_i64().unwrap());
            ends.dedup();
        }
        (ends.len() >= 3 && keys).then(|| ends.clone())
    });
    let ends = seen.unwrap_or_else(|error| panic!("{error}"));
    assert!(ends.is_sorted(), "{ends:?}");
}

/// WAPI-01, WAPI-04..06, WAPI-14..16, WAPI-21..23, WAPI-25..29: go-spiffe fetches and watches everything.
#[test]
fn go_spiffe_fetches_and_watches() {
    let (_site, node) = site("10s");
    check_fetched(&Ran::of(node.workload(go_client()).args(["fetch", "photo"])).success());
    let watching = Process::start("go-spiffe", node.workload(go_client()).arg("watch")).unwrap();
    check_watched(&watching);
}

/// WAPI-01, WAPI-04..06, WAPI-14..16, WAPI-21..23, WAPI-25..29: the Python package fetches and watches everything.
#[test]
fn python_spiffe_fetches_and_watches() {
    let (_site, node) = site("10s");
    check_fetched(&Ran::of(python_client(&node).args(["fetch", "photo"])).success());
    let watching = Process::start("python spiffe", python_client(&node).arg("watch")).unwrap();
    check_watched(&watching);
}

/// WAPI-01, WAPI-04..06, WAPI-14..16, WAPI-21..23, WAPI-25..29: the Rust package fetches and watches everything.
#[tokio::test(flavor = "multi_thread")]
async fn rust_spiffe_fetches_and_watches() {
    let (_site, node) = tokio::task::spawn_blocking(|| site("10s")).await.unwrap();

    let source = tokio::time::timeout(SOON, X509Source::builder().endpoint(node.endpoint()).build());
    let source = source.await.expect("an X.509 source in time").unwrap();
    let domain = TrustDomain::new("example.org").unwrap();
    let mut ends = Vec::new();
    let mut updates = source.updated();
    while ends.len() < 3 {
        let svid = source.svid().unwrap();
        assert_eq!(svid.spiffe_id().to_string(), PEER);
        assert!(source.bundle_set().unwrap().bundle_for_trust_domain(&domain).unwrap().is_some());
        ends.push(svid.leaf().as_ref().to_vec());
        ends.dedup();
        tokio::time::timeout(2 * SOON, updates.changed()).await.expect("a renewal in time").unwrap();
    }
    let tokens = tokio::time::timeout(SOON, JwtSource::builder().endpoint(node.endpoint()).build());
    let tokens = tokens.await.expect("a JWT source in time").unwrap();
    let token = tokens.fetch_jwt_svid(["photo"]).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), PEER);
    let bundles = tokens.bundle_set().unwrap();
    JwtSvid::parse_and_validate(token.token(), &*bundles, &["photo"]).unwrap();
    JwtSvid::parse_and_validate(token.token(), &*bundles, &["bank"]).unwrap_err();
    assert!(bundles.bundle_for_trust_domain(&domain).unwrap().is_some());
}

/// A go-spiffe TLS client and our server, T-04: accepted by name, with no session to resume; refused by the wrong one.
#[test]
fn go_spiffe_client_and_our_server() {
    let (site, node) = site("1h");
    site.add_program("photo", &site.programs.photo, &["--on", "n1", "--hint", "photo"]);
    site.ca(&["service", "remove", "peer"]).success();
    site.add_program("peer", &go_client(), &["--on", "n1"]);
    let (_photo, address) = start_photo(&site, &node, PEER);
    let url = format!("https://{address}/photos/7");
    let answered = Ran::of(node.workload(go_client()).args(["get", &url, PHOTO])).success();
    let answers = events(&answered.stdout);
    assert_eq!(answers.len(), 2, "{answered:?}");
    for answer in answers {
        assert_eq!(
            (&answer["status"], &answer["server"], &answer["resumed"]),
            (&200.into(), &PHOTO.into(), &false.into())
        );
        assert!(answer["body"].as_str().unwrap().contains(PEER), "our server knew its name: {answer}");
    }
    Ran::of(node.workload(go_client()).args(["get", &url, WEB])).exits(1);
    let (_other, address) = start_photo(&site, &node, WEB);
    Ran::of(node.workload(go_client()).args(["get", &format!("https://{address}/photos/7"), PHOTO])).exits(1);
}

/// Our client and a go-spiffe TLS server: accepted by name, refused by the wrong one on either side.
#[test]
fn our_client_and_go_spiffe_server() {
    let site = Site::started();
    let node = site.join("n1");
    site.add_program("web", &site.programs.web, &["--on", "n1"]);
    site.add_program("peer", &go_client(), &["--on", "n1"]);
    let serve = |allowed: &str| {
        let server = Process::start("go-spiffe server", node.workload(go_client()).args(["serve", allowed])).unwrap();
        let address = server.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
        (server, address)
    };
    let (_server, address) = serve(WEB);
    let (_web, front) = start_web(&node, &site.programs.web, &address, PEER);
    // Its answer is no JSON, which our client tells; that it came is what counts.
    let answer = eventually("an answer", || get(&front).err());
    assert!(!answer.contains("Connect"), "{answer}");
    let (_web, front) = start_web(&node, &site.programs.web, &address, PHOTO);
    assert!(get(&front).unwrap_err().contains("Connect"), "a server of another name is refused");
    let (_server, address) = serve(PHOTO);
    let (_web, front) = start_web(&node, &site.programs.web, &address, PEER);
    get(&front).expect_err("go-spiffe takes photo alone");
}

/// What the hand tool writes, for openssl.
struct Files {
    svid: String,
    key: String,
    bundle: String,
}

fn fetch(node: &Node, name: &str) -> Files {
    let folder = node.path(name);
    node.agent(&["fetch", "x509", "--write", folder.to_str().unwrap()]).success();
    let file = |name: &str| folder.join(name).display().to_string();
    Files { svid: file("svid.pem"), key: file("svid.key"), bundle: file("bundle.pem") }
}

/// `openssl verify` accepts the chain for both purposes, and refuses it below another root and after its end.
#[test]
fn openssl_verifies_the_chain() {
    let (_site, node) = site("1h");
    let files = fetch(&node, "fetched");
    let verify = |bundle: &str, further: &[&str]| {
        let mut command = openssl(&["verify", "-x509_strict", "-CAfile", bundle, "-untrusted", &files.svid]);
        Ran::of(command.args(further).arg(&files.svid))
    };
    verify(&files.bundle, &["-purpose", "sslserver"]).success();
    verify(&files.bundle, &["-purpose", "sslclient"]).success();
    let later = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + Duration::from_secs(7200);
    assert_ne!(verify(&files.bundle, &["-attime", &later.as_secs().to_string()]).code, 0);
    let (_other_site, other_node) = site("1h");
    let other = fetch(&other_node, "fetched");
    assert_ne!(verify(&other.bundle, &[]).code, 0, "a root of the same name and another key");
    let text = Ran::of(&mut openssl(&["x509", "-noout", "-text", "-in", &files.svid])).success().stdout;
    for expected in
        [&format!("URI:{PEER}"), "Digital Signature", "TLS Web Server Authentication, TLS Web Client Authentication"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

/// `openssl s_client` and our server, T-04, T-26: in with the caller's certificate, whatever the server name; out
/// without one, with another, and with an old protocol; and no ticket is given.
#[test]
fn openssl_s_client_and_our_server() {
    let (site, node) = site("1h");
    site.add_program("photo", &site.programs.photo, &["--on", "n1"]);
    // The service with more selectors is photo's; the hand tool is peer.
    let files = fetch(&node, "fetched");
    let (_photo, address) = start_photo(&site, &node, PEER);
    let ask = |further: &[&str]| {
        let mut command =
            openssl(&["s_client", "-connect", &address, "-CAfile", &files.bundle, "-verify_return_error"]);
        command.args(["-quiet", "-ign_eof", "-verify_quiet"]).args(further);
        Ran::with_input(&mut command, b"GET /photos/7 HTTP/1.1\r\nHost: photo\r\nConnection: close\r\n\r\n")
    };
    let own = ["-cert", &files.svid, "-cert_chain", &files.svid, "-key", &files.key];
    for name in [&["-noservername"][..], &["-servername", "elsewhere.example"], &["-servername", "PHOTO."]] {
        let answer = ask(&[&own[..], name].concat());
        assert!(answer.stdout.contains("HTTP/1.1 200") && answer.stdout.contains(PEER), "{answer:?}");
        let refused = ask(name);
        assert!(!refused.stdout.contains("HTTP/1.1"), "without a certificate: {refused:?}");
    }
    let old = ask(&[&own[..], &["-tls1_2"]].concat());
    assert!(!old.stdout.contains("HTTP/1.1"), "TLS 1.2: {old:?}");
    let (_other_site, other_node) = self::site("1h");
    let other = fetch(&other_node, "fetched");
    let stranger = ask(&["-cert", &other.svid, "-cert_chain", &other.svid, "-key", &other.key]);
    assert!(!stranger.stdout.contains("HTTP/1.1"), "of another root: {stranger:?}");
    let mut session = openssl(&["s_client", "-connect", &address, "-CAfile", &files.bundle, "-ign_eof"]);
    let session =
        Ran::with_input(session.args(own), b"GET /photos/7 HTTP/1.1\r\nHost: photo\r\nConnection: close\r\n\r\n");
    assert!(session.stdout.contains("HTTP/1.1 200"), "{session:?}");
    assert!(!session.stdout.contains("TLS session ticket"), "no session is offered: {session:?}");
}

/// `openssl s_server` and our client: taken with the expected certificate, refused with another and with none of ours.
#[test]
fn openssl_s_server_and_our_client() {
    let (site, node) = site("1h");
    site.add_program("web", &site.programs.web, &["--on", "n1"]);
    let files = fetch(&node, "fetched");
    let (_other_site, other_node) = self::site("1h");
    let other = fetch(&other_node, "fetched");
    let serve = |own: &Files, trusted: &str| {
        let mut command =
            openssl(&["s_server", "-accept", "127.0.0.1:0", "-www", "-Verify", "2", "-verify_return_error"]);
        command.args(["-cert", &own.svid, "-cert_chain", &own.svid, "-key", &own.key, "-CAfile", trusted]);
        let server = Process::start("openssl s_server", &mut command).unwrap();
        let address = server
            .wait_for("listen", SOON, |line| Some(line.strip_prefix("ACCEPT ")?.trim().to_owned()))
            .unwrap_or_else(|error| panic!("{error}"));
        (server, address)
    };
    let (_server, address) = serve(&files, &files.bundle);
    let (_web, front) = start_web(&node, &site.programs.web, &address, PEER);
    // Its page is no JSON, which our client tells; that it came is what counts.
    let answer = get(&front).unwrap_err();
    assert!(!answer.contains("Connect"), "{answer}");
    let (_web, front) = start_web(&node, &site.programs.web, &address, PHOTO);
    assert!(get(&front).unwrap_err().contains("Connect"), "a server of another name is refused");
    let (_server, address) = serve(&other, &files.bundle);
    let (_web, front) = start_web(&node, &site.programs.web, &address, PEER);
    assert!(get(&front).unwrap_err().contains("Connect"), "a server below another root is refused");
}

/// The provider that signs users in: what it says of itself, an ID token for whoever knows the password, and its page in a real browser.
#[tokio::test(flavor = "multi_thread")]
async fn the_oidc_provider_signs_users_in() {
    let mut provider = tokio::task::spawn_blocking(OidcProvider::start).await.unwrap();
    let redirect = "https://localhost:1/signed-in";
    provider.add_client("client-of-the-test", redirect);
    let url = format!("{}/.well-known/openid-configuration", provider.issuer);
    let known = provider.https().get(&url, &[]).await.json();
    assert_eq!(known["issuer"], provider.issuer.as_str());
    assert!(known["code_challenge_methods_supported"].as_array().unwrap().contains(&"S256".into()), "{known}");
    for (user, groups) in [(ALICE, &["staff", "admins"][..]), (CHARLIE, &["staff"])] {
        let token = provider.id_token("client-of-the-test", redirect, user).await;
        let claims = Base64UrlUnpadded::decode_vec(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["sub"], &claims["nonce"]), (&user.subject.into(), &"n".into()), "{claims}");
        assert_eq!(claims["groups"], serde_json::json!(groups), "{claims}");
    }
    let browser = Browser::start(&[provider.spki_hash()]).await;
    let authorize = known["authorization_endpoint"].as_str().unwrap();
    let query = "response_type=code&client_id=client-of-the-test&scope=openid&redirect_uri=https%3A%2F%2Flocalhost%3A1%2Fsigned-in";
    browser.open(&format!("{authorize}?{query}")).await;
    browser.fill("#username", CHARLIE.name).await;
    browser.fill("#password", "wrong").await;
    browser.click("button").await;
    browser.see("username or password wrong").await;
}

/// The foreign programs are here, and are what the tests believe they are.
#[test]
fn foreign_programs_are_installed() {
    Ran::of(&mut openssl(&["version"])).success();
    assert!(go_client().exists());
    assert!(Path::new(&repository::root().join("target/foreign/python/bin/python")).exists());
    let locked = fs::read_to_string(repository::root().join("tests/foreign/go/go.sum")).unwrap();
    assert!(locked.contains("github.com/spiffe/go-spiffe/v2"));
}
