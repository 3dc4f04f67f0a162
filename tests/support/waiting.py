"""Waiting for what a test expects, with a deadline instead of a sleep."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE = 20.0
_LOOK_EVERY = 0.025


def wait_until(look: Callable[[], T | None], *, deadline: float = DEADLINE, what: str = "") -> T:
    """Return the first true value that `look` gives; fail after the deadline.

    A look that takes long, such as a command, is repeated after twice as long, so that waiting leaves the host to what
    is waited for.
    """
    end = time.monotonic() + deadline
    while True:
        began = time.monotonic()
        found = look()
        if found:
            return found
        now = time.monotonic()
        if now > end:
            raise AssertionError(f"not within {deadline} s: {what or look}")
        time.sleep(max(_LOOK_EVERY, 2 * (now - began)))


def pause(seconds: float) -> None:
    """Let a random stretch of time pass between two faults: the time is the fault's own, nothing is waited for."""
    threading.Event().wait(seconds)
