"""How often Python looks for garbage: loading commands makes next to none, and took a tenth longer with it."""

import gc

_USUAL = gc.get_threshold()
_SELDOM = 50_000  # new objects


def hold_back() -> None:
    """Look seldom."""
    gc.set_threshold(_SELDOM)


def go_on() -> None:
    """Look as often as Python does by itself, but never again through what is there now: it would hold up the loop."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
