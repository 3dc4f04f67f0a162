"""The formats of notifications, one `case` each; `config.schema.Notify` lists the same names."""

import json
from collections.abc import Mapping
from typing import Any, Literal

_BAD = ("high", "warning")
_NTFY = {
    "failed": _BAD,
    "interrupted": _BAD,
    "missed": _BAD,
    "budget": ("high", "no_entry"),  # nothing starts until the budget is larger, or another day begins
    "denied": ("high", "no_entry"),  # nothing starts until somebody changes rights or config
    "quota": _BAD,
    "recovered": ("default", "white_check_mark"),
    "completed": ("default", "white_check_mark"),
    "cleanup": ("low", "wastebasket"),
    "retention": ("low", "wastebasket"),
}
"""The priority and the tag of each kind of event; `config.schema.Notify` lists the same kinds."""
_SWEEPS = {"cleanup", "retention"}


def request_of(style: Literal["json", "slack", "ntfy"], event: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the POST that sends an event."""
    same = {"Idempotency-Key": str(event["id"])}
    match style:
        case "json":
            return json.dumps(event).encode(), {**same, "Content-Type": "application/json"}
        case "slack":  # api.slack.com/messaging/webhooks; three characters have a meaning there
            text = str(event["text"]).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            return json.dumps({"text": text}).encode(), {**same, "Content-Type": "application/json"}
        case "ntfy":  # docs.ntfy.sh/publish
            priority, tag = _priority_and_tag(event)
            headers = {
                "Content-Type": "text/plain; charset=utf-8",
                "Title": f"agentcron on {_ascii(event['host'])}: {event['event']}",
                "Priority": priority,
                "Tags": tag,
            }
            return str(event["text"]).encode(errors="replace"), {**same, **headers}


def _priority_and_tag(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return how urgent an event is for ntfy, and its emoji; a sweep that failed is as urgent as a run that did."""
    is_failed_sweep = event["event"] in _SWEEPS and (event.get("failed") or event.get("error"))
    return _BAD if is_failed_sweep else _NTFY.get(event["event"], _BAD)


def _ascii(host: object) -> str:
    """Return the name of a host as a header can carry it."""
    return str(host).encode("ascii", "replace").decode()
