"""`/openapi.json` is complete and true: schemathesis sends every request that it allows, and some that it forbids."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api import TOKEN, call, create, start_on_tcp
from tests.support.daemon_process import DaemonProcess, StartDaemon

SETTINGS = """\
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "412"]
"""
CONTRACT_ROUTES = """
POST /agents/{agent}/schedules
GET /agents/{agent}/schedules
GET /agents/{agent}/schedules/{name}
PATCH /agents/{agent}/schedules/{name}
POST /agents/{agent}/schedules/{name}/pause
POST /agents/{agent}/schedules/{name}/resume
POST /agents/{agent}/schedules/{name}/trigger
POST /agents/{agent}/schedules/{name}/skip
POST /agents/{agent}/schedules/{name}/unskip
POST /agents/{agent}/schedules/{name}/backfill
DELETE /agents/{agent}/schedules/{name}
GET /agents/{agent}/schedules/{name}/fires
GET /agents/{agent}/schedules/{name}/revisions
GET /schedules/{schedule_id}
GET /schedules/{schedule_id}/fires
GET /schedules/{schedule_id}/revisions
GET /runs
POST /agents/{agent}/runs
GET /runs/{id}
GET /runs/{id}/output
GET /runs/{id}/answer
POST /runs/{id}/cancel
POST /runs/{id}/retry
GET /workspaces
POST /retention/run
POST /workspaces/clean
POST /workspaces/{run_id}/discard
POST /workspaces/{run_id}/keep
POST /workspaces/{run_id}/unkeep
GET /pools
POST /pools/pause
POST /pools/resume
POST /pools/{pool}/pause
POST /pools/{pool}/resume
POST /hooks/{token}
POST /reload
GET /daemon
GET /status
GET /healthz
GET /metrics
GET /openapi.json
"""


def test_every_route_is_described(daemon: DaemonProcess) -> None:
    document = call(daemon, "GET", "/openapi.json").body
    assert document["openapi"].startswith("3.1")
    described = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert described == set(CONTRACT_ROUTES.split("\n")) - {""}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', str(document).replace("'", '"')))
    assert references <= document["components"]["schemas"].keys()
    described = document["components"]["schemas"]["ScheduleView"]
    assert set(create(daemon)) == described["properties"].keys() == set(described["required"])


def summary_of(found: subprocess.CompletedProcess[str]) -> str:
    """Return what it found, without the bodies, which can be large."""
    return "\n".join(line[:300] for line in found.stdout.splitlines()[-200:] if line.strip()) + found.stderr[-2000:]


@pytest.mark.parametrize("seconds", [15, pytest.param(180, marks=pytest.mark.soak)])
@pytest.mark.timeout(400)
def test_schemathesis_finds_nothing(start_daemon: StartDaemon, tmp_path: Path, port: int, seconds: int) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"]
    command += ["run", f"http://127.0.0.1:{port}/openapi.json", "--checks", "all", "--max-time", str(seconds)]
    command += [
        "--header",
        f"Authorization: Bearer {TOKEN}",
        "--seed",
        "1",
        "--no-color",
        "--max-examples",
        str(seconds),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, summary_of(found)
    assert "[control] Unexpected error" not in daemon.log_text()
