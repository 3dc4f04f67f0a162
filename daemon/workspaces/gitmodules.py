"""Which submodules a commit names, as git itself understands its `.gitmodules`.

Standard library only: the helper process imports this.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.workspaces.git import Git, GitError

_LARGEST = 1024**2  # bytes of a `.gitmodules`: that of a thousand submodules has about 100 KiB
_SUBMODULE = b"160000 "  # the mode of a submodule in a folder
FILE = b"100"
"""How the modes of a regular file begin."""
_NAME = ".gitmodules"
_PATHS = r"^submodule\..*\.path$"
_SETTINGS = r"^submodule\..*\.(url|update)$"


@dataclass(frozen=True)
class Submodule:
    """A submodule that git checks out with a commit."""

    path: str
    url: str
    """As git writes it to the config of a clone: resolved if it is relative."""
    commit: str


class TooManySubmodulesError(Exception):
    """There are more submodules than we have mirrors for; the text says why."""


def names_submodules(repository: Path, commit: str, timeout: float) -> bool:
    """Return whether a commit may name submodules; raise GitError, or TooManySubmodulesError."""
    git = Git(timeout, repository, GIT_DIR=str(repository))
    for entry in git.names("ls-tree", "-z", "--long", commit, "--", _NAME):
        if entry.startswith(FILE):
            if int(entry.split(None, 4)[3]) > _LARGEST:
                raise TooManySubmodulesError(f"the file {_NAME} is larger than {_LARGEST // 1024**2} MiB")
            return True
    return False


def named_submodules(scratch: Path, commit: str, timeout: float) -> list[Submodule]:
    """Return the submodules that git would check out with a commit; raise GitError, also if it makes no sense of them.

    `git submodule init` finds them in a scratch repository with the `origin` of the clone, because relative URLs,
    names, and the settings of the daemon's user are its business.
    """
    git = Git(timeout, scratch)
    entries = _entries(git, commit)
    git.run("update-index", "-z", "--index-info", stdin=b"".join(entry + b"\0" for entry in entries))
    return initialized_submodules(git, commit)


def initialized_submodules(git: Git, commit: str) -> list[Submodule]:
    """Return the same in a clone of which the index is that commit's; raise GitError likewise."""
    git.run("submodule", "--quiet", "init")
    return list(_initialized(git, dict(_commits(_entries(git, commit)))))


def _entries(git: Git, commit: str) -> list[bytes]:
    return [entry for entry in git.names("ls-tree", "-r", "-z", commit) if _counts(entry)]


def _counts(entry: bytes) -> bool:
    return entry.startswith(_SUBMODULE) or entry.endswith(b"\t" + _NAME.encode())


def _commits(entries: list[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the path and the commit of each submodule among lines of `git ls-tree`."""
    for entry in entries:
        facts, _, path = entry.partition(b"\t")
        if entry.startswith(_SUBMODULE):
            yield os.fsdecode(path), facts.split()[2].decode()


def _initialized(git: Git, commits: dict[str, str]) -> Iterator[Submodule]:
    settings = configured(git, "--get-regexp", _SETTINGS)
    for key, path in configured(git, "--blob", f":{_NAME}", "--get-regexp", _PATHS).items():
        name = key.removesuffix(".path")
        url = settings.get(f"{name}.url")
        if path in commits and url is not None and settings.get(f"{name}.update") != "none":
            yield Submodule(path, url, commits[path])


def configured(git: Git, *arguments: str) -> dict[str, str]:
    """Return the last value of each key that `git config` prints; none if it finds none."""
    try:
        found = git.names("config", "-z", *arguments)
    except GitError as error:
        if error.code == 1:
            return {}
        raise
    return {key: value for key, _, value in (os.fsdecode(entry).partition("\n") for entry in found)}
