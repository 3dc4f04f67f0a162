-- Times are UTC text with milliseconds (2026-11-21T02:00:00.000Z), which sorts as it compares. Lengths are milliseconds.

CREATE TABLE instance (
    id TEXT PRIMARY KEY,                 -- the same as in the witness file
    commits INTEGER NOT NULL DEFAULT 0,  -- how many groups of writes the daemon committed; likewise
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE schedules (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent TEXT NOT NULL,
    name TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('declared', 'created')),
    version INTEGER NOT NULL DEFAULT 1 CHECK (version > 0),
    description TEXT NOT NULL DEFAULT '',
    cron TEXT,
    every_ms INTEGER CHECK (every_ms >= 1000),
    offset_ms INTEGER NOT NULL DEFAULT 0,
    timezone TEXT NOT NULL,
    start_at TEXT,
    end_at TEXT,
    jitter_ms INTEGER NOT NULL DEFAULT 0 CHECK (jitter_ms >= 0),
    overlap TEXT NOT NULL,
    catchup TEXT NOT NULL,
    catchup_window_ms INTEGER NOT NULL,
    pause_on_failure INTEGER NOT NULL DEFAULT 0 CHECK (pause_on_failure IN (0, 1)),
    input_author TEXT NOT NULL DEFAULT 'user',
    input_content TEXT NOT NULL DEFAULT '',
    task_params TEXT NOT NULL DEFAULT '{}',
    task_metadata TEXT NOT NULL DEFAULT '{}',
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    paused_at TEXT,
    pause_note TEXT,
    declared_paused INTEGER,             -- the file's `paused` line as it was last seen
    creator TEXT NOT NULL,               -- a principal; never a credential
    cursor TEXT NOT NULL,                -- every due time up to here has been decided
    next_due TEXT,                       -- the first due time after the cursor
    wake_at TEXT,                        -- next_due and its jitter; what the alarm is armed for
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    deleted_at TEXT,
    CHECK ((cron IS NULL) <> (every_ms IS NULL)),
    CHECK ((paused = 1) = (paused_at IS NOT NULL)),
    CHECK ((next_due IS NULL) = (wake_at IS NULL))
) STRICT;

CREATE UNIQUE INDEX schedules_live_name ON schedules (agent, name) WHERE deleted_at IS NULL;
CREATE INDEX schedules_name ON schedules (agent, name);
CREATE INDEX schedules_wake ON schedules (wake_at) WHERE deleted_at IS NULL AND paused = 0 AND wake_at IS NOT NULL;
CREATE INDEX schedules_updated ON schedules (updated_at);

CREATE TABLE schedule_revisions (
    schedule_id INTEGER NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    at TEXT NOT NULL,
    principal TEXT NOT NULL,
    action TEXT NOT NULL,
    changes TEXT NOT NULL DEFAULT '{}',  -- JSON: {key: [before, after]}
    note TEXT,
    PRIMARY KEY (schedule_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE schedule_skips (
    schedule_id INTEGER NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    scheduled_for TEXT NOT NULL,
    requested_at TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    PRIMARY KEY (schedule_id, scheduled_for)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    schedule_id INTEGER REFERENCES schedules (id),
    trigger TEXT NOT NULL CHECK (trigger IN ('scheduled', 'manual', 'backfill', 'catchup', 'retry')),
    scheduled_for TEXT NOT NULL,         -- due time; of a manual run, the time of the request
    attempt INTEGER NOT NULL DEFAULT 1 CHECK (attempt > 0),
    status TEXT NOT NULL CHECK (status IN ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled',
                                           'interrupted', 'continued_as_new')),
    created_at TEXT NOT NULL,
    started_at TEXT,
    delivered_at TEXT,
    completed_at TEXT,
    updated_at TEXT NOT NULL,
    exit_code INTEGER,
    signal INTEGER,
    error TEXT,
    message TEXT,                        -- what the agent said of its own outcome
    display_name TEXT NOT NULL,
    creator TEXT NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE,
    input_author TEXT NOT NULL DEFAULT 'user',
    input_content TEXT NOT NULL DEFAULT '',
    task_params TEXT NOT NULL DEFAULT '{}',
    task_metadata TEXT NOT NULL DEFAULT '{}',
    settings TEXT,                       -- JSON: the agent's settings that the run began with, no secrets
    queue_class INTEGER NOT NULL,        -- the lower one starts first
    not_before TEXT,                     -- a waiting attempt
    held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)), -- starts only after its schedule's earlier runs ended
    previous_run_id INTEGER REFERENCES runs (id),
    next_run_id INTEGER REFERENCES runs (id),
    boot_id TEXT,                        -- with pid and pid_started: the supervisor
    pid INTEGER,
    pid_started INTEGER,                 -- clock ticks after boot, as in proc(5)
    output_bytes INTEGER,
    output_dropped INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost_usd REAL,
    CHECK ((completed_at IS NOT NULL) = (status NOT IN ('pending', 'running', 'suspended'))),
    CHECK (status NOT IN ('running', 'suspended') OR started_at IS NOT NULL),
    CHECK ((status = 'continued_as_new') <= (next_run_id IS NOT NULL))
) STRICT;

CREATE INDEX runs_queue ON runs (queue_class, scheduled_for, id) WHERE status = 'pending';
CREATE INDEX runs_waiting ON runs (not_before) WHERE status = 'pending' AND not_before IS NOT NULL;
CREATE INDEX runs_active ON runs (agent, status) WHERE status IN ('pending', 'running', 'suspended');
CREATE INDEX runs_unfinished ON runs (schedule_id, id) WHERE status IN ('pending', 'running', 'suspended');
CREATE INDEX runs_of_schedule ON runs (schedule_id, id);
CREATE INDEX runs_of_agent ON runs (agent, id);
CREATE INDEX runs_updated ON runs (updated_at);
CREATE INDEX runs_previous ON runs (previous_run_id) WHERE previous_run_id IS NOT NULL;

CREATE TABLE fires (
    schedule_id INTEGER NOT NULL REFERENCES schedules (id),
    scheduled_for TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('launched', 'buffered', 'skipped_overlap', 'skipped_paused',
        'skipped_requested', 'skipped_missed', 'skipped_permission_denied', 'skipped_agent_deleted', 'skipped_budget')),
    reason TEXT,
    run_id INTEGER REFERENCES runs (id),
    decided_at TEXT NOT NULL,
    covers_until TEXT,                   -- a summary: the last due time it covers
    covers_count INTEGER CHECK (covers_count >= 0),
    PRIMARY KEY (schedule_id, scheduled_for),
    CHECK ((covers_until IS NULL) = (covers_count IS NULL)),
    CHECK ((outcome IN ('launched', 'buffered')) <= (covers_until IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX fires_of_run ON fires (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX fires_summaries ON fires (schedule_id, covers_until) WHERE covers_until IS NOT NULL;

CREATE TABLE events (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at TEXT NOT NULL,
    type TEXT NOT NULL,
    data TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name IN ('workspace', 'deliver', 'work', 'record')),
    started_at TEXT NOT NULL,
    completed_at TEXT,
    error TEXT,
    PRIMARY KEY (run_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE hooks (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    used_at TEXT,
    PRIMARY KEY (run_id, token_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE cancellation_flags (
    run_id INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    requested_at TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    at_once INTEGER NOT NULL DEFAULT 0 CHECK (at_once IN (0, 1)),
    reason TEXT
) STRICT;

CREATE TABLE workspaces (
    run_id INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    environment TEXT NOT NULL,
    path TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('present', 'removed', 'quarantined')),
    kept INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1)),
    created_at TEXT NOT NULL,
    released_at TEXT,
    removed_at TEXT,
    bytes INTEGER,
    note TEXT
) STRICT;
