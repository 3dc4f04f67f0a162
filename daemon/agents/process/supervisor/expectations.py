"""What the work of a run can be expected to leave: an answer, artifacts, and output without something in it.

All of it is the agent's, so looking may take any time and may fail: `judgement.py` does it in a process of its own.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from .files import open_regular
from .result_file import LARGEST, NAME
from .untrusted_json import UntrustedJsonError, parse

LONGEST_LINE = 1024 * 1024
"""Bytes of a line that are searched at once; of a longer one, each part of so many bytes by itself."""
_MOST_ENTRIES = 100_000  # of a folder that are looked at
_LONGEST_SHOWN = 200  # characters of a line
_SHOWN_BEFORE = 40  # characters before what matched


def stated_in(run_dir: str) -> dict[str, Any]:
    """Return what the agent wrote into its result file; empty if that is no JSON object."""
    try:
        with open(open_regular(os.path.join(run_dir, NAME)), "rb") as stream:
            content = parse(stream.read(LARGEST), allow_nan=True)
    except (OSError, UntrustedJsonError):
        return {}
    return content if isinstance(content, dict) else {}


def counts_as_completed(stated: dict[str, Any], exit_code: int | None) -> bool:
    """Return whether the work counts as completed before anything is expected of it."""
    status = stated.get("status")
    return status == "completed" if status in {"completed", "failed"} else exit_code == 0


def has_answer(where: str, stated: dict[str, Any], answer: str, kept: Iterable[bytes]) -> bool:
    """Return whether there is an answer: a message in the result file, one that was read in a known format, or output.

    Output counts if `where` is `output`: then nobody knows which part of it the answer is.
    """
    words = [answer, *(stated.get(key) for key in ("message", "result"))]
    if any(word.strip() if isinstance(word, str) else word is not None for word in words):
        return True
    return where == "output" and any(part.strip() for part in kept)


def missing_artifact(folder: str, patterns: Iterable[str]) -> str | None:
    """Return which artifact is missing, as a sentence goes on; None if all are there.

    A pattern is a path in the folder whose parts may hold `*`, `?` and `[...]`. No link is followed.
    """
    for pattern in patterns:
        found = _sizes_in(folder, pattern)
        if not any(found):
            return f"{pattern}: {'it is empty' if found else 'there is none'}"
    return None


def _sizes_in(folder: str, pattern: str) -> list[int]:
    """Return the sizes of the regular files that match, up to the first that is not empty."""
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    found = []
    try:
        for size in _sizes(root, pattern.split("/")):
            found.append(size)
            if size:
                break
    finally:
        os.close(root)
    return found


def _sizes(folder: int, parts: list[str]) -> Iterator[int]:
    """Yield the sizes of the regular files that match below an open folder."""
    first, *rest = parts
    for name in _names(folder, first):
        try:
            if not rest:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield status.st_size
                continue
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:  # there is none, it is something else, or we may not read it
            continue
        try:
            yield from _sizes(below, rest)
        finally:
            os.close(below)


def _names(folder: int, pattern: str) -> Iterator[str]:
    """Yield the names in a folder that match; as in a shell, hidden ones match only what begins with a dot."""
    if not re.search(r"[*?[]", pattern):
        yield pattern
        return
    with os.scandir(folder) as entries:
        for entry in islice(entries, _MOST_ENTRIES):
            if fnmatchcase(entry.name, pattern) and entry.name.startswith(".") == pattern.startswith("."):
                yield entry.name


def line_with(pattern: str, kept: Iterable[bytes]) -> str | None:
    """Return the first line in which a regular expression matches, from shortly before that; None without one."""
    search = re.compile(pattern).search
    for line in _lines(kept):
        text = line.decode(errors="replace").rstrip("\r")
        if found := search(text):
            return text[max(0, found.start() - _SHOWN_BEFORE) :][:_LONGEST_SHOWN]
    return None


def _lines(kept: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in kept:
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
        while len(rest) > LONGEST_LINE:
            yield rest[:LONGEST_LINE]
            rest = rest[LONGEST_LINE:]
    if rest:
        yield rest
