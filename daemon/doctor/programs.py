"""Ask the programs of agents that are known for their version, and whether they are signed in.

They are asked as the daemon's user and in the environment of the agent. Of what they print only the version is shown:
the rest may hold names of people and parts of keys.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from daemon.agents.process.spec import base_environment, program_of
from daemon.config.schema import Config, ProcessAgent
from daemon.config.secrets import resolve_environment
from daemon.doctor.findings import Finding, note, ok, warning
from daemon.errors import SecretError

TIMEOUT = 20.0
"""Seconds that each question may take."""
_AT_ONCE = 4
_MOST_PRINTED = 64 * 1024  # bytes; a program that prints more blocks until it is ended
_VERSION = re.compile(r"\d+\.\d+[\w.+-]{0,40}")
_COUNTED = re.compile(r"(?<!\d)(\d+) (?:credentials?|environment variables?)\b")


@dataclass(frozen=True)
class _Answer:
    """What a program answered."""

    status: int | None
    """Its exit status, negative for a signal; None if it took too long or could not be started."""
    printed: str = ""


@dataclass(frozen=True)
class _Program:
    """How a known program tells whether it is signed in."""

    question: tuple[str, ...] = ()
    """The arguments that ask it; none if it cannot be asked."""
    is_signed_in: Callable[[_Answer], bool] = lambda answer: answer.status == 0
    keys: tuple[str, ...] = ()
    """Variables that take the place of a login, and that it does not count as one."""
    sign_in: str = ""
    """What a person does about it."""


_PROGRAMS = {
    "claude": _Program(("auth", "status"), sign_in="run `claude auth login`"),
    "codex": _Program(("login", "status"), keys=("CODEX_API_KEY",), sign_in="run `codex login`"),
    "gemini": _Program(keys=("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    "opencode": _Program(
        ("auth", "list"),
        is_signed_in=lambda answer: any(int(count) > 0 for count in _COUNTED.findall(answer.printed)),
        sign_in="run `opencode auth login`",
    ),
    "aider": _Program(),
    "llm": _Program(
        ("keys",),
        is_signed_in=lambda answer: answer.status == 0 and "No keys found" not in answer.printed,
        keys=("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "LLM_GEMINI_KEY"),
        sign_in="run `llm keys set`",
    ),
}


def check_programs(config: Config, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Ask the known programs; `environment` is the daemon's. Programs that are missing are found by other checks."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [
            pool.submit(_check, f"agents.{name}.command", config, agent, environment)
            for name, agent in config.agents.items()
            if isinstance(agent, ProcessAgent) and PurePath(agent.words[0]).name in _PROGRAMS
        ]
        yield from (found for one in asked if (found := one.result()) is not None)


def _check(place: str, config: Config, agent: ProcessAgent, environment: Mapping[str, str]) -> Finding | None:
    given, is_complete = _environment(config, agent, environment)
    path = shutil.which(program_of(agent.words, config), path=given["PATH"])
    if path is None:
        return None
    name = PurePath(path).name
    answer = _ask([path, "--version"], given)
    version = _VERSION.search(answer.printed) if answer.status == 0 else None
    if version is None:
        fix = f"run `{name} --version` as the daemon's user, in the environment of the agent"
        return warning(place, f"{name} does not tell its version: {_end(answer)}", fix)
    return _check_login(place, path, f"{name} {version[0]}", given, is_complete=is_complete)


def _check_login(place: str, path: str, shown: str, given: Mapping[str, str], *, is_complete: bool) -> Finding:
    """Tell whether a program is signed in, or has a key; `shown` is what it is called."""
    program = _PROGRAMS[PurePath(path).name]
    key = next((key for key in program.keys if given.get(key)), None)
    if key is not None:
        return ok(place, f"{shown}, with the key in {key}")
    if not program.question:
        return ok(place, f"{shown}; it cannot be asked whether it is signed in")
    if not is_complete:
        return note(place, f"{shown}; whether it is signed in depends on secrets that cannot be read here")
    answer = _ask([path, *program.question], given)
    fix = f"{program.sign_in} as the daemon's user, or give it a key, unless its provider needs none"
    if answer.status is None:
        return warning(place, f"{shown} does not tell whether it is signed in: {_end(answer)}", fix)
    if not program.is_signed_in(answer):
        return warning(place, f"{shown} is not signed in", fix)
    return ok(place, f"{shown}, signed in")


def _environment(config: Config, agent: ProcessAgent, environment: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Return the variables of an agent that can be read here, and whether these are all."""
    given = base_environment(environment)
    is_complete = True
    for name, secret in agent.env.items():
        try:
            given |= resolve_environment(config, {name: secret}, environment).values
        except SecretError:
            is_complete = False
    return given, is_complete


def _ask(command: Sequence[str], environment: Mapping[str, str]) -> _Answer:
    """Run a command in an empty directory, and end whatever it leaves in its process group."""
    with tempfile.TemporaryDirectory(prefix="agentcron-") as folder:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return _Answer(None)
        with process:
            try:
                status = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return _Answer(status, _printed(process))


def _printed(process: "subprocess.Popen[bytes]") -> str:
    """Return what an ended process has printed, without waiting for others that may hold its output open."""
    if process.stdout is None:
        return ""
    os.set_blocking(process.stdout.fileno(), False)
    data = process.stdout.read(_MOST_PRINTED) or b""  # None if there is nothing and somebody holds it open
    return data.decode(errors="replace")


def _end(answer: _Answer) -> str:
    """Return why an answer is none."""
    if answer.status is None:
        return f"it gave no answer within {TIMEOUT:.0f} s"
    if answer.status < 0:
        return f"it was ended by signal {-answer.status}"
    return f"exit status {answer.status}"
