"""One delivery by the library apprise, in a helper process of its own."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from daemon.notify.formats import is_bad_news, text_of, title_of
from daemon.notify.post import NotSentError, brief, ended, secrets_in

_START = "import sys; sys.path.insert(0, sys.argv[1]); from daemon.notify.apprise_helper import main; main()"
_PACKAGE = str(Path(__file__).parents[2])
_REFUSED, _NOT_SENT = 10, 11  # as in `apprise_helper`, which cannot be imported without apprise
_SHORTEST_SECRET = 4  # characters
_LAST = 200  # characters of a traceback that name the error


async def send_with_apprise(url: str, event: Mapping[str, Any]) -> None:
    """Send an event to a URL of apprise, which is a secret; raise NotSentError if that fails."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", url):
        raise NotSentError("apprise: the file or the credential does not hold one URL of apprise and nothing else")
    request = {"url": url, "title": title_of(event), "body": text_of(event), "is_bad": is_bad_news(event)}
    command = [sys.executable, "-I", "-c", _START, _PACKAGE]
    status, said = await ended(command, json.dumps(request).encode(), "apprise")
    if status in {_REFUSED, _NOT_SENT}:
        raise NotSentError(f"apprise: {brief(said, [url], _parts(url))}", may_pass=status == _NOT_SENT)
    if status != 0:
        shown = secrets_in([url], _parts(url)).masked(said)[-_LAST:]  # cut only once it is masked
        raise NotSentError(f"apprise: its helper process failed with status {status}: {shown}")


def _parts(url: str) -> Iterator[str]:
    """Yield the parts of a URL of apprise, each of which may be a secret: some services have a token for a host."""
    for part in re.split(r"[/:@?&=,]+", url.partition("://")[2]):
        for form in {part, unquote(part)}:
            if len(form) >= _SHORTEST_SECRET:
                yield form
