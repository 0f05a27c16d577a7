//! `bonafide-agent call` as its users call it, against a server that is a raw socket.
#![expect(clippy::unwrap_used, reason = "a test ends where it does not find what it expects, also in its helpers")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread::JoinHandle,
};

use bonafide_verifier::{
    authenticate::{Authenticators, Found, HeaderView, Presented},
    caller::{Caller, ProofKind},
    clock::{Clock, SystemClock},
    identity::Identity,
    key_records::{CallerKey, KeyRecords},
    spiffe::TrustDomain,
};

/// Answers one request with these bytes, and gives what it was asked.
fn server(answer: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = socket.read(&mut buffer).unwrap();
            request.extend_from_slice(buffer.get(..read).unwrap());
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert_ne!(read, 0, "{text}");
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                socket.write_all(answer.as_bytes()).unwrap();
                return text;
            }
        }
    });
    (url, asked)
}

fn call(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide-agent"));
    command.env_remove("SPIFFE_ENDPOINT_SOCKET").stdin(Stdio::null()).arg("call").args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(folder: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: b\r\n\r\nhello";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
const LIMITED: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
const ELSEWHERE: &str = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";

#[test]
fn a_request_with_an_api_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = file(folder.path(), "key", &format!("export.1.{SECRET}\n"), 0o600);
    let body = file(folder.path(), "body", "{\"a\":1}", 0o644);
    let answer = folder.path().join("answer");
    let (url, asked) = server(OK);
    let output = call(&[
        &format!("{url}/v1/a?b=c"),
        "--key-file",
        key.to_str().unwrap(),
        "-d",
        &format!("@{}", body.display()),
        "-H",
        "content-type: application/json",
        "-H",
        "x-trace: 7",
        "-i",
        "-o",
        answer.to_str().unwrap(),
    ]);
    assert_eq!((code(&output), text(&output.stderr)), (0, String::new()));
    let asked = asked.join().unwrap();
    let mut lines = asked.lines();
    assert_eq!(lines.next(), Some("POST /v1/a?b=c HTTP/1.1"));
    let authority = url.strip_prefix("http://").unwrap();
    for line in [
        &format!("authorization: ApiKey export.1.{SECRET}"),
        &format!("host: {authority}"),
        "content-type: application/json",
        "x-trace: 7",
        "content-length: 7",
        "{\"a\":1}",
    ] {
        assert_eq!(asked.lines().filter(|found| *found == line).count(), 1, "{line}: {asked}");
    }
    let answered = fs::read_to_string(&answer).unwrap();
    assert_eq!(answered, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: b\r\n\r\nhello");
    assert_eq!(fs::metadata(&answer).unwrap().permissions().mode() & 0o777, 0o600);
}

struct Authorization(String);

impl HeaderView for Authorization {
    fn find(&self, name: &str) -> Found<'_> {
        if name == "authorization" { Found::Once(self.0.as_bytes()) } else { Found::Absent }
    }
}

#[test]
fn a_request_with_a_minted_token_that_the_service_takes() {
    let folder = tempfile::tempdir().unwrap();
    let records = KeyRecords::parse(
        &format!(
            r#"
            version = 1
            [[key]]
            id = "export"
            kind = "shared-secret"
            owner = "spiffe://example.org/export"
            audience = "spiffe://example.org/config"
            roles = ["reader"]
            expires = 2099-01-01T00:00:00Z
            [[key.secret]]
            id = "export.1"
            value = "{SECRET}"
            created = 2026-11-24T00:00:00Z
            "#
        ),
        &TrustDomain::parse("example.org").unwrap(),
    )
    .unwrap();
    let key = CallerKey::of_shared_secret(records.records().first().unwrap()).unwrap();
    let key = file(folder.path(), "key", &key.expose_secret_file(), 0o600);
    let (url, asked) = server(OK);
    let output = call(&[&url, "--key-file", key.to_str().unwrap()]);
    assert_eq!((code(&output), text(&output.stdout)), (0, "hello".to_owned()), "{}", text(&output.stderr));
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("GET / HTTP/1.1\r\n") && !asked.contains(SECRET), "{asked}");
    let value = asked.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap().to_owned();

    let (identity, _publisher) = Identity::published(Arc::new(SystemClock));
    let service = Authenticators::builder(records.trust_domain().clone(), identity)
        .audience("spiffe://example.org/config")
        .key_records(records)
        .build()
        .unwrap();
    let headers = Authorization(value);
    let presented =
        Presented { connection: None, session: None, headers: &headers, address: None, at: SystemClock.now() };
    let caller: Caller = service.authenticate(&presented).unwrap().unwrap();
    assert_eq!((caller.service().unwrap().path(), caller.proof().kind), ("/export", ProofKind::SharedSecret));
    assert_eq!(caller.asserted_roles(), Some(caller.granted_roles()));
}

#[test]
fn what_the_answer_means_for_the_exit_code() {
    for (answer, arguments, expected) in [
        (NOT_FOUND, [].as_slice(), 0),
        (NOT_FOUND, &["-f"], 1),
        (FORBIDDEN, &["-f"], 3),
        (LIMITED, &["-f"], 4),
        // Not followed: no credential goes where it was not sent.
        (ELSEWHERE, &["-f"], 0),
    ] {
        let (url, asked) = server(answer);
        let output = call(&[&[url.as_str()], arguments].concat());
        assert_eq!(code(&output), expected, "{answer}: {}", text(&output.stderr));
        asked.join().unwrap();
    }
}

#[test]
fn what_is_refused_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let open = file(folder.path(), "open", &format!("export.1.{SECRET}\n"), 0o644);
    let wrong = file(folder.path(), "wrong", SECRET, 0o600);
    let nowhere = folder.path().join("none");
    let url = "http://127.0.0.1:9";
    for (arguments, expected, part) in [
        (vec!["https://photo.internal/"], 2, "--expect"),
        (vec!["http://photo.internal/"], 2, "in clear"),
        (vec![url, "-H", "Authorization: Bearer s3cret"], 2, "arguments"),
        (vec![url, "-H", "s3cret"], 2, "Name: value"),
        (vec![url, "-X", "A B"], 2, "no method"),
        (vec![url, "--key-file", open.to_str().unwrap()], 2, "chmod 600"),
        (vec![url, "--key-file", wrong.to_str().unwrap()], 2, "not valid TOML"),
        (vec![url, "--key-file", nowhere.to_str().unwrap()], 1, "cannot read"),
        (vec![url, "-d", "@/nothing/there"], 1, "cannot read"),
        (vec![url, "--jwt", "a", "--key-file", "b"], 2, "cannot be used with"),
        (vec![url, "--bundle", "a"], 2, "--expect"),
        (
            vec!["https://127.0.0.1:9/", "--expect", "spiffe://example.org/a", "--bundle", wrong.to_str().unwrap()],
            2,
            "--bundle=",
        ),
        (vec![url, "--jwt", "a", "--socket", nowhere.to_str().unwrap()], 4, "is the agent running"),
        (
            vec![
                "https://127.0.0.1:9/",
                "--expect",
                "spiffe://example.org/a",
                "--timeout",
                "1",
                "--socket",
                nowhere.to_str().unwrap(),
            ],
            4,
            "no identity",
        ),
    ] {
        let output = call(&arguments);
        let said = text(&output.stderr);
        assert_eq!(code(&output), expected, "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(!said.contains("s3cret") && !said.contains(SECRET), "{said}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = call(&[&format!("http://{closed}/")]);
    assert_eq!(code(&output), 4, "{}", text(&output.stderr));
}
