"""What the mirror keeps for a run: what the run pushed, and nothing that was upstream before."""

import os
import subprocess
from pathlib import Path

import pytest

from daemon.workspaces import git as programs
from daemon.workspaces.clean import clean
from daemon.workspaces.jobs import SavedWork
from daemon.workspaces.kept_commits import keeps_commits
from daemon.workspaces.mirror import Mirror
from tests.support.git_site import GitSite, commit, git, git_that


def mirror_of(site: GitSite) -> Path:
    return site.tasks.parent / "mirror"


def saved(site: GitSite, run: int = 1) -> SavedWork:
    """Clean a workspace up; return what was saved of it."""
    done = clean(site.state, "site", str(run), site.logged.append, base=site.bases[run])
    assert done.gone, done.reason
    assert done.saved is not None
    return done.saved


def test_nothing_is_kept_of_what_was_upstream_before(site: GitSite) -> None:
    git(site.origin, "checkout", "-q", "-b", "release")
    commit(site.origin, "release.txt", "release\n")
    git(site.origin, "tag", "off-the-history")
    git(site.origin, "tag", "-a", "-m", "annotated", "v1")
    git(site.origin, "checkout", "-q", "main")
    git(site.origin, "tag", "in-the-history")
    place = site.prepare()
    git(place, "checkout", "-q", "-b", "seen", "origin/release")
    work = saved(site)
    assert (work.pushed, work.restore) == ((), ())
    assert not keeps_commits(mirror_of(site))


def test_tags_that_a_run_pushed_are_kept(site: GitSite) -> None:
    git(site.origin, "tag", "-a", "-m", "annotated", "v1")
    place = site.prepare(1)
    git(place, "tag", "-a", "-m", "mine", "v2")
    mine = commit(place, "mine.txt", "mine\n")
    git(place, "tag", "v3")
    git(place, "push", "-q", "origin", "v2", "v3")
    tag = git(place, "rev-parse", "v2")
    site.prepare(2)
    assert set(saved(site, 1).pushed) == {tag, mine}


def with_kept_commits(site: GitSite) -> list[str]:
    """Have the mirror keep a commit for each of two runs, and delete them upstream; return their ids."""
    kept = []
    for run in (1, 2):
        place = site.prepare(run)
        kept.append(commit(place, "mine.txt", f"{run}\n"))
        git(place, "push", "-q", "origin", f"HEAD:refs/heads/{run}")
        site.prepare(run + 2)
        assert saved(site, run).pushed == (kept[-1],)
        git(site.origin, "branch", "-q", "-D", str(run))
    site.prepare(5)
    return kept


def kept_in(site: GitSite) -> set[str]:
    names = git(mirror_of(site), "for-each-ref", "--format=%(refname)", "refs/agentcron").splitlines()
    git(mirror_of(site), "fsck", "--connectivity-only")
    return {name.rsplit("/", 1)[1] for name in names}


def object_of(site: GitSite, oid: str) -> Path:
    """Return the file of a loose object of the mirror."""
    return mirror_of(site) / "objects" / oid[:2] / oid[2:]


def opened(site: GitSite) -> Mirror:
    return Mirror(site.state, site.source(), 60, site.logged.append)


@pytest.mark.parametrize("head", ["", None])
def test_a_mirror_without_a_valid_head_gives_its_kept_commits_to_the_next(site: GitSite, head: str | None) -> None:
    kept = with_kept_commits(site)
    (mirror_of(site) / "HEAD").unlink() if head is None else (mirror_of(site) / "HEAD").write_text(head)
    site.prepare(6)
    assert kept_in(site) == set(kept)
    assert not [path for path in site.tasks.parent.iterdir() if "damaged" in path.name]


def test_a_damaged_mirror_gives_the_next_what_can_be_read_and_is_quarantined(site: GitSite) -> None:
    lost, kept = with_kept_commits(site)
    object_of(site, lost).unlink()
    assert opened(site).take_away_if_damaged()
    site.prepare(6)
    assert kept_in(site) == {kept}
    assert (site.tasks.parent / "quarantine/mirror.damaged").is_dir()
    assert any(f"refs/agentcron/runs/1/{lost}" in line for line in site.logged)


def test_a_mirror_whose_refs_cannot_be_read_is_quarantined(site: GitSite) -> None:
    site.prepare(1)
    (mirror_of(site) / "HEAD").unlink()
    (mirror_of(site) / "packed-refs").unlink(missing_ok=True)
    os.mkfifo(mirror_of(site) / "packed-refs")
    site.prepare(2)
    assert (site.tasks.parent / "quarantine/mirror.damaged").is_dir()


FULL = 'echo "fatal: write error: No space left on device" >&2; exit 128'


@pytest.mark.parametrize(
    "fails",
    ["kill -9 $$", FULL, FULL.replace("No space left on device", "Disk quota exceeded")],
    ids=["killed", "full", "quota"],
)
def test_a_damaged_mirror_is_taken_over_later_if_git_fails_for_another_reason(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    kept = with_kept_commits(site)
    (mirror_of(site) / "HEAD").unlink()
    with monkeypatch.context() as patch:
        fetch = f'case "$1 $*" in "fetch "*mirror.damaged*) {fails};; esac'
        patch.setitem(programs._ISOLATED, "PATH", git_that(fetch, tmp_path))
        site.prepare(6)
    assert any("cannot read all commits" in line and "the next fetch retries it" in line for line in site.logged)
    assert mirror_of(site).with_name("mirror.damaged").is_dir()
    site.prepare(7)
    assert kept_in(site) == set(kept)


def test_a_mirror_that_waits_to_be_taken_over_is_quarantined_with_a_word_if_the_next_is_damaged(site: GitSite) -> None:
    with_kept_commits(site)
    subprocess.run(["cp", "-R", str(mirror_of(site)), str(mirror_of(site).with_name("mirror.damaged"))], check=True)
    assert not any("quarantine" in line for line in site.logged)
    (mirror_of(site) / "HEAD").unlink()
    site.prepare(6)
    place = site.tasks.parent / "quarantine/mirror.damaged"
    assert place.is_dir()
    assert any("another mirror is damaged" in line and str(place) in line for line in site.logged)


def test_a_mirror_whose_check_is_killed_stays(site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.prepare()
    monkeypatch.setenv("PATH", git_that('[ "$1" != fsck ] || kill -9 $$', tmp_path))
    assert not opened(site).take_away_if_damaged()
    assert mirror_of(site).is_dir()
