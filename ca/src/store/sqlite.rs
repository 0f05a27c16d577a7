//! Opening SQLite as we want it, and reading its errors.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, ffi};

use super::{error::OpenError, migrate};

/// `BONA`: says whose file it is (also to `file(1)`).
pub(super) const APPLICATION_ID: i32 = 0x424F_4E41;

/// What an error means for the database as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// Another process holds a lock: try again.
    Busy,
    /// No space: this group fails, a later one may work.
    DiskFull,
    /// The disk or the file is broken: nothing after this can be trusted.
    Fatal,
    /// One row is not what we wrote.
    Damaged,
    /// Our mistake.
    Internal,
}

impl Fault {
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(failure, _) = error else { return Self::of_conversion(error) };
        match failure.code {
            // No file descriptor is left (F-19): nothing was touched, and there will be some again.
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::CannotOpen => Self::Busy,
            ErrorCode::DiskFull => Self::DiskFull,
            // The index of the write-ahead log could not grow: nothing was written yet.
            ErrorCode::SystemIoFailure
                if [ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMMAP, ffi::SQLITE_IOERR_SHMOPEN]
                    .contains(&failure.extended_code) =>
            {
                Self::DiskFull
            }
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ReadOnly
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::PermissionDenied => Self::Fatal,
            _ => Self::Internal,
        }
    }

    /// A column of another type than we write: the row was changed by somebody else.
    fn of_conversion(error: &rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => Self::Damaged,
            _ => Self::Internal,
        }
    }
}

/// Makes a new database at `path` with the newest schema, unsynced: the caller syncs the file and its directory.
pub(super) fn create(path: &Path) -> Result<Connection, OpenError> {
    // SQLite gives its other files the mode of this one, whatever the umask.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| OpenError::Open { path: path.to_owned(), reason: error.to_string() })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| open_error(path, &error))?;
    let prepare = || -> rusqlite::Result<()> {
        configure(&connection)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "off")?;
        migrate::run(&connection)
    };
    prepare().map_err(|error| open_error(path, &error))?;
    Ok(connection)
}

/// Opens the database for the one that writes: checks whose it is, how new and whether it is sound.
pub(super) fn open_writer(path: &Path, wait: Duration) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| open_error(path, &error))?;
    // Until the writer has it, nothing may change: not even the log be moved into a damaged file when we close it again.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(|error| open_error(path, &error))?;
    check(&connection, path)?;
    let prepare = || -> rusqlite::Result<()> {
        connection.busy_timeout(wait)?;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "full")?;
        // We checkpoint by ourselves: SQLite would swallow an error of the disk there.
        connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(())
    };
    prepare().map_err(|error| open_error(path, &error))?;
    Ok(connection)
}

/// Everything about the database was found good: from now on closing it moves the log into it.
pub(super) fn take_over(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
}

/// Opens the database for one that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| open_error(path, &error))?;
    configure(&connection).map_err(|error| open_error(path, &error))?;
    Ok(connection)
}

/// Moves the write-ahead log into the database, as far as no reader holds it back.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

/// Pages in the write-ahead log that are not in the database yet.
pub(super) fn pages_in_log(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    for (name, value) in [("foreign_keys", true), ("trusted_schema", false), ("cell_size_check", true)] {
        connection.pragma_update(None, name, value)?;
    }
    connection.pragma_update(None, "temp_store", "memory")
}

fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| open_error(path, &error);
    configure(connection).map_err(failed)?;
    if path.metadata().is_ok_and(|file| file.len() == 0) {
        return Err(OpenError::Corrupt { path: path.to_owned(), detail: "the file is empty".to_owned() });
    }
    let version = check_owner(connection, path)?;
    quick_check(connection, path)?;
    if let Some(detail) = migrate::foreign_objects(connection, version).map_err(failed)? {
        return Err(OpenError::ForeignSchema { path: path.to_owned(), detail });
    }
    migrate::run(connection).map_err(failed)
}

/// Whose database it is and how new; the schema's version.
pub(super) fn check_owner(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let found: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    if found != APPLICATION_ID {
        return Err(OpenError::OtherApplication { path: path.to_owned(), found, expected: APPLICATION_ID });
    }
    let found = migrate::version(connection).map_err(failed)?;
    if found > migrate::NEWEST {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known: migrate::NEWEST });
    }
    Ok(found)
}

/// The whole database while it is small; when the audit log has grown large all tables but that one, which
/// `audit verify` reads from end to end.
fn quick_check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let size = path.metadata().map_or(0, |file| file.len());
    if size <= WHOLE_CHECK_UP_TO {
        return one_check(connection, path, "PRAGMA quick_check(1)");
    }
    let mut names = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('audit_record', 'audit_head')")
        .map_err(failed)?;
    let names: Vec<String> = names.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)?;
    for name in names.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) {
        one_check(connection, path, &format!("PRAGMA quick_check({name})"))?;
    }
    Ok(())
}

fn one_check(connection: &Connection, path: &Path, sql: &str) -> Result<(), OpenError> {
    let answer: String = connection.query_row(sql, [], |row| row.get(0)).map_err(|error| open_error(path, &error))?;
    if answer == "ok" { Ok(()) } else { Err(OpenError::Corrupt { path: path.to_owned(), detail: one_line(&answer) }) }
}

pub(super) fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    let code = match error {
        rusqlite::Error::SqliteFailure(failure, _) => failure.code,
        other => return OpenError::Corrupt { path, detail: one_line(&other.to_string()) },
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => OpenError::Locked { path },
        ErrorCode::DiskFull => OpenError::DiskFull { path },
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly => {
            OpenError::Open { path, reason: one_line(&error.to_string()) }
        }
        _ => OpenError::Corrupt { path, detail: one_line(&error.to_string()) },
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>().join("; ")
}

/// Of readers, and while opening. The writer's is `Limits::wait`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const WHOLE_CHECK_UP_TO: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that somebody else wrote must not be able to run what it likes; and it is our own SQLite that reads it.
    #[test]
    fn t_34_every_connection_has_its_guards_on() {
        assert!(rusqlite::version_number() >= 3_050_000, "the one that is built in: {}", rusqlite::version());
        let connection = Connection::open_in_memory().unwrap();
        configure(&connection).unwrap();
        for (name, wanted) in [("trusted_schema", 0), ("foreign_keys", 1), ("cell_size_check", 1)] {
            let found: i64 = connection.pragma_query_value(None, name, |row| row.get(0)).unwrap();
            assert_eq!(found, wanted, "{name}");
        }
        for (config, wanted) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        ] {
            assert_eq!(connection.db_config(config).unwrap(), wanted);
        }
    }
}
