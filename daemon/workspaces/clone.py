"""Make a private clone for one run from the environment's mirror.

Standard library only: the helper process imports this.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from daemon.workspaces.git import Git, GitError, config_value, run_program
from daemon.workspaces.jobs import Author, PreparedWorkspace, Source
from daemon.workspaces.layout import ENVIRONMENTS, INCOMING, UPSTREAM, tasks_of, workspace_path
from daemon.workspaces.lfs_files import check_out_files
from daemon.workspaces.lock import locked_temporary_folder
from daemon.workspaces.mirror import CloneError, Mirror
from daemon.workspaces.openat import open_path
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.submodule_checkout import check_out_from_mirrors, check_out_from_remotes
from daemon.workspaces.submodules import Submodules


def prepare_workspace(
    state_dir: Path,
    source: Source,
    author: Author,
    run_id: int,
    git_timeout: float,
    log: Callable[[str], None],
    *,
    fetches: bool = True,
    folder: str | None = None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> PreparedWorkspace:
    """Make the workspace of a run, `fetches` says whether from mirrors that are fetched first; raise CloneError.

    `on_wait` is called before remotes are asked for what mirrors lack: `submodules` or `lfs`.
    It appears under its own name only when it is complete. If git fails, what it left is removed and the clone is
    tried once more, but not if git was too slow: a remote of a submodule that hangs would hold the run's slot twice.
    Nor once `on_wait` was called, since the mirror may be fetched by others from then on. `folder` is the name of its
    folder unless that is the run's number.
    """
    os.close(open_path(state_dir, *tasks_of(source.environment), create=True))
    mirror = Mirror(state_dir, source, git_timeout, log)
    submodules = Submodules(state_dir, mirror, git_timeout, log)
    final = workspace_path(state_dir, source.environment, folder or run_id)
    has_waited = False

    def note_wait(what: str) -> None:
        nonlocal has_waited
        has_waited = True
        on_wait(what)

    for is_last in (False, True):
        try:
            return _clone(
                state_dir, mirror, submodules, author, run_id, final, git_timeout, fetches=fetches, on_wait=note_wait
            )
        except GitError as error:
            if is_last or error.is_disk_full or error.is_too_slow or has_waited:
                raise CloneError(str(error)) from None
            log(f"WARNING: cloning failed and is tried once more: {error}")
            mirror.take_away_if_damaged()
            submodules.take_away_damaged()
        except CloneError:  # a ref may be missing because the mirror is damaged
            if is_last or not mirror.take_away_if_damaged():
                raise
    raise AssertionError  # the last attempt returns or raises


def _clone(
    state_dir: Path,
    mirror: Mirror,
    submodules: Submodules,
    author: Author,
    run_id: int,
    final: Path,
    git_timeout: float,
    *,
    fetches: bool,
    on_wait: Callable[[str], None],
) -> PreparedWorkspace:
    name = f"{run_id}.{secrets.token_hex(4)}"
    with locked_temporary_folder(state_dir, INCOMING, name) as folder:
        try:
            git = Git(git_timeout, folder)
            with mirror.in_use(fetches=fetches):
                commit, since = mirror.commit(), mirror.fetched_at() if fetches else None
                options = ("--shared", "--no-checkout", "--origin", "origin", "--template=")
                git.run("clone", "--quiet", *options, str(mirror.path), str(folder))
                for below in ("info", "hooks"):  # empty ones: scripts expect what git's templates have
                    (folder / ".git" / below).mkdir(exist_ok=True)
                _copy_objects(folder, mirror, git_timeout)
            _set_origin(folder, mirror)
            (folder / ".git" / UPSTREAM).write_bytes(git.run("for-each-ref", "--format=%(objectname)"))
            _check_out(git, folder, f"agentcron/{run_id}", commit)
            if (folder / ".gitmodules").is_file():
                with submodules.in_use(folder / ".git", commit, since) as mirrors:
                    if mirrors is None:
                        on_wait("submodules")
                        remote = git.ended_when_silent(mirror.source.fetch_timeout)
                        check_out_from_remotes(remote, mirror.source.repository, state_dir)
                    else:
                        check_out_from_mirrors(git, mirrors)
            check_out_files(state_dir, git, mirror, commit, git_timeout, on_wait)
            _set_author(git, author)
            folder.rename(final)
        except BaseException:
            remove_temporary(state_dir, (ENVIRONMENTS, INCOMING), name)
            raise
    return PreparedWorkspace(final, commit)


def _copy_objects(clone: Path, mirror: Mirror, timeout: float) -> None:
    """Give a clone that borrows the mirror's objects its own: shared blocks where the file system has them, or copies.

    Never hard links: an agent that changed one of those would change it for all.
    """
    objects = clone / ".git" / "objects"
    command = ["cp", "-R", "--reflink=auto", f"{mirror.path / 'objects'}/.", str(objects)]
    done = run_program(command, clone, timeout)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(f"the mirror's objects cannot be copied: {''.join(lines[-1:])}")
    (objects / "info" / "alternates").unlink(missing_ok=True)  # git borrows nothing from a shallow mirror


def _check_out(git: Git, clone: Path, branch: str, commit: str) -> None:
    """Write all files of a commit; raise GitError, which reports a full disk even where git does not."""
    try:
        for head in git.text("for-each-ref", "--format=%(refname)", "refs/heads").splitlines():
            git.run("update-ref", "-d", head)  # it could stand in the way of the branch
        git.run("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        git.run("reset", "--quiet", "--hard", commit)
        _check_complete(git)
    except GitError as error:
        sizes = (line.split()[3] for line in git.run("ls-tree", "-r", "--long", commit).splitlines())
        disk = os.statvfs(clone)
        if sum(int(size) for size in sizes if size.isdigit()) > disk.f_bavail * disk.f_frsize:
            raise GitError(f"{error}: {os.strerror(errno.ENOSPC)}") from None
        raise


def _check_complete(git: Git) -> None:
    missing = git.names("ls-files", "-z", "--deleted")
    if missing:
        raise GitError(f"git checkout: {len(missing)} files are missing, {os.fsdecode(missing[0])!r} first")


def _set_origin(clone: Path, mirror: Mirror) -> None:
    """Set `origin` to the true remote by editing the file: every user of the host could read a git argument."""
    config = clone / ".git" / "config"
    text = config.read_text()
    lines = [line for line in text.splitlines() if not line.strip().startswith("url = ")]
    at = lines.index('[remote "origin"]') + 1
    url = config_value(mirror.source.repository)
    config.write_text("\n".join([*lines[:at], f"\turl = {url}", *lines[at:]]) + "\n")


def _set_author(git: Git, author: Author) -> None:
    """Let git commit in a clone and its submodules as the author, where the daemon's user has no identity of its own.

    The clone's config is where the agent can still change that: by its environment, an option, or `git config`.
    """
    configured = set()
    if not (author.is_name_set and author.is_email_set):
        with contextlib.suppress(GitError):  # there is neither
            configured = set(git.text("config", "--name-only", "--get-regexp", r"^user\.(name|email)$").splitlines())
    values = {"name": (author.name, author.is_name_set), "email": (author.email, author.is_email_set)}
    for key, (value, is_set) in values.items():
        if is_set or f"user.{key}" not in configured:
            git.run("config", f"user.{key}", value)
            if (git.folder / ".gitmodules").is_file():
                setting = f'git config user.{key} "$AGENTCRON_GIT_AUTHOR"'
                git.run("submodule", "--quiet", "foreach", "--recursive", setting, AGENTCRON_GIT_AUTHOR=value)
