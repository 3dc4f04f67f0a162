"""Peers that hang, disconnect, lie, flood or redirect: each run ends, with a reason that a person understands."""

import json
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest

from daemon import http_client
from daemon.agents.remote import delivery
from tests.support.configs import config_text, shell_agent, triggered_agent
from tests.support.daemon_process import DaemonProcess, daemons_in
from tests.support.peers.processes import Peer, free_port, peer
from tests.support.runs import triggered
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("misbehaving")  # its tests share a daemon

QUICK = """
from daemon import http_client
from daemon.agents.remote import delivery
delivery.WAITS = (0.2, 0.4, 0.8, 3.0)
http_client.TO_HEADERS = 2.0
"""


class End(NamedTuple):
    """How the run of a mode ends."""

    status: str
    reason: str
    deliveries: int


ENDS = {
    "well": End("completed", "", 1),
    "hang": End("failed", "message/send: no answer within 2 s (after 5 attempts)", 5),
    "hang-in-headers": End("failed", "message/send: no answer within 2 s (after 5 attempts)", 5),
    "error-500": End("failed", "message/send: HTTP 500 X: it broke (after 5 attempts)", 5),
    "not-found": End("failed", "message/send: HTTP 404 X: nothing here", 1),
    "unavailable-for-years": End("failed", "it asks to wait 11574d1h46m40s, which is longer than the run has left", 1),
    "unavailable-for-a-second": End("completed", "", 2),
    "unavailable-until-1999": End("failed", "HTTP 503 X (after 5 attempts)", 5),
    "unavailable-beyond-time": End("failed", "HTTP 503 X (after 5 attempts)", 5),
    "timeout-once": End("completed", "", 2),
    "too-early-once": End("completed", "", 2),
    "empty-lines": End("completed", "", 1),
    "wide-json": End("failed", "the answer has more than 100000 values", 1),
    "too-many-once": End("completed", "", 2),
    "drop": End("failed", "the connection was closed before an answer came (after 5 attempts)", 5),
    "drop-once": End("completed", "", 2),
    "drop-after-headers": End("failed", "the answer broke off", 1),
    "drop-in-body": End("failed", "the answer broke off", 1),
    "two-responses": End("completed", "", 1),
    "two-answers": End("failed", "the answer is not JSON: Extra data", 1),
    "byte-a-second": End("failed", "timeout: the run took longer than its timeout of 3s", 1),
    "endless": End("failed", "the answer is larger than 16 MiB", 1),
    "gzip-bomb": End("failed", "the answer is encoded as gzip, which was not requested", 1),
    "brotli": End("failed", "the answer is encoded as br, which was not requested", 1),
    "bad-json": End("failed", "the answer is not JSON", 1),
    "deep-json": End("failed", "the answer is nested more than 100 levels deep", 1),
    "nan": End("failed", "the answer is not JSON: NaN is not JSON", 1),
    "null-result": End("failed", "message/send: the answer contains no message of the agent", 1),
    "null-result-in-lines": End("failed", "message/send: the answer contains no message of the agent", 1),
    "odd-result": End("failed", "message/send: the answer contains no message of the agent", 1),
    "no-lines": End("failed", "message/send: the answer contains no message of the agent", 1),
    "wrong-id": End("failed", "the answer has the id 'another', which belongs to another request", 1),
    "no-content": End("failed", "the answer is empty", 1),
    "redirect-in-a-circle": End("failed", "redirected more than 5 times", 6),
    "redirect-to-a-file": End("failed", "redirected to file:///etc/passwd, another scheme or host", 1),
    "redirect-elsewhere": End("failed", "redirected to http://localhost:1/api, another scheme or host", 1),
    "redirect-nearby": End("completed", "", 1),
    "see-other": End("failed", "message/send: HTTP 303 X", 1),
    "error-inside": End("failed", "message/send: no such flow (JSON-RPC error -32603)", 1),
    "no-http": End("failed", "the answer is not valid HTTP", 1),
    "cut-off-at-once": End("failed", "the answer broke off", 1),
    "malformed-at-once": End("failed", "the answer is not valid HTTP", 1),
    "malformed-later": End("failed", "the answer is not valid HTTP", 1),
    "large-headers": End("completed", "", 1),
    "huge-header": End("failed", "the answer is not valid HTTP", 1),
}

UNREAD = {"no-http", "malformed-at-once", "huge-header"}
"""What has no head of an answer that could be read."""


def config(url: str, late: int) -> str:
    urls = {**{mode: f"{url}/{mode}" for mode in ENDS}, "refused": f"http://127.0.0.1:{late}/well"}
    agents = {
        name: triggered_agent(
            {"s": "go"},
            type="agentex",
            acp_type="sync",
            url=place,
            timeout="3s" if name == "byte-a-second" else "1m",
        )
        for name, place in urls.items()
    }
    return config_text(daemon={"max_concurrent_runs": 100}, agents={**agents, "punctual": shell_agent("true")})


@pytest.fixture(scope="module")
def late() -> int:
    """The port at which the peer listens only when a delivery to it has failed."""
    return free_port()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, late: int) -> Iterator[tuple[DaemonProcess, Peer]]:
    """A daemon that has delivered to all modes, and the peer."""
    folder = tmp_path_factory.mktemp("misbehaving")
    with peer(folder, "misbehaving", str(late)) as found, daemons_in(folder) as start:
        daemon = start(config(found.url, late), slowed=QUICK)
        triggered(daemon, "refused/s")
        daemon.wait_for_row("SELECT 1 FROM events WHERE type = 'delivery_failed'")
        found.process.send_signal(signal.SIGUSR1)  # before the others keep the peer from listening in time
        for agent in ENDS:
            triggered(daemon, f"{agent}/s")
        ended = "SELECT count(*) AS n FROM runs WHERE agent <> 'punctual' AND completed_at IS NOT NULL"
        wait_until(lambda: daemon.query(ended)[0]["n"] == len(ENDS) + 1, deadline=60, what="all runs ended")
        yield daemon, found


def run_of(daemon: DaemonProcess, agent: str) -> dict[str, Any]:
    [run] = daemon.query("SELECT * FROM runs WHERE agent = ?", agent)
    return dict(run)


@pytest.mark.parametrize("mode", ENDS)
def test_a_run_ends_with_its_reason_after_so_many_deliveries(outcome: tuple[DaemonProcess, Peer], mode: str) -> None:
    daemon, found = outcome
    run, end = run_of(daemon, mode), ENDS[mode]
    assert run["status"] == end.status, run["error"]
    assert end.reason in (run["error"] or ""), run["error"]
    key = run["idempotency_key"]
    requests = [one for one in found.requests() if one["mode"] == mode and one["headers"]["x-idempotency-key"] == key]
    deliveries = [one for one in requests if one["body"]["method"] == "message/send"]
    assert len(deliveries) == end.deliveries
    if mode != "well":  # others are sent there, too
        assert {one["headers"]["x-idempotency-key"] for one in found.requests() if one["mode"] == mode} == {key}
    assert len({str(one["body"]) for one in deliveries}) == 1
    assert len({one["headers"]["x-request-id"] for one in deliveries}) == 1
    acknowledged = end.status == "completed" or "the answer" in end.reason or "timeout:" in end.reason
    acknowledged = (acknowledged or mode == "error-inside") and mode not in UNREAD
    assert (run["delivered_at"] is not None) is acknowledged


def test_a_peer_that_is_not_there_yet_is_retried(outcome: tuple[DaemonProcess, Peer]) -> None:
    daemon, _ = outcome
    run = run_of(daemon, "refused")
    assert run["status"] == "completed"
    [event, *_] = daemon.query("SELECT data FROM events WHERE run_id = ? AND type = 'delivery_failed'", run["id"])
    assert "cannot connect to 127.0.0.1" in event["data"]


def test_a_wait_that_is_over_takes_nothing_from_ours(outcome: tuple[DaemonProcess, Peer]) -> None:
    daemon, _ = outcome
    events = "SELECT data FROM events WHERE run_id = ? AND type = 'delivery_failed' ORDER BY number"
    tries = [json.loads(row["data"]) for row in daemon.query(events, run_of(daemon, "unavailable-until-1999")["id"])]
    assert [one.get("again_after_seconds") for one in tries] == [0.2, 0.4, 0.8, 3.0, None]


def test_what_came_before_the_end_is_kept(outcome: tuple[DaemonProcess, Peer]) -> None:
    daemon, _ = outcome
    assert daemon.output(run_of(daemon, "drop-in-body")["id"]) == "half of it"
    assert daemon.output(run_of(daemon, "empty-lines")["id"]) == "at last"
    assert daemon.output(run_of(daemon, "cut-off-at-once")["id"]) == "last words"
    assert daemon.output(run_of(daemon, "malformed-later")["id"]) == "half of it"


def test_other_schedules_fire_on_time_meanwhile(outcome: tuple[DaemonProcess, Peer]) -> None:
    daemon, _ = outcome
    fires = daemon.query("SELECT f.* FROM fires f JOIN schedules s ON s.id = f.schedule_id WHERE s.agent = 'punctual'")
    late = [datetime.fromisoformat(row["decided_at"]) - datetime.fromisoformat(row["scheduled_for"]) for row in fires]
    assert len(late) > 5
    assert max(late) < timedelta(seconds=10)
    assert "Traceback" not in daemon.log_text()


def test_a_redirect_takes_the_key_nowhere_else(outcome: tuple[DaemonProcess, Peer], late: int) -> None:
    _, found = outcome
    configured = {f"127.0.0.1:{found.port}", f"127.0.0.1:{late}"}
    assert {one["headers"]["host"] for one in found.requests()} == configured


def test_the_delays_are_those_of_the_contract() -> None:
    assert delivery.WAITS == (2.0, 4.0, 8.0, 16.0)
    assert http_client.TO_HEADERS == 120
    assert http_client.LARGEST_BODY == 16 * 1024 * 1024
