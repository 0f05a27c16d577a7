//! Issuers of users, as an operator manages them.
#![expect(clippy::unwrap_used, reason = "a test ends where it does not find what it expects, also in its helpers")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A CA that runs; it ends with this value.
struct Ca {
    directory: TempDir,
    process: Child,
}

impl Ca {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_bonafide-ca"))
            .args(["run", "--listen", "127.0.0.1:0", "--trust-domain", "example.org", "--data"])
            .arg(directory.path().join("ca"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready ") && !line.contains("tokens="), "{line}");
        Self { directory, process }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide-ca"));
        command.arg("issuer").args(arguments).arg("--data").arg(self.directory.path().join("ca")).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--output", "json"]].concat())).unwrap()
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","use":"sig",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

#[test]
fn issuers_are_added_listed_shown_and_removed() {
    let ca = Ca::start();
    assert!(ca.ok(&["list"]).contains("no issuers"));
    let jwks = ca.file("jwks.json", JWKS);
    let add = ["add", "corp", "https://login.example.com", "--audience", "web", "--jwks-file", &jwks];
    let added = ca.ok(&[add.as_slice(), &["--roles-claim", "/realm_access/roles"]].concat());
    assert_eq!(added, "registered issuer corp for https://login.example.com; 1 key\n");
    let shown = ca.json(&["show", "corp"]);
    assert_eq!((&shown["keys"], &shown["keys_from_file"]), (&serde_json::json!(["k1"]), &true.into()));
    assert_eq!((&shown["algorithms"], &shown["keys_until"]), (&serde_json::json!(["ES256", "RS256"]), &Value::Null));
    assert_eq!(ca.json(&["list"])["issuers"][0], shown);
    assert!(ca.ok(&["list"]).lines().nth(1).unwrap().starts_with("corp"));
    // Down since before it was registered: registered all the same, and told.
    let down =
        ca.ok(&["add", "down", "https://127.0.0.1:1", "--audience", "web", "--ca-file", &ca.file("root.pem", ROOT)]);
    assert!(down.contains("could not be fetched yet") && down.contains("127.0.0.1"), "{down}");
    assert_eq!(ca.json(&["show", "down"])["failure_reason"], "issuer-unreachable");

    for (what, arguments, code, text) in [
        ("the name is taken", add.to_vec(), 3, "registered already"),
        (
            "the URL is taken",
            vec!["add", "b", "https://login.example.com", "--audience", "w"],
            3,
            "a user has one name",
        ),
        ("no https", vec!["add", "b", "http://x", "--audience", "w"], 3, "is no issuer's URL"),
        ("no name", vec!["add", "spiffe", "https://x", "--audience", "w"], 2, "no issuer's name"),
        ("no audience", vec!["add", "b", "https://x"], 2, "--audience"),
        ("no algorithm", vec!["add", "b", "https://x", "--audience", "w", "--algorithm", "HS256"], 2, "one of RS256"),
        ("no file", vec!["add", "b", "https://x", "--audience", "w", "--jwks-file", "/no/such"], 2, "cannot read"),
        ("not asked", vec!["refresh", "corp"], 3, "come from a file"),
        ("not there", vec!["refresh", "down"], 3, "did not give its keys"),
        ("unknown", vec!["show", "nobody"], 3, "there is no issuer `nobody`"),
        ("unknown", vec!["remove", "nobody"], 3, "issuer-unknown"),
    ] {
        let (found, told) = ca.refused(&arguments);
        assert!(found == code && told.contains(text), "{what}: {found} {told}");
    }
    assert!(ca.ok(&["remove", "down"]).starts_with("removed issuer down"));
    assert_eq!(ca.json(&["list"])["issuers"].as_array().unwrap().len(), 1);
}

/// Of nobody; it only has to be a certificate.
const ROOT: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBeTCCAR+gAwIBAgIUdq2MQ8RYzTtpiXu02IvgBrXOC0AwCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyODIwMDMxNloYDzIwODEwODMxMjAw\n\
MzE2WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AATCW5AbKjLpxHDndQguY4Ap71dzFtdzX0RjTQoB2pV/hmwgMzTqTG5Hp1ZziV3q\n\
tBck/9WsJjvnUd1OTD37jqNzo1MwUTAdBgNVHQ4EFgQUT3AANuH0zArl/1IcOMeC\n\
hNOaiI8wHwYDVR0jBBgwFoAUT3AANuH0zArl/1IcOMeChNOaiI8wDwYDVR0TAQH/\n\
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAoeUs7MR63jPHw22EC3HSzN8ETtM+\n\
/3UBf6Nz4coSAnICIG9u7ss/8R267pQlMJvtSkUdi9za5JmdmUU4V9Vv5aDd\n\
-----END CERTIFICATE-----\n";
