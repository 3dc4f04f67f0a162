"""Probes: a login failure closes a pool until its probe passes, also across a restart."""

from pathlib import Path

from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import StartDaemon
from tests.support.runs import ended, triggered
from tests.support.waiting import wait_until

SCRIPT = """test -e {folder}/signed-in || printf '{{"kind": "auth", "message": "run /login"}}' > $AGENTCRON_RESULT"""


def config(folder: Path, every: str) -> str:
    agent = {
        "command": ["sh", "-c", SCRIPT.format(folder=folder)],
        "attempts": 3,
        "pools": ["max"],
        "schedules": {"s": {"every": SELDOM}},
    }
    probe = ["sh", "-c", f"echo >> {folder}/probes; test -e {folder}/signed-in"]
    notify = {"ops": {"on": ["pool_closed", "pool_opened"], "command": ["sh", "-c", f"cat >> {folder}/told"]}}
    return config_text(agents={"a": agent}, pools={"max": {"probe": probe, "probe_every": every}}, notify=notify)


def test_a_pool_opens_once_its_probe_passes(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(config(tmp_path, "1s"))
    assert ended(daemon, triggered(daemon, "a/s"))["status"] == "failed"  # and not attempted again
    assert not (tmp_path / "probes").exists()  # it has just failed
    waiting = triggered(daemon, "a/s")
    assert "pool max is closed until its probe passes: run /login" in daemon.cli("runs", "list").stdout
    daemon.wait_for_log("[pool] Probe failed; the pool stays closed", pool="max")
    (tmp_path / "signed-in").touch()
    assert ended(daemon, waiting)["status"] == "completed"
    wait_until(lambda: "pool_opened" in (tmp_path / "told").read_text(), what="the second notification")
    assert (tmp_path / "told").read_text().count('"event"') == 2
    probes = (tmp_path / "probes").read_text()
    ended(daemon, triggered(daemon, "a/s"))
    assert (tmp_path / "probes").read_text() == probes  # an open pool is not probed


def test_a_daemon_that_finds_a_pool_closed_probes_it_at_once(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(config(tmp_path, "1d"))
    ended(daemon, triggered(daemon, "a/s"))
    waiting = triggered(daemon, "a/s")
    daemon.kill()
    (tmp_path / "signed-in").touch()
    assert ended(start_daemon(config(tmp_path, "1d")), waiting)["status"] == "completed"


def test_a_pool_that_has_no_probe_any_more_is_opened(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = config(tmp_path, "1d")
    daemon = start_daemon(text)
    ended(daemon, triggered(daemon, "a/s"))
    lines = [line for line in text.splitlines() if not line.startswith("probe")]
    daemon.config.write_text("\n".join(lines))
    assert daemon.cli("reload").returncode == 0
    daemon.wait_for_log("[pool] Pool opened", reason="it has no probe any more")
    assert ended(daemon, triggered(daemon, "a/s"))["status"] == "failed"
    assert daemon.query("SELECT * FROM pool_closures") == []
