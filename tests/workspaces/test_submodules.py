"""Submodules are cloned from mirrors of their own, and a workspace looks as if their remotes had been asked."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.config.schema import Config, Environment
from daemon.doctor.workspaces import check_mirrors
from daemon.workspaces import submodules as submodules_module
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.fetch import fetch_mirrors
from daemon.workspaces.layout import mirrors_of
from daemon.workspaces.mirror import CloneError
from daemon.workspaces.mirror_maintenance import is_due
from daemon.workspaces.submodules import maintain
from tests.support.git_site import AUTHOR, GitSite, commit, git
from tests.support.ssh_remotes import SshRemotes, add_submodule, head


@pytest.fixture
def remotes(site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshRemotes:
    """The remotes `main`, the repository of the site, and `lib`, its submodule, with the submodule `nested`."""
    found = SshRemotes(tmp_path / "remotes")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    site.origin.rename(found.folder / "main")
    site.origin = found.folder / "main"
    nested, lib = found.make("nested"), found.make("lib")
    add_submodule(lib, "deep/nested", "../nested", head(nested))
    add_submodule(site.origin, "lib", "../lib", head(lib))
    return found


def source(remotes: SshRemotes, **keys: object) -> dict[str, Any]:
    return {"repository": remotes.url("main"), "fetch_timeout": 0.5, **keys}


def fetch(site: GitSite, **keys: object) -> list[str]:
    """Fetch the mirrors as the daemon does before a run starts; return what it waits for at submodules."""
    waits: list[str] = []
    fetch_mirrors(site.state, site.source(**keys), 60, site.logged.append, waits.append)
    return waits


def clone(site: GitSite, run: int = 1, **keys: object) -> Path:
    """Make the workspace of a run as the daemon does after a fetch."""
    return prepare_workspace(site.state, site.source(**keys), AUTHOR, run, 60, site.logged.append, fetches=False).path


def mirror_of(site: GitSite, name: str) -> Path:
    """Return the mirror of the submodule whose URL ends with a name."""
    [found] = [one for one in mirrors_of(site.state, "site")[1:] if one.with_name("url").read_text().endswith(name)]
    return found


def test_a_clone_asks_no_remote_and_its_submodules_name_their_own(site: GitSite, remotes: SshRemotes) -> None:
    git(remotes.folder / "lib", "branch", "other", "HEAD~1")
    keys = source(remotes)
    assert fetch(site, **keys) == ["submodules"]
    assert set(remotes.asked()) == {"main", "lib", "nested"}
    place = clone(site, **keys)
    assert remotes.asked() == []
    assert (place / "lib/deep/nested/name.txt").read_text() == "nested\n"
    assert git(place, "config", "submodule.lib.url") == git(place / "lib", "config", "remote.origin.url")
    assert git(place / "lib", "config", "remote.origin.url") == remotes.url("lib")
    assert git(place / "lib/deep/nested", "config", "remote.origin.url") == remotes.url("nested")
    assert "remotes/origin/other" in git(place / "lib", "branch", "-a")
    for config in place.rglob("config"):
        assert str(site.state / "environments/site/submodules") not in config.read_text()
    assert not list(place.rglob("alternates"))
    assert not [path for path in place.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert site.logged == []


def test_a_submodule_whose_remote_hangs_is_cloned_from_its_mirror_as_it_is(site: GitSite, remotes: SshRemotes) -> None:
    keys = source(remotes)
    fetch(site, **keys)
    remotes.hang("lib")
    remotes.asked()
    fetch(site, **keys)
    assert "cannot fetch the submodule 'lib'; using the mirror as it is: git fetch made no progress" in site.logged[-1]
    assert "nested" not in remotes.asked()  # it has what is needed, and could hang as well
    assert (clone(site, **keys) / "lib/name.txt").exists()
    with pytest.raises(CloneError, match=r"cannot fetch the submodule 'lib': git fetch made no progress for 0.5 s"):
        fetch(site, **keys, require_fetch=True)


def test_a_submodule_whose_remote_hangs_without_a_mirror_fails_the_fetch(site: GitSite, remotes: SshRemotes) -> None:
    remotes.hang("nested")
    with pytest.raises(CloneError, match=r"cannot fetch the submodule 'deep/nested': git fetch made no progress"):
        fetch(site, **source(remotes))


def test_another_commit_of_a_submodule_is_fetched_however_recent_the_mirror_is(
    site: GitSite, remotes: SshRemotes
) -> None:
    keys = source(remotes, fetch_every=3600.0)
    fetch(site, **keys)
    fetch(site, **keys)
    asked = remotes.asked()
    assert [asked.count(name) for name in ("main", "lib", "nested")] == [2, 2, 2]  # for refs and HEAD, once each
    newer = commit(remotes.folder / "lib", "name.txt", "newer\n")
    add_submodule(site.origin, "lib", "../lib", newer)
    fetch(site, **source(remotes))
    assert (clone(site, **keys) / "lib/name.txt").read_text() == "newer\n"


def test_a_commit_of_a_submodule_that_is_on_no_branch_is_cloned_and_not_pruned(
    site: GitSite, remotes: SshRemotes
) -> None:
    lib = remotes.folder / "lib"
    gone = commit(lib, "name.txt", "gone\n")
    git(lib, "reset", "-q", "--hard", "HEAD~1")
    add_submodule(site.origin, "lib", "../lib", gone)
    keys = source(remotes)
    fetch(site, **keys)
    git(mirror_of(site, "lib"), "gc", "-q", "--prune=now")
    remotes.asked()
    assert (clone(site, **keys) / "lib/name.txt").read_text() == "gone\n"
    assert remotes.asked() == []
    add_submodule(site.origin, "lib", "../lib", "1" * 40)
    with pytest.raises(CloneError, match="the submodule 'lib': its remote does not give its commit 1111"):
        fetch(site, **keys)


def test_a_submodule_that_is_marked_shallow_is_a_shallow_clone(site: GitSite, remotes: SshRemotes) -> None:
    lib = remotes.folder / "lib"
    add_submodule(site.origin, "lib", "../lib", head(lib), shallow="true")
    keys = source(remotes)
    fetch(site, **keys)
    assert git(clone(site, **keys) / "lib", "rev-list", "--count", "HEAD") == "1"


def test_submodules_that_git_does_not_check_out_are_not_fetched(site: GitSite, remotes: SshRemotes) -> None:
    add_submodule(site.origin, "lib", "../lib", head(remotes.folder / "lib"), update="none")
    git(site.origin, "config", "-f", ".gitmodules", "submodule.gone.path", "gone")
    git(site.origin, "config", "-f", ".gitmodules", "submodule.gone.url", "../gone")
    git(site.origin, "add", ".gitmodules")
    git(site.origin, "commit", "-q", "-m", "without a commit of the submodule")
    keys = source(remotes)
    assert fetch(site, **keys) == []
    assert set(remotes.asked()) == {"main"}
    place = clone(site, **keys)
    assert list((place / "lib").iterdir()) == []
    assert not (place / "gone").exists()


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_a_submodule_in_a_folder_of_this_host_is_refused_unless_the_repository_is_one(
    site: GitSite, remotes: SshRemotes, scheme: str
) -> None:
    lib = remotes.folder / "lib"
    add_submodule(lib, "deep/nested", f"{scheme}{remotes.folder}/nested", head(remotes.folder / "nested"))
    add_submodule(site.origin, "lib", "../lib", head(lib))
    with pytest.raises(CloneError, match=r"the submodule 'deep/nested' leads to .* its repository is on another one"):
        fetch(site, **source(remotes))
    fetch(site)
    assert (clone(site) / "lib/deep/nested/name.txt").exists()


def test_a_url_that_no_config_could_hold_is_refused(site: GitSite, remotes: SshRemotes) -> None:
    add_submodule(site.origin, "lib", "http://127.0.0.1/\n[core]", head(remotes.folder / "lib"))
    with pytest.raises(CloneError, match="the submodule 'lib' has a URL with characters that cannot be printed"):
        fetch(site)


def test_a_submodule_without_an_entry_in_gitmodules_fails_with_the_words_of_git(
    site: GitSite, remotes: SshRemotes
) -> None:
    git(site.origin, "update-index", "--add", "--cacheinfo", f"160000,{site.first},odd")
    git(site.origin, "commit", "-q", "-m", "no URL")
    with pytest.raises(CloneError, match=r"[Nn]o url found for submodule path 'odd' in \.gitmodules"):
        site.prepare(**source(remotes))


@pytest.mark.parametrize("bound", ["_MOST", "_DEEPEST"])
def test_too_many_submodules_are_fetched_by_the_run_itself(
    site: GitSite, remotes: SshRemotes, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(submodules_module, bound, 1)
    keys, waits = source(remotes), list[str]()
    fetch(site, **keys)
    assert "each run fetches all submodules while it holds a slot: " in site.logged[-1]
    place = prepare_workspace(
        site.state, site.source(**keys), AUTHOR, 1, 60, print, fetches=False, on_wait=waits.append
    ).path
    assert waits == ["submodules"]
    assert (place / "lib/deep/nested/name.txt").exists()


def test_a_mirror_of_a_submodule_holds_no_password(site: GitSite, remotes: SshRemotes) -> None:
    url = "http://user:s3cret@127.0.0.1:9/lib"
    add_submodule(site.origin, "lib", url, head(remotes.folder / "lib"))
    with pytest.raises(CloneError, match="cannot fetch the submodule 'lib'") as failure:
        fetch(site)
    assert "s3cret" not in str(failure.value)
    place = site.state / "environments/site/submodules"
    assert not [path for path in place.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_what_an_agent_wrote_to_a_mirror_of_a_submodule_is_replaced(
    site: GitSite, remotes: SshRemotes, tmp_path: Path
) -> None:
    keys = source(remotes)
    fetch(site, **keys)
    ran = tmp_path / "ran"
    with (mirror_of(site, "lib") / "config").open("a") as config:
        config.write(f'[remote "origin"]\n\tuploadpack = touch {ran}; git-upload-pack\n')
    nested, elsewhere = mirror_of(site, "nested"), tmp_path / "elsewhere"
    (nested / "packed-refs").unlink(missing_ok=True)
    os.mkfifo(nested / "packed-refs")
    nested.with_name("url").unlink()
    nested.with_name("url").symlink_to(elsewhere)
    assert (clone(site, **keys) / "lib/deep/nested/name.txt").exists()
    assert not elsewhere.exists()
    assert not ran.exists()
    assert "uploadpack" not in (mirror_of(site, "lib") / "config").read_text()
    assert "the mirror is made anew" in site.logged[-1]


@pytest.mark.parametrize("damage", ["HEAD^{tree}", "HEAD:name.txt"])
def test_a_damaged_mirror_of_a_submodule_is_fetched_again(site: GitSite, remotes: SshRemotes, damage: str) -> None:
    keys = source(remotes)
    fetch(site, **keys)
    lost = git(remotes.folder / "lib", "rev-parse", damage)
    mirror = mirror_of(site, "lib")
    for pack in mirror.glob("objects/pack/*.pack"):
        with pack.rename(mirror / "moved").open("rb") as stream:
            subprocess.run(["git", "unpack-objects", "-q"], cwd=mirror, stdin=stream, check=True)
    (mirror / "objects" / lost[:2] / lost[2:]).unlink()
    assert (clone(site, **keys) / "lib/name.txt").exists()
    assert any("the mirror of the submodule 'lib' is damaged" in line for line in site.logged)


def test_a_recent_mirror_that_has_lost_a_commit_is_fetched(site: GitSite, remotes: SshRemotes) -> None:
    keys = source(remotes, fetch_every=3600.0)
    fetch(site, **keys)
    mirror = mirror_of(site, "lib")
    git(mirror, "update-ref", "-d", "refs/heads/main")
    git(mirror, "gc", "-q", "--prune=now")
    fetch(site, **keys)
    remotes.asked()
    assert (clone(site, **keys) / "lib/name.txt").exists()
    assert remotes.asked() == []


def test_a_mirror_of_a_submodule_that_is_not_needed_for_long_is_removed(site: GitSite, remotes: SshRemotes) -> None:
    keys = source(remotes)
    fetch(site, **keys)
    unused, used = mirror_of(site, "nested"), mirror_of(site, "lib")
    git(remotes.folder / "lib", "rm", "-q", "deep/nested")
    git(remotes.folder / "lib", "commit", "-q", "-m", "no submodule")
    add_submodule(site.origin, "lib", "../lib", head(remotes.folder / "lib"))
    fetch(site, **keys)
    assert unused.exists()
    earlier = time.time() - 15 * 86400
    for mirror in (unused, used):
        os.utime(mirror.with_name("mirror.lock"), (earlier, earlier))
    fetch(site, **source(remotes, fetch_every=3600.0))
    assert not unused.parent.exists()
    assert used.exists()
    assert "removed the mirror of a submodule" in site.logged[-1]


def test_mirrors_of_submodules_are_repacked(site: GitSite, remotes: SshRemotes) -> None:
    keys = source(remotes)
    fetch(site, **keys)
    assert not is_due(site.state, "site")
    script = "for n in $(seq 25); do echo $n | git hash-object -w --stdin | git pack-objects -q objects/pack/pack; done"
    mirror = mirror_of(site, "lib")
    subprocess.run(["sh", "-ec", script], cwd=mirror, check=True, capture_output=True)
    assert is_due(site.state, "site")
    assert maintain(site.state, site.source(**keys), 60, site.logged.append)
    assert len(list(mirror.glob("objects/pack/*.pack"))) < 5
    assert not is_due(site.state, "site")


def test_doctor_counts_mirrors_of_submodules_with_that_of_their_environment(site: GitSite, remotes: SshRemotes) -> None:
    keys = source(remotes)
    fetch(site, **keys)
    used = Config(environments={"site": Environment(mode="git", repository=remotes.url("main"))})
    assert list(check_mirrors(used, site.state)) == []
    [found] = check_mirrors(Config(), site.state)
    assert f"`rm -r {site.tasks.parent}`" in str(found.fix)
    subprocess.run(["rm", "-r", site.tasks.parent / "mirror", site.tasks.parent / "mirror.lock"], check=True)
    [found] = check_mirrors(Config(), site.state)
    assert f"`rm -r {site.tasks.parent}`" in str(found.fix)
