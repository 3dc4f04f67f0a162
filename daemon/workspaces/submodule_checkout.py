"""Clone the submodules of a clone and check them out, so that git stores their own URLs.

Standard library only: the helper process imports this.
"""

from collections.abc import Mapping
from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.gitmodules import initialized_submodules
from daemon.workspaces.local_repositories import check_url
from daemon.workspaces.remote import file_settings

_UPDATE = ("submodule", "update", "--progress")
_NO_PLAIN_PATHS = ("-c", "url.file:///.insteadOf=/")
"""For a plain path git makes hard links, by which an agent could change the objects of the other repository."""


def check_out_from_mirrors(git: Git, mirrors: Mapping[str, str]) -> None:
    """Check out submodules of all depths from URLs of mirrors, given by their own; git may reach nothing else."""
    variables = {f"AGENTCRON_URL_{number}": url for number, url in enumerate(mirrors)}  # others can read arguments
    settings = zip(mirrors.values(), variables, strict=True)
    instead = (f"--config-env=url.{mirror}.insteadOf={variable}" for mirror, variable in settings)
    git.run(*instead, *_UPDATE, "--init", "--recursive", stdin=b"", GIT_ALLOW_PROTOCOL="file", **variables)


def check_out_from_remotes(git: Git, repository: str, state_dir: Path) -> None:
    """Check out submodules from their remotes, each level once its URLs have been checked.

    `repository` is what the config names. Raise CloneError, GitError or OSError.
    """
    left = [git]
    while left:
        git = left.pop()
        found = initialized_submodules(git, "HEAD")
        for one in found:
            check_url(f"the submodule {one.path!r}", one.url, repository, state_dir)
        if found:
            git.run(*file_settings(repository), *_NO_PLAIN_PATHS, *_UPDATE)
        left += [git.in_folder(git.folder / one.path) for one in found]
