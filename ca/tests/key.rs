//! `bonafide-ca key` as an operator uses it.
#![expect(clippy::unwrap_used, reason = "a test ends where it does not find what it expects, also in its helpers")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use bonafide_verifier::{
    key_records::{CallerKey, KeyRecords, Secrets},
    spiffe::TrustDomain,
};
use serde_json::Value;
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide-ca"));
        command.current_dir(self.0.path()).arg("key").args(arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.key(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    /// The exit code and the one line on standard error.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.key(arguments);
        assert!(output.stdout.is_empty(), "{arguments:?}");
        (output.status.code().unwrap(), stderr(&output))
    }

    fn create(&self, kind: &str, id: &str, secret: &str) -> String {
        self.ok(&[
            "create",
            "--file",
            "keys.toml",
            "--kind",
            kind,
            "--owner",
            "spiffe://example.org/export",
            "--audience",
            "spiffe://example.org/config",
            "--role",
            "reader",
            "--id",
            id,
            "--secret-file",
            secret,
        ])
    }

    fn records(&self) -> KeyRecords {
        KeyRecords::read(&self.path("keys.toml"), &TrustDomain::parse("example.org").unwrap()).unwrap()
    }

    fn caller_key(&self, name: &str) -> CallerKey {
        CallerKey::parse(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_key_is_created_listed_rotated_and_revoked() {
    let folder = Folder::new();
    for (kind, id) in [("api-key", "export"), ("shared-secret", "batch")] {
        let said = folder.create(kind, id, &format!("{id}.key"));
        assert!(said.starts_with(&format!("{kind} {id}.1 for spiffe://example.org/export, good until ")), "{said}");
        assert_eq!((mode(&folder.path("keys.toml")), mode(&folder.path(&format!("{id}.key")))), (0o600, 0o600));
        assert_eq!(folder.caller_key(&format!("{id}.key")).key_id(), format!("{id}.1"));
    }
    let records = folder.records();
    let (CallerKey::ApiKey(key), Secrets::ApiKey(hashes)) =
        (folder.caller_key("export.key"), &records.records()[0].secrets)
    else {
        unreachable!("an API key was made")
    };
    assert_eq!(key.hash(), hashes[0].secret);

    let rotated = folder.json(&["create", "--file", "keys.toml", "--rotate", "export", "--secret-file", "new.key"]);
    assert_eq!((&rotated["key_id"], &rotated["replaced"]), (&"export.2".into(), &serde_json::json!(["export.1"])));
    let (code, said) =
        folder.refused(&["create", "--file", "keys.toml", "--rotate", "export", "--secret-file", "more.key"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("(two-secrets)") && !folder.path("more.key").exists(), "{said}");

    let listed = folder.json(&["list", "--file", "keys.toml"]);
    let ids: Vec<_> = listed["keys"][0]["keys"].as_array().unwrap().iter().map(|key| key["key_id"].clone()).collect();
    assert_eq!(ids, ["export.1", "export.2"]);
    assert_eq!(listed["keys"][1]["max_lifetime_s"], 600);

    assert_eq!(
        folder.ok(&["revoke", "export.1", "--file", "keys.toml"]),
        "revoked export.1; `export.2` is still good\n"
    );
    assert_eq!(folder.ok(&["revoke", "batch", "--file", "keys.toml"]), "revoked batch.1\n");
    let left: Vec<_> = folder.records().records()[0].keys().map(|(key_id, _)| key_id.to_string()).collect();
    assert_eq!((folder.records().records().len(), left), (1, vec!["export.2".to_owned()]));
    assert_eq!(folder.ok(&["revoke", "export.2", "--file", "keys.toml"]), "revoked export.2\n");
    assert!(folder.ok(&["list", "--file", "keys.toml"]).contains("no keys"));
    let (code, said) = folder.refused(&["revoke", "export", "--file", "keys.toml"]);
    assert_eq!(code, 3, "{said}");
    // What was written aside is gone.
    let mut names: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["batch.key", "export.key", "keys.toml", "keys.toml.wrap", "new.key"]);
    assert_eq!(mode(&folder.path("keys.toml.wrap")), 0o600);
}

#[test]
fn no_secret_is_printed() {
    let folder = Folder::new();
    let mut said = folder.create("api-key", "a", "a.key") + &folder.create("shared-secret", "b", "b.key");
    said += &folder.ok(&["list", "--file", "keys.toml"]);
    said += &folder.json(&["list", "--file", "keys.toml"]).to_string();
    let secret = |name: &str| fs::read_to_string(folder.path(name)).unwrap();
    let api_key = secret("a.key");
    let shared = secret("b.key");
    let shared =
        shared.lines().find_map(|line| line.strip_prefix("secret = \"")).unwrap().trim_end_matches('"').to_owned();
    for secret in [api_key.trim_end().rsplit('.').next().unwrap(), shared.as_str()] {
        assert_eq!(secret.len(), 43);
        assert!(!said.contains(secret));
    }
    let stored = fs::read_to_string(folder.path("keys.toml")).unwrap();
    assert!(!stored.contains(&shared) && !stored.contains(api_key.trim_end().rsplit('.').next().unwrap()));
}

/// The file of records alone gives no secret away: what a service needs of it is wrapped under a key in another file.
#[test]
fn shared_secrets_are_wrapped() {
    let folder = Folder::new();
    let base = [
        "create",
        "--file",
        "keys.toml",
        "--kind",
        "shared-secret",
        "--owner",
        "spiffe://example.org/a",
        "--audience",
        "a",
    ];
    let create = |more: &[&'static str]| [base.as_slice(), more].concat();
    fs::create_dir(folder.path("elsewhere")).unwrap();
    folder.ok(&create(&["--id", "a", "--secret-file", "a.key", "--wrapping-key", "elsewhere/wrap"]));
    assert_eq!(mode(&folder.path("elsewhere/wrap")), 0o600);
    let secret = |name: &str| {
        let records = folder.records();
        let record = records.records().iter().find(|record| *record.id == *name).unwrap();
        let Secrets::Shared(secrets) = &record.secrets else { unreachable!("a shared secret was made") };
        secrets[0].secret.expose_secret().to_string()
    };
    let first = secret("a");
    assert!(fs::read_to_string(folder.path("a.key")).unwrap().contains(&first), "the caller's side is the same");
    let file = || fs::read_to_string(folder.path("keys.toml")).unwrap();
    assert!(!file().contains(&first) && file().contains("wrapping-key = \"elsewhere/wrap\""), "{}", file());
    // A further one goes under the same key, and one that was put in by hand is wrapped with the next change.
    let by_hand = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let entry = format!(
        "[[key]]\nid = \"hand\"\nkind = \"shared-secret\"\nowner = \"spiffe://example.org/b\"\naudience = \"a\"\n\
         expires = 2099-01-01T00:00:00Z\n[[key.secret]]\nid = \"hand.1\"\nvalue = \"{by_hand}\"\ncreated = 2026-11-24T00:00:00Z\n"
    );
    fs::write(folder.path("keys.toml"), format!("{}\n{entry}", file())).unwrap();
    folder.ok(&create(&["--id", "b", "--secret-file", "b.key"]));
    assert!(!file().contains(by_hand), "{}", file());
    assert_eq!((secret("a"), secret("hand").as_str()), (first, by_hand));
    let (code, said) = folder.refused(&create(&["--id", "c", "--secret-file", "c.key", "--wrapping-key", "other"]));
    assert_eq!(code, 2, "{said}");
    assert!(!folder.path("other").exists() && !folder.path("c.key").exists());
    // Without its key, under another one, and with one that others can read, the file is of no use, and says why.
    let wrap = folder.path("elsewhere/wrap");
    let key = fs::read_to_string(&wrap).unwrap();
    let read = || KeyRecords::read(&folder.path("keys.toml"), &TrustDomain::parse("example.org").unwrap());
    for (text, mode, told) in [
        ("x".to_owned(), 0o600, "is no wrapping key"),
        (format!("{}{}", if key.starts_with('B') { 'C' } else { 'B' }, &key[1..]), 0o600, "does not open"),
        (key.clone(), 0o644, "chmod 600"),
    ] {
        fs::write(&wrap, text).unwrap();
        fs::set_permissions(&wrap, fs::Permissions::from_mode(mode)).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains(told) && !error.contains(key.trim_end()), "{error}");
    }
    fs::remove_file(&wrap).unwrap();
    assert!(read().unwrap_err().to_string().contains("elsewhere/wrap"), "the missing file is named");
    let (code, said) = folder.refused(&["list", "--file", "keys.toml"]);
    assert_eq!(code, 1, "{said}");
}

#[test]
fn what_is_refused_leaves_no_file() {
    let folder = Folder::new();
    let create = |more: &[&str]| {
        let base = ["create", "--file", "keys.toml", "--secret-file", "new.key"];
        folder.refused(&[base.as_slice(), more].concat())
    };
    let owner = |owner: &'static str| ["--kind", "api-key", "--audience", "a", "--owner", owner];
    let good = owner("spiffe://example.org/a");
    for (arguments, text) in [
        (owner("spiffe://example.org/bonafide/ca").to_vec(), "Bonafide's own IDs"),
        (owner("spiffe://example.org").to_vec(), "has no path"),
        (owner("example.org/a").to_vec(), "begins with `spiffe://`"),
        (
            vec!["--kind", "password", "--audience", "a", "--owner", "spiffe://example.org/a"],
            "`api-key` or `shared-secret`",
        ),
        (vec!["--kind", "api-key", "--owner", "spiffe://example.org/a"], "--audience"),
        ([good.as_slice(), &["--role", "Admin"]].concat(), "is no role"),
        ([good.as_slice(), &["--id", "a b"]].concat(), "ID of a key"),
        ([good.as_slice(), &["--max-lifetime", "5m"]].concat(), "shared secrets"),
        (
            vec![
                "--kind",
                "shared-secret",
                "--audience",
                "a",
                "--owner",
                "spiffe://example.org/a",
                "--max-lifetime",
                "11m",
            ],
            "1 to 600 s",
        ),
        ([good.as_slice(), &["--rotate", "a"]].concat(), "cannot be used with"),
    ] {
        let (code, said) = create(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
        assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0, "{arguments:?}");
    }
    folder.create("api-key", "a", "a.key");
    let before = fs::read_to_string(folder.path("keys.toml")).unwrap();
    // A secret that is there is not written over, and another trust domain's owner is not taken.
    let (code, said) =
        folder.refused(&[["create", "--file", "keys.toml", "--secret-file", "a.key"].as_slice(), &good].concat());
    assert_eq!(code, 2, "{said}");
    let (code, said) = create(&owner("spiffe://example.com/a"));
    assert_eq!(code, 2, "{said}");
    let (code, _) = create(&["--rotate", "nobody"]);
    assert_eq!(code, 3);
    assert_eq!(fs::read_to_string(folder.path("keys.toml")).unwrap(), before);
    assert!(!folder.path("new.key").exists());
    // A file that others can read holds no keys.
    fs::set_permissions(folder.path("keys.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = folder.refused(&["list", "--file", "keys.toml"]);
    assert_eq!(code, 2);
    assert!(said.contains("chmod 600"), "{said}");
    let (code, _) = folder.refused(&["list", "--file", "nothing.toml"]);
    assert_eq!(code, 1);
}

#[test]
fn several_at_once_lose_nothing() {
    let folder = Folder::new();
    let children: Vec<_> = (0..8)
        .map(|number| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide-ca"));
            command.current_dir(folder.0.path()).stdout(Stdio::null()).args([
                "key",
                "create",
                "--file",
                "keys.toml",
                "--kind",
                "api-key",
                "--owner",
                "spiffe://example.org/a",
                "--audience",
                "a",
                "--id",
                &format!("k{number}"),
                "--secret-file",
                &format!("k{number}.key"),
            ]);
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(folder.records().records().len(), 8);
}

#[test]
fn help_is_a_success() {
    let folder = Folder::new();
    for command in [["--help"].as_slice(), &["create", "--help"], &["list", "--help"], &["revoke", "--help"]] {
        assert!(folder.ok(command).contains("Usage:"));
    }
}
