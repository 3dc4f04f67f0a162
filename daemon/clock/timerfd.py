"""A descriptor that becomes readable when the wall clock is set: timerfd_create(2) with TFD_TIMER_CANCEL_ON_SET.

Python has os.timerfd_create only from 3.13, and no name for that flag.
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
    """Return a new descriptor; raise OSError where the kernel has none."""
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
    """Take note of a set clock, so that the descriptor becomes readable again only at the next one."""
    try:
        os.read(descriptor, 8)
    except OSError:  # ECANCELED is the message itself; EAGAIN means that there was none
        return
