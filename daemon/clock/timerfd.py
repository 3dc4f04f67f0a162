"""A file descriptor that becomes readable when the wall clock is set: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.

Called through ctypes, because Python has os.timerfd_create only since 3.13, and no constant for that flag.
"""

import ctypes
import os
import time

_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_FAR = 2**33  # seconds after the epoch, so that the timer itself never expires
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("value_seconds", ctypes.c_long),
        ("value_nanoseconds", ctypes.c_long),
    )


def open_clock_watch() -> int:
    """Return a new descriptor; raise OSError if the kernel does not support it."""
    descriptor: int = _LIBC.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    spec = _Itimerspec(0, 0, _FAR, 0)
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    if _LIBC.timerfd_settime(descriptor, flags, ctypes.byref(spec), None) != 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, "timerfd_settime")
    return descriptor


def acknowledge(descriptor: int) -> None:
    """Acknowledge that the clock was set, so that the descriptor becomes readable again only at the next time."""
    try:
        os.read(descriptor, 8)
    except OSError:  # ECANCELED reports that the clock was set; EAGAIN means that it was not
        return
