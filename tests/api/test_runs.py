"""The routes of runs and of the daemon as a whole."""

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.api import SCHEDULES, UnixConnection, call, create
from tests.support.configs import one_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import change_database
from tests.support.waiting import wait_until

SLOW = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 2
[control]
socket = "c.sock"
[agents.a]
command = ["sh", "-c", "echo begun; sleep 300"]
kill_grace = "1s"
[agents.a.schedules.s]
every = "36500d"
[agents.b]
command = ["sh", "-c", "echo output; exit 3"]
[agents.b.schedules.s]
every = "36500d"
"""


def trigger(daemon: DaemonProcess, agent: str = "a", schedule: str = "s") -> int:
    return int(call(daemon, "POST", f"/agents/{agent}/schedules/{schedule}/trigger").body["id"])


def test_runs_are_listed_by_agent_schedule_and_status_in_pages(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    failed = [trigger(daemon, "b") for _ in range(3)]
    for run in failed:
        daemon.wait_for_run("failed", number=run)
    running = trigger(daemon)
    daemon.wait_for_run("running", number=running)
    waiting = trigger(daemon)
    for query, expected in (
        ("", [waiting, running, *reversed(failed)]),
        ("agent=b", list(reversed(failed))),
        ("schedule=a/s", [waiting, running]),
        ("schedule=a/s&agent=b", []),
        ("status=pending", [waiting]),
        ("status=failed&agent=a", []),
        (f"limit=2&cursor={running}", list(reversed(failed))[:2]),
    ):
        page = call(daemon, "GET", f"/runs?{query}").body
        assert [run["id"] for run in page["runs"]] == expected, query
    assert call(daemon, "GET", "/runs?limit=2").body["total"] == 5
    assert call(daemon, "GET", "/runs?status=done").status == 422
    assert call(daemon, "GET", "/runs?cursor=x").status == 400
    assert call(daemon, "GET", f"/runs/{failed[0]}").body["steps"][0]["name"] == "workspace"


def test_a_waiting_run_reports_that_its_agent_was_removed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    create(daemon, name="created")  # the one in the file is retired with its agent, which cancels its waiting runs
    running, waiting = trigger(daemon), trigger(daemon, schedule="created")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", running)
    daemon.config.write_text(SLOW.replace("[agents.a", "[agents.other"))
    assert call(daemon, "POST", "/reload").status == 200
    assert call(daemon, "POST", f"/runs/{running}/cancel").status == 200
    run = daemon.wait_for_run("failed", number=waiting)
    assert run["error"] == "agent 'a' is no longer in the config"


def test_a_run_is_cancelled_and_only_while_it_is_active(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    running, waiting = trigger(daemon), trigger(daemon)
    daemon.wait_for_run("running", number=running)
    assert call(daemon, "POST", f"/runs/{waiting}/cancel").body["status"] == "cancelled"
    assert call(daemon, "POST", f"/runs/{running}/cancel").status == 200
    assert daemon.wait_for_run("cancelled", number=running)["error"] == "cancelled by root"
    assert call(daemon, "POST", f"/runs/{running}/cancel").status == 409


def test_retry_makes_the_next_attempt_unless_one_is_active(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    first = trigger(daemon, "b")
    daemon.wait_for_run("failed", number=first)
    second = call(daemon, "POST", f"/runs/{first}/retry")
    assert (second.status, second.body["attempt"], second.body["trigger"]) == (201, 2, "retry")
    assert second.body["name"] == f"{daemon.query('SELECT name FROM runs WHERE id = ?', first)[0]['name']}:2"
    daemon.wait_for_run("failed", number=second.body["id"])
    third = call(daemon, "POST", f"/runs/{first}/retry").body
    assert (third["attempt"], third["previous_run_id"]) == (3, second.body["id"])
    ended = daemon.wait_for_run("failed", number=first)
    assert (ended["status"], ended["next_run_id"]) == ("failed", second.body["id"])
    running = trigger(daemon)
    daemon.wait_for_run("running", number=running)
    assert call(daemon, "POST", f"/runs/{running}/retry").status == 409


def test_output_is_followed_to_the_end_of_the_run(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    run = trigger(daemon)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", run)
    wait_until(lambda: daemon.output(run) == "begun\n", what="the agent's first line")
    followed: list[bytes] = []
    reader = threading.Thread(target=lambda: followed.append(call(daemon, "GET", f"/runs/{run}/output?follow=1").data))
    reader.start()
    assert call(daemon, "POST", f"/runs/{run}/cancel").status == 200
    reader.join(20)
    assert followed == [b"begun\n"]


@pytest.mark.parametrize("instead", ["mkfifo output.log", "mkdir output.log", "ln -s /etc/passwd output.log"])
def test_output_that_an_agent_replaced_is_refused_and_blocks_nothing(start_daemon: StartDaemon, instead: str) -> None:
    daemon = start_daemon(SLOW.replace("echo output; exit 3", f"cd ..; rm output.log; {instead}"))
    run = trigger(daemon, "b")
    daemon.wait_for_run("completed", number=run)
    for _ in range(10):
        assert call(daemon, "GET", f"/runs/{run}/output").status == 409
    assert call(daemon, "GET", "/status").status == 200
    assert daemon.stop() == 0


def test_followers_neither_outlive_their_client_nor_hold_up_a_stop(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW.replace("[control]", 'stop_timeout = "1s"\n[control]'))
    run = trigger(daemon)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", run)
    connections = []
    for _ in range(5):
        connection = UnixConnection(daemon.folder / "c.sock")
        connection.request("GET", f"/runs/{run}/output?follow=true")
        assert connection.getresponse().read1() == b"begun\n"
        connections.append(connection)
    connections.pop().close()
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 5
    assert "Unexpected error" not in daemon.log_text()
    assert "Traceback" not in daemon.log_text()


def test_output_is_broken_off_once_the_principal_may_no_longer_read_it(
    start_daemon: StartDaemon, port: int, tmp_path: Path
) -> None:
    names = ("revoked", "removed", "replaced", "kept")
    script = f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo more; sleep 300"

    def text(readers: Iterable[str], tokens: Iterable[str]) -> str:
        files = ", ".join(f'{{ name = "{name}", file = "{name}.token" }}' for name in tokens)
        listen = f'[control]\nlisten = "127.0.0.1:{port}"\ntokens = [{files}]\n'
        read = ", ".join(f'"token:{name}"' for name in readers)
        return (
            SLOW.replace("[control]\n", listen)
            .replace("echo begun; sleep 300", script)
            .replace("kill_grace", f"read = [{read}]\nkill_grace")
        )

    def follow(run: int, name: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        authorization = {"Authorization": f"Bearer {name}-{'x' * 20}"}
        connection.request("GET", f"/runs/{run}/output?follow=true", headers=authorization)
        response = connection.getresponse()
        assert response.read1() == b"begun\n", name
        return response

    for name in names:
        (tmp_path / f"{name}.token").write_text(f"{name}-{'x' * 20}\n")
    daemon = start_daemon(text(names, names))
    run = trigger(daemon)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", run)
    wait_until(lambda: daemon.output(run) == "begun\n", what="the agent's first line")
    followers = {name: follow(run, name) for name in names}
    (tmp_path / "replaced.token").write_text(f"another-{'x' * 20}\n")
    daemon.config.write_text(text(["removed", "replaced", "kept"], ["revoked", "replaced", "kept"]))
    assert call(daemon, "POST", "/reload").status == 200
    for name in ("revoked", "removed", "replaced"):
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            followers[name].read()
    (tmp_path / "go").touch()
    assert followers["kept"].read1() == b"more\n"
    wait_until(lambda: daemon.log_text().count("Output broken off") == 3, what="three log lines")


def has_output_open(daemon: DaemonProcess) -> bool:
    """Tell whether the daemon has the output of a run open."""
    links = (str(link.resolve()) for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir())
    return any(link.endswith("output.log") for link in links)


def test_a_follower_of_a_silent_run_keeps_no_file_open(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    run = trigger(daemon)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", run)
    connection = UnixConnection(daemon.folder / "c.sock")
    connection.request("GET", f"/runs/{run}/output?follow=true")
    assert connection.getresponse().read1() == b"begun\n"

    wait_until(lambda: not has_output_open(daemon), what="the file to be closed")
    connection.close()


def test_clients_that_do_not_read_keep_no_output_open(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW.replace("echo output; exit 3", "head -c 30000000 /dev/zero"))
    run = trigger(daemon, "b")
    daemon.wait_for_run("completed", number=run)
    clients = [UnixConnection(daemon.folder / "c.sock") for _ in range(5)]
    for client in clients:
        client.request("GET", f"/runs/{run}/output")
        assert client.getresponse().status == 200

    wait_until(lambda: not has_output_open(daemon), what="output that nobody reads to be closed")
    for client in clients:
        client.close()


def test_a_waiting_command_reports_that_the_daemon_has_ended(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "schedules", "trigger", "a/s", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
        daemon.stop()
        _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 3
    assert "run 1 continues, follow it with `agentcron runs logs 1 -f`" in said
    assert "Traceback" not in said


def test_a_reload_answers_with_what_it_changed_or_what_is_wrong(daemon: DaemonProcess) -> None:
    text = daemon.config.read_text()
    daemon.config.write_text(text + '[agents.a.schedules.more]\nevery = "2h"\n')
    answer = call(daemon, "POST", "/reload")
    assert answer.body["changes"] == [{"schedule": "a/more", "action": "created", "changes": {}}]
    more = '[agents.a.schedules.more]\nevery = "2h"\n'
    daemon.config.write_text(text.replace('"c.sock"', '"d.sock"') + more)
    assert call(daemon, "POST", "/reload").body["warnings"] == ["control.socket: takes effect at the next start"]
    daemon.config.write_text(text + "bogus = 1\n")
    refused = call(daemon, "POST", "/reload")
    assert (refused.status, refused.code) == (400, "config")
    assert "bogus = 1: unknown key" in refused.body["data"]["problems"][0]
    assert call(daemon, "GET", f"{SCHEDULES}/more").status == 200
    said = daemon.cli("reload")
    assert said.returncode == 2
    assert "unknown key" in said.stderr


def test_status_health_and_figures(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(SLOW)
    failed = trigger(daemon, "b")
    daemon.wait_for_run("failed", number=failed)
    running = trigger(daemon)
    daemon.wait_for_run("running", number=running)
    assert call(daemon, "POST", "/agents/a/schedules/s/pause").status == 200
    assert call(daemon, "POST", "/agents/a/schedules/none/pause").status == 404
    status = call(daemon, "GET", "/status").body
    assert status["daemon"]["pid"] == daemon.process.pid
    assert [run["id"] for run in status["running"]] == [running]
    assert [run["id"] for run in status["last_failures"]] == [failed]
    assert {entry["schedule"]: entry["hours"][-1] for entry in status["timeline"]} == {
        "a/s": "running",
        "b/s": "failed",
    }
    assert call(daemon, "GET", "/healthz").body == {"status": "ok"}
    figures = call(daemon, "GET", "/metrics")
    assert figures.headers["Content-Type"].startswith("text/plain; version=")
    text = figures.data.decode()
    for line in (
        'agentcron_schedule_changes_total{action="pause",result="ok"} 1.0',
        'agentcron_schedule_changes_total{action="pause",result="404"} 1.0',
        'agentcron_run_changes_total{status="failed"} 1.0',
        'agentcron_run_changes_total{status="pending"} 2.0',
        'agentcron_runs{status="running"} 1.0',
        "agentcron_queue_length 0.0",
        "agentcron_run_duration_seconds_count 1.0",
    ):
        assert line in text
    assert "agentcron_event_loop_lag_seconds" in text
    assert "agentcron_lateness_seconds_bucket" in text


def test_a_file_that_an_agent_made_endless_is_no_output(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo hello", max_output="1KiB"))
    run = daemon.wait_for_run("completed")["id"]
    os.truncate(daemon.state / f"runs/{run}/output.log", 200 * 10**9)  # sparse: it takes no room
    with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
        assert call(daemon, "GET", f"/runs/{run}/output").data == b"hello\n"
    daemon.stop()
    shown = daemon.cli("runs", "logs", str(run))
    assert (shown.returncode, shown.stdout) == (1, "hello\n")
    assert "output.log has more than the 6 bytes that agentcron writes" in shown.stderr
    change_database(daemon, "UPDATE runs SET output_bytes = NULL")  # as while it runs
    shown = daemon.cli("runs", "logs", str(run))
    assert shown.stdout.startswith("hello\n\0")
    assert "output.log has more than the 1152 bytes that agentcron writes" in shown.stderr
