//! A CA's state in a temporary directory, for tests of every module.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bonafide_ca_api::{Labels, NodeName, Placement, Selector};
use bonafide_verifier::{
    clock::{ManualClock, Timestamp},
    spiffe::TrustDomain,
};
use tempfile::TempDir;

use crate::{
    audit::{self, VerifyError, Who, list::Page, verify::Verified},
    authority::Lifetimes,
    data_dir::{DataDirError, Opened, Options, open_or_create},
    registry::{KeyHash, NewInvitation, NewService, Rules},
    store,
};

/// A directory with a CA in it, and a clock that is moved by hand.
pub(crate) struct Home {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: Options,
    pub(crate) opened: Opened,
    parent: TempDir,
}

impl Home {
    /// A CA that has just been made.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let mut options = options(parent.path().join("ca"));
        change(&mut options);
        let clock = Arc::new(ManualClock::at(start()));
        let opened = open_or_create(options.clone(), clock.clone()).await.unwrap();
        Self { clock, options, opened, parent }
    }

    /// Stops the CA in order and leaves its directory.
    pub(crate) async fn stop(self) -> Stopped {
        self.opened.store.close().await;
        let Self { clock, options, opened, parent } = self;
        drop(opened);
        Stopped { clock, options, parent }
    }
}

/// The directory of a CA that does not run.
pub(crate) struct Stopped {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: Options,
    parent: TempDir,
}

impl Stopped {
    pub(crate) async fn start(self) -> Home {
        let opened = self.try_start().await.unwrap();
        Home { clock: self.clock, options: self.options, opened, parent: self.parent }
    }

    pub(crate) async fn try_start(&self) -> Result<Opened, DataDirError> {
        open_or_create(self.options.clone(), self.clock.clone()).await
    }

    /// The refusal of a start that must be refused.
    pub(crate) async fn refusal(&self) -> String {
        match self.try_start().await {
            Ok(_) => panic!("the start was not refused"),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.options.directory.join("state")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.state().join("ca.db")
    }

    /// Somebody else changes the database.
    pub(crate) fn tamper(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.database()).unwrap();
        connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;").unwrap();
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

pub(crate) fn start() -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000)
}

pub(crate) fn options(directory: PathBuf) -> Options {
    Options {
        directory,
        trust_domain: Some(TrustDomain::parse("example.org").unwrap()),
        expect_root: None,
        accept_clock: false,
        lifetimes: Lifetimes::default(),
        rules: Rules::default(),
        store: store::Limits { wait: Duration::from_secs(20), ..store::Limits::default() },
    }
}

pub(crate) fn admin() -> Who {
    Who::Admin { uid: 1000, user: Some("alice".to_owned()) }
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

pub(crate) fn key(number: u8) -> KeyHash {
    [number; 32]
}

pub(crate) fn from() -> SocketAddr {
    "192.0.2.7:4711".parse().unwrap()
}

pub(crate) fn invitation(node: &str, labels: &[&str], replace: bool) -> NewInvitation {
    let labels = Labels::parse(labels.iter().copied()).unwrap();
    NewInvitation { node: name(node), labels, ttl: None, replace }
}

pub(crate) fn service(path: &str, selectors: &[&str], on: &[&str]) -> NewService {
    NewService {
        path: path.to_owned(),
        selectors: selectors.iter().map(|text| Selector::parse(text).unwrap()).collect(),
        placements: on.iter().map(|text| Placement::parse(text).unwrap()).collect(),
        x509_ttl: None,
        jwt_ttl: None,
        dns_names: Vec::new(),
        hint: String::new(),
        edge_scopes: Vec::new(),
        edge_issuers: Vec::new(),
    }
}

/// One page of the log of a running store.
pub(crate) async fn list(store: &store::Store, filter: audit::Filter) -> Result<Page, store::StoreError> {
    store.read(move |reader| audit::page(reader, &filter)).await
}

/// Verifies the log of a running store up to its last durable record.
pub(crate) async fn verify(store: &store::Store) -> Result<Verified, VerifyError> {
    let file = store::ReadOnly::open(store.path().parent().unwrap()).unwrap();
    audit::verify_file(&file, Some((*store.head()).clone()))
}
