"""Reports of commands: numbers that cannot be used are left out, and the report says which."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from daemon.agents.process.acp_client.client import Session
from daemon.agents.process.acp_client.result import SessionResult
from daemon.agents.process.result_formats import AgentReport, read_report
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.output import STANDARD_OUTPUT
from daemon.rules.reported import MOST_TOKENS

HUGE = 2**62 - 1


def report(folder: Path, content: str, result_format: Literal["none", "claude"] = "none") -> AgentReport:
    (folder / ("result.json" if result_format == "none" else STANDARD_OUTPUT)).write_text(content)
    return read_report(folder, result_format, Secrets(()))


def test_a_number_beyond_the_limit_is_left_out_and_named(tmp_path: Path) -> None:
    found = report(tmp_path, json.dumps({"usage": {"input_tokens": HUGE, "output_tokens": 7}}))
    assert found.usage == {"output_tokens": 7}
    assert found.complaint == f"usage.input_tokens is not a number from 0 to {MOST_TOKENS}"


def test_usage_that_is_no_object_is_named(tmp_path: Path) -> None:
    found = report(tmp_path, '{"status": "failed", "usage": [1]}')
    assert (found.status, found.usage, found.complaint) == ("failed", {}, "usage is not a JSON object")


@pytest.mark.parametrize(
    ("value", "seconds"), [("5", 5), ("0.5", 0.5), ("1e300", 7 * 86400), ("1" + 400 * "0", None), ("1e400", None)]
)
def test_a_wait_is_bounded(tmp_path: Path, value: str, seconds: float | None) -> None:
    found = report(tmp_path, f'{{"retry_after": {value}}}')
    assert found.retry_after == (None if seconds is None else timedelta(seconds=seconds))
    assert (found.complaint is None) is (seconds is not None)


@pytest.mark.parametrize("tokens", [HUGE, -1, "5", 10**300, [1]])
def test_no_part_of_a_sum_is_used_if_one_part_is_no_count(tmp_path: Path, tokens: object) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": tokens, "output_tokens": 9}
    found = report(tmp_path, json.dumps({"type": "result", "result": "x", "usage": usage}), "claude")
    assert found.usage == {"output_tokens": 9}
    assert "usage.input_tokens" in (found.complaint or "")


def test_what_an_acp_agent_counts_can_be_written_as_json() -> None:
    session = Session.__new__(Session)
    session._result = SessionResult()
    most = int("9" * 4300)
    session._count_tokens({"inputTokens": most, "cachedReadTokens": most, "cachedWriteTokens": True})
    assert json.loads(json.dumps(session._result.usage))["input_tokens"] > MOST_TOKENS


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"outputTokens": 7}, None),
        ({"inputTokens": None, "cachedReadTokens": 4}, 4),
        ({"inputTokens": 0}, 0),
        ({"inputTokens": 5.0, "cachedReadTokens": 4}, 9),
        ({"inputTokens": 5, "cachedWriteTokens": "4"}, "4"),
        ({"inputTokens": 5, "cachedWriteTokens": -4}, -4),
        ({"inputTokens": 5, "cachedWriteTokens": True}, True),
    ],
)
def test_tokens_that_an_acp_agent_does_not_report_are_unknown_and_senseless_ones_are_passed_on(
    usage: dict[str, object], tokens: object
) -> None:
    session = Session.__new__(Session)
    session._result = SessionResult()
    session._count_tokens(usage)
    assert session._result.usage["input_tokens"] == tokens
