"""The real programs of known agents, installed once, and agents that run them against a provider of our own.

Each agent is that of a recipe: its command is as people have it, with the program's full path.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import SELDOM, Table
from tests.support.peers.processes import Peer

NODE_PACKAGES = (
    "@anthropic-ai/claude-code@2.1.197",
    "@openai/codex@0.171.0",
    "@google/gemini-cli@0.61.0",
    "opencode-ai@1.18.33",
    "@zed-industries/claude-agent-acp@0.23.1",
    "@zed-industries/codex-acp@0.16.0",
)
PYTHON_PACKAGES = {"aider": "aider-chat==0.86.2", "llm": "llm==0.36"}
"""By program; each has an environment of its own."""
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


def program(name: str) -> Path:
    """Return a program, installed now if it is not yet; skip the test if it cannot be."""
    if name in PYTHON_PACKAGES:
        return _cached((PYTHON_PACKAGES[name],), _install_python) / "bin" / name
    return _cached(NODE_PACKAGES, _install_node) / "node_modules/.bin" / name


@cache
def _cached(packages: tuple[str, ...], install: Callable[[Path, tuple[str, ...]], None]) -> Path:
    """Return the folder of packages, which all sessions of tests share."""
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    place = Path(tempfile.gettempdir()) / f"agentcron-programs-{os.geteuid()}-{digest}"
    place.mkdir(mode=0o700, exist_ok=True)
    assert place.lstat().st_uid == os.geteuid(), f"{place} belongs to somebody else"
    done = place / "done"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            install(place, packages)
            done.touch()
    return place


def _install_node(place: Path, packages: tuple[str, ...]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the real programs are installed with npm, which this host lacks")
    options = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")
    _run(npm, "install", "--prefix", str(place), *options, *packages)


def _install_python(place: Path, packages: tuple[str, ...]) -> None:
    _run(sys.executable, "-m", "venv", str(place))
    _run(str(place / "bin/pip"), "install", "-q", "--retries", "1", *packages)


def _run(*command: str) -> None:
    """Run what installs something; skip the test if it fails."""
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} did not install the real programs within {_INSTALL_SECONDS} s")
    if result.returncode != 0:
        pytest.skip(f"{command[0]} cannot install the real programs: {result.stderr.strip()[-500:]}")


def agent(recipe: str, env: Mapping[str, object], *, command: list[str] | None = None, **keys: object) -> Table:
    """Return the agent of a recipe with a schedule `go`; a value of `env` that is None takes a variable away."""
    [table] = tomllib.loads((_RECIPES / f"{recipe}.toml").read_text())["agents"].values()
    name, *arguments = command or table["command"]
    variables = {**table["env"], **env}
    changed: dict[str, Any] = {
        **table,
        "command": [str(program(name)), *arguments],
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


def bubblewrap() -> Path:
    """Return the sandbox that Codex brings along, and that codex-acp expects of the host."""
    return next((program("codex").parents[1] / "@openai").glob("*/vendor/*/codex-resources/bwrap"))


def gemini_settings(home: Path) -> None:
    """Have gemini-cli use its key and retry once, and allow it the commands that its recipe tells how to allow."""
    policies = home / ".gemini/policies"
    policies.mkdir(parents=True)
    (policies.parent / "settings.json").write_text(json.dumps(_GEMINI))
    recipe = (_RECIPES / "gemini.toml").read_text()
    rule = re.findall(r"(?m)^#   (.*)$", recipe)
    (policies / "run.toml").write_text("\n".join(rule))


def told_to_commit(provider: Peer) -> None:
    """Have the provider ask for a command."""
    provider.log.with_name(provider.log.name + ".command").write_text(COMMAND)
