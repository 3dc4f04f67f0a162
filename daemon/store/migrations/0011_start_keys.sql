-- A start of an agent that is asked for again under the same Idempotency-Key is the same run.

CREATE TABLE start_keys (
    agent TEXT NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,               -- SHA-256 of what was asked for
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (agent, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX start_keys_of_run ON start_keys (run_id);
