"""llm and aider as their recipes run them: they print plain text, whose words and exit status tell how they end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import Table, config_text
from tests.support.daemon_process import DaemonProcess, daemons_in
from tests.support.peers.processes import Peer
from tests.support.real_programs import REAL, agent, site
from tests.support.runs import ended, triggered

pytestmark = REAL
URLS = {"llm": ("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"), "aider": ("ANTHROPIC_API_KEY", "ANTHROPIC_API_BASE", "")}
"""By program: the variables of its key and of its provider's address, and how that ends."""
DEADLINE = 120.0


@pytest.fixture(scope="module")
def daemon(folder: Path, provider: Peer) -> Iterator[DaemonProcess]:
    agents: dict[str, Table] = {}
    for program, (key, url, path) in URLS.items():
        for how in ("text", "unauthorized"):
            env = {key: {"file": "key"}, url: f"{provider.url}/{how}{path}"}
            agents[f"{program}-{how}"] = agent(program, env)
    with daemons_in(folder) as start:
        yield start(config_text(environments=site(folder), agents=agents), HOME=str(folder / "home"))


def run_of(daemon: DaemonProcess, name: str) -> dict[str, Any]:
    return ended(daemon, triggered(daemon, f"{name}/go"), deadline=DEADLINE)


@pytest.mark.parametrize("program", URLS)
def test_an_answer_is_the_output_and_its_usage_unknown(daemon: DaemonProcess, program: str) -> None:
    run = run_of(daemon, f"{program}-text")
    assert (run["status"], run["exit_code"], run["error"]) == ("completed", 0, None), daemon.output(run["id"])
    assert "It is done." in daemon.output(run["id"])
    assert (run["input_tokens"], run["usage_state"]) == (None, None)


def test_the_last_words_of_llm_are_the_reason(daemon: DaemonProcess) -> None:
    run = run_of(daemon, "llm-unauthorized")
    assert (run["status"], run["failure_kind"]) == ("failed", "failed")
    assert run["error"] == "exit status 1: Error: Error code: 401 - token has expired"


def test_what_aider_prints_tells_that_it_failed(daemon: DaemonProcess) -> None:
    run = run_of(daemon, "aider-unauthorized")
    assert (run["status"], run["exit_code"]) == ("failed", 0)
    assert "litellm.AuthenticationError" in run["error"]
