-- Retention finds both neighbours of an attempt, and knows when it last swept and up to which due time it deleted fires:
-- what may have run up to there must not be started again.

CREATE INDEX runs_next ON runs (next_run_id) WHERE next_run_id IS NOT NULL;
ALTER TABLE schedules ADD COLUMN purged_until TEXT;
ALTER TABLE instance ADD COLUMN swept_at TEXT;
