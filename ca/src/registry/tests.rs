//! Joining, keys, services: each rule, the race for one invitation, and the snapshot against the database.

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{Labels, Placement, Selector};
use proptest::prelude::*;

use super::*;
use crate::{
    audit::{self, Kind},
    fixtures::{self, Home, admin, from, invitation, key, name, service},
    store::WriteError,
};

fn refusal<T: std::fmt::Debug, E: std::fmt::Debug>(outcome: Result<T, WriteError<E>>) -> E {
    match outcome {
        Err(WriteError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

async fn records(home: &Home, kind: Kind) -> usize {
    let filter = audit::Filter { kinds: vec![kind], limit: 1000, ..Default::default() };
    fixtures::list(&home.opened.store, filter).await.unwrap().entries.len()
}

async fn agrees(home: &Home) {
    let snapshot = home.opened.registry.load();
    let everything = home.opened.store.read(|reader| reader.everything()).await.unwrap();
    if let Some(difference) = snapshot.difference(&everything) {
        panic!("memory and database differ: {difference}");
    }
}

#[tokio::test]
async fn an_invitation_is_used_by_one_key_until_its_node_has_synced() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    let made = registry.invite(invitation("web-1", &["group=web"], false), [1; 32], admin()).await.unwrap();
    assert_eq!(made.expires_at, home.clock.now().saturating_add(Duration::from_secs(600)));
    assert_eq!(refusal(registry.join([9; 32], key(1), from()).await), JoinRefusal::Unknown);

    let joined = registry.join([1; 32], key(1), from()).await.unwrap();
    assert!(!joined.retried);
    assert_eq!(joined.node.labels.value("group"), Some("web"));
    // The answer was lost: the same key again.
    let again = registry.join([1; 32], key(1), from()).await.unwrap();
    assert!(again.retried);
    assert_eq!(again.node, joined.node);
    // Another key is told when and from where, and what to do.
    let refused = refusal(registry.join([1; 32], key(2), from()).await);
    assert_eq!(
        refused,
        JoinRefusal::Bound { node: name("web-1"), at: home.clock.now(), from: "192.0.2.7:4711".to_owned() }
    );
    let text = refused.to_string();
    assert!(text.contains("192.0.2.7:4711") && text.contains("bonafide-ca node remove web-1"), "{text}");
    assert_eq!(records(&home, Kind::InvitationRefused).await, 1);

    registry.close_invitations(vec![name("web-1"), name("other")]).await.unwrap();
    assert!(matches!(refusal(registry.join([1; 32], key(1), from()).await), JoinRefusal::Closed { .. }));
    assert!(matches!(refusal(registry.join([1; 32], key(3), from()).await), JoinRefusal::Bound { .. }));
    assert_eq!(records(&home, Kind::InvitationClosed).await, 1);
    assert_eq!(registry.load().node_count(), 1);
    agrees(&home).await;
}

#[tokio::test]
async fn an_invitation_expires_also_for_the_key_that_used_it() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    for (secret, node) in [(1, "a"), (2, "b")] {
        registry.invite(invitation(node, &[], false), [secret; 32], admin()).await.unwrap();
    }
    registry.join([1; 32], key(1), from()).await.unwrap();
    home.clock.advance(Duration::from_secs(599));
    registry.join([1; 32], key(1), from()).await.unwrap();
    home.clock.advance(Duration::from_secs(1));
    let expired = |node| matches!(node, JoinRefusal::Expired { .. });
    assert!(expired(refusal(registry.join([1; 32], key(1), from()).await)), "its own key, at the end");
    assert!(expired(refusal(registry.join([2; 32], key(2), from()).await)), "never used");
    agrees(&home).await;
}

#[tokio::test]
async fn a_live_name_is_invited_with_replace_alone() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    registry.invite(invitation("web-1", &["v=1"], false), [1; 32], admin()).await.unwrap();
    registry.join([1; 32], key(1), from()).await.unwrap();
    let refused = refusal(registry.invite(invitation("web-1", &[], false), [2; 32], admin()).await);
    assert!(refused.to_string().contains("bonafide-ca node invite web-1 --replace"), "{refused}");
    registry.invite(invitation("web-1", &["v=2"], true), [2; 32], admin()).await.unwrap();
    // The older invitation gave way.
    assert!(matches!(refusal(registry.join([1; 32], key(1), from()).await), JoinRefusal::Closed { .. }));
    // The old node goes on until the new one joins.
    assert!(registry.load().node_by_key(&key(1)).is_some());
    let joined = registry.join([2; 32], key(2), from()).await.unwrap();
    assert!(!joined.retried);
    let snapshot = registry.load();
    assert!(snapshot.node_by_key(&key(1)).is_none());
    assert_eq!(snapshot.node(&name("web-1")).unwrap().labels.value("v"), Some("2"));
    // The same machine with the same key, invited again for other labels.
    registry.invite(invitation("web-1", &["v=3"], true), [3; 32], admin()).await.unwrap();
    let joined = registry.join([3; 32], key(2), from()).await.unwrap();
    assert!(!joined.retried);
    assert_eq!(registry.load().node(&name("web-1")).unwrap().labels.value("v"), Some("3"));
    assert_eq!(records(&home, Kind::NodeRemoved).await, 2);
    agrees(&home).await;
}

#[tokio::test]
async fn a_key_serves_one_node_once() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    for (secret, node) in [(1, "a"), (2, "b")] {
        registry.invite(invitation(node, &[], false), [secret; 32], admin()).await.unwrap();
    }
    registry.join([1; 32], key(1), from()).await.unwrap();
    assert_eq!(refusal(registry.join([2; 32], key(1), from()).await), JoinRefusal::KeyInUse { node: name("a") });
    registry.join([2; 32], key(2), from()).await.unwrap();
    assert!(matches!(refusal(registry.set_pending(name("a"), key(1), key(2)).await), NodeError::KeyNotNew { .. }));
    assert!(matches!(refusal(registry.set_pending(name("a"), key(1), key(1)).await), NodeError::KeyNotNew { .. }));
    assert!(matches!(refusal(registry.set_pending(name("a"), key(2), key(3)).await), NodeError::NotItsKey { .. }));
    agrees(&home).await;
}

#[tokio::test]
async fn a_renewed_key_is_pending_until_it_is_used_and_the_old_one_is_then_refused() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    registry.invite(invitation("a", &[], false), [1; 32], admin()).await.unwrap();
    registry.join([1; 32], key(1), from()).await.unwrap();
    registry.set_pending(name("a"), key(1), key(2)).await.unwrap();
    // The answer was lost, the same key is asked for again; then the agent lost the key, too.
    registry.set_pending(name("a"), key(1), key(2)).await.unwrap();
    registry.set_pending(name("a"), key(1), key(3)).await.unwrap();
    let snapshot = registry.load();
    assert_eq!(snapshot.node_by_key(&key(1)).unwrap().1, KeyState::Current);
    assert_eq!(snapshot.node_by_key(&key(3)).unwrap().1, KeyState::Pending);
    assert!(snapshot.node_by_key(&key(2)).is_none());
    assert_eq!(registry.retired_key(&key(2)).await.unwrap().unwrap().node, name("a"));
    assert!(matches!(refusal(registry.promote_pending(name("a"), key(2)).await), NodeError::NotItsKey { .. }));

    registry.promote_pending(name("a"), key(3)).await.unwrap();
    registry.promote_pending(name("a"), key(3)).await.unwrap();
    assert_eq!(records(&home, Kind::NodeKeyActivated).await, 1);
    let snapshot = registry.load();
    assert_eq!(snapshot.node_by_key(&key(3)).unwrap().1, KeyState::Current);
    assert!(snapshot.node_by_key(&key(1)).is_none());
    // An older key is known as such, never certified again, and reported.
    assert!(registry.retired_key(&key(1)).await.unwrap().is_some());
    assert!(matches!(refusal(registry.set_pending(name("a"), key(3), key(1)).await), NodeError::KeyNotNew { .. }));
    for _ in 0..5 {
        registry.record_stale(name("a"), key(1), from()).await.unwrap();
    }
    assert_eq!(records(&home, Kind::NodeStaleKeyRefused).await, 1, "one a minute");
    home.clock.advance(Duration::from_secs(61));
    registry.record_stale(name("a"), key(1), from()).await.unwrap();
    let node = registry.load().node(&name("a")).unwrap().clone();
    assert_eq!((node.stale.count, node.stale.last_from.as_deref()), (6, Some("192.0.2.7:4711")));
    agrees(&home).await;
}

#[tokio::test]
async fn a_node_recovers_for_thirty_days() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    registry.invite(invitation("a", &[], false), [1; 32], admin()).await.unwrap();
    registry.join([1; 32], key(1), from()).await.unwrap();
    registry.set_pending(name("a"), key(1), key(2)).await.unwrap();
    let day = Duration::from_secs(86_400);
    home.clock.advance(30 * day);
    // With the pending key: its certificate was never seen used.
    let node = registry.recover(key(2), from()).await.unwrap();
    assert_eq!((node.current_key, node.pending), (key(2), None));
    assert!(matches!(refusal(registry.recover(key(1), from()).await), RecoverRefusal::Stale { .. }));
    assert_eq!(refusal(registry.recover(key(9), from()).await), RecoverRefusal::Unknown);
    // Being seen counts from then on.
    home.clock.advance(29 * day);
    registry.mark_seen(vec![(name("a"), home.clock.now())]).await.unwrap();
    assert_eq!(registry.load().node(&name("a")).unwrap().last_seen(), home.clock.now());
    home.clock.advance(30 * day);
    registry.recover(key(2), from()).await.unwrap();
    home.clock.advance(30 * day + Duration::from_millis(1));
    let refused = refusal(registry.recover(key(2), from()).await);
    assert!(refused.to_string().contains("bonafide-ca node invite a --replace"), "{refused}");
    agrees(&home).await;
}

#[tokio::test]
async fn a_removed_node_is_a_stranger() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    registry.add_service(service("photo", &["unix:uid:1"], &["a"]), admin()).await.unwrap();
    registry.invite(invitation("a", &[], false), [1; 32], admin()).await.unwrap();
    registry.join([1; 32], key(1), from()).await.unwrap();
    let mut changes = registry.changes();
    registry.remove_node(name("a"), admin()).await.unwrap();
    assert!(matches!(changes.recv().await.unwrap().what, What::InvitationClosed(_)));
    assert!(matches!(&changes.recv().await.unwrap().what, What::NodeRemoved(node) if node.name == name("a")));
    assert_eq!(refusal(registry.recover(key(1), from()).await), RecoverRefusal::Unknown);
    assert!(matches!(refusal(registry.join([1; 32], key(1), from()).await), JoinRefusal::Closed { .. }));
    assert!(matches!(refusal(registry.remove_node(name("a"), admin()).await), NodeError::Unknown { .. }));
    registry.mark_seen(vec![(name("a"), home.clock.now())]).await.unwrap();
    agrees(&home).await;
}

/// Two processes of one agent, or sixty-four thieves of one join string.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn t01_of_64_keys_that_race_one_invitation_one_wins() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    for round in 0..60_u8 {
        let node = format!("n{round}");
        let secret = [round; 32];
        registry.invite(invitation(&node, &[], false), secret, admin()).await.unwrap();
        let barrier = Arc::new(tokio::sync::Barrier::new(64));
        let mut racers = Vec::new();
        for racer in 0..64_u8 {
            let (registry, barrier) = (registry.clone(), barrier.clone());
            racers.push(tokio::spawn(async move {
                let mut key = [round; 32];
                key[0] = racer;
                barrier.wait().await;
                (key, registry.join(secret, key, from()).await)
            }));
        }
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                (key, Ok(joined)) => winners.push((key, joined)),
                (_, Err(WriteError::Refused(JoinRefusal::Bound { .. }))) => {}
                (_, Err(other)) => panic!("round {round}: {other}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let node = registry.load().node(&name(&node)).unwrap().clone();
        assert_eq!(node.current_key, winners[0].0, "round {round}");
    }
    // The losers of each round are recorded up to the bound.
    assert_eq!(records(&home, Kind::InvitationRefused).await, 60 * 16);
    assert_eq!(records(&home, Kind::NodeJoined).await, 60);
    agrees(&home).await;
}

/// The statement itself, without the one writer: connections of their own, as of several processes.
#[test]
fn t01_the_conditional_statement_decides_also_between_connections() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = runtime.block_on(Home::new());
    for round in 0..20_u8 {
        let new = invitation(&format!("n{round}"), &[], false);
        runtime.block_on(home.opened.registry.invite(new, [round; 32], admin())).unwrap();
        let wins: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16_u8)
                .map(|racer| {
                    let (path, at) = (home.opened.store.path(), home.clock.now().unix_millis());
                    scope.spawn(move || {
                        let connection = rusqlite::Connection::open(path).unwrap();
                        connection.busy_timeout(Duration::from_secs(30)).unwrap();
                        let sql = "UPDATE invitation SET bound_key = ?2, bound_at = coalesce(bound_at, ?3), bound_from = coalesce(bound_from, ?4) \
                            WHERE secret_hash = ?1 AND closed_at IS NULL AND expires_at > ?3 AND (bound_key IS NULL OR bound_key = ?2)";
                        connection.execute(sql, ([round; 32].as_slice(), [racer; 32].as_slice(), at, "x")).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(wins, 1, "round {round}");
    }
}

#[tokio::test]
async fn services_by_rule() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    let base = || service("photo", &["unix:user:photo"], &["any"]);
    type Change = fn(&mut NewService);
    let cases: &[(&str, Change, Option<&str>)] = &[
        ("plain", |_| {}, None),
        ("leading slash", |new| new.path = "/a".into(), None),
        ("two segments", |new| new.path = "shop/photo".into(), None),
        ("whole SPIFFE ID", |new| new.path = "spiffe://example.org/b".into(), None),
        (
            "ID of another trust domain",
            |new| new.path = "spiffe://example.com/b".into(),
            Some("not in the trust domain `example.org`"),
        ),
        ("ID-11 trust domain alone", |new| new.path = "spiffe://example.org".into(), Some("needs a path")),
        ("no path", |new| new.path = "/".into(), Some("needs a path")),
        ("ID-11 double slash", |new| new.path = "//a".into(), Some("is not the path of a SPIFFE ID")),
        ("ID-13 trailing slash", |new| new.path = "a/".into(), Some("is not the path of a SPIFFE ID")),
        ("ID-12 dots", |new| new.path = "a/../b".into(), Some("is not the path of a SPIFFE ID")),
        ("ID-10 percent", |new| new.path = "a%20".into(), Some("is not the path of a SPIFFE ID")),
        ("ID-17 too long", |new| new.path = "a".repeat(2048), Some("is not the path of a SPIFFE ID")),
        ("T-31 escape in the path", |new| new.path = "a\x1b[2J".into(), Some("\\u{1b}")),
        ("reserved", |new| new.path = "bonafide/ca".into(), Some("starts with `bonafide`, which is reserved")),
        ("reserved alone", |new| new.path = "bonafide".into(), Some("reserved")),
        ("reserved by its ID", |new| new.path = "spiffe://example.org/bonafide/x".into(), Some("reserved")),
        ("not reserved", |new| new.path = "bonafide2/x".into(), None),
        ("not the first segment", |new| new.path = "x/bonafide".into(), None),
        ("no selector", |new| new.selectors.clear(), Some("at least one selector")),
        (
            "no user",
            |new| new.selectors = vec![Selector::parse("unix:path:/bin/sh").unwrap()],
            Some("a selector for its user"),
        ),
        (
            "gid is no user",
            |new| new.selectors = vec![Selector::parse("unix:gid:5").unwrap()],
            Some("a selector for its user"),
        ),
        (
            "two users",
            |new| new.selectors.push(Selector::parse("unix:user:other").unwrap()),
            Some("no process matches both `unix:user:other` and `unix:user:photo`"),
        ),
        (
            "two supplementary groups",
            |new| {
                new.path = "groups".into();
                new.selectors.push(Selector::parse("unix:supplementary-gid:5").unwrap());
                new.selectors.push(Selector::parse("unix:supplementary-gid:6").unwrap());
            },
            None,
        ),
        ("nowhere", |new| new.placements.clear(), Some("say where it may run")),
        ("any and more", |new| new.placements.push(Placement::parse("a").unwrap()), Some("includes every other")),
        ("shortest TTL", |new| (new.path, new.x509_ttl) = ("s".into(), Some(Duration::from_secs(10))), None),
        (
            "T-08 below the shortest",
            |new| new.x509_ttl = Some(Duration::from_millis(9_999)),
            Some("from 10 s to 201600 s"),
        ),
        ("longest TTL", |new| (new.path, new.x509_ttl) = ("l".into(), Some(Duration::from_secs(201_600))), None),
        ("above a third", |new| new.x509_ttl = Some(Duration::from_secs(201_601)), Some("not 201601 s")),
        ("JWT above a third", |new| new.jwt_ttl = Some(Duration::from_secs(201_601)), Some("the JWT-SVID lifetime")),
        ("TTL 10 years", |new| new.x509_ttl = Some(Duration::from_secs(315_360_000)), Some("not 315360000 s")),
        ("TTL zero", |new| new.x509_ttl = Some(Duration::ZERO), Some("not 0 s")),
        (
            "DNS names",
            |new| (new.path, new.dns_names) = ("d".into(), vec!["photo.example.org".into(), "x".into()]),
            None,
        ),
        ("DNS upper case", |new| new.dns_names = vec!["Photo".into()], Some("write it in lower case")),
        ("DNS wildcard", |new| new.dns_names = vec!["*.example.org".into()], Some("wildcards are not issued")),
        ("DNS empty", |new| new.dns_names = vec![String::new()], Some("it is empty")),
        ("DNS trailing dot", |new| new.dns_names = vec!["a.".into()], Some("an empty label")),
        ("DNS underscore", |new| new.dns_names = vec!["a_b".into()], Some("only a-z, 0-9")),
        ("DNS dash first", |new| new.dns_names = vec!["-a".into()], Some("starts or ends")),
        ("DNS address", |new| new.dns_names = vec!["192.0.2.1".into()], Some("like an address")),
        ("DNS label of 64", |new| new.dns_names = vec!["a".repeat(64)], Some("longer than 63 bytes")),
        ("T-15 DNS NUL", |new| new.dns_names = vec!["a\0b".into()], Some("only a-z, 0-9")),
        (
            "33 DNS names",
            |new| new.dns_names = (0..33).map(|n| format!("n{n}")).collect(),
            Some("33 DNS names are given"),
        ),
        ("hint of 1024", |new| (new.path, new.hint) = ("h".into(), "h".repeat(1024)), None),
        ("T-08 hint of 1025", |new| new.hint = "h".repeat(1025), Some("1025 bytes long")),
        ("T-31 hint with an escape", |new| new.hint = "a\x1b[2J".into(), Some("control character at position 1")),
        ("taken", |_| {}, Some("`/photo` is registered already")),
    ];
    for (rule, change, expected) in cases {
        let mut new = base();
        change(&mut new);
        let outcome = registry.add_service(new, admin()).await;
        match (outcome, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{rule}: {error}"),
            (outcome, expected) => panic!("{rule}: {outcome:?}, expected {expected:?}"),
        }
    }
    agrees(&home).await;
}

#[tokio::test]
async fn hints_are_unique_where_services_could_meet() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    let with_hint = |path: &str, selectors: &[&str], on: &[&str]| NewService {
        hint: "main".into(),
        ..service(path, selectors, on)
    };
    registry.add_service(with_hint("first", &["unix:uid:1", "unix:path:/a"], &["group=web"]), admin()).await.unwrap();
    let cases: &[(&str, &[&str], &[&str], bool)] = &[
        ("same user and place", &["unix:uid:1"], &["group=web"], true),
        ("another user", &["unix:uid:2"], &["group=web"], false),
        ("the user by name could be the same", &["unix:user:a"], &["n1"], true),
        ("another executable", &["unix:uid:1", "unix:path:/b"], &["any"], false),
        ("another value of the label", &["unix:uid:1"], &["group=db"], false),
        ("another label", &["unix:uid:1"], &["zone=a"], true),
        ("another node could get the label", &["unix:uid:1"], &["n2"], true),
        ("any", &["unix:uid:1"], &["any"], true),
    ];
    for (number, (rule, selectors, on, refused)) in cases.iter().enumerate() {
        let path = format!("p{number}");
        let outcome = registry.add_service(with_hint(&path, selectors, on), admin()).await;
        match outcome {
            Err(error) => {
                assert!(*refused && error.to_string().contains("`/first` has the hint `main`"), "{rule}: {error}")
            }
            Ok(_) => {
                assert!(!refused, "{rule}");
                registry.remove_service(path, admin()).await.unwrap();
            }
        }
    }
    // A change is checked, too; leaving everything as it is, is none.
    registry.add_service(service("other", &["unix:uid:1"], &["n1"]), admin()).await.unwrap();
    let update = ServiceUpdate { hint: Some("main".into()), ..Default::default() };
    assert!(matches!(
        refusal(registry.update_service("other".into(), update.clone(), admin()).await),
        ServiceError::HintTaken { .. }
    ));
    let version = registry.load().version();
    registry.update_service("first".into(), update, admin()).await.unwrap();
    assert_eq!(registry.load().version(), version);
}

#[tokio::test]
async fn limits_are_limits() {
    let home = Home::with(|options| {
        (options.rules.nodes, options.rules.services, options.rules.open_invitations) = (1, 1, 2);
    })
    .await;
    let registry = &home.opened.registry;
    registry.add_service(service("a", &["unix:uid:1"], &["any"]), admin()).await.unwrap();
    let refused = refusal(registry.add_service(service("b", &["unix:uid:1"], &["any"]), admin()).await);
    assert_eq!(refused, ServiceError::TooManyServices { limit: 1 });
    for (secret, node) in [(1, "a"), (2, "b")] {
        registry.invite(invitation(node, &[], false), [secret; 32], admin()).await.unwrap();
    }
    let refused = refusal(registry.invite(invitation("c", &[], false), [3; 32], admin()).await);
    assert_eq!(refused, InviteError::TooMany { limit: 2 });
    registry.join([1; 32], key(1), from()).await.unwrap();
    assert_eq!(refusal(registry.join([2; 32], key(2), from()).await), JoinRefusal::TooManyNodes { limit: 1 });
    // What was refused is not bound: it can be used once there is room.
    registry.remove_node(name("a"), admin()).await.unwrap();
    registry.join([2; 32], key(2), from()).await.unwrap();
    for ttl in [Duration::ZERO, Duration::from_secs(7 * 86_400 + 1)] {
        let new = NewInvitation { ttl: Some(ttl), ..invitation("z", &[], false) };
        assert!(matches!(refusal(registry.invite(new, [4; 32], admin()).await), InviteError::Lifetime { .. }));
    }
    agrees(&home).await;
}

#[tokio::test]
async fn a_mutation_is_in_the_snapshot_before_it_returns_and_after_a_restart() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    let before = registry.load().position();
    let added = registry.add_service(service("photo", &["unix:uid:1"], &["group=web"]), admin()).await.unwrap();
    let snapshot = registry.load();
    assert!(Arc::ptr_eq(snapshot.service_by_path("/photo").unwrap(), &added));
    assert_eq!((snapshot.version(), added.version), (before.version + 1, before.version + 1));
    // A node that joins changes what no other node sees.
    registry.invite(invitation("a", &["group=web"], false), [1; 32], admin()).await.unwrap();
    registry.join([1; 32], key(1), from()).await.unwrap();
    assert_eq!(registry.load().version(), before.version + 1);
    let node = registry.load().node(&name("a")).unwrap().clone();
    assert!(registry.load().service(&added.id).unwrap().may_run_on(&node));
    let update = ServiceUpdate { placements: Some(vec![Placement::parse("b").unwrap()]), ..Default::default() };
    registry.update_service("photo".into(), update, admin()).await.unwrap();
    assert!(!registry.load().service(&added.id).unwrap().may_run_on(&node));
    assert!(registry.load().services_of(&node).is_empty());
    let position = registry.load().position();
    let home = home.stop().await.start().await;
    assert_eq!(home.opened.registry.load().position(), position);
    agrees(&home).await;
}

#[derive(Clone, Debug)]
enum Act {
    Invite { node: u8, labels: u8, replace: bool },
    Join { secret: u8, key: u8 },
    Synced { node: u8 },
    Renew { node: u8, used: u8, next: u8 },
    Promote { node: u8, key: u8 },
    Recover { key: u8 },
    Stale { node: u8, key: u8 },
    Seen { node: u8 },
    Remove { node: u8 },
    Add { path: u8, on: u8, hint: u8 },
    Update { path: u8, on: u8 },
    Drop { path: u8 },
    Wait { seconds: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let few = 0..4_u8;
    prop_oneof![
        (few.clone(), few.clone(), any::<bool>()).prop_map(|(node, labels, replace)| Act::Invite {
            node,
            labels,
            replace
        }),
        (0..20_u8, 0..8_u8).prop_map(|(secret, key)| Act::Join { secret, key }),
        few.clone().prop_map(|node| Act::Synced { node }),
        (few.clone(), 0..8_u8, 0..8_u8).prop_map(|(node, used, next)| Act::Renew { node, used, next }),
        (few.clone(), 0..8_u8).prop_map(|(node, key)| Act::Promote { node, key }),
        (0..8_u8).prop_map(|key| Act::Recover { key }),
        (few.clone(), 0..8_u8).prop_map(|(node, key)| Act::Stale { node, key }),
        few.clone().prop_map(|node| Act::Seen { node }),
        few.clone().prop_map(|node| Act::Remove { node }),
        (few.clone(), 0..6_u8, 0..3_u8).prop_map(|(path, on, hint)| Act::Add { path, on, hint }),
        (few.clone(), 0..6_u8).prop_map(|(path, on)| Act::Update { path, on }),
        few.prop_map(|path| Act::Drop { path }),
        (0..700_u64).prop_map(|seconds| Act::Wait { seconds }),
    ]
}

fn placement(number: u8) -> Vec<Placement> {
    let text = ["any", "n0", "n1", "group=g0", "group=g1", "n3"][usize::from(number)];
    vec![Placement::parse(text).unwrap()]
}

/// Whatever is asked for in whatever order: memory equals the database, and no key or name is used twice.
async fn random_acts(acts: Vec<Act>) {
    let home = Home::new().await;
    let registry = home.opened.registry.clone();
    let node = |number: u8| name(&format!("n{number}"));
    let (mut secrets, mut position) = (0_u8, registry.load().position());
    for act in acts {
        // Refusals are part of the game; errors of the store are not.
        let fine = match act.clone() {
            Act::Invite { node: number, labels, replace } => {
                let labels = Labels::parse([format!("group=g{labels}").as_str()]).unwrap();
                let new = NewInvitation { node: node(number), labels, ttl: None, replace };
                let made = registry.invite(new, [secrets; 32], admin()).await;
                secrets += u8::from(made.is_ok());
                is_fine(made)
            }
            Act::Join { secret, key: number } => is_fine(registry.join([secret; 32], key(number), from()).await),
            Act::Synced { node: number } => is_fine(registry.close_invitations(vec![node(number)]).await),
            Act::Renew { node: number, used, next } => {
                is_fine(registry.set_pending(node(number), key(used), key(next)).await)
            }
            Act::Promote { node: number, key: used } => {
                is_fine(registry.promote_pending(node(number), key(used)).await)
            }
            Act::Recover { key: used } => is_fine(registry.recover(key(used), from()).await),
            Act::Stale { node: number, key: used } => {
                is_fine(registry.record_stale(node(number), key(used), from()).await)
            }
            Act::Seen { node: number } => is_fine(registry.mark_seen(vec![(node(number), home.clock.now())]).await),
            Act::Remove { node: number } => is_fine(registry.remove_node(node(number), admin()).await),
            Act::Add { path, on, hint } => {
                let hint = ["", "x", "y"][usize::from(hint)].to_owned();
                let new = service(&format!("s{path}"), &["unix:uid:1"], &["any"]);
                let new = NewService { placements: placement(on), hint, ..new };
                is_fine(registry.add_service(new, admin()).await)
            }
            Act::Update { path, on } => {
                let update = ServiceUpdate { placements: Some(placement(on)), ..Default::default() };
                is_fine(registry.update_service(format!("s{path}"), update, admin()).await)
            }
            Act::Drop { path } => is_fine(registry.remove_service(format!("s{path}"), admin()).await),
            Act::Wait { seconds } => {
                home.clock.advance(Duration::from_secs(seconds));
                true
            }
        };
        assert!(fine, "{act:?}");
        agrees(&home).await;
        let snapshot = registry.load();
        assert!(snapshot.version() >= position.version && *snapshot.epoch() == position.epoch, "{act:?}");
        position = snapshot.position();
        let mut keys: Vec<KeyHash> = snapshot
            .nodes()
            .iter()
            .flat_map(|node| std::iter::once(node.current_key).chain(node.pending.map(|pending| pending.key)))
            .collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "{act:?}: a key of two nodes");
    }
    fixtures::verify(&home.opened.store).await.unwrap();
    let home = home.stop().await.start().await;
    assert_eq!(home.opened.registry.load().position(), position);
    agrees(&home).await;
}

fn is_fine<T, E>(outcome: Result<T, WriteError<E>>) -> bool {
    !matches!(outcome, Err(WriteError::Store(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn memory_and_database_stay_the_same(acts in proptest::collection::vec(act(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(random_acts(acts));
    }
}

#[tokio::test]
async fn an_edge_has_scopes_and_issuers_and_loses_both_together() {
    let home = Home::new().await;
    let registry = &home.opened.registry;
    let marked = |path: &str, scopes: &[&str], issuers: &[&str]| NewService {
        edge_scopes: scopes.iter().map(ToString::to_string).collect(),
        edge_issuers: issuers.iter().map(ToString::to_string).collect(),
        ..service(path, &["unix:uid:1"], &["n1"])
    };
    let long = "s".repeat(63);
    let added = registry.add_service(marked("web", &["b", "a", "b", &long], &["corp", "a-1"]), admin()).await.unwrap();
    let edge = added.edge.clone().unwrap();
    assert_eq!(
        (edge.scopes, edge.issuers),
        (vec!["a".into(), "b".into(), long.clone()], vec!["a-1".into(), "corp".into()])
    );
    registry.add_service(marked("own", &["a"], &[]), admin()).await.unwrap();
    let (longer, name) = ("s".repeat(64), "n".repeat(33));
    let many: Vec<String> = (0..17).map(|number| format!("s{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("issuers alone", &[], &["corp"]),
        ("an empty scope", &[""], &[]),
        ("two words", &["a b"], &[]),
        ("a quote", &["a\"b"], &[]),
        ("a control character", &["a\n"], &[]),
        ("a scope too long", &[&longer], &[]),
        ("one scope too many", &many, &[]),
        ("an issuer that looks like a service", &["a"], &["spiffe"]),
        ("an issuer that begins with a digit", &["a"], &["1corp"]),
        ("an issuer in capitals", &["a"], &["Corp"]),
        ("an issuer too long", &["a"], &[&name]),
        ("an issuer with a colon", &["a"], &["corp:x"]),
    ];
    for (rule, scopes, issuers) in cases {
        let refused = refusal(registry.add_service(marked("x", scopes, issuers), admin()).await);
        let expected = matches!(
            refused,
            ServiceError::EdgeScope { .. }
                | ServiceError::EdgeIssuer { .. }
                | ServiceError::EdgeWithoutScope
                | ServiceError::TooMany { .. }
        );
        assert!(expected, "{rule}: {refused}");
    }
    let update = |scopes: Option<&[&str]>, issuers: Option<&[&str]>| {
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        ServiceUpdate { edge_scopes: scopes.map(words), edge_issuers: issuers.map(words), ..Default::default() }
    };
    let changed = registry.update_service("web".into(), update(Some(&["c"]), None), admin()).await.unwrap();
    let edge = changed.edge.clone().unwrap();
    assert_eq!((edge.scopes, edge.issuers), (vec!["c".into()], vec!["a-1".into(), "corp".into()]), "the issuers stay");
    assert!(matches!(
        refusal(registry.update_service("web".into(), update(Some(&[]), Some(&["corp"])), admin()).await),
        ServiceError::EdgeWithoutScope
    ));
    let none = registry.update_service("web".into(), update(Some(&[]), None), admin()).await.unwrap();
    assert_eq!(none.edge, None);
    assert!(
        home.opened
            .store
            .read(|reader| reader.everything())
            .await
            .unwrap()
            .services
            .iter()
            .any(|one| one.edge.is_none())
    );
}
