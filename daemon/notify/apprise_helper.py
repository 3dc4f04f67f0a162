"""The helper process that sends one event with the library apprise, so that the daemon never loads it.

It reads a JSON object from standard input: the `url`, a secret; `title`, `body`, and `is_bad`, whether it is bad news.
It exits with 0 if the event was sent, with `REFUSED` if another attempt would fare no better, else with `NOT_SENT`.
What apprise said, which may quote the URL, is on standard error.
"""

import json
import logging
import re
import sys
from typing import Any

import apprise

from daemon.text import CUT

REFUSED, NOT_SENT = 10, 11
_UNUSABLE = "apprise cannot use this URL"
_IS_REFUSAL = re.compile(r"\berror=4(?!08|25|29)[0-9]{2}\b")
"""As the services of apprise report a status of HTTP; those that ask to come back later are no refusals."""
_MOST_SAID, _LONGEST_SAID = 20, 500  # lines, and characters of one


class _Words(logging.Handler):
    """Keeps the first warnings and errors that apprise logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < _MOST_SAID:
            self.lines.append(record.getMessage()[:_LONGEST_SAID])


def main() -> None:
    """Send the event on standard input."""
    words = _Words()
    log = logging.getLogger("apprise")
    log.addHandler(words)
    log.propagate = False
    status = _send(json.load(sys.stdin), words)
    if status:
        sys.stderr.write("; ".join(words.lines))
    sys.exit(status)


def _send(request: dict[str, Any], words: _Words) -> int:
    """Send an event; return the exit status."""
    service = apprise.Apprise.instantiate(request["url"], asset=apprise.AppriseAsset(storage_mode="memory"))
    if service is None:
        words.lines.insert(0, _UNUSABLE)
        return REFUSED
    kind = apprise.NotifyType.FAILURE if request["is_bad"] else apprise.NotifyType.SUCCESS
    title, body = request["title"], request["body"]
    if service.overflow_mode != apprise.OverflowMode.SPLIT:  # which a URL may ask for: all of it, in several messages
        body = _fitted(body, service.body_maxlen - len(title) - len("\r\n"))
        service.overflow_mode = apprise.OverflowMode.TRUNCATE  # in case that what apprise escapes makes it longer
    sender = apprise.Apprise()
    sender.add(service)
    if sender.notify(body, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT):
        return 0
    return REFUSED if any(_IS_REFUSAL.search(line) for line in words.lines) else NOT_SENT


def _fitted(body: str, most: int) -> str:
    """Return a text of at most so many characters, which is how apprise measures, with a mark if it is cut."""
    return body if len(body) <= most else body[: max(0, most - len(CUT))] + CUT
