//! The settings: on disk with every change there ever was, in memory for those who read and watch.
//!
//! A change is on disk before anybody sees it. Whoever watches has the newest state of one service, never a queue of changes, so a slow
//! watcher costs nothing and misses nothing that counts.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_verifier::clock::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use serde::Serialize;
use tokio::sync::watch;

/// All settings of one service at a moment.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct State {
    /// The last change's.
    pub(crate) version: u64,
    pub(crate) settings: BTreeMap<String, Setting>,
}

/// One setting.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Setting {
    pub(crate) value: String,
    /// Of the change that made it so.
    pub(crate) version: u64,
}

/// One change, as it is kept.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) at: String,
    pub(crate) service: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    pub(crate) after: String,
    /// The user, or the service.
    pub(crate) changed_by: String,
    /// How they proved it.
    pub(crate) proof: String,
}

/// What somebody wants to change.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) service: Name,
    pub(crate) name: Name,
    pub(crate) value: String,
    /// The version of the setting that they have seen; 0 for none. Left out: whatever it is.
    pub(crate) seen: Option<u64>,
    pub(crate) changed_by: String,
    pub(crate) proof: &'static str,
    pub(crate) at: Timestamp,
}

/// Why a change or a question was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("`{}` is no name: 1 to {} characters of a-z, 0-9, `.`, `_` and `-` are, the first a letter", .name.escape_debug(), Name::MAX_BYTES)]
    Name { name: String },
    #[error("a value of {bytes} bytes; at most {MAX_VALUE_BYTES} are taken")]
    TooLong { bytes: usize },
    #[error("`{service}` has {MOST_SETTINGS} settings already")]
    TooManySettings { service: Name },
    #[error("{MOST_SERVICES} services have settings or watchers already")]
    TooManyServices,
    #[error("changed meanwhile: version {found} is not the one that you have seen, {seen}")]
    ChangedMeanwhile { found: u64, seen: u64 },
    #[error("the database is of version {found}, this program knows up to {SCHEMA_VERSION}; use the newer program")]
    Newer { found: i64 },
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// The longest value.
pub(crate) const MAX_VALUE_BYTES: usize = 4096;
/// The most settings of one service.
const MOST_SETTINGS: usize = 200;
/// The most services.
const MOST_SERVICES: usize = 1000;
/// The most changes that are told at once.
const MOST_CHANGES: u32 = 200;
const SCHEMA_VERSION: i64 = 1;

/// The name of a service or of a setting.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Name(String);

impl Name {
    const MAX_BYTES: usize = 64;

    pub(crate) fn parse(name: &str) -> Result<Self, StoreError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if starts && name.len() <= Self::MAX_BYTES && name.bytes().all(allowed) {
            return Ok(Self(name.to_owned()));
        }
        Err(StoreError::Name { name: name.chars().take(Self::MAX_BYTES + 1).collect() })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The store. Its methods that touch the disk block: call them with `spawn_blocking`.
pub(crate) struct Store {
    database: Mutex<Connection>,
    services: Mutex<BTreeMap<Name, watch::Sender<Arc<State>>>>,
}

impl Store {
    /// Opens or makes the database in this folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let database = Connection::open(folder.join("settings.db"))?;
        database.busy_timeout(Duration::from_secs(5))?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "FULL")?;
        database.pragma_update(None, "foreign_keys", true)?;
        match database.pragma_query_value(None, "user_version", |row| row.get(0))? {
            0 => database.execute_batch(&format!("BEGIN;\n{}\nCOMMIT;", include_str!("schema.sql")))?,
            SCHEMA_VERSION => {}
            found => return Err(StoreError::Newer { found }),
        }
        let services = Self::read_all(&database)?;
        let services = services.into_iter().map(|(name, state)| (name, watch::Sender::new(Arc::new(state)))).collect();
        Ok(Self { database: Mutex::new(database), services: Mutex::new(services) })
    }

    fn read_all(database: &Connection) -> Result<BTreeMap<Name, State>, StoreError> {
        let mut services: BTreeMap<Name, State> = BTreeMap::new();
        let mut all = database.prepare("SELECT service, name, value, version FROM settings")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let (service, name, value, version): (String, String, String, i64) = row.try_into()?;
            let version = version.unsigned_abs();
            let state = services.entry(Name(service)).or_default();
            state.version = state.version.max(version);
            state.settings.insert(name, Setting { value, version });
        }
        Ok(services)
    }

    /// The settings of a service now.
    pub(crate) fn state(&self, service: &Name) -> Arc<State> {
        self.services().get(service).map(|sender| Arc::clone(&sender.borrow())).unwrap_or_default()
    }

    /// The settings of all services now.
    pub(crate) fn all(&self) -> Vec<(Name, Arc<State>)> {
        self.services().iter().map(|(name, sender)| (name.clone(), Arc::clone(&sender.borrow()))).collect()
    }

    /// The settings of a service, now and from now on.
    pub(crate) fn watch(&self, service: &Name) -> Result<watch::Receiver<Arc<State>>, StoreError> {
        Ok(self.sender(service)?.subscribe())
    }

    /// Makes a change: on disk, then known to whoever watches.
    pub(crate) fn change(&self, wanted: Wanted) -> Result<Change, StoreError> {
        if wanted.value.len() > MAX_VALUE_BYTES {
            return Err(StoreError::TooLong { bytes: wanted.value.len() });
        }
        let (service, name) = (wanted.service.as_str(), wanted.name.as_str());
        let sender = self.sender(&wanted.service)?;
        // One change at a time: what is published has the order of what is on disk.
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&sender.borrow());
        let present = state.settings.get(name);
        let found = present.map_or(0, |setting| setting.version);
        if let Some(seen) = wanted.seen.filter(|seen| *seen != found) {
            return Err(StoreError::ChangedMeanwhile { found, seen });
        }
        if present.is_none() && state.settings.len() >= MOST_SETTINGS {
            return Err(StoreError::TooManySettings { service: wanted.service });
        }
        let before = present.map(|setting| setting.value.clone());
        let at = wanted.at.to_string();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i64 = transaction.query_row(
            "INSERT INTO changes (at, service, name, before, after, changed_by, proof) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             RETURNING version",
            params![at, service, name, before, wanted.value, wanted.changed_by, wanted.proof],
            |row| row.get(0),
        )?;
        transaction.execute(
            "INSERT INTO settings (service, name, value, version) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (service, name) DO UPDATE SET value = excluded.value, version = excluded.version",
            params![service, name, wanted.value, version],
        )?;
        transaction.commit()?;
        let version = version.unsigned_abs();
        state.version = version;
        state.settings.insert(name.to_owned(), Setting { value: wanted.value.clone(), version });
        sender.send_replace(Arc::new(state));
        Ok(Change {
            version,
            at,
            service: service.to_owned(),
            name: name.to_owned(),
            before,
            after: wanted.value,
            changed_by: wanted.changed_by,
            proof: wanted.proof.to_owned(),
        })
    }

    /// The last changes, of one service or of all, the newest first.
    pub(crate) fn history(&self, service: Option<&Name>) -> Result<Vec<Change>, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = database.prepare_cached(
            "SELECT version, at, service, name, before, after, changed_by, proof FROM changes \
             WHERE ?1 IS NULL OR service = ?1 ORDER BY version DESC LIMIT ?2",
        )?;
        let rows = last.query_map(params![service.map(Name::as_str), MOST_CHANGES], |row| {
            Ok(Change {
                version: row.get::<_, i64>(0)?.unsigned_abs(),
                at: row.get(1)?,
                service: row.get(2)?,
                name: row.get(3)?,
                before: row.get(4)?,
                after: row.get(5)?,
                changed_by: row.get(6)?,
                proof: row.get(7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn sender(&self, service: &Name) -> Result<watch::Sender<Arc<State>>, StoreError> {
        let mut services = self.services();
        if services.len() >= MOST_SERVICES && !services.contains_key(service) {
            return Err(StoreError::TooManyServices);
        }
        Ok(services.entry(service.clone()).or_insert_with(|| watch::Sender::new(Arc::default())).clone())
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<Name, watch::Sender<Arc<State>>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, value: &str, seen: Option<u64>) -> Wanted {
        Wanted {
            service: Name::parse("export").unwrap(),
            name: Name::parse(name).unwrap(),
            value: value.to_owned(),
            seen,
            changed_by: "corp:u-1001".to_owned(),
            proof: "id-token",
            at: Timestamp::from_unix_seconds(1_800_000_000),
        }
    }

    #[test]
    fn names() {
        for (name, good) in
            [("export", true), ("row-limit.v2_x", true), ("a", true), ("", false), ("9a", false), ("A", false)]
        {
            assert_eq!(Name::parse(name).is_ok(), good, "{name}");
        }
        assert!(Name::parse(&"a".repeat(64)).is_ok() && Name::parse(&"a".repeat(65)).is_err());
        assert!(Name::parse("../x").is_err() && Name::parse("a/b").is_err());
    }

    #[test]
    fn changes_are_kept_seen_by_watchers_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let export = Name::parse("export").unwrap();
        let mut watcher = store.watch(&export).unwrap();
        assert_eq!(watcher.borrow_and_update().version, 0);

        let first = store.change(wanted("row-limit", "3000", Some(0))).unwrap();
        assert_eq!((first.version, &first.before), (1, &None));
        assert!(watcher.has_changed().unwrap());
        let second = store.change(wanted("row-limit", "5000", Some(1))).unwrap();
        assert_eq!((second.before.as_deref(), &*second.changed_by), (Some("3000"), "corp:u-1001"));
        // A watcher that was slow has the newest state.
        assert_eq!(watcher.borrow_and_update().settings["row-limit"].value, "5000");

        let late = store.change(wanted("row-limit", "9000", Some(1)));
        assert!(matches!(late, Err(StoreError::ChangedMeanwhile { found: 2, seen: 1 })), "{late:?}");
        let long = store.change(wanted("row-limit", &"x".repeat(MAX_VALUE_BYTES + 1), None));
        assert!(matches!(long, Err(StoreError::TooLong { .. })), "{long:?}");
        assert!(!watcher.has_changed().unwrap());

        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.state(&export).settings["row-limit"], Setting { value: "5000".to_owned(), version: 2 });
        assert_eq!(store.history(Some(&export)).unwrap(), [second, first]);
        assert!(store.history(Some(&Name::parse("other").unwrap())).unwrap().is_empty());
        let rewriting = store.database.lock().unwrap().execute("UPDATE changes SET changed_by = 'nobody'", []);
        assert!(rewriting.unwrap_err().to_string().contains("kept as they were"));
    }

    #[test]
    fn each_bound_holds() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for number in 0..MOST_SETTINGS {
            store.change(wanted(&format!("s{number}"), "", None)).unwrap();
        }
        assert!(matches!(store.change(wanted("one-more", "", None)), Err(StoreError::TooManySettings { .. })));
        store.change(wanted("s0", "again", None)).unwrap();
        for number in 1..MOST_SERVICES {
            store.watch(&Name::parse(&format!("w{number}")).unwrap()).unwrap();
        }
        assert!(matches!(store.watch(&Name::parse("one-more").unwrap()), Err(StoreError::TooManyServices)));
    }
}
