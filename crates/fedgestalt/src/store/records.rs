//! Rows of the tables about training: runs, rounds, releases.

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Error, ErrorKind, Result};

/// One run of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub(super) i64);

/// What the store knows of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which one.
    pub id: RunId,
    /// `federated`, `central`, `local`.
    pub kind: String,
    /// Digest of its plan.
    pub plan: [u8; 32],
    /// When it began.
    pub begun: Timestamp,
    /// When it ended and how; `None` while it goes on.
    pub ended: Option<(Timestamp, String)>,
}

/// A finished round.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRound {
    /// Its number, from 1.
    pub round: u32,
    /// When it was finished.
    pub finished: Timestamp,
    /// Hash of the model after it.
    pub model: [u8; 32],
    /// What was measured.
    pub metrics: serde_json::Value,
}

/// A release that the site adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRelease {
    /// Its digest.
    pub digest: [u8; 32],
    /// When it was adopted.
    pub adopted: Timestamp,
    /// The signed document.
    pub document: Vec<u8>,
}

pub(super) fn begin_run(
    connection: &mut Connection,
    kind: &str,
    plan: &[u8; 32],
    at: Timestamp,
) -> Result<RunId> {
    let transaction = connection.transaction()?;
    let open = transaction
        .query_row(
            "SELECT id FROM runs WHERE kind = ?1 AND plan = ?2 AND ended IS NULL ORDER BY id DESC",
            params![kind, plan],
            |row| row.get(0),
        )
        .optional()?;
    let id = match open {
        Some(id) => id,
        None => {
            transaction.execute(
                "INSERT INTO runs (kind, plan, begun) VALUES (?1, ?2, ?3)",
                params![kind, plan, at.as_millisecond()],
            )?;
            transaction.last_insert_rowid()
        }
    };
    transaction.commit()?;
    Ok(RunId(id))
}

pub(super) fn end_run(connection: &Connection, run: RunId, at: Timestamp, outcome: &str) -> Result<()> {
    let changed = connection.execute(
        "UPDATE runs SET ended = ?2, outcome = ?3 WHERE id = ?1 AND ended IS NULL",
        params![run.0, at.as_millisecond(), outcome],
    )?;
    if changed == 0 {
        return Err(Error::new(ErrorKind::Missing, "the run to end has ended already, or there is none"));
    }
    Ok(())
}

pub(super) fn runs(connection: &Connection) -> Result<Vec<Run>> {
    let mut select =
        connection.prepare("SELECT id, kind, plan, begun, ended, outcome FROM runs ORDER BY id")?;
    let rows = select.query_map([], |row| {
        let outcome: Option<String> = row.get(5)?;
        let ended = match outcome {
            Some(outcome) => Some((moment(row, 4)?, outcome)),
            None => None,
        };
        Ok(Run {
            id: RunId(row.get(0)?),
            kind: row.get(1)?,
            plan: digest(row, 2)?,
            begun: moment(row, 3)?,
            ended,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn put_round(connection: &Connection, run: RunId, round: &StoredRound) -> Result<()> {
    connection.execute(
        "INSERT INTO rounds (run, round, finished, model, metrics) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET finished = excluded.finished, model = excluded.model, metrics = excluded.metrics",
        params![run.0, round.round, round.finished.as_millisecond(), round.model, round.metrics.to_string()],
    )?;
    Ok(())
}

pub(super) fn rounds(connection: &Connection, run: RunId) -> Result<Vec<StoredRound>> {
    let mut select = connection
        .prepare("SELECT round, finished, model, metrics FROM rounds WHERE run = ?1 ORDER BY round")?;
    let rows = select.query_map([run.0], |row| {
        let metrics: String = row.get(3)?;
        Ok(StoredRound {
            round: row.get(0)?,
            finished: moment(row, 1)?,
            model: digest(row, 2)?,
            metrics: serde_json::from_str(&metrics)
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, error.into()))?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn put_release(connection: &Connection, release: &StoredRelease) -> Result<()> {
    connection.execute(
        "INSERT INTO releases (digest, adopted, document) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![release.digest, release.adopted.as_millisecond(), release.document],
    )?;
    Ok(())
}

pub(super) fn releases(connection: &Connection) -> Result<Vec<StoredRelease>> {
    let mut select =
        connection.prepare("SELECT digest, adopted, document FROM releases ORDER BY adopted, digest")?;
    let rows = select.query_map([], |row| {
        Ok(StoredRelease { digest: digest(row, 0)?, adopted: moment(row, 1)?, document: row.get(2)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A column of milliseconds.
pub(super) fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, error.into()))
}

/// A column of 32 bytes.
pub(super) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<[u8; 32]> {
    row.get(column)
}
