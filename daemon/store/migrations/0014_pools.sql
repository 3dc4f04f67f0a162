-- What keeps pools closed, which pools a run holds a place in, and due times that were skipped because of a limit.

CREATE TABLE pool_closures (
    pool TEXT NOT NULL,                  -- [pools.NAME]; `agent:NAME`: the private one of an agent; `*`: everything
    cause TEXT NOT NULL CHECK (cause IN ('limit', 'login', 'pause')),
    since TEXT NOT NULL,
    until TEXT,                          -- NULL: until its probe passes, or a person resumes it
    reason TEXT NOT NULL,                -- the agent's words, or the note of who paused it
    agent TEXT,                          -- whose run closed it
    run_id INTEGER,                      -- likewise; retention may have deleted it
    principal TEXT,                      -- who paused it
    PRIMARY KEY (pool, cause),
    CHECK ((cause = 'limit') <= (until IS NOT NULL)),
    CHECK ((cause = 'login') <= (until IS NULL)),
    CHECK ((cause = 'pause') = (principal IS NOT NULL))
) STRICT, WITHOUT ROWID;

ALTER TABLE runs ADD COLUMN pools TEXT;  -- JSON: the names of the pools that it has held a place in since it started
CREATE INDEX runs_in_pools ON runs (pools) WHERE pools IS NOT NULL AND completed_at IS NULL;

CREATE TABLE fires_of_pools (
    schedule_id INTEGER NOT NULL REFERENCES schedules (id),
    scheduled_for TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('launched', 'buffered', 'skipped_overlap', 'skipped_paused',
        'skipped_requested', 'skipped_missed', 'skipped_permission_denied', 'skipped_agent_deleted', 'skipped_budget',
        'skipped_quota')),
    reason TEXT,
    run_id INTEGER REFERENCES runs (id),
    decided_at TEXT NOT NULL,
    covers_until TEXT,                   -- a summary: the last due time it covers
    covers_count INTEGER CHECK (covers_count >= 0),
    schedule_version INTEGER,            -- a summary: the version whose cadence the due times follow
    PRIMARY KEY (schedule_id, scheduled_for),
    CHECK ((covers_until IS NULL) = (covers_count IS NULL)),
    CHECK ((outcome IN ('launched', 'buffered')) <= (covers_until IS NULL))
) STRICT, WITHOUT ROWID;

INSERT INTO fires_of_pools SELECT * FROM fires;
DROP TABLE fires;
ALTER TABLE fires_of_pools RENAME TO fires;

CREATE INDEX fires_of_run ON fires (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX fires_summaries ON fires (schedule_id, covers_until) WHERE covers_until IS NOT NULL;
