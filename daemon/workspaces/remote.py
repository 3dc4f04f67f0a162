"""How git reaches the repository that the config names: URL, credentials, and a local repository of another owner.

Standard library only: the helper process imports this.
"""

import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit, urlunsplit

from daemon.workspaces.git import Git, config_value

_FILE_URL = "file://"
_MIRRORED = ("refs/heads/", "refs/tags/")
_NOT_A_NAME = re.compile(r"HEAD|(?:.*-g)?[0-9a-fA-F]{4,64}|.*[~^:@].*", re.DOTALL)
"""HEAD, a commit's id, what `git describe` makes of one, or an expression (gitrevisions(7))."""

_CREDENTIAL_HELPER = (
    '!f() { [ "$1" != get ] || [ -z "$AGENTCRON_GIT_USER" ] || '
    'printf "username=%s\\npassword=%s\\n" "$AGENTCRON_GIT_USER" "$AGENTCRON_GIT_PASSWORD"; }; f'
)
"""A credential helper that prints what the environment holds (gitcredentials(7))."""
_HTTP = ("http://", "https://")


@dataclass(frozen=True)
class Access:
    """How git reaches a repository."""

    url: str
    """Without user and password: every user can read git's arguments."""
    environment: dict[str, str] = field(repr=False)
    settings: tuple[str, ...] = ()
    """Options of git itself, before the command."""
    upload_pack: tuple[str, ...] = ()
    """Options of `git fetch` and `git ls-remote`."""

    @property
    def config(self) -> str:
        """The sections of a config file that name the URL as `origin`, and let git take the user and the password.

        They are for this server only (gitcredentials(7)): another one may be named by a redirection or `.lfsconfig`.
        """
        parts = urlsplit(self.url)
        server = f" {config_value(f'{parts.scheme}://{parts.netloc}')}" if self.url.startswith(_HTTP) else ""
        return f"[credential{server}]\n\thelper = {config_value(_CREDENTIAL_HELPER)}\n{origin(self.url)}"


def access_to(repository: str) -> Access:
    """Return how git reaches a repository that the config names."""
    url, credentials = split_credentials(repository)
    return Access(url, credentials, upload_pack=upload_pack(repository))


def access_to_submodule(url: str, of: str) -> Access:
    """Return how git reaches a repository that only a submodule names, in a repository that the config names.

    Whoever can push there chooses this URL, so git is told, as `git submodule` tells it, to use no protocol that could
    run a command or read this host's files (git(1), GIT_PROTOCOL_FROM_USER), unless the other is a folder here as well.
    """
    plain, credentials = split_credentials(url)
    return Access(plain, {**credentials, "GIT_PROTOCOL_FROM_USER": "0"}, file_settings(of))


def origin(url: str) -> str:
    """Return the section of a config file that names a URL as `origin`."""
    return f'[remote "origin"]\n\turl = {config_value(url)}\n'


def file_settings(repository: str) -> tuple[str, ...]:
    """Return the options that let git read submodules in folders of this host, where their repository is one."""
    return ("-c", "protocol.file.allow=always") if repository.startswith("/") else ()


def ask_remote(repository: str, names: Iterable[str], timeout: float) -> frozenset[str]:
    """Ask a remote as a fetch would, and return which of some refs, given by their full names, it has.

    Raise GitError if it does not answer within `timeout` seconds.
    """
    url, credentials = split_credentials(repository)
    git = Git(timeout, Path("/"), isolated=False, **credentials)
    output = git.text("ls-remote", "--quiet", *upload_pack(repository), "--", url, *names)
    return frozenset(line.partition("\t")[2] for line in output.splitlines()).intersection(names)


def names_of(ref: str) -> tuple[str, ...]:
    """Return the full names of the branches and tags that a ref of the config may mean."""
    names = (f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/{ref}", ref)
    return tuple(name for name in names if name.startswith(_MIRRORED))


def may_be_commit(ref: str) -> bool:
    """Tell whether a ref of the config may name a commit, which a remote does not list as it does branches and tags."""
    return _NOT_A_NAME.fullmatch(ref) is not None


def split_credentials(repository: str) -> tuple[str, dict[str, str]]:
    """Return a URL without user and password, and these as environment variables for the credential helper."""
    if not repository.startswith(_HTTP):
        return repository, {}
    parts = urlsplit(repository)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    variables = {"AGENTCRON_GIT_USER": unquote(name), "AGENTCRON_GIT_PASSWORD": unquote(password)}
    return urlunsplit(parts._replace(netloc=host)), variables if user else {}


def upload_pack(repository: str) -> tuple[str, ...]:
    """Return the option of `git fetch` and `git ls-remote` with which git reads a local repository of another owner.

    Git refuses such a repository ("dubious ownership"), because its owner decides what git obeys there. The config
    names this one, so its path, and no other, is declared safe for the `git upload-pack` that serves this one call.
    What that executes is not the owner's choice: it runs no hook, takes `uploadpack.packObjectsHook` only from
    configuration that the owner cannot write (git-config(1)), and does not fetch what a partial clone lacks, which
    would run the command of a remote of that repository. Git before 2.38 ignores the declaration and still refuses.
    """
    path = local_path(repository)
    if path is None or path.endswith("/*"):  # that would mean every path below
        return ()
    path = os.path.normpath(path)
    folders = {path, os.path.realpath(path)}
    folders |= {f"{folder}/.git" for folder in folders}  # so does git, depending on its version, call a working tree
    settings = [f"-c {shlex.quote(f'safe.directory={folder}')}" for folder in sorted(folders)]
    return ("--upload-pack", f"env GIT_NO_LAZY_FETCH=1 git {' '.join(settings)} upload-pack")


def local_path(repository: str) -> str | None:
    """Return the absolute path of a repository on this host as git takes it, None if it names none."""
    if repository.startswith(_FILE_URL):  # a host's name is part of the path, and any byte may be quoted
        path = os.fsdecode(unquote_to_bytes(os.fsencode(repository.removeprefix(_FILE_URL))))
        return f"/{path.lstrip('/')}"
    return repository if repository.startswith("/") else None
