"""The mirror of a repository: what a remote or an agent does to it costs no run its workspace, and runs nothing."""

import os
import subprocess
from pathlib import Path

import pytest

from daemon.config.schema import Config, Environment
from daemon.doctor.workspaces import check_mirrors
from daemon.workspaces import kept_commits
from daemon.workspaces import mirror as mirrors
from daemon.workspaces.clean import clean
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.git import GitError
from daemon.workspaces.mirror import CloneError, Mirror
from daemon.workspaces.mirror_files import odd_entry
from daemon.workspaces.remote import access_to
from tests.support.git_site import AUTHOR, GitSite, brought_back, commit, git


def mirror_of(site: GitSite) -> Path:
    return site.tasks.parent / "mirror"


@pytest.fixture
def ssh(site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A way to the origin by ssh that hangs as soon as the file that this returns exists."""
    program, hangs = tmp_path / "ssh", tmp_path / "hangs"
    program.write_text(f"#!/bin/sh\n[ ! -e {hangs} ] || exec sleep 300\nexec git upload-pack {site.origin}\n")
    program.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(program))
    return hangs


def test_a_fetch_that_hangs_is_ended_and_the_mirror_used_as_it_is(site: GitSite, ssh: Path) -> None:
    remote = "ssh://localhost/origin"
    site.prepare(1, repository=remote)
    ssh.touch()
    assert git(site.prepare(2, repository=remote, fetch_timeout=0.5), "rev-parse", "HEAD") == site.first
    assert any("git fetch made no progress for 0.5 s" in line for line in site.logged)
    with pytest.raises(CloneError, match=r"git fetch made no progress for 0.5 s"):
        site.prepare(3, repository=remote, fetch_timeout=0.5, require_fetch=True)


def test_a_submodule_whose_remote_hangs_fails_the_clone(site: GitSite, ssh: Path) -> None:
    git(site.origin, "config", "-f", ".gitmodules", "submodule.lib.path", "lib")
    git(site.origin, "config", "-f", ".gitmodules", "submodule.lib.url", "ssh://localhost/lib")
    git(site.origin, "update-index", "--add", "--cacheinfo", f"160000,{site.first},lib")
    git(site.origin, "add", ".gitmodules")
    git(site.origin, "commit", "-q", "-m", "submodule")
    ssh.touch()
    with pytest.raises(CloneError, match=r"the submodule .lib.: git fetch made no progress for 0.5 s"):
        site.prepare(1, fetch_timeout=0.5)
    assert not any("tried once more" in line for line in site.logged)


@pytest.mark.parametrize("in_common", [False, True])
def test_a_config_that_an_agent_wrote_is_replaced_before_the_next_fetch(
    site: GitSite, tmp_path: Path, *, in_common: bool
) -> None:
    site.prepare(1, fetch_every=3600.0)
    mirror, ran = mirror_of(site), tmp_path / "ran"
    planted = f'[remote "origin"]\n\tuploadpack = touch {ran}; git-upload-pack\n'
    text = (mirror / "config").read_text()
    if in_common:
        subprocess.run(["cp", "-R", str(mirror), str(tmp_path / "common")], check=True)
        (mirror / "commondir").write_text(f"{tmp_path}/common\n")
    place = tmp_path / "common" if in_common else mirror
    (place / "config").write_text(text + planted)
    second = commit(site.origin, "b.txt", "two\n")
    assert git(site.prepare(2, fetch_every=3600.0), "rev-parse", "HEAD") == second
    assert not ran.exists()
    assert (mirror / "config").read_text() == text


def plant(place: Path, kind: str) -> None:
    """Put a pipe, or a link, in place of whatever is there."""
    subprocess.run(["rm", "-rf", str(place)], check=True)
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("HEAD", "pipe"),
        ("packed-refs", "pipe"),
        ("agentcron-fetched", "pipe"),
        ("config", "link"),
        ("refs/heads/x", "link"),
        ("objects/info", "link"),
    ],
)
def test_a_mirror_with_a_pipe_or_a_link_is_made_anew(site: GitSite, name: str, kind: str) -> None:
    site.prepare(1, fetch_every=3600.0)
    plant(mirror_of(site) / name, kind)
    opened = Mirror(site.state, site.source(fetch_every=3600.0), 2, site.logged.append)
    assert not opened.has_commit()
    with pytest.raises(GitError, match="neither a regular file nor a folder"):
        kept_commits.keep(mirror_of(site), "1", [site.first])
    assert git(site.prepare(2, fetch_every=3600.0), "rev-parse", "HEAD") == site.first
    assert any("the mirror is made anew" in line and name in line for line in site.logged)
    assert opened.has_commit()


def test_a_link_in_place_of_the_mirror_is_replaced_and_not_followed(site: GitSite, tmp_path: Path) -> None:
    mirror, elsewhere = mirror_of(site), tmp_path / "elsewhere"
    site.prepare(1)
    mirror.rename(elsewhere)
    (elsewhere / "HEAD").unlink()
    before = sorted(elsewhere.rglob("*"))
    mirror.symlink_to(elsewhere)
    assert git(site.prepare(2), "rev-parse", "HEAD") == site.first
    assert not mirror.is_symlink()
    assert sorted(elsewhere.rglob("*")) == before


def test_work_is_saved_beside_a_mirror_with_a_pipe(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare(1)
    commit(place, "b.txt", "two\n")
    plant(mirror_of(site) / "objects/info/alternates", "pipe")
    done = clean(site.state, "site", "1", site.logged.append, base=site.bases[1])
    assert (brought_back(done, tmp_path / "back") / "b.txt").read_text() == "two\n"


def test_a_set_aside_mirror_with_a_pipe_is_quarantined_unread(site: GitSite) -> None:
    site.prepare(1)
    aside = mirror_of(site).with_name("mirror.damaged")
    subprocess.run(["cp", "-R", str(mirror_of(site)), str(aside)], check=True)
    plant(aside / "shallow", "pipe")
    site.prepare(2)
    assert (site.tasks.parent / "quarantine/mirror.damaged").is_dir()
    assert any("shallow" in line for line in site.logged)


def test_git_in_the_mirror_that_waits_for_ever_is_ended(
    site: GitSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.prepare(1)
    os.mkfifo(tmp_path / ".gitconfig")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(mirrors, "_LONGEST_SILENCE", 0.2)
    with pytest.raises(GitError, match=r"made no progress for 0.2 s"):
        Mirror(site.state, site.source(), 30, site.logged.append).maintain()


def test_a_remote_that_is_or_becomes_shallow_gives_its_newest_commit(site: GitSite, tmp_path: Path) -> None:
    for number in range(3):
        commit(site.origin, "a.txt", f"{number}\n")
    whole, shallow = tmp_path / "whole", tmp_path / "shallow"
    git(tmp_path, "clone", "-q", str(site.origin), str(whole))
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{site.origin}", str(shallow))
    site.prepare(1, repository=whole, require_fetch=True)
    newest = commit(site.origin, "a.txt", "newest\n")
    git(whole, "fetch", "-q", "--depth=1", "origin", "main")
    git(whole, "reset", "-q", "--hard", "FETCH_HEAD")
    assert git(site.prepare(2, repository=whole, require_fetch=True), "rev-parse", "HEAD") == newest
    place = site.prepare(3, repository=shallow, require_fetch=True)
    assert (place / "a.txt").read_text() == "2\n"
    mine = commit(place, "mine.txt", "mine\n")
    done = clean(site.state, "site", "3", site.logged.append, base=site.bases[3])
    brought_back(done, tmp_path / "back")
    assert git(tmp_path / "back/run-3", "rev-parse", "HEAD") == mine


def test_a_mirror_of_a_shallow_remote_gets_the_history_when_the_remote_has_it(site: GitSite, tmp_path: Path) -> None:
    commit(site.origin, "a.txt", "two\n")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{site.origin}", str(shallow))
    assert git(site.prepare(1, repository=shallow), "rev-list", "--count", "HEAD") == "1"
    git(shallow, "fetch", "-q", "--unshallow")
    assert git(site.prepare(2, repository=shallow), "rev-list", "--count", "HEAD") == "2"


def test_git_is_judged_by_its_exit_status(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    mine = commit(place, "mine.txt", "mine\n")
    for repository in (mirror_of(site), place):
        git(repository, "repack", "-q", "-a", "-d", "--write-bitmap-index")
    (place / "a.txt").write_text("changed\n")
    done = clean(site.state, "site", "1", site.logged.append, base=site.bases[1])
    assert done.saved is not None
    assert done.saved.as_it_was == ()
    back = brought_back(done, tmp_path / "back")
    assert git(back, "rev-parse", "HEAD") == mine
    assert (back / "a.txt").read_text() == "changed\n"


def test_doctor_names_the_mirrors_of_removed_environments(site: GitSite) -> None:
    place = site.prepare(1)
    used = Config(environments={"site": Environment(mode="git", repository=str(site.origin))})
    assert list(check_mirrors(used, site.state)) == []
    [found] = check_mirrors(Config(), site.state)
    assert f"{mirror_of(site)}, " in found.what
    assert found.what.endswith("; beside it, tasks is not empty")
    commit(place, "mine.txt", "mine\n")
    git(place, "push", "-q", "origin", "HEAD:refs/heads/mine")
    site.prepare(2)
    for run in ("1", "2"):
        assert clean(site.state, "site", run, site.logged.append, base=site.first).gone
    [found] = check_mirrors(Config(), site.state)
    assert "saved work needs it" in found.what
    kept_commits.forget(site.state, lambda runs: runs, site.logged.append)
    [found] = check_mirrors(Config(), site.state)
    assert f"`rm -r {mirror_of(site).parent}`" in str(found.fix)


def test_a_mirror_of_another_repository_is_never_cloned_without_a_fetch(site: GitSite, tmp_path: Path) -> None:
    site.prepare(1)
    other = site.source(repository=tmp_path / "other", require_fetch=True)
    with pytest.raises(CloneError, match="cannot fetch the repository"):
        prepare_workspace(site.state, other, AUTHOR, 2, 60, site.logged.append, fetches=False)


def test_a_mirror_of_another_ref_is_fetched_before_it_is_cloned(site: GitSite) -> None:
    git(site.origin, "branch", "old")
    site.prepare(1, ref="old")
    latest = commit(site.origin, "a.txt", "two\n")
    prepared = prepare_workspace(site.state, site.source(), AUTHOR, 2, 60, site.logged.append, fetches=False)
    assert prepared.base == latest
    commit(site.origin, "a.txt", "three\n")
    prepared = prepare_workspace(site.state, site.source(), AUTHOR, 3, 60, site.logged.append, fetches=False)
    assert prepared.base == latest  # however old the fetch is


def test_another_ref_whose_fetch_failed_is_not_tried_again_for_each_run(site: GitSite, ssh: Path) -> None:
    remote = "ssh://localhost/origin"
    site.prepare(1, repository=remote, ref="main")
    ssh.touch()
    source = site.source(repository=remote, ref=None, fetch_every=3600.0, fetch_timeout=0.5)
    for run in (2, 3):
        assert prepare_workspace(site.state, source, AUTHOR, run, 60, site.logged.append).base == site.first
    assert len([line for line in site.logged if "using the mirror as it is" in line]) == 1


def test_a_ref_that_no_fetch_has_brought_yet_fails_with_the_reason_of_the_fetch(site: GitSite, ssh: Path) -> None:
    remote = "ssh://localhost/origin"
    site.prepare(1, repository=remote, ref="main")
    git(site.origin, "branch", "release")
    ssh.touch()
    with pytest.raises(CloneError, match=r"cannot fetch the repository: git fetch made no progress"):
        site.prepare(2, repository=remote, ref="release", fetch_every=3600.0, fetch_timeout=0.5)
    ssh.unlink()
    site.prepare(3, repository=remote, ref="release", fetch_every=3600.0)


def test_a_password_is_for_the_server_of_its_url_only(site: GitSite, tmp_path: Path) -> None:
    access = access_to("http://bob:lyrebird@127.0.0.1:8080/x")
    config = tmp_path / "config"
    config.write_text(access.config)
    variables = {"GIT_CONFIG_GLOBAL": str(config), "GIT_ASKPASS": "true", **access.environment}

    def filled(host: str) -> str:
        asked = f"protocol=http\nhost={host}\n\n"
        git_credential = ["git", "credential", "fill"]
        environment = {**os.environ, **variables}
        return subprocess.run(
            git_credential, input=asked, env=environment, cwd=site.state, text=True, capture_output=True, check=True
        ).stdout

    assert "password=lyrebird" in filled("127.0.0.1:8080")
    assert "lyrebird" not in filled("127.0.0.1:8081")


def test_a_fetch_looks_for_odd_entries_once(site: GitSite, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def counted(mirror: Path) -> Path | None:
        looked.append(mirror)
        return odd_entry(mirror)

    site.prepare(1)
    monkeypatch.setattr(mirrors, "odd_entry", counted)
    for fetch_every in (0.0, 3600.0):
        opened = Mirror(site.state, site.source(fetch_every=fetch_every), 60, site.logged.append)
        with opened.in_use(fetches=True):
            assert len(looked) == 1
        looked.clear()
