"""Objects of Git LFS are fetched into the mirror, so that no clone waits for their remote."""

import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from daemon.workspaces import lfs_files
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.fetch import fetch_mirrors
from daemon.workspaces.mirror import CloneError
from tests.support.api import call
from tests.support.daemon_process import StartDaemon
from tests.support.git_site import AUTHOR, GitSite, commit, git
from tests.support.ssh_remotes import SshRemotes

pytestmark = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")

CONFIG = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 1
[control]
socket = "c.sock"
[environments.site]
mode = "git"
repository = "{repository}"
[agents.a]
command = ["cat", "a.bin"]
environment = "site"
max_concurrent = 8
[agents.a.schedules.s]
every = "20d"
[agents.b]
command = ["true"]
[agents.b.schedules.s]
every = "20d"
"""


@pytest.fixture
def lfs_site(site: GitSite) -> GitSite:
    """A site with the files `a.bin` and `b/b.bin` in Git LFS."""
    git(site.origin, "lfs", "install", "--local", "--skip-repo")
    commit(site.origin, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    commit(site.origin, "old.bin", "old\n")
    git(site.origin, "rm", "-q", "old.bin")
    commit(site.origin, "a.bin", "one\n")
    commit(site.origin, "b/b.bin", "two\n")
    return site


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def name_server(site: GitSite, server: socket.socket) -> None:
    """Have the commits of a site from now on name a server of Git LFS."""
    commit(site.origin, ".lfsconfig", f"[lfs]\n\turl = http://127.0.0.1:{server.getsockname()[1]}/lfs\n")


class SlowServer(BaseHTTPRequestHandler):
    """A server of Git LFS that sends one object, `slow` twenty times, in pieces (git-lfs, docs/api/batch.md)."""

    def do_POST(self) -> None:
        oid = hashlib.sha256(b"slow" * 20).hexdigest()
        download = {"href": f"http://{self.headers['Host']}/{oid}"}
        found = {"oid": oid, "size": 80, "actions": {"download": download}}
        body = json.dumps({"transfer": "basic", "objects": [found]}).encode()
        self._begin(len(body), "application/vnd.git-lfs+json")
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._begin(80, "application/octet-stream")
        for _ in range(20):
            self.wfile.write(b"slow")
            time.sleep(0.15)  # this is what is slow, not a wait for anything

    def _begin(self, length: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def fetch(site: GitSite, **keys: object) -> list[str]:
    """Fetch as the daemon does before a run starts; return what it waits for beside the mirror."""
    waits: list[str] = []
    source = site.source(fetch_timeout=1.0, **keys)
    fetch_mirrors(site.state, source, 60, site.logged.append, waits.append)
    return waits


def clone(site: GitSite, **keys: object) -> tuple[Path, list[str]]:
    """Make a workspace after a fetch; return it, and what it waits for."""
    waits: list[str] = []
    source = site.source(fetch_timeout=1.0, **keys)
    made = prepare_workspace(site.state, source, AUTHOR, 1, 60, print, fetches=False, on_wait=waits.append)
    return made.path, waits


def objects(store: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in store.glob("lfs/objects/*/*/*")}


def test_a_clone_gets_its_files_without_their_remote(lfs_site: GitSite) -> None:
    assert fetch(lfs_site) == ["lfs"]
    shutil.rmtree(lfs_site.origin / ".git/lfs")
    assert fetch(lfs_site, fetch_every=3600.0) == []
    place, waits = clone(lfs_site)
    assert waits == []
    assert [(place / name).read_text() for name in ("a.bin", "b/b.bin")] == ["one\n", "two\n"]
    assert git(place, "status", "--porcelain") == ""
    assert sorted(objects(place / ".git").values()) == ["one\n", "two\n"]
    assert not [path for path in place.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert "lfs" not in (lfs_site.tasks.parent / "mirror/config").read_text()
    assert lfs_site.remnants() == []


def test_a_server_that_hangs_fails_the_fetch_only_if_something_is_missing(
    lfs_site: GitSite, silent_server: socket.socket
) -> None:
    fetch(lfs_site)
    name_server(lfs_site, silent_server)
    assert fetch(lfs_site) == []
    assert (clone(lfs_site)[0] / "a.bin").read_text() == "one\n"
    commit(lfs_site.origin, "a.bin", "new\n")
    with pytest.raises(CloneError, match="cannot fetch the files in Git LFS: git lfs made no progress for 1 s"):
        fetch(lfs_site)


def test_a_clone_asks_no_remote_by_ssh(lfs_site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(lfs_site)
    remotes = SshRemotes(tmp_path / "remotes")
    for name, value in remotes.environment.items():
        monkeypatch.setenv(name, value)
    lfs_site.origin.rename(remotes.folder / "main")
    fetch(lfs_site, repository=remotes.url("main"))
    remotes.asked()
    place, _ = clone(lfs_site, repository=remotes.url("main"))
    assert (place / "a.bin").read_text() == "one\n"
    assert remotes.asked() == []


def test_each_ref_names_its_own_server(lfs_site: GitSite, silent_server: socket.socket) -> None:
    git(lfs_site.origin, "branch", "other")
    name_server(lfs_site, silent_server)
    assert fetch(lfs_site, ref="other") == ["lfs"]
    assert (clone(lfs_site, ref="other")[0] / "a.bin").read_text() == "one\n"


def test_an_object_that_is_not_what_its_name_says_is_fetched_by_the_clone(lfs_site: GitSite) -> None:
    fetch(lfs_site)
    [cut] = [path for path in lfs_site.tasks.parent.glob("mirror/lfs/objects/*/*/*") if path.read_text() == "one\n"]
    cut.unlink()
    cut.write_text("on")
    place, waits = clone(lfs_site)
    assert waits == ["lfs"]
    assert (place / "a.bin").read_text() == "one\n"
    assert fetch(lfs_site) == ["lfs"]
    assert cut.read_text() == "one\n"


def test_objects_that_are_not_needed_for_long_are_removed(lfs_site: GitSite, monkeypatch: pytest.MonkeyPatch) -> None:
    git(lfs_site.origin, "branch", "old", "HEAD~2")
    fetch(lfs_site, ref="old")
    fetch(lfs_site)
    mirror = lfs_site.tasks.parent / "mirror"
    assert sorted(objects(mirror).values()) == ["old\n", "one\n", "two\n"]
    monkeypatch.setattr(lfs_files, "_KEPT_UNUSED", -1.0)
    fetch(lfs_site)
    assert sorted(objects(mirror).values()) == ["one\n", "two\n"]


def test_a_download_that_is_slow_does_not_pass_for_one_that_hangs(site: GitSite) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        oid = hashlib.sha256(b"slow" * 20).hexdigest()
        commit(site.origin, ".lfsconfig", f"[lfs]\n\turl = http://127.0.0.1:{server.server_port}/lfs\n")
        commit(site.origin, ".gitattributes", "*.bin filter=lfs\n")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 80\n"
        commit(site.origin, "a.bin", pointer)
        try:
            assert fetch(site) == ["lfs"]
        finally:
            server.shutdown()
    assert (clone(site)[0] / "a.bin").read_text() == "slow" * 20


def test_runs_that_wait_for_files_in_lfs_hold_no_slot(
    start_daemon: StartDaemon, lfs_site: GitSite, silent_server: socket.socket
) -> None:
    name_server(lfs_site, silent_server)
    daemon = start_daemon(CONFIG.format(repository=lfs_site.origin))
    runs = [int(call(daemon, "POST", "/agents/a/schedules/s/trigger").body["id"]) for _ in range(3)]
    connection, _ = silent_server.accept()
    other = int(call(daemon, "POST", "/agents/b/schedules/s/trigger").body["id"])
    daemon.wait_for_run("completed", number=other)
    [wait] = call(daemon, "GET", "/status").body["waits"]
    assert (wait["environment"], wait["waits_for"], wait["runs"][0]) == ("site", "lfs", runs[0])
    assert "site: for its files in Git LFS, since" in daemon.cli("status").stdout
    connection.close()
