"""The sockets: who may connect, what is refused before any route, and hostile clients."""

import contextlib
import grp
import http.client
import json
import re
import select
import socket
import stat
import time
from pathlib import Path

import pytest

from daemon.api.sockets import ControlSocket
from daemon.errors import ConfigError
from tests.support.api import CONFIG, SCHEDULES, TOKEN, UnixConnection, call, create, start_on_tcp
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b'{"name": "s", "interval_seconds": 60, "interval_seconds": 61}', 400),
        (b'{"name": "s", "interval_seconds": NaN}', 400),
        (b'{"name": "s", "interval_seconds": 60, "task_params": {"x": 1e999}}', 400),
        (b'{"name": "s", "interval_seconds": 60, "description": "\\ud800"}', 400),
        (b'{"name": "s", "interval_seconds": 60, "task_params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"name": "s", "interval_seconds": ' + b"9" * 10_000 + b"}", 400),
        (b"\xff\xfe", 400),
        (b"", 415),
        (b'{"name": "' + b"x" * 5_000_000 + b'"}', 413),
    ],
    ids=["twice", "NaN", "infinite", "half a character", "deep", "huge number", "no text", "nothing", "5 MB"],
)
def test_a_hostile_body_is_refused(refusing: DaemonProcess, data: bytes, status: int) -> None:
    headers = {"Content_Type": ""} if not data else {}
    answer = call(refusing, "POST", SCHEDULES, data=data, **headers)
    assert answer.status == status
    assert answer.body["message"]
    assert call(refusing, "GET", SCHEDULES).body["total"] == 1


def test_a_body_of_another_type_and_another_origin_are_refused(daemon: DaemonProcess) -> None:
    body = b'{"name": "s", "interval_seconds": 60}'
    assert call(daemon, "POST", SCHEDULES, data=body, Content_Type="text/plain").status == 415
    refused = call(daemon, "POST", SCHEDULES, data=body, Content_Type="text/plain", Origin="http://evil.example")
    assert (refused.status, refused.code) == (403, "forbidden")
    assert call(daemon, "POST", SCHEDULES, data=body, Sec_Fetch_Site="cross-site").status == 403
    assert call(daemon, "PUT", SCHEDULES, data=body).status == 405


def test_a_body_that_is_encoded_or_incomplete_is_a_client_error(daemon: DaemonProcess, tmp_path: Path) -> None:
    path = f"{SCHEDULES}/declared/pause"
    assert call(daemon, "POST", path, data=b"{}", Content_Encoding="gzip").status == 415
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"
    for _ in range(5):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(tmp_path / "c.sock"))
            client.sendall(head.encode())
    assert call(daemon, "GET", "/healthz").status == 200
    assert daemon.stop() == 0
    assert "Unexpected error" not in daemon.log_text()
    assert daemon.wait_for_log("[control] Refused", status=400, what=f"POST {path}")


NO_PROPER_HTTP = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"GARBAGE\r\n\r\n", 400),
    (b"GET /status HTTP/9.9x\r\n\r\n", 400),
    (b"GET /status HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
    (b"GET /status HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
    (b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
    (b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
    (b"GET /status HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", 417),
    (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", 417),
    (b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Encoding: br\r\n\r\n{}", 415),
]


def test_malformed_http_gets_a_well_formed_response(daemon: DaemonProcess, tmp_path: Path) -> None:
    for request, status in NO_PROPER_HTTP:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(20)
            client.connect(str(tmp_path / "c.sock"))
            client.sendall(request)
            response = http.client.HTTPResponse(client)
            response.begin()
            body = json.loads(response.read())
        assert (response.status, body.keys()) == (status, {"message", "code", "data"}), request
        assert "\n" not in body["message"]
    assert call(daemon, "GET", "/healthz").status == 200
    assert "Traceback" not in daemon.log_text()
    assert all(line["event"].startswith("[control] ") for line in daemon.log() if line["level"] != "info")


def ask_tcp(port: int, request: bytes, at: str = "127.0.0.1") -> int:
    with socket.create_connection((at, port), timeout=20) as connection:
        connection.sendall(request)
        return int(connection.recv(100).split()[1])


HEADERS = [
    (f"Host: localhost\r\nAuthorization: Bearer {TOKEN}", 200),
    (f"Host: 127.0.0.1:80\r\nAuthorization: bearer {TOKEN}", 200),
    (f"Host: localhost\r\nOrigin: http://localhost\r\nAuthorization: Bearer {TOKEN}", 200),
    (f"Host: evil.example\r\nAuthorization: Bearer {TOKEN}", 403),
    (f"Host: localhost\r\nOrigin: http://evil.example\r\nAuthorization: Bearer {TOKEN}", 403),
    (f"Host: localhost\r\nOrigin: null\r\nAuthorization: Bearer {TOKEN}", 403),
    ("Host: localhost", 401),
    ("Host: localhost\r\nAuthorization: Bearer sesame", 401),
    ("Host: localhost\r\nAuthorization: Bearer sésame", 401),
    (f"Host: localhost\r\nAuthorization: Basic {TOKEN}", 401),
    ("Host: localhost\r\nAuthorization: Bearer ", 401),
]


def test_tcp_needs_a_token_and_a_name_of_this_machine(start_daemon: StartDaemon, tmp_path: Path, port: int) -> None:
    start_on_tcp(start_daemon, tmp_path, port)
    for headers, status in HEADERS:
        assert ask_tcp(port, f"GET {SCHEDULES} HTTP/1.1\r\n{headers}\r\n\r\n".encode()) == status, headers


def test_the_address_at_which_a_request_comes_in_is_a_name_of_this_machine(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    start_on_tcp(start_daemon, tmp_path, port, listen="0.0.0.0")  # noqa: S104 - reached over loopback
    for host, status in (("127.0.0.9", 200), ("127.0.0.8", 403), ("127.0.0.9.evil.example", 403)):
        request = f"GET /runs HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        assert ask_tcp(port, request.encode(), at="127.0.0.9") == status


def test_who_was_refused_and_why_is_logged_and_counted(start_daemon: StartDaemon, tmp_path: Path, port: int) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    assert ask_tcp(port, f"POST {SCHEDULES}/declared/pause HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) == 401
    refused = daemon.wait_for_log("[control] Refused", principal="unknown", status=401)
    assert refused["what"] == f"POST {SCHEDULES}/declared/pause"
    assert call(daemon, "POST", f"{SCHEDULES}/none/pause").status == 404
    daemon.wait_for_log("[control] Refused", principal="root", status=404)
    figures = call(daemon, "GET", "/metrics").data.decode().splitlines()
    for result in ("401", "404"):
        assert f'agentcron_schedule_changes_total{{action="pause",result="{result}"}} 1.0' in figures


def test_a_token_has_the_rights_it_is_given(start_daemon: StartDaemon, tmp_path: Path, port: int) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    head = f"HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    assert ask_tcp(port, f"POST {SCHEDULES}/declared/pause {head}".encode()) == 200
    assert ask_tcp(port, f"POST /reload {head}".encode()) == 403
    assert ask_tcp(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
    [revision] = daemon.query("SELECT principal FROM schedule_revisions WHERE action = 'pause'")
    assert revision["principal"] == "token:ci"
    assert TOKEN not in daemon.log_text()
    (tmp_path / "ci.token").write_text("another-one-of-20-or-more\n")
    text = daemon.config.read_text()
    daemon.config.write_text(text + "bogus = 1\n")
    assert call(daemon, "POST", "/reload").status == 400
    assert ask_tcp(port, f"GET /runs {head}".encode()) == 200  # a bad file changes nothing
    daemon.config.write_text(text)
    assert call(daemon, "POST", "/reload").status == 200
    assert ask_tcp(port, f"GET /runs {head}".encode()) == 401


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot read"), ("19-characters-long.", "at least 20"), ("with a blank in it, and long", "at least 20")],
)
def test_a_token_that_cannot_be_used_is_a_config_error(
    start_daemon: StartDaemon, tmp_path: Path, port: int, content: str | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "ci.token").write_text(content)
    control = f'[control]\nlisten = "127.0.0.1:{port}"\ntokens = [{{ name = "ci", file = "ci.token" }}]\n'
    daemon = start_daemon(CONFIG.replace("[control]\n", control), ready=False)
    assert daemon.process.wait(20) == 2
    assert why in daemon.log_text()
    assert "Traceback" not in daemon.log_text()


def test_a_token_may_be_a_credential_of_the_service(start_daemon: StartDaemon, tmp_path: Path, port: int) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/api").write_text(f"{TOKEN}\n")
    control = f'[control]\nlisten = "127.0.0.1:{port}"\ntokens = [{{ name = "ci", credential = "api" }}]\n'
    text = CONFIG.replace("[control]\n", control)
    refused = start_daemon(text, ready=False)
    assert refused.process.wait(20) == 2
    assert "control.tokens: ci: credential 'api' is not available" in refused.log_text()
    start_daemon(text, CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"))
    headers = f"HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    assert ask_tcp(port, f"GET /runs {headers}".encode()) == 200


def test_a_stale_socket_is_replaced_and_a_live_one_never_stolen(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    first = start_daemon(CONFIG)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    first.kill()
    assert path.exists()
    second = start_daemon(CONFIG)
    third = start_daemon(CONFIG.replace('"state"', '"other"'), ready=False, state=tmp_path / "other")
    assert third.process.wait(20) == 1
    assert "another daemon listens on" in third.log_text()
    assert call(second, "GET", "/healthz").status == 200
    assert second.stop() == 0
    assert not path.exists()
    path.write_text("somebody's file")
    fourth = start_daemon(CONFIG, ready=False)
    assert fourth.process.wait(20) == 2
    assert "not a socket" in fourth.log_text()
    assert path.read_text() == "somebody's file"


def test_the_path_of_the_socket_may_be_longer_than_an_address(start_daemon: StartDaemon, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    daemon = start_daemon(CONFIG.replace('"c.sock"', f'"{deep}/c.sock"'))
    assert (deep / "c.sock").is_socket()
    assert daemon.cli("schedules", "pause", "a/declared").returncode == 0
    assert daemon.stop() == 0


def test_a_command_without_a_daemon_reports_it(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG)
    daemon.stop()
    said = daemon.cli("schedules", "pause", "a/declared")
    assert said.returncode == 3
    assert "c.sock" in said.stderr
    assert "Traceback" not in said.stderr


def test_agents_get_the_limit_of_open_files_that_they_expect(start_daemon: StartDaemon) -> None:
    few = "from resource import *; setrlimit(RLIMIT_NOFILE, (1024, getrlimit(RLIMIT_NOFILE)[1]))"
    text = CONFIG.replace("echo hello; cat", "ulimit -n") + '[agents.a.schedules.s]\nevery = "1s"\n'
    daemon = start_daemon(text, slowed=few)
    daemon.wait_for_run("completed")
    assert daemon.output(1) == "1024\n"
    limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    assert int(re.search(r"Max open files +(\d+)", limits)[1]) > 1024  # type: ignore[index]


def test_more_clients_than_files_stop_neither_the_other_socket_nor_a_schedule(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"
    daemon = start_on_tcp(start_daemon, tmp_path, port, slowed=few)
    create(daemon, interval_seconds=1)
    with contextlib.ExitStack() as held:
        for _ in range(400):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with contextlib.suppress(ConnectionError):
                client.send(b"GET / HTTP/1.1\r\n")
        daemon.wait_for_log("[control] Connection rejected: too many connections")
        assert call(daemon, "GET", "/healthz").status == 200
        before = daemon.query("SELECT max(id) AS id FROM runs")[0]["id"] or 0
        daemon.wait_for_run("completed", number=before + 2)
    assert "out of system resource" not in daemon.log_text()
    assert daemon.stop() == 0


def test_idle_and_slow_clients_block_nobody(daemon: DaemonProcess, tmp_path: Path) -> None:
    create(daemon, interval_seconds=1, overlap_policy="allow_all")
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX))) for _ in range(1000)]
        for client in clients:
            client.connect(str(tmp_path / "c.sock"))
        slow = clients[0]
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        begun = time.monotonic()
        began = len(daemon.query("SELECT 1 FROM fires"))
        while not select.select([slow], [], [], 0.2)[0]:
            slow.sendall(b"x")
            assert time.monotonic() - begun < 30
        assert call(daemon, "GET", "/healthz").status == 200
        seconds = int(time.monotonic() - begun)
        wait_until(lambda: len(daemon.query("SELECT 1 FROM fires")) >= began + seconds - 1)
    late = daemon.query("SELECT max((julianday(decided_at) - julianday(scheduled_for)) * 86400) AS late FROM fires")
    assert late[0]["late"] < 5
    assert {row["outcome"] for row in daemon.query("SELECT outcome FROM fires")} == {"launched"}


def test_a_connection_serves_many_requests(daemon: DaemonProcess) -> None:
    connection = UnixConnection(daemon.folder / "c.sock")
    for _ in range(50):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status": "ok"}'
    connection.close()


def test_what_can_be_got_can_be_asked_for_its_head(refusing: DaemonProcess) -> None:
    for path in ("/healthz", "/status", "/metrics", "/openapi.json", "/runs", SCHEDULES):
        got, head = call(refusing, "GET", path), call(refusing, "HEAD", path)
        assert (head.status, head.data) == (200, b""), path
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert call(refusing, "HEAD", "/runs/99999/output?follow=true").status == 404
    assert call(refusing, "HEAD", f"{SCHEDULES}/declared/pause").status == 405


def test_the_command_for_a_group_that_the_daemon_is_not_in_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("grp.getgrnam", lambda _: grp.getgrgid(0))
    monkeypatch.setattr("os.chown", refuse)
    with pytest.raises(ConfigError, match="run usermod -aG 'x; reboot' USER and restart"):
        ControlSocket(tmp_path / "c.sock", "x; reboot")
