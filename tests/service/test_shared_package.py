"""The import package `daemon` shared with python-daemon, whose `__init__.py` replaces ours and is deleted with it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "daemon"
VERSION = "7.8.9"  # of the copy, so that no other installation can answer for it


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder of packages that holds a copy of ours."""
    copy = tmp_path / "site-packages" / "daemon"
    shutil.copytree(PACKAGE, copy)
    shutil.copy(PACKAGE.parent / "config.example.toml", copy)
    (copy / "version.py").write_text(f'"""The version."""\n\nVERSION = "{VERSION}"\n')
    return copy.parent


def agentcron(installed: Path, *arguments: str) -> str:
    """Return what a command prints; it sees the copy and what else is installed, but no path of an editable install."""
    program = "from daemon.__main__ import main; main()"
    others = sysconfig.get_path("purelib")
    result = subprocess.run(
        [sys.executable, "-S", "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), others))},
        cwd=installed.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def put_python_daemon_over(package: Path) -> None:
    (package / "__init__.py").write_text(
        '"""Another library."""\n\nfrom .daemon import Context\n\n__all__ = ["Context"]\n'
    )
    (package / "daemon.py").write_text('"""A module of it."""\n\n\nclass Context:\n    """What it offers."""\n')


def remove_python_daemon(package: Path) -> None:
    (package / "__init__.py").unlink()
    (package / "daemon.py").unlink()


def test_the_command_works_with_python_daemon_installed_over_it_and_removed_again(installed: Path) -> None:
    package = installed / "daemon"
    for change in (put_python_daemon_over, remove_python_daemon):
        change(package)
        folder = installed.parent / change.__name__
        assert agentcron(installed, "--version") == f"agentcron {VERSION}\n"
        assert "Wrote" in agentcron(installed, "init", str(folder))
        assert "is valid" in agentcron(installed, "--config", str(folder / "config.toml"), "check")
