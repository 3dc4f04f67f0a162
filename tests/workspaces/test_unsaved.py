"""What would be lost with a workspace is counted as salvage would save it, and nothing is saved by that."""

from pathlib import Path

import pytest

from daemon.workspaces.clean import clean, examine
from daemon.workspaces.git import _ISOLATED
from daemon.workspaces.jobs import UnsavedCounts
from tests.support.git_site import GitSite, commit, git, git_that


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


def test_unchanged_files_do_not_count_where_git_is_ended_before_it_has_compared_them(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = site.prepare()
    (place / "a.txt").write_text("one\n")
    dies = 'case "$*" in *--really-refresh*) kill -9 $$;; esac'
    monkeypatch.setitem(_ISOLATED, "PATH", git_that(dies, tmp_path))
    found = counted(site)
    assert found.files == 0
    [reason] = found.uncounted
    assert "git update-index" in reason
    assert not clean(site.state, "site", "1", site.logged.append, base=site.bases[1]).gone
    assert place.exists()


@pytest.mark.parametrize("target", ["x" * 300, "a\0b"], ids=["too long", "with NUL"])
def test_a_git_folder_of_an_impossible_name_keeps_no_workspace(site: GitSite, target: str) -> None:
    place = site.prepare()
    (place / "inner").mkdir()
    (place / "inner" / ".git").write_text(f"gitdir: {target}\n")
    assert [text.partition(":")[0] for text in counted(site).uncounted] == ["inner"]
    assert clean(site.state, "site", "1", site.logged.append, base=site.bases[1]).gone


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
