"""Repositories that a program in place of ssh gives as `ssh://localhost/NAME`, and that can be made to hang."""

import contextlib
import os
from pathlib import Path

from tests.support.git_site import commit, git


class SshRemotes:
    """Repositories in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self._asked = folder / "asked"
        program = folder / "ssh"
        program.write_text(
            "#!/bin/sh\n"
            "for command; do :; done\n"  # the last argument: git-upload-pack '/NAME'
            "name=${command#*/}; name=${name%\\'}\n"
            f"echo $name >>{self._asked}\n"
            f"[ ! -p {folder}/$name.hangs ] || cat {folder}/$name.hangs >/dev/null 2>&1\n"
            f"exec git upload-pack {folder}/$name\n"
        )
        program.chmod(0o755)
        self.environment = {"GIT_SSH_COMMAND": str(program)}

    def url(self, name: str) -> str:
        return f"ssh://localhost/{name}"

    def make(self, name: str) -> Path:
        """Make a repository with one commit."""
        place = self.folder / name
        place.mkdir()
        git(place, "init", "-q", "-b", "main")
        commit(place, "name.txt", f"{name}\n")
        return place

    def hang(self, name: str) -> None:
        """Have a repository accept and never answer; to wait at a pipe takes no CPU time, which would pass for work."""
        os.mkfifo(self.folder / f"{name}.hangs")

    def answer(self, name: str) -> None:
        hangs = self.folder / f"{name}.hangs"
        with contextlib.suppress(OSError):  # nobody waits
            os.close(os.open(hangs, os.O_WRONLY | os.O_NONBLOCK))
        hangs.unlink()

    def asked(self) -> list[str]:
        """Return the repositories that were asked since the last call, once for each time."""
        with contextlib.suppress(FileNotFoundError):
            text = self._asked.read_text()
            self._asked.unlink()
            return text.split()
        return []


def add_submodule(place: Path, path: str, url: str, oid: str, **settings: str) -> None:
    """Commit a submodule, or another commit of one."""
    for key, value in {"path": path, "url": url, **settings}.items():
        git(place, "config", "-f", ".gitmodules", f"submodule.{path}.{key}", value)
    git(place, "update-index", "--add", "--cacheinfo", f"160000,{oid},{path}")
    git(place, "add", ".gitmodules")
    git(place, "commit", "-q", "-m", f"submodule {path}")


def head(place: Path) -> str:
    return git(place, "rev-parse", "HEAD")
