"""Runs of a daemon: started, waited for and cancelled one at a time."""

from typing import Any

from tests.support.api import call
from tests.support.daemon_process import DaemonProcess
from tests.support.waiting import wait_until


def triggered(daemon: DaemonProcess, address: str) -> int:
    """Start a run now; return its number."""
    name, _, schedule = address.partition("/")
    answer = call(daemon, "POST", f"/agents/{name}/schedules/{schedule}/trigger")
    assert answer.status == 201, answer.data
    return int(answer.body["id"])


def cancel(daemon: DaemonProcess, number: int) -> None:
    """Ask for the end of a run."""
    assert call(daemon, "POST", f"/runs/{number}/cancel").status == 200


def finished(daemon: DaemonProcess, address: str) -> dict[str, Any]:
    """Start a run and return it once it has ended."""
    return ended(daemon, triggered(daemon, address))


def ended(daemon: DaemonProcess, number: int = 1, *, deadline: float = 20) -> dict[str, Any]:
    row = daemon.wait_for_row("SELECT * FROM runs WHERE id = ? AND completed_at IS NOT NULL", number, deadline=deadline)
    return dict(row)


def first_run(daemon: DaemonProcess, agent: int, *, condition: str = "completed_at IS NOT NULL") -> dict[str, Any]:
    """Return the first run of one of several agents once a condition is true of it."""
    first = f"SELECT * FROM (SELECT * FROM runs WHERE agent = ? ORDER BY id LIMIT 1) WHERE {condition}"
    return dict(daemon.wait_for_row(first, f"a{agent}"))


def begun(daemon: DaemonProcess, number: int = 1) -> dict[str, object]:
    row = daemon.wait_for_row("SELECT * FROM runs WHERE id = ? AND delivered_at IS NOT NULL", number)
    wait_until(lambda: "begun" in daemon.output(number), what="the agent's first line")
    return dict(row)


def completed(daemon: DaemonProcess) -> int:
    return int(daemon.query("SELECT count(*) AS n FROM runs WHERE status = 'completed'")[0]["n"])
