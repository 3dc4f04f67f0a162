"""Commands after an upgrade, while the daemon of an earlier version still runs and answers with fewer facts."""

import json
import os
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.configs import config_text
from tests.support.impostors import impostor

ANSWERS = {
    ("reload",): (
        {"changes": [{"schedule": "a/s", "action": "created"}], "warnings": []},
        "a/s was created.\nReloaded, 1 schedule changed.\n",
    ),
    ("workspaces", "discard", "1", "--without-saving"): (
        {"run_id": 1, "removed": True},
        "Removed the workspace of run 1; `agentcron runs show 1` shows the saved work.\n",
    ),
    ("workspaces", "discard", "1", "--without-saving", "--yes"): (
        {"run_id": 1, "removed": True},
        "Removed the workspace of run 1; `agentcron runs show 1` shows the saved work.\n",
    ),
}


@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_a_command_says_what_a_daemon_of_an_earlier_version_did(tmp_path: Path, command: tuple[str, ...]) -> None:
    answer, words = ANSWERS[command]
    config = tmp_path / "config.toml"
    config.write_text(config_text(control={"socket": f"{tmp_path}/c.sock"}, agents={"a": {"command": ["true"]}}))
    with impostor(tmp_path / "c.sock", json.dumps(answer).encode()):
        told = forked.run(["--config", str(config), *command], dict(os.environ), tmp_path)
    assert (told.returncode, told.stdout, told.stderr) == (0, words, "")
