//! A database before its writer starts: made, or checked and read.

use std::path::{Path, PathBuf};

use bonafide_verifier::clock::Timestamp;
use rusqlite::Connection;

use super::{
    Limits,
    error::{OpenError, TxError},
    position::{self, Noted, Position},
    rows::{self, Everything},
    sqlite,
    tx::Tx,
};
use crate::audit::{Head, HeadSigner};

/// A database that has been checked, before its writer starts.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) head: Head,
    pub(super) highest_time: Timestamp,
    pub(super) directory: PathBuf,
    pub(super) position: Option<Position>,
}

impl Opened {
    pub(super) fn open(directory: &Path, limits: &Limits) -> Result<Self, OpenError> {
        let path = directory.join(DATABASE);
        let connection = sqlite::open_writer(&path, limits.wait)?;
        let damaged = |error: TxError| failed(&path, error);
        let trust_domain = rows::trust_domain(&connection).map_err(damaged)?;
        let origin = Head::origin(&trust_domain.audit_chain, trust_domain.name.as_str(), &trust_domain.root_hash);
        let head = rows::last_record(&connection, &origin).map_err(damaged)?;
        let position = match Position::open(directory)? {
            None => None,
            Some((position, noted)) => {
                let found = if noted.seq == 0 {
                    Some(origin.hash)
                } else {
                    rows::record_hash(&connection, &origin.chain, noted.seq).map_err(damaged)?
                };
                if found != Some(noted.hash) {
                    return Err(OpenError::LostRecords {
                        path,
                        position: position::path(directory),
                        found: head.seq.min(noted.seq),
                        durable: noted.seq,
                    });
                }
                Some(position)
            }
        };
        // The log's name must be as durable as its content. SQLite syncs the directory, too, but ignores an error there.
        let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| OpenError::Open { path: path.clone(), reason: source.to_string() })?;
        let highest_time = trust_domain.highest_time;
        sqlite::take_over(&connection).map_err(|error| sqlite::open_error(&path, &error))?;
        Ok(Self { connection, path, head, highest_time, directory: directory.to_owned(), position })
    }

    pub(super) fn everything(&self) -> Result<Everything, OpenError> {
        rows::everything(&self.connection).map_err(|error| failed(&self.path, error))
    }

    pub(super) fn is_restored(&self) -> bool {
        self.position.is_none()
    }
}

/// Makes a new database in `directory` with what `first` puts in, in one transaction. Its files are not synced yet.
pub(super) fn create(
    directory: &Path,
    origin: Head,
    signer: &HeadSigner,
    at: Timestamp,
    first: impl FnOnce(&mut Tx<'_>) -> Result<(), TxError>,
) -> Result<(), OpenError> {
    let path = directory.join(DATABASE);
    let connection = sqlite::create(&path)?;
    let (mut head, mut hooks, mut scratch) = (origin, Vec::new(), Vec::new());
    let fill = || -> Result<(), TxError> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut tx = Tx::new(&connection, at, &mut head, &mut hooks, &mut scratch);
        first(&mut tx)?;
        tx.sign_head(signer)?;
        connection.execute_batch("COMMIT")?;
        Ok(())
    };
    fill().map_err(|error| failed(&path, error))?;
    connection.flush_prepared_statement_cache();
    connection.close().map_err(|(_, error)| sqlite::open_error(&path, &error))?;
    let not_synced = |source: std::io::Error| OpenError::Open { path: path.clone(), reason: source.to_string() };
    std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(not_synced)?;
    Position::create(directory, Noted { seq: head.seq, hash: head.hash }).map(drop).map_err(not_synced)
}

fn failed(path: &Path, error: TxError) -> OpenError {
    match error {
        TxError::Sqlite(error) => sqlite::open_error(path, &error),
        error => OpenError::Corrupt { path: path.to_owned(), detail: error.to_string() },
    }
}

/// The database's name in its directory.
pub(crate) const DATABASE: &str = "ca.db";
