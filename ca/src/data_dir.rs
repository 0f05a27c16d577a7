//! The CA's directory: made whole at the first start, loaded at every later one, held by one process.
//!
//! ```text
//! DATA/            0700
//!   lock           held by the running process, with its process id
//!   state/         appears whole, by one rename: the database and the keys belong together
//!     ca.db        SQLite, with ca.db-wal and ca.db-shm while it is open
//!     head         where the audit log ended at last
//!     keys/ID.pem  0600
//!   admin.sock, health.sock
//! ```

mod create;
mod lock;
mod process;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bonafide_verifier::{clock::Clock, spiffe::TrustDomain};
use data_encoding::HEXLOWER;
use serde_json::json;
use tracing::{info, warn};

use self::lock::Lock;
pub(crate) use self::process::harden_process;
use crate::{
    audit::{Kind, Record, Who},
    authority::{
        self, Authorities, AuthorityError, Lifetimes,
        keystore::{self, KeyFileError, KeyStore},
    },
    clock_guard::ClockGuard,
    registry::{Change, Registry, Rules, What},
    store::{self, Abort, OpenError, Store, StoreError, WriteError, rows::Everything},
};

/// What the start of a CA is given.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// Needed at the first start; later it must be the same.
    pub(crate) trust_domain: Option<TrustDomain>,
    /// SHA-256 of the only root to accept.
    pub(crate) expect_root: Option<[u8; 32]>,
    /// Take the clock as it is, and record that.
    pub(crate) accept_clock: bool,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) rules: Rules,
    pub(crate) store: store::Limits,
}

/// A CA's state, loaded and locked.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) authorities: Authorities,
    pub(crate) clock_guard: ClockGuard,
    /// This start made it.
    pub(crate) created: bool,
    /// SHA-256 of the root's certificate.
    pub(crate) root_hash: [u8; 32],
    #[expect(dead_code, reason = "held until this is dropped")]
    pub(crate) lock: Lock,
}

/// Why the CA does not start. Nothing was deleted or overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DataDirError {
    /// The directory, or a file in it, is not as it must be.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// Reading or making it failed.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// Another process has it.
    #[error("`{}` is in use by {holder}; one CA runs on a directory at a time", path.display())]
    InUse { path: PathBuf, holder: String },
    /// Something is in it, but not a CA.
    #[error(
        "`{}` is neither empty nor the directory of a CA: it has `{found}`, and no `state`; give an empty directory with `--data`, or restore a backup",
        path.display()
    )]
    NotOurs { path: PathBuf, found: String },
    /// Part of a CA is missing.
    #[error("`{}` is not whole: `{missing}` is missing; restore a backup", path.display())]
    NotWhole { path: PathBuf, missing: String },
    /// The first start does not know what to make.
    #[error("`{}` is empty: name the trust domain to create with `--trust-domain`, for example `--trust-domain example.org`", path.display())]
    NoTrustDomain { path: PathBuf },
    /// It belongs to another trust domain.
    #[error("`{}` is the CA of `{found}`, not of `{given}`; leave `--trust-domain` out, or give another directory", path.display())]
    OtherTrustDomain { path: PathBuf, found: TrustDomain, given: TrustDomain },
    /// It has another root.
    #[error("the root in `{}` has the hash {found}, `--expect-root` says {expected}; this is another CA's directory, or it was replaced", path.display())]
    OtherRoot { path: PathBuf, found: String, expected: String },
    /// `--expect-root` on an empty directory: a new root would have another hash.
    #[error("`{}` is empty, and a new root cannot have the hash of `--expect-root`; restore a backup there, or leave the flag out", path.display())]
    ExpectedRootOfNothing { path: PathBuf },
    /// The database.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The authorities.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A change that the start makes.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Loads the CA in the directory; makes it first if the directory is empty or not there.
///
/// # Errors
/// [`DataDirError`] names the file and what to do.
pub(crate) async fn open_or_create(options: Options, clock: Arc<dyn Clock>) -> Result<Opened, DataDirError> {
    let opening = {
        let clock = clock.clone();
        move || open_files(&options, &clock).map(|opened| (opened, options))
    };
    let joined = tokio::task::spawn_blocking(opening).await.map_err(|error| DataDirError::Io {
        what: "open",
        path: PathBuf::new(),
        source: io::Error::other(error),
    })?;
    let (opened, options) = joined?;
    match take_up(&opened, &options, &clock).await {
        Ok(()) => Ok(opened),
        Err(error) => {
            opened.store.close().await;
            Err(error)
        }
    }
}

fn open_files(options: &Options, clock: &Arc<dyn Clock>) -> Result<Opened, DataDirError> {
    let directory = &options.directory;
    let made = ensure_directory(directory)?;
    let lock = Lock::take(directory)?;
    let state = directory.join(STATE);
    let created = match look(directory)? {
        Content::Whole => false,
        Content::Empty => {
            if options.expect_root.is_some() {
                return Err(DataDirError::ExpectedRootOfNothing { path: directory.clone() });
            }
            let trust_domain =
                options.trust_domain.as_ref().ok_or_else(|| DataDirError::NoTrustDomain { path: directory.clone() })?;
            create::create(directory, &state, trust_domain, &options.lifetimes, clock.now())?;
            if made && let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                keystore::sync_directory(parent)?;
            }
            true
        }
    };
    let keystore = KeyStore::open(&state.join(KEYS))?;
    let (store, everything) = Store::open(&state, options.store.clone(), clock.clone())?;
    load(options, clock, created, lock, keystore, store.clone(), everything).inspect_err(|_| store.close_blocking())
}

fn load(
    options: &Options,
    clock: &Arc<dyn Clock>,
    created: bool,
    lock: Lock,
    keystore: KeyStore,
    store: Store,
    everything: Everything,
) -> Result<Opened, DataDirError> {
    let directory = &options.directory;
    let row = everything.trust_domain.clone();
    if let Some(given) = &options.trust_domain
        && *given != row.name
    {
        let (path, found, given) = (directory.clone(), row.name, given.clone());
        return Err(DataDirError::OtherTrustDomain { path, found, given });
    }
    if let Some(expected) = &options.expect_root
        && *expected != row.root_hash
    {
        let (found, expected) = (HEXLOWER.encode(&row.root_hash), HEXLOWER.encode(expected));
        return Err(DataDirError::OtherRoot { path: directory.clone(), found, expected });
    }
    let rows = everything.authorities.clone();
    let bundle = Arc::new(authority::bundle(&row.name, &rows, row.bundle_sequence)?);
    let registry = Registry::new(store.clone(), everything, bundle, options.rules.clone(), clock.clone());
    let authorities = Authorities::load(
        store.clone(),
        registry.clone(),
        keystore,
        rows,
        row.root_hash,
        options.lifetimes,
        clock.clone(),
    )?;
    if options.accept_clock {
        store.reset_time(clock.now());
    }
    let clock_guard = ClockGuard::start(store.clone(), clock.clone());
    let (trust_domain, root_hash) = (row.name, row.root_hash);
    Ok(Opened { trust_domain, store, registry, authorities, clock_guard, created, root_hash, lock })
}

/// What a start changes: a new epoch after a restore, the operator's word about the clock, authorities that are due.
async fn take_up(opened: &Opened, options: &Options, clock: &Arc<dyn Clock>) -> Result<(), DataDirError> {
    let failed = |error: WriteError<std::convert::Infallible>| match error {
        WriteError::Refused(never) => match never {},
        WriteError::Store(error) => DataDirError::Store(error),
    };
    if opened.store.is_restored() && !opened.created {
        let registry = opened.registry.clone();
        let epoch: Arc<str> = uuid::Uuid::now_v7().to_string().into();
        warn!(%epoch, "the database is a restored copy: a new epoch begins, and nodes hold back removals until an operator confirms");
        let outcome = opened.store.write(move |tx| -> Result<(), Abort<std::convert::Infallible>> {
            tx.set_epoch(&epoch)?;
            tx.record(&Record::change(
                Kind::EpochStarted,
                &Who::Ca,
                json!({ "epoch": &*epoch, "reason": "restored" }),
            ))?;
            registry.publish_with(tx, Change { version: None, what: What::Epoch(epoch) });
            Ok(())
        });
        outcome.await.map_err(failed)?;
    }
    if options.accept_clock && !opened.created {
        let (now, before) = (clock.now(), opened.store.found_time());
        info!(%now, last_act = %before, "the clock was taken as it is, by the operator's word");
        let outcome = opened.store.write(move |tx| -> Result<(), Abort<std::convert::Infallible>> {
            let body = json!({ "now": now.unix_millis(), "last_act": before.unix_millis() });
            tx.record(&Record::change(Kind::ClockAccepted, &Who::Ca, body))?;
            Ok(())
        });
        outcome.await.map_err(failed)?;
    }
    // Its own certificates may have expired while it was off. With a doubted clock nothing is made: the guard tells.
    if opened.clock_guard.check().is_ok() {
        opened.authorities.rotate_due().await?;
    }
    opened.authorities.sweep_keys();
    Ok(())
}

enum Content {
    Empty,
    Whole,
}

/// Makes the directory unless it is there; true if it was made.
fn ensure_directory(directory: &Path) -> Result<bool, DataDirError> {
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                let failed = |source| DataDirError::Io { what: "create", path: parent.to_owned(), source };
                fs::create_dir_all(parent).map_err(failed)?;
            }
            keystore::make_directory(directory)?;
            Ok(true)
        }
        Err(source) => Err(DataDirError::Io { what: "look at", path: directory.to_owned(), source }),
        Ok(_) => {
            // An empty one that somebody made for us may be open to others until we own it.
            keystore::check_directory(directory).or_else(|error| tighten(directory, error))?;
            Ok(false)
        }
    }
}

/// An empty directory with too wide a mode is made ours: there is nothing in it yet that others could have read or put there.
fn tighten(directory: &Path, error: KeyFileError) -> Result<(), DataDirError> {
    use std::os::unix::fs::PermissionsExt;
    let empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    match error {
        KeyFileError::Mode { .. } if empty => {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(|source| DataDirError::Io {
                what: "set the mode of",
                path: directory.to_owned(),
                source,
            })?;
            Ok(keystore::check_directory(directory)?)
        }
        error => Err(error.into()),
    }
}

/// Whether there is a CA, nothing, or something else. Under the lock.
fn look(directory: &Path) -> Result<Content, DataDirError> {
    let failed = |source| DataDirError::Io { what: "read", path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        // What a killed first start left, and what carries no state.
        if name != lock::FILE && !create::is_unfinished(&name) {
            found.push(name);
        }
    }
    if found.iter().any(|name| name == STATE) {
        let state = directory.join(STATE);
        keystore::check_directory(&state)?;
        for part in [KEYS, store::DATABASE] {
            if fs::symlink_metadata(state.join(part)).is_err() {
                let missing = format!("{STATE}/{part}");
                return Err(DataDirError::NotWhole { path: directory.to_owned(), missing });
            }
        }
        check_database_files(&state)?;
        return Ok(Content::Whole);
    }
    found.sort_unstable();
    match found.into_iter().next() {
        None => Ok(Content::Empty),
        Some(found) => {
            let found = found.escape_debug().to_string();
            Err(DataDirError::NotOurs { path: directory.to_owned(), found })
        }
    }
}

/// The database's files are ours alone, and no links.
fn check_database_files(state: &Path) -> Result<(), DataDirError> {
    for name in [store::DATABASE, "ca.db-wal", "ca.db-shm", "head"] {
        let path = state.join(name);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(DataDirError::Io { what: "look at", path, source }),
        };
        if !found.is_file() {
            let found = if found.is_symlink() { "symbolic link" } else { "directory or special file" };
            return Err(KeyFileError::NotAFile { path, found }.into());
        }
        keystore::check_owner_and_mode(&path, &found, 0o600)?;
    }
    Ok(())
}

/// Where the database of the CA in `directory` is, for those who only read.
pub(crate) fn state_directory(directory: &Path) -> PathBuf {
    directory.join(STATE)
}

const STATE: &str = "state";
const KEYS: &str = "keys";
