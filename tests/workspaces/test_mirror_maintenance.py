"""Repacking of mirrors: not again and again, not beside what waits for it, and not around locks of a killed one."""

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from daemon.workspaces import mirror as mirrors
from daemon.workspaces.git import GitError
from daemon.workspaces.mirror import Mirror
from daemon.workspaces.mirror_maintenance import is_due
from tests.support.git_site import GitSite

DAY = timedelta(days=1)


def mirror_of(site: GitSite) -> Mirror:
    return Mirror(site.state, site.source(), 60, site.logged.append)


def add_loose(mirror: Mirror, count: int, text: str) -> None:
    """Add objects to a mirror that no ref reaches."""
    stream = "".join(f"blob\ndata <<.\n{text} {number}\n.\n" for number in range(count))
    fast = ["git", "-c", "fastimport.unpackLimit=100000", "fast-import", "--quiet"]
    subprocess.run(fast, cwd=mirror.path, input=stream.encode(), check=True)


def pass_a_day(mirror: Mirror) -> None:
    """Have a mirror repacked a day ago."""
    earlier = (datetime.now(UTC) - DAY).timestamp()
    os.utime(mirror.path / "agentcron-repacked", (earlier, earlier))


def test_objects_that_a_repacking_leaves_loose_do_not_make_it_due_again(site: GitSite) -> None:
    site.prepare()
    mirror = mirror_of(site)
    assert not is_due(site.state, "site")
    add_loose(mirror, 700, "first")
    assert is_due(site.state, "site")
    mirror.maintain()
    pass_a_day(mirror)
    assert not is_due(site.state, "site")
    add_loose(mirror, 700, "second")
    assert is_due(site.state, "site")


@pytest.mark.parametrize("fails", [False, True])
def test_a_mirror_is_repacked_at_most_once_a_day(site: GitSite, *, fails: bool) -> None:
    site.prepare()
    mirror = mirror_of(site)
    add_loose(mirror, 700, "first")
    if fails:
        (mirror.path / "packed-refs").write_text("garbage")
        with pytest.raises(GitError):
            mirror.maintain()
    else:
        mirror.maintain()
        add_loose(mirror, 700, "second")
    assert not is_due(site.state, "site")
    pass_a_day(mirror)
    assert is_due(site.state, "site")


def test_locks_of_a_repacking_that_was_killed_are_soon_removed(site: GitSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.prepare()
    mirror = mirror_of(site)

    def killed(*_: object) -> None:
        (mirror.path / "packed-refs.lock").touch()
        os._exit(0)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(mirrors, "repack", killed)
        mirror.maintain()
    os.waitpid(child, 0)
    lock = mirror.path / "packed-refs.lock"
    earlier = time.time() - 60
    os.utime(lock, (earlier, earlier))
    mirror.maintain()
    assert not lock.exists()


def test_a_pipe_in_place_of_the_note_of_a_repacking_holds_nothing_up(site: GitSite) -> None:
    site.prepare()
    os.mkfifo(mirror_of(site).path / "agentcron-repacked")
    pass_a_day(mirror_of(site))
    assert not is_due(site.state, "site")
