//! A child process that is killed, or whose disk fails, at each system call in turn (F-01, F-03, F-04, F-05): what the next start finds.
//!
//! The child is this test binary, run by strace, which injects the fault. It does one fixed sequence of changes and notes each
//! that was acknowledged. The next start must find every acknowledged one, the others wholly or not at all, and a log that holds.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use bonafide_verifier::clock::ManualClock;

use crate::{
    data_dir::{Opened, Options, open_or_create},
    fixtures::{self, admin, from, invitation, key, name, service},
    registry::ServiceUpdate,
};

const DIRECTORY: &str = "BONAFIDE_FAULT_TEST_DIRECTORY";
const RETRIES: &str = "BONAFIDE_FAULT_TEST_RETRIES";

/// Not a test by itself: what the child does.
#[test]
fn child() {
    let Some(parent) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(act(Path::new(&parent)));
}

async fn act(parent: &Path) {
    let clock = Arc::new(ManualClock::at(fixtures::start()));
    let opened = open_or_create(options(parent), clock.clone()).await.unwrap();
    let failed = {
        let store = opened.store.clone();
        tokio::spawn(async move { store.failed().await })
    };
    let mut acks = OpenOptions::new().append(true).create(true).open(parent.join("acks")).unwrap();
    acks.write_all(b"started\n").unwrap();
    for step in 0..STEPS {
        let mut outcome = run_step(&opened, &clock, step).await;
        if std::env::var_os(RETRIES).is_some() && outcome.is_err() && !failed.is_finished() {
            outcome = run_step(&opened, &clock, step).await;
        }
        match outcome {
            Ok(()) => acks.write_all(format!("{step}\n").as_bytes()).unwrap(),
            Err(error) => {
                acks.write_all(format!("error {error}\n").as_bytes()).unwrap();
                // Given a moment to say that it is final.
                tokio::task::yield_now().await;
                assert!(!failed.is_finished(), "the database failed for good: {error}");
            }
        }
    }
    opened.store.close().await;
    acks.write_all(b"ended\n").unwrap();
}

const STEPS: u32 = 9;

async fn run_step(opened: &Opened, clock: &ManualClock, step: u32) -> Result<(), String> {
    let registry = &opened.registry;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    match step {
        0 => {
            registry.add_service(service("a", &["unix:uid:1"], &["any"]), admin()).await.map(drop).map_err(|e| text(&e))
        }
        1 => registry.invite(invitation("n", &[], false), [1; 32], admin()).await.map(drop).map_err(|e| text(&e)),
        2 => registry.join([1; 32], key(1), from()).await.map(drop).map_err(|e| text(&e)),
        3 => registry.set_pending(name("n"), key(1), key(2)).await.map(drop).map_err(|e| text(&e)),
        4 => registry.promote_pending(name("n"), key(2)).await.map(drop).map_err(|e| text(&e)),
        5 => {
            let update = ServiceUpdate { x509_ttl: Some(Duration::from_secs(60)), ..Default::default() };
            registry.update_service("a".into(), update, admin()).await.map(drop).map_err(|e| text(&e))
        }
        6 | 7 => {
            // The next authorities are prepared, then take over.
            clock.advance(Duration::from_secs(2 * 86_400));
            opened.authorities.rotate_due().await.map(drop).map_err(|e| text(&e))
        }
        _ => registry.remove_service("a".into(), admin()).await.map(drop).map_err(|e| text(&e)),
    }
}

fn options(parent: &Path) -> Options {
    fixtures::options(parent.join("ca"))
}

/// Runs the child with a fault; how it ended and what it noted.
fn run(parent: &Path, inject: &str, retries: bool) -> (ExitStatus, Vec<String>) {
    let mut command = Command::new("strace");
    let syscall = inject.split(':').next().unwrap();
    command.args([
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={syscall}"),
        "-e",
        &format!("inject={inject}"),
    ]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "fault_tests::child", "-q", "--test-threads=1"]);
    command.env(DIRECTORY, parent);
    if retries {
        command.env(RETRIES, "1");
    }
    let output = command.output().expect("this test needs strace; install it");
    let acks = fs::read_to_string(parent.join("acks")).unwrap_or_default();
    (output.status, acks.lines().map(str::to_owned).collect())
}

/// Starts again without faults and looks at what is there.
fn check(parent: &Path, acks: &[String], what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Arc::new(ManualClock::at(fixtures::start()));
        clock.advance(Duration::from_secs(5 * 86_400));
        let opened = match open_or_create(options(parent), clock).await {
            Ok(opened) => opened,
            Err(error) => panic!("{what}: the next start is refused: {error}"),
        };
        let started = acks.first().is_some_and(|ack| ack == "started");
        assert!(!started || !opened.created, "{what}: a new CA was made in place of one that had started");
        fixtures::verify(&opened.store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let everything = opened.store.read(|reader| reader.everything()).await.unwrap();
        let snapshot = opened.registry.load();
        if let Some(difference) = snapshot.difference(&everything) {
            panic!("{what}: {difference}");
        }
        let done = |step: u32| acks.contains(&step.to_string());
        let node = snapshot.node(&name("n"));
        let service = snapshot.service_by_path("/a");
        assert!(
            !done(0) || service.is_some() || acks.last().is_some_and(|ack| ack != "0" && done(7)),
            "{what}: service"
        );
        assert!(!done(1) || snapshot.invitation(&name("n")).is_some(), "{what}: invitation");
        assert!(!done(2) || node.is_some(), "{what}: node");
        assert!(
            !done(3) || node.is_some_and(|node| node.pending.is_some() || node.current_key == key(2)),
            "{what}: pending"
        );
        assert!(!done(4) || node.is_some_and(|node| node.current_key == key(2)), "{what}: key");
        assert!(!done(5) || service.is_none_or(|service| service.x509_ttl.as_secs() == 60), "{what}: update");
        assert!(!done(8) || service.is_none(), "{what}: removal");
        // No key is left over, in whatever state.
        let keys = fs::read_dir(parent.join("ca/state/keys")).unwrap().count();
        let needed = opened
            .authorities
            .list()
            .iter()
            .filter(|row| {
                row.kind == crate::authority::AuthorityKind::Root
                    || matches!(row.state().as_str(), "prepared" | "active")
            })
            .count();
        assert_eq!(keys, needed, "{what}: I8 key files");
        let left = fs::read_dir(parent.join("ca")).unwrap().count();
        assert_eq!(left, 2, "{what}: lock and state");
        opened.store.close().await;
    });
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().to_owned();
    (parent, path)
}

#[test]
fn f01_killed_at_each_write_the_next_start_finds_whole_changes() {
    let mut points = 0;
    for (syscall, stride) in
        [("fdatasync", 1), ("fsync", 1), ("rename", 1), ("unlink", 1), ("ftruncate", 1), ("pwrite64", 5)]
    {
        let mut when = 1;
        loop {
            let (_keep, parent) = fresh();
            let what = format!("killed at {syscall} {when}");
            let (status, acks) = run(&parent, &format!("{syscall}:signal=SIGKILL:when={when}"), false);
            check(&parent, &acks, &what);
            if acks.last().is_some_and(|last| last == "ended") {
                assert!(status.success(), "{what}: {status}");
                break;
            }
            assert!(!status.success(), "{what}: {status} {acks:?}");
            points += 1;
            when += stride;
            assert!(when < 500, "{what}: no end");
        }
    }
    println!("{points} points");
    assert!(points > 40, "{points}");
}

#[test]
fn f04_an_error_of_the_disk_is_final_also_when_it_comes_once() {
    let (mut final_ones, mut harmless) = (0, 0);
    for when in 1..8 {
        let (_keep, parent) = fresh();
        let what = format!("EIO at fdatasync {when}");
        let (status, acks) = run(&parent, &format!("fdatasync:error=EIO:when={when}"), false);
        if acks.last().is_some_and(|last| last == "ended") {
            // SQLite ignores an error when it syncs the directory of a new log; we have synced that by ourselves.
            harmless += 1;
        } else {
            assert!(!status.success(), "{what}: went on: {acks:?}");
        }
        if acks.iter().any(|ack| ack.starts_with("error")) {
            final_ones += 1;
            assert!(acks.last().unwrap().contains("the database failed and the CA stops"), "{what}: {acks:?}");
        }
        check(&parent, &acks, &what);
    }
    assert!(final_ones >= 3 && harmless <= 1, "{final_ones} final, {harmless} ignored");
}

#[test]
fn f03_a_disk_that_is_full_for_a_while_fails_changes_and_loses_none() {
    let mut refused = 0;
    for when in [12, 20, 28, 36] {
        let (_keep, parent) = fresh();
        let what = format!("ENOSPC at pwrite64 {when}");
        let (_, acks) = run(&parent, &format!("pwrite64:error=ENOSPC:when={when}"), true);
        refused += acks.iter().filter(|ack| ack.starts_with("error")).count();
        if acks.iter().any(|ack| ack == "started") {
            assert_eq!(acks.last().unwrap(), "ended", "{what}: {acks:?}");
        }
        check(&parent, &acks, &what);
    }
    println!("{refused} refused even when tried again");
}

#[test]
fn f05_interrupted_system_calls_are_repeated() {
    let (_keep, parent) = fresh();
    let (status, acks) = run(&parent, "pwrite64:error=EINTR:when=1+3", false);
    assert!(status.success() && acks.last().unwrap() == "ended", "{status} {acks:?}");
    check(&parent, &acks, "EINTR");
}
