"""Whatever state an agent leaves its repositories in, the reported commands bring back what was in the workspace."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from daemon.workspaces import kept_commits
from daemon.workspaces.clean import clean
from daemon.workspaces.jobs import CleanedWorkspace, SavedWork
from daemon.workspaces.run_folders import remove_orphans
from daemon.workspaces.salvage.stored import newest_saved, saved_bytes
from tests.support.git_site import GitSite, brought_back, commit, git

REPOSITORY = Path(__file__).parents[2]


def clean_up(site: GitSite, run: int = 1) -> CleanedWorkspace:
    done = clean(site.state, "site", str(run), site.logged.append, base=site.bases[run], salvage_max=None)
    assert done.gone, done.reason
    return done


def saved(done: CleanedWorkspace) -> SavedWork:
    assert done.saved is not None
    return done.saved


def lfs_object(repository: Path, content: bytes) -> str:
    """Store an object as git-lfs does; return the text of its pointer."""
    oid = hashlib.sha256(content).hexdigest()
    place = repository / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"


def lfs_objects(repository: Path) -> dict[str, bytes]:
    return lfs_objects_in(repository / ".git")


def lfs_objects_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "lfs").rglob("*") if path.is_file()}


def test_objects_of_git_lfs_that_were_not_pushed_come_back(site: GitSite, tmp_path: Path) -> None:
    upstream = lfs_object(site.origin, b"known upstream")
    commit(site.origin, "known.bin", upstream)
    place = site.prepare()
    shutil.copytree(site.origin / ".git/lfs", place / ".git/lfs")
    (place / "known.bin").write_bytes(b"known upstream")  # as git-lfs fills it in
    git(place, "checkout", "-q", "-b", "aside")
    pointer = lfs_object(place, b"precious")
    commit(place, "mine.bin", pointer)
    (place / "known.bin").write_text(upstream)
    git(place, "checkout", "-q", "agentcron/1")
    (place / "known.bin").write_bytes(b"known upstream")
    done = clean_up(site)
    assert saved(done).files == 0
    back = brought_back(done, tmp_path / "back")
    assert git(back, "show", "aside:mine.bin") == pointer.strip()
    assert list(lfs_objects(back).values()) == [b"precious"]


def test_what_was_pushed_and_then_deleted_upstream_is_in_the_mirror(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare(1)
    mine = commit(place, "mine.txt", "mine\n")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/mine")
    site.prepare(2)
    done = clean_up(site, 1)
    assert (saved(done).folder, saved(done).pushed) == (None, (mine,))
    git(site.origin, "branch", "-q", "-D", "mine")
    site.prepare(3)
    mirror = site.state / "environments/site/mirror"
    assert "refs/heads/mine" not in git(mirror, "for-each-ref")
    git(mirror, "gc", "-q", "--prune=now")
    back = brought_back(done, tmp_path / "back")
    assert git(back, "show", f"{mine}:mine.txt") == "mine"
    kept_commits.forget(site.state, lambda runs: [run for run in runs if run == "2"], site.logged.append)
    assert mine in git(mirror, "for-each-ref")
    kept_commits.forget(site.state, lambda runs: runs, site.logged.append)
    assert mine not in git(mirror, "for-each-ref")
    assert site.logged[-1] == "[cleanup] Workspace cleaned up"


def test_the_mirror_keeps_nothing_for_a_run_that_retention_deleted(site: GitSite) -> None:
    place = site.prepare(1)
    commit(place, "mine.txt", "mine\n")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/mine")
    site.prepare(2)
    clean_up(site, 1)
    (site.state / "runs").mkdir()
    schema = "CREATE TABLE instance (created_at TEXT); CREATE TABLE runs (id INTEGER);"
    row = "INSERT INTO instance VALUES ('2026-01-01T00:00:00.000Z'); INSERT INTO runs VALUES (1);"
    database = str(site.state / "state.db")
    subprocess.run(["sqlite3", database, schema + row], check=True)
    mirror = site.state / "environments/site/mirror"
    remove_orphans(site.state, None, site.logged.append)
    assert "refs/agentcron/runs/1/" in git(mirror, "for-each-ref")
    subprocess.run(["sqlite3", database, "DELETE FROM runs"], check=True)
    remove_orphans(site.state, None, site.logged.append)
    assert "refs/agentcron" not in git(mirror, "for-each-ref")


@pytest.mark.parametrize("branch", ["-x", "HEAD", "two\u200bwords"])
def test_work_on_a_branch_that_git_would_not_check_out_comes_back(site: GitSite, tmp_path: Path, branch: str) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", "mine\n")
    (place / ".git/refs/heads" / branch).write_text(f"{mine}\n")
    (place / ".git/HEAD").write_text(f"ref: refs/heads/{branch}\n")
    assert git(brought_back(clean_up(site), tmp_path / "back"), "rev-parse", "HEAD") == mine


def test_bare_repositories_that_git_ignores_come_back(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", "mine\n")
    for name in ("cache/mine.git", "packed.git"):
        bare = place / name
        bare.mkdir(parents=True)
        git(bare, "init", "-q", "--bare")
        git(place, "push", "-q", str(bare), "HEAD:refs/heads/mine")
    git(place / "packed.git", "repack", "-q", "-a", "-d")
    git(place, "reset", "-q", "--hard", "HEAD~1")
    (place / ".gitignore").write_text("cache/\n*.pack\n")
    done = clean_up(site)
    brought_back(done, tmp_path / "back")
    where = targets(saved(done).restore)
    for name in ("cache/mine.git", "packed.git"):
        assert git(tmp_path / "back" / where[name], "rev-parse", "mine") == mine
    assert (tmp_path / "back/run-1/packed.git/HEAD").exists()


@pytest.mark.parametrize("where", [".", "ignored.log/inner"])
def test_tags_of_files_and_folders_come_back(site: GitSite, tmp_path: Path, where: str) -> None:
    repository = site.prepare() / where
    if where != ".":
        repository.mkdir(parents=True)
        git(repository, "init", "-q", "-b", "main")
        commit(repository, "a.txt", "one\n")
    (tmp_path / "mine").write_text("mine\n")
    blob = git(repository, "hash-object", "-w", str(tmp_path / "mine"))
    git(repository, "tag", "light", blob)
    git(repository, "tag", "-a", "-m", "x", "heavy", blob)
    (tmp_path / "mine").write_text("also mine\n")
    git(repository, "update-ref", "refs/original/x", git(repository, "hash-object", "-w", str(tmp_path / "mine")))
    git(repository, "update-ref", "refs/original/tag", "heavy")
    git(repository, "tag", "folder", "HEAD^{tree}")
    done = clean_up(site)
    assert saved(done).as_it_was == ()
    brought_back(done, tmp_path / "back")
    back = tmp_path / "back" / targets(saved(done).restore)[where]
    assert [git(back, "cat-file", "-p", name) for name in ("light", "heavy^{}")] == ["mine", "mine"]
    assert git(back, "cat-file", "-p", "tags/agentcron/saved/refs/original/x") == "also mine"
    if where != ".":
        assert git(back, "cat-file", "-t", "folder") == "tree"


def test_what_was_saved_is_found_and_measured_later(site: GitSite) -> None:
    (site.prepare() / "mine.txt").write_text("mine\n")
    done = clean_up(site)
    (site.prepare() / "other.bin").write_bytes(os.urandom(100_000))
    (site.saved().parent / "saved-work-9").symlink_to(site.saved())
    again = clean_up(site)
    found = newest_saved(site.state, "1")
    assert found is not None
    assert (found.folder, found.files) == ("artifacts/saved-work-2", 1)
    assert saved(done).stored < 100_000 < found.stored == saved_bytes(site.state, "1")
    assert [line for line in found.restore if not line.startswith("# from a file")] == list(saved(again).restore)
    assert found.restore[1].startswith("# from a file that the agent could have changed")
    (site.saved().parent / "saved-work-2/saved.json").write_text('{"restore": ["rm -rf /"]}')
    before = newest_saved(site.state, "1")
    assert before is not None
    assert before.folder == "artifacts/saved-work"
    assert newest_saved(site.state, "2") is None


@pytest.mark.parametrize("restore", [[], ["cd x\nrm -rf ."], ["\x1b[2Kcd x"], ["# " + "x" * 512 * 1024]])
def test_odd_commands_beside_saved_work_are_only_pointed_to(site: GitSite, restore: list[str]) -> None:
    (site.prepare() / "mine.txt").write_text("mine\n")
    clean_up(site)
    summary = site.saved() / "saved.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "restore": restore}))
    found = newest_saved(site.state, "1")
    assert found is not None
    assert found.restore == (f"saved={site.saved()}", 'cat "$saved"/README.txt')


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """A folder whose content pytest need not delete, which cannot delete deep trees."""
    yield tmp_path
    subprocess.run(["find", str(tmp_path), "-mindepth", "1", "-delete"], check=True)


def test_a_very_deep_tree_comes_back(deep_path: Path) -> None:
    site = GitSite(deep_path)
    folder = os.open(site.prepare(), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("dd", dir_fd=folder)
        below = os.open("dd", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    folder, depth = os.open(brought_back(clean_up(site), deep_path / "back"), os.O_RDONLY), 0
    while "dd" in os.listdir(folder):
        below = os.open("dd", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder, depth = below, depth + 1
    assert (depth, os.listdir(folder)) == (3000, ["bottom"])
    os.close(folder)


CLEAN = """\
import re
import resource
import sys
from pathlib import Path
from daemon.workspaces.clean import clean
saves, run = sys.argv[3] == "saves", sys.argv[4]
done = clean(Path(sys.argv[1]), "site", run, lambda _: None, base=sys.argv[2], salvage_max=None, saves=saves)
own = re.search("VmHWM:[^0-9]*([0-9]+) kB", Path("/proc/self/status").read_text())[1]
print(int(done.gone), *(int(size) // 1024 for size in (own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)))
"""

POWERLESS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")


def cleaned_in_a_process(site: GitSite, *prefix: str, run: int = 1, saves: bool = True) -> list[int]:
    """Clean up in a process of its own; return whether it is gone, and the MiB that it and its git took at most.

    Its own `ru_maxrss` would include what pytest took when it forked: that survives the exec, `VmHWM` does not.
    """
    how = ["saves" if saves else "discards", str(run)]
    command = [*prefix, sys.executable, "-c", CLEAN, str(site.state), site.bases[run], *how]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="giving up rights needs root")
def test_folders_and_files_without_access_are_opened_up(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    (place / "closed/deep").mkdir(parents=True)
    (place / "closed/deep/mine.txt").write_text("mine\n")
    (place / "secret.txt").write_text("secret\n")
    for path, mode in (("closed/deep", 0), ("closed", 0o200), ("secret.txt", 0), (".git/objects", 0)):
        (place / path).chmod(mode)
    assert cleaned_in_a_process(site, *POWERLESS)[0] == 1
    told = json.loads((site.saved() / "saved.json").read_text())
    assert told["as_it_was"] == []
    back = brought_back(CleanedWorkspace(gone=True, saved=SavedWork(restore=tuple(told["restore"]))), tmp_path / "back")
    assert (back / "closed/deep/mine.txt").read_text() == "mine\n"
    assert (back / "secret.txt").read_text() == "secret\n"


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="giving up rights needs root")
def test_objects_of_git_lfs_without_access_are_opened_up(site: GitSite) -> None:
    commit(site.origin, "known.bin", lfs_object(site.origin, b"known upstream"))
    for run, closed in enumerate(("known.bin", ".git/lfs/objects/*/*/*"), start=1):
        place = site.prepare(run)
        shutil.copytree(site.origin / ".git/lfs", place / ".git/lfs")
        (place / "known.bin").write_bytes(b"known upstream")
        lfs_object(place, b"precious")
        for path in place.glob(closed):
            path.chmod(0)
        assert cleaned_in_a_process(site, *POWERLESS, run=run)[0] == 1
        assert list(lfs_objects_in(site.saved(run)).values()) == [b"precious"]


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="giving up rights needs root")
def test_artifacts_without_access_are_opened_up(site: GitSite) -> None:
    (site.prepare() / "mine.txt").write_text("mine\n")
    site.saved().parent.mkdir(parents=True)
    site.saved().parent.chmod(0)
    assert cleaned_in_a_process(site, *POWERLESS)[0] == 1


@pytest.mark.parametrize("lack", ["Cannot allocate memory", "Too many open files", "Disk quota exceeded"])
def test_what_the_host_lacks_does_not_make_a_repository_unreadable(site: GitSite, tmp_path: Path, lack: str) -> None:
    (site.prepare() / "mine.txt").write_text("mine\n")
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    fails = f'case "$*" in *ls-files*) echo "fatal: open: {lack}" >&2; exit 128; esac'
    program.write_text(f'#!/bin/sh\n{fails}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    assert cleaned_in_a_process(site, "env", f"PATH={program.parent}:{os.environ['PATH']}")[0] == 0
    assert not site.saved().exists()
    assert cleaned_in_a_process(site)[0] == 1


@pytest.mark.parametrize("size", [200, pytest.param(4000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_memory_does_not_grow_with_the_size_of_a_file(site: GitSite, size: int) -> None:
    place = site.prepare()
    with (place / "sparse.bin").open("wb") as sparse:
        sparse.truncate(20 * 1024**3)
    for name in ("new.bin", "committed.bin"):
        with (place / name).open("wb") as large:
            for _ in range(size):
                large.write(bytes(1024**2))
    git(place, "-c", "core.bigFileThreshold=1m", "add", "committed.bin")
    git(place, "commit", "-q", "-m", "large")
    gone, own, of_git = cleaned_in_a_process(site)
    assert gone == 1
    assert max(own, of_git) < 128
    assert sum(path.stat().st_size for path in site.saved().rglob("*") if path.is_file()) < size * 10_000


@pytest.mark.parametrize("small_disk", ["2m"], indirect=True)
@pytest.mark.parametrize("saves", [True, False])
def test_holes_in_a_file_take_neither_memory_nor_room(small_disk: Path, tmp_path: Path, *, saves: bool) -> None:
    site = GitSite(small_disk)
    with (site.prepare() / "sparse.bin").open("wb") as sparse:
        sparse.write(b"begin")
        sparse.seek(10 * 1024**3)
        sparse.write(b"middle")
        sparse.truncate(20 * 1024**3)
    gone, own, of_git = cleaned_in_a_process(site, saves=saves)
    assert gone == 1
    assert max(own, of_git) < 64
    assert site.remnants() == []
    assert site.saved().exists() is saves
    if saves:
        told = json.loads((site.saved() / "saved.json").read_text())
        done = CleanedWorkspace(gone=True, saved=SavedWork(restore=tuple(told["restore"])))
        with (brought_back(done, tmp_path / "back") / "sparse.bin").open("rb") as sparse:
            assert os.fstat(sparse.fileno()).st_size == 20 * 1024**3
            assert sparse.read(5) == b"begin"
            sparse.seek(10 * 1024**3)
            assert sparse.read(6) == b"middle"


def test_a_tracked_file_that_became_a_huge_hole_comes_back(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.workspaces.clean.GIT_TIMEOUT", 5.0)  # seconds: git would read it for hours
    place = site.prepare()
    texts = {"pointer.bin": lfs_object(place, b"object"), "plain.bin": "plain\n"}
    for name, text in texts.items():
        (place / name).write_text(text)
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "to be replaced")
    for name in texts:
        with (place / name).open("r+b") as sparse:
            sparse.truncate(8 * 1024**4)
    (place / "README.md").write_text("changed\n")
    done = clean_up(site)
    assert saved(done).stored < 1024**2
    assert saved(done).files == 3  # git was not ended before it had compared the others
    back = brought_back(done, tmp_path / "back")
    assert (back / "README.md").read_text() == "changed\n"
    for name, text in texts.items():
        with (back / name).open("rb") as sparse:
            assert os.fstat(sparse.fileno()).st_size == 8 * 1024**4
            assert sparse.read(len(text)) == text.encode()


@pytest.mark.parametrize("name", ["sub/.gitignore", "sub/.gitattributes"])
def test_a_huge_file_that_git_would_read_into_memory_comes_back(site: GitSite, tmp_path: Path, name: str) -> None:
    place = site.prepare()
    (place / name).parent.mkdir(exist_ok=True)
    with (place / name).open("wb") as sparse:
        sparse.truncate(1024**3)
    gone, own, of_git = cleaned_in_a_process(site)
    assert gone == 1
    assert max(own, of_git) < 64
    told = json.loads((site.saved() / "saved.json").read_text())
    assert "is larger than" in told["as_it_was"][0]
    back = brought_back(CleanedWorkspace(gone=True, saved=SavedWork(restore=tuple(told["restore"]))), tmp_path / "back")
    assert (back / name).stat().st_size == 1024**3


@pytest.mark.parametrize("small_disk", ["76m"], indirect=True)
def test_saving_needs_room_for_the_work_twice_and_stores_it_once(small_disk: Path, tmp_path: Path) -> None:
    site = GitSite(small_disk)
    place = site.prepare()
    (place / "large.bin").write_bytes(os.urandom(22_000_000))
    done = clean_up(site)
    assert 22_000_000 < saved(done).stored < 22_300_000
    assert (brought_back(done, tmp_path) / "large.bin").stat().st_size == 22_000_000


# --- any state -----------------------------------------------------------------------------------------------------


class Hostile:
    """A workspace that is changed at random, and what is needed for that."""

    def __init__(self, site: GitSite, folder: Path, random: Random) -> None:
        self.site = site
        self.folder = folder
        self.random = random
        library = folder / "library"
        library.mkdir()
        git(library, "init", "-q", "-b", "main")
        for number in range(3):
            commit(library, "lib.txt", f"{number}\n")
        git(library, "config", "uploadpack.allowFilter", "true")
        allow = ("-c", "protocol.file.allow=always")
        git(site.origin, *allow, "submodule", "add", "-q", f"file://{library}", "lib")
        git(site.origin, "config", "-f", ".gitmodules", "submodule.lib.shallow", "true")
        git(site.origin, "commit", "-q", "-a", "-m", "submodule")
        for number in range(3):
            commit(site.origin, f"old/{number}.txt", f"{number}\n" * 50)
        (folder / "gitconfig").write_text('[protocol "file"]\n\tallow = always\n')
        self.library = library
        self.place = Path()

    def text(self) -> str:
        return f"{self.random.getrandbits(64):x}\n" * self.random.randint(1, 40)

    def name(self) -> str:
        odd = [
            "plain.txt",
            "a b",
            "new\nline",
            os.fsdecode(b"caf\xe9"),
            "é",
            ".git ",
            "git~1",
            "-x",
            ":y",
            "'q'\"$",
            "x" * 200,
        ]
        return self.random.choice(odd)


def commits(it: Hostile) -> None:
    commit(it.place, it.name(), it.text())


def changes(it: Hostile) -> None:
    (it.place / "a.txt").write_bytes(it.random.randbytes(300))
    (it.place / it.name()).write_text(it.text())


def renames_and_deletes(it: Hostile) -> None:
    shutil.rmtree(it.place / "old", ignore_errors=True)
    (it.place / "moved").mkdir(exist_ok=True)
    (it.place / "old").unlink(missing_ok=True)
    if it.random.random() < 0.5:
        (it.place / "old").symlink_to("moved")
    else:
        (it.place / "old").write_text("a file\n")


def sets_modes(it: Hostile) -> None:
    (it.place / "script.sh").write_text(it.text())
    (it.place / "script.sh").chmod(0o755)
    (it.place / "closed").mkdir(exist_ok=True)
    (it.place / "closed/f").write_text(it.text())
    (it.place / "closed").chmod(0)


def stages(it: Hostile) -> None:
    (it.place / "staged.txt").write_text(it.text())
    git(it.place, "add", "staged.txt")
    (it.place / "staged.txt").write_text("later\n")


def stashes(it: Hostile) -> None:
    (it.place / ".gitignore").write_text(f"*.log\n# {it.text()}")
    git(it.place, "stash", "-q")


def detaches(it: Hostile) -> None:
    git(it.place, "checkout", "-q", "--detach")
    commit(it.place, "detached.txt", it.text())


def loses_commits(it: Hostile) -> None:
    commit(it.place, "lost.txt", it.text())
    git(it.place, "reset", "-q", "--hard", "HEAD~1")


def begins_anew(it: Hostile) -> None:
    git(it.place, "checkout", "-q", "--orphan", f"orphan-{it.random.getrandbits(16)}")
    git(it.place, "commit", "-q", "--allow-empty", "-m", "root")


def makes_refs(it: Hostile) -> None:
    made = git(it.place, "commit-tree", "-m", it.text(), "HEAD^{tree}")
    git(it.place, "tag", "-f", "-a", "-m", "mine", "tagged", made)
    git(it.place, "update-ref", "refs/notes/mine", made)
    git(it.place, "branch", "-f", "side", made)


def fetches_shallow(it: Hostile) -> None:
    git(it.place, "fetch", "-q", "--depth=1", f"file://{it.site.origin}", "main")


def pushes(it: Hostile) -> None:
    commit(it.place, "pushed.txt", it.text())
    git(it.place, "push", "-q", "-f", "origin", "HEAD:refs/heads/pushed")


def clones_shallow(it: Hostile) -> None:
    target = it.place / f"shallow-{it.random.getrandbits(32)}"
    git(it.place, "clone", "-q", "--depth=1", f"file://{it.library}", str(target))
    commit(target, "mine.txt", it.text())


def clones_partially(it: Hostile) -> None:
    target = it.place / f"partial-{it.random.getrandbits(32)}"
    git(it.place, "clone", "-q", "--filter=blob:none", f"file://{it.library}", str(target))
    commit(target, "mine.txt", it.text())


def nests(it: Hostile) -> None:
    target = it.place / "inner"
    git(it.place, "init", "-q", "-b", "main", str(target))
    commit(target, it.name(), it.text())
    (target / "dirty").write_text(it.text())


def works_in_a_submodule(it: Hostile) -> None:
    if (it.place / "lib/.git").is_file():
        commit(it.place / "lib", "mine.txt", it.text())


def breaks_a_submodule(it: Hostile) -> None:
    if (it.place / "lib").is_dir():
        (it.place / "lib/.git").write_text("gitdir: ../gone\n")
        (it.place / "lib/mine.txt").write_text(it.text())


def adds_a_working_tree(it: Hostile) -> None:
    target = it.place / f"tree-{it.random.getrandbits(32)}"
    git(it.place, "worktree", "add", "-q", "--detach", str(target))
    (target / "a.txt").write_text(it.text())


def uses_lfs(it: Hostile) -> None:
    commit(it.place, f"{it.random.getrandbits(32)}.bin", lfs_object(it.place, it.random.randbytes(500)))


def writes_what_git_cannot_store(it: Hostile) -> None:
    (it.place / "sub/.GIT").mkdir(parents=True, exist_ok=True)
    (it.place / "sub/.GIT/x").write_text(it.text())
    with (it.place / "holes").open("wb") as holes:
        holes.truncate(1 << 34)
        holes.write(b"begin")


def damages_a_repository(it: Hostile) -> None:
    nests(it)
    shutil.rmtree(it.place / "inner/.git/objects")


def deletes_the_repository(it: Hostile) -> None:
    shutil.rmtree(it.place / ".git")
    git(it.place, "init", "-q")


def ignores(it: Hostile) -> None:
    (it.place / "ignored.log").write_text(it.text())


ACTIONS: list[Callable[[Hostile], None]] = [
    commits,
    changes,
    renames_and_deletes,
    sets_modes,
    stages,
    stashes,
    detaches,
    loses_commits,
    begins_anew,
    makes_refs,
    fetches_shallow,
    pushes,
    clones_shallow,
    clones_partially,
    nests,
    works_in_a_submodule,
    breaks_a_submodule,
    adds_a_working_tree,
    uses_lfs,
    writes_what_git_cannot_store,
    damages_a_repository,
    deletes_the_repository,
    ignores,
]


def files_of(place: Path, without: set[Path]) -> dict[bytes, tuple[int, object]]:
    """Return the files of a working tree, less git's own and those of some folders; of links where they lead."""
    found: dict[bytes, tuple[int, object]] = {}
    for parent, below, names in os.walk(place):
        here = Path(parent)
        below[:] = [name for name in below if name != ".git" and here / name not in without]
        for name in [*names, *(name for name in below if (here / name).is_symlink())]:
            path = here / name
            if name == ".git" or name.endswith(".log"):
                continue
            found[os.fsencode(path.relative_to(place))] = content_of(path)
    return found


def content_of(path: Path) -> tuple[int, object]:
    mode = path.lstat()
    if stat.S_ISLNK(mode.st_mode):
        return 0, os.readlink(path)
    data = path.read_bytes() if mode.st_size < 10**8 else (mode.st_size, path.open("rb").read(1000))
    return mode.st_mode & 0o100, data


def repositories_in(place: Path) -> list[Path]:
    return [Path(parent) for parent, below, names in os.walk(place) if ".git" in {*below, *names}]


def unsafe_commits(repository: Path, safe: list[Path]) -> set[str]:
    """Return the commits that a repository reaches and that its remotes do not have, if git can tell."""
    listed = subprocess.run(
        ["git", "rev-list", "--all", "--reflog", "HEAD"], cwd=repository, capture_output=True, text=True, check=False
    )
    known = {oid for place in safe for oid in git(place, "rev-list", "--all").split()}
    return set(listed.stdout.split()) - known if listed.returncode == 0 else set()


def targets(restore: tuple[str, ...]) -> dict[str, str]:
    """Return the folders that commands bring repositories back to, by their names in the workspace."""
    found, name = {}, "."
    for line in restore:
        if heading := re.match(r"# of (.*):$", line):
            name = str(eval(heading[1]))  # noqa: S307 - the repr of a path
        elif line.startswith("git init "):
            found[name] = shlex.split(line)[-1]
    return found


SEEDS = [*range(8), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(8, 600))]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_in_a_workspace_comes_back_whatever_its_state(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, random = GitSite(tmp_path), Random(seed)
    it = Hostile(site, tmp_path, random)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    it.place = site.prepare()
    for action in random.choices(ACTIONS, k=random.randint(1, 6)):
        with contextlib.suppress(AssertionError):  # git refuses some of them after others
            action(it)
    check_back(site, it, tmp_path / "back")


@pytest.mark.parametrize(
    "actions",
    [[fetches_shallow, commits], [clones_shallow], [works_in_a_submodule]],
    ids=["fetch", "clone", "submodule"],
)
def test_work_in_a_shallow_repository_is_saved_with_git(
    tmp_path: Path, actions: list[Callable[[Hostile], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = GitSite(tmp_path)
    it = Hostile(site, tmp_path, Random(1))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    it.place = site.prepare()
    for action in actions:
        action(it)
    assert saved(check_back(site, it, tmp_path / "back")).as_it_was == ()
    assert list(site.saved().rglob("work.tar")) == []


def check_back(site: GitSite, it: Hostile, back: Path) -> CleanedWorkspace:
    """Clean up the workspace, and check that what comes back is what was there."""
    place = it.place
    nested = {path for path in repositories_in(place) if path != place}
    expected = {
        path.relative_to(place): (
            files_of(path, nested - {path}),
            unsafe_commits(path, [site.origin, it.library]),
            set(lfs_objects(path)) if (path / ".git").is_dir() else set(),
        )
        for path in [place, *nested]
    }
    done = clean(site.state, "site", "1", site.logged.append, base=site.bases[1], salvage_max=None)
    assert done.gone, done.reason
    brought_back(done, back)
    where = targets(saved(done).restore)
    whole = {text.partition(": ")[0] for text in saved(done).as_it_was}
    for name, (files, commits, objects) in expected.items():
        if any(part in whole for part in map(str, [name, *name.parents])):
            here = back / "run-1"
            others = {here / path.relative_to(place) for path in nested} - {here / name}
            assert files_of(here / name, others) == files, name
        elif str(name) in where:
            target = back / where[str(name)]
            inner = {target / text for text in whole}
            assert files_of(target, inner) == files, name
            assert commits <= set(git(target, "rev-list", "--all").split()), name
            assert objects <= set(lfs_objects(target)), name
        else:
            assert commits == set(), name
            assert objects == set(), name
    return done
