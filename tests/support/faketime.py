"""The wall clock of a daemon, moved by libfaketime where the host has it."""

from pathlib import Path

import pytest

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="libfaketime (Debian's faketime) is not installed")


def step(folder: Path, seconds: int) -> None:
    """Set the clock that the daemon sees, in one stroke."""
    (folder / "fresh").write_text(f"{seconds:+d}\n")
    (folder / "fresh").rename(folder / "clock")
