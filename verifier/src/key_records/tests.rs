//! Which files of key records are taken, and what the records then say.

use super::*;

const API_KEY: &str = r#"
[[key]]
id = "export"
kind = "api-key"
owner = "spiffe://example.org/export"
audience = "spiffe://example.org/config"
roles = ["reader"]
expires = 2027-03-31T00:00:00Z
[[key.secret]]
id = "export.1"
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
created = 2026-11-24T00:00:00Z
"#;

const SHARED: &str = r#"
[[key]]
id = "photo"
kind = "shared-secret"
owner = "spiffe://example.org/photo"
audience = "spiffe://example.org/config"
subject = "photo"
max-lifetime-s = 300
expires = 2027-03-31T00:00:00+02:00
[[key.secret]]
id = "photo.1"
value = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
created = 2026-11-24T00:00:00Z
[[key.secret]]
id = "photo.2"
value = "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
created = 2026-11-25T00:00:00Z
"#;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

#[cfg(feature = "policy-file")]
mod files {
    use super::*;
    use crate::{shared_secret::SharedSecretError, spiffe::SpiffeId};

    fn parse(text: &str) -> Result<KeyRecords, KeyRecordsError> {
        KeyRecords::parse(&format!("version = 1\n{text}"), &domain())
    }

    #[test]
    fn what_a_file_says() {
        let records = parse(&format!("{API_KEY}{SHARED}")).unwrap();
        let [export, photo] = records.records() else { panic!("two records") };
        assert_eq!((export.kind(), photo.kind()), (KeyKind::ApiKey, KeyKind::SharedSecret));
        assert_eq!((&*export.subject, &*photo.subject), ("spiffe://example.org/export", "photo"));
        assert_eq!((export.most_lifetime, photo.most_lifetime), (MOST_LIFETIME, Duration::from_secs(300)));
        assert_eq!(photo.expires_at.to_string(), "2027-03-30T22:00:00Z");
        assert!(photo.has_expired(photo.expires_at) && !export.has_expired(photo.expires_at));
        let keys: Vec<_> = photo.keys().map(|(key_id, created)| format!("{key_id} {created}")).collect();
        assert_eq!(keys, ["photo.1 2026-11-24T00:00:00Z", "photo.2 2026-11-25T00:00:00Z"]);
        assert!(matches!(records.named("photo.2"), Some(Named::Shared(entry)) if *entry.keyed.key_id == *"photo.2"));
        assert!(matches!(records.named("export.1"), Some(Named::ApiKey(_))));
        assert!(records.named("photo").is_none());
        assert_eq!(records.of_subject("photo").count(), 2);
        assert_eq!(records.of_subject("spiffe://example.org/export").count(), 0, "an API key signs nothing");
        assert_eq!(parse("").unwrap().records().len(), 0);
    }

    #[test]
    fn what_is_written_reads_back() {
        let records = parse(&format!("{API_KEY}{SHARED}")).unwrap();
        let written = records.expose_secret_toml();
        let again = KeyRecords::parse(&written, &domain()).unwrap();
        assert_eq!(*again.expose_secret_toml(), *written);
        assert!(written.contains("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"));
        let shown = format!("{records:?} {:?}", records.records());
        assert!(!shown.contains("AQFBgc") && !shown.contains("9f86d0"), "{shown}");
    }

    #[test]
    fn what_is_refused_and_where() {
        type F = KeyRecordFlaw;
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        let api = |from: &str, to: &str| API_KEY.replacen(from, to, 1);
        let shared = |from: &str, to: &str| SHARED.replacen(from, to, 1);
        let expected = |member, expected| F::Type { member, expected };
        let date = "a date and time with its offset, such as 2027-03-31T00:00:00Z";
        let third = "[[key.secret]]\nid = \"photo.3\"\nvalue = \"IAEC\"\ncreated = 2026-11-25T00:00:00Z\n";
        let cases: Vec<(&str, String, (usize, usize), F)> = vec![
            ("not TOML", "x".into(), (2, 2), F::Syntax),
            ("T-27 unknown member of the file", "x = 1".into(), (2, 1), F::UnknownMember { member: "x".into() }),
            ("T-27 of a record", api("roles", "rolls"), (8, 1), F::UnknownMember { member: "rolls".into() }),
            (
                "T-27 of another kind",
                api("roles", "subject = \"x\"\nroles"),
                (8, 1),
                F::UnknownMember { member: "subject".into() },
            ),
            ("T-27 of a secret", api("sha256", "sha512"), (12, 1), F::UnknownMember { member: "sha512".into() }),
            ("a member twice", api("kind", "id = \"b\"\nkind"), (5, 1), F::Syntax),
            ("no kind", api("kind = \"api-key\"", ""), (3, 1), F::Missing { member: "kind" }),
            ("no owner", api("owner = \"spiffe://example.org/export\"", ""), (3, 1), F::Missing { member: "owner" }),
            (
                "no audience",
                api("audience = \"spiffe://example.org/config\"", ""),
                (3, 1),
                F::Missing { member: "audience" },
            ),
            ("no end", api("expires = 2027-03-31T00:00:00Z", ""), (3, 1), F::Missing { member: "expires" }),
            ("a date alone", api("2027-03-31T00:00:00Z", "2027-03-31"), (9, 11), expected("expires", date)),
            ("no offset", api("2027-03-31T00:00:00Z", "2027-03-31T00:00:00"), (9, 11), expected("expires", date)),
            (
                "a date as text",
                api("2027-03-31T00:00:00Z", "\"2027-03-31T00:00:00Z\""),
                (9, 11),
                expected("expires", date),
            ),
            ("kind", api("api-key", "apikey"), (5, 8), F::Kind),
            ("id", api("\"export\"", "\"ex port\""), (3, 1), F::Id { id: "ex port".into() }),
            ("id of a key", api("export.1", "1"), (3, 1), F::KeyId { key_id: "1".into() }),
            ("id of a key", api("export.1", "export.01"), (3, 1), F::KeyId { key_id: "export.01".into() }),
            ("hash", api("9f86", "9F86"), (12, 10), F::Hash),
            ("hash", api("9f86", "86"), (12, 10), F::Hash),
            ("roles", api("[\"reader\"]", "\"reader\""), (8, 9), expected("roles", "a list of the names of roles")),
            ("roles", api("[\"reader\"]", "[1]"), (8, 10), expected("roles", "a list of the names of roles")),
            (
                "ID of another trust domain",
                api("example.org/export", "example.com/export"),
                (3, 1),
                F::OwnerOfOtherTrustDomain { owner: id("spiffe://example.com/export"), trust_domain: domain() },
            ),
            (
                "ID under /bonafide",
                api("example.org/export", "example.org/bonafide/ca"),
                (3, 1),
                F::ReservedOwner { owner: id("spiffe://example.org/bonafide/ca") },
            ),
            (
                "no path",
                api("example.org/export", "example.org"),
                (3, 1),
                F::OwnerWithoutPath { owner: id("spiffe://example.org") },
            ),
            ("no secret", API_KEY.split("[[key.secret]]").next().unwrap().into(), (3, 1), F::Secrets { count: 0 }),
            ("three secrets", format!("{SHARED}{third}"), (11, 1), F::Secrets { count: 3 }),
            ("lifetime", shared("300", "601"), (3, 1), F::Lifetime { seconds: 601 }),
            ("lifetime", shared("300", "0"), (3, 1), F::Lifetime { seconds: 0 }),
            ("lifetime", shared("300", "-1"), (9, 18), expected("max-lifetime-s", "a number of seconds")),
            ("subject", shared("\"photo\"\nmax", "\"\"\nmax"), (3, 1), F::Name { member: "subject", bytes: 0 }),
            (
                "weak secret",
                shared("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "AAEC"),
                (13, 9),
                F::Secret(SharedSecretError::Length { bytes: 3 }),
            ),
            ("no base64url", shared("AAEC", "A=EC"), (13, 9), F::Secret(SharedSecretError::Base64)),
            ("one record twice", format!("{API_KEY}{API_KEY}"), (15, 1), F::IdTwice { id: "export".into() }),
            ("one kid twice", shared("photo.2", "photo.1"), (3, 1), F::KeyIdTwice { key_id: "photo.1".into() }),
        ];
        for (what, text, (line, column), flaw) in cases {
            let found = parse(&text).map(drop);
            assert_eq!(found, Err(KeyRecordsError { at: Position { line, column }, flaw }), "{what}: {text}");
        }
        let version = |text: &str| KeyRecords::parse(text, &domain()).map_err(|error| error.flaw).map(drop);
        assert_eq!(version("version = 2"), Err(F::Version));
        assert_eq!(version("version = \"1\""), Err(F::Version));
        assert_eq!(version(""), Err(F::Missing { member: "version" }));
        let large = "#".repeat(MAX_FILE_BYTES + 1);
        assert_eq!(version(&large), Err(F::TooLarge { bytes: MAX_FILE_BYTES + 1 }));
        assert_eq!(
            version(&format!("version = {}1{}", "[".repeat(100_000), "]".repeat(100_000))),
            Err(F::Syntax),
            "T-32"
        );
    }

    #[test]
    fn no_refusal_quotes_what_could_be_a_secret() {
        let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        for text in [
            SHARED.replace("value = \"", "value = "),
            SHARED.replace("value", "id"),
            SHARED.replace("value = \"AAEC", "value = \"=AAEC"),
            SHARED.replacen("max-lifetime-s = 300", &format!("max-lifetime-s = \"{secret}\""), 1),
            SHARED.replacen("roles", secret, 1),
            SHARED.replacen("kind = \"shared-secret\"", &format!("kind = \"{secret}\""), 1),
            format!("{SHARED}\nvalue = \"{secret}"),
        ] {
            if let Err(error) = parse(&text) {
                assert!(!format!("{error} {error:?}").contains("AAECAwQFBgcICQoL"), "{error}");
            }
        }
    }

    #[test]
    fn t_29_more_records_than_there_may_be() {
        let record = parse(API_KEY).unwrap().records()[0].clone();
        let many = (0..=MAX_RECORDS).map(|number| {
            let Secrets::ApiKey(mut secrets) = record.secrets.clone() else { panic!("an API key") };
            secrets[0].key_id = format!("k{number}.1").into();
            KeyRecord { id: format!("k{number}").into(), secrets: Secrets::ApiKey(secrets), ..record.clone() }
        });
        assert_eq!(KeyRecords::new(domain(), many).map(drop), Err((MAX_RECORDS, KeyRecordFlaw::TooMany)));
    }
}

#[cfg(all(feature = "policy-file", feature = "tokio"))]
mod on_disk {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

    use super::*;
    use crate::{
        authenticate::Authenticators,
        clock::{Clock, ManualClock},
        identity::Identity,
        x509::fixtures::NOW,
    };

    fn write(path: &Path, text: &str, mode: u32) {
        let aside = path.with_extension("new");
        fs::write(&aside, text).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&aside, path).unwrap();
    }

    #[test]
    fn a_file_that_others_have_access_to_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        for (mode, taken) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o660, false), (0o610, false)]
        {
            write(&path, &format!("version = 1\n{API_KEY}"), mode);
            let found = KeyRecords::read(&path, &domain());
            assert_eq!(found.is_ok(), taken, "{mode:o}");
            if let Err(error) = found {
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
        assert!(matches!(KeyRecords::read(folder.path(), &domain()), Err(KeyFileError::NotAFile { .. })));
        assert!(matches!(KeyRecords::read(&folder.path().join("none"), &domain()), Err(KeyFileError::Read { .. })));
    }

    #[tokio::test]
    async fn a_file_is_taken_when_it_changes_and_a_bad_one_keeps_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        write(&path, "version = 1\n", 0o600);
        let clock = Arc::new(ManualClock::at(NOW));
        let (identity, _publisher) = Identity::published(clock.clone());
        let authenticators = Authenticators::builder(domain(), identity)
            .audience("spiffe://example.org/config")
            .key_records(KeyRecords::empty(domain()))
            .build()
            .unwrap();
        let (health, following) = authenticators.follow_key_file(path.clone(), clock.clone() as Arc<dyn Clock>);
        let following = tokio::spawn(following);
        let until = async |expected: &dyn Fn() -> bool| {
            while !expected() {
                clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        let count = || authenticators.key_records().records().len();
        write(&path, &format!("version = 1\n{API_KEY}"), 0o600);
        until(&|| count() == 1).await;
        assert_eq!(health.trouble(), None);
        write(&path, "version = 1\nx = 1\n", 0o600);
        until(&|| health.trouble().is_some()).await;
        assert!(health.trouble().unwrap().contains(":2:1: unknown member `x`"), "{:?}", health.trouble());
        assert_eq!(count(), 1);
        fs::remove_file(&path).unwrap();
        until(&|| health.trouble().is_some_and(|trouble| trouble.contains("cannot read"))).await;
        assert_eq!(count(), 1);
        write(&path, &format!("version = 1\n{API_KEY}{SHARED}"), 0o600);
        until(&|| count() == 2).await;
        until(&|| health.trouble().is_none()).await;
        following.abort();
    }
}
