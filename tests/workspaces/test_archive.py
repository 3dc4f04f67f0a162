"""Archives of files that git cannot store: GNU tar extracts them as they were."""

import os
import subprocess
from pathlib import Path

import pytest

from daemon.workspaces.salvage.archive import Archive

SIZE = 2**20
HUGE = 8**11  # seconds: one more than the header of a file with holes has room for, in the year 2242


def extracted(folder: Path) -> Path:
    """Archive what is in a folder, and return where GNU tar has extracted it."""
    archive = Archive(folder.parent / "work.tar", folder)
    archive.add_tree()
    archive.close()
    back = folder.parent / "back"
    back.mkdir()
    tar = ["tar", "-C", str(back), "-xf", str(folder.parent / "work.tar")]
    done = subprocess.run(tar, check=True, capture_output=True, text=True)
    assert "ignor" not in done.stderr
    return back


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize("time", [-100, HUGE, HUGE - 1, 0])
def test_files_of_any_age_are_archived(folder: Path, time: int) -> None:
    for name in ("holes", "none"):
        with (folder / name).open("wb") as stream:
            stream.truncate(SIZE if name == "holes" else 0)
            stream.write(b"x")
        os.utime(folder / name, (time, time))
    if (folder / "holes").stat().st_mtime != time:
        pytest.skip("the file system keeps no such times")
    back = extracted(folder)
    for name in ("holes", "none"):
        assert (back / name).read_bytes() == (folder / name).read_bytes()
        assert (back / name).stat().st_mtime == time
    assert (back / "holes").stat().st_blocks * 512 < SIZE


@pytest.mark.skipif(os.getuid() != 0, reason="to give a file away needs root")
def test_files_of_any_owner_are_archived(folder: Path) -> None:
    owner = (8**7, 2**32 - 2)
    with (folder / "holes").open("wb") as stream:
        stream.truncate(SIZE)
    os.chown(folder / "holes", *owner)
    found = (extracted(folder) / "holes").stat()
    assert (found.st_uid, found.st_gid) == owner
