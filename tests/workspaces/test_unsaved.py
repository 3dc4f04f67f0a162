"""What would be lost with a workspace is counted as salvage would save it, and nothing is saved by that."""

from daemon.workspaces.clean import examine
from daemon.workspaces.jobs import UnsavedCounts
from tests.support.git_site import GitSite, commit, git


def counted(site: GitSite) -> UnsavedCounts:
    return examine(site.state, "site", "1", base=site.bases[1]).unsaved


def test_only_what_exists_nowhere_else_counts(site: GitSite) -> None:
    place = site.prepare()
    assert counted(site) == UnsavedCounts()
    commit(place, "new.txt", "committed\n")
    (place / "a.txt").write_text("changed\n")
    (place / "x.log").write_text("ignored\n")
    (place / "forced.log").write_text("ignored, but added\n")
    git(place, "add", "-f", "forced.log")
    assert counted(site) == UnsavedCounts(commits=1, files=2, ignored=1)
    assert place.exists()
    assert site.remnants() == []


def test_nested_repositories_count_too_and_an_unreadable_one_is_named(site: GitSite) -> None:
    place = site.prepare()
    inner, damaged = place / "inner", place / "damaged"
    for folder in (inner, damaged):
        folder.mkdir()
        git(folder, "init", "-q")
        commit(folder, "b.txt", "committed\n")
    (inner / "c.txt").write_text("new\n")
    (damaged / ".git" / "reftable").mkdir()
    found = counted(site)
    assert (found.commits, found.files) == (1, 1)
    [reason] = found.uncounted
    assert reason.startswith("damaged: its refs are in the reftable format")
