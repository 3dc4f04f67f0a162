"""Ask git what is reachable from what in a scratch repository, and write a part of its history as a bundle.

Standard library only: the helper process imports this.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.salvage.bundle import BUNDLE, SHALLOW
from daemon.workspaces.salvage.repository import OID, is_ref_name
from daemon.workspaces.salvage.walk import measure

_COMMIT = re.compile(rb"^commit ([0-9a-f]+)$", re.MULTILINE)
_SELF_CONTAINED_MAX = 64 * 1024**2  # bytes: a bundle of at most this needs nothing else


def revisions(oids: Iterable[str], excluded: Iterable[str] = ()) -> bytes:
    """Return standard input for git that selects what some ids reach and others do not (git-rev-list(1), --stdin)."""
    return "".join([*(f"{oid}\n" for oid in oids), *(f"^{oid}\n" for oid in excluded)]).encode()


def kinds(git: Git, oids: Iterable[str], **environment: str) -> Iterator[tuple[str, str]]:
    """Yield the ids whose objects exist, each with the kind of its object."""
    valid = [oid for oid in dict.fromkeys(oids) if OID.fullmatch(oid.encode(errors="replace"))]
    for line in git.run("cat-file", "--batch-check", stdin=revisions(valid), **environment).decode().splitlines():
        words = line.split()
        if len(words) == 3:  # noqa: PLR2004 - id, kind and size; a missing object has no size
            yield words[0], words[1]


def existing(git: Git, oids: Iterable[str]) -> list[str]:
    """Return those ids that are commits or tags in the repository."""
    return [oid for oid, kind in kinds(git, oids) if kind in {"commit", "tag"}]


def commits_in(git: Git, objects: Path) -> set[str]:
    """Return all commits in an object store."""
    every = ("cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)", "--unordered")
    output = git.run(*every, GIT_OBJECT_DIRECTORY=str(objects))
    return {match[1].decode() for match in _COMMIT.finditer(output)}


def reached(git: Git, oids: Iterable[str], excluded: Iterable[str]) -> set[str]:
    """Return the commits that some ids reach and others do not."""
    return set(git.run("rev-list", "--stdin", stdin=revisions(oids, excluded)).decode().split())


def heads_of(git: Git, commits: Collection[str], excluded: Iterable[str]) -> list[str]:
    """Return the commits that neither others of them nor the excluded ones reach."""
    if not commits:
        return []
    output = git.run("rev-list", "--parents", "--stdin", stdin=revisions(sorted(commits), excluded)).decode()
    lines = [line.split() for line in output.splitlines()]
    inner = {parent for line in lines for parent in line[1:]}
    return [line[0] for line in lines if line[0] in commits and line[0] not in inner]


def clonable(refs: Mapping[str, str], prefix: str, commits: Collection[str]) -> dict[str, str]:
    """Return refs under names that git accepts and that `git clone` brings back; others get a prefix.

    `prefix` is one of branches, which can only be `commits`; refs to anything else get the same one of tags.
    """
    found: dict[str, str] = {}
    for number, (name, oid) in enumerate(sorted(refs.items())):
        own = prefix if oid in commits else prefix.replace("refs/heads/", "refs/tags/", 1)
        is_kept = name.startswith("refs/tags/") or (name.startswith("refs/heads/") and oid in commits)
        new = name if is_kept else f"{own}/{name}"
        if name == "refs/stash":
            new = f"{own}/stash"
        above = {new.rsplit("/", count)[0] for count in range(1, new.count("/"))}
        if not is_ref_name(new) or above & found.keys() or f"{own}/".startswith(f"{new}/"):
            new = f"{own}/odd-{number}"
        found[new] = oid
    return found


class History:
    """The history of a scratch repository, of which a part is to be bundled."""

    def __init__(
        self,
        git: Git,
        scratch: Path,
        safe: Collection[str],
        in_mirror: Collection[str],
        check_room: Callable[[int], None],
    ) -> None:
        """Take the commits that are safe elsewhere, and those of them that the mirror has.

        `check_room` is called before a bundle is written, with the bytes that it takes, and once more to bring it back
        when the scratch repository is gone.
        """
        self._git = git
        self._scratch = scratch
        self._shallow = scratch / SHALLOW
        self._packed_refs = scratch / "packed-refs"
        self._safe = safe
        self._in_mirror = in_mirror
        self._check_room = check_room

    def bundle(self, folder: Path, refs: Mapping[str, str], head: str | None) -> list[str]:
        """Write a bundle of some refs and HEAD; return the commits that whoever brings it back must have."""
        git = self._git
        self._write_refs(refs)
        excluded = self._limit(list(refs.values()))
        names = [name for name, oid in refs.items() if oid not in excluded]
        if head is not None:
            git.run("update-ref", "--no-deref", "HEAD", head)
            names += ["HEAD"] if head not in excluded else []
        stdin = b"".join(os.fsencode(word) + b"\n" for word in [*names, *(f"^{oid}" for oid in excluded)])
        git.run("bundle", "create", "--quiet", str(folder / BUNDLE), "--stdin", stdin=stdin)
        if self._shallow.exists():
            (folder / SHALLOW).write_bytes(self._shallow.read_bytes())
        return excluded

    def _write_refs(self, refs: Mapping[str, str]) -> None:
        """Make refs in one file, as `git pack-refs` does: git would make a file of each."""
        lines = sorted((os.fsencode(name), oid.encode()) for name, oid in refs.items())
        text = b"".join(b"%s %s\n" % (oid, name) for name, oid in lines)
        self._packed_refs.write_bytes(b"# pack-refs with: sorted \n" + text)

    def _limit(self, tips: list[str]) -> list[str]:
        """Return the commits to leave out of a bundle with what they reach, because the mirror can keep them.

        There are none if the whole history is short. Without a mirror, make a long history shallow.
        """
        usage, lent = self._usage(tips), list[str]()
        if usage > _SELF_CONTAINED_MAX:
            lent = self._boundary(tips, self._in_mirror)
            if not lent:
                boundary = self._boundary(tips, self._safe)
                with self._shallow.open("a") as shallow:
                    shallow.writelines(f"{oid}\n" for oid in boundary)
            usage = self._usage(tips, lent)
        freed = measure(self._scratch, "objects").bytes  # by then: what is here is in the bundle
        self._check_room(max(usage, 2 * usage - freed))
        return lent

    def _usage(self, tips: list[str], excluded: Iterable[str] = ()) -> int:
        """Return the bytes that the objects take which some ids reach and others do not."""
        stdin = revisions(tips, excluded)
        return int(self._git.run("rev-list", "--objects", "--disk-usage", "--stdin", stdin=stdin).decode())

    def _boundary(self, tips: list[str], safe: Collection[str]) -> list[str]:
        """Return the newest commits that safe ones reach: the parents of new ones, and the tips that are not new."""
        if not safe:
            return []
        lines = self._git.run("rev-list", "--boundary", "--stdin", stdin=revisions(tips, safe)).decode().split()
        known = [oid for oid, kind in kinds(self._git, tips) if kind == "commit" and oid not in lines]
        return list(dict.fromkeys([*(line[1:] for line in lines if line.startswith("-")), *known]))
