"""Hooks: how a remote agent ends its run, over TCP and over the socket, once and in time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from daemon.runs.hook_tokens import HookTokens
from tests.support.api import call
from tests.support.configs import Table, config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.peers.processes import Peer, free_port, peer
from tests.support.runs import cancel, ended, triggered
from tests.support.waiting import pause, wait_until

pytestmark = pytest.mark.xdist_group("hooks")  # its tests share a daemon

QUICK = "from daemon.agents.remote import delivery\ndelivery.WAITS = (0.2, 0.2, 0.2, 0.2)\n"
DONE = {"status": "completed", "result": {"built": 3}}


def text(url: str, *, control: Table | None = None, daemon: Table | None = None, **keys: object) -> str:
    inputs = {"x": "wait", "e": "early", "f": "early-fail", "slow": "slow"}
    return config_text(
        daemon={"max_concurrent_runs": 1, **(daemon or {})},
        control={"socket": "c.sock", **(control or {})},
        agents={"a": triggered_agent(inputs, type="agentex", url=url, await_completion=True, **keys)},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DaemonProcess, Peer]]:
    folder = tmp_path_factory.mktemp("hooks")
    with peer(folder, "agentex_plain", "async") as found, daemons_in(folder) as start:
        yield start(text(found.url)), found


def hook_of(found: Peer, run: dict[str, Any]) -> str:
    """Return the URL that the agent was given for a run."""
    sent = [one["params"]["task"] for one in found.requests() if one["method"] == "event/send"]
    [url] = {str(task["task_metadata"]["hook_url"]) for task in sent if task["name"] == run["name"]}
    return url


def suspended(world: tuple[DaemonProcess, Peer]) -> tuple[dict[str, Any], str]:
    """Start a run; return it once it waits for its hook, with the hook's path."""
    daemon, found = world
    number = triggered(daemon, "a/x")
    run = dict(daemon.wait_for_run("suspended", number=number))
    return run, "/hooks/" + hook_of(found, run).rpartition("/")[2]


def test_without_tcp_the_url_leads_to_the_socket(world: tuple[DaemonProcess, Peer]) -> None:
    run, path = suspended(world)
    url = urlsplit(hook_of(world[1], run))
    assert (url.scheme, unquote(url.netloc), url.path) == ("http+unix", str(world[0].folder / "c.sock"), path)
    assert call(world[0], "POST", path, DONE).body == {"run_id": run["id"], "status": "completed"}
    run = ended(world[0], run["id"])
    assert (run["status"], run["message"]) == ("completed", '{"built": 3}')
    assert world[0].output(run["id"]) == '{\n  "built": 3\n}\n'


def test_a_suspended_run_holds_no_place_among_the_running_ones(world: tuple[DaemonProcess, Peer]) -> None:
    daemon, found = world
    numbers = [triggered(daemon, "a/slow"), triggered(daemon, "a/x")]  # max_concurrent_runs is 1
    assert daemon.query("SELECT status FROM runs WHERE id = ?", numbers[1])[0]["status"] == "pending"
    for number in numbers:
        run = dict(daemon.wait_for_run("suspended", number=number))
        assert call(daemon, "POST", "/hooks/" + hook_of(found, run).rpartition("/")[2], DONE).status == 200


def test_a_token_is_good_once(world: tuple[DaemonProcess, Peer]) -> None:
    run, path = suspended(world)
    said = [{"status": "completed", "result": str(which)} for which in range(8)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda one: call(world[0], "POST", path, one).status, said))
    assert sorted(statuses) == [200] + [404] * 7
    assert call(world[0], "POST", path, said[0]).status == 404
    assert ended(world[0], run["id"])["message"] == str(statuses.index(200))
    assert world[0].output(run["id"]) == f"{statuses.index(200)}\n"  # the others have not replaced it


def test_a_failure_is_reported_with_its_error(world: tuple[DaemonProcess, Peer]) -> None:
    run, path = suspended(world)
    call(world[0], "POST", path, {"status": "failed", "error": "no rights"})
    run = ended(world[0], run["id"])
    assert (run["status"], run["error"]) == ("failed", "no rights")


@pytest.mark.parametrize("body", [{}, {"status": "cancelled"}, {"status": "completed", "more": 1}, {"error": "x"}])
def test_a_wrong_shape_leaves_the_run_as_it_is(world: tuple[DaemonProcess, Peer], body: dict[str, object]) -> None:
    run, path = suspended(world)
    assert call(world[0], "POST", path, body).status == 422
    assert call(world[0], "POST", path, DONE).status == 200
    assert ended(world[0], run["id"])["status"] == "completed"


def test_unknown_tokens_and_those_of_ended_runs_are_not_found(world: tuple[DaemonProcess, Peer]) -> None:
    run, path = suspended(world)
    assert call(world[0], "POST", path[:-1] + "_", DONE).status == 404
    assert call(world[0], "POST", "/hooks/" + "x" * 2000, DONE).status == 404
    cancel(world[0], run["id"])
    assert ended(world[0], run["id"])["status"] == "cancelled"
    assert call(world[0], "POST", path, DONE).status == 404
    assert not (world[0].state / "runs" / str(run["id"]) / "result.json").exists()


def test_only_the_hash_of_a_token_is_kept(world: tuple[DaemonProcess, Peer]) -> None:
    run, path = suspended(world)
    call(world[0], "POST", path, DONE)
    ended(world[0], run["id"])
    token = path.rpartition("/")[2]
    kept = b"".join(file.read_bytes() for file in world[0].state.rglob("*") if file.is_file())
    assert token.encode() not in kept
    assert token not in world[0].log_text()
    assert (world[0].state / "hook.key").stat().st_mode & 0o777 == 0o600


def test_the_hook_may_be_called_before_the_event_is_acknowledged(start_daemon: StartDaemon, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    control = {"listen": f"127.0.0.1:{port}", "tokens": [{"name": "ci", "file": "token"}]}
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, control=control))
        number = triggered(daemon, "a/e")
        run = ended(daemon, number)
        assert (run["status"], run["message"]) == ("completed", "from hook")
        daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", number)
        assert daemon.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "completed"


def test_nothing_is_delivered_after_the_hook_was_called(start_daemon: StartDaemon, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    control = {"listen": f"127.0.0.1:{port}", "tokens": [{"name": "ci", "file": "token"}]}
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, control=control), slowed=QUICK)
        run = ended(daemon, triggered(daemon, "a/f"))
        assert run["status"] == "completed"
        daemon.wait_for_log("[delivery] Delivery attempt failed", run_id=run["id"])
        assert daemon.stop() == 0  # which waits for deliveries that go on
        assert len([one for one in found.requests() if one["method"] == "event/send"]) == 1


def test_public_url_is_what_hook_urls_begin_with(start_daemon: StartDaemon, tmp_path: Path) -> None:
    control = {"public_url": "https://cron.example.org/base/"}
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, control=control))
        run = dict(daemon.wait_for_run("suspended", number=triggered(daemon, "a/x")))
        assert hook_of(found, run).startswith("https://cron.example.org/base/hooks/")


def test_a_hook_that_is_not_called_in_time_expires_with_the_run(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, timeout="6s"))
        number = triggered(daemon, "a/x")
        run = ended(daemon, number)
        assert (run["status"], run["error"]) == ("failed", "timeout: the run took longer than its timeout of 6s")
        path = "/hooks/" + hook_of(found, run).rpartition("/")[2]
        assert call(daemon, "POST", path, DONE).status == 404
        wait_until(lambda: [one for one in found.requests() if one["method"] == "task/cancel"], what="task/cancel")


def test_the_timeout_of_a_run_continues_without_the_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "async") as found:
        first = start_daemon(text(found.url, timeout="4s"))
        number = triggered(first, "a/x")
        first.wait_for_run("suspended", number=number)
        first.kill()
        pause(2.5)
        run = ended(start_daemon(text(found.url, timeout="4s")), number)
        took = datetime.fromisoformat(run["completed_at"]) - datetime.fromisoformat(run["started_at"])
        assert run["error"] == "timeout: the run took longer than its timeout of 4s"
        assert took < timedelta(seconds=6)


def test_draining_does_not_wait_for_suspended_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, daemon={"on_stop": "drain"}))
        number = triggered(daemon, "a/x")
        daemon.wait_for_run("suspended", number=number)
        assert daemon.stop(deadline=10) == 0
        assert daemon.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "suspended"


def test_a_hook_outlives_the_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "async") as found:
        first = start_daemon(text(found.url))
        run = dict(first.wait_for_run("suspended", number=triggered(first, "a/x")))
        first.kill()
        second = start_daemon(text(found.url))
        path = "/hooks/" + hook_of(found, run).rpartition("/")[2]
        assert call(second, "POST", path, DONE).status == 200
        assert ended(second, run["id"])["status"] == "completed"
        assert len([one for one in found.requests() if one["method"] == "event/send"]) == 1


@pytest.mark.parametrize("depth", [900, 5000])
def test_a_result_of_any_depth_is_kept_or_refused(world: tuple[DaemonProcess, Peer], depth: int) -> None:
    run, path = suspended(world)
    answer = call(world[0], "POST", path, data=b'{"status": "completed", "result": %s}' % (b"[" * depth + b"]" * depth))
    assert answer.status in {200, 400}
    if answer.status == 400:
        call(world[0], "POST", path, DONE)
    assert ended(world[0], run["id"])["status"] == "completed"
    assert (world[0].state / "runs" / str(run["id"]) / "result.json").stat().st_size > 10
    assert "Traceback" not in world[0].log_text()


def test_what_an_agent_repeats_of_key_and_token_is_masked(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        daemon = start_daemon(text(f"{found.url}/tell-secrets", api_key="sesame-open", attempts=1))
        run = ended(daemon, triggered(daemon, "a/x"))
        assert run["error"].startswith("task/create: *** http+unix://")
        assert_no_secret(daemon, run)
        daemon.stop()
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, api_key='a "sesame-open"'))
        run = dict(daemon.wait_for_run("suspended", number=triggered(daemon, "a/x")))
        path = "/hooks/" + hook_of(found, run).rpartition("/")[2]
        key = 'a "sesame-open"'
        said = {"status": "failed", "error": f"no {key}", "result": {"key": key, key: [path]}}
        assert call(daemon, "POST", path, said).status == 200
        assert ended(daemon, run["id"])["error"] == "no ***"
        assert_no_secret(daemon, run)


def assert_no_secret(daemon: DaemonProcess, run: dict[str, Any]) -> None:
    kept = [file.read_bytes() for file in (daemon.state / "runs").rglob("*") if file.is_file()]
    kept += [file.read_bytes() for file in daemon.state.glob("state.db*")]
    token = HookTokens((daemon.state / "hook.key").read_bytes()).token(run["idempotency_key"])
    for place in (*kept, daemon.log_text().encode()):
        assert b"sesame-open" not in place
        assert token.encode() not in place


def test_a_failure_by_hook_starts_the_next_attempt(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "async") as found:
        daemon = start_daemon(text(found.url, attempts=2, retry_delay="0s"))
        run = dict(daemon.wait_for_run("suspended", number=triggered(daemon, "a/x")))
        path = "/hooks/" + hook_of(found, run).rpartition("/")[2]
        call(daemon, "POST", path, {"status": "failed"})
        assert ended(daemon, run["id"])["status"] == "continued_as_new"
        second = dict(daemon.wait_for_run("suspended"))
        assert second["previous_run_id"] == run["id"]
        assert hook_of(found, second) != hook_of(found, run)
