"""What a due time does while earlier runs of its schedule are unfinished."""

from dataclasses import dataclass
from typing import Literal

from daemon.model import FireOutcome, Overlap

MOST_BUFFERED = 1000


@dataclass(frozen=True)
class OverlapDecision:
    """What to do with one due time."""

    outcome: FireOutcome
    held: bool = False
    """Whether the run waits for the earlier runs of its schedule to end."""
    stop_others: Literal["cancel", "terminate"] | None = None


def decide(policy: Overlap, unfinished: int, waiting: int) -> OverlapDecision:
    """Decide a due time from the number of its schedule's unfinished runs, `waiting` of which are buffered."""
    if unfinished == 0 or policy is Overlap.ALLOW_ALL:
        return OverlapDecision(FireOutcome.LAUNCHED)
    if policy is Overlap.CANCEL_OTHER:
        return OverlapDecision(FireOutcome.LAUNCHED, held=True, stop_others="cancel")
    if policy is Overlap.TERMINATE_OTHER:
        return OverlapDecision(FireOutcome.LAUNCHED, held=True, stop_others="terminate")
    room = {Overlap.BUFFER_ONE: 1, Overlap.BUFFER_ALL: MOST_BUFFERED}.get(policy, 0)
    if waiting < room:
        return OverlapDecision(FireOutcome.BUFFERED, held=True)
    return OverlapDecision(FireOutcome.SKIPPED_OVERLAP)


def reason(policy: Overlap, unfinished: int) -> str:
    """Return the reason, for the ledger, why a due time was skipped."""
    runs = "run is" if unfinished == 1 else "runs are"
    return f"{unfinished} earlier {runs} unfinished (overlap = {policy})"
