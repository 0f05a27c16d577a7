//! `bonafide-ca policy`, as an author of policies uses it.
#![expect(clippy::unwrap_used, reason = "a test ends where it does not find what it expects, also in its helpers")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const POLICY: &str = r#"version = 1
[accept]
api-key = { until = 2027-03-31 }
[roles]
reader = []
[[allow]]
name    = "exporters read their limits"
callers = ["/export", "/batch/*", "role:reader"]
http    = ["GET /v1/config/{key}", "GET /v1/watch"]
grpc    = ["config.v1.Config/Get"]
proof   = "api-key"
limit   = "100/s burst 200"
[[allow]]
name    = "owners change their photos"
callers = ["/photo"]
http    = ["PUT /v1/images/{id}"]
user    = "required"
scope   = "photo.write"
when    = "resource.owner == user.sub"
[[deny]]
name    = "nothing from the old batch host"
callers = ["/batch/legacy"]
[[case]]
name   = "an exporter reads"
caller = "/export"
op     = "GET /v1/config/x"
proof  = "api-key"
expect = "allow"
rule   = "exporters read their limits"
[[case]]
caller = "/photo"
op     = "PUT /v1/images/1"
user   = "john"
scope  = "photo.write"
expect = "second-stage"
"#;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_bonafide-ca"))
            .arg("policy")
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("BONAFIDE_TRUST_DOMAIN")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

const THEN: [&str; 2] = ["--at", "2026-11-24T00:00:00Z"];

#[test]
fn check_names_place_and_remedy() {
    let files = Files::new();
    files.write("good.toml", POLICY);
    let (code, out, _) = files.run(&[&["check", "good.toml"], &THEN[..]].concat());
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("good.toml: good, 3 rules, version "), "{out}");
    let (code, out, _) = files.run(&["check", "good.toml", "--at", "2027-03-15T00:00:00Z"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("good.toml:3:1: warning: `api-key` is refused from 2027-04-01T00:00:00Z on"), "{out}");
    files.write("bad.toml", &POLICY.replace("callers = [\"/photo\"]", "caller = [\"/photo\"]"));
    let (code, out, err) = files.run(&[&["check", "bad.toml"], &THEN[..]].concat());
    assert_eq!(code, 3, "{out}{err}");
    assert!(
        out.contains(
            "bad.toml:15:1: error: `caller` is not known in `[[allow]]` (unknown-key); did you mean `callers`?"
        ),
        "{out}"
    );
    let (code, out, _) = files.run(&[&["check", "bad.toml", "--output", "json"], &THEN[..]].concat());
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["good"], &json["findings"][1]["line"]), (3, &false.into(), &15.into()), "{out}");
    let (code, _, err) = files.run(&["check", "missing.toml"]);
    assert_eq!(code, 1, "{err}");
    assert_eq!(files.run(&["check"]).0, 2);
}

#[test]
fn explain_names_the_rule_or_the_nearest() {
    let files = Files::new();
    files.write("p.toml", POLICY);
    let explain = |arguments: &[&str]| files.run(&[&["explain", "p.toml"], arguments, &THEN[..]].concat());
    let (code, out, err) = explain(&["--caller", "/export", "--op", "GET /v1/config/x", "--proof", "api-key"]);
    assert_eq!((code, out.as_str()), (0, "allow by the rule `exporters read their limits`\n"), "{err}");
    // What speaks against a credential is told, and no rule that has nothing to do with it.
    let (_, out, _) = explain(&["--caller", "/export", "--op", "GET /v1/config/x", "--proof", "shared-secret"]);
    let told = "the file accepts no `shared-secret`; `[accept]` would have to name it, `shared-secret = { until = … }`";
    let expected = format!("deny (credential-not-accepted)\n{told}\nmatching: exporters read their limits\n");
    assert_eq!(out, expected);
    let (code, out, _) = explain(&["--caller", "/export", "--op", "POST /v1/watch"]);
    assert_eq!(code, 0);
    assert!(out.contains("but the method is POST, the rule has `GET /v1/watch`"), "{out}");
    let photo = ["--caller", "/photo", "--op", "PUT /v1/images/1", "--user", "john", "--scope", "photo.write"];
    let (_, out, _) = explain(&[&photo[..], &["--fact", "owner=jane", "--output", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["answer"], &json["why"]), (&"deny".into(), &"condition-false".into()), "{out}");
    // A user who calls is no service, and says so with a proof of users alone.
    let (code, out, _) = explain(&["--caller", "corp:charlie", "--op", "GET /v1/watch"]);
    assert_eq!(code, 0);
    assert!(out.contains("the user `corp:charlie` calls, and the rule is for services"), "{out}");
    let (code, _, err) = explain(&["--caller", "corp:charlie", "--op", "GET /v1/watch", "--proof", "x509"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("`x509` proves a service, and the caller is a user"), "{err}");
    let (code, _, err) = explain(&["--caller", "/export", "--op", "GET /v1/watch", "--scope", "a"]);
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = explain(&["--caller", "/export", "--op", "GET /a/../b"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("segment `.` or `..` at offset 3"), "{err}");
}

#[test]
fn test_shows_what_differs() {
    let files = Files::new();
    files.write("p.toml", POLICY);
    let (code, out, err) = files.run(&[&["test", "p.toml"], &THEN[..]].concat());
    assert_eq!((code, out.as_str()), (0, "2 passed, 0 failed\n"), "{err}");
    files.write("cases.toml", "version = 1\n[[case]]\ncaller = \"/x\"\nop = \"GET /v1/watch\"\nexpect = \"allow\"\n");
    let (code, out, _) = files.run(&[&["test", "p.toml", "--cases", "cases.toml"], &THEN[..]].concat());
    assert_eq!(code, 3);
    assert!(out.contains("cases.toml:2: GET /v1/watch\n  - allow\n  + deny\n"), "{out}");
}

#[test]
fn diff_tells_who_may_do_what_only_under_one() {
    let files = Files::new();
    files.write("old.toml", POLICY);
    files.write("new.toml", &POLICY.replace(", \"GET /v1/watch\"", ""));
    let (code, out, _) = files.run(&[&["diff", "old.toml", "old.toml"], &THEN[..]].concat());
    assert_eq!((code, out.as_str()), (0, "no caller may do more or less\n"));
    let (code, out, err) = files.run(&[&["diff", "old.toml", "new.toml", "--output", "json"], &THEN[..]].concat());
    assert_eq!(code, 0, "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let changes = json["changes"].as_array().unwrap();
    assert!(changes.iter().all(|change| change["operation"] == "GET /v1/watch"), "{out}");
    assert!(changes.iter().any(|change| change["caller"] == "spiffe://example.org/export"), "{out}");
}
