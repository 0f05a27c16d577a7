//! First start, later starts, refusals.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    time::Duration,
};

use super::*;
use crate::{
    audit,
    fixtures::{self, Home, Stopped, admin, from, invitation, key, service},
};

#[tokio::test]
async fn a_first_start_makes_all_and_a_later_one_loads_it() {
    let home = Home::new().await;
    assert!(home.opened.created);
    let verified = fixtures::verify(&home.opened.store).await.unwrap();
    assert_eq!((verified.records, verified.heads), (5, 1));
    let (root, chain) = (home.opened.root_hash, home.opened.authorities.current().issuing.chain().to_vec());
    let home = home.stop().await;
    home.clock.advance(Duration::from_secs(60));
    let home = home.start().await;
    assert!(!home.opened.created);
    assert_eq!(home.opened.root_hash, root);
    assert_eq!(home.opened.authorities.current().issuing.chain(), chain);
    assert_eq!(fixtures::verify(&home.opened.store).await.unwrap(), verified);
}

#[tokio::test]
async fn nobody_else_can_read_any_of_it() {
    let home = Home::new().await;
    let mut files = vec![home.options.directory.clone()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let expected = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.mode() & 0o777, expected, "{}", path.display());
        seen += 1;
        if found.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen >= 9, "{seen} files");
}

#[tokio::test]
async fn f23_a_second_process_is_refused_by_name() {
    let home = Home::new().await;
    let second = open_or_create(home.options.clone(), home.clock.clone()).await.unwrap_err().to_string();
    assert!(second.contains(&format!("is in use by process {}", std::process::id())), "{second}");
    home.stop().await.start().await;
}

#[tokio::test]
async fn what_is_there_decides_what_a_start_does() {
    type Prepare = fn(&Path);
    let touch = |path: PathBuf| fs::write(path, "x").unwrap();
    let _ = touch;
    let cases: &[(&str, Prepare, Option<&str>)] = &[
        ("an empty directory", |dir| fs::create_dir(dir).unwrap(), None),
        (
            "an empty directory that others can read",
            |dir| {
                fs::create_dir(dir).unwrap();
                fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
            },
            None,
        ),
        (
            "what a killed first start left",
            |dir| {
                fs::create_dir_all(dir.join(".new-4711/keys")).unwrap();
                fs::write(dir.join(".new-4711/keys/x.pem"), "half").unwrap();
                fs::write(dir.join("lock"), "4711\n").unwrap();
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
            },
            None,
        ),
        (
            "a home directory",
            |dir| {
                fs::create_dir(dir).unwrap();
                fs::write(dir.join(".bashrc"), "x").unwrap();
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
            },
            Some("neither empty nor the directory of a CA: it has `.bashrc`"),
        ),
        (
            "not empty and readable by others",
            |dir| {
                fs::create_dir(dir).unwrap();
                fs::write(dir.join("x"), "x").unwrap();
                fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
            },
            Some("has mode 0755"),
        ),
        (
            "a file",
            |dir| fs::write(dir, "x").unwrap(),
            Some("is not a directory but a file; give the directory itself"),
        ),
        ("a link", |dir| symlink("/tmp", dir).unwrap(), Some("is not a directory but a symbolic link")),
        (
            "keys without a database",
            |dir| {
                fs::create_dir_all(dir.join("state/keys")).unwrap();
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
                fs::set_permissions(dir.join("state"), fs::Permissions::from_mode(0o700)).unwrap();
            },
            Some("is not whole: `state/ca.db` is missing"),
        ),
    ];
    for (name, prepare, expected) in cases {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("ca");
        prepare(&directory);
        let clock = Arc::new(bonafide_verifier::clock::ManualClock::at(fixtures::start()));
        match (open_or_create(fixtures::options(directory.clone()), clock).await, expected) {
            (Ok(opened), None) => {
                assert!(opened.created, "{name}");
                let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                assert_eq!(left.len(), 2, "{name}: {left:?}");
            }
            (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{name}: {error}"),
            (Ok(_), Some(_)) => panic!("{name}: not refused"),
            (Err(error), None) => panic!("{name}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_start_with_the_wrong_word_is_refused() {
    let mut home = Home::new().await.stop().await;
    home.options.trust_domain = Some(TrustDomain::parse("example.com").unwrap());
    assert!(home.refusal().await.contains("is the CA of `example.org`, not of `example.com`"));
    home.options.trust_domain = None;
    home.options.expect_root = Some([9; 32]);
    let message = home.refusal().await;
    assert!(message.contains("`--expect-root` says 0909"), "{message}");
    home.options.expect_root = None;
    let home = home.start().await;
    let root = home.opened.root_hash;
    let mut home = home.stop().await;
    home.options.expect_root = Some(root);
    home.start().await;

    let parent = tempfile::tempdir().unwrap();
    let mut options = fixtures::options(parent.path().join("ca"));
    options.expect_root = Some([9; 32]);
    let clock = Arc::new(bonafide_verifier::clock::ManualClock::at(fixtures::start()));
    let error = open_or_create(options.clone(), clock.clone()).await.unwrap_err().to_string();
    assert!(error.contains("a new root cannot have the hash"), "{error}");
    (options.expect_root, options.trust_domain) = (None, None);
    let error = open_or_create(options, clock).await.unwrap_err().to_string();
    assert!(error.contains("name the trust domain to create with `--trust-domain`"), "{error}");
}

#[tokio::test]
async fn modes_and_kinds_of_the_database_files_are_looked_at() {
    let home = Home::new().await.stop().await;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for path in [home.database(), home.state().join("head")] {
        set(&path, 0o644);
        assert!(home.refusal().await.contains("has mode 0644"));
        set(&path, 0o600);
    }
    for directory in [home.options.directory.clone(), home.state()] {
        set(&directory, 0o711);
        assert!(home.refusal().await.contains("has mode 0711"));
        set(&directory, 0o700);
    }
    let aside = home.state().join("elsewhere");
    fs::rename(home.database(), &aside).unwrap();
    symlink(&aside, home.database()).unwrap();
    assert!(home.refusal().await.contains("symbolic link"));
    fs::remove_file(home.database()).unwrap();
    fs::rename(&aside, home.database()).unwrap();
    home.start().await;
}

async fn clock_refused(home: &Stopped, accept: bool) -> Option<String> {
    let options = Options { accept_clock: accept, ..home.options.clone() };
    let opened = open_or_create(options, home.clock.clone()).await.unwrap();
    let refusal = opened.clock_guard.check().err().map(|refusal| refusal.to_string());
    opened.store.close().await;
    refusal
}

#[tokio::test]
async fn f08_the_clock_is_compared_with_the_last_act_and_an_operator_has_the_last_word() {
    let home = Home::new().await;
    home.clock.advance(Duration::from_secs(3600));
    home.opened.clock_guard.check().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    // Written by the guard itself, though nothing else is.
    let run = home.opened.clock_guard.run(stop.clone());
    tokio::select! {
        () = run => {},
        () = async {
            while home.opened.store.read(|reader| reader.trust_domain()).await.unwrap().highest_time != home.clock.now() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let home = home.stop().await;
    let hour = 3_600_000;
    home.clock.jump_wall(-hour);
    let refusal = clock_refused(&home, false).await.unwrap();
    assert!(refusal.contains("behind by 60 min 0 s") && refusal.contains("--accept-clock"), "{refusal}");
    assert!(clock_refused(&home, false).await.is_some(), "a second start changes nothing");
    assert_eq!(clock_refused(&home, true).await, None);
    assert_eq!(clock_refused(&home, false).await, None, "the word is remembered");
    // A CA that was off for months signs; one that was off for years asks.
    home.clock.jump_wall(300 * 24 * hour);
    assert_eq!(clock_refused(&home, false).await, None);
    home.clock.jump_wall(401 * 24 * hour);
    assert!(clock_refused(&home, false).await.unwrap().contains("401 days"));
    assert_eq!(clock_refused(&home, true).await, None);
    let home = home.start().await;
    let filter = audit::Filter { kinds: vec![Kind::ClockAccepted], limit: 10, ..Default::default() };
    let page = fixtures::list(&home.opened.store, filter).await.unwrap();
    assert_eq!(page.entries.len(), 2);
    assert!(page.entries[0].body.contains("\"now\"") && page.entries[0].body.contains("\"last_act\""));
}

/// Who has read access to database, log and position learns who is registered, and no secret.
#[tokio::test]
async fn a_stolen_database_holds_no_secret() {
    let secret = *b"a planted secret of 32 bytes !!!";
    let hash: [u8; 32] = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &secret).as_ref().try_into().unwrap();
    let home = Home::new().await;
    home.opened.registry.add_service(service("a", &["unix:uid:1"], &["any"]), admin()).await.unwrap();
    home.opened.registry.invite(invitation("web-1", &[], false), hash, admin()).await.unwrap();
    home.opened.registry.join(hash, key(1), from()).await.unwrap();
    home.clock.advance(Duration::from_secs(4 * 86_400));
    home.opened.authorities.rotate_due().await.unwrap();
    let state = home.options.directory.join("state");
    let mut secrets = vec![secret.to_vec()];
    for entry in fs::read_dir(state.join("keys")).unwrap() {
        let pem = fs::read_to_string(entry.unwrap().path()).unwrap();
        let der = keystore::parse_pem(&pem).unwrap();
        // The scalar of a P-256 key in PKCS#8: 32 bytes after `04 20`.
        let at = der.as_bytes().windows(2).position(|two| two == [4, 32]).unwrap();
        secrets.push(der.as_bytes()[at + 2..at + 34].to_vec());
    }
    assert!(secrets.len() >= 4);
    let mut searched = 0;
    for name in ["ca.db", "ca.db-wal", "head"] {
        let bytes = fs::read(state.join(name)).unwrap();
        searched += bytes.len();
        for secret in &secrets {
            let forms = [
                secret.clone(),
                HEXLOWER.encode(secret).into_bytes(),
                data_encoding::HEXUPPER.encode(secret).into_bytes(),
                data_encoding::BASE64_NOPAD.encode(secret).into_bytes()[..40].to_vec(),
                data_encoding::BASE64URL_NOPAD.encode(secret).into_bytes()[..40].to_vec(),
            ];
            for form in forms {
                assert!(!bytes.windows(form.len()).any(|window| window == form), "a secret is in {name}");
            }
        }
    }
    assert!(searched > 20_000, "{searched} bytes searched");
}

/// The first start alone, for the figure: printed, not asserted, since the machine is shared.
#[tokio::test]
async fn time_of_a_first_start() {
    use bonafide_verifier::clock::{Clock, SystemClock};
    let parent = tempfile::tempdir().unwrap();
    for n in 0..3 {
        let clock = Arc::new(SystemClock);
        let began = clock.boot();
        let opened =
            open_or_create(fixtures::options(parent.path().join(format!("ca{n}"))), clock.clone()).await.unwrap();
        println!("first start took {:?}", clock.boot() - began);
        opened.store.close().await;
    }
}
