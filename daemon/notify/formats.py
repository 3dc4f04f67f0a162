"""The formats of notifications, one `case` each; `config.schema.Notify` lists the same names."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from daemon.text import cut

_BAD = ("high", "warning")
_NTFY = {
    "failed": _BAD,
    "interrupted": _BAD,
    "missed": _BAD,
    "budget": ("high", "no_entry"),  # nothing starts until the budget is larger, or another day begins
    "denied": ("high", "no_entry"),  # nothing starts until somebody changes rights or config
    "quota": _BAD,
    "pool_closed": ("high", "no_entry"),  # nothing of its agents starts until it is open again
    "pool_opened": ("default", "white_check_mark"),
    "recovered": ("default", "white_check_mark"),
    "completed": ("default", "white_check_mark"),
    "cleanup": ("low", "wastebasket"),
    "retention": ("low", "wastebasket"),
}
"""The priority and the tag of each kind of event; `config.schema.Notify` lists the same kinds."""
_SWEEPS = {"cleanup", "retention"}
_LONGEST_IN_SLACK = 8000
"""Bytes: with the longest escapes, the 40,000 characters that Slack shows of a text."""
_LONGEST_IN_NTFY = 4096
"""Bytes: ntfy turns a longer message into an attachment, or refuses it."""


def request_of(style: Literal["json", "slack", "ntfy"], event: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the POST that sends an event."""
    same = {"Idempotency-Key": str(event["id"])}
    match style:
        case "json":
            return json.dumps(event).encode(), {**same, "Content-Type": "application/json"}
        case "slack":  # api.slack.com/messaging/webhooks; three characters have a meaning there
            text = cut(text_of(event), _LONGEST_IN_SLACK)
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            return json.dumps({"text": text}).encode(), {**same, "Content-Type": "application/json"}
        case "ntfy":  # docs.ntfy.sh/publish
            priority, tag = _priority_and_tag(event)
            headers = {
                "Content-Type": "text/plain; charset=utf-8",
                "Title": title_of(event).encode("ascii", "replace").decode(),  # as a header can carry it
                "Priority": priority,
                "Tags": tag,
            }
            return cut(text_of(event), _LONGEST_IN_NTFY).encode(), {**same, **headers}


def text_of(event: Mapping[str, Any]) -> str:
    """Return what people read of an event: its sentence, and below it the answer if it is sent and says more."""
    text, answer = str(event["text"]), str(event.get("answer") or "")
    return text if answer in text else f"{text}\n\n{answer}"


def title_of(event: Mapping[str, Any]) -> str:
    """Return a title that says where what happened, for services that show one above the text."""
    return f"agentcron on {event['host']}: {event['event']}"


def is_bad_news(event: Mapping[str, Any]) -> bool:
    """Return whether an event needs a person."""
    return _priority_and_tag(event)[0] == "high"


def _priority_and_tag(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return how urgent an event is for ntfy, and its emoji; a sweep that failed is as urgent as a run that did."""
    is_failed_sweep = event["event"] in _SWEEPS and (event.get("failed") or event.get("error"))
    return _BAD if is_failed_sweep else _NTFY.get(event["event"], _BAD)
