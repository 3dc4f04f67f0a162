-- Schedules whose runs go on with one session of their agent: what each wants, and where its session stands.

ALTER TABLE schedules ADD COLUMN session TEXT NOT NULL DEFAULT 'new' CHECK (session IN ('new', 'continue'));
ALTER TABLE schedules ADD COLUMN session_max_age_ms INTEGER CHECK (session_max_age_ms >= 1000);
ALTER TABLE schedules ADD COLUMN session_max_runs INTEGER CHECK (session_max_runs >= 1);
ALTER TABLE runs ADD COLUMN resumed_session TEXT CHECK (length(resumed_session) BETWEEN 1 AND 200);

CREATE TABLE sessions (
    schedule_id INTEGER PRIMARY KEY REFERENCES schedules (id) ON DELETE CASCADE,
    holder INTEGER NOT NULL,             -- the run that goes on with it, or last did; no other may while it is active
    session TEXT CHECK (length(session) BETWEEN 1 AND 200),  -- of the last run that completed in it
    begun_at TEXT,                       -- when its first run started
    runs INTEGER NOT NULL DEFAULT 0,     -- how many runs completed in it
    CHECK ((session IS NULL) = (begun_at IS NULL)),
    CHECK ((session IS NULL) = (runs = 0))
) STRICT;
