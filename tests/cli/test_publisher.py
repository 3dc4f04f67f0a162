"""Root writes into the directory that it has looked at, whatever takes its place."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli.publisher import publisher
from daemon.errors import RefusedError
from daemon.store.ownership import open_parent
from tests.support.other_user import NOBODY, needs_another_user

pytestmark = needs_another_user


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory of another user, beside `roots`."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "roots").mkdir()
        theirs = Path(name) / "theirs"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        yield theirs


def swap(place: Path, target: Path) -> Path:
    """Put a link of another user in the place of a directory; return where that is now."""
    moved = place.rename(place.with_name("moved"))
    place.symlink_to(target)
    os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
    return moved


def test_a_backup_is_moved_into_the_directory_in_which_it_was_begun(theirs: Path) -> None:
    roots = theirs.with_name("roots")
    with publisher(theirs / "backup.db") as place:
        assert place.target == theirs / "backup.db"
        os.write(place.descriptor, b"backup")
        moved = swap(theirs, roots)
        place.publish()
    assert (moved / "backup.db").read_bytes() == b"backup"
    assert list(roots.iterdir()) == []


@pytest.mark.parametrize("create", [False, True])
def test_a_link_of_another_user_is_followed_at_no_moment(theirs: Path, create: bool) -> None:
    roots = theirs.with_name("roots")
    swap(theirs, roots)
    with pytest.raises(RefusedError, match="belongs to nobody, and root does not follow it"):
        open_parent(theirs / "deeper" / "file", create=create)
    with pytest.raises(RefusedError, match="belongs to nobody"), publisher(theirs / "file"):
        pass
    assert list(roots.iterdir()) == []


def test_links_of_root_are_followed_and_missing_directories_made(theirs: Path) -> None:
    roots, link = theirs.with_name("roots"), theirs.with_name("link")
    link.symlink_to("roots/../roots")
    (roots / "last").symlink_to(roots / "target")
    for path, found in ((link / "last", "target"), (link / "a" / "b" / "file", "file")):
        folder, name = open_parent(path, create=True)
        try:
            assert name == found
            where = Path(f"/proc/self/fd/{folder}").readlink()
        finally:
            os.close(folder)
    assert where == roots / "a" / "b"
    with pytest.raises(FileNotFoundError):
        open_parent(roots / "missing" / "file")
    with pytest.raises(IsADirectoryError):
        open_parent(Path("/"))
