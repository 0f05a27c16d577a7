//! The example `config-service`: settings that are read, watched and changed, whichever way callers prove themselves.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use bonafide_examples::process::Process;
use bonafide_tests::{
    repository,
    site::{Node, Ran, SOON, Site, eventually},
};
use serde_json::{Value, json};

use crate::programs::copy_of;

/// A hub with its callers: `export`, `ops` and `batch` are the same command line under three names.
struct Hub {
    site: Site,
    node: Node,
    track: &'static str,
    url: String,
    /// Of access tokens.
    endpoint: Option<String>,
    process: Process,
}

const CALLERS: [&str; 3] = ["export", "ops", "batch"];

/// Who gets an access token, and what for.
const TOKEN_POLICY: &str = r#"
version = 1
[[allow]]
name    = "callers of the hub"
callers = ["/export", "/ops", "/batch"]
app     = ["access-token /settings"]
"#;

impl Hub {
    fn start(track: &'static str) -> Self {
        let mut site = Site::new();
        if track == "access-token" {
            let policy = site.path("tokens.toml");
            fs::write(&policy, TOKEN_POLICY).unwrap();
            let words = ["--token-listen", "127.0.0.1:0", "--token-dns", "localhost", "--token-policy"];
            site.ca_arguments = words.map(str::to_owned).to_vec();
            site.ca_arguments.push(policy.display().to_string());
        }
        site.start_ca();
        let endpoint = (track == "access-token").then(|| {
            let address = site.ca.as_ref().unwrap().ready("tokens", SOON).unwrap_or_else(|error| panic!("{error}"));
            format!("https://localhost:{}", address.rsplit(':').next().unwrap())
        });
        let node = site.join("n1");
        site.add_program("config", &site.programs.config_service, &["--on", "n1", "--dns", "localhost"]);
        for name in CALLERS {
            let program = copy_of(&site.programs.configctl, node.path(name));
            site.add_program(name, &program, &["--on", "n1"]);
        }
        fs::copy(repository::root().join("examples/config-service/policy.toml"), node.path("policy.toml")).unwrap();
        let mut command = node.workload(&site.programs.config_service);
        command.arg("--policy").arg(node.path("policy.toml")).arg("--records").arg(node.path("records.jsonl"));
        command.arg("--data").arg(node.path("settings")).args(["--callers", track]);
        if matches!(track, "shared-secret" | "api-key") {
            for name in CALLERS {
                let file = |name: &str| node.path(name).display().to_string();
                let owner = format!("spiffe://example.org/{name}");
                let words =
                    ["key", "create", "--file", &file("keys.toml"), "--secret-file", &file(&format!("{name}.key"))];
                let further = ["--kind", track, "--owner", &owner, "--audience", "spiffe://example.org/config"];
                Ran::of(Command::new(&site.programs.ca).args([&words[..], &further].concat())).success();
            }
            command.arg("--keys").arg(node.path("keys.toml"));
        }
        if let Some(endpoint) = &endpoint {
            command.args(["--token-issuer", endpoint]);
        }
        let process = Process::start("config-service", &mut command).unwrap();
        let listen = process.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
        let url = format!("https://localhost:{}", listen.rsplit(':').next().unwrap());
        Self { site, node, track, url, endpoint, process }
    }

    /// The command line of one of the callers.
    fn as_caller(&self, name: &str, words: &[&str]) -> Command {
        let mut command = self.node.workload(self.node.path(name));
        command.args(["--config", &self.url, "--credential", self.track]);
        if matches!(self.track, "shared-secret" | "api-key") {
            command.arg("--key-file").arg(self.node.path(&format!("{name}.key")));
        }
        if let Some(endpoint) = &self.endpoint {
            command.args(["--token-endpoint", &format!("{endpoint}/token")]);
        }
        command.args(words);
        command
    }

    fn call(&self, name: &str, words: &[&str]) -> Ran {
        Ran::of(&mut self.as_caller(name, words))
    }

    /// What was decided, without what is another on each track or in each run: the credential, the times, the policy's hash.
    fn records(&self, at_least: usize) -> Vec<Value> {
        let path: PathBuf = self.node.path("records.jsonl");
        let read = || -> Vec<Value> {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        let mut records = eventually("the records", || Some(read()).filter(|records| records.len() >= at_least));
        for record in &mut records {
            let record = record.as_object_mut().unwrap();
            for name in ["at", "micros", "key_id", "token_id"] {
                record.remove(name);
            }
        }
        records
    }
}

/// One request of the table, and what becomes of it.
struct Case {
    caller: &'static str,
    words: &'static [&'static str],
    code: i32,
}

const fn case(caller: &'static str, words: &'static [&'static str], code: i32) -> Case {
    Case { caller, words, code }
}

/// Who may do what, by the rules of `policy.toml`: 0 done, 3 refused, 1 not possible.
const CASES: &[Case] = &[
    case("ops", &["set", "export", "row-limit", "3000"], 0),
    case("ops", &["set", "export", "row-limit", "4000", "--seen", "0"], 1),
    case("ops", &["set", "other", "colour", "green"], 0),
    case("export", &["get", "export"], 0),
    case("export", &["get", "export", "row-limit"], 0),
    case("export", &["get", "export", "nothing"], 1),
    case("export", &["get", "other"], 3),
    case("export", &["set", "export", "row-limit", "9000"], 3),
    case("export", &["history", "export"], 3),
    case("export", &["watch", "export", "--count", "1"], 0),
    case("export", &["watch", "other", "--count", "1"], 3),
    case("export", &["watch", "export", "--grpc", "--count", "1"], 0),
    case("export", &["watch", "other", "--grpc", "--count", "1"], 3),
    case("ops", &["get", "other"], 0),
    case("ops", &["watch", "other", "--grpc", "--count", "1"], 0),
    case("ops", &["history", "export"], 0),
    case("batch", &["get", "export"], 3),
    case("batch", &["set", "export", "row-limit", "9000"], 3),
    case("batch", &["watch", "export", "--count", "1"], 3),
    case("batch", &["watch", "export", "--grpc", "--count", "1"], 3),
];

/// A track's answers and records; the answers without who proved what how.
fn played(track: &'static str) -> (Vec<String>, Vec<Value>) {
    let hub = Hub::start(track);
    let mut answers = Vec::new();
    for case in CASES {
        let ran = hub.call(case.caller, case.words);
        assert_eq!(ran.code, case.code, "{track}: {} {:?}: {ran:?}", case.caller, case.words);
        let mut answer = ran.stdout.clone();
        if case.words[0] == "history" && case.code == 0 {
            let mut changes = ran.json();
            for change in changes.as_array_mut().unwrap() {
                assert_eq!(change["proof"], track);
                change.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "proof" | "at"));
            }
            answer = changes.to_string();
        } else if case.words[0] == "set" && case.code == 0 {
            answer = ran.json()["changed_by"].to_string();
        }
        answers.push(answer);
    }
    // Over gRPC the rules are asked twice: for the call, and for the service that it names.
    let twice = CASES.iter().filter(|case| case.words.contains(&"--grpc") && case.caller != "batch").count();
    let mut records = hub.records(CASES.len() + twice);
    for record in &mut records {
        let proof = record.as_object_mut().unwrap().remove("proof");
        assert_eq!(proof, Some(json!(track)), "{record}");
    }
    (answers, records)
}

/// One table of requests over every kind of credential: the same decisions, the same records (CORE; T-27).
#[test]
fn a_table_of_requests_is_decided_and_recorded_alike_on_every_track() {
    let first = played("x509");
    let denied = first.1.iter().filter(|record| record["outcome"] == "denied").count();
    assert_eq!(denied, CASES.iter().filter(|case| case.code == 3).count(), "{:#?}", first.1);
    for track in ["jwt-svid", "access-token", "shared-secret", "api-key"] {
        let other = played(track);
        assert_eq!(first.0, other.0, "{track}");
        assert_eq!(first.1, other.1, "{track}");
    }
}

/// The limit is raised while the exporter runs, and it obeys; the hub is away for a while, and it goes on with what it knows; another operator's
/// change meanwhile is seen when the hub is back.
#[test]
fn an_exporter_obeys_a_change_while_it_runs() {
    let mut hub = Hub::start("x509");
    hub.site.ca(&["service", "remove", "export"]).success();
    hub.site.add_program("export", &hub.site.programs.exporter, &["--on", "n1"]);
    hub.call("ops", &["set", "export", "row-limit", "3000"]).success();
    let out = hub.node.path("orders.csv");
    let mut command = hub.node.workload(&hub.site.programs.exporter);
    command.args(["--config", &hub.url]).arg("--out").arg(&out);
    let exporter = Process::start("exporter", &mut command).unwrap();
    let obeys = |rows: usize| {
        let wanted = format!("exported rows={rows} ");
        exporter
            .wait_for("obey", SOON, |line| line.starts_with(&wanted).then_some(()))
            .unwrap_or_else(|error| panic!("{error}"));
        let written = fs::read_to_string(&out).unwrap().lines().count();
        assert_eq!(written, rows);
    };
    obeys(3000);
    hub.call("ops", &["set", "export", "row-limit", "5000"]).success();
    obeys(5000);
    // No limit that it could read is a limit of nothing.
    hub.call("ops", &["set", "export", "row-limit", "many"]).success();
    obeys(0);
    let status = hub.process.stop(Duration::from_secs(30)).unwrap();
    assert!(status.success(), "{status}");
    exporter
        .wait_for("notice", SOON, |line| line.contains("going on with the last ones").then_some(()))
        .unwrap_or_else(|error| panic!("{error}"));
}
