-- A trigger that is asked for again under the same Idempotency-Key is the same run.

CREATE TABLE trigger_keys (
    schedule_id INTEGER NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request TEXT NOT NULL,               -- SHA-256 of what was asked for
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (schedule_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX trigger_keys_of_run ON trigger_keys (run_id);
