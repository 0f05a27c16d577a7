//! Sync: one stream a node, exact differences, at once, to those whom it concerns.

use std::time::Duration;

use bonafide_ca_api::{
    Reason,
    generated::node::{
        Acknowledgement, HeldService, Hello, Position, SyncRequest, SyncResponse, sync_request::Message,
    },
};
use bonafide_verifier::clock::Clock;

use super::rig::{ADMIN, DEADLINE, Rig, TestNode, eventually, name, reason};
use crate::registry::{Service, ServiceUpdate};

fn ids(update: &SyncResponse) -> Vec<String> {
    update.services.iter().map(|service| service.spiffe_id.clone()).collect()
}

fn nothing() -> ServiceUpdate {
    ServiceUpdate::default()
}

fn placed(on: &str) -> ServiceUpdate {
    ServiceUpdate { placements: Some(vec![bonafide_ca_api::Placement::parse(on).unwrap()]), ..nothing() }
}

fn held(services: &[(&str, u64)]) -> Vec<HeldService> {
    services.iter().map(|(id, version)| HeldService { service_id: (*id).to_owned(), version: *version }).collect()
}

fn here(rig: &Rig) -> Position {
    let position = rig.opened.registry.load().position();
    Position { epoch: position.epoch.to_string(), version: position.version }
}

fn sequence(rig: &Rig) -> u64 {
    rig.opened.registry.load().bundle().sequence().unwrap()
}

#[tokio::test]
async fn a_node_with_nothing_gets_the_whole_of_its_own() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[("group", "web")]).await;
    rig.node("n2", &[]).await;
    rig.service("a", &["n1"]).await;
    rig.service("b", &["group=web"]).await;
    rig.service("c", &["any"]).await;
    rig.service("d", &["n2"]).await;
    rig.service("e", &["group=db"]).await;
    let mut stream = node.sync(Hello { agent: Some(rig.agent()), ..Hello::default() }).await.unwrap();
    let update = stream.next().await.unwrap();
    assert!(update.whole);
    let mut got = ids(&update);
    got.sort();
    assert_eq!(got, ["spiffe://example.org/a", "spiffe://example.org/b", "spiffe://example.org/c"]);
    assert_eq!(update.removed, Vec::<String>::new());
    assert_eq!(update.bundles.len(), 1);
    assert_eq!(update.position, Some(here(&rig)));
    assert_eq!(update.now_ms, rig.clock.now().unix_millis());
    let service = update.services.iter().find(|service| service.spiffe_id.ends_with("/a")).unwrap();
    assert_eq!(
        (service.selectors.as_slice(), service.x509_ttl_s, service.jwt_ttl_s),
        (["unix:uid:1000".to_owned()].as_slice(), 3600, 300)
    );
    rig.finish().await;
}

#[tokio::test]
async fn a_node_that_was_away_gets_exactly_the_difference() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let same = rig.service("same", &["n1"]).await;
    let changed = rig.service("changed", &["n1"]).await;
    let removed = rig.service("removed", &["n1"]).await;
    let moved = rig.service("moved", &["n1"]).await;
    let position = here(&rig);
    let bundle_sequence = sequence(&rig);
    rig.node("n2", &[]).await;
    rig.opened
        .registry
        .update_service("changed".into(), ServiceUpdate { hint: Some("h".into()), ..nothing() }, ADMIN)
        .await
        .unwrap();
    rig.opened.registry.remove_service("removed".into(), ADMIN).await.unwrap();
    rig.opened.registry.update_service("moved".into(), placed("n2"), ADMIN).await.unwrap();
    rig.service("new", &["n1"]).await;
    rig.service("foreign", &["n2"]).await;
    let hello = Hello {
        applied: Some(position),
        held: held(&[
            (&same.id, same.version),
            (&changed.id, changed.version),
            (&removed.id, removed.version),
            (&moved.id, moved.version),
        ]),
        agent: None,
        bundle_sequence,
        ..Hello::default()
    };
    let mut stream = node.sync(hello).await.unwrap();
    let update = stream.next().await.unwrap();
    assert!(!update.whole);
    let mut got = ids(&update);
    got.sort();
    assert_eq!(got, ["spiffe://example.org/changed", "spiffe://example.org/new"]);
    let mut gone = update.removed.clone();
    gone.sort();
    let mut expected = vec![removed.id.to_string(), moved.id.to_string()];
    expected.sort();
    assert_eq!(gone, expected, "tombstones only for what the node held");
    assert!(update.bundles.is_empty(), "the bundle is the same");
    rig.finish().await;
}

#[tokio::test]
async fn a_node_that_is_up_to_date_is_told_so_once() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let hello = Hello {
        applied: Some(here(&rig)),
        held: held(&[(&service.id, service.version)]),
        agent: None,
        bundle_sequence: sequence(&rig),
        ..Hello::default()
    };
    let mut stream = node.sync(hello).await.unwrap();
    let update = stream.next().await.unwrap();
    assert_eq!((update.whole, update.services.len(), update.removed.len(), update.bundles.len()), (false, 0, 0, 0));
    assert_eq!(update.position, Some(here(&rig)));
    // What does not concern it is not told: the next update is the one for it.
    rig.node("n2", &[]).await;
    rig.service("b", &["n2"]).await;
    rig.service("c", &["n1"]).await;
    assert_eq!(ids(&stream.next().await.unwrap()), ["spiffe://example.org/c"]);
    rig.finish().await;
}

#[tokio::test]
async fn changes_are_pushed_at_once_and_tell_what_is_gone() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[("group", "web")]).await;
    rig.node("n2", &[]).await;
    let mut stream = node.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    for (path, on) in [("a", "n1"), ("b", "group=web"), ("c", "any")] {
        let service = rig.service(path, &[on]).await;
        let update = stream.next().await.unwrap();
        assert_eq!((update.whole, ids(&update)), (false, vec![service.spiffe_id.to_string()]));
        stream.apply(&update).await;
    }
    // Three ways to lose one: removal, another node, another label.
    let id_of = |path: &str| {
        rig.opened
            .registry
            .load()
            .service_by_path(path)
            .map(|service: &std::sync::Arc<Service>| service.id.to_string())
            .unwrap()
    };
    let (a, b, c) = (id_of("/a"), id_of("/b"), id_of("/c"));
    rig.opened.registry.remove_service("a".into(), ADMIN).await.unwrap();
    assert_eq!(stream.next().await.unwrap().removed, [a]);
    rig.opened.registry.update_service("b".into(), placed("group=db"), ADMIN).await.unwrap();
    assert_eq!(stream.next().await.unwrap().removed, [b]);
    rig.opened.registry.update_service("c".into(), placed("n2"), ADMIN).await.unwrap();
    assert_eq!(stream.next().await.unwrap().removed, [c]);
    let status = rig.api.hub().status(&name("n1")).unwrap();
    assert_eq!((status.refused, status.replaced), (None, 0));
    rig.finish().await;
}

#[tokio::test]
async fn a_new_bundle_is_pushed_to_everyone() {
    let rig = Rig::start().await;
    let mut first = rig.node("n1", &[]).await;
    let mut second = rig.node("n2", &[]).await;
    let mut streams = [first.sync(Hello::default()).await.unwrap(), second.sync(Hello::default()).await.unwrap()];
    for stream in &mut streams {
        stream.next().await.unwrap();
    }
    let before = sequence(&rig);
    // Far enough for the next JWT authority to be published.
    rig.pass(Duration::from_secs(3 * 24 * 60 * 60)).await;
    eventually("the next authority is published", || sequence(&rig) > before).await;
    drop(streams);
    // Connections end with the SVIDs that they were made with, so the nodes come back for it.
    let mut recovered = rig.with_key(&first.key).await;
    let request = bonafide_ca_api::generated::node::RecoverRequest { agent: None };
    let credential = recovered.recover(request).await.unwrap().into_inner().credential.unwrap();
    let mut first = TestNode::new(&rig, first.key, credential).await;
    let hello =
        Hello { applied: Some(here(&rig)), held: vec![], agent: None, bundle_sequence: before, ..Hello::default() };
    let update = first.sync(hello).await.unwrap().next().await.unwrap();
    assert_eq!(update.bundles.len(), 1);
    rig.finish().await;
}

/// T-05: the open stream ends with the removal, and so does everything else.
#[tokio::test]
async fn t_05_a_removal_ends_the_open_stream() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mut other = rig.node("n2", &[]).await;
    let mut stream = node.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    let mut others = other.sync(Hello::default()).await.unwrap();
    others.next().await.unwrap();
    rig.opened.registry.remove_node(name("n1"), ADMIN).await.unwrap();
    assert_eq!(stream.end().await, Reason::NodeRemoved);
    assert_eq!(reason(&node.sync(Hello::default()).await.err().unwrap()), Reason::NodeRemoved);
    assert!(rig.api.hub().status(&name("n1")).is_none());
    rig.service("a", &["any"]).await;
    assert_eq!(others.next().await.unwrap().services.len(), 1, "the other node goes on");
    rig.finish().await;
}

/// T-05: a stream ends with the SVID that its connection was made with.
#[tokio::test]
async fn t_05_an_expired_svid_ends_the_open_stream() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mut stream = node.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    rig.pass(Duration::from_secs(24 * 60 * 60)).await;
    let ended = tokio::time::timeout(DEADLINE, stream.updates.message()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    eventually("the place is free", || rig.api.hub().connected() == 0).await;
    rig.finish().await;
}

#[tokio::test]
async fn a_second_stream_takes_the_place_of_the_first_and_two_copies_show() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mut first = node.sync(Hello::default()).await.unwrap();
    first.next().await.unwrap();
    let copy_svid = node.svid();
    let mut copy = TestNode {
        client: rig.with_svid(copy_svid).await,
        key: rcgen::KeyPair::try_from(node.key.serialize_der()).unwrap(),
        credential: node.credential.clone(),
    };
    let mut second = copy.sync(Hello::default()).await.unwrap();
    second.next().await.unwrap();
    assert_eq!(first.end().await, Reason::StreamReplaced);
    let status = rig.api.hub().status(&name("n1")).unwrap();
    assert_eq!(status.replaced, 1);
    assert!(status.replaced_remote.is_some());
    rig.service("a", &["n1"]).await;
    assert_eq!(second.next().await.unwrap().services.len(), 1);
    assert_eq!(rig.api.hub().connected(), 1);
    rig.finish().await;
}

#[tokio::test]
async fn what_a_node_applied_and_what_it_refused_is_known() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mut agent = rig.agent();
    agent.now_ms += 60_000;
    let mut stream = node.sync(Hello { agent: Some(agent), ..Hello::default() }).await.unwrap();
    let update = stream.next().await.unwrap();
    let status = rig.api.hub().status(&name("n1")).unwrap();
    assert_eq!((status.clock_ahead_ms, status.agent_version.as_str(), status.applied), (60_000, "0.1.0", None));
    stream.apply(&update).await;
    let version = update.position.as_ref().unwrap().version;
    eventually("the acknowledgement is known", || {
        rig.api.hub().status(&name("n1")).unwrap().applied.is_some_and(|applied| applied.version == version)
    })
    .await;
    rig.service("a", &["n1"]).await;
    let update = stream.next().await.unwrap();
    let refused = Acknowledgement { position: update.position, refused: Reason::VersionLowered.code().into() };
    stream.requests.send(SyncRequest { message: Some(Message::Applied(refused)) }).await.unwrap();
    eventually("the refusal is known", || {
        rig.api.hub().status(&name("n1")).unwrap().refused.as_deref() == Some(Reason::VersionLowered.code())
    })
    .await;
    // It does not hold what was sent, so nothing more is sent that builds on it.
    rig.service("b", &["n1"]).await;
    assert!(tokio::time::timeout(Duration::from_millis(200), stream.updates.message()).await.is_err());
    rig.finish().await;
}

#[tokio::test]
async fn positions_of_other_histories() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let now = here(&rig);
    let hello = |epoch: &str, version| Hello {
        applied: Some(Position { epoch: epoch.into(), version }),
        held: held(&[(&service.id, service.version)]),
        agent: None,
        bundle_sequence: 0,
        ..Hello::default()
    };
    let ahead = node.sync(hello(&now.epoch, now.version + 1)).await.err().unwrap();
    assert_eq!(reason(&ahead), Reason::PositionAhead);
    for (what, epoch, version) in
        [("another epoch", "other", 1), ("another epoch, far ahead", "other", u64::MAX), ("none", "", 0)]
    {
        let update = node.sync(hello(epoch, version)).await.unwrap().next().await.unwrap();
        assert!(update.whole && update.services.len() == 1, "{what}");
    }
    let update = node.sync(hello(&now.epoch, 0)).await.unwrap().next().await.unwrap();
    assert!(!update.whole && update.services.is_empty(), "the same epoch, however old");
    rig.finish().await;
}

#[tokio::test]
async fn a_stream_that_does_not_follow_the_contract_is_ended() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let acknowledgement = |epoch: &str, version| Acknowledgement {
        position: Some(Position { epoch: epoch.into(), version }),
        refused: String::new(),
    };
    // Before the hello.
    for (what, first) in [
        ("T-14 an unknown kind", SyncRequest { message: None }),
        ("an acknowledgement", SyncRequest { message: Some(Message::Applied(acknowledgement("", 0))) }),
    ] {
        let (requests, incoming) = tokio::sync::mpsc::channel(1);
        requests.send(first).await.unwrap();
        let ended = node.client.sync(tokio_stream::wrappers::ReceiverStream::new(incoming)).await.err().unwrap();
        assert_eq!(reason(&ended), Reason::HelloExpected, "{what}");
    }
    // After it.
    let now = here(&rig);
    let cases = [
        ("T-14 an unknown kind", SyncRequest { message: None }),
        ("a second hello", SyncRequest { message: Some(Message::Hello(Hello::default())) }),
        (
            "what was never sent",
            SyncRequest { message: Some(Message::Applied(acknowledgement(&now.epoch, now.version + 1))) },
        ),
        ("another epoch", SyncRequest { message: Some(Message::Applied(acknowledgement("other", 0))) }),
        ("no position", SyncRequest { message: Some(Message::Applied(Acknowledgement::default())) }),
    ];
    for (what, second) in cases {
        let mut stream = node.sync(Hello::default()).await.unwrap();
        stream.next().await.unwrap();
        stream.requests.send(second).await.unwrap();
        assert_eq!(stream.end().await, Reason::HelloExpected, "{what}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_stop_ends_streams_with_a_reason_and_writes_when_nodes_were_seen() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mut stream = node.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    rig.clock.advance(Duration::from_secs(3600));
    let now = rig.clock.now();
    rig.stop.cancel();
    assert_eq!(stream.end().await, Reason::Stopping);
    let registry = rig.opened.registry.clone();
    drop((stream, node));
    rig.finish().await;
    assert_eq!(registry.load().node(&name("n1")).unwrap().last_seen(), now);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mut stream = node.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    assert_eq!(rig.api.hub().connected(), 1);
    drop(stream);
    eventually("the place is free", || rig.api.hub().connected() == 0).await;
    rig.finish().await;
}

/// A reader that reads nothing costs no queue: after any number of changes it gets one update with what is left of them.
#[tokio::test]
async fn a_slow_reader_gets_the_latest_state_and_no_history() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    // It takes 16 KiB ahead and then nothing, while the CA has 240 KiB to tell.
    let narrow = rig.endpoint().initial_stream_window_size(16 * 1024).initial_connection_window_size(64 * 1024);
    let channel = narrow.connect_with_connector(rig.connector(node.svid())).await.unwrap();
    node.client = bonafide_ca_api::generated::node::node_api_client::NodeApiClient::new(channel);
    let mut stream = node.sync(Hello::default()).await.unwrap();
    stream.next().await.unwrap();
    let long = "x".repeat(900);
    for round in 0..60u32 {
        for path in ["a", "b", "c", "d"] {
            let hint = format!("{path}{round}{long}");
            match rig.opened.registry.load().service_by_path(&format!("/{path}")) {
                None => drop(rig.service(path, &["n1"]).await),
                Some(_) => {
                    let update = ServiceUpdate { hint: Some(hint), ..nothing() };
                    rig.opened.registry.update_service(path.into(), update, ADMIN).await.unwrap();
                }
            }
        }
    }
    let last = here(&rig);
    let mut updates = 0;
    loop {
        let update = stream.next().await.unwrap();
        updates += 1;
        if update.position.as_ref() == Some(&last) {
            break;
        }
    }
    // What fits into the window and the send buffer, and the last one.
    assert!(updates <= 16 + 64 + 10, "{updates} updates");
    rig.finish().await;
}

/// A node that held more than some twenty thousand services once got them at its first hello, and could not say the next one.
#[tokio::test]
async fn t_11_a_hello_may_name_as_many_services_as_the_ca_takes_on() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let position = here(&rig);
    let gone: Vec<String> =
        (0..rig.opened.registry.rules().services).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let named: Vec<(&str, u64)> = gone.iter().map(|id| (id.as_str(), u64::from(u32::MAX))).collect();
    let hello =
        |held| Hello { applied: Some(position.clone()), held, agent: None, bundle_sequence: 1, ..Hello::default() };
    let update = node.sync(hello(held(&named))).await.unwrap().next().await.unwrap();
    assert_eq!((update.services.len(), update.services[0].id.as_str()), (1, &*service.id));
    assert_eq!(update.removed.len(), gone.len(), "the rest, which it may hold no more");
    let twice = [named.as_slice(), named.as_slice()].concat();
    assert_eq!(node.sync(hello(held(&twice))).await.err().unwrap().code(), tonic::Code::InvalidArgument);
    rig.finish().await;
}
