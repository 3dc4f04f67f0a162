"""How much one principal may cause: pending runs, created schedules, revisions. Others and administrators go on."""

import http.client
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.allowance import MOST, Allowance, Kind
from daemon.errors import LimitError
from tests.support.api import SCHEDULES, TOKEN, Answer, call, start_on_tcp
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.peers.processes import free_port

pytestmark = pytest.mark.xdist_group("limits")
FEW = """
import daemon.store.limits as limits
limits.MOST_PENDING = limits.MOST_CREATED = 3
import daemon.allowance as allowance
allowance.MOST = 200_000
allowance.MOST_BRIEF = 10_000
allowance.MOST_OF_RUNS = 100_000
allowance.MOST_OF_FIRES = 100_000
"""
"""The limits in a size that a test reaches soon."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DaemonProcess, int]]:
    """A daemon with low limits, whose runs do not start, and its port, where `token:ci` is no administrator."""
    folder, port = tmp_path_factory.mktemp("limited"), free_port()
    with daemons_in(folder) as start:
        daemon = start_on_tcp(start, folder, port, slowed=FEW)
        text = daemon.config.read_text().replace("max_concurrent = 100", "max_concurrent = 1")
        daemon.config.write_text(text.replace('"echo hello; cat"', '"exec sleep 600"'))
        assert call(daemon, "POST", "/reload").status == 200
        assert call(daemon, "POST", f"{SCHEDULES}/declared/trigger").status == 201
        daemon.wait_for_run("running")
        yield daemon, port


def ask(port: int, method: str, path: str, body: object = None, **more: str) -> Answer:
    """Ask as `token:ci`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {TOKEN}", **({} if body is None else {"Content-Type": "application/json"})}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def test_inputs_of_the_runs_of_one_principal_are_limited_in_bytes(limited: tuple[DaemonProcess, int]) -> None:
    daemon, port = limited
    large, key = {"initial_input": {"content": "x" * 40_000}}, {"Idempotency_Key": "large"}
    trigger, start = f"{SCHEDULES}/declared/trigger", "/agents/a/runs"
    first = ask(port, "POST", trigger, large, **key)
    second = ask(port, "POST", start, large)
    for made in (first, second):
        assert made.status == 201
        assert call(daemon, "POST", f"/runs/{made.body['id']}/cancel").status == 200
    for path in (trigger, start, f"/runs/{first.body['id']}/retry"):
        refused = ask(port, "POST", path, None if path.endswith("retry") else large)
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert "of inputs" in refused.body["message"]
    assert ask(port, "POST", trigger, large, **key).body["id"] == first.body["id"]
    small = ask(port, "POST", start)
    assert small.status == 201
    assert call(daemon, "POST", f"/runs/{small.body['id']}/cancel").status == 200
    assert call(daemon, "POST", start, large).status == 201  # an administrator


def test_inputs_of_the_runs_that_due_times_start_are_limited_in_bytes_for_whoever_created_the_schedules(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    port = free_port()
    daemon = start_on_tcp(start_daemon, tmp_path, port, slowed=FEW)
    each_second = {"interval_seconds": 1, "overlap_policy": "allow_all", "initial_input": {"content": "x" * 40_000}}
    assert ask(port, "POST", SCHEDULES, {"name": "greedy", **each_second}).status == 201
    assert call(daemon, "POST", SCHEDULES, {"name": "ours", **each_second}).status == 201
    daemon.wait_for_row("SELECT 1 FROM fires WHERE outcome = 'skipped_budget'")
    fires = ask(port, "GET", f"{SCHEDULES}/greedy/fires").body["fires"]
    reasons = {fire["reason"] for fire in fires if fire["outcome"] == "skipped_budget"}
    [reason] = reasons
    assert reason.startswith("token:ci has created schedules that started so many runs that 97.7 KiB of inputs were")
    assert [fire["outcome"] for fire in fires].count("launched") == 3  # the third one began below the limit
    number = call(daemon, "GET", f"{SCHEDULES}/ours").body["id"]
    daemon.wait_for_row("SELECT 1 FROM fires WHERE schedule_id = ? LIMIT 1 OFFSET 3", number)
    skipped = daemon.query("SELECT 1 FROM fires WHERE schedule_id = ? AND outcome = 'skipped_budget'", number)
    assert skipped == []  # an administrator's


def test_pending_runs_of_one_principal_are_limited(limited: tuple[DaemonProcess, int]) -> None:
    daemon, port = limited
    path = f"{SCHEDULES}/declared/trigger"
    runs = [ask(port, "POST", path, Idempotency_Key=f"key-{number}").body["id"] for number in range(3)]
    refused = ask(port, "POST", path)
    assert (refused.status, refused.code) == (429, "too_many_requests")
    assert "3 pending runs" in refused.body["message"]
    assert "agentcron runs cancel" in refused.body["message"]
    assert ask(port, "POST", "/agents/a/runs").status == 429
    assert call(daemon, "POST", "/agents/a/runs").status == 201  # an administrator
    repeated = ask(port, "POST", path, Idempotency_Key="key-0")
    assert (repeated.status, repeated.body["id"]) == (201, runs[0])
    assert call(daemon, "POST", path).status == 201  # an administrator
    assert ask(port, "POST", f"/runs/{runs[0]}/cancel").status == 200
    daemon.wait_for_run("cancelled", number=runs[0])
    assert ask(port, "POST", f"/runs/{runs[0]}/retry").status == 201
    assert ask(port, "POST", path).status == 429
    assert ask(port, "POST", f"/runs/{runs[0]}/retry").status in {409, 429}


def test_created_schedules_of_one_principal_are_limited_also_if_they_are_deleted(
    limited: tuple[DaemonProcess, int],
) -> None:
    daemon, port = limited
    for number in range(3):
        assert ask(port, "POST", SCHEDULES, {"name": f"c{number}", "interval_seconds": 3600}).status == 201
    assert ask(port, "DELETE", f"{SCHEDULES}/c0").status == 200
    refused = ask(port, "POST", SCHEDULES, {"name": "c4", "interval_seconds": 3600})
    assert (refused.status, refused.code) == (429, "too_many_requests")
    assert "delete some" in refused.body["message"]
    assert call(daemon, "POST", SCHEDULES, {"name": "c4", "interval_seconds": 3600}).status == 201


def test_revisions_of_one_principal_are_limited_in_bytes(limited: tuple[DaemonProcess, int]) -> None:
    daemon, port = limited
    created = call(daemon, "POST", SCHEDULES, {"name": "changed", "interval_seconds": 3600})
    assert created.status == 201
    statuses = []
    for number in range(5):
        change = {"initial_input": {"content": f"{number}" * 50_000}}
        statuses.append(ask(port, "PATCH", f"{SCHEDULES}/changed", change).status)
    assert statuses == [200, 200, 200, 429, 429]
    assert call(daemon, "PATCH", f"{SCHEDULES}/changed", {"description": "by an administrator"}).status == 200
    assert len(daemon.query("SELECT 1 FROM schedule_revisions WHERE principal = 'token:ci' AND action = 'update'")) == 3


def test_what_is_small_stays_possible_without_an_allowance_for_what_is_large_and_is_bounded_by_its_own(
    limited: tuple[DaemonProcess, int],
) -> None:
    daemon, port = limited
    for name in ("large", "paused"):
        assert call(daemon, "POST", SCHEDULES, {"name": name, "interval_seconds": 3600}).status == 201
    while ask(port, "PATCH", f"{SCHEDULES}/large", {"description": secrets.token_hex(20_000)}).status == 200:
        pass
    assert ask(port, "POST", f"{SCHEDULES}/large/pause", {"note": "too much"}).status == 200
    assert ask(port, "POST", f"{SCHEDULES}/large/resume").status == 200
    due = ask(port, "GET", f"{SCHEDULES}/large").body["next_action_times"][0]
    assert ask(port, "POST", f"{SCHEDULES}/large/skip", {"scheduled_time": due}).status == 200
    assert ask(port, "DELETE", f"{SCHEDULES}/large").status == 200
    assert ask(port, "POST", f"{SCHEDULES}/paused/pause", {"note": "x" * 1001}).status == 422
    statuses = [ask(port, "POST", f"{SCHEDULES}/paused/pause", {"note": f"{n}" * 1000}).status for n in range(10)]
    assert set(statuses) == {200, 429}
    assert statuses == sorted(statuses)


def test_an_allowance_is_free_again_after_a_day() -> None:
    now = 0.0
    allowance = Allowance(lambda: now)
    for kind in Kind:
        now = 0.0
        allowance.use("a", kind.most, kind)
        allowance.check("a", kind)
        allowance.use("a", kind.most // 2, kind)
        with pytest.raises(LimitError, match="720 min"):
            allowance.check("a", kind)
        allowance.check("b", kind)
        now = 86_400 / 2
        allowance.check("a", kind)


def test_principals_with_a_free_allowance_are_forgotten() -> None:
    now = 0.0
    allowance = Allowance(lambda: now)
    for number in range(1000):
        allowance.use(f"user{number}", 200, Kind.CHANGES)
    allowance.use("a", MOST, Kind.DEFINITIONS)
    now = 2 * 3600.0
    allowance.use("b", 200, Kind.CHANGES)
    assert {principal for principal, _ in allowance._used} == {"a", "b"}
