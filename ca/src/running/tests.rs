use std::sync::Arc;

use bonafide_verifier::clock::{ManualClock, Timestamp};
use bonafide_verifier::spiffe::TrustDomain;

use super::*;

fn settings(data: &std::path::Path) -> Settings {
    let mut settings = Settings::new(data, Some(TrustDomain::parse("example.org").unwrap()));
    settings.listen = "127.0.0.1:0".parse().unwrap();
    settings
}

fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_stops_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("ca");
    let first = start(settings(&data), Arc::new(clock())).await.unwrap();
    first.ready().await;
    assert!(first.created() && first.node_address().port() != 0);
    assert_eq!(first.summary(), "ready");
    let root = *first.root_sha256();
    let second = start(settings(&data), Arc::new(clock())).await.unwrap_err();
    assert_eq!(second.fault(), Fault::Refused("data-in-use"), "F-23: {second}");
    first.stop().await;
    let again = start(settings(&data), Arc::new(clock())).await.unwrap();
    again.ready().await;
    assert!(!again.created());
    assert_eq!(*again.root_sha256(), root);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_said_and_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&dir.path().join("ca"));
    settings.listen = taken.local_addr().unwrap();
    let error = start(settings.clone(), Arc::new(clock())).await.unwrap_err();
    assert!(error.to_string().contains("another program listens there"), "{error}");
    drop(taken);
    start(settings, Arc::new(clock())).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_a_database_or_socket_that_was_removed_shows() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("ca");
    let clock = clock();
    let running = start(settings(&data), Arc::new(clock.clone())).await.unwrap();
    running.ready().await;
    for (file, part) in [("admin.sock", "admin-listener degraded"), ("state/ca.db", "store unready")] {
        std::fs::remove_file(data.join(file)).unwrap();
        // The monitor may be about to sleep; it is told again until it has looked.
        let noticed = async {
            while !running.summary().contains(part) {
                clock.advance(std::time::Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        let noticed = tokio::time::timeout(std::time::Duration::from_secs(10), noticed).await;
        assert!(noticed.is_ok(), "{file}: {}", running.summary());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubted_clock_is_not_ready_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("ca");
    for day in [0, 2] {
        let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000 + day * 86_400));
        let running = start(settings(&data), Arc::new(clock)).await.unwrap();
        running.ready().await;
        running.stop().await;
    }
    let behind = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000 + 86_400));
    let running = start(settings(&data), Arc::new(behind)).await.unwrap();
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), running.ready()).await;
    assert!(waited.is_err(), "F-08: {}", running.summary());
    assert!(running.summary().contains("--accept-clock"), "{}", running.summary());
    running.stop().await;
}
