-- What a summary covers follows from the cadence that the schedule had: the version says which that was.

ALTER TABLE fires ADD COLUMN schedule_version INTEGER;
