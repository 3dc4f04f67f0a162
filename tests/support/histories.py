"""Histories of many runs, written straight into a database."""

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.units import format_instant

_RUN = """
WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :runs)
INSERT INTO runs (id, name, agent, schedule_id, trigger, scheduled_for, status, created_at, started_at, delivered_at,
    completed_at, updated_at, exit_code, display_name, creator, idempotency_key, input_content, task_metadata, settings,
    queue_class, output_bytes, output_dropped)
SELECT :first + i, 'scheduled-run:' || :schedule || ':' || (:first + i), 'a', :schedule, 'scheduled', at, 'completed',
    at, at, at, at, at, 0, 'Scheduled Message: s', 'config', 'key-' || (:first + i), 'Look at the new issues.',
    '{"display_name": "Scheduled Message: s", "trigger_type": "scheduled"}', '{"timeout": 3600, "attempts": 1}',
    0, 200, 0
FROM (SELECT i, CASE WHEN (i * 7919) % 1000 < :scattered THEN :young ELSE
    CASE WHEN i <= :old_runs THEN :old ELSE :young END END AS at FROM n)
"""
_EVENTS = """
INSERT INTO events (run_id, number, at, type, data)
SELECT r.id, k.value, r.updated_at, 'status', '{"from": "running", "to": "completed"}'
FROM runs r, json_each('[1, 2, 3, 4]') k WHERE r.id > :first
"""
_STEPS = """
INSERT INTO steps (run_id, name, started_at, completed_at)
SELECT r.id, k.value, r.updated_at, r.updated_at FROM runs r, json_each('["deliver", "work"]') k WHERE r.id > :first
"""
_HOOKS = """
INSERT INTO hooks (run_id, token_hash, created_at, expires_at)
SELECT id, 'token-' || id, updated_at, updated_at FROM runs WHERE id > :first AND id % 10 = 0
"""
_FIRES = """
INSERT INTO fires (schedule_id, scheduled_for, outcome, run_id, decided_at)
SELECT :schedule, strftime('%Y-%m-%dT%H:%M:%fZ', :old, '-' || (id - :first) || ' seconds'), 'launched', id, :old
FROM runs WHERE id > :first AND updated_at = :old
"""


def fill(
    path: Path, runs: int, *, schedule: int = 1, old_share: float = 0.9, scattered: float = 0.0, fires: bool = False
) -> None:
    """Write runs that ended, each with 4 events, 2 steps and now and then a hook, into an existing database.

    The first `old_share` of them ended 100 days ago, the others now; of the old ones a share may be young all the same.
    """
    now = datetime.now(UTC)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        [first] = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'runs'").fetchone()
        values = {
            "first": first,
            "runs": runs,
            "schedule": schedule,
            "old": format_instant(now - timedelta(days=100)),
            "young": format_instant(now),
            "old_runs": int(runs * old_share),
            "scattered": int(scattered * 1000),
        }
        connection.execute("PRAGMA cache_size = -200000")
        connection.execute("BEGIN IMMEDIATE")
        for sql in (_RUN, _EVENTS, _STEPS, _HOOKS, *([_FIRES] if fires else [])):
            connection.execute(sql, {name: value for name, value in values.items() if f":{name}" in sql})
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
