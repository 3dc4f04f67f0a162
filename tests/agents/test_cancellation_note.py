"""The note of a cancellation, which a thread writes while the event loop may close the status file."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.agents.process.agent import SupervisedAgent
from daemon.agents.process.records import read_cancellation
from daemon.agents.process.supervisor import status


def agent_of(folder: Path) -> SupervisedAgent:
    """Give the agent of a run under way."""
    status.preallocate(str(folder))
    agent = SupervisedAgent(cast("Any", None), None, None)
    agent._status = os.open(folder / status.NAME, os.O_RDONLY)
    agent._supervisor = cast("Any", SimpleNamespace(close=lambda: None))
    return agent


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_note_goes_into_the_file_of_its_run_even_if_that_is_closed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"precious" * 1000)
    agent, real = agent_of(tmp_path), os.open
    opened: list[int] = []

    def after_the_run_has_ended(path: str, flags: int) -> int:
        number = agent._status
        agent._close()
        opened.append(real(stranger, os.O_RDONLY))
        assert opened == [number], "the next file gets the number"
        return real(path, flags)

    monkeypatch.setattr("daemon.agents.process.agent.os.open", after_the_run_has_ended)
    agent.note_cancellation("cancelled by alice")
    monkeypatch.undo()
    os.close(opened[0])
    assert stranger.read_bytes() == b"precious" * 1000
    with (tmp_path / status.NAME).open("rb") as stream:
        assert read_cancellation(stream.fileno(), None) == "cancelled by alice"


def test_a_run_that_has_ended_gets_no_note_and_no_descriptor_is_left(tmp_path: Path) -> None:
    agent = agent_of(tmp_path)
    before = open_files()
    agent.note_cancellation("cancelled by alice")
    assert open_files() == before
    agent._close()
    agent.note_cancellation("cancelled by bob")
    with (tmp_path / status.NAME).open("rb") as stream:
        assert read_cancellation(stream.fileno(), None) == "cancelled by alice"
