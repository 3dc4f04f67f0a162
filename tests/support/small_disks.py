"""File systems that are mounted for one test and are soon full."""

import contextlib
from pathlib import Path


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 65536)
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as stream:
        while True:
            stream.write(b"x" * 512)
    return filler
