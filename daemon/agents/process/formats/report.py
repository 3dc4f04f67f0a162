"""Fold what an agent says, event by event, into what is known of its run; bounded, however much it says."""

from collections.abc import Callable, Collection
from typing import Any

from .events import (
    Amounts,
    Denied,
    Ended,
    Event,
    Failed,
    LimitHit,
    Retrying,
    Said,
    SessionStarted,
    Used,
    UsedTool,
)
from .values import sum_of_amounts, total

LONGEST_ANSWER = 256 * 1024
"""Bytes of an answer that are kept."""
_CUT = "\n[agentcron: the answer was cut here]\n"
MOST_DENIALS = 100
_LONGEST_WORDS = 8000  # characters of what an agent says of its failure
_LONGEST_NAME = 200
_LONGEST_DENIAL = 300
_MOST_CALLS = 1000  # whose latest amounts are remembered; a later report of an older call would count twice


class Report:
    """What is known of a run so far."""

    def __init__(self) -> None:
        self.ended = False
        """Whether the agent came to its end by itself."""
        self.answer = ""
        self._session: str | None = None
        self.is_incomplete = False
        """Whether a part of the output is missing, so that the calls that are known may not be all."""
        self._has_spoken = False  # or used a tool: a call of the model has cost something
        self._goes_on = False  # whether the next part of a text belongs to the answer
        self._retrying: Retrying | None = None
        self._failure: Failed | None = None
        self._limit: LimitHit | None = None
        self._denials: dict[str, str] = {}
        self._calls: dict[str, Amounts] = {}
        self._settled = Amounts()  # the sum of the calls that are not remembered one by one
        self._total: Amounts | None = None
        self._models: dict[str, Amounts] = {}

    def take(self, event: Event) -> None:
        """Add what one event says."""
        match event:
            case SessionStarted(session):
                self._session = session[:_LONGEST_NAME]
            case Said(text, continues):
                self._say(text, continues=continues)
            case UsedTool():
                self._goes_on, self._retrying, self._has_spoken = False, None, True
            case Used(amounts, call):
                self._count(amounts, call)
            case Retrying():
                self._retrying = event
            case Denied(what, call):
                self._deny(what, call)
            case LimitHit():
                self._limit = event
            case Failed():
                self._failure = event
            case Ended():
                self._end(event)

    def _say(self, text: str, *, continues: bool) -> None:
        if not text:
            return
        before = self.answer if continues and self._goes_on else ""
        self.answer = (before + text)[: LONGEST_ANSWER + 1]
        self._goes_on, self._retrying, self._has_spoken = True, None, True

    def _deny(self, what: str, call: str | None) -> None:
        if len(self._denials) < MOST_DENIALS:
            self._denials.setdefault(call or str(len(self._denials)), what[:_LONGEST_DENIAL])

    def _count(self, amounts: Amounts, call: str | None) -> None:
        """Note what a call used, in place of what was noted of the same call before."""
        if call is None:
            self._settled = _sum((self._settled, amounts))
            return
        self._calls[call[:_LONGEST_NAME]] = amounts
        if len(self._calls) > _MOST_CALLS:
            oldest = next(iter(self._calls))
            self._settled = _sum((self._settled, self._calls.pop(oldest)))

    def _end(self, event: Ended) -> None:
        self.ended, self._retrying, self._failure = True, None, None
        if event.answer is not None:
            self.answer = event.answer[: LONGEST_ANSWER + 1]
        self._total = event.total
        self._models = {name[:_LONGEST_NAME]: amounts for name, amounts in event.models.items()}

    def bounded_answer(self, masked: Callable[[str], str]) -> str:
        """Return the answer, masked before it is cut, with a mark if it is too long."""
        shown = masked(self.answer)
        data = shown.encode(errors="replace")
        return shown if len(data) <= LONGEST_ANSWER else data[:LONGEST_ANSWER].decode(errors="ignore") + _CUT

    def summary(self) -> dict[str, Any]:
        """Return what is known as JSON."""
        used, is_complete = self._usage()
        failure, limit = self._failure, self._limit
        return {
            "ended": self.ended,
            "session": self._session,
            "usage": used._asdict(),
            "at_least": not is_complete and any(value is not None for value in used),
            "models": {name: amounts._asdict() for name, amounts in self._models.items()},
            "denials": list(self._denials.values()),
            "retrying": self._retrying and waiting(self._retrying),
            "limit_ends_at": limit.ends_at if limit and isinstance(limit.ends_at, int | float) else None,
            "failure": failure
            and {
                "words": failure.words[:_LONGEST_WORDS],
                "status": failure.status,
                "name": failure.name[:_LONGEST_NAME],
            },
        }

    def _usage(self) -> tuple[Amounts, bool]:
        """Return what was used, and whether that is all.

        A total of nothing is no news of a run that has used something: its last call failed.
        """
        calls = _sum((self._settled, *self._calls.values()))
        if self._total is None:
            return calls, self.ended and not self.is_incomplete
        if not any(self._total) and (any(calls) or self._has_spoken):
            return calls, False
        return self._total, True


def waiting(retrying: Retrying) -> str:
    """Return what an agent waits for, for people: `waiting after 429 rate_limit, try 7 of 10`."""
    tries = "" if retrying.attempt is None else f", try {retrying.attempt}"
    tries += f" of {retrying.most}" if tries and retrying.most is not None else ""
    return f"waiting after {retrying.cause[:_LONGEST_NAME] or 'a failure'}{tries}"


def _sum(amounts: Collection[Amounts]) -> Amounts:
    return Amounts(
        total(one.input_tokens for one in amounts),
        total(one.output_tokens for one in amounts),
        sum_of_amounts(one.cost_usd for one in amounts),
    )
