"""The start of a command: where its program is found, and what its supervisor changes only temporarily."""

import os
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.process.supervisor.start import StartError, start


@pytest.fixture(autouse=True)
def in_the_root_as_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")


def spec(folder: Path, *path: str) -> dict[str, Any]:
    places = [folder / name for name in path]
    return {
        "argv": ["agent"],
        "env": {"PATH": ":".join(map(str, places))},
        "cwd": str(folder),
        "stdin": "/dev/null",
        "umask": 0o027,
    }


def write(folder: Path, mode: int) -> None:
    folder.mkdir()
    (folder / "agent").write_text(
        f"#!/bin/sh\n/bin/echo {folder.name}; umask; pwd; /usr/bin/cut -d' ' -f1,6 /proc/$$/stat\n"
    )
    (folder / "agent").chmod(mode)


def output_of(spec: dict[str, Any]) -> list[str]:
    read_end, write_end = os.pipe()
    try:
        pid = start(spec, write_end, write_end)
    finally:
        os.close(write_end)
    with open(read_end) as stream:  # noqa: PTH123 - a descriptor
        said = stream.read().split()
    os.waitpid(pid, 0)
    return said


def test_a_program_is_found_as_execvp_finds_it(tmp_path: Path) -> None:
    (tmp_path / "folder" / "agent").mkdir(parents=True)
    write(tmp_path / "plain", 0o644)
    write(tmp_path / "first", 0o755)
    write(tmp_path / "second", 0o755)
    assert output_of(spec(tmp_path, "none", "folder", "plain", "first", "second"))[0] == "first"
    with pytest.raises(StartError, match="cannot start 'agent': Permission denied"):
        start(spec(tmp_path, "folder", "plain"), 1, 2)


def test_a_program_beside_the_work_is_not_taken_for_one_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "agent").write_text("#!/bin/sh\n")
    (tmp_path / "agent").chmod(0o755)
    with pytest.raises(StartError, match="cannot start 'agent': No such file or directory"):
        start(spec(tmp_path, "none"), 1, 2)


def test_a_script_without_an_interpreter_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "bin", 0o755)
    (tmp_path / "bin" / "agent").write_text("echo hi\n")
    with pytest.raises(StartError, match="nor a script with #! and its interpreter in the first line"):
        start(spec(tmp_path, "bin"), 1, 2)


def test_a_missing_interpreter_is_distinguished_from_a_missing_program(tmp_path: Path) -> None:
    write(tmp_path / "bin", 0o755)
    (tmp_path / "bin" / "agent").write_text("#!/no/such/interpreter\n")
    with pytest.raises(StartError, match="the interpreter that its first line names does not exist"):
        start(spec(tmp_path, "bin"), 1, 2)


@pytest.mark.parametrize("broken", [{}, {"cwd": "/no/such/folder"}, {"stdin": "/no/such/file"}, {"argv": ["none"]}])
def test_what_the_command_inherits_the_supervisor_gives_up_again(tmp_path: Path, broken: dict[str, Any]) -> None:
    write(tmp_path / "bin", 0o755)
    here = spec(tmp_path, "bin")
    before = os.umask(0o077)
    score = Path("/proc/self/oom_score_adj").read_text()
    try:
        if broken:
            with pytest.raises(StartError):
                start({**here, **broken}, 1, 2)
        else:
            name, umask, folder, pid, session = output_of(here)
            assert (name, umask, folder, session) == ("bin", "0027", str(tmp_path), pid)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert Path("/proc/self/oom_score_adj").read_text() == score
    assert Path("/proc/self/cwd").resolve() == Path("/")
