"""Lists of runs for people."""

import pytest

from daemon.cli.run_views import print_runs


def test_a_long_wait_leaves_room_for_the_other_columns(capsys: pytest.CaptureFixture[str]) -> None:
    run = {
        "id": 4,
        "agent": "a",
        "schedule": "a/s",
        "trigger": "retry",
        "scheduled_for": "2026-11-21T02:00:00.000Z",
        "timezone": None,
        "status": "pending",
        "waiting_for": "agent a is closed until 2026-11-21T03:00:00.000Z: " + "limit " * 100,
        "duration_ms": None,
        "error": None,
    }
    print_runs([run], "UTC")
    lines = capsys.readouterr().out.splitlines()
    assert "pending: agent a is closed until" in lines[1]
    assert max(map(len, lines)) < 200
