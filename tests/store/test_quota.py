"""A quota that is used up (EDQUOT) is a full disk: a start waits for room, and says so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.store.state_dir import open_state
from daemon.units import utc_now

LOCK = """\
import sys
from pathlib import Path
from daemon.errors import StoreError
from daemon.store.lock import DaemonLock
try:
    DaemonLock(Path(sys.argv[1]))
except StoreError as error:
    print(error)
"""
OPEN = """\
import sys
from pathlib import Path
from daemon.errors import DiskFullError
from daemon.store.state_dir import open_state
from daemon.units import utc_now
try:
    open_state(Path(sys.argv[1]), utc_now(), accept_data_loss=False)
except DiskFullError as error:
    print(error)
"""
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="injecting errors of the kernel needs strace")


def said_with_failing(calls: str, state: Path, program: str = OPEN) -> str:
    """Open a state directory while some system calls report a quota; return the error that this raises."""
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EDQUOT"]
    command = [sys.executable, "-B", "-c", program, str(state)]
    done = subprocess.run([*trace, *command], check=False, capture_output=True, text=True)
    if "ptrace" in done.stderr:
        pytest.skip("tracing is not possible here")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_state_directory_without_room_for_its_folders(tmp_path: Path) -> None:
    assert "Disk quota exceeded" in said_with_failing("mkdir", tmp_path)


def test_a_lock_file_without_room_for_its_content(tmp_path: Path) -> None:
    said = said_with_failing("pwrite64", tmp_path, LOCK)
    assert said == f"{tmp_path}/daemon.lock cannot be written: Disk quota exceeded\n"


@pytest.mark.parametrize("calls", ["pwrite64,fallocate", "ftruncate,fallocate"])
def test_a_database_without_room_for_a_change(tmp_path: Path, calls: str) -> None:
    open_state(tmp_path, utc_now(), accept_data_loss=False)
    (tmp_path / "witness.json").unlink()
    said = said_with_failing(calls, tmp_path)
    assert "no room is left, perhaps in the quota of this user; the disk is full: free some space" in said
