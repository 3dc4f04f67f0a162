"""Malformed requests: what is logged and answered about them never repeats what they contain, such as a token."""

import contextlib
import socket

import pytest

from tests.support.daemon_process import DaemonProcess

SECRET = "hxk-5f1c9e7d3b"  # noqa: S105 - of these tests
LONG = "y" * 20_000
HOST = "Host: x\r\n"
CHUNKED = f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "long path": f"POST /hooks/{SECRET}{LONG} HTTP/1.1\r\n{HOST}\r\n",
    "long query": f"POST /hooks/{SECRET}?{LONG} HTTP/1.1\r\n{HOST}\r\n",
    "long value": f"GET /runs HTTP/1.1\r\n{HOST}Authorization: Bearer {SECRET}{LONG}\r\n\r\n",
    "long name": f"GET /runs HTTP/1.1\r\n{HOST}{SECRET}{LONG}: x\r\n\r\n",
    "many headers": f"GET /hooks/{SECRET} HTTP/1.1\r\n{HOST}" + f"X: {SECRET}\r\n" * 1000 + "\r\n",
    "no version": f"GET /hooks/{SECRET}\r\n\r\n",
    "another version": f"GET /hooks/{SECRET} HTTP/9.9\r\n{HOST}\r\n",
    "garbage version": f"GET /hooks/{SECRET} {SECRET}\r\n{HOST}\r\n",
    "unknown method": f"{SECRET} /hooks/{SECRET} HTTP/1.1\r\n{HOST}\r\n",
    "no path": f"GET {SECRET} HTTP/1.1\r\n{HOST}\r\n",
    "no authority": f"GET http:///{SECRET} HTTP/1.1\r\n{HOST}\r\n",
    "impossible port": f"GET http://x:{SECRET}/hooks/{SECRET} HTTP/1.1\r\n{HOST}\r\n",
    "bad address": f"GET http://[{SECRET}/hooks/{SECRET} HTTP/1.1\r\n{HOST}\r\n",
    "connect": f"CONNECT {SECRET} HTTP/1.1\r\n{HOST}\r\n",
    "escaped path": f"POST /hooks/{SECRET}%ff%zz HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n",
    "space in the path": f"GET /hooks/{SECRET} x HTTP/1.1\r\n{HOST}\r\n",
    "control character": f"GET /hooks/{SECRET}\x01 HTTP/1.1\r\n{HOST}\r\n",
    "other characters": f"GET /hooks/{SECRET}é\udcff HTTP/1.1\r\n{HOST}\r\n",
    "no colon": f"GET /runs HTTP/1.1\r\n{HOST}Authorization Bearer {SECRET}\r\n\r\n",
    "NUL": f"GET /runs HTTP/1.1\r\n{HOST}Authorization: Bearer {SECRET}\0\r\n\r\n",
    "folded": f"GET /runs HTTP/1.1\r\n{HOST}Authorization: Bearer\r\n {SECRET}\r\n\r\n",
    "bare return": f"GET /runs HTTP/1.1\r\n{HOST}Authorization: Bearer {SECRET}\rX: y\r\n\r\n",
    "length": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Length: {SECRET}\r\n\r\n",
    "two lengths": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n{SECRET}",
    "encoding": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Transfer-Encoding: {SECRET}\r\n\r\n",
    "no host": f"GET /hooks/{SECRET} HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\n\r\n",
    "two hosts": f"GET /hooks/{SECRET} HTTP/1.1\r\n{HOST}Host: {SECRET}\r\n\r\n",
    "expectation": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Expect: {SECRET}\r\n\r\n",
    "chunk size": f"{CHUNKED}{SECRET}\r\n",
    "chunk end": f"{CHUNKED}2\r\n{{}}{SECRET}\r\n",
    "long chunk size": f"{CHUNKED}2;{SECRET}{LONG}\r\n{{}}\r\n0\r\n\r\n",
    "trailer": f"{CHUNKED}2\r\n{{}}\r\n0\r\n{SECRET}\r\n\r\n",
    "type": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Type: {SECRET};=\r\nContent-Length: 2\r\n\r\n{{}}",
    "content encoding": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Encoding: {SECRET}\r\n\r\n",
    "broken body": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n"
    f'Content-Length: {len(SECRET) + 2}\r\n\r\n"{SECRET}\n',
    "incomplete": f"POST /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Length: 500\r\n\r\n{SECRET}",
    "another path": f"POST /hooks/{SECRET}/ HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n",
    "another method": f"PUT /hooks/{SECRET} HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n",
    "encrypted": f"\x16\x03\x01{SECRET}\r\n\r\n",
    "after another": f"GET /healthz HTTP/1.1\r\n{HOST}\r\n{SECRET} /x HTTP/1.1\r\n\r\n",
    "after the last": f"GET /healthz HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n{SECRET}",
    "upgrade": f"GET /healthz HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n{SECRET}\r\n\r\n",
    "old websocket": f"GET /hooks/{SECRET} HTTP/1.1\r\n{HOST}Sec-WebSocket-Key1: {SECRET}\r\n\r\n",
}


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["as it is", "with another line"])
def test_no_log_line_or_answer_repeats_a_malformed_request(daemon: DaemonProcess, end: bytes) -> None:
    repeated = []
    for name, request in MALFORMED.items():
        logged = daemon.log_text().count(SECRET)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(20)
            client.connect(str(daemon.folder / "c.sock"))
            client.sendall(request.encode(errors="surrogateescape") + end)
            client.shutdown(socket.SHUT_WR)
            answer = bytearray()
            with contextlib.suppress(ConnectionError):
                while part := client.recv(65536):
                    answer += part
        if SECRET.encode() in answer or daemon.log_text().count(SECRET) > logged:
            repeated.append(name)
    assert daemon.stop() == 0
    assert not repeated
    assert SECRET not in daemon.log_text()
    assert "Traceback" not in daemon.log_text()
    assert "Unexpected error" not in daemon.log_text()
    assert all(line["event"].startswith("[control] ") for line in daemon.log() if line["level"] != "info")
