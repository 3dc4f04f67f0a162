"""A config file with mistakes prevents no command for a daemon that runs with the previous file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.daemon_process import DaemonProcess, daemons_in

pytestmark = pytest.mark.xdist_group("broken config")
GOOD = """
[daemon]
state_dir = "state"
[agents.a]
command = ["sleep", "1000"]
[agents.a.schedules.s]
every = "36500d"
"""
MISTAKES = {
    "unknown key": GOOD + "bogus = 1\n",
    "wrong type": GOOD.replace("[agents.a]", '[agents.a]\ntimeout = "soon"'),
    "unclosed array": GOOD.replace('"1000"]', '"1000"'),
    "unclosed string": GOOD.replace('"1000"]', '"1000]'),
    "no value": GOOD + "description =\n",
    "other table": "retention = 5\n" + GOOD,
    "table twice": GOOD + '[daemon]\nstate_dir = "state"\n',
    "zone": GOOD.replace("[agents.a]", 'timezone = "Asia/Tokio"\n[agents.a]'),
    "huge key": GOOD + ".".join("k" * 20_000) + " = 1\n",
}
UNCERTAIN = {
    "key misspelt": GOOD.replace("state_dir", "stat_dir"),
    "table misspelt": GOOD.replace("[daemon]", "[deamon]"),
    "key without its table": GOOD.replace("[daemon]\n", ""),
    "key in another table": GOOD.replace("[daemon]", "[control]"),
    "place of a wrong type": GOOD.replace('"state"', "5"),
    "mistake in the first line": "x =\n" + GOOD,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemons_in(tmp_path_factory.mktemp("broken")) as start:
        yield start(GOOD)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_daemon_is_found_all_the_same(daemon: DaemonProcess, mistake: str) -> None:
    daemon.config.write_text(GOOD)
    assert daemon.cli("schedules", "trigger", "a/s").returncode == 0
    run = daemon.query("SELECT max(id) AS id FROM runs")[0]["id"]
    daemon.config.write_text(MISTAKES[mistake])
    told = daemon.cli("runs", "cancel", str(run))
    assert told.returncode == 0, told.stderr
    assert "has errors, and the daemon still uses the version before them; see `agentcron check`" in told.stderr
    daemon.wait_for_run("cancelled", number=run)
    assert len(json.loads(daemon.cli("schedules", "next", "a/s", "--json").stdout)["next_action_times"]) == 5


@pytest.mark.parametrize("mistake", UNCERTAIN)
def test_no_other_daemon_is_taken_for_it(daemon: DaemonProcess, tmp_path: Path, mistake: str) -> None:
    """The places that such a file leads to are those of a daemon that runs by another file."""
    with daemons_in(tmp_path) as start:
        home = tmp_path / "home"
        other = start(GOOD.replace('state_dir = "state"\n', ""), state=home / "agentcron", XDG_STATE_HOME=str(home))
        assert other.cli("schedules", "trigger", "a/s").returncode == 0
        daemon.config.write_text(UNCERTAIN[mistake])
        for words in (["runs", "cancel", "--all"], ["status"], ["reload"]):
            told = forked.run(["--config", str(daemon.config), *words], other.environment, tmp_path)
            assert told.returncode == 2, told.stdout
            assert str(daemon.config) in told.stderr
        [run] = other.query("SELECT status FROM runs")
        assert run["status"] != "cancelled"
        assert other.query("SELECT 1 FROM cancellation_flags") == []


def test_its_state_is_found_where_it_says_it_is(tmp_path: Path) -> None:
    """The default place may hold the state of another daemon, which is not running."""
    home = tmp_path / "home"
    with daemons_in(tmp_path) as start:
        other = start(GOOD.replace('state_dir = "state"\n', ""), state=home / "agentcron", XDG_STATE_HOME=str(home))
        other.cli("schedules", "trigger", "a/s")
        other.wait_for_row("SELECT 1 FROM runs")
        other.stop()
        text = GOOD.replace("schedules.s", "schedules.ours") + '[control]\nsocket = "c.sock"\n'
        ours = start(text, XDG_STATE_HOME=str(home))
        ours.config.write_text(text.replace("state_dir", "stat_dir"))
        listed = json.loads(ours.cli("schedules", "list", "--json").stdout)
        assert [schedule["name"] for schedule in listed["run_schedules"]] == ["ours"]
        assert json.loads(ours.cli("backup", "--json", str(tmp_path / "backup.db")).stdout)["runs"] == 0
        assert ours.cli("runs", "logs", "1").returncode == 1


def test_a_socket_of_another_daemon_is_not_trusted(daemon: DaemonProcess, tmp_path: Path) -> None:
    daemon.config.write_text(GOOD)
    with daemons_in(tmp_path) as start:
        other = start(GOOD)
        lock = other.state / "daemon.lock"
        told = lock.read_bytes().split(b"\n")
        assert told[1] == os.fsencode(other.state / "control.sock")
        lock.write_bytes(b"\n".join([told[0], os.fsencode(daemon.state / "control.sock"), b""]))
        assert f"pid {other.process.pid}" in other.cli("status").stdout
        before = len(daemon.query("SELECT id FROM runs"))
        assert other.cli("schedules", "trigger", "a/s").returncode == 0
        assert len(other.query("SELECT id FROM runs")) == 1
        assert len(daemon.query("SELECT id FROM runs")) == before


def test_a_mistake_in_an_override_is_one_of_the_command(daemon: DaemonProcess) -> None:
    daemon.config.write_text(GOOD.replace("36500d", "36499d"))
    environment = {**daemon.environment, "AGENTCRON_DAEMON__STATE_DRI": "/elsewhere"}
    told = forked.run(["--config", str(daemon.config), "reload"], environment, daemon.folder)
    assert told.returncode == 2
    assert "AGENTCRON_DAEMON__STATE_DRI: unknown override" in told.stderr
    environment = {**daemon.environment, "AGENTCRON_RETENTION__DAYS": "-3"}
    told = forked.run(["--config", str(daemon.config), "runs", "list"], environment, daemon.folder)
    assert told.returncode == 2
    assert "has errors" not in told.stderr
    assert not any("Reloaded" in event["event"] for event in daemon.log())


def test_schedules_and_workspaces_are_shown_too(daemon: DaemonProcess) -> None:
    daemon.config.write_text(MISTAKES["unknown key"])
    for words in (["schedules", "list"], ["schedules", "show", "a/s"], ["schedules", "history", "a/s"]):
        told = daemon.cli(*words, "--json")
        assert told.returncode == 0, told.stderr
    assert json.loads(daemon.cli("schedules", "list", "--json").stdout)["total"] == 1
    assert daemon.cli("workspaces", "list").returncode == 0


def test_without_a_daemon_the_mistakes_are_reported(tmp_path: Path) -> None:
    with daemons_in(tmp_path) as start:
        ended = start(GOOD)
        ended.stop()
        ended.config.write_text(MISTAKES["unknown key"])
        told = ended.cli("status")
    assert told.returncode == 2
    assert "bogus = 1: unknown key" in told.stderr
