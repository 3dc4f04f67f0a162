"""Many clients at once: no change is lost silently, and the revisions record exactly what happened to each schedule."""

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import SCHEDULES, UnixConnection, call
from tests.support.daemon_process import DaemonProcess

NAMES = [f"s{number}" for number in range(20)]
CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/pause", {"note": "storm"}),
    ("POST", "/resume", {}),
    ("PATCH", "", {"description": "calm"}),
    ("PATCH", "", {"description": "wild", "jitter_seconds": 0}),
    ("PATCH", "", {"interval_seconds": 1}),
    ("PATCH", "", {"interval_seconds": 2}),
    ("POST", "/trigger", {}),
    ("DELETE", "", {}),
]


class Client(threading.Thread):
    """One client: changes schedules at random, each under the version that it read just before.

    It makes so many changes, and goes on until some client met a version that another had changed.
    """

    def __init__(self, path: Path, seed: int, changes: int, met: threading.Event) -> None:
        super().__init__()
        self.connection = UnixConnection(path)
        self.random = random.Random(seed)
        self.changes = changes
        self.met = met
        self.statuses: list[int] = []

    def run(self) -> None:
        while len(self.statuses) < self.changes or not self.met.is_set():
            name = self.random.choice(NAMES)
            status, tag = self.ask("GET", f"{SCHEDULES}/{name}")
            if status == 404:
                body = {"name": name, "interval_seconds": self.random.choice([1, 2])}
                self.statuses.append(self.ask("POST", SCHEDULES, body)[0])
                continue
            method, what, body = self.random.choice(CHANGES)
            self.statuses.append(self.ask(method, f"{SCHEDULES}/{name}{what}", body, tag)[0])
            if self.statuses[-1] == 412:
                self.met.set()
        self.connection.close()

    def ask(self, method: str, path: str, body: object = None, tag: str | None = None) -> tuple[int, str | None]:
        headers = {"If-Match": tag} if tag else {}
        data = None if body is None else json.dumps(body)
        if data is not None:
            headers["Content-Type"] = "application/json"
        self.connection.request(method, path, body=data, headers=headers)
        response = self.connection.getresponse()
        response.read()
        return response.status, response.headers.get("ETag")


@pytest.mark.parametrize(
    ("clients", "changes"), [(16, 25), pytest.param(64, 250, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
def test_changes_under_versions_replay_to_exactly_the_final_rows(
    daemon: DaemonProcess, clients: int, changes: int
) -> None:
    met = threading.Event()
    crowd = [Client(daemon.folder / "c.sock", seed, changes, met) for seed in range(clients)]
    for client in crowd:
        client.start()
    for client in crowd:
        client.join()
    statuses = [status for client in crowd for status in client.statuses]
    assert set(statuses) <= {200, 201, 404, 409, 412}
    assert {200, 201, 412} <= set(statuses)
    assert len(statuses) >= changes * clients
    for row in daemon.query("SELECT * FROM schedules WHERE source = 'created'"):
        revisions = daemon.query("SELECT * FROM schedule_revisions WHERE schedule_id = ? ORDER BY version", row["id"])
        assert [entry["version"] for entry in revisions] == list(range(1, row["version"] + 1))
        replayed: dict[str, Any] = {}
        for entry in revisions:
            for key, (before, after) in json.loads(entry["changes"]).items():
                assert replayed.get(key) == before
                replayed[key] = after
        assert {key: row[key] for key in replayed} == replayed
        assert (row["deleted_at"] is not None) == (revisions[-1]["action"] == "delete")
    for name in NAMES:
        if call(daemon, "GET", f"{SCHEDULES}/{name}").status == 200:
            call(daemon, "POST", f"{SCHEDULES}/{name}/pause")
    assert_no_fire_was_lost(daemon)


def assert_no_fire_was_lost(daemon: DaemonProcess) -> None:
    """Each fire that started something has its run, each run of a due time has its fire, and none has two."""
    orphans = "SELECT 1 FROM fires WHERE outcome IN ('launched', 'buffered') AND run_id IS NULL"
    assert daemon.query(orphans) == []
    assert (
        daemon.query(
            "SELECT r.id FROM runs r LEFT JOIN fires f ON f.run_id = r.id "
            "WHERE r.trigger IN ('scheduled', 'catchup') AND f.run_id IS NULL"
        )
        == []
    )
    twice = "SELECT 1 FROM runs WHERE trigger = 'scheduled' GROUP BY schedule_id, scheduled_for HAVING count(*) > 1"
    assert daemon.query(twice) == []
