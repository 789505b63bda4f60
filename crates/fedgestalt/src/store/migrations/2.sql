-- Subjects that were withdrawn and must not be imported again, as HMAC-SHA256 of their ids under a key of this store.
CREATE TABLE withdrawn (
    subject BLOB PRIMARY KEY
) STRICT;

CREATE TABLE secrets (
    name   TEXT PRIMARY KEY,
    secret BLOB NOT NULL
) STRICT;
INSERT INTO secrets (name, secret) VALUES ('withdrawn', randomblob(32));
