"""Daemons whose agents are elsewhere, and runs of them one at a time."""

from typing import Any

from tests.support.api import call
from tests.support.daemon_process import DaemonProcess

SELDOM = "every = '36500d'\n"


def agent(name: str, settings: str, **inputs: str) -> str:
    """Return an agent with a schedule for each input, none of which is due soon."""
    schedules = [f"[agents.{name}.schedules.{key}]\n{SELDOM}input = '{text}'\n" for key, text in inputs.items()]
    return f"[agents.{name}]\n{settings}\nmax_concurrent = 50\n" + "".join(schedules)


def triggered(daemon: DaemonProcess, address: str) -> int:
    """Start a run now; return its number."""
    name, _, schedule = address.partition("/")
    answer = call(daemon, "POST", f"/agents/{name}/schedules/{schedule}/trigger")
    assert answer.status == 201, answer.data
    return int(answer.body["id"])


def cancel(daemon: DaemonProcess, number: int) -> None:
    """Ask for the end of a run."""
    assert call(daemon, "POST", f"/runs/{number}/cancel").status == 200


def ended(daemon: DaemonProcess, number: int, *, deadline: float = 20) -> dict[str, Any]:
    """Return a run once it has ended."""
    sql = "SELECT * FROM runs WHERE id = ? AND completed_at IS NOT NULL"
    return dict(daemon.wait_for_row(sql, number, deadline=deadline))


def finished(daemon: DaemonProcess, address: str) -> dict[str, Any]:
    """Start a run and return it once it has ended."""
    return ended(daemon, triggered(daemon, address))
