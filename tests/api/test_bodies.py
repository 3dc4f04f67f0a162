"""Bodies of requests: what is read at all, how much of it, and what an answer says about a wrong one."""

import contextlib
import http.client
import json
import socket
from pathlib import Path

import pytest

from tests.support.api import SCHEDULES, call, create, start_on_tcp
from tests.support.daemon_process import DaemonProcess, StartDaemon

MANY_KEYS = b"{" + b",".join(b'"%x": 0' % number for number in range(60_000)) + b"}"


def send_head(client: socket.socket, path: str, *headers: str) -> http.client.HTTPResponse:
    """Send the head of a POST whose body never comes, and return the response."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    client.settimeout(20)  # less than a body may take
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(client)
    response.begin()
    return response


@pytest.mark.parametrize(
    "path", ["/hooks/unknown", "/agents/nobody/schedules", f"{SCHEDULES}/no.name/trigger", f"{SCHEDULES}/no.name/pause"]
)
def test_a_request_that_is_refused_anyway_is_refused_before_its_body_arrives(
    refusing: DaemonProcess, path: str
) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(refusing.folder / "c.sock"))
        assert send_head(client, path, "Content-Length: 1000000").status == 404


def test_a_token_is_checked_before_the_body_arrives(start_daemon: StartDaemon, tmp_path: Path, port: int) -> None:
    start_on_tcp(start_daemon, tmp_path, port)
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as client:
        response = send_head(client, f"{SCHEDULES}/declared/trigger", "Content-Length: 1000000")
    assert response.status == 401


def test_a_body_that_says_that_it_is_too_large_is_not_read(refusing: DaemonProcess) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(refusing.folder / "c.sock"))
        assert send_head(client, SCHEDULES, "Content-Length: 1048577").status == 413


def test_a_client_is_asked_for_a_body_only_once_it_may_send_it(refusing: DaemonProcess) -> None:
    expecting = ("Content-Length: 2", "Expect: 100-continue")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(refusing.folder / "c.sock"))
        assert send_head(client, "/hooks/unknown", *expecting).status == 404
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(20)
        client.connect(str(refusing.folder / "c.sock"))
        head = ["POST /agents/a/schedules HTTP/1.1", "Host: x", "Content-Type: application/json", *expecting, "", ""]
        client.sendall("\r\n".join(head).encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"{}")
        assert client.recv(1000).startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (MANY_KEYS, "more than 50000 values"),
        (b'{"name": "s", "task_params": {"x": [' + b"[]," * 60_000 + b"[]]}}", "more than 50000 values"),
        (b'{"name": "s", "task_params": {"x": [' + b"0," * 60_000 + b"0]}}", "more than 50000 values"),
        (b'{"name": "s", "task_params": {"x": ' + b"[" * 201 + b"]" * 201 + b"}}", "nested more than 200 levels deep"),
        (b'{"name": "s", "task_params": {"x": ' + b"9" * 101 + b"}}", "more than 100 characters"),
        (b'{"name": "s", "task_params": {"x": 0.' + b"9" * 101 + b"}}", "more than 100 characters"),
    ],
    ids=["keys", "arrays", "numbers", "deep", "integer", "fraction"],
)
def test_a_body_that_would_cost_too_much_is_refused(refusing: DaemonProcess, data: bytes, problem: str) -> None:
    answer = call(refusing, "POST", SCHEDULES, data=data)
    assert answer.status == 400
    assert problem in answer.body["message"]


def test_text_that_looks_like_structure_is_no_structure(daemon: DaemonProcess) -> None:
    content = '{"[\\' * 60_000 + '\\"'
    created = create(daemon, initial_input={"content": content}, task_params={"\\": {"\\\\": 1}})
    assert created["initial_input"]["content"] == content
    assert created["task_params"] == {"\\": {"\\\\": 1}}


@pytest.mark.parametrize("inside", ["", "initial_input"])
def test_an_answer_names_at_most_twenty_wrong_fields(refusing: DaemonProcess, inside: str) -> None:
    unknown = {f"unknown{number}": 0 for number in range(10_000)}
    body = {"name": "s", "interval_seconds": 60, **({inside: {"content": "", **unknown}} if inside else unknown)}
    answer = call(refusing, "POST", SCHEDULES, body)
    assert answer.status == 422
    assert len(answer.body["data"]["fields"]) == 20
    assert "the first 20" in answer.body["message"]
    assert len(answer.data) < 10_000


def test_an_answer_names_no_field_at_length(refusing: DaemonProcess) -> None:
    answer = call(refusing, "POST", SCHEDULES, {"name": "s", "interval_seconds": 60, "x" * 900_000: 0})
    assert answer.status == 422
    assert [field["field"] for field in answer.body["data"]["fields"]] == ["x" * 200 + "…"]
    few = call(refusing, "POST", SCHEDULES, {"name": "s", "interval_seconds": "?", "colour": "red"})
    assert [field["field"] for field in few.body["data"]["fields"]] == ["interval_seconds", "colour"]


def test_large_bodies_of_one_sender_wait_for_each_other_but_for_nobody_else(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    path = f"{SCHEDULES}/declared/trigger"
    token = "Authorization: Bearer " + (tmp_path / "ci.token").read_text().strip()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", token]
    with contextlib.ExitStack() as clients:
        for _ in range(8):
            client = clients.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port))))
            client.sendall("\r\n".join([*head, "Content-Length: 1000000", "", "{"]).encode())
        large = {"initial_input": {"content": "x" * 500_000}}
        assert call(daemon, "POST", path, large).status == 201
        small = clients.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port))))
        small.settimeout(20)
        small.sendall("\r\n".join([*head, "Content-Length: 2", "", "{}"]).encode())
        response = http.client.HTTPResponse(small)
        response.begin()
        assert response.status == 201
        assert json.loads(response.read())["creator_principal"] == "token:ci"
