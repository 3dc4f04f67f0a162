"""The real programs of known agents, installed from npm once, and daemons that run them against a provider of our own.

Each agent is that of a recipe: its command is as people have it, with the program's full path.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import SELDOM, Table
from tests.support.peers.processes import Peer

PACKAGES = (
    "@anthropic-ai/claude-code@2.1.197",
    "@openai/codex@0.171.0",
    "@google/gemini-cli@0.61.0",
    "opencode-ai@1.18.33",
    "@zed-industries/claude-agent-acp@0.23.1",
    "@zed-industries/codex-acp@0.16.0",
)
REAL = [pytest.mark.soak, pytest.mark.timeout(900), pytest.mark.xdist_group("real programs")]
"""The marks of tests that run them."""
COMMAND = "git commit -q --allow-empty -m work"
"""What the provider has the programs run."""
KEY = "sk-ant-oat01-not-a-real-key"
_CODEX = """\
model_provider = "stub"
model = "gpt-5.1-codex"
[model_providers.stub]
name = "stub"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "CODEX_API_KEY"
request_max_retries = 1
stream_max_retries = 1
"""
_GEMINI = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "general": {"maxAttempts": 2}}
_RECIPES = Path(__file__).parents[2] / "daemon/cli/recipes"
_INSTALL_SECONDS = 600


@cache
def programs() -> Path:
    """Return the folder of the programs, installed now if they are not yet; skip the test if they cannot be."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the real programs are installed with npm, which this host lacks")
    digest = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:12]
    place = Path(tempfile.gettempdir()) / f"agentcron-programs-{os.geteuid()}-{digest}"
    place.mkdir(mode=0o700, exist_ok=True)
    assert place.lstat().st_uid == os.geteuid(), f"{place} belongs to somebody else"
    done = place / "done"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _install(npm, place)
            done.touch()
    return place / "node_modules/.bin"


def _install(npm: str, place: Path) -> None:
    options = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")
    command = [npm, "install", "--prefix", str(place), *options, *PACKAGES]
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install the real programs within {_INSTALL_SECONDS} s")
    if result.returncode != 0:
        pytest.skip(f"npm cannot install the real programs: {result.stderr.strip()[-500:]}")


def agent(recipe: str, env: Mapping[str, object], *, command: list[str] | None = None, **keys: object) -> Table:
    """Return the agent of a recipe with a schedule `go`; a value of `env` that is None takes a variable away."""
    [table] = tomllib.loads((_RECIPES / f"{recipe}.toml").read_text())["agents"].values()
    name, *arguments = command or table["command"]
    variables = {**table["env"], **env}
    changed: dict[str, Any] = {
        **table,
        "command": [str(programs() / name), *arguments],
        "timeout": "2m",
        "kill_grace": "2s",
        "env": {name: value for name, value in variables.items() if value is not None},
        "schedules": {"go": {"every": SELDOM, "input": "Do it."}},
    }
    return {**changed, **keys}


def site(folder: Path) -> dict[str, Table]:
    """Return the environment that the recipes name: clones of a repository in a folder."""
    return {"site": {"mode": "git", "repository": str(folder / "origin")}}


def codex_settings(home: Path, url: str) -> None:
    """Have Codex call the provider, and retry once."""
    (home / "config.toml").write_text(_CODEX.format(url=url))


def gemini_settings(home: Path) -> None:
    """Have gemini-cli use its key and retry once, and allow it the commands that its recipe tells how to allow."""
    policies = home / ".gemini/policies"
    policies.mkdir(parents=True)
    (policies.parent / "settings.json").write_text(json.dumps(_GEMINI))
    recipe = (_RECIPES / "gemini.toml").read_text()
    rule = re.findall(r"(?m)^    # (\[\[rule\]\]|\w+ = .*)$", recipe)
    (policies / "run.toml").write_text("\n".join(rule))


def told_to_commit(provider: Peer) -> None:
    """Have the provider ask for a command."""
    provider.log.with_name(provider.log.name + ".command").write_text(COMMAND)
