"""How Python and the C library manage memory: little garbage collection at start, few heaps afterwards."""

import ctypes
import gc

_USUAL = gc.get_threshold()
_SELDOM = 50_000  # new objects
_M_ARENA_MAX = -8  # mallopt(3)


def collect_rarely() -> None:
    """Collect garbage rarely: loading commands makes next to none."""
    gc.set_threshold(_SELDOM)


def collect_normally() -> None:
    """Collect as often as Python does by default, but never again what is there now: that would hold up the loop."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


def share_heap() -> None:
    """Have all threads allocate from one heap; glibc gives each thread its own, which keeps 1 MiB more for good."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_M_ARENA_MAX, 1)
