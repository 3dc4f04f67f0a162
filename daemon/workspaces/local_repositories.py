"""Which repositories on this host a submodule, or the server of files in Git LFS, may lead to.

Whoever can push to a repository chooses these URLs, but the daemon's user can read more than those people.
Standard library only: the helper process imports this.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from daemon.workspaces.mirror import CloneError
from daemon.workspaces.mirror_files import text_of
from daemon.workspaces.remote import local_path
from daemon.workspaces.urls import is_remote

_SUFFIXES = ("/.git", "", ".git/.git", ".git")
"""What git appends to the path of a repository, to find it (git-upload-pack(1), --strict)."""
_LINK = "gitdir: "  # how the file that stands for a git folder elsewhere begins (gitrepository-layout(5))
_MOST_PLACES = 1000  # that one repository may lead to


def check_url(what: str, url: str, of: str, state_dir: Path) -> None:
    """Raise CloneError if a URL in a repository, itself named by the config, leads to a folder that is not for it.

    On this host, that is one which lies neither in nor beside that repository, or lies in the state directory; so do
    the folders that a repository borrows objects from. `what` is what has the URL, in messages.
    """
    path = local_path(url)
    if path is None:
        if not is_remote(url):
            raise CloneError(
                f"{what} has the URL {url!r}, which is a relative path; use an absolute one, or one of a server"
            )
        return
    repository = local_path(of)
    if repository is None:
        raise CloneError(
            f"{what} leads to {path} on this host, but its repository is on another one; use a URL of a server"
        )
    if "\0" in path:
        raise CloneError(f"{what} has a URL that no file can have")
    parents = _parents(repository, path)
    state = os.path.realpath(state_dir)
    for place in _places(path):
        if _is_in(place, (state,)):
            raise CloneError(f"{what} leads to {path}, and so into the state directory ({place})")
        if not _is_in(place, parents):
            raise CloneError(
                f"{what} leads to {path}, and so to {place}, which is not beside the repository {repository}; "
                "move it there, or use a URL of a server"
            )


def _parents(repository: str, path: str) -> set[str]:
    """Return the folders that a path may lead to: that of the repository, with its links followed or not.

    The root of the file system is none: beside a repository there is only what is a direct child of it, too.
    """
    repository = os.path.normpath(repository)
    parents = {os.path.realpath(os.path.dirname(repository)), os.path.dirname(os.path.realpath(repository))}
    own = os.path.realpath(path)
    if "/" in parents and os.path.dirname(own) == "/":
        parents.add(own)
    return parents - {"/"}


def _is_in(place: str, folders: Iterable[str]) -> bool:
    return any(place == folder or place.startswith(f"{folder}/") for folder in folders)


def _places(path: str) -> Iterator[str]:
    """Yield what git reads for the repository at a path: files and folders without links. Raise CloneError, OSError.

    People can push all of a repository that lies in the working tree of another: links, and files that lead elsewhere.
    """
    yield os.path.realpath(path)
    for suffix in _SUFFIXES:
        place = os.path.realpath(path + suffix)
        if os.path.isfile(place):
            yield place
            text = text_of(Path(place)) or ""
            if text.startswith(_LINK):
                yield from _git_folder(_joined(os.path.dirname(place), text.removeprefix(_LINK)))
        elif os.path.isdir(place):
            yield from _git_folder(place)


def _git_folder(folder: str) -> Iterator[str]:
    """Yield a git folder, the one that it shares what it has with, and where their objects are."""
    yield folder
    common = _text(f"{folder}/commondir")
    if common:
        folder = _joined(folder, common)
        yield folder
    yield from _stores(f"{folder}/objects")


def _stores(objects: str) -> Iterator[str]:
    """Yield a folder of objects, what links in it lead to, and likewise those that it borrows from."""
    left, seen = [os.path.realpath(objects)], set[str]()
    while left:
        store = left.pop()
        if store in seen:
            continue
        seen.add(store)
        yield store
        yield from _links(store)
        left += [_joined(store, line) for line in _text(f"{store}/info/alternates").splitlines()]
        if len(left) + len(seen) > _MOST_PLACES:
            raise CloneError(f"{objects} borrows objects from more than {_MOST_PLACES} folders")


def _links(folder: str) -> Iterator[str]:
    """Yield what the links below a folder lead to."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(f"{parent}/{name}"):
                yield os.path.realpath(f"{parent}/{name}")


def _text(path: str) -> str:
    return text_of(Path(os.path.realpath(path))) or ""


def _joined(folder: str, path: str) -> str:
    """Return where a path in a file of git leads to, from a folder; raise CloneError for one that git would unquote."""
    if path.startswith('"'):
        raise CloneError(f"{folder} borrows objects from a folder with a quoted name")
    return os.path.realpath(os.path.join(folder, path.rstrip("\n")))
