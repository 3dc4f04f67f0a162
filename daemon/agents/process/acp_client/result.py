"""Write the session's result to the run's result file; how the agent itself says there that the run ended wins."""

import contextlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

from ..supervisor.files import open_anew, open_regular
from ..supervisor.result_file import LARGEST
from ..supervisor.untrusted_json import UntrustedJsonError, parse

_MOST_PERMISSIONS = 99


@dataclass
class SessionResult:
    """The result of a session."""

    failure: str | None = None
    kind: str | None = None
    """Of the failure, if it is known."""
    message: str | None = None
    session: str | None = None
    """By which the agent can continue the session."""
    session_refused: str | None = None
    """Why the session that was to be continued is not."""
    usage: dict[str, Any] = field(default_factory=dict)
    usage_at_least: bool = False
    """Whether the session was cut off, so that the usage is only what was known by then."""
    permissions: list[dict[str, str]] = field(default_factory=list)
    """The first requests, rather those that were rejected, each with its answer."""
    more_permissions: int = 0

    def note_permission(self, asked: str, answer: str) -> None:
        """Record a permission request; of too many some are only counted, those that were allowed first."""
        entry = {"asked": asked, "answer": answer}
        self.permissions.append(entry)
        if len(self.permissions) > _MOST_PERMISSIONS:
            spare = next((one for one in self.permissions if not one["answer"].startswith("reject")), entry)
            self.permissions.remove(spare if answer.startswith("reject") else entry)
            self.more_permissions += 1


def write_result(result: SessionResult) -> None:
    """Write the result file; if the disk is full or the agent interferes, only the file is lost."""
    path = os.environ["AGENTCRON_RESULT"]
    own = _read(path)
    usage = own.get("usage")
    ours = {
        "status": "failed" if result.failure else "completed",
        "status_by": "agent" if "status" in own else "client",
        "message": result.failure or result.message,
        **({"kind": result.kind} if result.kind and "status" not in own else {}),
    }
    content = {
        **ours,
        **{key: value for key, value in own.items() if key != "status_by"},
        **_facts(result),
        "usage": {**result.usage, **(usage if isinstance(usage, dict) else {})},
    }
    text = json.dumps(content, ensure_ascii=False)  # escaped, it could outgrow the largest that is read
    with contextlib.suppress(OSError), open(path, "wb", opener=open_anew) as stream:
        stream.write(text.encode(errors="replace"))


def _facts(result: SessionResult) -> dict[str, Any]:
    """Return what is so whatever the agent says."""
    known = {"session": result.session, "session_refused": result.session_refused}
    return {
        "permissions": [*result.permissions, *_rest(result.more_permissions)],
        **{name: value for name, value in known.items() if value is not None},
        **({"usage_at_least": True} if result.usage_at_least else {}),
    }


def _rest(count: int) -> list[dict[str, str]]:
    return [{"asked": f"{count} more", "answer": "see the output"}] if count else []


def _read(path: str) -> dict[str, Any]:
    """Return what the agent wrote, an empty dict if that is not a JSON object."""
    try:
        with open(open_regular(path), "rb") as stream:
            content = parse(stream.read(LARGEST), allow_nan=True)
    except (OSError, UntrustedJsonError):
        return {}
    return content if isinstance(content, dict) else {}
