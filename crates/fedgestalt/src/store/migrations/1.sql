CREATE TABLE syndromes (
    id    TEXT PRIMARY KEY,
    name  TEXT NOT NULL,
    mondo TEXT,
    omim  TEXT,
    orpha TEXT
) STRICT;

CREATE TABLE cases (
    image    TEXT PRIMARY KEY,
    subject  TEXT NOT NULL,
    syndrome TEXT NOT NULL REFERENCES syndromes (id)
) STRICT;
CREATE INDEX cases_by_subject ON cases (subject);

-- `place` keeps the order of a part, which decides ties in a ranking.
CREATE TABLE parts (
    part  TEXT NOT NULL,
    place INTEGER NOT NULL,
    image TEXT NOT NULL REFERENCES cases (image) ON DELETE CASCADE,
    PRIMARY KEY (part, image)
) STRICT, WITHOUT ROWID;

-- `vector` is little-endian f32.
CREATE TABLE encodings (
    model  BLOB NOT NULL,
    image  TEXT NOT NULL REFERENCES cases (image) ON DELETE CASCADE,
    vector BLOB NOT NULL,
    PRIMARY KEY (model, image)
) STRICT;

-- Masked copies that lie at the coordinator.
CREATE TABLE masked (
    pseudonym BLOB PRIMARY KEY,
    image     TEXT NOT NULL REFERENCES cases (image) ON DELETE CASCADE,
    release   BLOB NOT NULL
) STRICT;

-- Files that belong to rows already deleted; removed at the latest when the store is opened next.
CREATE TABLE removals (
    path TEXT PRIMARY KEY
) STRICT;

-- Times are milliseconds since 1970 in UTC.
CREATE TABLE runs (
    id      INTEGER PRIMARY KEY,
    kind    TEXT NOT NULL,
    plan    BLOB NOT NULL,
    begun   INTEGER NOT NULL,
    ended   INTEGER,
    outcome TEXT
) STRICT;

CREATE TABLE rounds (
    run      INTEGER NOT NULL REFERENCES runs (id),
    round    INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    model    BLOB NOT NULL,
    metrics  TEXT NOT NULL,
    PRIMARY KEY (run, round)
) STRICT, WITHOUT ROWID;

CREATE TABLE releases (
    digest   BLOB PRIMARY KEY,
    adopted  INTEGER NOT NULL,
    document BLOB NOT NULL
) STRICT;

CREATE TABLE audit (
    seq      INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    what     TEXT NOT NULL,
    to_whom  TEXT NOT NULL,
    plan     BLOB,
    round    INTEGER,
    bytes    INTEGER NOT NULL,
    payload  BLOB,
    detail   TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash     BLOB NOT NULL
) STRICT;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
