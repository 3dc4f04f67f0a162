"""Runs that are cancelled while an agent may have their input from an earlier daemon: the agent is asked to stop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configs import config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import change_database
from tests.support.peers.processes import Peer, peer
from tests.support.runs import cancel, ended, triggered
from tests.support.waiting import wait_until

FLAG = "INSERT INTO cancellation_flags VALUES (?, '2026-01-01T00:00:00.000Z', 'alice', 0, NULL)"
LONG_WAY = """
import time
import daemon.runs.pipeline as pipeline
prepare = pipeline.make_input_folder
def slow(*arguments):
    time.sleep(1)
    return prepare(*arguments)
pipeline.make_input_folder = slow
"""
LONG_LOOK = """
import asyncio
from daemon.runs.delivery_stages import Stages
async def starting(self, run):
    await asyncio.sleep(3600)
Stages._starting = starting
"""


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Peer]:
    with peer(tmp_path, "misbehaving") as agent:
        yield agent


def text(found: Peer, *schedules: str, **keys: object) -> str:
    agent = triggered_agent(dict.fromkeys(schedules, "go"), type="agentex", url=f"{found.url}/hang-once", **keys)
    return config_text(daemon={"stop_timeout": "1s"}, agents={"a": agent})


def left_unconfirmed(start_daemon: StartDaemon, found: Peer) -> tuple[DaemonProcess, int]:
    """Return a daemon that was killed while its agent had the task and had not answered."""
    daemon = start_daemon(text(found, "x", "y"))
    number = triggered(daemon, "a/x")
    wait_until(found.requests, what="the delivery")
    daemon.kill()
    return daemon, number


def assert_stopped(found: Peer) -> None:
    wait_until(lambda: len(found.requests()) > 1, what="the cancellation")
    first, second = (request["body"] for request in found.requests())
    assert [first["method"], second["method"]] == ["task/create", "task/cancel"]
    assert first["params"]["task"]["id"] == second["params"]["task"]["id"]


def test_a_run_that_was_cancelled_while_no_daemon_ran(start_daemon: StartDaemon, found: Peer) -> None:
    first, number = left_unconfirmed(start_daemon, found)
    change_database(first, FLAG, number)
    run = ended(start_daemon(text(found, "x", "y")), number)
    assert (run["status"], run["error"]) == ("cancelled", "cancelled by alice")
    assert_stopped(found)


def test_a_run_whose_schedule_was_removed(start_daemon: StartDaemon, found: Peer) -> None:
    _, number = left_unconfirmed(start_daemon, found)
    assert ended(start_daemon(text(found, "y")), number)["status"] == "cancelled"
    assert_stopped(found)


def test_a_run_that_waits(start_daemon: StartDaemon, found: Peer) -> None:
    first, number = left_unconfirmed(start_daemon, found)
    left = "INSERT INTO events SELECT id, 99, updated_at, 'delivery_unconfirmed', '{}' FROM runs"
    change_database(first, left)
    change_database(first, "UPDATE runs SET status = 'pending', not_before = '2999-01-01T00:00:00.000Z'")
    daemon = start_daemon(text(found, "x", "y"))
    cancel(daemon, number)
    assert_stopped(found)
    assert ended(daemon, number)["status"] == "cancelled"


@pytest.mark.parametrize("slowed", [LONG_WAY, LONG_LOOK], ids=["before its agent", "before the call"])
def test_a_run_that_is_about_to_be_delivered_again(start_daemon: StartDaemon, found: Peer, slowed: str) -> None:
    _, number = left_unconfirmed(start_daemon, found)
    daemon = start_daemon(text(found, "x", "y"), slowed=slowed)
    daemon.wait_for_row("SELECT 1 FROM events WHERE type = 'delivery_unconfirmed'")
    daemon.wait_for_run("running", number=number)
    cancel(daemon, number)
    assert ended(daemon, number)["status"] == "cancelled"
    assert_stopped(found)


def test_a_run_that_times_out_before_it_is_delivered_again(start_daemon: StartDaemon, found: Peer) -> None:
    _, number = left_unconfirmed(start_daemon, found)
    run = ended(start_daemon(text(found, "x", "y", timeout="1s"), slowed=LONG_LOOK), number)
    assert (run["status"], str(run["error"]).partition(":")[0]) == ("failed", "timeout")
    assert_stopped(found)


def test_an_agent_that_cannot_be_reached_keeps_no_run_from_its_end(start_daemon: StartDaemon, found: Peer) -> None:
    first, number = left_unconfirmed(start_daemon, found)
    change_database(first, FLAG, number)
    found.end()
    daemon = start_daemon(text(found, "x", "y"))
    daemon.wait_for_log("[delivery] Cannot ask the agent to stop", run_id=number)
    assert ended(daemon, number)["status"] == "cancelled"
