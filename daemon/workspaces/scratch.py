"""A scratch repository that borrows the objects of another one, and obeys a configuration of our own.

Standard library only: the helper process imports this.
"""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from daemon.workspaces.layout import ENVIRONMENTS, SCRATCH
from daemon.workspaces.lock import locked_temporary_folder
from daemon.workspaces.removal import remove_temporary

_CORE = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"


@contextlib.contextmanager
def scratch_repository(state_dir: Path, lender: Path, head: str, config: str) -> Iterator[Path]:
    """Make a repository at a commit of another one, given by its git folder, without any file; raise OSError.

    It is made by hand, so that what is in its config, such as a password, is no argument of git.
    """
    name = f"repository.{secrets.token_hex(4)}"
    try:
        with locked_temporary_folder(state_dir, SCRATCH, name) as folder:
            git_folder = folder / ".git"
            for below in ("objects/info", "refs"):
                (git_folder / below).mkdir(parents=True)
            (git_folder / "HEAD").write_text(f"{head}\n")
            (git_folder / "config").write_text(f"{_CORE}{config}")
            # not quoted, as git could read it as well: git-lfs cannot
            (git_folder / "objects" / "info" / "alternates").write_text(f"{lender / 'objects'}\n")
            yield folder
    finally:
        remove_temporary(state_dir, (ENVIRONMENTS, SCRATCH), name)
