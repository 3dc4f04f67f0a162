"""Notifications as their targets get them: a webhook that fails, hangs and recovers, a command, a dead-man's switch."""

import json
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.agents.process.supervisor import tree
from daemon.notify.outbox import host_name
from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.peers.processes import Peer, peer
from tests.support.waiting import wait_until

QUICK = """
import datetime
import daemon.notify.post as post
import daemon.notify.sender as sender
sender.next_try = lambda tries: datetime.timedelta(seconds=0.2)
post._TO_HEADERS = 1.5
"""
HEAD = "[daemon]\nstate_dir = 'state'\n"


def shell(script: str, name: str = "a") -> str:
    return f"[agents.{name}]\ncommand = ['sh', '-c', '''{script}''']\n[agents.{name}.schedules.s]\nevery = '1s'\n"


def target(*settings: str, name: str = "ops") -> str:
    return "\n".join([f"[notify.{name}]", *settings]) + "\n"


def set_mode(hook: Peer, mode: str) -> None:
    hook.log.with_name(hook.log.name + ".mode").write_text(mode)


def taken(hook: Peer) -> list[dict[str, Any]]:
    """Return the events that the webhook took."""
    return [json.loads(one["body"]) for one in hook.requests() if one["method"] == "POST" and one["status"] == 200]


def problems_of(daemon: DaemonProcess) -> list[dict[str, Any]]:
    problems: list[dict[str, Any]] = json.loads(daemon.cli("status", "--json").stdout)["problems"]
    return problems


def attempts(hook: Peer, status: int) -> list[dict[str, Any]]:
    return [one for one in hook.requests() if one["status"] == status]


def test_a_webhook_that_fails_hangs_and_recovers_gets_everything_once_and_in_order(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + shell("true") + target("on = ['completed']", f"url = '{hook.url}/x'")
        daemon = start_daemon(text, slowed=QUICK)
        wait_until(lambda: taken(hook), what="the first event")
        for mode, status in (("fail", 500), ("hang", 0), ("fail", 500)):
            before = len(attempts(hook, status))
            set_mode(hook, mode)
            wait_until(lambda status=status, before=before: len(attempts(hook, status)) > before + 3, what=mode)  # type: ignore[misc]
        set_mode(hook, "well")
        assert daemon.cli("schedules", "pause", "a/s").returncode == 0
        left = "SELECT 1 FROM runs WHERE completed_at IS NULL UNION SELECT 2 FROM notifications"
        wait_until(lambda: not daemon.query(left), what="all are sent")
        daemon.stop()
        told = [event["run_id"] for event in taken(hook)]
        runs = daemon.query("SELECT id FROM runs WHERE status = 'completed' ORDER BY id")
        assert told == [run["id"] for run in runs]
        assert len({event["id"] for event in taken(hook)}) == len(told)
        fires = daemon.query("SELECT scheduled_for, decided_at FROM fires")
        late = [datetime.fromisoformat(f["decided_at"]) - datetime.fromisoformat(f["scheduled_for"]) for f in fires]
        assert max(late) < timedelta(seconds=5)


def test_unsent_notifications_survive_the_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + shell("exit 1").replace("1s", "36500d") + target(f"url = '{hook.url}/x'")
        hook.end()
        first = start_daemon(text, slowed=QUICK)
        first.cli("schedules", "trigger", "a/s")
        first.wait_for_log("[daemon] Notification not sent")
        first.kill()
        with peer(tmp_path, "webhook", port=hook.port) as again:
            start_daemon(text, slowed=QUICK).wait_for_log("[daemon] Notification sent")
            [event] = taken(again)
            assert event["event"] == "failed"
            assert event["text"] == f"{host_name()}: a/s failed (run 1): exit status 1"


def test_a_failing_schedule_is_reported_once_and_its_recovery_once(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + shell(f"test -e {tmp_path}/well") + target(f"url = '{hook.url}/x'")
        daemon = start_daemon(text)
        daemon.wait_for_row("SELECT 1 FROM runs WHERE id = 4 AND status = 'failed'")
        (tmp_path / "well").touch()
        daemon.wait_for_row("SELECT 1 FROM runs WHERE id >= 7 AND status = 'completed'")
        events = wait_until(lambda: taken(hook) if len(taken(hook)) > 1 else None, what="the recovery")
        assert [event["event"] for event in events] == ["failed", "recovered"]
        assert events[0]["run_id"] == 1
        assert events[1]["bad_runs"] >= 4
        assert events[1]["text"].startswith(f"{host_name()}: a/s recovered after ")


def test_targets_get_notifications_of_their_agents_and_kinds_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + shell("exit 1") + shell("exit 2", "b")
        text += target("agents = ['b']", f"url = '{hook.url}/b'")
        text += target("on = ['completed']", f"url = '{hook.url}/none'", name="other")
        daemon = start_daemon(text)
        daemon.wait_for_log("[daemon] Notification sent")
        daemon.wait_for_row("SELECT 1 FROM runs WHERE agent = 'a' AND status = 'failed'")
        assert {one["path"] for one in hook.requests()} == {"/b"}
        assert [event["agent"] for event in taken(hook)] == ["b"]


def test_a_command_gets_the_event_on_its_standard_input(start_daemon: StartDaemon, tmp_path: Path) -> None:
    script = tmp_path / "page"
    once = f"[ -e {tmp_path}/tried ] || {{ touch {tmp_path}/tried; echo no pager >&2; exit 3; }}"
    script.write_text(f"#!/bin/sh\n{once}\nenv > {tmp_path}/env; cat > {tmp_path}/event\n")
    script.chmod(0o755)
    daemon = start_daemon(HEAD + shell("exit 1") + target("command = ['./page']"), slowed=QUICK, PRIVATE="x")
    assert "ended with status 3: no pager" in daemon.wait_for_log("[daemon] Notification not sent")["reason"]
    daemon.wait_for_log("[daemon] Notification sent")
    assert json.loads((tmp_path / "event").read_text())["status"] == "failed"
    assert "PRIVATE" not in (tmp_path / "env").read_text()


def test_a_command_that_hangs_delays_no_run(start_daemon: StartDaemon) -> None:
    commands = "".join(target("command = ['sleep', '300']", name=f"n{n}") for n in range(20))
    daemon = start_daemon(HEAD + shell("exit 1") + shell("true", "b") + commands)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE agent = 'b' AND id >= 8 AND status = 'completed'")
    assert daemon.stop() == 0


def test_what_a_command_leaves_is_ended(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Also what left its session and its parent, as daemons do."""
    script = tmp_path / "page"
    left = f"echo \\$\\$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 300"
    brief = f"sleep 0.2; touch {tmp_path}/brief"
    wait = f"while [ ! -e {tmp_path}/pid ]; do sleep 0.02; done"
    script.write_text(f'#!/bin/sh\n(setsid sh -c "{left}" &)\n(setsid sh -c "{brief}" &)\n{wait}\n')
    script.chmod(0o755)
    daemon = start_daemon(
        HEAD + shell("exit 1") + target("command = ['./page']"), slowed=QUICK + "post._LEFT_TIME = 1.0"
    )
    daemon.wait_for_log("[daemon] Notification sent")
    assert (tmp_path / "brief").exists()
    assert tree.start_of(int((tmp_path / "pid").read_text())) is None


def test_nothing_of_a_command_that_hangs_outlives_its_time(start_daemon: StartDaemon, tmp_path: Path) -> None:
    script = tmp_path / "page"
    left = f"echo \\$\\$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 300"
    script.write_text(f'#!/bin/sh\n(setsid sh -c "{left}" &)\nsleep 300\n')
    script.chmod(0o755)
    slowed = QUICK + "post._COMMAND_TIME = 2.0"
    daemon = start_daemon(HEAD + shell("exit 1") + target("command = ['./page']"), slowed=slowed)
    daemon.wait_for_log("[daemon] Notification not sent")
    assert tree.start_of(int((tmp_path / "pid").read_text())) is None


def test_a_refused_event_makes_way_for_the_next(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        set_mode(hook, "refuse")
        text = HEAD + shell("true") + target("on = ['completed']", f"url = '{hook.url}/x'")
        daemon = start_daemon(text, slowed=QUICK)
        daemon.wait_for_log("[daemon] Notification dropped after its last attempt")
        set_mode(hook, "well")
        assert wait_until(lambda: taken(hook), what="the next event")[0]["run_id"] == 2
        [shown] = call(daemon, "GET", "/runs/1").body["notifications"]
        assert (shown["target"], shown["event"], shown["state"]) == ("ops", "completed", "refused")
        assert shown["reason"].startswith("HTTP 400 Bad Request")
        assert len([one for one in attempts(hook, 400) if json.loads(one["body"])["run_id"] == 1]) == 5


def test_a_dead_mans_switch_gets_pings_of_success_and_of_failure(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + shell(f"test -e {tmp_path}/well") + target(f"ping = '{hook.url}/uuid?x=1'")
        (tmp_path / "well").touch()
        daemon = start_daemon(text)
        wait_until(hook.requests, what="the first ping")
        (tmp_path / "well").unlink()
        wait_until(lambda: len(hook.requests()) > 1, what="the bad news")
        (tmp_path / "well").touch()
        wait_until(lambda: len(hook.requests()) > 2, what="the good news")
        daemon.stop()
        assert [(one["method"], one["path"]) for one in hook.requests()] == [
            ("GET", "/uuid"),
            ("GET", "/uuid/fail"),
            ("GET", "/uuid"),
        ]


def test_a_dead_mans_switch_covers_its_agents_and_schedules_paused_by_a_failure(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + shell("exit 1") + "pause_on_failure = true\n" + shell("true", "b")
        text += target(f"ping = '{hook.url}/a'") + target(f"ping = '{hook.url}/b'", "agents = ['b']", name="b")
        daemon = start_daemon(text)
        daemon.wait_for_row("SELECT 1 FROM schedules WHERE agent = 'a' AND paused = 1")
        wait_until(lambda: "/a/fail" in {one["path"] for one in hook.requests()}, what="the bad news")
        daemon.wait_for_row("SELECT 1 FROM runs WHERE agent = 'b' AND id > 3 AND completed_at IS NOT NULL")
        assert "/b/fail" not in {one["path"] for one in hook.requests()}


def test_an_answer_that_makes_no_sense_stops_nothing(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        set_mode(hook, "fail")  # with a Retry-After that is no time
        text = HEAD + shell("exit 1") + target(f"ping = '{hook.url}/p'", f"url = '{hook.url}/x'")
        daemon = start_daemon(text, slowed=QUICK + "import daemon.notify.dead_man_switch as d; d._PING_EVERY = 0.5\n")
        daemon.wait_for_log("[daemon] Dead-man's switch not reached")
        daemon.wait_for_log("[daemon] Notification not sent")
        failing = {(one["part"], one["subject"]): one["reason"] for one in problems_of(daemon)}
        assert set(failing) == {("dead-man's switches", "ops"), ("notifier", "ops")}
        assert not any("/p" in reason or "/x" in reason or str(hook.port) in reason for reason in failing.values())
        set_mode(hook, "well")
        wait_until(lambda: taken(hook), what="the event")
        wait_until(lambda: not problems_of(daemon), what="nothing fails any more")
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log_text()


def test_the_result_of_retention_is_reported(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "webhook") as hook:
        text = HEAD + "[retention]\ndays = 1\n" + shell("true").replace("1s", "36500d")
        daemon = start_daemon(text + target("on = ['retention']", f"url = '{hook.url}/x'"))
        daemon.cli("schedules", "trigger", "a/s")
        daemon.wait_for_run("completed")
        with sqlite3.connect(daemon.state / "state.db") as connection:
            connection.execute("UPDATE runs SET updated_at = '2020-01-01T00:00:00.000Z'")
        daemon.cli("retention", "run")
        [event] = wait_until(lambda: taken(hook), what="the event")
        assert (event["event"], event["text"]) == ("retention", f"{host_name()}: retention deleted 1 run")
