"""Programs that answer on the socket of a daemon in its place."""

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def impostor(socket: Path, body: bytes, status: int = 200) -> Iterator[None]:
    """Answer every request on a socket in the place of a daemon."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))  # else the client finds the connection reset
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - the names that the standard library looks for

        def address_string(self) -> str:
            return ""

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
