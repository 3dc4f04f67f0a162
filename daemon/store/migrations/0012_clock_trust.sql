-- The newest instant at which the wall clock was believed, and how long it has been off since then, NULL while it is not:
-- what retention compares the clock with, also after a restart.

ALTER TABLE instance ADD COLUMN clock_trusted_at TEXT;
ALTER TABLE instance ADD COLUMN clock_off_ms INTEGER CHECK (clock_off_ms >= 0);
