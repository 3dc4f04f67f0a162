"""How much room a tree takes on the disk. Standard library only: the helper process imports this."""

import os
import subprocess
from pathlib import Path

from daemon.workspaces.descent import open_path

_LONGEST = 600.0  # seconds


def room_of(state_dir: Path, folders: tuple[str, ...]) -> int:
    """Return the bytes that a folder below the state directory takes, as du(1) counts them; 0 if there is none.

    A file with several names in it counts once, other file systems do not count, and no link is followed.
    """
    try:
        folder = open_path(state_dir, *folders)
    except OSError:
        return 0
    try:
        said = subprocess.run(
            ["du", "-sx", "-B1", "."],  # noqa: S607 - the one on PATH
            cwd=f"/proc/self/fd/{folder}",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_LONGEST,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    finally:
        os.close(folder)
    return int(said.split()[0]) if said else 0
