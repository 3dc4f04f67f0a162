"""A private clone for one run, made from the environment's mirror. Standard library only: the helper imports this."""

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from daemon.workspaces.git import Git, GitError, config_value, run_program
from daemon.workspaces.layout import INCOMING, TOP, tasks_of, workspace_path
from daemon.workspaces.lock import working_folder
from daemon.workspaces.mirror import CloneError, Mirror, Source
from daemon.workspaces.openat import open_path
from daemon.workspaces.removal import remove_scrap

_LFS = "filter=lfs"


def prepare_workspace(
    state_dir: Path, source: Source, run_id: int, timeout: float, say: Callable[[str], None]
) -> tuple[Path, str]:
    """Make the workspace of a run and return it with the commit it begins at; raise PreparationError.

    It appears under its own name only when it is complete. A first try that fails is removed, and made again once.
    """
    os.close(open_path(state_dir, *tasks_of(source.environment), create=True))
    mirror = Mirror(state_dir, source, timeout, say)
    for last in (False, True):
        try:
            return _cloned(state_dir, mirror, run_id, timeout)
        except GitError as error:
            if last or error.full:
                raise CloneError(str(error)) from None
            say(f"WARNING: the workspace could not be made and is tried once more: {error}")
            mirror.forget_if_damaged()
        except CloneError:  # what is not found may be what is damaged
            if last or not mirror.forget_if_damaged():
                raise
    raise AssertionError  # the last try returns or raises


def _cloned(state_dir: Path, mirror: Mirror, run_id: int, timeout: float) -> tuple[Path, str]:
    final = workspace_path(state_dir, mirror.source.environment, run_id)
    name = f"{run_id}.{secrets.token_hex(4)}"
    with working_folder(state_dir, INCOMING, name) as place:
        try:
            git = Git(timeout, place)
            with mirror.fresh():
                commit = mirror.commit()
                options = ("--shared", "--no-checkout", "--origin", "origin", "--template=")
                git.run("clone", "--quiet", *options, str(mirror.path), str(place))
                _own_objects(place, mirror, timeout)
            _name_origin(place, mirror)
            _fill(git, place, mirror, f"agentcron/{run_id}", commit)
            place.rename(final)
        except BaseException:
            remove_scrap(state_dir, (TOP, INCOMING), name)
            raise
    return final, commit


def _own_objects(place: Path, mirror: Mirror, timeout: float) -> None:
    """Give a clone that borrows the mirror's objects its own: shared blocks where the file system has them, or copies.

    Never the same files under another name: what an agent does to those it would do to all.
    """
    objects = place / ".git" / "objects"
    command = ["cp", "-R", "--reflink=auto", f"{mirror.path / 'objects'}/.", str(objects)]
    done = run_program(command, place, timeout)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(f"the mirror's objects cannot be copied: {''.join(said[-1:])}")
    (objects / "info" / "alternates").unlink()


def _fill(git: Git, place: Path, mirror: Mirror, branch: str, commit: str) -> None:
    _check_out(git, place, branch, commit)
    if (place / ".gitmodules").is_file():
        local = ("-c", "protocol.file.allow=always") if mirror.source.repository.startswith("/") else ()
        git.run(*local, "submodule", "--quiet", "update", "--init", "--recursive")
    if _uses_lfs(git):
        if not git.succeeds("lfs", "version"):
            raise CloneError("the repository keeps files in Git LFS, and git-lfs is not installed")
        git.run("lfs", "install", "--local", "--skip-repo")
        git.run("lfs", "pull")


def _check_out(git: Git, place: Path, branch: str, commit: str) -> None:
    """Write the files of a commit, all of them; raise GitError, which says if the disk is full: git does not."""
    try:
        for head in git.text("for-each-ref", "--format=%(refname)", "refs/heads").splitlines():
            git.run("update-ref", "-d", head)  # it could stand in the way of the branch
        git.run("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        git.run("reset", "--quiet", "--hard", commit)
        _check_complete(git)
    except GitError as error:
        sizes = (line.split()[3] for line in git.run("ls-tree", "-r", "--long", commit).splitlines())
        disk = os.statvfs(place)
        if sum(int(size) for size in sizes if size.isdigit()) > disk.f_bavail * disk.f_frsize:
            raise GitError(f"{error}: {os.strerror(errno.ENOSPC)}") from None
        raise


def _check_complete(git: Git) -> None:
    missing = git.names("ls-files", "-z", "--deleted")
    if missing:
        raise GitError(f"git checkout: {len(missing)} files are missing, {os.fsdecode(missing[0])!r} first")


def _name_origin(place: Path, mirror: Mirror) -> None:
    """Have `origin` be the true remote, by way of the file: an argument could be seen by all users of the host."""
    config = place / ".git" / "config"
    text = config.read_text()
    lines = [line for line in text.splitlines() if not line.strip().startswith("url = ")]
    at = lines.index('[remote "origin"]') + 1
    url = config_value(mirror.source.repository)
    config.write_text("\n".join([*lines[:at], f"\turl = {url}", *lines[at:]]) + "\n")


def _uses_lfs(git: Git) -> bool:
    return git.succeeds("grep", "--quiet", "--fixed-strings", _LFS, "HEAD", "--", ".gitattributes", "**/.gitattributes")
