"""Doctor asks known programs for their version and login: bounded, in the agent's environment, and shows no more."""

import os
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.doctor import programs
from daemon.doctor.findings import Finding
from tests.support import forked

KEY = "sk-quite-secret-key"
CLAUDE = """\
case "$1 $2" in
"--version ") echo "9.8.7 (Claude Code)" ;;
"auth status") echo "me@example.org has $ANTHROPIC_API_KEY"; test -n "$ANTHROPIC_API_KEY" ;;
esac
"""
KEYED = f'{{ file = "{KEY}.key" }}'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / f"{KEY}.key").write_text(KEY)
    (tmp_path / f"{KEY}.key").chmod(0o600)
    return tmp_path


def program(place: Path, name: str, script: str) -> None:
    file = place / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}")
    file.chmod(0o700)


def config_of(place: Path, command: str = "claude", **env: str) -> Path:
    variables = "".join(f"env.{name} = {value}\n" for name, value in env.items())
    file = place / "config.toml"
    file.write_text(f'[daemon]\nstate_dir = "state"\n[agents.a]\ncommand = ["{command}", "-p"]\n{variables}')
    return file


def path_of(place: Path) -> str:
    return f"{place / 'bin'}:/usr/bin:/bin"


def asked(place: Path, command: str = "claude", **env: str) -> Finding:
    config = load_config(config_of(place, command, **env), {})
    [found] = programs.check_programs(config, {"PATH": path_of(place), "HOME": str(place)})
    assert found.about == "agents.a.command"
    assert KEY not in f"{found}"
    return found


def test_the_login_is_that_of_the_agents_environment(place: Path) -> None:
    program(place, "claude", CLAUDE)
    found = asked(place)
    assert (found.severity, found.what) == ("warning", "claude 9.8.7 is not signed in")
    assert "`claude auth login` as the daemon's user" in str(found.fix)
    found = asked(place, ANTHROPIC_API_KEY=KEYED)
    assert (found.severity, found.what) == ("ok", "claude 9.8.7, signed in")


def test_a_login_that_depends_on_unreadable_secrets_is_left_open(place: Path) -> None:
    program(place, "claude", CLAUDE)
    found = asked(place, ANTHROPIC_API_KEY='{ credential = "anthropic" }')
    assert (found.severity, found.what.partition(";")[0]) == ("note", "claude 9.8.7")


def test_a_key_that_the_program_does_not_count_is_one(place: Path) -> None:
    program(place, "codex", '[ "$1" = --version ] && echo "codex-cli 0.171.0"')
    assert asked(place, "codex").what == "codex 0.171.0 is not signed in"
    assert asked(place, "codex", CODEX_API_KEY=KEYED).what == "codex 0.171.0, with the key in CODEX_API_KEY"


@pytest.mark.parametrize(
    ("name", "printed", "what"),
    [
        ("opencode", "\x1b[90m0 credentials\\n0 environment variables", "opencode 1.2.3 is not signed in"),
        ("opencode", "0 credentials\\nAnthropic KEY\\n2 environment variables", "opencode 1.2.3, signed in"),
        ("opencode", "1 credential", "opencode 1.2.3, signed in"),
        ("llm", "No keys found", "llm 1.2.3 is not signed in"),
        ("llm", "openai", "llm 1.2.3, signed in"),
        ("aider", "", "aider 1.2.3; it cannot be asked whether it is signed in"),
    ],
)
def test_each_program_tells_it_in_its_own_way(place: Path, name: str, printed: str, what: str) -> None:
    program(place, name, f'[ "$1" = --version ] && echo "{name} 1.2.3" || printf "{printed}"')
    assert asked(place, name).what == what


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (f"echo {KEY}; echo {KEY} >&2; exit 3", "exit status 3"),
        ("kill -9 $$", "it was ended by signal 9"),
        ("sleep 1000 & echo $! > pid; wait", "it gave no answer within 1 s"),
        ("exec yes", "it gave no answer within 1 s"),
        (f"echo {KEY}", "exit status 0"),
    ],
)
def test_a_program_that_does_not_answer_is_ended(
    place: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    monkeypatch.setattr(programs, "TIMEOUT", 1.0)
    program(place, "claude", script.replace("> pid", f"> {place}/pid"))
    found = asked(place)
    assert (found.severity, found.what) == ("warning", f"claude does not tell its version: {why}")
    if (place / "pid").exists():
        left = Path("/proc") / (place / "pid").read_text().strip()
        assert not left.exists() or "Z" in (left / "stat").read_text()


def test_output_that_somebody_else_holds_open_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "TIMEOUT", 5.0)
    program(place, "aider", "echo aider 0.86.2; setsid sleep 3 & exit 0")
    assert asked(place, "aider").what.startswith("aider 0.86.2")


def test_doctor_asks(place: Path) -> None:
    program(place, "claude", CLAUDE)
    environment = {**os.environ, "PATH": path_of(place), "HOME": str(place)}
    done = forked.run(["--config", str(config_of(place)), "doctor"], environment, place)
    assert "agents.a.command  claude 9.8.7 is not signed in" in done.stdout, done.stdout + done.stderr
