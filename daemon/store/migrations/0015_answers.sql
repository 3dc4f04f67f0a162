-- What became of the notifications about the end of each run, also after they left the outbox.

CREATE TABLE run_notifications (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    target TEXT NOT NULL,                -- [notify.NAME]
    event TEXT NOT NULL,                 -- its kind: `completed`, `failed`, `interrupted`, `recovered`
    state TEXT NOT NULL CHECK (state IN ('pending', 'notified', 'refused', 'dropped', 'silenced')),
    reason TEXT,                         -- of the last attempt if it failed, or why there was none
    at TEXT NOT NULL,
    notification INTEGER CHECK ((notification IS NOT NULL) = (state = 'pending')), -- its number in the outbox
    PRIMARY KEY (run_id, target, event)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX run_notifications_pending ON run_notifications (notification) WHERE notification IS NOT NULL;
