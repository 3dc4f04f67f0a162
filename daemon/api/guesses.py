"""Slows down who guesses bearer tokens, without locking out those who use valid ones from the same address."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

_LOG = structlog.get_logger()
_AT_ONCE = 20.0  # wrong tokens that an address may send at once
_PER_SECOND = 1.0  # that it may send in the long run
_PROVEN = 3600.0  # seconds for which a token remains valid from an address that is guessing
_MOST_ADDRESSES = 4096  # that are remembered; the one that was idle for longest is forgotten
_WARN_EVERY = 60.0  # seconds between two warnings about an address

Result = Literal["wrong", "throttled", "unknown_hook"]
"""Why a token was rejected: it is wrong; it was not compared, after too many wrong ones; it is not that of a hook."""


@dataclass
class _Address:
    """What is known of an address."""

    left: float
    """Wrong tokens that it may still send."""
    at: float
    proven: dict[str, float] = field(default_factory=dict)
    """The valid tokens that it used, by name, and when."""
    warned_at: float | None = None


class Guesses:
    """Counts the wrong tokens of each address.

    An address with too many wrong tokens may only use those that it used before; others are not compared, so that
    guessing them is slow. Behind a reverse proxy everybody has one address: who is known continues, and a new token
    works as soon as the address may send another.
    """

    def __init__(self, rejected: Callable[[Result], None], now: Callable[[], float] = time.monotonic) -> None:
        """Start without any; `rejected` is called for each rejected token."""
        self._rejected = rejected
        self._now = now
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def proven(self, address: str) -> frozenset[str]:
        """Return the names of tokens that an address used in the last hour."""
        known = self._addresses.get(address)
        if known is None:
            return frozenset()
        now = self._now()
        return frozenset(name for name, at in known.proven.items() if now - at < _PROVEN)

    def may_try(self, address: str) -> bool:
        """Return whether a token of an address may be compared; count and log a refusal."""
        known = self._known(address)
        if known.left >= 1:
            return True
        self._rejected("throttled")
        now = self._now()
        if known.warned_at is None or now - known.warned_at > _WARN_EVERY:
            known.warned_at = now
            _LOG.warning("[control] Too many wrong tokens; refusing most requests of this address", address=address)
        return False

    def wrong(self, address: str) -> None:
        """Count and log a wrong token."""
        self._known(address).left -= 1
        self._rejected("wrong")
        _LOG.warning("[control] Wrong token", address=address)

    def valid(self, address: str, name: str) -> None:
        """Note that an address used a valid token."""
        self._known(address).proven[name] = self._now()

    def _known(self, address: str) -> _Address:
        now = self._now()
        known = self._addresses.get(address)
        if known is None:
            known = self._addresses[address] = _Address(_AT_ONCE, now)
            if len(self._addresses) > _MOST_ADDRESSES:
                self._addresses.popitem(last=False)
        else:
            self._addresses.move_to_end(address)
            known.left = min(_AT_ONCE, known.left + (now - known.at) * _PER_SECOND)
            known.at = now
        return known
