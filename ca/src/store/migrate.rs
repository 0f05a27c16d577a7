//! The schema's history: an ordered list of files, each run once in a transaction of its own.

use std::collections::BTreeMap;

use rusqlite::Connection;

/// Number n brings the schema to version n + 1. Published ones never change.
const MIGRATIONS: &[&str] = &[include_str!("schema/0001.sql")];

/// The version that this program writes.
#[expect(clippy::cast_possible_wrap, reason = "a handful of files")]
pub(super) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// The schema's version in the database.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Runs what is missing. Killed in between, the next start goes on where it ended.
pub(super) fn run(connection: &Connection) -> rusqlite::Result<()> {
    run_until(connection, NEWEST)
}

fn run_until(connection: &Connection, newest: i64) -> rusqlite::Result<()> {
    let done = version(connection)?;
    for (number, sql) in (1..=newest).zip(MIGRATIONS) {
        if number > done {
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {number}; COMMIT;"))?;
        }
    }
    Ok(())
}

/// What the schema has that its version should not have, or lacks: compared with a fresh one of the same version.
pub(super) fn foreign_objects(connection: &Connection, version: i64) -> rusqlite::Result<Option<String>> {
    let fresh = Connection::open_in_memory()?;
    run_until(&fresh, version)?;
    let (expected, found) = (objects(&fresh)?, objects(connection)?);
    for (name, sql) in &found {
        match expected.get(name) {
            None => return Ok(Some(format!("it has {} `{}`", name.0, name.1.escape_debug()))),
            Some(ours) if ours != sql => {
                return Ok(Some(format!("{} `{}` is not ours", name.0, name.1.escape_debug())));
            }
            Some(_) => {}
        }
    }
    let missing = expected.keys().find(|name| !found.contains_key(*name));
    Ok(missing.map(|(kind, name)| format!("{kind} `{name}` is missing")))
}

type Objects = BTreeMap<(String, String), Option<String>>;

fn objects(connection: &Connection) -> rusqlite::Result<Objects> {
    let mut statement = connection
        .prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'")?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    rows.collect()
}
