"""Backups to file systems that give all files to one user, whoever creates them."""

import contextlib
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.errors import StoreError
from daemon.store.backup import back_up
from daemon.store.state_dir import open_state

NOW = datetime(2026, 11, 21, tzinfo=UTC)
MOUNTED_FOR = 54321  # a user


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    async with open_state(folder, NOW, accept_data_loss=False):
        pass
    (tmp_path / "mount").mkdir()
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given to another user")
@pytest.mark.parametrize("planted", [None, "-journal", "-wal"])
def test_a_backup_can_be_written_where_all_files_belong_to_one_user(
    state: Path, monkeypatch: pytest.MonkeyPatch, planted: str | None
) -> None:
    real = tempfile.mkstemp

    def on_such_a_mount(prefix: str, suffix: str, dir: Path) -> tuple[int, str]:  # noqa: A002 - as it is called
        descriptor, name = real(suffix, prefix, dir)
        os.fchown(descriptor, MOUNTED_FOR, -1)
        if planted is not None:
            Path(name + planted).touch()
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", on_such_a_mount)
    target = state.parent / "mount" / "backup.db"
    refused = pytest.raises(StoreError, match="belongs to root, not to uid 54321") if planted else None
    with refused or contextlib.nullcontext():
        back_up(state, target, NOW, lambda *_: None)
    assert target.exists() is (planted is None)
