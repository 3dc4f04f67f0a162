"""Write commits as a bundle that can certainly be brought back: it is tried once, without any borrowed objects.

Standard library only: the helper process imports this.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.salvage.repository import quoted

BUNDLE = "work.bundle"
SHALLOW = "shallow"
NO_CONVERSION = "* -text !eol -filter -ident -working-tree-encoding"
SCRATCH_SETTINGS = (
    "[core]\n\tfsync = none\n\tbigFileThreshold = 16m\n\tdeltaBaseCacheLimit = 32m\n"
    "\tpackedGitWindowSize = 16m\n\tpackedGitLimit = 64m\n"
    "[pack]\n\tthreads = 1\n\twindowMemory = 64m\n\tdeltaCacheSize = 32m\n"
)
"""Settings of git under which its memory does not grow with the size of a file: it streams larger ones.

What it writes is temporary, and need not survive a power loss; to sync each ref would take longer than all the rest.
"""


@dataclass(frozen=True)
class Contents:
    """What a bundle holds of one repository."""

    refs: Mapping[str, str]
    """Names and object ids."""
    head: str | None
    """The commit that was checked out."""
    branch: str | None
    """The branch that was checked out."""
    files: str | None
    """The ref of the commit that has the changed files, None if there are none."""
    deletes: bool
    """Whether that commit deletes files."""
    writes: bool
    """Whether it has new or changed files."""
    borrowed: Sequence[str]
    """The commits that it is based on, and that are in the mirror."""
    is_sha256: bool
    has_lfs: bool


class BundleCheck:
    """A bundle brought back into an empty repository, as `steps` does it, without writing any files."""

    def __init__(self, folder: Path, timeout: float, *, is_sha256: bool = False) -> None:
        """Use a folder that does not exist yet."""
        self._folder = folder
        form = ("--object-format=sha256",) if is_sha256 else ()
        parent = Git(timeout, folder.parent, isolated=True)
        parent.run("init", "--quiet", "--bare", "--template=", *form, str(folder))
        with (folder / "config").open("a") as config:
            config.write(SCRATCH_SETTINGS)
        self._git = Git(timeout, folder.parent, isolated=True, GIT_DIR=str(folder), GIT_ALLOW_PROTOCOL="file")

    def borrow(self, objects: Path, oids: Iterable[str]) -> None:
        """Have commits of a folder of objects, as if they had been fetched from there."""
        (self._folder / "objects" / "info" / "alternates").write_bytes(quoted(objects) + b"\n")
        commands = "".join(f"create refs/remotes/mirror/{oid} {oid}\n" for oid in sorted(set(oids)))
        self._git.run("update-ref", "--stdin", stdin=commands.encode())

    def fetch(self, folder: Path) -> dict[str, str]:
        """Fetch the bundle in a folder; return its refs, or raise GitError if that is not possible."""
        if (folder / SHALLOW).exists():
            (self._folder / SHALLOW).write_bytes((folder / SHALLOW).read_bytes())
        self._git.run("fetch", "--quiet", str(folder / BUNDLE), "+refs/*:refs/*")
        listed = self._git.text("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags")
        pairs = (line.split(" ", 1) for line in listed.splitlines())
        return {name: oid for oid, name in pairs}

    def can_check_out(self, revision: str, *, protect: bool) -> bool:
        """Return whether git accepts all names of files in a commit; `protect` says whether with its usual settings."""
        setting = str(protect).lower()
        options = ("-c", f"core.protectNTFS={setting}", "-c", f"core.protectHFS={setting}")
        return self._git.succeeds(*options, "read-tree", revision)


def check(contents: Contents, folder: Path, mirror: Path, scratch: Path, timeout: float) -> bool:
    """Bring a bundle back; return whether its files have names that git accepts only if asked to.

    `scratch` is a folder that does not exist yet. Raise GitError if it cannot be brought back, or not as it was.
    """
    checked = BundleCheck(scratch, timeout, is_sha256=contents.is_sha256)
    if contents.borrowed:
        checked.borrow(mirror / "objects", contents.borrowed)
    if checked.fetch(folder) != dict(contents.refs):
        raise GitError("the bundle does not hold what was saved", 1)
    is_odd = False
    for revision in filter(None, (contents.head, contents.files)):
        if not checked.can_check_out(revision, protect=True):
            is_odd = True
            if not checked.can_check_out(revision, protect=False):
                raise GitError(f"git cannot check out {revision}", 1)
    return is_odd


def steps(
    contents: Contents, folder: str, target: str, lender: str, *, is_shallow: bool, is_odd: bool
) -> Iterator[str]:
    """Yield the shell commands that bring a bundle back into a new folder, the target.

    `folder` is an expression of the shell for the folder that has the bundle; `lender` are the arguments of a fetch of
    the commits that it is based on.
    """
    git = f"git -C {target}"
    check_out = f"git -c core.protectNTFS=false -c core.protectHFS=false -C {target}" if is_odd else git
    yield f"git init --quiet {'--object-format=sha256 ' if contents.is_sha256 else ''}{target}"
    if is_shallow:
        yield f"cp {folder}/{SHALLOW} {target}/.git/{SHALLOW}"
    if contents.borrowed:
        yield f"{git} fetch --quiet {lender}"
    yield f"{git} fetch --quiet --update-head-ok {folder}/{BUNDLE} '+refs/*:refs/*'"
    if contents.head is not None:
        skip = "GIT_LFS_SKIP_SMUDGE=1 " if contents.has_lfs else ""
        yield f"{skip}{check_out} checkout --quiet --detach {contents.head}"
    if contents.files is not None:  # they were saved byte for byte, so git must not convert them
        yield f"mkdir -p {target}/.git/info && echo '{NO_CONVERSION}' > {target}/.git/info/attributes"
        yield from _write_files(contents, target, check_out)
        yield f"rm {target}/.git/info/attributes"
        yield f"{check_out} reset --quiet"
    if contents.head is not None and contents.branch is not None:
        yield f"{check_out} checkout --quiet -B {contents.branch}"
    yield f"git --no-pager -C {target} branch"


def _write_files(contents: Contents, target: str, git: str) -> Iterator[str]:
    """Yield the commands that change the files that were changed, and no others: those may have been converted."""
    if contents.head is None:
        yield f"{git} checkout --quiet --detach {contents.files}"
        return
    listed = f"git -C {target} diff-tree -r -z --name-only --diff-filter={{}} HEAD {contents.files}"
    if contents.deletes:
        yield f"{listed.format('D')} | (cd {target} && xargs -0 rm -f --)"
    if contents.writes:
        check_out = f"GIT_LITERAL_PATHSPECS=1 {git} checkout --quiet {contents.files}"
        yield f"{listed.format('d')} | {check_out} --pathspec-from-file=- --pathspec-file-nul"
