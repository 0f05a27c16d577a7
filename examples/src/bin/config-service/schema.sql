-- The settings as they are.
CREATE TABLE settings (
    service TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    version INTEGER NOT NULL REFERENCES changes (version),
    PRIMARY KEY (service, name)
) STRICT, WITHOUT ROWID;

-- Every change there ever was, and whose it was. Rows are added and never touched again.
CREATE TABLE changes (
    version    INTEGER PRIMARY KEY,
    at         TEXT NOT NULL,
    service    TEXT NOT NULL,
    name       TEXT NOT NULL,
    before     TEXT,
    after      TEXT NOT NULL,
    changed_by TEXT NOT NULL,
    proof      TEXT NOT NULL
) STRICT;
CREATE INDEX changes_of ON changes (service, version);
CREATE TRIGGER changes_stay BEFORE UPDATE ON changes BEGIN SELECT raise(ABORT, 'changes are kept as they were'); END;
CREATE TRIGGER changes_are_kept BEFORE DELETE ON changes BEGIN SELECT raise(ABORT, 'changes are kept'); END;

PRAGMA user_version = 1;
