"""What is said of a schedule that can start nothing, wherever that is found."""

from typing import Literal

from daemon.notify.outbox import Notice
from daemon.store.notifications import blocked_subject

State = Literal["denied", "no_agent"]
DENIED: State = "denied"
NO_AGENT: State = "no_agent"


def reason_of(state: State, creator: str, agent: str) -> str:
    """Return why a schedule can start nothing."""
    if state == NO_AGENT:
        return f"no agent {agent!r} is in the config"
    return f"{creator}, who created the schedule, may no longer start runs of {agent}"


def no_cadence_reason(zone: str) -> str:
    """Return why a schedule of which it is unknown when it is due starts nothing."""
    return f"its cadence cannot be read on this host, whose time zone data may lack {zone}"


def no_cadence_fix(address: str) -> str:
    """Return what makes it known again when such a schedule is due."""
    return f"update the tzdata package, or set another zone with `agentcron schedules update {address} --timezone ZONE`"


def blocked_notice(schedule_id: int, agent: str, address: str, state: State | None, reason: str) -> Notice:
    """Return the notice that a schedule can start nothing, or (None) that it can again, which is not reported."""
    return Notice(
        "denied",
        f"{address} cannot start anything: {reason}",
        agent,
        address,
        subject=blocked_subject(schedule_id),
        state=state,
        once=True,
        details={"state": state, "reason": reason},
    )
