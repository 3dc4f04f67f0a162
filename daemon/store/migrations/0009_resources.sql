-- What a run of a command used of the host.

ALTER TABLE runs ADD COLUMN memory_peak_bytes INTEGER CHECK (memory_peak_bytes >= 0);
ALTER TABLE runs ADD COLUMN cpu_seconds REAL CHECK (cpu_seconds >= 0);
