//! The audit log: what left the site, when, to whom, under which plan.
//!
//! Entries are only ever added (the database refuses anything else) and chained: each carries the SHA-256 hash of the
//! one before and of itself, so that a change, a gap or a swap anywhere is found by `verify`. Whoever can rewrite the
//! whole file can also rewrite the whole chain; a [`Head`] noted elsewhere (in a signed message, on paper) finds that
//! too, and entries cut off at the end.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::records::{digest, moment};
use super::{Error, ErrorKind, Result};

/// Before the first entry.
const NOTHING: [u8; 32] = [0; 32];
const LABEL: &[u8] = b"fedgestalt/audit/v1";

/// Something that left the site, or was decided about its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What: the kind of message, `withdrawal`, `release adopted`.
    pub what: String,
    /// To whom; empty where nothing left.
    pub to: String,
    /// Digest of the plan it happened under.
    pub plan: Option<[u8; 32]>,
    /// The round.
    pub round: Option<u32>,
    /// How much left, in bytes.
    pub bytes: u64,
    /// SHA-256 digest of what left.
    pub payload: Option<[u8; 32]>,
    /// More for a person. Never a name or a label of a patient.
    pub detail: String,
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// What it says.
    pub entry: Entry,
    /// Hash of the entry before; zeros for the first.
    pub previous: [u8; 32],
    /// Hash of the entry before and this one.
    pub hash: [u8; 32],
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Number of entries.
    pub seq: u64,
    /// Hash of the last; zeros when there is none.
    pub hash: [u8; 32],
}

impl Entry {
    /// An entry about something that did not leave the site.
    pub fn internal(at: Timestamp, what: &str, detail: impl Into<String>) -> Self {
        Self {
            at,
            what: what.to_owned(),
            to: String::new(),
            plan: None,
            round: None,
            bytes: 0,
            payload: None,
            detail: detail.into(),
        }
    }

    /// SHA-256 over label, previous hash, number and fields; texts with their length, optional fields with a flag, so
    /// that no two entries have the same input.
    fn hash(&self, seq: u64, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(LABEL);
        hash.update(previous);
        hash.update(seq.to_le_bytes());
        hash.update(self.at.as_millisecond().to_le_bytes());
        for text in [&self.what, &self.to, &self.detail] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        for digest in [&self.plan, &self.payload] {
            hash.update([u8::from(digest.is_some())]);
            hash.update(digest.unwrap_or_default());
        }
        hash.update([u8::from(self.round.is_some())]);
        hash.update(self.round.unwrap_or_default().to_le_bytes());
        hash.update(self.bytes.to_le_bytes());
        hash.finalize().into()
    }
}

/// Adds entries in one transaction: all or none.
pub(super) fn append(connection: &mut Connection, entries: &[Entry]) -> Result<Head> {
    let transaction = connection.transaction()?;
    let head = extend(&transaction, entries)?;
    transaction.commit()?;
    Ok(head)
}

/// Adds entries within a transaction of the caller's.
pub(super) fn extend(connection: &Connection, entries: &[Entry]) -> Result<Head> {
    let mut head = head(connection)?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO audit (seq, at, what, to_whom, plan, round, bytes, payload, detail, previous, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for entry in entries {
        let bytes = i64::try_from(entry.bytes).map_err(|_| {
            Error::new(ErrorKind::InvalidArgument, "an audit entry counts more bytes than there can be")
        })?;
        let seq = head.seq + 1;
        let hash = entry.hash(seq, &head.hash);
        insert.execute(params![
            seq as i64,
            entry.at.as_millisecond(),
            entry.what,
            entry.to,
            entry.plan,
            entry.round,
            bytes,
            entry.payload,
            entry.detail,
            head.hash,
            hash,
        ])?;
        head = Head { seq, hash };
    }
    Ok(head)
}

pub(super) fn head(connection: &Connection) -> Result<Head> {
    let last = connection
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok(Head { seq: row.get::<_, i64>(0)? as u64, hash: digest(row, 1)? })
        })
        .optional()?;
    Ok(last.unwrap_or(Head { seq: 0, hash: NOTHING }))
}

pub(super) fn entries(connection: &Connection) -> Result<Vec<Sealed>> {
    let mut all = Vec::new();
    each(connection, |sealed| {
        all.push(sealed);
        Ok(())
    })?;
    Ok(all)
}

/// Goes through the whole log; the first entry that is not what was written is named.
pub(super) fn verify(connection: &Connection, noted: Option<&Head>) -> Result<Head> {
    let broken = |seq: u64, fault: &str| {
        Error::new(
            ErrorKind::Tampered,
            format!(
                "audit log: entry {seq} {fault}; somebody changed the log: keep a copy of site.db and tell the data protection officer"
            ),
        )
    };
    let guards: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'",
        [],
        |row| row.get(0),
    )?;
    let mut head = Head { seq: 0, hash: NOTHING };
    let mut met = noted.is_none_or(|noted| *noted == head);
    each(connection, |sealed| {
        let due = head.seq + 1;
        if sealed.seq != due {
            return Err(broken(due, "is missing"));
        }
        if sealed.previous != head.hash {
            return Err(broken(due, "does not follow from the one before"));
        }
        if sealed.hash != sealed.entry.hash(due, &head.hash) {
            return Err(broken(due, "is not what was written"));
        }
        head = Head { seq: due, hash: sealed.hash };
        met |= noted.is_some_and(|noted| *noted == head);
        Ok(())
    })?;
    match noted {
        Some(noted) if noted.seq > head.seq => Err(broken(head.seq + 1, "is missing, and whatever followed")),
        Some(noted) if !met => {
            Err(broken(noted.seq, "is not the one that was noted; it or one before it was rewritten"))
        }
        _ if guards < 2 => {
            Err(broken(head.seq, "is the last one that is sound, but the guards against changes are gone"))
        }
        _ => Ok(head),
    }
}

fn each(connection: &Connection, mut see: impl FnMut(Sealed) -> Result<()>) -> Result<()> {
    let mut select = connection.prepare(
        "SELECT seq, at, what, to_whom, plan, round, bytes, payload, detail, previous, hash FROM audit ORDER BY seq",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let sealed = read(row).map_err(|error| {
            Error::with_source(ErrorKind::Tampered, format!("audit log: entry {seq} cannot be read"), error)
        })?;
        see(sealed)?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Sealed> {
    Ok(Sealed {
        seq: row.get::<_, i64>(0)? as u64,
        entry: Entry {
            at: moment(row, 1)?,
            what: row.get(2)?,
            to: row.get(3)?,
            plan: row.get(4)?,
            round: row.get(5)?,
            bytes: row.get::<_, i64>(6)? as u64,
            payload: row.get(7)?,
            detail: row.get(8)?,
        },
        previous: digest(row, 9)?,
        hash: digest(row, 10)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::database;

    fn entry(at: i64) -> Entry {
        Entry {
            at: Timestamp::from_millisecond(1_700_000_000_000 + at).unwrap(),
            what: "masked update".to_owned(),
            to: "coordinator".to_owned(),
            plan: Some([7; 32]),
            round: Some(at as u32),
            bytes: 52_000_000,
            payload: Some([9; 32]),
            detail: String::new(),
        }
    }

    fn log() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = database::open(&folder.path().join("site.db")).unwrap();
        append(&mut connection, &[entry(1), entry(2)]).unwrap();
        append(&mut connection, &[Entry::internal(entry(3).at, "withdrawal", "2 images"), entry(4)]).unwrap();
        (folder, connection)
    }

    #[test]
    fn entries_come_back_and_verify() {
        let (_folder, connection) = log();
        let all = entries(&connection).unwrap();
        assert_eq!(all.iter().map(|sealed| sealed.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(all[0].entry, entry(1));
        assert_eq!(all[2].entry.what, "withdrawal");
        assert_eq!(verify(&connection, None).unwrap(), head(&connection).unwrap());
        for sealed in &all {
            verify(&connection, Some(&Head { seq: sealed.seq, hash: sealed.hash })).unwrap();
        }
    }

    #[test]
    fn the_database_refuses_changes() {
        let (_folder, connection) = log();
        for change in [
            "UPDATE audit SET bytes = 0 WHERE seq = 2",
            "DELETE FROM audit WHERE seq = 4",
            "DELETE FROM audit",
        ] {
            let error = connection.execute(change, []).unwrap_err().to_string();
            assert!(error.contains("append-only"), "{change}: {error}");
        }
        assert_eq!(verify(&connection, None).unwrap().seq, 4);
    }

    #[test]
    fn the_first_broken_entry_is_named() {
        let cases = [
            ("UPDATE audit SET bytes = 1 WHERE seq = 2", 2, "is not what was written"),
            ("UPDATE audit SET round = NULL WHERE seq = 1", 1, "is not what was written"),
            (
                "UPDATE audit SET to_whom = 'coordinato', detail = 'r' WHERE seq = 4",
                4,
                "is not what was written",
            ),
            ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 3", 3, "is not what was written"),
            ("UPDATE audit SET hash = x'00' WHERE seq = 3", 3, "cannot be read"),
            ("UPDATE audit SET previous = zeroblob(32) WHERE seq = 2", 2, "does not follow"),
            ("DELETE FROM audit WHERE seq = 3", 3, "is missing"),
            ("DELETE FROM audit WHERE seq = 1", 1, "is missing"),
            (
                "UPDATE audit SET seq = 9 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 9",
                2,
                "does not follow",
            ),
        ];
        for (change, seq, fault) in cases {
            let (_folder, connection) = log();
            connection.execute_batch("DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete").unwrap();
            connection.execute_batch(change).unwrap();
            let error = verify(&connection, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Tampered);
            let text = error.to_string();
            assert!(text.contains(&format!("entry {seq} {fault}")), "{change}: {text}");
        }
    }

    #[test]
    fn a_noted_head_finds_a_cut_end_and_a_rewritten_log() {
        let (_folder, mut connection) = log();
        let noted = head(&connection).unwrap();
        connection.execute_batch("DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete").unwrap();
        let missing_guards = verify(&connection, None).unwrap_err().to_string();
        assert!(missing_guards.contains("guards"), "{missing_guards}");
        connection.execute_batch("DELETE FROM audit WHERE seq = 4").unwrap();
        let cut = verify(&connection, Some(&noted)).unwrap_err().to_string();
        assert!(cut.contains("entry 4 is missing"), "{cut}");
        append(&mut connection, &[entry(40)]).unwrap();
        let rewritten = verify(&connection, Some(&noted)).unwrap_err().to_string();
        assert!(rewritten.contains("entry 4 is not the one that was noted"), "{rewritten}");
    }

    #[test]
    fn an_empty_log_is_sound() {
        let folder = tempfile::tempdir().unwrap();
        let connection = database::open(&folder.path().join("site.db")).unwrap();
        let head = verify(&connection, None).unwrap();
        assert_eq!(head, Head { seq: 0, hash: NOTHING });
        verify(&connection, Some(&head)).unwrap();
    }
}
