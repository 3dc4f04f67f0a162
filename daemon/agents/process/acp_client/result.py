"""Write the session's result to the run's result file; values that the agent itself wrote there win."""

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
    message: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    permissions: list[dict[str, str]] = field(default_factory=list)
    """The first requests, each with its answer."""
    more_permissions: int = 0

    def note_permission(self, asked: str, answer: str) -> None:
        """Record a permission request, or only count it: an agent may send any number of them."""
        if len(self.permissions) < _MOST_PERMISSIONS:
            self.permissions.append({"asked": asked, "answer": answer})
        else:
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
        "permissions": [*result.permissions, *_rest(result.more_permissions)],
    }
    content = {
        **ours,
        **{key: value for key, value in own.items() if key != "status_by"},
        "usage": {**result.usage, **(usage if isinstance(usage, dict) else {})},
    }
    text = json.dumps(content, ensure_ascii=False)  # escaped, it could outgrow the largest that is read
    with contextlib.suppress(OSError), open(path, "wb", opener=open_anew) as stream:
        stream.write(text.encode(errors="replace"))


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
