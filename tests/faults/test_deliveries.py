"""Promise 3 for remote agents: kill -9 of the daemon at random moments during deliveries."""

import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.ledger import assert_the_ledger_is_exact
from tests.support.peers.processes import Peer, peer
from tests.support.waiting import pause, wait_until

MODES = ("well", "slow-body", "slow", "drop-once")
CLOCK_GRAIN = timedelta(milliseconds=2)  # the marker's time is kept in milliseconds


def config(found: Peer, every: str) -> str:
    schedules = {"s": {"every": every, "overlap": "allow_all"}}
    sync = {"type": "agentex", "acp_type": "sync", "max_concurrent": 50, "schedules": schedules}
    agents = {mode: {"url": f"{found.url}/{mode}", **sync} for mode in MODES}
    return config_text(daemon={"max_concurrent_runs": 100}, agents=agents)


def assert_nothing_was_delivered_after_its_acknowledgement(daemon: DaemonProcess, found: Peer) -> None:
    runs = {run["idempotency_key"]: run for run in daemon.query("SELECT * FROM runs")}
    sent = [one for one in found.requests() if one["body"]["method"] == "message/send"]
    names: dict[str, set[str]] = {}
    for one in sent:
        key = one["headers"]["x-idempotency-key"]
        names.setdefault(one["body"]["params"]["task"]["name"], set()).add(key)
        acknowledged = runs[key]["delivered_at"]
        at = datetime.fromtimestamp(one["at"], datetime.fromisoformat(acknowledged).tzinfo)
        assert at <= datetime.fromisoformat(acknowledged) + CLOCK_GRAIN
    assert all(len(keys) == 1 for keys in names.values())
    assert len(sent) >= len(runs)


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_kill_9_during_deliveries_delivers_nothing_after_its_acknowledgement(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    chance = random.Random(rounds)
    with peer(tmp_path, "misbehaving") as found:
        for _ in range(rounds):
            daemon = start_daemon(config(found, "1s"))
            pause(chance.uniform(0.05, 2.5))
            daemon.kill()
        daemon = start_daemon(config(found, SELDOM))
        unsettled = "SELECT 1 FROM runs WHERE completed_at IS NULL LIMIT 1"
        wait_until(lambda: not daemon.query(unsettled), deadline=90, what="all runs ended")
        assert {run["status"] for run in daemon.query("SELECT status FROM runs")} <= {"completed", "interrupted"}
        assert_nothing_was_delivered_after_its_acknowledgement(daemon, found)
        for row in daemon.query("SELECT id FROM schedules"):
            assert_the_ledger_is_exact(daemon, row["id"])
