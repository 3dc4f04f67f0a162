"""What a path leads through: directories, links and what links lead to."""

import errno
from pathlib import Path

import pytest

from daemon.config.file_access import visible_places_of
from daemon.errors import RefusedError
from daemon.path_owners import places_of
from daemon.store.ownership import open_parent


def chain(folder: Path, links: int) -> Path:
    """Return a file behind so many links."""
    last = folder / "file"
    last.touch()
    for number in range(links):
        link = folder / f"link-{number}"
        link.symlink_to(last)
        last = link
    return last


def test_links_are_followed_and_each_place_is_named_without_them(tmp_path: Path) -> None:
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "near").symlink_to("far/deep")
    found = list(places_of(tmp_path / "near/../new/file"))
    assert found[: len(tmp_path.parts)] == [*reversed(tmp_path.parents), tmp_path]
    assert found[len(tmp_path.parts) :] == [
        tmp_path / name for name in ("near", "far", "far/deep", "far/new", "far/new/file")
    ]


def test_a_path_of_more_links_than_linux_follows_is_refused(tmp_path: Path) -> None:
    assert list(places_of(chain(tmp_path, 40)))[-1] == tmp_path / "file"
    (tmp_path / "more").mkdir()
    path = chain(tmp_path / "more", 41)
    with pytest.raises(OSError, match="symbolic links") as caught:
        list(places_of(path))
    assert caught.value.errno == errno.ELOOP
    assert tmp_path / "more/link-0" in visible_places_of(path)
    with pytest.raises(RefusedError, match="too many links"):
        open_parent(path)
