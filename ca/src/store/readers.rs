//! Connections that can only read, beside the one that writes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    error::{OpenError, StoreError, TxError},
    position,
    sqlite::{self, Fault},
};

/// A read-only view of the database, the same for as long as it is held.
pub(crate) struct Reader<'a> {
    pub(super) connection: &'a Connection,
}

/// A database that is only read, by another process than the one that writes it, or while none does.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    connection: Connection,
    directory: PathBuf,
}

impl ReadOnly {
    /// Opens the database in that directory: `DATA/state`. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]: not there, not ours, or written by a newer program.
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(super::DATABASE);
        let connection = sqlite::open_reader(&path)?;
        sqlite::check_owner(&connection, &path)?;
        Ok(Self { connection, directory: directory.to_owned() })
    }

    /// Number and hash of the last record that was durable when its CA noted it last, if that can be read.
    pub(crate) fn noted(&self) -> Option<(u64, [u8; 32])> {
        let noted = std::fs::read(position::path(&self.directory)).ok().and_then(|bytes| position::decode(&bytes).ok());
        noted.filter(|noted| noted.seq > 0).map(|noted| (noted.seq, noted.hash))
    }

    /// Runs `read` in one consistent view. Blocks.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> Result<T, TxError>) -> Result<T, TxError> {
        in_one_view(&self.connection, read)
    }
}

#[derive(Debug)]
pub(super) struct Readers {
    free: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
    wait: Duration,
}

impl Readers {
    pub(super) fn open(path: &Path, count: usize, wait: Duration) -> Result<Self, OpenError> {
        let connections = (0..count.max(1)).map(|_| sqlite::open_reader(path)).collect::<Result<Vec<_>, _>>()?;
        let places = Arc::new(Semaphore::new(connections.len()));
        Ok(Self { free: Arc::new(Mutex::new(connections)), places, wait })
    }

    pub(super) async fn read<T, F>(&self, read: F, path: &Path) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, TxError> + Send + 'static,
    {
        let place = match timeout(self.wait, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Unavailable { waited: self.wait }),
        };
        let (free, path, wait) = (self.free.clone(), path.to_owned(), self.wait);
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            let taken = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            // A reader that panicked lost its connection: open another one.
            let connection = match taken {
                Some(connection) => connection,
                None => {
                    sqlite::open_reader(&path).map_err(|error| StoreError::Internal { detail: error.to_string() })?
                }
            };
            let outcome = in_one_view(&connection, read);
            free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            outcome.map_err(|error| read_error(&error, path, wait))
        });
        done.await.map_err(|error| StoreError::Internal { detail: error.to_string() })?
    }

    /// Refuses new readers and closes the connections that are free.
    pub(super) fn close(&self) {
        self.places.close();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn in_one_view<T>(connection: &Connection, read: impl FnOnce(&Reader<'_>) -> Result<T, TxError>) -> Result<T, TxError> {
    let view = connection.unchecked_transaction()?;
    let outcome = read(&Reader { connection: &view });
    view.rollback()?;
    outcome
}

fn read_error(error: &TxError, path: PathBuf, wait: Duration) -> StoreError {
    match error.fault() {
        Fault::Busy => StoreError::Unavailable { waited: wait },
        Fault::DiskFull => StoreError::DiskFull { path, free: 0 },
        Fault::Damaged | Fault::Fatal => StoreError::Damaged { detail: error.to_string() },
        Fault::Internal => StoreError::Internal { detail: error.to_string() },
    }
}
