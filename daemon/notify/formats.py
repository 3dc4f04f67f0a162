"""The formats of notifications, one `case` each; `config.schema.Notify` lists the same names."""

import json
from collections.abc import Mapping
from typing import Any, Literal

_BAD = {"failed", "interrupted", "missed", "budget", "quota"}


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
            is_bad = event["event"] in _BAD
            headers = {
                "Content-Type": "text/plain; charset=utf-8",
                "Title": f"agentcron on {_ascii(event['host'])}: {event['event']}",
                "Priority": "high" if is_bad else "default",
                "Tags": "warning" if is_bad else "white_check_mark",
            }
            return str(event["text"]).encode(errors="replace"), {**same, **headers}


def _ascii(host: object) -> str:
    """Return the name of a host as a header can carry it."""
    return str(host).encode("ascii", "replace").decode()
