"""The result file: masked, bounded, and written again only where nobody planted something else."""

import os
import threading
from pathlib import Path

import pytest

from daemon.agents.process.acp_client.result import SessionResult, write_result
from daemon.agents.process.supervisor.result_file import NAME


def test_a_pipe_in_place_of_the_result_file_does_not_hang_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCRON_RESULT", str(tmp_path / NAME))
    os.mkfifo(tmp_path / NAME)
    client = threading.Thread(target=write_result, args=(SessionResult(message="done"),), daemon=True)
    client.start()
    client.join(20)
    assert not client.is_alive()
