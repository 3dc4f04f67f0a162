"""Create files that only their owner can read."""

import os
from pathlib import Path
from typing import BinaryIO


def new_file(path: Path) -> BinaryIO:
    """Create a private file; raise OSError if anything, even a link, exists there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return open(os.open(path, flags, 0o600), "wb")  # noqa: PTH123 - the mode was given with the descriptor
