"""The one door to deletion: hostile names, hostile trees, and folders that are replaced by links during removal."""

import contextlib
import ctypes
import hashlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.workspaces import removal
from daemon.workspaces.disk_usage import folder_size
from daemon.workspaces.openat import open_below, open_root
from daemon.workspaces.removal import RefusedRemovalError, discard, empty_trash

FOLDERS = ("environments", "site", "tasks")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="other users, mounts and immutable files need root")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory that lies below a folder called `tasks`, with a canary beside it."""
    state = tmp_path / "tasks" / "state"
    (state.joinpath(*FOLDERS)).mkdir(parents=True)
    canary = tmp_path / "canary"
    canary.mkdir()
    for number in range(5):
        (canary / f"{number}.txt").write_text(str(number))
    return state


def canary_of(state: Path) -> Path:
    return state.parents[1] / "canary"


def fingerprint(folder: Path) -> str:
    entries = sorted((str(path), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def task(state: Path, name: str = "1") -> Path:
    place = state.joinpath(*FOLDERS, name)
    place.mkdir()
    (place / "file.txt").write_text("x")
    return place


def remove(state: Path, name: str = "1") -> removal.Leftovers:
    trashed = discard(state, FOLDERS, name)
    assert trashed is not None
    return empty_trash(state, "environments", trashed)


def trash(state: Path) -> list[str]:
    return os.listdir(state / "environments" / ".trash")


def test_a_folder_is_gone_at_once_and_a_missing_one_is_no_error(state: Path) -> None:
    place = task(state)
    trashed = discard(state, FOLDERS, "1")
    assert not place.exists()
    assert trash(state) == [trashed]
    assert empty_trash(state, "environments").count == 0
    assert trash(state) == []
    assert discard(state, FOLDERS, "1") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../../..", "1/", "a\0b"])
def test_an_invalid_name_is_refused(state: Path, name: str) -> None:
    task(state)
    (state.joinpath(*FOLDERS) / "ab").mkdir()
    with pytest.raises(RefusedRemovalError, match="not the name"):
        discard(state, FOLDERS, name)
    assert sorted(os.listdir(state.joinpath(*FOLDERS))) == ["1", "ab"]


@pytest.mark.parametrize("level", ["environments", "environments/site", "environments/site/tasks", "the task"])
def test_nothing_is_reached_through_a_link(state: Path, level: str) -> None:
    before = fingerprint(canary_of(state))
    place = state.joinpath(*FOLDERS, "1") if level == "the task" else state / level
    target = canary_of(state)
    if level != "the task":
        shutil.rmtree(place)
        (target / "1").mkdir()
        before = fingerprint(target)
    place.symlink_to(target)
    with pytest.raises(RefusedRemovalError):
        discard(state, FOLDERS, "1")
    assert fingerprint(target) == before
    assert place.is_symlink()


def test_a_file_is_refused(state: Path) -> None:
    state.joinpath(*FOLDERS, "1").write_text("x")
    with pytest.raises(RefusedRemovalError, match="link or not a folder"):
        discard(state, FOLDERS, "1")


def test_links_inside_are_deleted_and_not_followed(state: Path) -> None:
    before = fingerprint(canary_of(state))
    place = task(state)
    (place / "folder").symlink_to(canary_of(state))
    (place / "file").symlink_to(canary_of(state) / "1.txt")
    (place / "dangling").symlink_to("/nowhere")
    os.link(canary_of(state) / "2.txt", place / "hard")
    assert remove(state).count == 0
    assert fingerprint(canary_of(state)) == before


def test_odd_entries_are_deleted(state: Path) -> None:
    place = task(state)
    os.mkfifo(place / "fifo")
    folder = os.open(place, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/s")
    os.close(folder)
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b"\x1b[31m", b"x" * 255):
        (Path(os.fsdecode(os.fsencode(place) + b"/" + name))).write_text("x")
    if os.getuid() == 0:
        os.mknod(place / "device", 0o600 | 0o020000, os.makedev(1, 3))
    assert remove(state).count == 0
    assert trash(state) == []


@needs_root
def test_unreadable_folders_are_made_readable_by_their_owner(state: Path) -> None:
    place = task(state)
    deep = place / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    for folder in (deep, deep.parent, place):
        folder.chmod(0o000)
    subprocess.run(["chown", "-R", "65534:65534", str(state)], check=True)
    opened = [above for above in state.parents if above.stat().st_mode & 0o005 != 0o005]
    for above in opened:
        above.chmod(above.stat().st_mode | 0o005)
    child = os.fork()  # root is asked nothing: an ordinary user does it
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os._exit(min(remove(state).count, 100))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert trash(state) == []


def test_a_tree_of_ten_thousand_levels_is_deleted(state: Path) -> None:
    place = task(state)
    folder = os.open(place, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert remove(state).count == 0
    assert trash(state) == []


@pytest.fixture
def mounted(state: Path) -> Iterator[Path]:
    """A workspace with a bind mount of the canary in it."""
    place = task(state)
    (place / "mount").mkdir()
    done = subprocess.run(["mount", "--bind", str(canary_of(state)), str(place / "mount")], check=False)
    if done.returncode != 0:
        pytest.skip("mounts are not possible here")
    yield place
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    for point in reversed(points):
        subprocess.run(["umount", point], check=False)


@needs_root
def test_no_mount_is_crossed(state: Path, mounted: Path) -> None:
    before = fingerprint(canary_of(state))
    left = remove(state)
    assert left.count > 0
    assert any("mount" in reason for reason in left.reasons)
    assert fingerprint(canary_of(state)) == before
    assert not mounted.exists()
    assert trash(state) != []


@needs_root
def test_a_mount_point_in_the_place_of_a_workspace_is_refused(state: Path) -> None:
    place = task(state)
    before = fingerprint(canary_of(state))
    if subprocess.run(["mount", "--bind", str(canary_of(state)), str(place)], check=False).returncode != 0:
        pytest.skip("mounts are not possible here")
    try:
        with pytest.raises(RefusedRemovalError, match="mount point"):
            discard(state, FOLDERS, "1")
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert fingerprint(canary_of(state)) == before


@needs_root
def test_an_immutable_file_is_reported_kept_and_retried(state: Path) -> None:
    place = task(state)
    held = place / "sub" / "held.txt"
    held.parent.mkdir()
    held.write_text("x")
    change = ["chattr", "+i", str(held)]
    if shutil.which("chattr") is None or subprocess.run(change, check=False, capture_output=True).returncode != 0:
        pytest.skip("immutable files are not possible here")
    left = remove(state)
    assert left.count == 1
    assert "'held.txt': Operation not permitted" in left.reasons[0]
    [trashed] = trash(state)
    found = state / "environments" / ".trash" / trashed / "sub" / "held.txt"
    subprocess.run(["chattr", "-i", str(found)], check=True)
    assert empty_trash(state, "environments").count == 0
    assert trash(state) == []


def test_files_that_appear_during_deletion_are_deleted_or_reported(state: Path) -> None:
    place = task(state)
    trashed = discard(state, FOLDERS, "1")
    assert trashed is not None
    assert not place.exists()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                (state / "environments" / ".trash" / trashed / f"{number}.txt").write_text("x")
            except OSError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    left = empty_trash(state, "environments", trashed)
    stop.set()
    writer.join()
    assert left.count == 0 or "appearing" in left.reasons[0]
    assert empty_trash(state, "environments").count == 0
    assert trash(state) == []


def _renew(tasks: Path, canary: Path) -> None:
    """Put a folder and a link where they are missing; what is swapped is never written through."""
    folder, link = tasks / "fresh", tasks / "fresh-link"
    folder.mkdir(exist_ok=True)
    (folder / "f").write_text("x")
    link.symlink_to(canary)
    with contextlib.suppress(OSError):
        folder.rename(tasks / "1")
    try:
        link.rename(tasks / "link")
    except OSError:
        link.unlink()


def swap(state: Path, rounds: int) -> None:
    """Remove a workspace again and again while somebody swaps it for a link to the canary."""
    canary, tasks = canary_of(state), state.joinpath(*FOLDERS)
    before = fingerprint(canary)
    (tasks / "link").symlink_to(canary)
    stop = threading.Event()
    libc = ctypes.CDLL(None)

    def exchange() -> None:
        one, other = os.fsencode(tasks / "1"), os.fsencode(tasks / "link")
        while not stop.is_set():
            libc.renameat2(-100, one, -100, other, 2)  # RENAME_EXCHANGE

    swapper = threading.Thread(target=exchange)
    swapper.start()
    try:
        for _ in range(rounds):
            _renew(tasks, canary)
            with contextlib.suppress(RefusedRemovalError, OSError):
                discard(state, FOLDERS, "1")
            empty_trash(state, "environments")
    finally:
        stop.set()
        swapper.join()
    assert fingerprint(canary) == before


def test_a_swap_of_folder_and_link_never_reaches_the_links_target(state: Path) -> None:
    swap(state, 2000)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_swaps_never_reach_the_links_target(state: Path) -> None:
    swap(state, 100_000)


def test_without_openat2_the_same_is_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.workspaces.openat._OPENAT2", 100_000)  # no such call
    (state / "link").symlink_to(canary_of(state))
    root = open_root(state)
    try:
        with pytest.raises(OSError, match="'link'"):
            open_below(root, "link")
        os.close(open_below(root, "environments"))
    finally:
        os.close(root)
    task(state)
    assert remove(state).count == 0


def test_the_size_is_what_du_says(state: Path) -> None:
    place = task(state)
    (place / "big").write_bytes(b"x" * 300_000)
    os.link(place / "big", place / "again")
    (place / "folder").symlink_to(canary_of(state))
    (place / "sub" / "deeper").mkdir(parents=True)
    (place / "sub" / "deeper" / "f").write_text("x" * 9000)
    said = subprocess.run(["du", "-s", "-B1", str(place)], capture_output=True, text=True, check=True).stdout
    assert folder_size(state, (*FOLDERS, "1")) == int(said.split()[0])
    assert folder_size(state, (*FOLDERS, "2")) == 0
    assert folder_size(state, (*FOLDERS, "..")) == 0
