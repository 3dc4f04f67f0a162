"""Lists without end, from a program that is not agentcron and listens on the daemon's socket."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import client
from daemon.cli.client import Client
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each request with the next page."""

    daemon_threads = True
    asked = 0
    page: Callable[[int], dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    """Answers a request with a page."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        body = json.dumps(self.server.page(self.server.asked)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(path: Path, page: Callable[[int], dict[str, Any]]) -> Iterator[Server]:
    with Server(str(path), Handler) as server:
        server.page = page
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("limit", [None, 5], ids=["no limit", "limit"])
@pytest.mark.parametrize(
    ("page", "asked"),
    [
        (lambda number: {"runs": [], "next_cursor": str(number)}, 7),
        (lambda number: {"runs": ["x" * 60_000 for _ in range(number == 1)], "next_cursor": "y" * 60_000}, 2),
        (lambda _: {"runs": "abc", "next_cursor": "x"}, 1),
        (lambda _: {"next_cursor": "x"}, 1),
    ],
    ids=["endless", "large", "no list", "missing"],
)
def test_a_list_without_end_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: Callable[[int], dict[str, Any]],
    asked: int,
    limit: int | None,
) -> None:
    monkeypatch.setattr(client, "_MOST_PAGES", 7)
    monkeypatch.setattr(client, "_LARGEST_LIST", 150_000)

    def bounded(number: int) -> dict[str, Any]:
        return page(number) if number < 20 else {"runs": []}

    with serving(tmp_path / "s", bounded) as server:
        with pytest.raises(DaemonUnreachableError, match="find out with"):
            Client(Config(), path=tmp_path / "s").pages("/runs", "runs", limit)
        assert server.asked == asked


def test_pages_are_followed_from_a_cursor_to_the_last(tmp_path: Path) -> None:
    def page(number: int) -> dict[str, Any]:
        return {"runs": [number], "next_cursor": "x" if number < 3 else None, "total": 3}

    with serving(tmp_path / "s", page):
        assert Client(Config(), path=tmp_path / "s").pages("/runs", "runs", cursor="c") == {
            "runs": [1, 2, 3],
            "next_cursor": None,
            "total": 3,
        }
