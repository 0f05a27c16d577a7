//! The real program, as an operator uses it.
#![expect(clippy::unwrap_used, reason = "a test ends where it does not find what it expects, also in its helpers")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bonafide_ca_api::Invitation;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a CA in it, and the CA's process while it runs.
struct Ca {
    directory: TempDir,
    process: Option<Child>,
    ready: String,
}

impl Ca {
    fn start() -> Self {
        let mut ca = Self { directory: tempfile::tempdir().unwrap(), process: None, ready: String::new() };
        ca.run(&["--trust-domain", "example.org"]);
        ca
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    /// Starts the process and waits for its word that it is ready.
    fn run(&mut self, arguments: &[&str]) {
        let mut process = program()
            .args(["run", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.ready = line.trim_end().to_owned();
        self.process = Some(process);
        assert!(self.ready.starts_with("ready "), "{line:?}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn stop(&mut self, signal: Signal) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
        process.wait().unwrap().code()
    }

    /// Runs a command against this CA.
    fn command(&self, arguments: &[&str]) -> Output {
        program().args(arguments).arg("--data").arg(self.data()).output().unwrap()
    }

    /// Runs a command that must succeed; its standard output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut socket = UnixStream::connect(self.data().join("health.sock")).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide-ca"));
    // What the caller's environment says must not matter.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BONAFIDE_") {
            command.env_remove(name);
        }
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn from_an_empty_directory_to_a_verified_log() {
    let mut ca = Ca::start();
    let listen = ca.ready.split(' ').find_map(|word| word.strip_prefix("listen=")).unwrap().to_owned();
    let root = ca.ready.split(' ').find_map(|word| word.strip_prefix("root=")).unwrap().to_owned();
    assert!(ca.ready.contains(" trust-domain=example.org "));
    assert!(listen.parse::<SocketAddr>().unwrap().port() != 0);
    assert!(ca.log().contains("NEW ROOT") && ca.log().contains(&root), "the first start says which root it made");
    assert_eq!(mode(&ca.data()), 0o700);
    for socket in ["admin.sock", "health.sock"] {
        assert_eq!(mode(&ca.data().join(socket)), 0o600, "{socket}");
    }

    // The invitation alone on standard output; hints on standard error.
    let output = ca.command(&["node", "invite", "web-1", "--label", "group=web"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(printed.lines().count(), 1);
    let invitation = Invitation::parse(&printed).unwrap();
    assert_eq!(invitation.trust_domain().as_str(), "example.org");
    assert_eq!(data_encoding::HEXLOWER.encode(invitation.root_sha256()), root);
    assert_eq!(invitation.addresses()[0].to_string(), listen);
    assert!(stderr(&output).contains("bonafide-agent run --join") && !stderr(&output).contains(printed.trim()));

    let added =
        ca.ok(&["service", "add", "photo", "--selector", "unix:user:photo", "--on", "group=web", "--ttl", "10m"]);
    assert!(added.starts_with("registered spiffe://example.org/photo on group=web"), "{added}");
    let services = ca.json(&["service", "list"]);
    let photo = &services["services"][0];
    assert_eq!(photo["spiffe_id"], "spiffe://example.org/photo");
    assert_eq!((photo["x509_ttl_s"].as_u64(), photo["jwt_ttl_s"].as_u64()), (Some(600), Some(300)));
    let updated =
        ca.json(&["service", "update", "photo", "--on", "web-1", "--on", "group=x", "--dns", "photo.example.org"]);
    assert_eq!(updated["on"], serde_json::json!(["web-1", "group=x"]), "{updated}");
    assert_eq!(updated["selectors"], photo["selectors"], "what is not named stays");
    assert_eq!(ca.json(&["service", "show", "spiffe://example.org/photo"])["id"], photo["id"]);

    let keys = ca.directory.path().join("keys.json");
    fs::write(&keys, KEYS).unwrap();
    let issuer = ["issuer", "add", "corp", "https://login.example.com", "--audience", "web", "--jwks-file"];
    ca.ok(&[&issuer[..], &[keys.to_str().unwrap()]].concat());
    let edge = ca.json(&["service", "update", "photo", "--edge-scope", "photo.read", "--edge-issuer", "corp"]);
    assert_eq!((&edge["edge_scopes"][0], &edge["edge_issuers"][0]), (&"photo.read".into(), &"corp".into()), "{edge}");
    assert!(ca.ok(&["service", "list"]).contains("photo.read"));
    // A removed issuer is named on: it may come back under its name, with other settings.
    let removed = ca.ok(&["issuer", "remove", "corp"]);
    assert!(removed.contains("nobody's from now on\nstill named by /photo:"), "{removed}");
    let kept = ["service", "update", "photo", "--edge-issuer", "corp", "--edge-scope", "photo.write"];
    assert_eq!(ca.json(&kept)["edge_issuers"][0], "corp");
    ca.ok(&[&issuer[..], &[keys.to_str().unwrap()]].concat());
    let own = ca.json(&["service", "update", "photo", "--no-edge-issuer"]);
    assert_eq!((&own["edge_scopes"][0], &own["edge_issuers"]), (&"photo.write".into(), &serde_json::json!([])));
    assert_eq!(ca.json(&["issuer", "remove", "corp"])["edges"], 0);
    let none = ca.json(&["service", "update", "photo", "--no-edge"]);
    assert_eq!((&none["edge_scopes"], &none["edge_issuers"]), (&serde_json::json!([]), &serde_json::json!([])));

    let nodes = ca.json(&["node", "list"]);
    assert_eq!((&nodes["nodes"][0]["name"], &nodes["nodes"][0]["state"]), (&"web-1".into(), &"invited".into()));
    assert!(ca.ok(&["node", "list"]).contains("invitation open until"));
    assert_eq!(ca.json(&["node", "show", "web-1"])["labels"]["group"], "web");

    let bundle: Value = serde_json::from_str(&ca.ok(&["bundle", "show"])).unwrap();
    assert!(bundle["keys"].as_array().unwrap().len() >= 2 && bundle["spiffe_sequence"].as_u64().is_some());
    assert!(ca.ok(&["bundle", "show", "--format", "pem"]).starts_with("-----BEGIN CERTIFICATE-----"));
    let authorities = ca.json(&["authority", "list"]);
    let kinds: Vec<&str> =
        authorities["authorities"].as_array().unwrap().iter().map(|a| a["kind"].as_str().unwrap()).collect();
    for kind in ["root", "issuing", "jwt"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let status = ca.json(&["status"]);
    assert_eq!((&status["root_sha256"], status["services"].as_u64()), (&root.clone().into(), Some(1)));
    assert_eq!(ca.command(&["doctor"]).status.code(), Some(0), "{}", ca.ok(&["doctor"]));

    // The log, with the CA up and down.
    let added = ca.json(&["audit", "list", "--kind", "service-added"]);
    assert_eq!(added["records"].as_array().unwrap().len(), 1);
    let who = added["records"][0]["body"]["who"].as_str().unwrap();
    assert!(who.starts_with(&format!("uid {}", nix::unistd::geteuid())), "{who}");
    let up = ca.json(&["audit", "verify"]);
    let head = ca.directory.path().join("head.json");
    fs::write(&head, ca.ok(&["audit", "export", "--head-only"])).unwrap();
    let export = ca.ok(&["audit", "export"]);
    assert_eq!(
        export.lines().count() as u64,
        1 + serde_json::from_str::<Value>(export.lines().last().unwrap()).unwrap()["head"]["seq"].as_u64().unwrap()
    );
    export.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
    assert_eq!(ca.stop(Signal::SIGTERM), Some(0), "{}", ca.log());
    assert!(!ca.data().join("admin.sock").exists());
    assert_eq!(ca.command(&["status"]).status.code(), Some(4), "nobody answers");
    let down = ca.json(&["audit", "verify", "--head", head.to_str().unwrap()]);
    assert!(down["records"].as_u64() >= up["records"].as_u64());

    // It goes on where it was, with the same root, without being told its name.
    ca.run(&["--expect-root", &root]);
    assert!(ca.ready.ends_with(&format!("root={root}")));
    assert_eq!(ca.json(&["service", "list"])["services"].as_array().unwrap().len(), 1);
    let removed = ca.ok(&["service", "remove", "photo"]);
    assert!(removed.contains("no SVID of it is out"), "says until when, and here there is none: {removed}");
    assert!(ca.ok(&["node", "remove", "web-1"]).contains("removed node web-1"));
    assert_eq!(ca.json(&["node", "list"])["nodes"], serde_json::json!([]));
    assert_eq!(ca.stop(Signal::SIGINT), Some(0));
}

#[test]
fn refusals_have_their_code_and_say_what_to_do() {
    let ca = Ca::start();
    ca.ok(&["service", "add", "photo", "--selector", "unix:uid:1000", "--on", "any"]);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["service", "add", "photo", "--selector", "unix:uid:1000", "--on", "any"], 3, "(service-exists)"),
        (&["service", "add", "db", "--selector", "unix:path:/usr/bin/db", "--on", "any"], 3, "(user-missing)"),
        (&["service", "add", "db", "--selector", "unix:uid:1", "--on", "any", "--ttl", "3d"], 3, "(lifetime-bounds)"),
        (&["service", "add", "db", "--selector", "unix:uid:1", "--on", "any", "--ttl", "9s"], 3, "(lifetime-bounds)"),
        (&["service", "add", "db", "--selector", "unix:uid:1", "--on", "any", "--ttl", "0s"], 2, "no lifetime"),
        (&["service", "add", "db", "--selector", "unix:uid:1", "--on", "any", "--dns", "*"], 3, "(invalid-value)"),
        (&["service", "add", "spiffe://other.org/db", "--selector", "unix:uid:1", "--on", "any"], 3, "(invalid-value)"),
        (&["service", "update", "photo", "--edge-scope", "a b"], 3, "(invalid-value)"),
        (
            &["service", "update", "photo", "--edge-scope", "a", "--edge-issuer", "corp"],
            3,
            "there is no issuer `corp` of users: none is registered; `bonafide-ca issuer add corp URL --audience CLIENT-ID` adds it",
        ),
        (&["service", "update", "photo", "--edge-issuer", "Corp"], 3, "(invalid-value)"),
        (&["service", "update", "photo", "--edge-issuer", "corp"], 3, "(issuer-unknown)"),
        (&["service", "update", "photo", "--edge-scope", "a", "--no-edge"], 2, "--no-edge"),
        (&["service", "add", "db", "--selector", "unix:uid:1", "--on", "any", "--edge-issuer", "a"], 2, "--edge-scope"),
        (&["service", "show", "nothing"], 3, "(service-unknown)"),
        (&["service", "update", "photo"], 2, "nothing to change"),
        (&["service", "update", "nothing", "--ttl", "1h"], 3, "(service-unknown)"),
        (&["service", "remove", "nothing"], 3, "(service-unknown)"),
        (&["node", "show", "nothing"], 3, "(node-unknown)"),
        (&["node", "remove", "nothing"], 3, "(node-unknown)"),
        (&["node", "invite", "n1", "--ttl", "8d"], 3, "(lifetime-bounds)"),
        (&["node", "invite", "n1", "--label", "group"], 2, "KEY=VALUE"),
        (&["audit", "verify", "--head", "/nothing"], 2, "cannot be opened"),
    ];
    for (arguments, code, text) in cases {
        let output = ca.command(arguments);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(text), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn health_and_metrics_are_on_their_socket() {
    let ca = Ca::start();
    assert!(ca.get("/livez").starts_with("HTTP/1.1 200"));
    assert!(ca.get("/readyz").starts_with("HTTP/1.1 200"), "{}", ca.get("/readyz?verbose"));
    for part in
        ["store", "disk", "clock", "authorities", "node-listener", "admin-listener", "token-endpoint", "user-issuers"]
    {
        assert!(ca.get(&format!("/readyz/{part}")).contains(&format!("{part} ready")), "{part}");
    }
    assert!(ca.get("/nothing").starts_with("HTTP/1.1 404"));
    let metrics = ca.get("/metrics");
    assert!(metrics.contains("application/openmetrics-text; version=1.0.0"), "{metrics}");
    assert!(metrics.contains("bonafide_ca_build_info{version=") && metrics.trim_end().ends_with("# EOF"));
    assert!(!metrics.contains("spiffe://"), "T-29");
}

#[test]
fn a_directory_has_one_process_one_name_and_one_root() {
    let mut ca = Ca::start();
    let refused = |ca: &Ca, arguments: &[&str]| {
        let run = program()
            .args(["run", "--listen", "127.0.0.1:0", "--data"])
            .arg(ca.data())
            .args(arguments)
            .output()
            .unwrap();
        (run.status.code(), stderr(&run))
    };
    let (code, text) = refused(&ca, &["--trust-domain", "example.org"]);
    assert_eq!(code, Some(3), "F-23: {text}");
    let pid = ca.process.as_ref().unwrap().id().to_string();
    assert!(text.contains("(data-in-use)") && text.contains(&pid), "names the process: {text}");
    assert_eq!(ca.json(&["status"])["trust_domain"], "example.org", "the first one is not disturbed");
    ca.stop(Signal::SIGTERM);

    let (code, text) = refused(&ca, &["--trust-domain", "other.org"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("`example.org`") && text.contains("`other.org`") && text.contains("(other-trust-domain)"),
        "{text}"
    );
    let (code, text) = refused(&ca, &["--expect-root", &"0".repeat(64)]);
    assert_eq!((code, text.contains("(other-root)")), (Some(3), true), "{text}");

    let key = fs::read_dir(ca.data().join("state/keys")).unwrap().next().unwrap().unwrap().path();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (code, text) = refused(&ca, &[]);
    assert!(code == Some(1) && text.contains(key.to_str().unwrap()), "F-14, a key that others can read: {text}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(ca.data(), fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text) = refused(&ca, &[]);
    assert!(code == Some(1) && text.contains("755"), "F-14, a directory that others can read: {text}");
}

#[test]
fn settings_come_from_flag_environment_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.toml");
    let run = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut command = program();
        command.arg("run").arg("--config").arg(&file).args(arguments);
        variable.map(|(name, value)| command.env(name, value));
        let output = command.output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let at = file.display();
    fs::write(&file, "\nx509_ttl = '1h'").unwrap();
    assert_eq!(
        run(&[], None),
        (Some(2), format!("bonafide-ca: {at}:2:1: there is no setting `x509_ttl`; did you mean `x509-ttl`?\n"))
    );
    fs::write(&file, "x509-ttl = '1s'").unwrap();
    let bound = "must lie between 10s and 2d8h (default 1h)";
    assert_eq!(run(&[], None), (Some(2), format!("bonafide-ca: {at}:1:1: x509-ttl=`1s`: {bound}\n")));
    let variable = Some(("BONAFIDE_X509_TTL", "2s"));
    assert_eq!(run(&[], variable), (Some(2), format!("bonafide-ca: BONAFIDE_X509_TTL=`2s`: {bound}\n")));
    assert_eq!(run(&["--x509-ttl", "3s"], variable), (Some(2), format!("bonafide-ca: --x509-ttl=`3s`: {bound}\n")));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(run(&[], None).1.contains("can be written by everybody"));

    let data = directory.path().join("nothing");
    let output = program().args(["run", "--listen", "127.0.0.1:0", "--data"]).arg(&data).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--trust-domain example.org"), "names the fix: {}", stderr(&output));
}

#[test]
fn every_help_is_a_success_also_when_nobody_reads() {
    let words = [
        "",
        "run",
        "node",
        "node invite",
        "node list",
        "node show",
        "node remove",
        "service",
        "service add",
        "service list",
        "service show",
        "service update",
        "service remove",
        "bundle show",
        "authority list",
        "audit list",
        "audit verify",
        "audit export",
        "status",
        "doctor",
        "completions",
    ];
    for words in words {
        let output = program().args(words.split_whitespace()).arg("--help").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words} --help");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{words} --help");
    }
    for arguments in [&["--help"][..], &["completions", "bash"], &["--version"]] {
        let mut child = program().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?} with a closed reader");
    }
}

#[test]
fn a_second_signal_ends_at_once_and_a_listing_survives_a_closed_reader() {
    let mut ca = Ca::start();
    let mut child = program().args(["status", "--data"]).arg(ca.data()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // A connection that never says anything would hold up the drain.
    let _idle = UnixStream::connect(ca.data().join("admin.sock")).unwrap();
    let pid = Pid::from_raw(ca.process.as_ref().unwrap().id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    // Either the first has ended it already, or the second does.
    let _ = kill(pid, Signal::SIGTERM);
    assert_eq!(ca.process.take().unwrap().wait().unwrap().code(), Some(0), "{}", ca.log());
    ca.run(&[]);
    assert_eq!(ca.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn logs_are_plain_without_a_terminal_and_json_when_asked() {
    let mut ca = Ca::start();
    assert!(!ca.log().contains('\x1b'), "no colours in a file");
    ca.stop(Signal::SIGTERM);
    ca.run(&["--log-format", "json"]);
    for line in ca.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["timestamp"].is_string() && event["message"].is_string(), "{line}");
    }
    ca.stop(Signal::SIGTERM);
}

#[test]
fn keys_cannot_be_read_out_of_the_process() {
    let ca = Ca::start();
    let pid = ca.process.as_ref().unwrap().id();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/mem")).unwrap());
    assert_eq!(owner, 0, "not dumpable: its memory belongs to root alone");
}

#[test]
fn a_changed_log_is_refused_and_the_first_bad_record_named() {
    let mut ca = Ca::start();
    for name in ["a", "b", "c"] {
        ca.ok(&["service", "add", name, "--selector", "unix:uid:1000", "--on", "any"]);
    }
    let head = ca.directory.path().join("head.json");
    fs::write(&head, ca.ok(&["audit", "export", "--head-only"])).unwrap();
    ca.stop(Signal::SIGTERM);
    let last = ca.json(&["audit", "list", "--limit", "1"])["records"][0]["seq"].as_u64().unwrap();
    let database = ca.data().join("state/ca.db");
    let whole = fs::read(&database).unwrap();
    let refused = |statement: &str, arguments: &[&str], text: &str| {
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.execute_batch(statement).unwrap();
        connection.close().unwrap();
        let output = ca.command(&[&["audit", "verify"], arguments].concat());
        assert_eq!(output.status.code(), Some(3), "{statement}: {}", stderr(&output));
        assert!(stderr(&output).contains(text), "{statement}: {}", stderr(&output));
        fs::write(&database, &whole).unwrap();
    };
    let edit = format!("UPDATE audit_record SET body = replace(body, '1000', '1001') WHERE seq = {last}");
    refused(&edit, &[], &format!("record {last} "));
    refused("DELETE FROM audit_record WHERE seq = 2", &[], "record 2 is missing");
    let cut = format!("DELETE FROM audit_record WHERE seq >= {last}; DELETE FROM audit_head WHERE seq >= {last}");
    refused(&cut, &["--head", head.to_str().unwrap()], "its tail was cut");
    assert_eq!(ca.command(&["audit", "verify"]).status.code(), Some(0));
}

#[test]
fn t12_the_log_at_trace_holds_no_secret() {
    let mut ca = Ca::start();
    ca.stop(Signal::SIGTERM);
    ca.run(&["--log-level", "trace"]);
    let printed = ca.ok(&["node", "invite", "n1"]);
    ca.ok(&["audit", "list"]);
    ca.stop(Signal::SIGTERM);
    let secret = *Invitation::parse(&printed).unwrap().secret().expose_secret();
    let mut everything = ca.log().into_bytes();
    for file in ["ca.db", "ca.db-wal", "head"] {
        everything.extend(fs::read(ca.data().join("state").join(file)).unwrap_or_default());
    }
    let hex = data_encoding::HEXLOWER.encode(&secret);
    let base64 = data_encoding::BASE64URL_NOPAD.encode(&secret);
    for (form, bytes) in [
        ("raw", &secret[..]),
        ("hex", hex.as_bytes()),
        ("base64", &base64.as_bytes()[..40]),
        ("invitation", &printed.trim().as_bytes()[20..80]),
    ] {
        assert!(!everything.windows(bytes.len()).any(|window| window == bytes), "the secret is there, {form}");
    }
    assert!(ca.log().contains("TRACE"), "the level was in force");
    assert!(!ca.log().contains("PRIVATE KEY"));
}

const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","use":"sig",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
