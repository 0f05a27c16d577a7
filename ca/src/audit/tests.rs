//! A log that holds, and every way to break one.

use serde_json::Value;

use super::{list::Page, verify::Verified, *};
use crate::{
    fixtures::{self, Home, Stopped, admin, from, invitation, key, name, service},
    store::ReadOnly,
};

async fn a_history() -> Stopped {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    for n in 0..5_u8 {
        registry.add_service(service(&format!("s{n}"), &["unix:uid:1"], &["any"]), admin()).await.unwrap();
    }
    registry.invite(invitation("web-1", &[], false), [1; 32], admin()).await.unwrap();
    registry.join([1; 32], key(1), from()).await.unwrap();
    registry.close_invitations(vec![name("web-1")]).await.unwrap();
    home.stop().await
}

fn verdict(home: &Stopped, expected: Option<Head>) -> Result<Verified, String> {
    let file = ReadOnly::open(&home.state()).unwrap();
    verify_file(&file, expected).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_log_holds_and_its_head_can_be_exported() {
    let home = a_history().await;
    let verified = verdict(&home, None).unwrap();
    assert_eq!((verified.records, verified.head.seq), (14, 14));
    let text = serde_json::to_string(&verified.head).unwrap();
    let head: Head = serde_json::from_str(&text).unwrap();
    assert_eq!(head, verified.head);
    assert_eq!(verdict(&home, Some(head)).unwrap(), verified);
    for broken in ["{}", r#"{"chain":"x","seq":1,"hash":"00"}"#, r#"{"chain":"x","seq":-1,"hash":""}"#] {
        assert!(serde_json::from_str::<Head>(broken).is_err(), "{broken}");
    }
}

/// Hashes everything again after a change, as somebody would who knows how it is done but has no key.
const REWRITE: &str = "rewrite";

#[tokio::test]
async fn whatever_is_changed_the_first_broken_record_is_named() {
    let good = a_history().await;
    let database = std::fs::read(good.database()).unwrap();
    let head = verdict(&good, None).unwrap().head;
    let cases: &[(&str, &[&str], bool, &str)] = &[
        (
            "a body edited",
            &["UPDATE audit_record SET body = replace(body, 's1', 's9') WHERE seq = 7"],
            false,
            "record 7 was changed",
        ),
        ("a time edited", &["UPDATE audit_record SET at = at + 1 WHERE seq = 6"], false, "record 6 was changed"),
        (
            "a kind edited",
            &["UPDATE audit_record SET kind = 'node-removed' WHERE seq = 8"],
            false,
            "record 8 was changed",
        ),
        (
            "a hash edited",
            &["UPDATE audit_record SET hash = zeroblob(32) WHERE seq = 5"],
            false,
            "record 5 was changed",
        ),
        ("the first removed", &["DELETE FROM audit_record WHERE seq = 1"], false, "record 1 is missing"),
        ("one removed", &["DELETE FROM audit_record WHERE seq = 9"], false, "record 9 is missing"),
        (
            "one removed, the rest moved up",
            &[
                "DELETE FROM audit_record WHERE seq = 9",
                "UPDATE audit_record SET seq = seq - 1 WHERE seq > 9",
                "UPDATE OR REPLACE audit_head SET seq = seq - 1 WHERE seq > 9",
            ],
            false,
            "record 9 was changed",
        ),
        (
            "two exchanged",
            &[
                "UPDATE audit_record SET seq = 100 WHERE seq = 7",
                "UPDATE audit_record SET seq = 7 WHERE seq = 8",
                "UPDATE audit_record SET seq = 8 WHERE seq = 100",
            ],
            false,
            "record 7 was changed",
        ),
        (
            "edited and hashed again",
            &["UPDATE audit_record SET body = replace(body, 's1', 's9') WHERE seq = 7", REWRITE],
            false,
            "record 7 is not what was signed",
        ),
        (
            "edited, hashed again, heads too",
            &[
                "UPDATE audit_record SET body = replace(body, 's1', 's9') WHERE seq = 7",
                REWRITE,
                "UPDATE audit_head SET hash = (SELECT hash FROM audit_record r WHERE r.seq = audit_head.seq)",
            ],
            false,
            "the head at record 7 was not signed by the authority",
        ),
        (
            "a signature edited",
            &["UPDATE audit_head SET signature = x'3006020101020101' WHERE seq = 10"],
            false,
            "the head at record 10 was not signed",
        ),
        (
            "a head's time edited",
            &["UPDATE audit_head SET at = at + 1 WHERE seq = 10"],
            false,
            "the head at record 10 was not signed",
        ),
        ("a head by nobody", &["UPDATE audit_head SET authority = 'x' WHERE seq = 10"], false, "no such authority"),
        (
            "an authority that the root did not certify",
            &[
                "UPDATE authority SET certificate = (SELECT certificate FROM authority WHERE kind = 'root') WHERE kind = 'issuing'",
            ],
            false,
            "the head at record 5 was not signed by the authority",
        ),
        (
            "another root",
            &[
                "UPDATE authority SET certificate = (SELECT certificate FROM authority WHERE kind = 'issuing') WHERE kind = 'root'",
            ],
            false,
            "no root has the stored hash",
        ),
        (
            "the last heads removed",
            &["DELETE FROM audit_head WHERE seq > 10"],
            false,
            "record 11 stands after the last signed head",
        ),
        (
            "a tail cut, seen by what was durable",
            &["DELETE FROM audit_record WHERE seq > 10", "DELETE FROM audit_head WHERE seq > 10"],
            false,
            "the log ends at record 10, but the given head is record 14",
        ),
        (
            "a tail cut, seen by an exported head",
            &["DELETE FROM audit_record WHERE seq > 10", "DELETE FROM audit_head WHERE seq > 10"],
            true,
            "its tail was cut",
        ),
        ("records cut, heads left", &["DELETE FROM audit_record WHERE seq > 10"], true, "its tail was cut"),
        ("everything cut", &["DELETE FROM audit_record", "DELETE FROM audit_head"], false, "the log ends at record 0"),
        (
            "a record appended",
            &["INSERT INTO audit_record SELECT chain, 15, at, kind, body, hash FROM audit_record WHERE seq = 14"],
            false,
            "record 15 was changed",
        ),
        (
            "a record appended and hashed",
            &[
                "INSERT INTO audit_record SELECT chain, 15, at, kind, body, hash FROM audit_record WHERE seq = 14",
                REWRITE,
            ],
            false,
            "record 15 stands after the last signed head",
        ),
        (
            "another chain",
            &["INSERT INTO audit_record SELECT 'other', seq, at, kind, body, hash FROM audit_record WHERE seq = 14"],
            false,
            "records of the chain `other`",
        ),
        ("another trust domain", &["UPDATE trust_domain SET name = 'example.com'"], false, "record 1 was changed"),
    ];
    for (name, changes, exported, expected) in cases {
        std::fs::write(good.database(), &database).unwrap();
        for change in *changes {
            if *change == REWRITE { rewrite(&good) } else { good.tamper(change) }
        }
        match verdict(&good, exported.then(|| head.clone())) {
            Ok(verified) => panic!("{name}: holds: {verified:?}"),
            Err(message) => assert!(message.contains(expected), "{name}: {message}"),
        }
    }
    // Another history of the same length: an exported head tells.
    std::fs::write(good.database(), &database).unwrap();
    let other = Head { hash: [5; 32], ..head.clone() };
    assert!(verdict(&good, Some(other)).unwrap_err().contains("another history"));
    let other = Head { chain: "ca-other".into(), ..head };
    assert!(verdict(&good, Some(other)).unwrap_err().contains("another history"));
}

fn rewrite(home: &Stopped) {
    let connection = rusqlite::Connection::open(home.database()).unwrap();
    let (chain, td, root): (String, String, [u8; 32]) = connection
        .query_row("SELECT audit_chain, name, root_hash FROM trust_domain", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    let mut head = Head::origin(&chain, &td, &root);
    let rows: Vec<(i64, String, String)> = connection
        .prepare("SELECT at, kind, body FROM audit_record ORDER BY seq")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for (at, kind, body) in rows {
        let at = bonafide_verifier::clock::Timestamp::from_unix_millis(at);
        head.advance(at, &kind, &body, &mut Vec::new());
        connection
            .execute("UPDATE audit_record SET hash = ?1 WHERE seq = ?2", (head.hash.as_slice(), head.seq as i64))
            .unwrap();
    }
}

#[tokio::test]
async fn a_running_store_notices_a_tail_cut_under_it() {
    let home = Home::new().await;
    home.opened.registry.add_service(service("a", &["unix:uid:1"], &["any"]), admin()).await.unwrap();
    let other = rusqlite::Connection::open(home.opened.store.path()).unwrap();
    other.execute_batch("DELETE FROM audit_head WHERE seq = 6; DELETE FROM audit_record WHERE seq = 6").unwrap();
    let error = fixtures::verify(&home.opened.store).await.unwrap_err().to_string();
    assert!(error.contains("its tail was cut"), "{error}");
}

#[tokio::test]
async fn every_kind_says_who_did_it_and_has_a_name_of_its_own() {
    let home = a_history().await.start().await;
    let page = fixtures::list(&home.opened.store, Filter { limit: 100, ..Default::default() }).await.unwrap();
    assert_eq!(page.next, None);
    for entry in &page.entries {
        assert!(Kind::parse(&entry.kind).is_some(), "{}", entry.kind);
        let body: Value = serde_json::from_str(&entry.body).unwrap();
        assert!(body["who"].as_str().is_some_and(|who| !who.is_empty()), "{}", entry.body);
    }
    let who = |kind: Kind| {
        let entry = page.entries.iter().find(|entry| entry.kind == kind.as_str()).unwrap();
        serde_json::from_str::<Value>(&entry.body).unwrap()["who"].as_str().unwrap().to_owned()
    };
    assert_eq!(who(Kind::ServiceAdded), "uid 1000 (alice)");
    assert_eq!(who(Kind::NodeJoined), format!("key {} from 192.0.2.7:4711", "01".repeat(32)));
    assert_eq!(who(Kind::InvitationClosed), "node web-1");
    assert_eq!(who(Kind::AuthorityCreated), "ca");
    let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
    }
}

#[tokio::test]
async fn the_log_is_listed_by_filter_and_page() {
    let home = a_history().await.start().await;
    let list = |filter: Filter| {
        let store = home.opened.store.clone();
        async move { fixtures::list(&store, filter).await.unwrap() }
    };
    let seqs = |page: &Page| page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>();
    let first = list(Filter { limit: 5, ..Default::default() }).await;
    assert_eq!((seqs(&first), first.next), (vec![14, 13, 12, 11, 10], Some(10)));
    let second = list(Filter { limit: 5, before: first.next, ..Default::default() }).await;
    assert_eq!(seqs(&second), [9, 8, 7, 6, 5]);
    let node = list(Filter { limit: 50, node: Some("web-1".into()), ..Default::default() }).await;
    assert_eq!(seqs(&node), [14, 13, 12, 11]);
    let part = list(Filter { limit: 50, node: Some("web".into()), ..Default::default() }).await;
    assert_eq!(seqs(&part), [0_u64; 0], "compared whole");
    let id = list(Filter { limit: 50, spiffe_id: Some("spiffe://example.org/s2".into()), ..Default::default() }).await;
    assert_eq!(seqs(&id), [8]);
    let kinds = vec![Kind::NodeJoined, Kind::TrustDomainCreated];
    assert_eq!(seqs(&list(Filter { limit: 50, kinds, ..Default::default() }).await), [13, 1]);
    let since = Some(fixtures::start().saturating_add(std::time::Duration::from_secs(1)));
    assert_eq!(seqs(&list(Filter { limit: 50, since, ..Default::default() }).await), [0_u64; 0]);
    // T-11: sizes that nobody means.
    for limit in [0, u32::MAX] {
        assert!(!list(Filter { limit, ..Default::default() }).await.entries.is_empty());
    }
    assert!(list(Filter { limit: 5, before: Some(0), ..Default::default() }).await.entries.is_empty());
}
