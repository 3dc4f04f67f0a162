"""The last config that worked is kept, and a start that a broken config prevents says how to start by it."""

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.recovery.last_config import find_last_config, keep_config
from tests.support.daemon_process import StartDaemon
from tests.support.ledger import START
from tests.support.waiting import wait_until

GOOD = """\
[daemon]
state_dir = "state"
[agents.a]
command = ["true"]
env = { PLAIN = { file = "beside" } }
[agents.a.schedules.s]
every = "36500d"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config, with a directory for its state beside it."""
    (tmp_path / "state").mkdir()
    found = tmp_path / "it's a config.toml"
    found.write_text(GOOD)
    return found


def kept(file: Path) -> Path:
    return file.parent / "state" / "last-config.toml"


def keep(file: Path, days: int = 0) -> None:
    keep_config(load_config(file, {}), file.parent / "state", START + timedelta(days=days))


def test_a_copy_is_private_and_is_written_when_the_config_changes(file: Path) -> None:
    keep(file)
    assert kept(file).stat().st_mode & 0o777 == 0o600
    assert kept(file).read_text() == (f"# agentcron: a copy of {file}, in force since 2026-11-21T12:00:00.500Z\n{GOOD}")
    before = kept(file).stat()
    keep(file, days=1)
    assert kept(file).stat() == before
    file.write_text(GOOD.replace("true", "false"))
    keep(file, days=2)
    assert "since 2026-11-23T" in kept(file).read_text()
    assert "false" in kept(file).read_text()
    assert sorted(entry.name for entry in kept(file).parent.iterdir()) == ["last-config.toml"]


def test_what_is_in_the_place_of_a_copy_is_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    kept(file).symlink_to(tmp_path / "other")
    assert find_last_config(file, file.parent / "state") is None
    keep(file)
    assert (tmp_path / "other").read_text() == "mine"
    assert not kept(file).is_symlink()


def test_a_file_that_has_changed_since_it_was_read_is_not_kept(file: Path) -> None:
    config = load_config(file, {})
    file.write_text(GOOD + "bogus = 1\n")
    keep_config(config, file.parent / "state", START)
    assert not kept(file).exists()


def test_a_copy_is_named_only_if_it_helps(file: Path, tmp_path: Path) -> None:
    state = file.parent / "state"
    keep(file)
    found = find_last_config(file, state)
    assert found is not None
    assert found.is_current
    file.write_text("bogus = 1\n")
    found = find_last_config(file, state)
    assert found is not None
    assert "in force since 2026-11-21T12:00:00.500Z" in found.how_to_start(file)
    (tmp_path / "other.toml").write_text("bogus = 1\n")
    assert find_last_config(tmp_path / "other.toml", state) is None
    good = kept(file).read_text()
    for bad in (good.replace("every", "evry"), good.replace("2026", "never"), "", "\0", good.replace(GOOD, "x")):
        kept(file).write_text(bad)
        assert find_last_config(file, state) is None, bad


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a file away from itself")
def test_root_is_told_to_read_the_copy_as_the_daemons_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(file)
    file.write_text("bogus = 1\n")
    found = find_last_config(file, file.parent / "state")
    assert found is not None
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    quoted = str(file).replace("'", "'\"'\"'")
    assert found.how_to_start(file).endswith(
        f"as root, run: cp -p '{quoted}' '{quoted}'.broken && runuser -u nobody -- cat {kept(file)} >'{quoted}'"
    )


def test_a_start_that_a_broken_config_prevents_says_how_to_start(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "beside").write_text("x")
    daemon = start_daemon(GOOD)
    copy = daemon.state / "last-config.toml"
    wait_until(copy.exists, what="the copy")
    daemon.config.write_text(GOOD.replace('"true"', '"echo", "reloaded"'))
    assert daemon.cli("reload").returncode == 0
    assert "reloaded" in copy.read_text()
    daemon.config.write_text(daemon.config.read_text() + '[control]\nsocket = "other.sock"\n')
    assert daemon.cli("reload").returncode == 0
    assert "other.sock" not in copy.read_text()  # nobody knows yet whether a daemon starts by it
    daemon.stop()
    daemon.config.write_text("[daemon]\nstate_dir = 'state'\n[agents.a\n")
    told = daemon.cli("run")
    assert told.returncode == 2
    error, how = told.stderr.splitlines()
    assert error.startswith(f"{daemon.config}:3")
    assert how.startswith("the last config that worked, in force since 20")
    found = daemon.cli("doctor")
    assert how.partition(";")[0] in " ".join(found.stdout.split())
    _, _, command = how.partition("run: ")
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - what people are told to type
    assert "[agents.a\n" in daemon.config.with_name("config.toml.broken").read_text()
    again = start_daemon(daemon.config.read_text())
    assert again.cli("schedules", "trigger", "a/s", "--wait").returncode == 0
    assert again.query("SELECT status FROM runs")[-1]["status"] == "completed"
    assert copy.read_text().count("# agentcron: a copy of") == 1
