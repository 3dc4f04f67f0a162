"""Private clones: what they look like, where they come from, and what happens when they cannot be made."""

import contextlib
import os
import threading
import time
from base64 import b64encode
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from daemon.workspaces.git import without_credentials
from daemon.workspaces.mirror import CloneError
from tests.support.git_site import GitSite, commit, git


def test_a_workspace_is_a_clone_of_the_true_remote_on_its_own_branch(site: GitSite) -> None:
    place = site.prepare(7)
    assert place == site.tasks / "7"
    assert git(place, "rev-parse", "--abbrev-ref", "HEAD") == "agentcron/7"
    assert git(place, "rev-parse", "HEAD", "origin/main").split() == [site.first] * 2
    assert git(place, "remote", "get-url", "origin") == str(site.origin)
    assert git(place, "status", "--porcelain") == ""
    assert (place / ".git").is_dir()
    assert not (place / ".git" / "objects" / "info" / "alternates").exists()
    git(place, "fetch", "-q")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/result")
    assert git(site.origin, "rev-parse", "result") == site.first
    assert site.remnants() == []


def test_the_ref_may_be_a_branch_a_tag_or_a_commit(site: GitSite) -> None:
    git(site.origin, "tag", "-a", "-m", "x", "v1")
    second = commit(site.origin, "b.txt", "two\n")
    git(site.origin, "checkout", "-q", "-b", "side", site.first)
    side = commit(site.origin, "c.txt", "three\n")
    expected = {None: side, "main": second, "v1": site.first, second: second, "side": side, second[:10]: second}
    for run, (ref, wanted) in enumerate(expected.items(), 1):
        assert git(site.prepare(run, ref=ref), "rev-parse", "HEAD") == wanted, ref
    with pytest.raises(CloneError, match="'none' is not a branch, tag or commit"):
        site.prepare(20, ref="none")
    with pytest.raises(CloneError, match="not a branch, tag or commit"):
        site.prepare(20, ref="--upload-pack=touch x")
    assert site.remnants() == []


def test_a_commit_that_is_no_longer_on_a_branch_is_fetched(site: GitSite) -> None:
    gone = commit(site.origin, "b.txt", "two\n")
    git(site.origin, "reset", "-q", "--hard", site.first)
    git(site.origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    assert git(site.prepare(ref=gone), "rev-parse", "HEAD") == gone


def test_the_mirror_is_fetched_when_it_is_old_enough(site: GitSite) -> None:
    site.prepare(1, fetch_every=3600.0)
    second = commit(site.origin, "b.txt", "two\n")
    assert git(site.prepare(2, fetch_every=3600.0), "rev-parse", "HEAD") == site.first
    assert git(site.prepare(3), "rev-parse", "HEAD") == second
    git(site.origin, "checkout", "-q", "-b", "trunk")
    git(site.origin, "branch", "-D", "main")
    place = site.prepare(4)
    assert "origin/main" not in git(place, "branch", "-r")
    assert git(place, "rev-parse", "origin/trunk") == second


def test_an_unreachable_remote_is_a_warning_or_fails_the_run(site: GitSite) -> None:
    site.prepare(1)
    site.origin.rename(site.origin.with_name("elsewhere"))
    assert git(site.prepare(2), "rev-parse", "HEAD") == site.first
    assert any("WARNING: cannot fetch the repository" in line for line in site.logged)
    with pytest.raises(CloneError, match="cannot fetch"):
        site.prepare(3, require_fetch=True)
    assert not (site.tasks / "3").exists()


def test_another_repository_under_the_same_name_is_fetched_at_once(site: GitSite, tmp_path: Path) -> None:
    site.prepare(1, fetch_every=3600.0)
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(site.origin), str(other))
    second = commit(other, "b.txt", "two\n")
    place = site.prepare(2, fetch_every=3600.0, repository=other)
    assert git(place, "rev-parse", "HEAD") == second
    assert git(place, "remote", "get-url", "origin") == str(other)


def test_a_damaged_mirror_is_rebuilt_at_the_second_attempt(site: GitSite) -> None:
    site.prepare(1)
    for pack in (site.tasks.parent / "mirror" / "objects").rglob("*.pack"):
        pack.chmod(0o600)
        pack.unlink()
    for loose in (site.tasks.parent / "mirror" / "objects").glob("??/*"):
        loose.unlink()
    commit(site.origin, "b.txt", "two\n")
    assert git(site.prepare(2), "log", "--oneline", "-1").endswith("b.txt")
    assert site.remnants() == []


@pytest.mark.parametrize("damage", ["HEAD", "objects"])
def test_a_mirror_damaged_by_a_power_loss_is_rebuilt(site: GitSite, damage: str) -> None:
    site.prepare(1)
    mirror = site.tasks.parent / "mirror"
    for path in [mirror / "HEAD"] if damage == "HEAD" else mirror.glob("objects/??/*"):
        path.chmod(0o600)
        path.write_bytes(b"")
    assert git(site.prepare(2), "rev-parse", "HEAD") == site.first


def test_an_agent_that_damages_its_objects_damages_no_others(site: GitSite) -> None:
    place = site.prepare(1)
    for path in [path for path in (place / ".git" / "objects").rglob("*") if path.is_file()]:
        path.chmod(0o600)
        path.write_bytes(b"")
    git(site.prepare(2), "fsck", "--no-progress")
    git(site.tasks.parent / "mirror", "fsck", "--no-progress")


def test_a_branch_called_like_the_folder_of_ours_is_not_in_the_way(site: GitSite) -> None:
    git(site.origin, "checkout", "-q", "-b", "agentcron")
    assert git(site.prepare(1), "branch", "--show-current") == "agentcron/1"


def test_a_repository_without_a_commit_says_so(site: GitSite, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(CloneError, match="no commit on its HEAD yet"):
        site.prepare(1, repository=tmp_path / "empty")


def test_submodules_are_checked_out(site: GitSite, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "library")
    commit(tmp_path / "library", "lib.txt", "library\n")
    git(site.origin, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    git(site.origin, "commit", "-q", "-m", "submodule")
    assert (site.prepare(1) / "lib" / "lib.txt").read_text() == "library\n"


def test_files_in_lfs_are_refused_with_a_clear_word(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(site.origin, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    real = next(Path(part) / "git" for part in os.environ["PATH"].split(":") if (Path(part) / "git").exists())
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "git"
    wrapper.write_text(f'#!/bin/sh\ncase "$1" in lfs) exit 1;; esac\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(CloneError, match="git-lfs is not installed"):
        site.prepare(1)
    assert not (site.tasks / "1").exists()
    assert site.remnants() == []


def test_stale_locks_of_git_are_removed_and_young_ones_waited_for(site: GitSite) -> None:
    site.prepare(1)
    stale, young = (site.tasks.parent / "mirror" / name for name in ("packed-refs.lock", "HEAD.lock"))
    stale.touch()
    os.utime(stale, (time.time() - 301,) * 2)
    young.touch()
    maker = threading.Thread(target=site.prepare, args=(2,))
    maker.start()
    maker.join(1)
    assert maker.is_alive()
    young.unlink()
    maker.join(20)
    assert (site.tasks / "2").exists()
    assert not stale.exists()
    assert any("removed a lock file that git left" in line for line in site.logged)


def test_locks_of_a_git_killed_with_its_helper_block_nothing(site: GitSite) -> None:
    site.prepare(1)
    mirror = site.tasks.parent / "mirror"
    (site.tasks.parent / "mirror.lock").write_text("changing\n")
    (mirror / "HEAD.lock").touch()
    os.utime(mirror / "HEAD.lock", (time.time() - 5,) * 2)
    site.prepare(2)
    assert (site.tasks / "2").exists()
    assert not (mirror / "HEAD.lock").exists()
    assert any("removed a lock file that git left" in line for line in site.logged)
    assert (site.tasks.parent / "mirror.lock").read_text() == ""


def test_concurrent_clones_do_not_disturb_each_other(site: GitSite) -> None:
    makers = [threading.Thread(target=site.prepare, args=(run,)) for run in range(1, 9)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    for run in range(1, 9):
        assert git(site.tasks / str(run), "status", "--porcelain") == ""
    commit(site.tasks / "1", "mine.txt", "mine\n")
    git(site.tasks / "1", "gc", "-q", "--prune=now")
    assert not (site.tasks / "2" / "mine.txt").exists()
    git(site.tasks / "2", "fsck", "--no-progress")


def test_credentials_are_left_out_of_messages(site: GitSite) -> None:
    assert without_credentials("fatal: https://me:pw@host/x and ssh://k@h") == "fatal: https://host/x and ssh://h"
    with pytest.raises(CloneError) as caught:
        site.prepare(1, repository="https://me:hunter2@127.0.0.1:1/x.git")
    assert "hunter2" not in f"{caught.value} {site.logged}"
    with pytest.raises(CloneError) as caught:
        site.prepare(1, repository="https://127.0.0.1:1/x.git?token=hunter3")
    assert "hunter3" not in f"{caught.value} {site.logged}"


class _Guarded(SimpleHTTPRequestHandler):
    """Serves a repository to those who know the password, and looks what processes are called meanwhile."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                self.seen.append(place.read_text(errors="replace"))
        if self.headers["Authorization"] == "Basic " + b64encode(b"bob:lyrebird two").decode():
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_password_in_the_url_opens_the_remote_and_is_no_argument_of_a_process(site: GitSite, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(site.origin), "served.git")
    git(tmp_path / "served.git", "update-server-info")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Guarded, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://bob:lyrebird%20two@127.0.0.1:{server.server_port}/served.git"
        place = site.prepare(1, repository=url)
        server.shutdown()
    assert git(place, "rev-parse", "HEAD") == site.first
    assert git(place, "remote", "get-url", "origin") == url
    assert any("remote-http" in words for words in _Guarded.seen)
    assert not any("lyrebird" in words for words in _Guarded.seen)


def test_a_mirror_outlives_a_git_that_cannot_run(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.prepare(1)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[broken\n")
    for name, value in (("HOME", str(home)), ("PATH", str(tmp_path))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(CloneError):
                site.prepare(2)
    site.origin.rename(tmp_path / "away")
    assert git(site.prepare(3), "rev-parse", "HEAD") == site.first


def test_another_ref_is_fetched_at_once(site: GitSite) -> None:
    site.prepare(1, ref="main", fetch_every=3600.0)
    git(site.origin, "checkout", "-q", "-b", "trunk")
    trunk = commit(site.origin, "trunk.txt", "trunk\n")
    assert git(site.prepare(2, fetch_every=3600.0), "rev-parse", "HEAD") == trunk
    git(site.origin, "branch", "-q", "new")
    assert git(site.prepare(3, ref="new", fetch_every=3600.0), "rev-parse", "HEAD") == trunk


def test_a_remote_that_is_on_no_branch_is_followed(site: GitSite) -> None:
    git(site.origin, "checkout", "-q", "--detach")
    alone = commit(site.origin, "alone.txt", "alone\n")
    place = site.prepare(1)
    assert git(place, "rev-parse", "HEAD") == alone
    assert git(place, "branch", "--format=%(refname:short)") == "agentcron/1"


def test_an_unresponsive_remote_is_fetched_no_more_often_than_others(site: GitSite) -> None:
    site.prepare(1)
    site.origin.rename(site.origin.with_name("away"))
    os.utime(site.tasks.parent / "mirror" / "agentcron-fetched", (1, 1))
    for run in (2, 3):
        site.prepare(run, fetch_every=3600.0)
    assert sum("cannot fetch" in said for said in site.logged) == 1


def test_a_lock_dated_in_the_future_is_not_waited_for(site: GitSite) -> None:
    site.prepare(1)
    lock = site.tasks.parent / "mirror" / "packed-refs.lock"
    lock.touch()
    os.utime(lock, (4e9, 4e9))
    site.prepare(2)
    assert not lock.exists()


def test_a_clone_has_the_empty_folders_that_scripts_expect(site: GitSite) -> None:
    place = site.prepare()
    (place / ".git/info/exclude").write_text(".cache\n")
    (place / ".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (place / ".cache").write_text("ignored\n")
    assert git(place, "status", "--porcelain") == ""
