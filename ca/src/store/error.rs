//! What can be wrong with the database, by whose fault it is.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use super::sqlite::Fault;

/// Why the database could not be opened. Nothing was deleted or overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenError {
    /// The file is not there, or cannot be opened.
    #[error("cannot open the database `{}`: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    /// Damaged: SQLite says so, or a row cannot be what we wrote.
    #[error(
        "the database `{}` is damaged: {detail}; stop the CA, keep the file aside and put a backup in its place; nothing was changed",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    /// Somebody else's database.
    #[error("`{}` is not a database of a Bonafide CA (application id {found:#010x}, expected {expected:#010x}); point `--data` at the right directory", path.display())]
    OtherApplication { path: PathBuf, found: i32, expected: i32 },
    /// Written by a newer program.
    #[error("the database `{}` has schema {found}, this program knows up to {known}; run the newer `bonafide-ca` it was written by", path.display())]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    /// It has something that we never made: a trigger, a view, another table.
    #[error("the database `{}` has a schema that Bonafide did not make: {detail}; restore a backup", path.display())]
    ForeignSchema { path: PathBuf, detail: String },
    /// Somebody holds a lock on it.
    #[error("the database `{}` is locked by another process; close what has it open", path.display())]
    Locked { path: PathBuf },
    /// The disk is full.
    #[error("no space to open the database `{}`; free some", path.display())]
    DiskFull { path: PathBuf },
    /// Records that were durable are not in it any more.
    #[error(
        "the database `{}` ends at audit record {found}, but record {durable} was durable: its write-ahead log (`ca.db-wal`) is missing \
         or damaged, or an older copy was put in its place; put back the newest files, or, to go on without what is lost, remove `{}` \
         and start again: the nodes then hold back removals until an operator confirms them",
        path.display(), position.display()
    )]
    LostRecords { path: PathBuf, position: PathBuf, found: u64, durable: u64 },
    /// The file that holds the last position cannot be read.
    #[error("`{}` {problem}; restore it together with the database, or remove it to start a new epoch", path.display())]
    Position { path: PathBuf, problem: String },
    /// The writer's thread did not start.
    #[error("cannot start the thread that writes the database: {source}")]
    Thread { source: io::Error },
}

/// Why the database did not do what was asked. Nothing was written, unless the variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StoreError {
    /// Too much to do, or somebody locks the database.
    #[error("the database had no time within {waited:?}; try again")]
    Unavailable { waited: Duration },
    /// The disk hangs: whether it was written is not known.
    #[error("the database did not answer within {waited:?}; whether the change was made shows when it does")]
    OutcomeUnknown { waited: Duration },
    /// No space. Ends by itself when there is space again.
    #[error("no space left for the database `{}`: {free} bytes free; free some, the CA then goes on by itself", path.display())]
    DiskFull { path: PathBuf, free: u64 },
    /// The disk failed: final for this process.
    #[error("the database failed and the CA stops: {reason}")]
    Failed { reason: Arc<str> },
    /// The store has been closed.
    #[error("the CA is stopping")]
    Closed,
    /// A row is not what we wrote.
    #[error(
        "the database holds a row that Bonafide did not write: {detail}; run `bonafide-ca audit verify` and restore a backup"
    )]
    Damaged { detail: String },
    /// Anything else SQLite says: a bug of ours.
    #[error("the database refused a statement: {detail}")]
    Internal { detail: String },
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WriteError<E> {
    /// The change itself refused.
    #[error("{0}")]
    Refused(E),
    /// The database did.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a change returns to undo itself.
#[derive(Debug)]
pub(crate) enum Abort<E> {
    /// The reason to give to the caller.
    Refused(E),
    /// A statement failed.
    Tx(TxError),
}

impl<E> From<TxError> for Abort<E> {
    fn from(error: TxError) -> Self {
        Self::Tx(error)
    }
}

/// A statement that failed, or a row that is not what we wrote.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TxError {
    /// SQLite's error.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A column holds what we never write there.
    #[error("table `{table}`, row `{row}`, column `{column}`: {problem}")]
    Row { table: &'static str, row: String, column: &'static str, problem: String },
    /// The cryptographic library failed to sign.
    #[error("the head of the audit log could not be signed")]
    Unsigned,
}

impl TxError {
    /// What it means for the database as a whole.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Sqlite(error) => Fault::of(error),
            Self::Row { .. } => Fault::Damaged,
            Self::Unsigned => Fault::Internal,
        }
    }
}
