"""Artifacts among which saved work is stored: what an agent left there holds up no cleanup, and is not taken for it."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.workspaces.clean import clean
from daemon.workspaces.jobs import CleanedWorkspace
from tests.support.git_site import GitSite

OBJECT = b"precious"
OID = hashlib.sha256(OBJECT).hexdigest()
LARGE = 2**60  # bytes: to read that much takes for ever


def clean_up(site: GitSite) -> CleanedWorkspace:
    return clean(site.state, "site", "1", site.logged.append, base=site.bases[1])


def workspace_with_work(site: GitSite) -> Path:
    """Make a workspace of which a bundle, an archive and an object of Git LFS are saved."""
    place = site.prepare()
    (place / "mine.txt").write_text("mine\n")
    (place / "sub/.GIT").mkdir(parents=True)
    (place / "sub/.GIT/x").write_text("no name for git\n")
    stored = place / ".git/lfs/objects" / OID[:2] / OID[2:4]
    stored.mkdir(parents=True)
    (stored / OID).write_bytes(OBJECT)
    return place


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(LARGE)


@pytest.mark.parametrize("make", [os.mkfifo, sparse, lambda path: path.symlink_to("/dev/zero")])
def test_what_never_ends_among_the_artifacts_is_not_read(site: GitSite, make: Callable[[Path], None]) -> None:
    workspace_with_work(site)
    for name in ("work.bundle", "work.tar", f"lfs/objects/{OID[:2]}/{OID[2:4]}/{OID}", "lfs/objects/aa/bb/x"):
        planted = site.saved() / name
        planted.parent.mkdir(parents=True, exist_ok=True)
        make(planted)
    done = clean_up(site)
    assert done.gone, done.reason
    assert done.saved is not None
    assert done.saved.folder == "artifacts/saved-work-2"


def failed_then_cleaned(site: GitSite, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save the work of a workspace in a cleanup that then fails; return where it is saved."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, "in the way")

    with monkeypatch.context() as patch:
        patch.setattr("daemon.workspaces.clean.discard", refuse)
        done = clean_up(site)
    assert done.saved is not None
    assert done.saved.folder is not None
    return site.state / "runs/1" / done.saved.folder


def test_saved_work_is_found_again_among_many_folders_with_its_name(
    site: GitSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace_with_work(site)
    for number in range(2, 22):
        (site.saved().parent / f"saved-work-{number}").mkdir(parents=True)
    saved = failed_then_cleaned(site, monkeypatch)
    assert failed_then_cleaned(site, monkeypatch) == saved
    assert clean_up(site).gone
    assert len(list(saved.parent.iterdir())) == 21


@pytest.mark.parametrize("moved", ["lfs", "work.tar", "work.bundle"])
def test_work_behind_a_link_does_not_count_as_saved(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    workspace_with_work(site)
    saved = failed_then_cleaned(site, monkeypatch)
    shutil.move(saved / moved, tmp_path / "elsewhere")
    (saved / moved).symlink_to(tmp_path / "elsewhere")
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.folder == "artifacts/saved-work-2"
