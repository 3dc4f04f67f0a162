"""Salvage: what exists only in a workspace is in the artifacts before it goes, and nothing planted is executed."""

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from daemon.workspaces.cleaning import Cleaned, clean
from tests.workspaces.conftest import Site, commit, git


def clean_up(site: Site, run: int = 1, **keys: Any) -> Cleaned:  # noqa: ANN401 - whatever clean takes
    return clean(site.state, "site", str(run), site.said.append, base=site.first, **keys)


def contents(place: Path) -> dict[str, tuple[int, bytes]]:
    """Return the files below a folder, less git's own, with their modes; of links where they lead."""
    found = {}
    for path in sorted(place.rglob("*")):
        if ".git" in path.relative_to(place).parts or (path.is_dir() and not path.is_symlink()):
            continue
        data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        found[str(path.relative_to(place))] = (stat.S_IMODE(path.lstat().st_mode) & 0o111, data)
    return found


def restored(site: Site, tmp_path: Path, patch_on: str, run: int = 1) -> Path:
    """Bring saved work back as the instructions say: clone the bundle, apply the patch."""
    back = tmp_path / f"back-{run}"
    git(tmp_path, "clone", "-q", str(site.saved(run) / "work.bundle"), str(back))
    git(back, "checkout", "-q", patch_on)
    git(back, "apply", "--binary", str(site.saved(run) / "work.patch"))
    return back


def test_all_kinds_of_unsaved_work_come_back_byte_for_byte(site: Site, tmp_path: Path) -> None:
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
    assert (saved.commits, saved.ignored, saved.ignored_names) == (4, 1, ["ignored.log"])  # two, and two of the stash
    back = restored(site, tmp_path, head)
    assert contents(back) == expected
    assert git(back, "log", "--format=%s", "-2").splitlines() == ["nothing but a word", "committed.txt"]
    git(back, "checkout", "-q", "-f", head)
    stash = git(back, "rev-parse", "origin/agentcron/saved/stash")
    assert git(back, "show", f"{stash}:a.txt") == "stashed"
    assert git(back, "show", "origin/agentcron/saved/staged:both.txt") == "in the index"
    assert git(back, "show", "origin/agentcron/saved/files:both.txt") == "in the file"
    text = (site.saved() / "README.txt").read_text()
    assert "ignored.log" in text
    assert all(step in text for step in saved.restore)


def test_the_commands_that_are_told_bring_the_work_back(site: Site, tmp_path: Path) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    (place / "more.txt").write_text("more\n")
    done = clean_up(site)
    assert done.saved is not None
    script = "\n".join(["set -e", *done.saved.restore])
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "work" / "mine.txt").read_text() == "mine\n"
    assert (tmp_path / "work" / "more.txt").read_text() == "more\n"


def test_nothing_is_saved_where_nothing_is_new(site: Site) -> None:
    place = site.prepare()
    (place / "x.log").write_text("ignored")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/pushed")
    done = clean_up(site)
    assert done.gone
    assert done.saved is not None
    assert (done.saved.folder, done.saved.ignored) == (None, 1)
    assert not site.saved().exists()


def test_what_was_pushed_and_fetched_is_not_saved_again(site: Site) -> None:
    place = site.prepare(1)
    commit(place, "mine.txt", "mine\n")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/mine")
    site.prepare(2)  # which fetches
    done = clean_up(site, 1)
    assert done.saved is not None
    assert done.saved.folder is None


def test_a_remote_branch_that_was_only_claimed_to_be_pushed_is_saved(site: Site) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", "mine\n")
    git(place, "update-ref", "refs/remotes/origin/main", mine)
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.commits == 1


def test_commits_that_no_branch_leads_to_are_saved(site: Site, tmp_path: Path) -> None:
    place = site.prepare()
    lost = commit(place, "lost.txt", "lost\n")
    git(place, "reset", "-q", "--hard", "HEAD~1")
    git(place, "checkout", "-q", "--detach")
    detached = commit(place, "detached.txt", "detached\n")
    clean_up(site)
    git(tmp_path, "clone", "-q", str(site.saved() / "work.bundle"), "back")
    known = git(tmp_path / "back", "rev-list", "--all").splitlines()
    assert {lost, detached} <= set(known)


def test_repositories_within_are_saved_too(site: Site, tmp_path: Path) -> None:
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


def test_too_much_unsaved_work_stays_unless_there_is_no_limit(site: Site) -> None:
    place = site.prepare()
    (place / "big.bin").write_bytes(os.urandom(3_000_000))
    done = clean_up(site, salvage_max=1_000_000)
    assert not done.gone
    assert "3000000 bytes of unsaved work are more than salvage_max" in str(done.reason)
    assert (place / "big.bin").exists()
    assert site.remnants() == []
    assert clean_up(site, salvage_max=None).gone
    assert (site.saved() / "work.bundle").stat().st_size > 3_000_000


def test_a_workspace_whose_work_cannot_be_saved_stays(site: Site) -> None:
    place = site.prepare()
    commit(place, "mine.txt", "mine\n")
    for path in (place / ".git" / "objects").glob("??/*"):
        path.chmod(0o600)
        path.write_bytes(b"garbage")
    done = clean_up(site)
    assert not done.gone
    assert "its work cannot be saved" in str(done.reason)
    assert (place / "mine.txt").exists()
    assert site.remnants() == []
    assert any("[cleanup] ERROR: Failed to remove task workspace" in line for line in site.said)


def test_files_are_saved_even_if_the_repository_was_deleted(site: Site, tmp_path: Path) -> None:
    place = site.prepare()
    (place / "mine.txt").write_text("mine\n")
    subprocess.run(["rm", "-rf", str(place / ".git")], check=True)
    assert clean_up(site).gone
    back = restored(site, tmp_path, site.first)
    assert (back / "mine.txt").read_text() == "mine\n"


def test_a_git_folder_behind_a_link_is_not_believed(site: Site, tmp_path: Path) -> None:
    place = site.prepare()
    (place / ".git").rename(tmp_path / "stolen")
    (place / ".git").symlink_to(tmp_path / "stolen")
    (place / "mine.txt").write_text("mine\n")
    assert clean_up(site).gone
    assert (tmp_path / "stolen" / "HEAD").exists()
    assert (site.saved() / "work.patch").exists()


def test_line_endings_that_a_repository_converts_are_no_change(site: Site) -> None:
    commit(site.origin, ".gitattributes", "*.txt text eol=crlf\n")
    place = site.prepare()
    assert b"\r\n" in (place / "a.txt").read_bytes()
    done = clean_up(site)
    assert done.saved is not None
    assert done.saved.folder is None


PLANTED = {
    "core.fsmonitor": "config core.fsmonitor 'touch {canary}; false'",
    "hooksPath": "config core.hooksPath {hooks}",
    "filter": "config filter.x.clean 'touch {canary}; cat'; git config filter.x.smudge 'touch {canary}; cat'; "
    "git config filter.x.process 'touch {canary}'; git config filter.x.required true; "
    "echo '* filter=x' > .gitattributes",
    "diff.external": "config diff.external 'touch {canary}; true'",
    "textconv": "config diff.x.textconv 'touch {canary}; cat'; git config diff.x.command 'touch {canary}'; "
    "echo '* diff=x' > .gitattributes",
    "core.pager": "config core.pager 'touch {canary}; cat'",
    "alias": "config alias.status '!touch {canary}'; git config alias.bundle '!touch {canary}'",
    "include.path": "config include.path {included}",
    "ssh": "config core.sshCommand 'touch {canary}; false'; git config core.editor 'touch {canary}; false'",
    "credentials": "config credential.helper '!touch {canary}'; git config gpg.program {hooks}/post-index-change; "
    "git config commit.gpgSign true",
    "uploadpack": "config uploadpack.packObjectsHook 'touch {canary}; exec'; git config core.gitProxy {hooks}/x",
    "alternates": "config core.alternateRefsCommand 'touch {canary}; echo'; git config core.askPass {hooks}/x",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_nothing_that_an_agent_planted_is_executed(site: Site, tmp_path: Path, kind: str) -> None:
    place = site.prepare()
    canary, hooks, included = tmp_path / "canary", tmp_path / "hooks", tmp_path / "included"
    included.write_text(f'[core]\n\tfsmonitor = "touch {canary}; false"\n')
    for folder in (hooks, place / ".git" / "hooks"):
        folder.mkdir(exist_ok=True)
        for name in ("post-index-change", "reference-transaction", "pre-commit", "post-checkout", "pre-auto-gc"):
            (folder / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
            (folder / name).chmod(0o755)
    inner = place / "inner"
    commit(place, "mine.txt", "mine\n")
    inner.mkdir()
    git(inner, "init", "-q")
    commit(inner, "inner.txt", "inner\n")
    for repository in (place, inner):
        script = f"git {PLANTED[kind].format(canary=canary, hooks=hooks, included=included)}"
        subprocess.run(["sh", "-c", script], cwd=repository, check=True)
        (repository / "a.txt").write_text("changed\n")
    canary.unlink(missing_ok=True)
    done = clean_up(site)
    assert not canary.exists()
    assert done.gone, done.reason
    assert done.saved is not None
    assert done.saved.commits >= 2
    site.prepare(2)
    assert not canary.exists()


def test_artifacts_that_are_there_are_not_overwritten(site: Site) -> None:
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


def test_a_link_in_the_place_of_the_artifacts_is_not_followed(site: Site, tmp_path: Path) -> None:
    place = site.prepare()
    (tmp_path / "elsewhere").mkdir()
    (site.state / "runs" / "1").mkdir(parents=True)
    (site.state / "runs" / "1" / "artifacts").symlink_to(tmp_path / "elsewhere")
    (place / "mine.txt").write_text("mine\n")
    done = clean_up(site)
    assert not done.gone
    assert place.exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []
