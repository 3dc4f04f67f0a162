"""Commits of agents need no setup: who commits in a workspace, and who decides that."""

import socket
import subprocess
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.config.schema import ProcessAgent
from daemon.workspaces.jobs import Author
from daemon.workspaces.sources import author_for
from tests.support.git_site import GitSite, commit, git

DEFAULT = Author("triage", "triage@host", is_name_set=False, is_email_set=False)
SET = Author("Triage Team", "triage@example.org", is_name_set=True, is_email_set=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the daemon's user, in whose git configuration is nothing but that git must not guess who commits."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    return tmp_path / "home"


def author_of(place: Path, *options: str) -> str:
    """Commit in a place as an agent does; return who did."""
    subprocess.run(["git", *options, "commit", "-q", "--allow-empty", "-m", "x"], cwd=place, check=True)
    return git(place, "log", "-1", "--format=%an <%ae> %cn <%ce>")


@pytest.mark.usefixtures("home")
def test_an_agent_commits_as_itself(site: GitSite) -> None:
    assert author_of(site.prepare(author=DEFAULT)) == "triage <triage@host> triage <triage@host>"


def test_the_identity_of_the_daemons_user_comes_before_the_default(site: GitSite, home: Path) -> None:
    with (home / ".gitconfig").open("a") as config:
        config.write("name = Robo\n")
    assert author_of(site.prepare(1, DEFAULT)).startswith("Robo <triage@host>")
    assert author_of(site.prepare(2, SET)).startswith("Triage Team <triage@example.org>")
    with (home / ".gitconfig").open("a") as config:
        config.write("email = robo@example.org\n")
    place = site.prepare(3, DEFAULT)
    assert author_of(place).startswith("Robo <robo@example.org>")
    assert "[user]" not in (place / ".git" / "config").read_text()


@pytest.mark.usefixtures("home")
def test_the_agent_has_the_last_word(site: GitSite, monkeypatch: pytest.MonkeyPatch) -> None:
    place = site.prepare(author=SET)
    assert author_of(place, "-c", "user.name=Me").startswith("Me <triage@example.org>")
    git(place, "config", "user.email", "me@example.org")
    assert author_of(place).startswith("Triage Team <me@example.org>")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Variable")
    assert author_of(place).startswith("Variable <me@example.org> Triage Team")


@pytest.mark.usefixtures("home")
def test_an_agent_commits_in_submodules_too(site: GitSite, tmp_path: Path) -> None:
    for name, inner in (("lib", None), ("middle", "lib")):
        git(tmp_path, "init", "-q", name)
        commit(tmp_path / name, "x", "x")
        if inner:
            git(
                tmp_path / name,
                "-c",
                "protocol.file.allow=always",
                "submodule",
                "--quiet",
                "add",
                f"{tmp_path}/{inner}",
            )
            git(tmp_path / name, "commit", "-qm", "sub")
    git(site.origin, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", f"{tmp_path}/middle")
    git(site.origin, "commit", "-qm", "sub")
    place = site.prepare(author=SET)
    for inside in ("middle", "middle/lib"):
        assert author_of(place / inside).startswith("Triage Team <triage@example.org>")


def test_the_default_is_the_agent_at_this_host(tmp_path: Path) -> None:
    text = "[environments.e]\nmode = 'git'\nrepository = 'r'\n[agents.a]\ncommand = ['true']\nenvironment = 'e'\n"
    for more, expected in (
        ("", Author("a", f"a@{socket.gethostname()}", is_name_set=False, is_email_set=False)),
        ("git_author_name = 'A'", Author("A", f"a@{socket.gethostname()}", is_name_set=True, is_email_set=False)),
        ("git_author_email = 'x@y'", Author("a", "x@y", is_name_set=False, is_email_set=True)),
    ):
        (tmp_path / "config.toml").write_text(text + more)
        section = load_config(tmp_path / "config.toml").agents["a"]
        assert isinstance(section, ProcessAgent)
        assert author_for("a", section) == expected
