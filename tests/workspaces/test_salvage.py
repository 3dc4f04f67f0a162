"""Salvage: what exists only in a workspace is saved with the artifacts first, and nothing planted is executed."""

import errno
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from daemon.workspaces.clean import clean
from daemon.workspaces.git import _ISOLATED
from daemon.workspaces.jobs import CleanedWorkspace
from tests.support.git_site import GitSite, brought_back, commit, git


def clean_up(site: GitSite, run: int = 1, **keys: Any) -> CleanedWorkspace:  # noqa: ANN401 - whatever clean takes
    return clean(site.state, "site", str(run), site.logged.append, base=site.bases.get(run, site.first), **keys)


def contents(place: Path) -> dict[str, tuple[int, bytes]]:
    """Return the files below a folder, less git's own, with their modes; of links where they lead."""
    found = {}
    for path in sorted(place.rglob("*")):
        if ".git" in path.relative_to(place).parts or (path.is_dir() and not path.is_symlink()):
            continue
        data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        found[str(path.relative_to(place))] = (stat.S_IMODE(path.lstat().st_mode) & 0o111, data)
    return found


def test_all_kinds_of_unsaved_work_come_back_byte_for_byte(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    commit(place, "committed.txt", "committed\n")
    git(place, "commit", "-q", "--allow-empty", "-m", "nothing but a word")
    (place / "a.txt").write_text("stashed\n")
    git(place, "stash", "-q")
    head = git(place, "rev-parse", "HEAD")
    (place / "a.txt").write_bytes(b"dirty \x00\xff\r\n")
    (place / "staged.txt").write_text("staged\n")
    git(place, "add", "staged.txt")
    (place / "both.txt").write_text("in the index\n")
    git(place, "add", "both.txt")
    (place / "both.txt").write_text("in the file\n")
    (place / "untracked.sh").write_text("#!/bin/sh\n")
    (place / "untracked.sh").chmod(0o755)
    (place / "new\nline").write_text("odd name\n")
    (place / "ignored.log").write_text("ignored\n")
    (place / "forced.log").write_text("forced\n")
    git(place, "add", "-f", "forced.log")
    (place / "outside").symlink_to("/etc/passwd")
    (place / "committed.txt").unlink()
    (place / "sub").mkdir()
    (place / "sub" / "deep.bin").write_bytes(bytes(range(256)) * 100)
    expected = contents(place)
    del expected["ignored.log"]

    done = clean_up(site)

    assert done.gone
    assert not place.exists()
    assert site.remnants() == []
    saved = done.saved
    assert saved is not None
    assert (saved.commits, saved.ignored, saved.ignored_names) == (4, 1, ("ignored.log",))  # two, and two of the stash
    back = brought_back(done, tmp_path / "back")
    assert contents(back) == expected
    assert git(back, "log", "--format=%s", "-2").splitlines() == ["nothing but a word", "committed.txt"]
    git(back, "checkout", "-q", "-f", head)
    stash = git(back, "rev-parse", "agentcron/saved/stash")
    assert git(back, "show", f"{stash}:a.txt") == "stashed"
    assert git(back, "show", "agentcron/saved/staged:both.txt") == "in the index"
    assert git(back, "show", "agentcron/saved/files:both.txt") == "in the file"
    text = (site.saved() / "README.txt").read_text()
    assert "ignored.log" in text
    assert all(step in text for step in saved.restore)


def test_the_reported_commands_restore_the_work(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    (place / "more.txt").write_text("more\n")
    (place / "inner").mkdir()
    git(place / "inner", "init", "-q", "-b", "main")
    commit(place / "inner", "inner.txt", "inner\n")
    done = clean_up(site)
    assert done.saved is not None
    brought_back(done, tmp_path)
    assert (tmp_path / "run-1" / "mine.txt").read_text() == "mine\n"
    assert (tmp_path / "run-1" / "more.txt").read_text() == "more\n"
    assert (tmp_path / "run-1-within-1" / "inner.txt").read_text() == "inner\n"


def test_nothing_is_saved_where_nothing_is_new(site: GitSite) -> None:
    place = site.prepare()
    (place / "x.log").write_text("ignored")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/pushed")
    done = clean_up(site)
    assert done.gone
    assert done.saved is not None
    assert (done.saved.folder, done.saved.ignored) == (None, 1)
    assert not site.saved().exists()


def test_what_was_pushed_and_fetched_is_not_saved_again(site: GitSite) -> None:
    place = site.prepare(1)
    commit(place, "mine.txt", "mine\n")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/mine")
    site.prepare(2)  # which fetches
    done = clean_up(site, 1)
    assert done.saved is not None
    assert done.saved.folder is None


def test_a_remote_branch_that_was_only_claimed_to_be_pushed_is_saved(site: GitSite) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", "mine\n")
    git(place, "update-ref", "refs/remotes/origin/main", mine)
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.commits == 1


def test_commits_that_no_branch_leads_to_are_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    lost = commit(place, "lost.txt", "lost\n")
    git(place, "reset", "-q", "--hard", "HEAD~1")
    git(place, "checkout", "-q", "--detach")
    detached = commit(place, "detached.txt", "detached\n")
    clean_up(site)
    git(tmp_path, "clone", "-q", str(site.saved() / "work.bundle"), "back")
    known = git(tmp_path / "back", "rev-list", "--all").splitlines()
    assert {lost, detached} <= set(known)


def test_commits_that_nothing_leads_to_are_saved(site: GitSite, tmp_path: Path) -> None:
    commit(site.origin, "dir/f.txt", "f\n")
    place = site.prepare()
    alone = git(place, "commit-tree", "-m", "alone", "HEAD^{tree}")
    git(place, "worktree", "add", "-q", "--detach", str(place / "tree"))
    gone = commit(place / "tree", "gone.txt", "gone\n")
    git(place, "worktree", "remove", "--force", str(place / "tree"))
    git(place, "worktree", "add", "-q", "--detach", str(tmp_path / "outside"))
    (tmp_path / "outside" / "staged.txt").write_text("staged elsewhere\n")
    git(tmp_path / "outside", "add", "staged.txt")
    (place / "a.txt").write_text("PRECIOUS\n")
    git(place, "update-ref", "refs/remotes/fork/x", git(place, "stash", "create"))
    git(place, "checkout", "-q", "--", ".")
    (place / "dir" / "f.txt").rename(place / "f.txt")
    (place / "dir").rmdir()
    (place / "dir").symlink_to(".")
    done = clean_up(site)
    assert done.gone, done.reason
    git(tmp_path, "clone", "-q", "--mirror", str(site.saved() / "work.bundle"), "back")
    everything = git(tmp_path / "back", "log", "--all", "-m", "-p", "--format=%H")
    assert all(text in everything for text in (alone, gone, "PRECIOUS", "staged elsewhere"))


def test_repositories_within_are_saved_too(site: GitSite, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "library")
    commit(tmp_path / "library", "lib.txt", "library\n")
    git(site.origin, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    git(site.origin, "commit", "-q", "-m", "submodule")
    place = site.prepare()
    inner = place / "inner"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    commit(inner, "inner.txt", "inner\n")
    (inner / "dirty.txt").write_text("dirty\n")
    commit(place / "lib", "lib.txt", "changed\n")
    done = clean_up(site)
    assert done.gone
    assert done.saved is not None
    assert (done.saved.commits, done.saved.files) == (2, 1)
    bundles = sorted(site.saved().glob("within-*/work.bundle"))
    assert len(bundles) == 2
    files = set()
    for number, bundle in enumerate(bundles):
        git(tmp_path, "clone", "-q", str(bundle), f"back-{number}")
        for branch in git(tmp_path / f"back-{number}", "branch", "-r", "--format=%(refname)").splitlines():
            files |= set(git(tmp_path / f"back-{number}", "ls-tree", "-r", "--name-only", branch).splitlines())
    assert {"inner.txt", "dirty.txt", "lib.txt"} <= files


def test_too_much_unsaved_work_stays_unless_there_is_no_limit(site: GitSite) -> None:
    place = site.prepare()
    (place / "big.bin").write_bytes(os.urandom(3_000_000))
    done = clean_up(site, salvage_max=1_000_000)
    assert not done.gone
    assert "its unsaved work (2.9 MiB) is more than salvage_max (976.6 KiB)" in str(done.reason)
    assert (place / "big.bin").exists()
    assert site.remnants() == []
    assert clean_up(site, salvage_max=None).gone
    assert (site.saved() / "work.bundle").stat().st_size > 3_000_000


def everything(place: Path) -> dict[str, tuple[int, bytes]]:
    """Return all files below a folder, git's own too, with their modes; of links where they lead."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(place))] = (0, os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[str(path.relative_to(place))] = (stat.S_IMODE(path.lstat().st_mode), path.read_bytes())
    return found


def assert_saved_as_it_was(done: CleanedWorkspace, tmp_path: Path, expected: dict[str, Any], reason: str) -> None:
    assert done.gone, done.reason
    assert done.saved is not None
    assert reason in "".join(done.saved.as_it_was)
    assert everything(brought_back(done, tmp_path / "back")) == expected


def test_a_workspace_whose_repository_is_damaged_is_saved_as_it_was(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    for path in (place / ".git" / "objects").glob("??/*"):
        path.chmod(0o600)
        path.write_bytes(b"garbage")
    expected = everything(place)
    assert_saved_as_it_was(clean_up(site), tmp_path, expected, "git ")
    assert site.remnants() == []
    assert ".: git" in (site.saved() / "README.txt").read_text()


def test_a_workspace_that_cannot_be_saved_in_any_way_stays(site: GitSite, monkeypatch: pytest.MonkeyPatch) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    (place / ".git/objects").rename(place / ".git/lost")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("daemon.workspaces.salvage.archive.Archive.add_tree", full)
    done = clean_up(site)
    assert not done.gone
    assert "its work cannot be saved: No space left on device" in str(done.reason)
    assert (place / "mine.txt").exists()
    assert site.remnants() == []
    assert not site.saved().exists()
    assert any("[cleanup] ERROR: Failed to remove task workspace" in line for line in site.logged)


def test_files_are_saved_even_if_the_repository_was_deleted(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    (place / "mine.txt").write_text("mine\n")
    subprocess.run(["rm", "-rf", str(place / ".git")], check=True)
    back = brought_back(clean_up(site), tmp_path)
    assert (back / "mine.txt").read_text() == "mine\n"


def test_a_git_folder_behind_a_link_is_not_read(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    (place / ".git").rename(tmp_path / "stolen")
    (place / ".git").symlink_to(tmp_path / "stolen")
    expected = everything(place)
    assert_saved_as_it_was(clean_up(site), tmp_path, expected, "a link leads to it")
    assert (tmp_path / "stolen" / "HEAD").exists()


@pytest.mark.parametrize("spoiled", ["objects", "refs/heads", "HEAD", "index", "refs/heads/agentcron/1"])
def test_a_repository_that_cannot_be_read_is_not_taken_for_none(site: GitSite, tmp_path: Path, spoiled: str) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    (place / ".git" / spoiled).rename(tmp_path / "away")
    (place / ".git" / spoiled).symlink_to(tmp_path / "away")
    expected = everything(place)
    assert_saved_as_it_was(clean_up(site), tmp_path, expected, "link")


def test_a_folder_that_git_cannot_read_is_not_taken_for_empty(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git only warns of such a folder, and ends well."""
    place = site.prepare()
    (place / "mine.txt").write_text("mine\n")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/git"
    warns = '[ "$1" != ls-files ] || echo "warning: could not open directory" >&2'
    program.write_text(f'#!/bin/sh\n{warns}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    expected = everything(place)
    monkeypatch.setitem(_ISOLATED, "PATH", f"{program.parent}:{os.environ['PATH']}")
    assert_saved_as_it_was(clean_up(site), tmp_path, expected, "could not open directory")


def test_repositories_of_all_kinds_below_are_found(site: GitSite, tmp_path: Path) -> None:
    commit(site.origin, "lib/code.txt", "code\n")
    place = site.prepare()
    git(place / "lib", "init", "-q", "-b", "main")
    commit(place / "lib", "inner.txt", "inner\n")
    git(place, "worktree", "add", "-q", str(place / "tree"), "-b", "tree")
    lost = commit(place / "tree", "lost.txt", "lost\n")
    git(place / "tree", "reset", "-q", "--hard", "HEAD~1")
    (place / "tree" / "dirty.txt").write_text("dirty\n")
    (place / "ignored.log").mkdir()
    git(place / "ignored.log", "init", "-q")
    done = clean_up(site)
    assert done.gone, done.reason
    everything = ""
    for number, bundle in enumerate(sorted(site.saved().rglob("work.bundle"))):
        git(tmp_path, "clone", "-q", str(bundle), f"back-{number}")
        everything += git(tmp_path / f"back-{number}", "log", "--all", "--format=%H", "--name-only")
    assert all(name in everything for name in (lost, "inner.txt", "dirty.txt"))


def test_modules_that_are_no_longer_checked_out_are_saved(site: GitSite, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "library")
    commit(tmp_path / "library", "lib.txt", "library\n")
    git(site.origin, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    git(site.origin, "commit", "-q", "-m", "submodule")
    place = site.prepare()
    mine = commit(place / "lib", "mine.txt", "mine\n")
    git(place, "submodule", "deinit", "-q", "-f", "lib")
    assert clean_up(site).gone
    assert any(
        mine in git(path.parent, "bundle", "list-heads", path.name) for path in site.saved().rglob("work.bundle")
    )


def test_odd_names_of_branches_folders_and_files_are_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    inner = place / os.fsdecode(b"caf\xe9\n@rm")
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    commit(inner, "inner.txt", "inner\n")
    git(place, "checkout", "-q", "-b", os.fsdecode(b"caf\xe9"))
    commit(place, "mine.txt", "mine\n")
    (place / "git~1").write_text("odd\n")
    (place / "sub" / ".GIT").mkdir(parents=True)
    (place / "sub" / ".GIT" / "notes").write_text("no name for git\n")
    done = clean_up(site)
    back = brought_back(done, tmp_path / "all")
    assert (back / "sub" / ".GIT" / "notes").read_text() == "no name for git\n"
    assert (back / "git~1").read_text() == "odd\n"
    assert done.saved is not None
    assert done.saved.files == 2
    assert "\n@rm" not in (site.saved() / "README.txt").read_text()
    git(tmp_path, "init", "-q", "back")
    git(tmp_path / "back", "fetch", "-q", str(site.saved() / "work.bundle"), "+refs/heads/*:refs/heads/*")
    names = git(tmp_path / "back", "ls-tree", "-r", "--name-only", "agentcron/saved/files")
    assert "git~1" in names.splitlines()


def test_a_cleanup_that_fails_again_and_again_saves_the_same_work_once(
    site: GitSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    (place / "dirty.txt").write_text("dirty\n")

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, "in the way", str(place))

    with monkeypatch.context() as patch:
        patch.setattr("daemon.workspaces.clean.discard", refuse)
        assert [clean_up(site).gone for _ in range(3)] == [False] * 3
    assert [path.name for path in site.saved().parent.iterdir()] == ["saved-work"]
    assert clean_up(site).gone
    assert [path.name for path in site.saved().parent.iterdir()] == ["saved-work"]


def test_a_pipe_in_the_place_of_a_file_and_a_shallow_clone_within_are_saved(site: GitSite) -> None:
    place = site.prepare()
    (place / "a.txt").unlink()
    os.mkfifo(place / "a.txt")
    git(place, "clone", "-q", "--depth", "1", f"file://{site.origin}", "shallow")
    (place / "shallow" / "mine.txt").write_text("mine\n")
    done = clean_up(site)
    assert done.gone, done.reason


def test_line_endings_that_a_repository_converts_are_no_change(site: GitSite) -> None:
    commit(site.origin, ".gitattributes", "*.txt text eol=crlf\n")
    place = site.prepare()
    assert b"\r\n" in (place / "a.txt").read_bytes()
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.folder is None


PLANTED = {
    "what reading starts": {
        "core.fsmonitor": "'touch {canary}-fsmonitor; false'",
        "core.hooksPath": "{hooks}",
        "core.pager": "'touch {canary}-pager; cat'",
        "alias.status": "'!touch {canary}-status'",
        "alias.bundle": "'!touch {canary}-bundle'",
        "core.sshCommand": "'touch {canary}-ssh; false'",
        "core.editor": "'touch {canary}-editor; false'",
        "credential.helper": "'!touch {canary}-credentials'",
        "gpg.program": "{hooks}/post-index-change",
        "commit.gpgSign": "true",
        "uploadpack.packObjectsHook": "'touch {canary}-pack; exec'",
        "core.gitProxy": "{hooks}/post-index-change",
        "core.alternateRefsCommand": "'touch {canary}-alternates; echo'",
        "core.askPass": "{hooks}/post-index-change",
    },
    "what changes or shows text": {
        "filter.x.clean": "'touch {canary}-clean; cat'",
        "filter.x.smudge": "'touch {canary}-smudge; cat'",
        "filter.x.process": "'touch {canary}-process'",
        "filter.x.required": "true",
        "diff.external": "'touch {canary}-diff; true'",
        "diff.x.textconv": "'touch {canary}-textconv; cat'",
        "diff.x.command": "'touch {canary}-command'",
    },
    "another file": {"include.path": "{included}"},
}


@pytest.mark.parametrize("kind", PLANTED)
def test_nothing_that_an_agent_planted_is_executed(site: GitSite, tmp_path: Path, kind: str) -> None:
    place = site.prepare()
    (tmp_path / "canaries").mkdir()
    canary, hooks, included = tmp_path / "canaries" / "of", tmp_path / "hooks", tmp_path / "included"
    included.write_text(f'[core]\n\tfsmonitor = "touch {canary}-included; false"\n')
    for folder in (hooks, place / ".git" / "hooks"):
        folder.mkdir(exist_ok=True)
        for name in ("post-index-change", "reference-transaction", "pre-commit", "post-checkout", "pre-auto-gc"):
            (folder / name).write_text(f"#!/bin/sh\ntouch {canary}-{folder.name}-{name}\n")
            (folder / name).chmod(0o755)
    inner = place / "inner"
    commit(place, "mine.txt", "mine\n")
    inner.mkdir()
    git(inner, "init", "-q")
    commit(inner, "inner.txt", "inner\n")
    for repository in (place, inner):
        for key, value in PLANTED[kind].items():
            script = f"git config {key} {value.format(canary=canary, hooks=hooks, included=included)}"
            subprocess.run(["sh", "-c", script], cwd=repository, check=True)
        if kind == "what changes or shows text":
            (repository / ".gitattributes").write_text("* filter=x diff=x\n")
        (repository / "a.txt").write_text("changed\n")
    for executed in canary.parent.iterdir():
        executed.unlink()
    done = clean_up(site)
    assert list(canary.parent.iterdir()) == []
    assert done.gone, done.reason
    assert done.saved is not None
    assert done.saved.commits >= 2
    site.prepare(2)
    assert list(canary.parent.iterdir()) == []


def test_artifacts_that_are_there_are_not_overwritten(site: GitSite) -> None:
    place = site.prepare()
    site.saved().mkdir(parents=True)
    (site.saved() / "README.txt").write_text("the agent's\n")
    (place / "mine.txt").write_text("mine\n")
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.folder == "artifacts/saved-work-2"
    assert (site.saved() / "README.txt").read_text() == "the agent's\n"
    told = json.loads((site.saved().parent / "saved-work-2" / "saved.json").read_text())
    assert told["files"] == 1


def test_a_link_in_the_place_of_the_artifacts_is_not_followed(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    (tmp_path / "elsewhere").mkdir()
    (site.state / "runs" / "1").mkdir(parents=True)
    (site.state / "runs" / "1" / "artifacts").symlink_to(tmp_path / "elsewhere")
    (place / "mine.txt").write_text("mine\n")
    done = clean_up(site)
    assert not done.gone
    assert place.exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []
