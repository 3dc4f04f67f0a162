"""A local repository of another owner: what the config names is fetched, and what its owner planted is not executed."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.workspaces.mirror import CloneError
from daemon.workspaces.remote import upload_pack
from tests.support.git_site import GitSite, git
from tests.support.other_user import NOBODY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def given_away(folder: Path) -> Path:
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(folder)], check=True)
    return folder


def bare(site: GitSite) -> Path:
    git(site.origin.parent, "clone", "-q", "--bare", str(site.origin), "it's bare.git")
    return given_away(site.origin.parent / "it's bare.git")


def working_tree(site: GitSite) -> Path:
    return given_away(site.origin)


def link(site: GitSite) -> Path:
    given_away(site.origin)
    (site.origin.parent / "link").symlink_to("origin")
    return site.origin.parent / "link"


def git_folder(site: GitSite) -> Path:
    return given_away(site.origin) / ".git"


@pytest.mark.parametrize("kind", [bare, working_tree, link, git_folder])
@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_a_repository_of_another_owner_is_fetched(site: GitSite, kind: Callable[[GitSite], Path], form: str) -> None:
    place = form.format(kind(site))
    for ref in (None, "main", site.first):
        assert git(site.prepare(1, repository=place, ref=ref, require_fetch=True), "rev-parse", "HEAD") == site.first
        subprocess.run(["rm", "-rf", site.tasks.parent], check=True)


def test_no_other_repository_is_declared_safe(site: GitSite) -> None:
    git(site.origin, "clone", "-q", "--bare", str(site.origin), str(site.origin / "inner"))
    given_away(site.origin)
    for declared, asked in ((site.origin, site.origin / "inner"), (site.origin / "inner", site.origin)):
        command = ["git", "ls-remote", *upload_pack(str(declared)), str(asked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "dubious ownership" in done.stderr


@pytest.mark.parametrize("is_partial", [False, True])
def test_nothing_that_its_owner_planted_is_executed(site: GitSite, tmp_path: Path, *, is_partial: bool) -> None:
    ran = tmp_path / "ran"
    run = f"touch {ran};"
    git(site.origin, "config", "uploadpack.packObjectsHook", f"{run} exec")
    git(site.origin, "config", "core.fsmonitor", f"{run} false")
    git(site.origin, "config", "core.alternateRefsCommand", f"{run} true")
    for name in ("post-upload-pack", "pre-upload-pack", "reference-transaction"):
        hook = site.origin / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        hook.chmod(0o755)
    if is_partial:  # what it lacks would be fetched by the command of its remote
        git(site.origin, "config", "extensions.partialClone", "origin")
        git(site.origin, "config", "remote.origin.url", str(tmp_path))
        git(site.origin, "config", "remote.origin.promisor", "true")
        git(site.origin, "config", "remote.origin.uploadpack", f"{run} git-upload-pack")
        blob = git(site.origin, "rev-parse", "HEAD:a.txt")
        (site.origin / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    given_away(site.origin)
    if is_partial:
        with pytest.raises(CloneError, match="cannot fetch"):
            site.prepare(1, require_fetch=True)
    else:
        site.prepare(1, require_fetch=True)
    assert not ran.exists()
