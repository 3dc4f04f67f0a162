"""The provider that the real programs call, and the key that they have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.git_site import commit, git
from tests.support.peers.processes import Peer, peer
from tests.support.real_programs import KEY, told_to_commit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository that agents work in, a home, and a key."""
    place = tmp_path_factory.mktemp("real")
    (place / "key").write_text(KEY)
    (place / "key").chmod(0o600)
    (place / "home").mkdir()
    (place / "origin").mkdir()
    git(place / "origin", "init", "-q", "-b", "main")
    commit(place / "origin", "a.txt", "one\n")
    return place


@pytest.fixture(scope="module")
def provider(folder: Path) -> Iterator[Peer]:
    with peer(folder, "provider") as found:
        told_to_commit(found)
        yield found
