"""The result file: masked, bounded, and written again only where nobody planted something else."""

import json
import os
import threading
from pathlib import Path

import pytest

from daemon.agents.process.acp_client.rendering import LONGEST_MESSAGE, LONGEST_NOTE
from daemon.agents.process.acp_client.result import SessionResult, write_result
from daemon.agents.process.agent_report import read_report
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.result_file import LARGEST, NAME, mask_result_file

SECRETS = Secrets(["0123456789abcdef", "12345678"])


def masked(folder: Path, content: str) -> str:
    """Return a result file after its secrets were masked."""
    (folder / NAME).write_text(content)
    mask_result_file(str(folder), SECRETS)
    return (folder / NAME).read_text()


def test_a_report_in_any_script_does_not_outgrow_the_limit_when_it_is_masked(tmp_path: Path) -> None:
    report = {
        "message": "0123456789abcdef",
        "text": 250_000 * "\u00fc",
        "emoji": 100_000 * "\U0001f600",
        "n": 250 * [0],
    }
    shown = masked(tmp_path, json.dumps(report, ensure_ascii=False, separators=(",", ":")))
    assert json.loads(shown) == {**report, "message": "***"}
    found = read_report(tmp_path, "none", SECRETS)
    assert (found.message, found.complaint) == ("***", None)


def test_a_secret_that_is_a_number_in_a_report_is_masked_and_the_report_remains_json(tmp_path: Path) -> None:
    shown = masked(tmp_path, '{"message": "ok", "pin": 12345678, "pins": [-12345678, 12345678.0], "usage": {}}')
    assert json.loads(shown) == {"message": "ok", "pin": "***", "pins": ["-***", "***.0"], "usage": {}}


def test_a_report_that_is_too_large_is_refused_for_its_size_and_keeps_no_half_of_a_secret(tmp_path: Path) -> None:
    begin = '{"message": "12345678 ", "text": "'
    shown = masked(tmp_path, begin + (LARGEST - len(begin) - 10) * "x" + '0123456789abcdef"}')
    assert shown.startswith('{"message": "*** "')
    assert "0123456789" not in shown
    assert read_report(tmp_path, "none", SECRETS).complaint == "the result file is larger than 1 MiB"


def test_half_a_character_is_no_obstacle(tmp_path: Path) -> None:
    assert json.loads(masked(tmp_path, '{"message": "a\\ud800 12345678"}')) == {"message": "a? ***"}


def test_what_an_acp_agent_asked_in_any_script_fits_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTCRON_RESULT", str(tmp_path / NAME))
    result = SessionResult(message=LONGEST_MESSAGE * "\U0001f600")
    for _ in range(200):
        result.note_permission(LONGEST_NOTE * "\U0001f600", "reject_once")
    write_result(result)
    found = read_report(tmp_path, "none", SECRETS)
    assert (found.complaint, len(found.permissions)) == (None, 100)


def test_how_the_run_ended_is_the_agents_word_and_what_the_client_saw_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCRON_RESULT", str(tmp_path / NAME))
    own = {"status": "failed", "message": "mine", "session": "x", "permissions": [], "usage": {"output_tokens": 1}}
    (tmp_path / NAME).write_text(json.dumps(own))
    seen = SessionResult(failure="theirs", kind="auth", session="s-1", usage={"input_tokens": 2, "output_tokens": 3})
    seen.note_permission("Run make", "reject_once")
    write_result(seen)
    found = read_report(tmp_path, "none", SECRETS)
    assert (found.status, found.message, found.kind, found.session) == ("failed", "mine", None, "s-1")
    assert found.permissions == ({"asked": "Run make", "answer": "reject_once"},)
    assert found.usage == {"input_tokens": 2, "output_tokens": 1}


def test_a_pipe_in_place_of_the_result_file_does_not_hang_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCRON_RESULT", str(tmp_path / NAME))
    os.mkfifo(tmp_path / NAME)
    client = threading.Thread(target=write_result, args=(SessionResult(message="done"),), daemon=True)
    client.start()
    client.join(20)
    assert not client.is_alive()
