//! First start, later starts, refusals.

use std::{path::Path, sync::Arc, time::Duration};

use bonafide_verifier::{
    clock::{ManualClock, Timestamp},
    spiffe::TrustDomain,
};

use super::*;

pub(crate) fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        trust_domain: Some(TrustDomain::parse("example.org").unwrap()),
        expect_root: None,
        accept_clock: false,
        lifetimes: Lifetimes::default(),
        rules: Rules::default(),
        store: store::Limits::default(),
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)))
}

#[tokio::test]
async fn a_first_start_makes_all_and_a_later_one_loads_it() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("ca");
    let clock = clock();
    let first = open_or_create(options(&directory), clock.clone()).await.unwrap();
    assert!(first.created);
    let verified = crate::audit::verify(&first.store, None).await.unwrap();
    assert_eq!((verified.records, verified.heads), (4, 1));
    let (root, chain) = (first.root_hash, first.authorities.current().issuing.chain().to_vec());
    first.store.close().await;
    drop(first);
    clock.advance(Duration::from_secs(60));
    let second = open_or_create(options(&directory), clock.clone()).await.unwrap();
    assert!(!second.created);
    assert_eq!(second.root_hash, root);
    assert_eq!(second.authorities.current().issuing.chain(), chain);
    assert_eq!(crate::audit::verify(&second.store, None).await.unwrap(), verified);
}
