"""The versions of Python that the package says it runs under, as far as this host has them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_example_runs_an_agent(tmp_path: Path, version: str) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", "import ensurepip"], check=False).returncode != 0:
        pytest.skip(f"no Python {version} with venv here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([tmp_path / "venv/bin/pip", "install", "-q", ROOT], check=True)
    command = [str(tmp_path / "venv/bin/agentcron"), "--config", str(tmp_path / "config.toml")]
    subprocess.run([command[0], "init", tmp_path], check=True)
    home = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen([*command, "run"], stdout=log, stderr=log, env=home)
    try:
        wait_until(lambda: daemon.poll() is not None or "[daemon] Ready" in (tmp_path / "log").read_text())

        def statuses() -> set[str]:
            listed = subprocess.run([*command, "runs", "list", "--json"], check=True, capture_output=True, env=home)
            return {run["status"] for run in json.loads(listed.stdout)["runs"]}

        wait_until(lambda: "completed" in statuses(), what=(tmp_path / "log").read_text())
        daemon.terminate()
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()
