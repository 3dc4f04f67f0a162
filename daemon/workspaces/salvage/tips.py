"""Read the tips of a repository in a workspace: refs, HEAD, what reflogs name, and commits that nothing leads to.

All of it is read as plain data; git only says, through a scratch repository, what kind of objects these are.
Standard library only: the helper process imports this.
"""

import os
from dataclasses import dataclass, field

from daemon.workspaces.salvage.history import clonable, commits_in, existing, heads_of, kinds
from daemon.workspaces.salvage.repository import (
    OID,
    GitFolders,
    has_only_network_remotes,
    pseudo_ref_ids,
    read_file,
    reflog_ids,
    refs_of,
)
from daemon.workspaces.salvage.scratch import Scratch
from daemon.workspaces.salvage.walk import UnreadableError

_SAVED_BRANCHES = "refs/heads/agentcron/saved"


@dataclass
class Tips:
    """The tips of one repository."""

    head: str | None
    """The commit that is checked out."""
    branch: str | None = None
    """The branch that is checked out, whether it has a commit or not."""
    refs: dict[str, str] = field(default_factory=dict)
    """Object ids by the names under which they are saved."""
    prefix: str = _SAVED_BRANCHES
    """What the names of tips without a ref begin with."""
    fetched: list[str] = field(default_factory=list)
    """Commits that were fetched from other hosts, if it has no other remotes."""
    loose: set[str] = field(default_factory=set)
    """Files and folders that refs name, and that the mirror does not have."""


def read_tips(scratch: Scratch, base: str | None) -> Tips:
    """Return the tips of the repository that a scratch repository borrows from, or `base` without one.

    Raise UnreadableError or GitError.
    """
    source, git = scratch.source, scratch.git
    if source is None:
        return Tips(next(iter(existing(git, [base] if base else [])), None))
    if (source.common / "reftable").exists():
        raise UnreadableError("its refs are in the reftable format, which is not supported (see git refs migrate)")
    refs = refs_of(source.common)
    branch, oid = _checked_out(source, refs)
    wanted = {name: oid for name, oid in refs.items() if not name.startswith("refs/remotes/")}
    lost = {*reflog_ids(source.common), *pseudo_ref_ids(source.common), *_unknown_commits(scratch)}
    known = dict(kinds(git, [*wanted.values(), *lost, *([oid] if oid else [])]))
    found = {one for one, kind in known.items() if kind in {"commit", "tag"}}
    tips = Tips(oid if oid in found else None, branch, prefix=_unused_prefix(refs))
    tips.loose = _not_in_mirror(scratch, set(wanted.values()) & known.keys() - found)
    commits = {one for one, kind in known.items() if kind == "commit"}
    to_save = {name: oid for name, oid in wanted.items() if oid in found or oid in tips.loose}
    tips.refs = clonable(to_save, tips.prefix, commits)
    if has_only_network_remotes(source.common):
        tips.fetched = existing(git, [oid for name, oid in refs.items() if name.startswith("refs/remotes/")])
    if tips.head is not None and tips.head not in tips.refs.values():
        tips.refs[f"{tips.prefix}/head"] = tips.head
    for number, one in enumerate(heads_of(git, lost & found, tips.refs.values())):
        tips.refs[f"{tips.prefix}/lost-{number}"] = one
    return tips


def _checked_out(source: GitFolders, refs: dict[str, str]) -> tuple[str | None, str | None]:
    """Return the branch and the object id that HEAD names."""
    head = (read_file(source.own / "HEAD") or b"").strip()
    if head.startswith(b"ref: "):
        branch = os.fsdecode(head[5:])
        return branch, refs.get(branch)
    return None, head.decode(errors="replace") if OID.fullmatch(head) else None


def _unused_prefix(refs: dict[str, str]) -> str:
    """Return a prefix that no ref begins with, whatever kind of ref it is."""
    prefix = _SAVED_BRANCHES
    while any(name.split("/", 2)[-1].startswith(prefix.split("/", 2)[-1]) for name in refs):
        prefix += "-again"
    return prefix


def _not_in_mirror(scratch: Scratch, oids: set[str]) -> set[str]:
    """Return the files and folders among some objects that the mirror does not have."""
    if scratch.mirror is None or not oids:
        return oids
    return oids - {oid for oid, _ in kinds(scratch.git, oids, GIT_OBJECT_DIRECTORY=str(scratch.mirror / "objects"))}


def _unknown_commits(scratch: Scratch) -> set[str]:
    """Return the commits in the repository's object stores that the mirror does not have, reachable or not."""
    mirror = commits_in(scratch.git, scratch.mirror / "objects") if scratch.mirror is not None else set()
    return {oid for store in scratch.stores for oid in commits_in(scratch.git, store)} - mirror
