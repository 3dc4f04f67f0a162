"""The input that `--input` gives: as text, in a file, or on standard input."""

import errno
import os
import stat
import sys
from typing import BinaryIO

import typer

from daemon.cli.privileges import acts_for_root
from daemon.model import LARGEST_BODY

_STANDARD_INPUT = ("-", "@-")
_OWN_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # as the shell writes `<(command)`
_NO_CONTENT = os.makedev(1, 3)  # /dev/null


def read_input(option: str, given: str) -> str:
    """Return the input that an option's value stands for; raise BadParameter if it cannot be read or used.

    `-` (or `@-`, as curl writes it) is standard input to its end, `@FILE` the content of a file, and `@@TEXT` the text
    `@TEXT`. Everything else is itself. Call it once the state directory is known: then root reads a file as the
    daemon's user, whose agents may have put a link in its place.
    """
    if given in _STANDARD_INPUT:
        return _decoded(option, "standard input", _from_standard_input(option))
    if given.startswith("@@"):
        return _checked(option, given[1:])
    if given.startswith("@"):
        return _decoded(option, given[1:], _from_file(option, given[1:]))
    return _checked(option, given)


def _from_standard_input(option: str) -> bytes:
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed", param_hint=option)
    try:
        return _bounded(option, "standard input", sys.stdin.buffer)
    except OSError as error:  # a directory, for example
        raise typer.BadParameter(f"cannot read standard input: {error.strerror}", param_hint=option) from None


def _from_file(option: str, path: str) -> bytes:
    try:
        opener = None if path.startswith(_OWN_DESCRIPTORS) else _open_without_waiting
        with open(path, "rb", opener=opener) as file:  # a Path would not see that the name is empty
            return _bounded(option, path, file)
    except FileNotFoundError:
        why = f"there is no file {path!r}; for text that begins with an @, write @@"
    except PermissionError:
        why = f"no permission to read {path!r}"
        if acts_for_root():
            why += f" as the daemon's user; give it on standard input: {option} - <{path}"
    except (OSError, ValueError) as error:  # a directory; or a name with a NUL character
        why = f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}"
    raise typer.BadParameter(why, param_hint=option)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file, as the opener of `open`; raise OSError for a pipe or a device.

    Somebody else may have put it there, and it may never give or end anything.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    found = os.fstat(descriptor)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or found.st_rdev == _NO_CONTENT):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file; give its content on standard input, with -")
    return descriptor


def _bounded(option: str, source: str, stream: BinaryIO) -> bytes:
    content = stream.read(LARGEST_BODY + 1)
    if len(content) > LARGEST_BODY:
        raise typer.BadParameter(f"{source} has more than 1 MiB, the most that an input may have", param_hint=option)
    return content


def _decoded(option: str, source: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{source} is not UTF-8 text: see the byte at offset {error.start}", param_hint=option
        ) from None


def _checked(option: str, text: str) -> str:
    """Return text of the command line; raise BadParameter if it has bytes that are not UTF-8."""
    return _decoded(option, "the text", text.encode(errors="surrogateescape"))
