"""Pause, delete, retire and revoke at random moments, with backlogs, under kill -9: nothing starts after the answer."""

import http.client
import json
import random
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.model import Overlap
from daemon.units import format_instant
from tests.support.api import TOKEN, call
from tests.support.configs import config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.ledger import assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.support.peers.processes import free_port
from tests.support.waiting import pause, wait_until

SCRIPT = (
    "echo $AGENTCRON_RUN_ID >> {folder}/started; sleep 0.$(($AGENTCRON_RUN_ID % 8)); exit $(($AGENTCRON_RUN_ID % 2))"
)
ACTIONS = ("pause", "delete", "retire", "revoke", "fail")
SLOW_RIGHTS = """
import asyncio, random
from daemon.access import Access
async def slow(*arguments, real=Access.may_now):
    answer = await real(*arguments)
    await asyncio.sleep(random.uniform(0, 0.2))
    return answer
Access.may_now = slow
"""
HELD_RIGHTS = """
import asyncio, os
from daemon.access import Access
async def held(*arguments, real=Access.may_now):
    open(f"{FOLDER}/asked", "a").write("x")
    while os.path.getsize(f"{FOLDER}/asked") > 1 and not os.path.exists(f"{FOLDER}/answered"):
        await asyncio.sleep(0.01)
    return await real(*arguments)
Access.may_now = held
"""


@dataclass
class Site:
    """An agent for each round with one schedule, and what was answered when about which of them."""

    folder: Path
    port: int
    schedules: dict[str, dict[str, object]] = field(default_factory=dict)
    """The declared schedules, by agent; those of other agents are created by a token."""
    agents: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    answered: dict[str, str] = field(default_factory=dict)
    """When the end of an agent's schedule was answered."""

    def config(self) -> str:
        (self.folder / "ci.token").write_text(TOKEN)
        return config_text(
            daemon={"max_concurrent_runs": 50},
            control={
                "socket": "c.sock",
                "listen": f"127.0.0.1:{self.port}",
                "tokens": [{"name": "ci", "file": "ci.token"}],
            },
            agents={name: self._agent(name) for name in self.agents},
        )

    def _agent(self, name: str) -> dict[str, object]:
        declared = self.schedules.get(name)
        return {
            "command": ["sh", "-c", SCRIPT.format(folder=self.folder)],
            "max_concurrent": 3,
            "attempts": 1 if ACTIONS[int(name[1:]) % len(ACTIONS)] == "fail" else 2,
            "retry_delay": "1s",
            "allow": [] if name in self.revoked else ["token:ci"],
            "schedules": {"s": declared} if declared is not None else {},
        }

    def call(self, method: str, path: str, body: object = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status


def add_backlog(site: Site, agent: str, start: str) -> None:
    """Let due times of the past wait beside those of now."""
    now = format_instant(datetime.now(UTC).replace(microsecond=0))
    span = {"from": start, "to": now, "overlap_policy": "buffer_all"}
    assert site.call("POST", f"/agents/{agent}/schedules/s/backfill", span) == 200


def end_schedule(site: Site, daemon: DaemonProcess, agent: str, action: str) -> None:
    """End or pause the schedule of an agent, and note when that was answered."""
    path = f"/agents/{agent}/schedules/s"
    match action:
        case "pause":
            done = site.call("POST", f"{path}/pause", {}) == 200
        case "delete":
            done = site.call("DELETE", path) == 200
        case "retire":
            site.schedules.pop(agent)
            daemon.config.write_text(site.config())
            done = daemon.cli("reload").returncode == 0
        case "revoke":
            site.revoked.add(agent)
            daemon.config.write_text(site.config())
            done = daemon.cli("reload").returncode == 0
        case _:  # pause_on_failure does it
            sql = "SELECT paused_at FROM schedules WHERE agent = ? AND paused = 1"
            done = bool(wait_until(lambda: daemon.query(sql, agent), what="a pause by a failure"))
    if done:
        site.answered[agent] = format_instant(datetime.now(UTC))


def one_round(site: Site, start: StartDaemon, number: int, chance: random.Random) -> None:
    agent, action = f"a{number}", ACTIONS[number % len(ACTIONS)]
    policy = Overlap.BUFFER_ALL if action == "fail" else chance.choice([*Overlap])
    keys = {"pause_on_failure": action == "fail"}
    site.agents.append(agent)
    if action == "retire":
        site.schedules[agent] = {"every": "1s", "overlap": str(policy), **keys}
    daemon = start(site.config(), slowed=SLOW_RIGHTS)
    if action != "retire":
        body = {"name": "s", "interval_seconds": 1, "overlap_policy": policy, **keys}
        assert site.call("POST", f"/agents/{agent}/schedules", body) == 201
    begin = format_instant(datetime.fromtimestamp(int(datetime.now(UTC).timestamp()) - 12, UTC))
    add_backlog(site, agent, begin)
    pause(chance.uniform(0, 1.2))
    if chance.random() < 0.3:
        asking = threading.Thread(target=lambda: attempt(site, daemon, agent, action))
        asking.start()
        pause(chance.uniform(0, 0.1))
        daemon.kill()
        asking.join()
    else:
        end_schedule(site, daemon, agent, action)
        pause(chance.uniform(0, 0.5))
        daemon.kill()


def attempt(site: Site, daemon: DaemonProcess, agent: str, action: str) -> None:
    with suppress(OSError, http.client.HTTPException, AssertionError):  # the daemon is killed meanwhile
        end_schedule(site, daemon, agent, action)


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_nothing_starts_after_the_answer_to_a_pause_or_an_end(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    site, chance = Site(tmp_path, free_port()), random.Random(rounds)
    for number in range(rounds):
        one_round(site, start_daemon, number, chance)
    daemon = start_daemon(site.config())
    settle(site, daemon)
    # a delivery begins in the transaction that reads schedule and run for the last time before the command starts
    starts = daemon.query(
        "SELECT r.id, r.agent, t.started_at FROM runs r JOIN steps t ON t.run_id = r.id AND t.name = 'deliver'"
    )
    late = [dict(row) for row in starts if row["started_at"] > site.answered.get(row["agent"], "~")]
    assert late == []
    assert {str(row["id"]) for row in starts} >= {*(tmp_path / "started").read_text().split()}
    assert_no_run_started_twice(tmp_path)
    assert len(site.answered) >= rounds // 2
    for row in daemon.query("SELECT id, agent, deleted_at FROM schedules"):
        assert_the_ledger_is_exact(daemon, row["id"])
        if row["deleted_at"]:
            assert daemon.query("SELECT 1 FROM runs WHERE schedule_id = ? AND completed_at IS NULL", row["id"]) == []
    assert daemon.stop(signal.SIGINT) == 0


def settle(site: Site, daemon: DaemonProcess) -> None:
    """End the schedules whose end was not answered, and wait until no run is left that may start."""
    for agent in site.agents:
        if agent not in site.answered:
            assert site.call("DELETE", f"/agents/{agent}/schedules/s") in {200, 403, 404, 409}
    site.revoked.update(site.agents)
    site.schedules.clear()
    daemon.config.write_text(site.config())
    assert daemon.cli("reload").returncode == 0
    unsettled = (
        "SELECT 1 FROM runs r JOIN schedules s ON s.id = r.schedule_id WHERE r.completed_at IS NULL "
        "AND (r.status <> 'pending' OR s.paused = 0) LIMIT 1"
    )
    wait_until(lambda: not daemon.query(unsettled), deadline=60, what="all runs ended")


@pytest.mark.parametrize(("action", "status"), [("pause", "pending"), ("delete", "cancelled"), ("cancel", "cancelled")])
def test_a_command_whose_rights_are_looked_up_does_not_start_after_the_answer(
    start_daemon: StartDaemon, tmp_path: Path, action: str, status: str
) -> None:
    """The first look-up is that of the claim; the second one, before the release, ends after the answer."""
    agent = {"command": ["sh", "-c", SCRIPT.format(folder=tmp_path)]}
    slowed = f"FOLDER = {str(tmp_path)!r}\n{HELD_RIGHTS}"
    daemon = start_daemon(config_text(control={"socket": "c.sock"}, agents={"a": agent}), slowed=slowed)
    assert call(daemon, "POST", "/agents/a/schedules", {"name": "s", "interval_seconds": 1}).status == 201
    asked = tmp_path / "asked"
    wait_until(lambda: asked.exists() and len(asked.read_text()) > 1, what="the look-up before the release")
    method, path = {
        "pause": ("POST", "/agents/a/schedules/s/pause"),
        "delete": ("DELETE", "/agents/a/schedules/s"),
        "cancel": ("POST", "/runs/1/cancel"),
    }[action]
    assert call(daemon, method, path).status == 200
    (tmp_path / "answered").touch()
    daemon.wait_for_row("SELECT * FROM runs WHERE id = 1 AND status = ? AND pid IS NULL AND started_at IS NULL", status)
    started = tmp_path / "started"
    assert "1" not in (started.read_text().split() if started.exists() else [])
