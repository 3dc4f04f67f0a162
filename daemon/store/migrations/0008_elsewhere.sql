-- Work that goes on elsewhere, and what people are told.

ALTER TABLE runs ADD COLUMN remote TEXT; -- JSON: where the work of a suspended run goes on

CREATE TABLE notifications (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    target TEXT NOT NULL,                -- [notify.NAME]
    event TEXT NOT NULL,                 -- JSON, as it is sent
    created_at TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_try_at TEXT NOT NULL
) STRICT;

CREATE INDEX notifications_of_target ON notifications (target, id);

CREATE TABLE notify_states (
    subject TEXT PRIMARY KEY,            -- what it is about: `schedule:12`, `budget:NAME`, `quota:ENVIRONMENT`
    state TEXT NOT NULL,                 -- how that stands: `failed`, `interrupted`, or what is wrong with it
    since TEXT NOT NULL,
    count INTEGER NOT NULL DEFAULT 1 CHECK (count > 0), -- how often in a row it was found so
    told_at TEXT NOT NULL,
    gap_ms INTEGER NOT NULL              -- how long nothing is said about it again
) STRICT, WITHOUT ROWID;
