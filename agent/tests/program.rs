//! The program as its users call it: exit codes, what it prints, and a whole life against a CA.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use bonafide_ca_api::{
    CaAddress, Invitation, InvitationSecret,
    generated::admin::{AddServiceRequest, InviteNodeRequest, admin_api_client::AdminApiClient},
};
use bonafide_verifier::{
    clock::{Clock, SystemClock},
    jwt::{Algorithm, SigningInput},
    spiffe::{JwtAuthority, TrustBundle, TrustDomain},
};
use hyper_util::rt::TokioIo;
use rcgen::PublicKeyData;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide-agent"));
    command.env_remove("SPIFFE_ENDPOINT_SOCKET").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

#[test]
fn every_verb_has_its_help() {
    let verbs = ["run", "whoami", "call", "fetch", "inspect", "status", "doctor", "accept-epoch", "completions"];
    for arguments in verbs.iter().map(|verb| vec![*verb, "--help"]).chain([
        vec!["--help"],
        vec!["--version"],
        vec!["fetch", "x509", "--help"],
        vec!["fetch", "jwt", "--help"],
        vec!["fetch", "bundle", "--help"],
    ]) {
        let output = run(&arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let help = text(&run(&["--help"]).stdout);
    assert!(help.contains("Exit codes: 0 done"), "{help}");
    assert!(text(&run(&["run", "--help"]).stdout).contains("`ready socket=PATH node=SPIFFE-ID`"));
}

#[test]
fn exit_codes_are_as_documented() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    let (data, socket, missing) = (path("data"), path("socket/agent.sock"), path("missing"));
    let fresh = ["run", "--data", &data, "--socket", &socket];
    let with = |more: &[&str]| fresh.iter().copied().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<String>, i32, &str)> = vec![
        ("no verb", vec![], 2, "Usage"),
        ("unknown verb", vec!["start".into()], 2, "unrecognized subcommand"),
        ("unknown flag", with(&["--jion", "x"]), 2, "--join"),
        ("nothing to join by", with(&[]), 2, "bonafide-ca node invite NAME"),
        ("no invitation", with(&["--join", "x"]), 2, "does not start with `bonafide1_`"),
        ("both", with(&["--join", "x", "--join-file", "y"]), 2, "cannot be used with"),
        ("no such file", with(&["--join-file", &missing]), 2, "the invitation cannot be read"),
        ("bad value", with(&["--health-listen", "here"]), 2, "--health-listen=`here`"),
        ("no settings file", with(&["--config", &missing]), 2, "the settings file"),
        ("whoami without agent", vec!["whoami".into(), "--socket".into(), socket.clone()], 4, "is the agent running"),
        (
            "fetch without agent",
            vec!["fetch".into(), "x509".into(), "--socket".into(), socket.clone()],
            4,
            "cannot reach",
        ),
        ("status without agent", vec!["status".into(), "--socket".into(), socket.clone()], 4, "cannot reach"),
        ("jwt without audience", vec!["fetch".into(), "jwt".into()], 2, "--audience"),
        ("inspect nothing", vec!["inspect".into(), missing.clone()], 2, "neither a file nor HOST:PORT"),
        (
            "inspect a bundle of no name",
            vec!["inspect".into(), "-".into(), "--bundle".into(), "x".into()],
            2,
            "TRUST-DOMAIN=FILE",
        ),
        ("inspect at no time", vec!["inspect".into(), "-".into(), "--at".into(), "soon".into()], 2, "--at=`soon`"),
        ("inspect an empty input", vec!["inspect".into(), "-".into()], 3, ""),
        ("inspect a closed port", vec!["inspect".into(), "127.0.0.1:1".into()], 4, "Connection refused"),
        (
            "doctor finds a broken node",
            vec!["doctor".into(), "--data".into(), missing.clone(), "--socket".into(), socket.clone()],
            1,
            "",
        ),
    ];
    for (name, arguments, expected, message) in cases {
        let output = program().args(&arguments).output().unwrap();
        assert_eq!(code(&output), expected, "{name}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(message), "{name}: {}", text(&output.stderr));
    }
    assert!(!Path::new(&data).exists(), "a start that is refused for its settings writes nothing");
    let output = program().args(["whoami"]).env("SPIFFE_ENDPOINT_SOCKET", "tcp://127.0.0.1:1").output().unwrap();
    assert_eq!(code(&output), 2, "WEP-09: {}", text(&output.stderr));
    let unix = format!("unix://{socket}");
    let output = program().args(["whoami"]).env("SPIFFE_ENDPOINT_SOCKET", &unix).output().unwrap();
    assert!(text(&output.stderr).contains(&socket), "WEP-08: {}", text(&output.stderr));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = program().args(["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn t_31_what_is_shown_moves_no_cursor() {
    let output = run(&["inspect", "\x1b[2Jfile"]);
    assert_eq!(code(&output), 2);
    assert!(!text(&output.stderr).contains('\x1b'), "{:?}", text(&output.stderr));
}

/// A root and what it signs, by a clock that stands in 2027.
struct Pki {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: Vec<u8>,
}

fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(rcgen::string::Ia5String::try_from(text).unwrap())
}

impl Pki {
    fn new(trust_domain: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, trust_domain);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    fn leaf(&self, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = time::macros::datetime!(2027-01-01 0:00 UTC);
        params.not_after = time::macros::datetime!(2027-02-01 0:00 UTC);
        change(&mut params);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

fn pem(der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

fn put(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn inspect_gives_the_verifiers_verdict_on_chains() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let (pki, other) = (Pki::new("example.org"), Pki::new("other.org"));
    let good = pki.leaf(|_| {});
    let two_uris = pki.leaf(|params| params.subject_alt_names.push(uri("spiffe://example.org/b")));
    let no_uri = pki.leaf(|params| params.subject_alt_names.clear());
    let signing = pki.leaf(|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    });
    let foreign = other.leaf(|_| {});
    let bundle = format!("example.org={}", put(dir, "bundle.pem", pem(&pki.root)));
    let json_bundle =
        TrustBundle::new(TrustDomain::parse("example.org").unwrap(), [&pki.root], [], Some(1), None).unwrap();
    let json_bundle = format!("example.org={}", put(dir, "bundle.json", json_bundle.to_spiffe_json()));
    let elsewhere = format!("other.org={}", put(dir, "other.pem", pem(&other.root)));
    let (within, after) = ("2027-01-15T00:00:00Z", "2027-03-01T00:00:00Z");
    type Case<'a> = (&'a str, Vec<u8>, &'a str, &'a str, Option<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        ("PEM", pem(&good).into(), &bundle, within, None),
        ("DER", good.clone(), &bundle, within, None),
        ("by a bundle in SPIFFE JSON", good.clone(), &json_bundle, within, None),
        ("X509-21 expired", good.clone(), &bundle, after, Some("expired")),
        ("not yet valid", good.clone(), &bundle, "1767225600", Some("not-yet-valid")),
        ("X509-31 only another trust domain's bundle", good.clone(), &elsewhere, within, Some("unknown-trust-domain")),
        ("signed by another root", foreign, &bundle, within, Some("unknown-authority")),
        ("X509-02 two URIs", two_uris, &bundle, within, Some("several-uri-names")),
        ("X509-01 no URI", no_uri, &bundle, within, Some("no-uri-name")),
        ("X509-13 a signing certificate", signing, &bundle, within, Some("signing-certificate")),
        ("cut short", good[..good.len() - 1].to_vec(), &bundle, within, Some("malformed-certificate")),
        ("not a certificate", b"\x30\x03\x02\x01\x05".to_vec(), &bundle, within, Some("malformed-certificate")),
        ("nothing", Vec::new(), &bundle, within, Some("unknown-format")),
        ("text", b"hello".to_vec(), &bundle, within, Some("unknown-format")),
    ];
    for (name, bytes, bundle, at, refused) in cases {
        let file = put(dir, "input", &bytes);
        let output = run(&["inspect", &file, "--bundle", bundle, "--at", at, "--output", "json"]);
        let shown = json(&output);
        match refused {
            None => {
                assert_eq!((code(&output), &shown["verdict"]), (0, &json!("accepted")), "{name}: {shown}");
                assert_eq!(
                    (&shown["reason"], &shown["spiffe_id"]),
                    (&Value::Null, &json!("spiffe://example.org/web")),
                    "{name}"
                );
            }
            Some(reason) => {
                assert_eq!((code(&output), &shown["verdict"]), (3, &json!("refused")), "{name}: {shown}");
                let known = shown["reason"].as_str().unwrap();
                assert!(known == reason || !known.is_empty() && is_family(known, reason), "{name}: {shown}");
            }
        }
        let human = run(&["inspect", &file, "--bundle", bundle, "--at", at]);
        assert_eq!(code(&human), code(&output), "{name}");
    }
    // Without a bundle nothing is verified, and that is said.
    let file = put(dir, "input", pem(&good));
    let output = run(&["inspect", &file, "--output", "json"]);
    assert_eq!((code(&output), &json(&output)["verdict"]), (0, &Value::Null));
    assert!(text(&run(&["inspect", &file]).stdout).contains("nothing was verified"));
    // Standard input.
    let mut child = program()
        .args(["inspect", "-", "--bundle", &bundle, "--at", within])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), pem(&good).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(code(&output) == 0 && text(&output.stdout).contains("accepted"), "{}", text(&output.stdout));
}

/// The verifier owns the exact words of the profile rules; here it is enough that it is one of them.
fn is_family(found: &str, wanted: &str) -> bool {
    let profile = ["several-uri-names", "no-uri-name", "signing-certificate"];
    profile.contains(&wanted) && bonafide_verifier::x509::ProfileError::CODES.contains(&found)
}

#[test]
fn inspect_gives_the_verifiers_verdict_on_tokens_and_bundles() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pair = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &key.serialize_der(),
    )
    .unwrap();
    let sign = |claims: Value| {
        let input = SigningInput::new(Algorithm::Es256, "key-1", claims.as_object().unwrap());
        let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    };
    let authority = JwtAuthority::new("key-1", &key.subject_public_key_info()).unwrap();
    let pki = Pki::new("example.org");
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let document = TrustBundle::new(trust_domain, [&pki.root], [authority], Some(7), None).unwrap().to_spiffe_json();
    let bundle = format!("example.org={}", put(dir, "bundle.json", &document));
    let claims =
        json!({ "sub": "spiffe://example.org/web", "aud": ["photo"], "exp": 1_800_000_300, "iat": 1_800_000_000 });
    let token = sign(claims.clone());
    let place = token.len() - 8;
    let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
    let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
    let cases: Vec<(&str, String, &str, &str, bool)> = vec![
        ("good", token.clone(), "photo", "1800000100", true),
        ("with a line break", format!("{token}\n"), "photo", "1800000100", true),
        ("JWT-13 another audience", token.clone(), "mail", "1800000100", false),
        ("JWT-11 expired", token.clone(), "photo", "1800000400", false),
        ("changed", changed, "photo", "1800000100", false),
        (
            "T-09 no exp",
            sign(json!({ "sub": "spiffe://example.org/web", "aud": ["photo"] })),
            "photo",
            "1800000100",
            false,
        ),
        ("not JSON", "eyJhbGciOiJub25lIn0.eHl6.".into(), "photo", "1800000100", false),
    ];
    for (name, token, audience, at, accepted) in cases {
        let file = put(dir, "token", &token);
        let output =
            run(&["inspect", &file, "--bundle", &bundle, "--audience", audience, "--at", at, "--output", "json"]);
        let shown = json(&output);
        assert_eq!(code(&output), if accepted { 0 } else { 3 }, "{name}: {shown}");
        assert_eq!(shown["reason"].is_null(), accepted, "{name}: {shown}");
        assert_eq!(shown["kind"], "jwt-svid", "{name}");
    }
    let file = put(dir, "token", &token);
    let shown = json(&run(&["inspect", &file, "--output", "json"]));
    assert_eq!((&shown["verdict"], &shown["claims"]["sub"]), (&Value::Null, &json!("spiffe://example.org/web")));
    let output = run(&["inspect", &file, "--bundle", &bundle]);
    assert_eq!(code(&output), 3, "no audience, no verdict in its favour: {}", text(&output.stdout));

    let output = run(&["inspect", &put(dir, "b.json", &document), "--output", "json"]);
    let shown = json(&output);
    assert_eq!((code(&output), &shown["kind"], &shown["sequence"]), (0, &json!("spiffe-bundle"), &json!(7)));
    assert_eq!(shown["verdict"], Value::Null, "a bundle by itself proves nothing: {shown}");
    assert_eq!(
        (&shown["jwt_authorities"][0]["kid"], shown["x509_authorities"].as_array().unwrap().len()),
        (&json!("key-1"), 1)
    );
    let output = run(&["inspect", &put(dir, "b.pem", pem(&pki.root)), "--output", "json"]);
    assert_eq!((code(&output), &json(&output)["kind"]), (0, &json!("x509-authorities")));
    let output = run(&["inspect", &put(dir, "b.json", "{\"keys\": 1}"), "--output", "json"]);
    assert_eq!(code(&output), 3, "{}", text(&output.stdout));
}

#[test]
fn a_join_that_no_ca_answers_ends_with_the_invitation() {
    let temp = tempfile::tempdir().unwrap();
    let invitation = Invitation::new(
        vec![CaAddress::parse("127.0.0.1:1").unwrap()],
        TrustDomain::parse("example.org").unwrap(),
        [1; 32],
        InvitationSecret::generate().unwrap(),
        SystemClock.now().saturating_add(Duration::from_secs(1)),
    )
    .unwrap();
    let join = put(temp.path(), "invitation", invitation.expose_secret_string().as_bytes());
    let (data, socket) = (temp.path().join("data"), temp.path().join("socket/agent.sock"));
    let output = program()
        .args(["run", "--join-file", &join, "--log-format", "json"])
        .args([std::ffi::OsStr::new("--data"), data.as_os_str(), std::ffi::OsStr::new("--socket"), socket.as_os_str()])
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(code(&output), 4, "{stderr}");
    assert!(stderr.contains("get a new one with `bonafide-ca node invite NAME`"), "{stderr}");
    let secret = invitation.expose_secret_string();
    assert!(!stderr.contains(&secret[20..60]), "T-12: the secret is in the log");
    assert!(!socket.exists() && !data.join("health.sock").exists(), "sockets are removed");
}

/// A CA in this process, by the system's clock.
struct Ca {
    runtime: tokio::runtime::Runtime,
    running: Option<bonafide_ca::Running>,
    data: PathBuf,
}

impl Ca {
    fn start(data: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut settings = bonafide_ca::Settings::new(data, Some(TrustDomain::parse("example.org").unwrap()));
        settings.listen = "127.0.0.1:0".parse().unwrap();
        let running = runtime.block_on(async {
            let running = bonafide_ca::start(settings, Arc::new(SystemClock)).await.unwrap();
            running.ready().await;
            running
        });
        Self { runtime, running: Some(running), data: data.to_path_buf() }
    }

    fn admin<T>(&self, ask: impl AsyncFnOnce(AdminApiClient<tonic::transport::Channel>) -> T) -> T {
        let path = self.data.join("admin.sock");
        self.runtime.block_on(async {
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let channel = Endpoint::from_static("http://ca").connect_with_connector(connector).await.unwrap();
            ask(AdminApiClient::new(channel)).await
        })
    }

    fn address(&self) -> String {
        self.running.as_ref().unwrap().node_address().to_string()
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
    }
}

/// Listens as systemd does to a unit with `Type=notify`.
struct ServiceManager {
    path: PathBuf,
    said: std::sync::mpsc::Receiver<String>,
}

impl ServiceManager {
    fn listen(path: PathBuf) -> Self {
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let (sender, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let lines = text(buffer.get(..length).unwrap());
                if lines.lines().any(|line| sender.send(line.to_owned()).is_err()) {
                    return;
                }
            }
        });
        Self { path, said }
    }

    /// All of these are said, one after the other; others may stand between.
    fn wait_for(&self, expected: &[&str]) {
        for wanted in expected {
            while self.said.recv_timeout(Duration::from_secs(20)).unwrap() != *wanted {}
        }
    }
}

/// An agent process, ended with the test.
struct Agent(Child);

impl Agent {
    fn ready_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut log = String::new();
            self.0.stderr.as_mut().unwrap().read_to_string(&mut log).unwrap();
            panic!("no ready line: {log}");
        }
        line
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_whole_life_by_the_commands_of_the_readme() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let ca = Ca::start(&dir.join("ca"));
    let invitation = ca.admin(async |mut admin| {
        let request = InviteNodeRequest { name: "n1".into(), ..InviteNodeRequest::default() };
        admin.invite_node(request).await.unwrap().into_inner().invitation
    });
    let told = ServiceManager::listen(dir.join("notify"));
    // By standard input: it is in no process list and in no file.
    let socket = "socket/agent.sock";
    let start = |join: Option<&str>| {
        let mut command = program();
        command.current_dir(dir).args(["run", "--data", "data", "--socket", socket, "--runtime-dir", "kept"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("NOTIFY_SOCKET", &told.path).env("WATCHDOG_USEC", "100000");
        if join.is_some() {
            command.args(["--join-file", "-"]).stdin(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        if let Some(join) = join {
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{join}\n").as_bytes()).unwrap();
        }
        Agent(child)
    };
    let mut agent = start(Some(&invitation));
    let path = dir.join(socket);
    assert_eq!(
        agent.ready_line(),
        format!("ready socket={} node=spiffe://example.org/bonafide/node/n1\n", path.display())
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(path.parent().unwrap()), mode(&path)),
        (0o755, 0o666),
        "every user's workloads get there, whatever umask the agent keeps for itself"
    );
    let at =
        |arguments: &[&str]| program().current_dir(dir).args(arguments).args(["--socket", socket]).output().unwrap();

    // Nothing registered: refused, with the explanation.
    let refused = at(&["fetch", "x509"]);
    assert_eq!(code(&refused), 3, "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("whoami"), "{}", text(&refused.stderr));
    let uid = rustix::process::geteuid().as_raw();
    ca.admin(async |mut admin| {
        let request = AddServiceRequest {
            path: "/web".into(),
            selectors: vec![format!("unix:uid:{uid}")],
            on: vec!["n1".into()],
            ..AddServiceRequest::default()
        };
        admin.add_service(request).await.unwrap();
    });
    // The fetch waits until what was registered has come; `whoami` shows the moment.
    assert_eq!(code(&at(&["fetch", "x509"])), 0);
    let whoami = json(&at(&["whoami", "--output", "json"]));
    assert_eq!(whoami["services"][0]["spiffe_id"], "spiffe://example.org/web", "{whoami}");
    assert_eq!(whoami["process"]["uid"], uid);
    let fetched = at(&["fetch", "x509", "--write", "out", "--output", "json"]);
    assert_eq!(code(&fetched), 0, "{}", text(&fetched.stderr));
    assert_eq!(json(&fetched)["svids"][0]["spiffe_id"], "spiffe://example.org/web");
    assert!(!text(&fetched.stdout).contains("PRIVATE KEY"), "a key is only ever written to a file");
    let mode = |name: &str| mode(&dir.join("out").join(name));
    assert_eq!((mode("svid.key"), mode("svid.pem"), mode("bundle.pem")), (0o600, 0o644, 0o644));
    let verdict = at_without_socket(dir, &["inspect", "out/svid.pem", "--bundle", "example.org=out/bundle.pem"]);
    assert_eq!(code(&verdict), 0, "{}", text(&verdict.stdout));
    assert_eq!(code(&at(&["fetch", "x509", "--id", "spiffe://example.org/other"])), 3);

    let jwt = at(&["fetch", "jwt", "--audience", "photo"]);
    assert_eq!(text(&jwt.stdout).trim().split('.').count(), 3, "{}", text(&jwt.stderr));
    put(dir, "token", &jwt.stdout);
    assert_eq!(code(&at(&["fetch", "bundle", "--write", "out"])), 0);
    let judged = ["inspect", "token", "--bundle", "example.org=out/bundle.json", "--audience", "photo"];
    let verdict = at_without_socket(dir, &judged);
    assert_eq!(code(&verdict), 0, "{}", text(&verdict.stdout));

    let address = ca.address();
    let live =
        at_without_socket(dir, &["inspect", &address, "--bundle", "example.org=out/bundle.pem", "--output", "json"]);
    assert_eq!(
        (code(&live), &json(&live)["spiffe_id"]),
        (0, &json!("spiffe://example.org/bonafide/ca")),
        "{}",
        text(&live.stderr)
    );

    let status = json(&at(&["status", "--output", "json"]));
    assert_eq!(status["node"], "spiffe://example.org/bonafide/node/n1");
    assert_eq!(status["services"][0]["spiffe_id"], "spiffe://example.org/web", "{status}");
    let refused = at(&["accept-epoch", "e"]);
    assert_eq!(code(&refused), 3, "{}", text(&refused.stderr));
    let doctor = at(&["doctor", "--data", "data", "--runtime-dir", "kept", "--output", "json"]);
    assert_eq!(code(&doctor), 0, "{}", text(&doctor.stdout));

    // F-21: drained, exit 0, nothing left behind; and a second start goes on.
    assert_eq!(agent.terminate(), Some(0));
    assert!(!path.exists() && !dir.join("data/health.sock").exists());
    told.wait_for(&["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]);
    let mut agent = start(None);
    assert!(agent.ready_line().ends_with("node=spiffe://example.org/bonafide/node/n1\n"));
    assert_eq!(code(&at(&["fetch", "x509"])), 0);
    // Another root is refused by name.
    let elsewhere = Invitation::new(
        vec![CaAddress::parse(&address).unwrap()],
        TrustDomain::parse("other.org").unwrap(),
        [9; 32],
        InvitationSecret::generate().unwrap(),
        SystemClock.now().saturating_add(Duration::from_secs(600)),
    )
    .unwrap();
    assert_eq!(agent.terminate(), Some(0));
    let join = put(dir, "elsewhere", elsewhere.expose_secret_string().as_bytes());
    let output = program()
        .current_dir(dir)
        .args(["run", "--data", "data", "--socket", socket, "--join-file", &join])
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("is a member of `example.org`"), "{}", text(&output.stderr));
}

fn at_without_socket(dir: &Path, arguments: &[&str]) -> Output {
    program().current_dir(dir).args(arguments).output().unwrap()
}
