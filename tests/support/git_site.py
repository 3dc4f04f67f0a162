"""A state directory, and a repository whose clones are workspaces in it."""

import os
import shutil
import subprocess
from pathlib import Path

from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.jobs import Author, CleanedWorkspace, Source

AUTHOR = Author("tester", "tester@localhost", is_name_set=True, is_email_set=True)
_IDENTITY = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")


def git(place: Path, *arguments: str) -> str:
    """Return what git prints, its last newline left out."""
    done = subprocess.run(["git", *_IDENTITY, *arguments], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def commit(place: Path, name: str, text: str) -> str:
    """Commit a file; return the commit."""
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text)
    git(place, "add", "--", name)
    git(place, "commit", "-q", "-m", name)
    return git(place, "rev-parse", "HEAD")


def git_that(does: str, folder: Path) -> str:
    """Return a PATH with a git in a folder that does something first."""
    program = folder / "bin/git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{does}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def brought_back(done: CleanedWorkspace, folder: Path) -> Path:
    """Bring the work of a workspace back by the commands that its cleanup reported; return where it is now."""
    assert done.gone, done.reason
    assert done.saved is not None
    script = "\n".join(["set -e", *done.saved.restore])
    folder.mkdir(parents=True, exist_ok=True)
    shell = subprocess.run(["sh", "-c", script], cwd=folder, check=False, capture_output=True)
    assert shell.returncode == 0, shell.stderr
    return folder / "run-1"


class GitSite:
    """The git environment `site` in a state directory, and the repository that its workspaces are cloned from."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.origin = folder / "origin"
        self.origin.mkdir()
        self.logged: list[str] = []
        self.bases: dict[int, str] = {}
        git(self.origin, "init", "-q", "-b", "main")
        (self.origin / ".gitignore").write_text("*.log\n")
        git(self.origin, "add", ".gitignore")
        self.first = commit(self.origin, "a.txt", "one\n")

    def source(self, **keys: object) -> Source:
        facts: dict[str, object] = {"ref": None, "fetch_every": 0.0, "require_fetch": False, **keys}
        facts.setdefault("fetch_timeout", 60.0)
        return Source("site", str(facts.pop("repository", self.origin)), **facts)  # type: ignore[arg-type]

    def prepare(self, run: int = 1, author: Author | None = None, **keys: object) -> Path:
        prepared = prepare_workspace(self.state, self.source(**keys), author or AUTHOR, run, 60, self.logged.append)
        self.bases[run] = prepared.base
        return prepared.path

    @property
    def tasks(self) -> Path:
        return self.state / "environments" / "site" / "tasks"

    def saved(self, run: int = 1) -> Path:
        return self.state / "runs" / str(run) / "artifacts" / "saved-work"

    def remnants(self) -> list[str]:
        """Return what lies where nothing should lie when nobody works."""
        places = [self.state / "environments" / name for name in (".trash", ".incoming", ".scratch")]
        return sorted(str(entry) for place in places if place.exists() for entry in place.iterdir())
