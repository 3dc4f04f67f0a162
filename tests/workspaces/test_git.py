"""Programs that end with the process that started them, whatever ends that one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.workspaces.git import Git, GitError, run_program
from tests.support.waiting import wait_until

STARTER = """
import sys
from pathlib import Path
from daemon.workspaces.git import run_program
run_program(["sh", "-c", "echo $$ >started; exec sleep 300"], Path(sys.argv[1]), 300)
"""


@pytest.mark.parametrize("has_setpriv", [True, False])
def test_a_program_does_not_outlive_a_killed_process(tmp_path: Path, *, has_setpriv: bool) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "sleep", "true", *(("setpriv",) if has_setpriv else ())):
        found = shutil.which(name)
        assert found is not None, name
        (tools / name).symlink_to(found)
    environment = {**os.environ, "PATH": str(tools), "PYTHONPATH": str(Path(__file__).parents[2])}
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], env=environment)
    started = tmp_path / "started"
    wait_until(lambda: started.exists() and started.read_text().endswith("\n"), what="the program")
    place = Path("/proc") / started.read_text().strip()
    wait_until(lambda: (place / "comm").read_text() == "sleep\n", what="sleep")
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_until(lambda: not place.exists(), what="the end of the program")


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="cannot run no-such-program: No such file or directory: no-such-program"):
        run_program(["no-such-program"], tmp_path, 10)


def test_an_error_names_the_command_and_not_its_settings(tmp_path: Path) -> None:
    git = Git(10, tmp_path)
    git.run("init", "--quiet")
    with pytest.raises(GitError, match=r"^git show-ref: exit status 1$"):
        git.run("-c", "a.b=c", "--config-env=a.b=PATH", "show-ref")
