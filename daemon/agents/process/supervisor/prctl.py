"""What a process asks of the kernel for itself (prctl(2))."""

import ctypes

_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def set_process_name(name: str) -> None:
    """Change the name that `ps` and /proc/PID/comm show, of at most 15 bytes."""
    _LIBC.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def become_subreaper() -> None:
    """Have the kernel make this process the parent of descendants whose own parent has ended."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
