"""What a daemon says about itself, and what a program says that poses as one."""

import json
from pathlib import Path

import pytest

from daemon.cli.current_problems import current_problems
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError
from tests.support.impostors import impostor

WELL = {"pid": 1, "config_file": "/c", "state_dir": "/s", "timezone": "UTC", "amiss": None}
PROBLEM = {"part": "clock", "subject": None, "reason": "x", "since": "now", "failures": 1, "retry_at": None}
WAIT = {"environment": "e", "waits_for": "fetch", "since": "now", "runs": [1]}


def asked(folder: Path, answer: dict[str, object]) -> tuple[object, ...]:
    config = Config.model_validate({"control": {"socket": f"{folder}/c.sock"}, "daemon": {"state_dir": str(folder)}})
    with impostor(folder / "c.sock", json.dumps(answer).encode()):
        return current_problems(config)


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ({"problems": 5}, "problems"),
        ({"problems": [1]}, "problems.0"),
        ({"problems": [{"part": "x"}]}, "problems.0.subject"),
        ({"problems": [{**PROBLEM, "failures": "x"}]}, "problems.0.failures"),
        ({"waits": [{"runs": 3}]}, "waits.0.environment"),
        ({"waits": [{**WAIT, "runs": 3}]}, "waits.0.runs"),
        ({"amiss": {"a": 1}}, "amiss"),
    ],
)
def test_an_answer_of_another_form_is_one_error(tmp_path: Path, answer: dict[str, object], place: str) -> None:
    with pytest.raises(DaemonUnreachableError) as refused:
        asked(tmp_path, {**WELL, **answer})
    assert f"c.sock sent a response to /daemon that agentcron does not send ({place}); find out" in str(refused.value)


@pytest.mark.parametrize("answer", [{}, {"later": 1}, {"pid": "x"}, {"pid": None, "problems": 5}])
def test_earlier_and_later_daemons_and_what_is_none_are_no_errors(tmp_path: Path, answer: dict[str, object]) -> None:
    assert asked(tmp_path, {**WELL, **answer}) == ("", [], [])


def test_problems_and_waits_are_what_the_daemon_says(tmp_path: Path) -> None:
    told = asked(tmp_path, {**WELL, "amiss": "errors", "problems": [PROBLEM], "waits": [WAIT]})
    assert told == ("errors", [PROBLEM], [WAIT])
