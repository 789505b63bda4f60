//! The SQLite file of a site: opening it, and bringing its tables up to date.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::{Error, ErrorKind, Result};

/// One step per version; a step that was ever released is never changed.
const MIGRATIONS: [&str; 2] = [include_str!("migrations/1.sql"), include_str!("migrations/2.sql")];

/// Opens `site.db`, making it if needed, readable by its owner only.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // SQLite gives its journal files the mode of the database.
        options.mode(0o600);
    }
    options.open(path).map_err(Error::io("open", path))?;
    let mut connection = Connection::open(path)?;
    // Full: what the audit log says has left must survive a loss of power. Secure delete: what is withdrawn is
    // overwritten, not only unlinked.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;",
    )?;
    migrate(&mut connection, &MIGRATIONS)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = version as usize;
    if version > steps.len() {
        return Err(Error::new(
            ErrorKind::NewerVersion,
            format!(
                "site.db is of version {version}, this program knows {}; install the newer program that wrote it",
                steps.len()
            ),
        ));
    }
    for (at, step) in steps.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn version(connection: &Connection) -> u32 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn steps_are_taken_once_and_a_failing_one_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = "CREATE TABLE a (x) STRICT";
        let steps = [
            "CREATE TABLE a (x INTEGER) STRICT",
            "CREATE TABLE b (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1)",
        ];
        assert!(migrate(&mut connection, &[first]).is_err(), "STRICT tables need types");
        assert_eq!(version(&connection), 0);
        assert!(migrate(&mut connection, &steps).is_err());
        assert_eq!(version(&connection), 1, "the first step stands");
        migrate(&mut connection, &[steps[0], "CREATE TABLE b (x INTEGER) STRICT"]).unwrap();
        assert_eq!(version(&connection), 2);
    }

    #[test]
    fn a_newer_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db");
        open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NewerVersion);
        assert!(error.to_string().contains("version 99"), "{error}");
    }

    #[test]
    fn something_else_in_its_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db");
        fs::write(&path, [b'x'; 4096]).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
