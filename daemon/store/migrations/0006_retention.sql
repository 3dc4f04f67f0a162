-- Retention finds both neighbours of an attempt, and knows when it last swept.

CREATE INDEX runs_next ON runs (next_run_id) WHERE next_run_id IS NOT NULL;
ALTER TABLE instance ADD COLUMN swept_at TEXT;
