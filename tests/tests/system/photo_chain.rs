//! The example `photo-chain`: a user signs in at photo, image acts for that user, blob need not know, and no record loses them. Real programs on two
//! nodes, a provider that nobody here wrote, tokens minted by the edge's own agent.

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc, time::Duration};

use bonafide_examples::process::Process;
use bonafide_tests::{
    browser::{Browser, spki_hash},
    https::{Answer, Https},
    oidc_provider::{ALICE, CHARLIE, OidcProvider, ProviderUser},
    repository,
    site::{Node, Ran, SOON, Site, eventually},
};
use bonafide_verifier::{
    agent_tokens::{AgentTokens, ExchangeRefused, SubjectTokenType, WantedToken},
    clock::SystemClock,
    identity::workload_api::{Endpoint, WorkloadApi},
    spiffe::TrustDomain,
};
use http::{Method, StatusCode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

struct Chain {
    site: Site,
    edge: Node,
    inside: Node,
    provider: OidcProvider,
    url: String,
    https: Https,
    spki_hash: String,
    processes: Vec<Process>,
}

const CLIENT: &str = "photo";

impl Chain {
    async fn start() -> Self {
        Self::logging("info").await
    }

    async fn logging(level: &'static str) -> Self {
        tokio::task::spawn_blocking(move || Self::start_blocking(level)).await.unwrap()
    }

    fn start_blocking(level: &str) -> Self {
        let mut site = Site::new();
        site.environment = vec![("BONAFIDE_LOG_LEVEL".to_owned(), level.to_owned())];
        site.start_ca();
        let (edge, inside) = (site.join("edge"), site.join("inside"));
        let mut provider = OidcProvider::start();
        let roots = provider.certificate().display().to_string();
        let words = ["issuer", "add", "corp", &provider.issuer, "--audience", CLIENT, "--ca-file", &roots];
        site.ca(&words).success();
        let scopes = ["--edge-scope", "photo.read", "--edge-scope", "photo.write", "--edge-issuer", "corp"];
        let photo = [&["--on", "edge", "--dns", "localhost"][..], &scopes].concat();
        site.add_program("photo", &site.programs.chain_photo, &photo);
        site.add_program("image", &site.programs.chain_image, &["--on", "inside"]);
        site.add_program("blob", &site.programs.chain_blob, &["--on", "inside"]);
        site.add_program("export", &site.programs.chain_export, &["--on", "inside", "--edge-scope", "photo.count"]);
        site.add_program("hand", &site.programs.agent, &["--on", "inside"]);
        let fetched = inside.path("fetched");
        inside.agent(&["fetch", "x509", "--write", fetched.to_str().unwrap()]).success();
        let issuing = CertificateDer::pem_file_iter(fetched.join("svid.pem")).unwrap().nth(1).unwrap().unwrap();

        let mut processes = Vec::new();
        let mut run = |node: &Node, name: &str, program, further: &[&str]| {
            let mut command: Command = node.workload(program);
            let policy = repository::root().join(format!("examples/photo-chain/{name}.toml"));
            command.arg("--policy").arg(policy).arg("--records").arg(site.path(&format!("{name}.jsonl"))).args(further);
            let process = Process::start(name, &mut command).unwrap();
            let listen = process.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
            processes.push(process);
            format!("https://localhost:{}", listen.rsplit(':').next().unwrap())
        };
        let blob = run(&inside, "blob", &site.programs.chain_blob, &[]);
        let next = ["--next", &blob, "--next-id", "spiffe://example.org/blob"];
        let image = run(&inside, "image", &site.programs.chain_image, &next);
        let next = ["--next", &image, "--next-id", "spiffe://example.org/image"];
        let sign_in = ["--issuer", &provider.issuer, "--client-id", CLIENT, "--provider-roots", &roots];
        let url = run(&edge, "photo", &site.programs.chain_photo, &[&next[..], &sign_in].concat());
        provider.add_client(CLIENT, &format!("{url}/signed-in"));
        let https = Https::trusting(&fetched.join("bundle.pem"));
        Self { edge, inside, provider, url, https, spki_hash: spki_hash(&issuing), processes, site }
    }

    async fn token(&self, user: ProviderUser) -> String {
        self.provider.id_token(CLIENT, &format!("{}/signed-in", self.url), user).await
    }

    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.https.send(method, &format!("{}{path}", self.url), headers, body).await
    }

    async fn as_user(&self, token: &str, method: Method, path: &str, body: &str) -> Answer {
        self.call(method, path, &[("authorization", &format!("Bearer {token}"))], body).await
    }

    fn export(&self, further: &[&str]) -> Ran {
        let mut command = self.inside.workload(&self.site.programs.chain_export);
        Ran::of(command.args(["--photo", &self.url]).args(further))
    }

    fn records(&self, service: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.site.path(&format!("{service}.jsonl"))).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// By transaction: who was called by whom for whom, at each of the three.
    fn transactions(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for service in ["photo", "image", "blob"] {
            for record in self.records(service) {
                let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
                let line = format!(
                    "{service} {} by {} for {}: {}",
                    text("method"),
                    text("caller").replace("spiffe://example.org", ""),
                    text("user"),
                    text("outcome")
                );
                found.entry(text("transaction")).or_default().push(line);
            }
        }
        found
    }
}

/// A photo is kept and looked at for Charlie: image knows it is Charlie's, blob does not ask and its records name the transaction nevertheless.
/// Alice has another album. A nightly export may count; what it may not see is refused by image, which insists on a user, and never comes to blob.
#[tokio::test(flavor = "multi_thread")]
async fn the_user_is_never_lost() {
    let chain = Chain::start().await;
    let (charlie, alice) = (chain.token(CHARLIE).await, chain.token(ALICE).await);
    let kept = chain.as_user(&charlie, Method::PUT, "/v1/photos/cat", "a cat in the sun").await;
    assert_eq!(
        kept.status,
        StatusCode::OK,
        "{kept:?} {:#?}",
        chain.processes.iter().map(Process::printed).collect::<Vec<_>>()
    );
    // What photo says of the transaction, image has: about which photo it is, and from where the user came.
    assert_eq!(kept.json(), serde_json::json!({ "images": 1, "about": "cat", "from": "127.0.0.1" }));
    let seen = chain.as_user(&charlie, Method::GET, "/v1/photos/cat", "").await;
    assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "a cat in the sun"));
    let others = chain.as_user(&alice, Method::GET, "/v1/photos/cat", "").await;
    assert_eq!(others.status, StatusCode::NOT_FOUND, "another user's: {others:?}");
    assert_eq!(chain.as_user(&alice, Method::GET, "/v1/photos", "").await.json(), serde_json::json!([]));

    let of_users = |found: &BTreeMap<String, Vec<String>>| {
        found.iter().filter(|(txn, _)| *txn != "-").map(|(_, lines)| lines.len()).sum::<usize>()
    };
    let transactions = eventually("the records", || Some(chain.transactions()).filter(|found| of_users(found) >= 10));
    let mut of_users: Vec<_> =
        transactions.iter().filter(|(txn, _)| *txn != "-").map(|(_, lines)| lines.clone()).collect();
    of_users.sort();
    let expected = [
        ["photo GET by corp:u-1001 for corp:u-1001: allowed", "image GET by /photo for corp:u-1001: allowed"]
            .as_slice(),
        &["photo GET by corp:u-1001 for corp:u-1001: allowed", "image GET by /photo for corp:u-1001: allowed"],
        &[
            "photo GET by corp:u-1002 for corp:u-1002: allowed",
            "image GET by /photo for corp:u-1002: allowed",
            "blob GET by /image for corp:u-1002: allowed",
        ],
        &[
            "photo PUT by corp:u-1002 for corp:u-1002: allowed",
            "image PUT by /photo for corp:u-1002: allowed",
            "blob POST by /image for corp:u-1002: allowed",
        ],
    ];
    assert_eq!(of_users, expected, "{transactions:#?}");

    // The export, in its own name, in a transaction of its own.
    let counted = chain.export(&["/v1/usage"]).success();
    assert!(counted.stdout.starts_with("200 ") && counted.stdout.contains(r#""images":1"#), "{counted:?}");
    let own = "spiffe://example.org/export";
    let nightly = eventually("its records", || {
        let of_export = |lines: &&Vec<String>| lines.len() == 3 && lines.iter().all(|line| line.contains(own));
        chain.transactions().values().find(of_export).cloned()
    });
    let expected = [
        "photo GET by /export for spiffe://example.org/export: allowed",
        "image GET by /photo for spiffe://example.org/export: allowed",
        "blob GET by /image for spiffe://example.org/export: allowed",
    ];
    assert_eq!(nightly, expected);
    let blobs = chain.records("blob").len();
    // What it is registered for is no photo; and without a transaction there is no user at all.
    for (further, reason) in
        [(&["/v1/photos/cat"][..], "scope-too-small"), (&["--no-transaction", "/v1/photos/cat"], "user-required")]
    {
        chain.export(further).exits(3);
        let refused =
            eventually("the refusal", || chain.records("image").into_iter().find(|record| record["reason"] == reason));
        let (outcome, caller) = (&refused["outcome"], &refused["caller"]);
        assert_eq!((outcome, caller), (&"denied".into(), &"spiffe://example.org/photo".into()), "{refused}");
    }
    let allowed = chain.records("photo").into_iter().rfind(|record| record["route"] == "/v1/photos/{name}").unwrap();
    assert_eq!((&allowed["caller"], &allowed["outcome"]), (&"spiffe://example.org/export".into(), &"allowed".into()));
    assert_eq!(chain.records("blob").len(), blobs, "it never came to blob");
    chain.export(&["/v1/photos"]).exits(3);

    // From outside: nobody, somebody else's token, a transaction token.
    let nobody = chain.call(Method::GET, "/v1/photos", &[], "").await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    let broken = format!("{}x", charlie);
    assert_eq!(chain.as_user(&broken, Method::GET, "/v1/photos", "").await.status, StatusCode::UNAUTHORIZED);
    let bearer = format!("Bearer {charlie}");
    let both = chain.call(Method::GET, "/v1/photos", &[("authorization", &bearer), ("txn-token", &charlie)], "").await;
    assert!(both.status.is_client_error(), "{both:?}");

    // No token stands in a record or in what a program has said.
    let mut told: String = chain.processes.iter().flat_map(Process::printed).collect();
    for service in ["photo", "image", "blob"] {
        told += &fs::read_to_string(chain.site.path(&format!("{service}.jsonl"))).unwrap();
    }
    assert!(!told.contains("eyJ"), "a token was told");
    chain.site.ca(&["audit", "verify"]).success();
}

/// The same by hand, in a browser.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_keeps_a_photo_in_a_browser() {
    let chain = Chain::start().await;
    let browser = Browser::start(&[chain.provider.spki_hash(), &chain.spki_hash]).await;
    browser.open(&format!("{}/album", chain.url)).await;
    browser.fill("#username", CHARLIE.name).await;
    browser.fill("#password", CHARLIE.password).await;
    browser.click("button").await;
    assert_eq!(browser.url().await, format!("{}/album", chain.url), "{}", browser.text().await);
    browser.fill("#new input[name=name]", "cat").await;
    browser.fill("#new input[name=photo]", "a cat in the sun").await;
    browser.click("#new button").await;
    assert!(browser.text_of("dl").await.contains("a cat in the sun"), "{}", browser.text().await);
    browser.screenshot("photo-chain-album").await;
    let record =
        eventually("the record", || chain.records("blob").into_iter().find(|record| record["method"] == "POST"));
    assert_eq!(record["user"], "corp:u-1002", "{record}");
    let at_photo = chain.records("photo").into_iter().find(|found| found["transaction"] == record["transaction"]);
    assert_eq!(at_photo.expect("the same transaction")["proof"], "session");
    drop(chain.edge);
}

/// T-12, issue 5 §3: with all logs at their fullest, no part of a token that could be used is in anything that was written: logs, records, what CA and
/// agents keep and tell of themselves, and what everybody sees of running processes.
#[tokio::test(flavor = "multi_thread")]
async fn t_12_no_token_is_in_any_log_record_metric_or_command_line() {
    let chain = Chain::logging("trace").await;
    let (site, edge) = (&chain.site, &chain.edge);
    // This very process as an edge, so that a transaction token is known to look for.
    let own = std::env::current_exe().unwrap();
    let words = ["--on", "edge", "--edge-scope", "photo.read", "--edge-issuer", "corp"];
    site.add_program("tester", &own, &words);
    let (charlie, alice) = (chain.token(CHARLIE).await, chain.token(ALICE).await);
    chain.as_user(&charlie, Method::PUT, "/v1/photos/cat", "a cat in the sun").await;
    let seen = chain.as_user(&charlie, Method::GET, "/v1/photos/cat", "").await;
    assert_eq!(seen.status, StatusCode::OK, "{seen:?}");
    chain.as_user(&alice, Method::GET, "/v1/photos", "").await;
    chain.export(&["/v1/usage"]).success();

    let api = WorkloadApi::at(Endpoint::Unix(edge.socket()));
    let domain = TrustDomain::parse("example.org").unwrap();
    let tokens = AgentTokens::spawn(&api, domain, Arc::new(SystemClock));
    tokens.ready(SOON).await.unwrap();
    let exchanged = async |subject: &str, kind| {
        let asking = async {
            loop {
                match tokens.exchange(subject, kind, &WantedToken::default()).await {
                    Ok(token) => return token.expose_token().to_owned(),
                    // Not told of yet, or without its delegation.
                    Err(ExchangeRefused::Unavailable { .. } | ExchangeRefused::Refused { .. }) => {
                        let _ = tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        tokio::time::timeout(SOON, asking).await.expect("a token in time")
    };
    let transaction = exchanged(&charlie, SubjectTokenType::IdToken).await;
    let narrower = exchanged(&transaction, SubjectTokenType::TxnToken).await;
    // Refused ones are no secret less.
    let bearer = format!("Bearer {charlie}");
    for headers in
        [[("authorization", bearer.as_str()), ("txn-token", &transaction)], [("a", "b"), ("txn-token", &transaction)]]
    {
        let refused = chain.call(Method::GET, "/v1/photos", &headers, "").await;
        assert!(refused.status.is_client_error(), "{refused:?}");
    }
    let command_lines: Vec<u8> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())))
        .flat_map(|entry| [fs::read(entry.path().join("cmdline")), fs::read(entry.path().join("environ"))])
        .flat_map(Result::unwrap_or_default)
        .collect();
    eventually("the CA has collected what was minted", || {
        let status = edge.agent(&["status", "--output", "json"]).json();
        (status["token_service"]["log_waiting"] == 0).then_some(())
    });

    let mut places = vec![
        ("command lines and environments".to_owned(), command_lines),
        ("the CA's log".to_owned(), site.ca.as_ref().unwrap().printed().join("\n").into_bytes()),
        ("the audit log".to_owned(), site.ca(&["audit", "export"]).success().stdout.into_bytes()),
        ("the CA's metrics".to_owned(), metrics(&site.path("ca"))),
    ];
    for node in [edge, &chain.inside] {
        places.push(("an agent's log".to_owned(), node.agent.as_ref().unwrap().printed().join("\n").into_bytes()));
        places.push(("an agent's metrics".to_owned(), metrics(&node.path("data"))));
        let status = node.agent(&["status", "--output", "json"]).success().stdout;
        places.push(("an agent's status".to_owned(), status.into_bytes()));
        places.push(("a mint log".to_owned(), fs::read(node.path("data/mint.log")).unwrap_or_default()));
    }
    for file in fs::read_dir(site.path("ca/state")).unwrap().flatten() {
        if file.path().is_file() {
            places.push((file.path().display().to_string(), fs::read(file.path()).unwrap()));
        }
    }
    for process in &chain.processes {
        places.push((format!("{process:?}"), process.printed().join("\n").into_bytes()));
    }
    for service in ["photo", "image", "blob"] {
        places.push((format!("{service}'s records"), fs::read(site.path(&format!("{service}.jsonl"))).unwrap()));
    }
    for (place, content) in &places {
        assert!(
            !content.is_empty() || place.contains("mint log") || place.contains("Process("),
            "{place} says nothing"
        );
        for token in [&charlie, &alice, &transaction, &narrower] {
            let parts: Vec<&str> = token.split('.').collect();
            // Claims and signature: the header is the same in all of them.
            for part in [token.as_str(), parts[1], parts[2]] {
                assert!(!content.windows(part.len()).any(|window| window == part.as_bytes()), "a token is in {place}");
            }
        }
    }
    // The search itself works: what is meant to be there, is.
    let said = |place: &str, word: &str| {
        let mut found = places.iter().filter(|(name, _)| name.contains(place));
        found.any(|(_, content)| content.windows(word.len()).any(|window| window == word.as_bytes()))
    };
    assert!(said("audit log", "token-minted") && said("metrics", "bonafide_") && said("command lines", "photo-chain"));
    for place in ["the CA's log", "an agent's log"] {
        assert!(said(place, "TRACE"), "{place} is at its fullest");
    }
}

/// What is told on the socket in a data directory.
fn metrics(data: &Path) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "30", "--unix-socket"])
        .arg(data.join("health.sock"));
    Ran::of(curl.arg("http://localhost/metrics")).success().stdout.into_bytes()
}
