//! Groups, failures of one and of all, and what a start does with a file that is not as we left it.

use std::{collections::BTreeMap, fs, os::unix::fs::FileExt, time::Duration};

use serde_json::json;

use super::*;
use crate::{
    audit::{self, Kind, SvidKind, Who, X509Issued},
    fixtures::{self, Home},
};

fn change(name: &str) -> Record {
    Record::change(Kind::NodeRenewed, &Who::Ca, json!({ "node": name }))
}

#[test]
fn every_statement_prepares() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    migrate::run(&connection).unwrap();
    for (name, sql) in statements::ALL {
        connection.prepare(sql).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_change_harms_no_other_of_its_group() {
    let home = Home::new().await;
    let before = home.opened.store.head().seq;
    // The writer is held up, so that all of the rest becomes one group.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let store = &home.opened.store;
    let (held, running) = (store.clone(), oneshot::channel());
    let holding = tokio::spawn(async move {
        held.write(move |_| {
            let _ = running.0.send(());
            let _ = wait.recv();
            Ok::<(), Abort<()>>(())
        })
        .await
    });
    running.1.await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..100_u32 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            store
                .write(move |tx| {
                    tx.record(&change(&format!("n{n}")))?;
                    tx.record(&change(&format!("n{n} again")))?;
                    match n % 10 {
                        3 => Err(Abort::Refused(n)),
                        5 => panic!("planted"),
                        7 => tx
                            .insert_trust_domain(&TrustDomain::parse("x").unwrap(), &[0; 32], "e", "c")
                            .map(|()| n)
                            .map_err(Abort::from),
                        _ => Ok(n),
                    }
                })
                .await
        }));
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while store.shared.queue.capacity() > store.shared.limits.queue - 100 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    go.send(()).unwrap();
    holding.await.unwrap().unwrap();
    let mut outcomes = BTreeMap::new();
    for task in tasks {
        let outcome = match task.await.unwrap() {
            Ok(_) => "done",
            Err(WriteError::Refused(_)) => "refused",
            Err(WriteError::Store(StoreError::Internal { .. })) => "failed",
            Err(WriteError::Store(other)) => panic!("{other}"),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("done", 70), ("refused", 10), ("failed", 20)]));
    let verified = fixtures::verify(store).await.unwrap();
    assert_eq!(verified.head.seq, before + 140, "two records for each that was done, none of the others");
}

use bonafide_verifier::spiffe::TrustDomain;

#[tokio::test]
async fn proofs_are_in_the_order_of_the_records_and_name_what_they_prove() {
    let home = Home::new().await;
    let who = Who::Node(fixtures::name("web-1"));
    let id = bonafide_verifier::spiffe::SpiffeId::parse("spiffe://example.org/photo").unwrap();
    let node = fixtures::name("web-1");
    let records: Vec<Record> = (1..=5_u8)
        .map(|n| {
            Record::x509_issued(&X509Issued {
                who: &who,
                node: Some(&node),
                kind: SvidKind::Service,
                spiffe_id: &id,
                serial: &[n; 16],
                key_hash: &[n; 32],
                tbs_hash: &[n; 32],
                issuer: "ab",
                not_before: fixtures::start(),
                not_after: fixtures::start(),
                dns_names: &[],
            })
        })
        .collect();
    let first = home.opened.store.head().seq + 1;
    let proofs = home.opened.store.record_group(records).await.unwrap();
    for (proof, n) in proofs.iter().zip(1..=5_u8) {
        assert_eq!(proof.seq(), first + u64::from(n) - 1);
        assert!(proof.covers(&[n; 32]));
        assert!(!proof.covers(&[n + 1; 32]));
    }
    assert_eq!(proofs.len(), 5);
}

#[tokio::test]
async fn a_group_is_queued_when_it_is_asked_for_not_when_it_is_polled() {
    let home = Home::new().await;
    let before = home.opened.store.head().seq;
    let asked = home.opened.store.record_group(vec![change("a")]);
    // The next change comes after it, though nobody has polled for it yet.
    let done = home.opened.store.write(|tx| Ok::<_, Abort<()>>(tx.head().seq)).await.unwrap();
    assert_eq!(done, before + 1);
    assert_eq!(asked.await.unwrap()[0].seq(), before + 1);
}

#[tokio::test]
async fn f06_a_locked_database_is_unavailable_and_recovers() {
    let wait = Duration::from_millis(200);
    let home = Home::with(|options| options.store.wait = wait).await;
    let other = rusqlite::Connection::open(home.opened.store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = home.opened.store.write(|tx| tx.record(&change("a")).map_err(Abort::<()>::from)).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{refused:?}");
    let refused = home.opened.store.record_group(vec![change("b")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    other.execute_batch("ROLLBACK").unwrap();
    let before = home.opened.store.head().seq;
    home.opened.store.write(|tx| tx.record(&change("c")).map_err(Abort::<()>::from)).await.unwrap();
    // What was given up on did not happen after all.
    assert_eq!(home.opened.store.head().seq, before + 1);
}

#[tokio::test]
async fn f03_a_full_disk_fails_the_group_and_recovers_by_itself() {
    let home = Home::new().await;
    let store = &home.opened.store;
    let limit = |pages: &'static str| {
        store.write(move |tx| {
            tx.connection()
                .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
                .map_err(TxError::from)?;
            Ok::<_, Abort<()>>(())
        })
    };
    limit("1").await.unwrap();
    let before = store.head();
    let big = || (0..400).map(|n| change(&format!("{n:0>200}"))).collect::<Vec<_>>();
    let refused = store.record_group(big()).await.unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("ca.db") && message.contains("bytes free"), "{message}");
    assert_eq!(store.head(), before);
    assert!(store.health().1.is_none(), "a full disk is not the end");
    limit("1000000").await.unwrap();
    assert_eq!(store.record_group(big()).await.unwrap().len(), 400);
    assert_eq!(fixtures::verify(store).await.unwrap().head.seq, before.seq + 400);
}

#[test]
fn f04_which_errors_are_final() {
    let fault = |code: i32| Fault::of(&rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
    use rusqlite::ffi;
    let cases = [
        ("fsync", ffi::SQLITE_IOERR_FSYNC, Fault::Fatal),
        ("fsync of the directory", ffi::SQLITE_IOERR_DIR_FSYNC, Fault::Fatal),
        ("write", ffi::SQLITE_IOERR_WRITE, Fault::Fatal),
        ("short read", ffi::SQLITE_IOERR_SHORT_READ, Fault::Fatal),
        ("damaged", ffi::SQLITE_CORRUPT, Fault::Fatal),
        ("read-only", ffi::SQLITE_READONLY, Fault::Fatal),
        ("full", ffi::SQLITE_FULL, Fault::DiskFull),
        ("no room for the log's index", ffi::SQLITE_IOERR_SHMSIZE, Fault::DiskFull),
        ("F-19 no file descriptor", ffi::SQLITE_CANTOPEN, Fault::Busy),
        ("locked", ffi::SQLITE_BUSY, Fault::Busy),
        ("constraint", ffi::SQLITE_CONSTRAINT, Fault::Internal),
    ];
    for (name, code, expected) in cases {
        assert_eq!(fault(code), expected, "{name}");
    }
}

#[tokio::test]
async fn a_change_whose_caller_left_before_its_turn_is_not_made() {
    let home = Home::new().await;
    let store = home.opened.store.clone();
    let before = store.head().seq;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (held, running) = (store.clone(), oneshot::channel());
    let holding = tokio::spawn(async move {
        held.write(move |_| {
            let _ = running.0.send(());
            let _ = wait.recv();
            Ok::<(), Abort<()>>(())
        })
        .await
    });
    running.1.await.unwrap();
    {
        let asked = store.write(|tx| tx.record(&change("left")).map_err(Abort::<()>::from));
        // Polled once, so that it is queued, then dropped.
        tokio::select! { biased; _ = asked => panic!("it cannot be done yet"), () = tokio::task::yield_now() => {} }
    }
    go.send(()).unwrap();
    holding.await.unwrap().unwrap();
    store.write(|tx| tx.record(&change("stayed")).map_err(Abort::<()>::from)).await.unwrap();
    assert_eq!(store.head().seq, before + 1);
}

#[tokio::test]
async fn f15_a_file_that_is_not_our_sound_database_is_refused_and_left_alone() {
    let page = fs_page();
    type Damage = Box<dyn Fn(&fixtures::Stopped)>;
    let sql = |sql: &'static str| -> Damage { Box::new(move |home: &fixtures::Stopped| home.tamper(sql)) };
    let cases: Vec<(&str, Damage, &str)> = vec![
        ("empty file", Box::new(|home| fs::write(home.database(), b"").unwrap()), "the file is empty"),
        (
            "text",
            Box::new(|home| fs::write(home.database(), b"hello, this is not a database at all").unwrap()),
            "is damaged",
        ),
        (
            "truncated",
            Box::new(move |home| {
                let file = fs::OpenOptions::new().write(true).open(home.database()).unwrap();
                file.set_len(page * 3).unwrap();
            }),
            "is damaged",
        ),
        ("other application", sql("PRAGMA application_id = 1196444487"), "is not a database of a Bonafide CA"),
        ("newer schema", sql("PRAGMA user_version = 99"), "has schema 99, this program knows up to 1"),
        (
            "trigger",
            sql("CREATE TRIGGER audit_head_x AFTER INSERT ON node BEGIN DELETE FROM audit_record; END"),
            "it has trigger `audit_head_x`",
        ),
        ("view", sql("CREATE VIEW services AS SELECT 1"), "it has view `services`"),
        ("table", sql("CREATE TABLE extra (x)"), "it has table `extra`"),
        ("missing index", sql("DROP INDEX node_current_key"), "index `node_current_key` is missing"),
        (
            "table replaced by a looser one",
            sql("DROP TABLE invitation; CREATE TABLE invitation (id, secret_hash, node)"),
            "table `invitation` is not ours",
        ),
        (
            "damaged position",
            Box::new(|home| fs::write(home.state().join("head"), [7; 64]).unwrap()),
            "does not start as such",
        ),
        ("short position", Box::new(|home| fs::write(home.state().join("head"), [7; 3]).unwrap()), "it has 3 bytes"),
        ("no row about the whole", sql("DELETE FROM trust_domain"), "the row is missing"),
    ];
    for (name, damage, expected) in cases {
        let home = Home::new().await.stop().await;
        damage(&home);
        let before = fs::read(home.database()).unwrap();
        let message = home.refusal().await;
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(fs::read(home.database()).unwrap(), before, "{name}: the file was changed");
    }
}

/// As a kill leaves them: the newest records are in the log alone.
#[tokio::test]
async fn f15_a_log_that_is_missing_or_damaged_is_noticed_and_left_alone() {
    let home = Home::new().await;
    for n in 0..3 {
        let new = fixtures::service(&format!("s{n}"), &["unix:uid:1000"], &["any"]);
        home.opened.registry.add_service(new, fixtures::admin()).await.unwrap();
    }
    let files = |directory: &Path| -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let entries = entries.filter(|entry| entry.file_type().unwrap().is_file());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    };
    let killed = files(&home.options.directory.join("state"));
    let home = home.stop().await;
    let log = killed["ca.db-wal"].clone();
    let shorter = |by: usize| log[..log.len() - by].to_vec();
    let flipped = |at: usize| {
        let mut log = log.clone();
        log[at] ^= 1;
        log
    };
    let cases = [
        ("as it was", Some(log.clone()), None),
        ("missing", None, Some("ends at audit record 5, but record 8 was durable")),
        ("empty", Some(Vec::new()), Some("ends at audit record 5, but record 8 was durable")),
        ("cut", Some(shorter(100)), Some("but record 8 was durable")),
        ("another header", Some(flipped(20)), Some("ends at audit record 5, but record 8 was durable")),
        (
            "a bit in the first page",
            Some(flipped(32 + 24 + 99)),
            Some("ends at audit record 5, but record 8 was durable"),
        ),
        ("a bit in the last page", Some(flipped(log.len() - 5)), Some("but record 8 was durable")),
    ];
    for (name, damaged, expected) in cases {
        for (file, bytes) in &killed {
            write(&home.state().join(file), bytes);
        }
        fs::remove_file(home.state().join("ca.db-shm")).unwrap();
        match &damaged {
            Some(bytes) => write(&home.state().join("ca.db-wal"), bytes),
            None => fs::remove_file(home.state().join("ca.db-wal")).unwrap(),
        }
        let Some(expected) = expected else {
            let opened = home.try_start().await.unwrap();
            assert_eq!(opened.registry.load().service_count(), 3);
            opened.store.close().await;
            continue;
        };
        let message = home.refusal().await;
        assert!(message.contains(expected) && message.contains("ca.db-wal"), "{name}: {message}");
        let left = files(&home.state());
        assert_eq!(
            left.get("ca.db-wal").filter(|log| !log.is_empty()),
            damaged.as_ref().filter(|log| !log.is_empty()),
            "{name}"
        );
        assert!(left["ca.db"] == killed["ca.db"] && left["head"] == killed["head"], "{name}: a file was changed");
    }
}

fn write(path: &Path, bytes: &[u8]) {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

fn fs_page() -> u64 {
    4096
}

#[tokio::test]
async fn f15_random_bytes_on_every_page_never_panic_and_are_never_overwritten() {
    let home = Home::new().await;
    for n in 0..30 {
        let path = format!("svc-{n}");
        let new = fixtures::service(&path, &["unix:uid:1000"], &["any"]);
        home.opened.registry.add_service(new, fixtures::admin()).await.unwrap();
    }
    let home = home.stop().await;
    let good = fs::read(home.database()).unwrap();
    let pages = good.len() as u64 / fs_page();
    let mut refused = 0;
    for page in 0..pages {
        let mut bytes = good.clone();
        let start = usize::try_from(page * fs_page()).unwrap();
        for (offset, byte) in bytes[start..start + 4096].iter_mut().enumerate() {
            *byte = u8::try_from((offset * 167 + usize::try_from(page).unwrap() * 31 + 7) % 251).unwrap();
        }
        fs::write(home.database(), &bytes).unwrap();
        match home.try_start().await {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("ca.db"), "page {page}: {error}");
                assert_eq!(fs::read(home.database()).unwrap(), bytes, "page {page}: the file was changed");
            }
            Ok(opened) => opened.store.close().await,
        }
    }
    assert!(refused >= pages - 1, "{refused} of {pages} pages noticed");
    fs::write(home.database(), &good).unwrap();
    home.try_start().await.unwrap();
}

#[tokio::test]
async fn rows_that_we_never_write_are_named() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    registry.add_service(fixtures::service("photo", &["unix:uid:1"], &["any"]), fixtures::admin()).await.unwrap();
    registry.invite(fixtures::invitation("web-1", &[], false), [7; 32], fixtures::admin()).await.unwrap();
    registry.join([7; 32], fixtures::key(1), fixtures::from()).await.unwrap();
    let home = home.stop().await;
    let good = fs::read(home.database()).unwrap();
    let cases = [
        ("UPDATE trust_domain SET name = 'EXAMPLE.org'", "column `name`"),
        ("UPDATE trust_domain SET version = -1", "CHECK constraint failed in trust_domain"),
        ("UPDATE trust_domain SET highest_time = 999999999999999999", "is no time"),
        ("UPDATE node SET labels = '[]'", "table `node`, row `web-1`, column `labels`"),
        ("UPDATE node SET labels = '{\"a b\":\"c\"}'", "column `labels`"),
        ("UPDATE node SET name = 'a/b'", "column `name`"),
        ("UPDATE node SET current_key = x'00'", "CHECK constraint failed in node"),
        ("UPDATE node SET pending_key = zeroblob(32)", "without its time"),
        ("UPDATE node SET joined_at = -5", "column `joined_at`"),
        ("UPDATE service SET path = '/bonafide/ca'", "column `path`"),
        ("UPDATE service SET path = '/%2e'", "column `path`"),
        ("UPDATE service SET selectors = '[\"unix:nonsense\"]'", "column `selectors`"),
        ("UPDATE service SET selectors = '[1]'", "column `selectors`"),
        ("UPDATE service SET placements = 'any'", "column `placements`"),
        ("UPDATE service SET x509_ttl_s = -1", "CHECK constraint failed in service"),
        ("UPDATE service SET version = -1", "a negative number"),
        ("UPDATE invitation SET bound_key = NULL", "bound in part"),
        ("UPDATE authority SET kind = 'super'", "CHECK constraint failed in authority"),
        ("UPDATE authority SET retired_at = 1 WHERE kind = 'issuing'", "none is active"),
        ("UPDATE authority SET public_key = x'00' WHERE kind = 'jwt'", "jwt"),
        ("UPDATE authority SET certificate = x'3000' WHERE kind = 'root'", "root"),
    ];
    for (sql, expected) in cases {
        fs::write(home.database(), &good).unwrap();
        home.tamper(sql);
        let message = home.refusal().await;
        assert!(message.contains(expected), "{sql}: {message}");
    }
}

#[tokio::test]
async fn a_restored_copy_starts_a_new_epoch() {
    let home = Home::new().await;
    let epoch = home.opened.registry.load().epoch().clone();
    let home = home.stop().await;
    fs::remove_file(home.state().join("head")).unwrap();
    let home = home.start().await;
    let next = home.opened.registry.load().epoch().clone();
    assert_ne!(epoch, next);
    let home = home.stop().await.start().await;
    assert_eq!(*home.opened.registry.load().epoch(), next, "only once");
    let page = fixtures::list(
        &home.opened.store,
        audit::Filter { kinds: vec![Kind::EpochStarted], limit: 9, ..Default::default() },
    );
    assert_eq!(page.await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn the_log_is_moved_into_the_database_while_it_runs() {
    let home = Home::with(|options| options.store.checkpoint_pages = 20).await;
    for _ in 0..40 {
        home.opened.store.record_group((0..20).map(|n| change(&format!("{n:0>300}"))).collect()).await.unwrap();
    }
    let log = fs::metadata(home.options.directory.join("state/ca.db-wal")).unwrap().len();
    assert!(log < 100 * fs_page(), "{log} bytes");
    assert!(fs::metadata(home.opened.store.path()).unwrap().len() > 40 * fs_page());
    let home = home.stop().await;
    assert!(!home.state().join("ca.db-wal").exists(), "a stop in order leaves no log");
    home.start().await;
}

#[tokio::test]
async fn a_position_is_read_as_it_was_written() {
    for seq in [0, 1, u64::MAX] {
        let home = tempfile::tempdir().unwrap();
        let noted = Noted { seq, hash: [9; 32] };
        position::Position::create(home.path(), noted).unwrap();
        let (position, read) = position::Position::open(home.path()).unwrap().unwrap();
        assert_eq!(read, noted);
        let next = Noted { seq: 5, hash: [8; 32] };
        position.note(next).unwrap();
        let path = position::path(home.path());
        assert_eq!(position::decode(&fs::read(&path).unwrap()), Ok(next));
        // F-14: each bit flipped, each length.
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(position::decode(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(position::decode(&good[..length]).is_err(), "length {length}");
        }
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0], 64).unwrap();
        assert!(position::Position::open(home.path()).is_err(), "too long");
    }
}

/// How many records a second, for the figure of the issuance benchmark: printed, not asserted, since the machine is shared.
#[tokio::test(flavor = "multi_thread")]
async fn records_per_second() {
    let home = Home::new().await;
    let (callers, calls, items) = (4, 50, 100_u64);
    let node = fixtures::name("web-1");
    let id = bonafide_verifier::spiffe::SpiffeId::parse("spiffe://example.org/photo").unwrap();
    let clock = bonafide_verifier::clock::SystemClock;
    let began = clock.boot();
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (store, node, id) = (home.opened.store.clone(), node.clone(), id.clone());
        tasks.push(tokio::spawn(async move {
            let who = Who::Node(node.clone());
            for _ in 0..calls {
                let records = (0..items)
                    .map(|_| {
                        Record::x509_issued(&X509Issued {
                            who: &who,
                            node: Some(&node),
                            kind: SvidKind::Service,
                            spiffe_id: &id,
                            serial: &[5; 16],
                            key_hash: &[6; 32],
                            tbs_hash: &[7; 32],
                            issuer: "0123456789abcdef0123456789abcdef01234567",
                            not_before: fixtures::start(),
                            not_after: fixtures::start(),
                            dns_names: &[],
                        })
                    })
                    .collect();
                store.record_group(records).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let took = clock.boot() - began;
    let count = callers * calls * items;
    println!("{count} records in {took:?}: {:.0} a second", count as f64 / took.as_secs_f64());
    fixtures::verify(&home.opened.store).await.unwrap();
}

use self::{position::Noted, sqlite::Fault};
