"""Salvage of repositories in the odd states that agents leave them in: nothing of their work is lost, nothing hangs."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.workspaces.clean import clean
from daemon.workspaces.jobs import CleanedWorkspace
from daemon.workspaces.salvage import history
from tests.support.git_site import GitSite, brought_back, commit, git

PRECIOUS = "precious\n"


def clean_up(site: GitSite, run: int = 1) -> CleanedWorkspace:
    done = clean(site.state, "site", str(run), site.logged.append, base=site.bases[run], salvage_max=None)
    assert done.gone, done.reason
    return done


def saved_text(site: GitSite, tmp_path: Path) -> str:
    """Return every change in every commit of every bundle that was saved."""
    text = ""
    for number, bundle in enumerate(sorted(site.saved().rglob("work.bundle"))):
        git(tmp_path, "clone", "-q", "--mirror", str(bundle), f"back-{number}")
        text += git(tmp_path / f"back-{number}", "log", "--all", "-m", "-p", "--format=%H")
    return text


def archived(site: GitSite, tmp_path: Path, done: CleanedWorkspace) -> list[bytes]:
    """Bring everything back; return the names of what is there now."""
    back = brought_back(done, tmp_path / "all").parent
    assert list(site.saved().rglob("work.tar"))
    return [os.fsencode(path.relative_to(back)) for path in back.rglob("*")]


def submodule(site: GitSite, tmp_path: Path) -> None:
    """Give the repository a submodule `lib`."""
    git(tmp_path, "init", "-q", "-b", "main", "library")
    commit(tmp_path / "library", "lib.txt", "library\n")
    git(site.origin, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    git(site.origin, "commit", "-q", "-m", "submodule")


def test_a_repository_that_was_committed_as_an_embedded_one_is_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    git(place, "init", "-q", "-b", "main", "inner")
    commit(place / "inner", "mine.txt", PRECIOUS)
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "all")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_a_commit_of_a_submodule_that_was_committed_outside_is_saved(site: GitSite, tmp_path: Path) -> None:
    submodule(site, tmp_path)
    place = site.prepare()
    commit(place / "lib", "lib.txt", PRECIOUS)
    git(place, "commit", "-q", "-a", "-m", "bump")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_a_submodule_in_a_submodule_that_is_not_checked_out_is_saved_once(site: GitSite) -> None:
    place = site.prepare()
    inner = place / ".git/modules/a/modules/b"
    for folder, name in ((place / ".git/modules/a", "a"), (inner, "b")):
        folder.parent.mkdir(exist_ok=True)
        git(place, "init", "-q", "--separate-git-dir", str(folder), name)
    commit(place / "b", "mine.txt", PRECIOUS)
    shutil.rmtree(place / "b")
    clean_up(site)
    assert len(list(site.saved().rglob("work.bundle"))) == 1


@pytest.mark.parametrize("name", ["refs/files", "refs/staged", "refs/lost-0", "refs/stash-0", "refs/notes/commits"])
def test_refs_that_are_called_like_ours_are_saved(site: GitSite, tmp_path: Path, name: str) -> None:
    place = site.prepare()
    commit(place, "mine.txt", PRECIOUS)
    git(place, "update-ref", name, "HEAD")
    git(place, "reset", "-q", "--hard", "HEAD~1")
    git(place, "reflog", "expire", "--expire=now", "--all")
    (place / "a.txt").write_text("staged\n")
    git(place, "add", "a.txt")
    (place / "a.txt").write_text("dirty\n")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


@pytest.mark.parametrize(
    "path", ["heads/agentcron/1.lock", "heads/my~branch", "heads/a..b", "heads/HEAD.", "odd/.hidden", "heads/a b"]
)
def test_refs_with_names_that_git_refuses_are_saved(site: GitSite, tmp_path: Path, path: str) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", PRECIOUS)
    git(place, "reset", "-q", "--hard", "HEAD~1")
    git(place, "reflog", "expire", "--expire=now", "--all")
    ref = place / ".git" / "refs" / path
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(mine + "\n")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_a_branch_that_stands_above_ours_is_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    git(place, "checkout", "-q", "-b", "aside")
    git(place, "branch", "-q", "-D", "agentcron/1")
    git(place, "checkout", "-q", "-b", "agentcron")
    commit(place, "mine.txt", PRECIOUS)
    (place / "dirty.txt").write_text("dirty\n")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_branches_called_like_a_commit_or_like_a_folder_of_another_are_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", PRECIOUS)
    (place / ".git/refs/heads" / mine).write_text(mine + "\n")
    with (place / ".git/packed-refs").open("a") as packed:
        packed.write(f"{mine} refs/heads/twice\n{mine} refs/heads/twice/over\n")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_what_is_staged_beside_a_conflict_is_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    git(place, "checkout", "-q", "-b", "other")
    commit(place, "a.txt", "other\n")
    git(place, "checkout", "-q", "agentcron/1")
    commit(place, "a.txt", "mine\n")
    merge = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "merge", "-q", "other"]
    assert subprocess.run(merge, cwd=place, check=False, capture_output=True).returncode == 1
    (place / "staged.txt").write_text(PRECIOUS)
    git(place, "add", "staged.txt")
    (place / "staged.txt").write_text("later\n")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_a_clone_of_a_folder_that_may_be_gone_is_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    git(tmp_path, "init", "-q", "-b", "main", "elsewhere")
    commit(tmp_path / "elsewhere", "mine.txt", PRECIOUS)
    git(place, "clone", "-q", str(tmp_path / "elsewhere"), "inner")
    git(place, "clone", "-q", str(tmp_path / "elsewhere"), "known")
    git(place / "known", "remote", "set-url", "origin", "https://example.org/known.git")
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.commits == 1
    assert "+precious" in saved_text(site, tmp_path)


def test_a_split_index_is_read(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    (place / "a.txt").write_text(PRECIOUS)
    git(place, "add", "a.txt")
    git(place, "update-index", "--split-index")
    (place / "a.txt").write_text("dirty\n")
    git(place, "add", "--intent-to-add", ".")
    clean_up(site)
    assert "+precious" in saved_text(site, tmp_path)


def test_what_a_sparse_checkout_leaves_out_is_not_saved_as_deleted(site: GitSite, tmp_path: Path) -> None:
    commit(site.origin, "big/b.txt", "two\n")
    place = site.prepare()
    git(place, "sparse-checkout", "set", "small")
    assert not (place / "big").exists()
    (place / "a.txt").write_text("changed\n")
    clean_up(site)
    bundle = str(site.saved() / "work.bundle")
    git(tmp_path, "clone", "-q", "--mirror", bundle, "back")
    changed = git(tmp_path / "back", "show", "--format=", "--name-only", "agentcron/saved/files")
    assert changed.split() == ["a.txt"]


def test_a_long_history_is_left_to_the_mirror_which_keeps_what_the_remote_forgets(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_SELF_CONTAINED_MAX", 0)
    commit(site.origin, "b.txt", "rewritten later\n")
    place = site.prepare(1)
    commit(place, "mine.txt", PRECIOUS)
    git(site.origin, "reset", "-q", "--hard", site.first)
    commit(site.origin, "c.txt", "new\n")
    site.prepare(2)
    done = clean_up(site)
    assert done.saved is not None
    assert (site.saved() / "work.bundle").stat().st_size < 1000
    back = brought_back(done, tmp_path / "back")
    assert git(back, "show", "agentcron/1:mine.txt") == PRECIOUS.strip()
    assert git(back, "rev-list", "--count", "agentcron/1") == "3"


def test_saved_work_that_was_damaged_is_saved_again(site: GitSite, monkeypatch: pytest.MonkeyPatch) -> None:
    place = site.prepare()
    (place / "mine.txt").write_text(PRECIOUS)

    def refuse(*_: object) -> None:
        raise OSError(16, "busy")

    with monkeypatch.context() as patch:
        patch.setattr("daemon.workspaces.clean.discard", refuse)
        for _ in range(2):
            assert not clean(site.state, "site", "1", site.logged.append, base=site.bases[1]).gone
    assert [entry.name for entry in site.saved().parent.iterdir()] == ["saved-work"]
    bundle = site.saved() / "work.bundle"
    bundle.write_bytes(bundle.read_bytes()[:-60])
    clean_up(site)
    assert sorted(entry.name for entry in site.saved().parent.iterdir()) == ["saved-work", "saved-work-2"]


def test_an_undecodable_name_is_reported_as_text(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    Path(os.fsdecode(os.fsencode(place) + b"/caf\xe9/.git")).mkdir(parents=True)
    done = clean_up(site)
    assert done.saved is not None
    assert "caf\\udce9" in done.saved.as_it_was[0]
    assert os.fsencode("run-1/caf") + b"\xe9/.git" in archived(site, tmp_path, done)


@pytest.mark.parametrize("name", [".gitattributes", ".gitignore", "inner/.git", "inner/.gitignore"])
def test_a_repository_with_a_pipe_that_git_would_hang_on_is_saved_as_it_was(
    site: GitSite, tmp_path: Path, name: str
) -> None:
    place = site.prepare()
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).unlink(missing_ok=True)
    os.mkfifo(place / name)
    (place / "mine.txt").write_text(PRECIOUS)
    done = clean_up(site)
    assert done.saved is not None
    assert f"{name} is not a regular file" in done.saved.as_it_was[0]
    found = archived(site, tmp_path, done)
    assert os.fsencode(f"run-1/{name}") in found
    assert b"run-1/mine.txt" in found


def test_a_file_that_is_larger_than_the_disk_is_saved_if_it_consists_of_holes(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    with (place / "huge.bin").open("wb") as huge:
        huge.seek(1 << 42)
        huge.write(b"middle")
        huge.truncate(1 << 43)
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.stored < 100_000
    back = brought_back(done, tmp_path / "back") / "huge.bin"
    assert (back.stat().st_size, back.stat().st_blocks < 100) == (1 << 43, True)
    with back.open("rb") as huge:
        huge.seek(1 << 42)
        assert huge.read(7) == b"middle\0"


@pytest.mark.parametrize("count", [1001, pytest.param(200_000, marks=pytest.mark.soak)])
def test_more_refs_than_a_bundle_can_hold_come_back(site: GitSite, tmp_path: Path, count: int) -> None:
    place = site.prepare()
    first, second = commit(place, "b.txt", "two\n"), commit(place, "c.txt", PRECIOUS)
    lines = [f"{(first, second)[number % 2]} refs/tags/t{number:06d}\n" for number in range(count)]
    (place / ".git" / "packed-refs").write_text("# pack-refs with: sorted \n" + "".join(lines))
    (place / "a.txt").write_text("changed\n")
    facts = ("for-each-ref", "refs/heads", "refs/tags"), ("rev-parse", "HEAD"), ("diff", "HEAD")
    wanted = [git(place, *fact) for fact in facts]
    done = clean_up(site)
    assert done.saved is not None
    [reason] = done.saved.as_it_was
    assert f"{count + 2} of its refs have unsaved work" in reason  # also the branch, and what was changed
    assert not list(site.saved().rglob("work.bundle"))
    back = brought_back(done, tmp_path / "back")
    assert [git(back, *fact) for fact in facts] == wanted


@pytest.mark.parametrize("small_disk", ["20m"], indirect=True)
@pytest.mark.parametrize(("upstream", "mine"), [(0, 12_000_000), (0, 7_000_000), (3_200_000, 1)])
def test_more_than_the_disk_holds_is_refused_at_once(small_disk: Path, upstream: int, mine: int) -> None:
    """A bundle and the copy that is brought back of it, with the history before the work, have to fit."""
    site = GitSite(small_disk)
    (site.origin / "known.bin").write_bytes(os.urandom(upstream))
    git(site.origin, "add", "known.bin")
    git(site.origin, "commit", "-q", "-m", "known")
    place = site.prepare()
    (place / "large.bin").write_bytes(os.urandom(mine))
    done = clean(site.state, "site", "1", site.logged.append, base=site.bases[1], salvage_max=None)
    assert not done.gone
    assert "do not fit on the disk" in str(done.reason)


@pytest.mark.parametrize("small_disk", ["20m"], indirect=True)
def test_objects_of_git_lfs_take_no_room_where_a_link_is_enough(small_disk: Path) -> None:
    site = GitSite(small_disk)
    place = site.prepare()
    content = os.urandom(11_000_000)
    oid = hashlib.sha256(content).hexdigest()
    stored = place / ".git/lfs/objects" / oid[:2] / oid[2:4]
    stored.mkdir(parents=True)
    (stored / oid).write_bytes(content)
    clean_up(site)
    assert [path.read_bytes() for path in site.saved().glob("lfs/objects/*/*/*")] == [content]


def test_repositories_and_worktrees_in_ignored_folders_are_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    commit(place, ".gitignore", "*.log\n/vendor\n/trees\n")
    git(place, "init", "-q", "-b", "main", "vendor/inner")
    commit(place / "vendor/inner", "mine.txt", PRECIOUS)
    git(place, "worktree", "add", "-q", "trees/side")
    (place / "trees/side/a.txt").write_text("in the tree\n")
    clean_up(site)
    text = saved_text(site, tmp_path)
    assert "+precious" in text
    assert "+in the tree" in text


def test_files_that_git_would_convert_come_back_as_they_were(site: GitSite, tmp_path: Path) -> None:
    attributes = "*.bat text eol=crlf\n*.u16 text working-tree-encoding=UTF-16LE\n*.id ident\n"
    commit(site.origin, ".gitattributes", attributes)
    (site.origin / "k.u16").write_bytes("l1\nl2\n".encode("utf-16-le"))
    git(site.origin, "add", "k.u16")
    commit(site.origin, "x.bat", "a\nb\n")
    place = site.prepare()
    wanted = {
        "k.u16": "l1\nCHANGED\n".encode("utf-16-le"),
        "x.bat": b"a\r\nB\nmixed\r\n",
        "new.bat": b"lf only\n",
        "new.id": b"$Id: mine $\n",
    }
    for name, data in wanted.items():
        (place / name).write_bytes(data)
    done = clean_up(site)
    assert done.saved is not None
    brought_back(done, tmp_path)
    assert {name: (tmp_path / "run-1" / name).read_bytes() for name in wanted} == wanted
