"""The answers to an agent's permission requests."""

from typing import Any

from ..supervisor.untrusted_json import objects_in
from .options import EVERY_KIND

_PREFERRED = {"allow": ("allow_once", "allow_always"), "reject": ("reject_once", "reject_always")}
_UNNAMED = "other"  # the kind of a tool that has none


def answer_to(answers: dict[str, str], kind: str) -> str:
    """Return whether a tool of a kind is allowed: `allow` or `reject`."""
    return answers.get(kind or _UNNAMED, answers[EVERY_KIND])


def chosen_of(options: object, answer: str) -> dict[str, Any] | None:
    """Return the option of a request to choose for an answer; None if the agent offers none that fits."""
    by_kind = {
        str(option.get("kind")): option
        for option in reversed(objects_in(options))
        if isinstance(option.get("optionId"), str)
    }
    return next((by_kind[name] for name in _PREFERRED[answer] if name in by_kind), None)
