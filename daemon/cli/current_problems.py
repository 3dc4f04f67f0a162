"""What the running daemon says about itself: what fails, and what runs wait for; read without trusting it."""

from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from daemon.cli.client import FIX, daemon_at, is_responding
from daemon.config.paths import socket_path
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError
from daemon.views.status import ProblemView, WaitView


class _State(TypedDict):
    amiss: str | None
    problems: NotRequired[list[ProblemView]]  # not sent by daemons of earlier versions
    waits: NotRequired[list[WaitView]]  # likewise


def current_problems(config: Config) -> tuple[str | None, list[ProblemView], list[WaitView]]:
    """Return what the daemon says keeps it from working, each thing that fails, and what runs wait for.

    The first is empty if nothing does, and None if the daemon does not respond. Raise DaemonUnreachableError if what
    it says has another form.
    """
    daemon = daemon_at(config)
    if daemon is None:  # a daemon of an earlier version has no such route
        return "" if is_responding(config) else None, [], []
    state = _checked(daemon, config)
    return state["amiss"] or "", state.get("problems", []), state.get("waits", [])


def _checked(daemon: dict[str, Any], config: Config) -> _State:
    try:
        return TypeAdapter(_State).validate_python(daemon, strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"]))
        raise DaemonUnreachableError(
            f"{socket_path(config)} sent a response to /daemon that agentcron does not send ({place}); {FIX}"
        ) from None
