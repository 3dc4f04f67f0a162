"""Commits that the mirror of an environment keeps for a run, even if they disappear upstream.

What a run pushed is not saved from its workspace as long as the mirror has it, so the mirror must not lose it before
the run is deleted: it gets a ref outside those that a fetch changes. Standard library only: the helper process imports
this.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from daemon.regular_file import open_regular, read_at_most
from daemon.workspaces.git import Git, GitError
from daemon.workspaces.layout import ENVIRONMENTS, MIRROR
from daemon.workspaces.mirror_files import odd_entry

_RUNS = "refs/agentcron/runs"
_TIMEOUT = 600.0  # seconds
_LARGEST_PACKED_REFS = 64 * 1024**2  # bytes


def refs_for(run_id: str) -> str:
    """Return the pattern of the refs that are kept for a run."""
    return f"{_RUNS}/{run_id}/*"


def keep(mirror: Path, run_id: str, oids: Iterable[str]) -> None:
    """Keep commits or tags in a mirror; raise GitError if it does not have one of them."""
    commands = "".join(f"update {_RUNS}/{run_id}/{oid} {oid}\n" for oid in sorted(set(oids)))
    if commands:
        _git(mirror).run("update-ref", "--stdin", stdin=commands.encode())


def keeps_commits(mirror: Path) -> bool:
    """Return whether a mirror keeps commits for any run; raise OSError if that cannot be read."""
    if os.path.lexists(mirror / _RUNS) and any(files for _, _, files in os.walk(mirror / _RUNS, onerror=_fail)):
        return True
    try:
        descriptor = open_regular(mirror / "packed-refs", os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    with open(descriptor, "rb"):
        return f" {_RUNS}/".encode() in read_at_most(descriptor, _LARGEST_PACKED_REFS)


def _fail(error: OSError) -> None:
    raise error


def take_over(mirror: Path, damaged: Path) -> list[str]:
    """Have a mirror keep what a damaged one keeps for runs; return the refs whose commits are not all there any more.

    Raise GitError if git cannot work in the mirror, or fails for a reason that says nothing of these commits;
    UnreadableError or OSError if the refs cannot be read.
    """
    from daemon.workspaces.salvage.repository import refs_of  # noqa: PLC0415 - the daemon takes nothing over

    wanted = sorted(name for name in refs_of(damaged) if name.startswith(f"{_RUNS}/"))
    for name in ("HEAD", "config", "commondir"):  # what git obeys, or needs to take this for a repository
        (damaged / name).unlink(missing_ok=True)
    (damaged / "HEAD").write_text("ref: refs/heads/main\n")
    (damaged / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    git = Git(_TIMEOUT, mirror.parent, isolated=True, GIT_DIR=str(mirror), GIT_ALLOW_PROTOCOL="file")
    fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-shallow", str(damaged))
    if not _fetched(git, *fetch, f"+{_RUNS}/*:{_RUNS}/*"):
        for name in wanted:
            _fetched(git, *fetch, f"+{name}:{name}")
    taken = git.text("for-each-ref", "--format=%(refname)", f"{_RUNS}/").splitlines()
    return sorted(set(wanted) - set(taken))


def _fetched(git: Git, *fetch: str) -> bool:
    """Fetch; return whether everything was there. Raise GitError if that remains unknown."""
    try:
        git.run(*fetch)
    except GitError as error:
        if error.is_passing:
            raise
        return False
    return True


def forget(state_dir: Path, without_row: Callable[[list[str]], list[str]], log: Callable[[str], None]) -> None:
    """Forget what mirrors keep for runs that do not exist any more; `without_row` returns these among some runs."""
    for mirror in sorted((state_dir / ENVIRONMENTS).glob(f"*/{MIRROR}")):
        try:
            _forget(mirror, without_row)
        except GitError as error:
            log(f"[retention] ERROR: Cannot delete refs of deleted runs in {mirror}: {error}")


def _forget(mirror: Path, without_row: Callable[[list[str]], list[str]]) -> None:
    if not (mirror / "HEAD").is_file():
        return
    refs: dict[str, list[str]] = {}
    for ref in _git(mirror).text("for-each-ref", "--format=%(refname)", f"{_RUNS}/").splitlines():
        refs.setdefault(ref.split("/")[3], []).append(ref)
    gone = without_row(list(refs)) if refs else []
    commands = "".join(f"delete {ref}\n" for run in gone for ref in refs[run])
    if commands:
        _git(mirror).run("update-ref", "--stdin", stdin=commands.encode())


def _git(mirror: Path) -> Git:
    """Return git in a mirror; raise GitError where it would wait at a pipe, or follow a link."""
    odd = odd_entry(mirror)
    if odd is not None:
        raise GitError(f"{odd} is neither a regular file nor a folder; the next run makes the mirror anew")
    return Git(_TIMEOUT, mirror.parent, isolated=True, GIT_DIR=str(mirror))
