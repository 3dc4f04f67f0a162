-- A run costs less to write: its idempotency key, derived from the unique name and random in order, needs no index of its
-- own, and what is active or ended is told by `completed_at`, which costs less to test than a list of statuses.

CREATE TABLE runs_leaner (
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
    idempotency_key TEXT NOT NULL,       -- derived from the name, hence as unique
    input_author TEXT NOT NULL DEFAULT 'user',
    input_content TEXT NOT NULL DEFAULT '',
    task_params TEXT NOT NULL DEFAULT '{}',
    task_metadata TEXT NOT NULL DEFAULT '{}',
    settings TEXT,                       -- JSON: the agent's settings that the run began with, no secrets
    queue_class INTEGER NOT NULL,        -- the lower one starts first
    not_before TEXT,                     -- a waiting attempt
    held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)), -- starts only after its schedule's earlier runs ended
    previous_run_id INTEGER REFERENCES runs_leaner (id),
    next_run_id INTEGER REFERENCES runs_leaner (id),
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

INSERT INTO runs_leaner SELECT * FROM runs;
DELETE FROM sqlite_sequence WHERE name = 'runs_leaner';
INSERT INTO sqlite_sequence (name, seq) SELECT 'runs_leaner', seq FROM sqlite_sequence WHERE name = 'runs';
DROP TABLE runs;
ALTER TABLE runs_leaner RENAME TO runs;

CREATE INDEX runs_queue ON runs (queue_class, scheduled_for, id) WHERE status = 'pending';
CREATE INDEX runs_waiting ON runs (not_before) WHERE status = 'pending' AND not_before IS NOT NULL;
CREATE INDEX runs_active ON runs (status, agent) WHERE completed_at IS NULL;
CREATE INDEX runs_unfinished ON runs (schedule_id) WHERE completed_at IS NULL;
CREATE INDEX runs_of_schedule ON runs (schedule_id);
CREATE INDEX runs_of_agent ON runs (agent);
CREATE INDEX runs_ended ON runs (updated_at) WHERE completed_at IS NOT NULL;
CREATE INDEX runs_previous ON runs (previous_run_id) WHERE previous_run_id IS NOT NULL;
