"""What the mirror keeps for a run: what the run pushed, and nothing that was upstream before."""

from pathlib import Path

from daemon.workspaces.clean import clean
from daemon.workspaces.jobs import SavedWork
from daemon.workspaces.kept_commits import keeps_commits
from tests.support.git_site import GitSite, commit, git


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
