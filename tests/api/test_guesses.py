"""Wrong tokens: counted, logged without the token, and slowed down, while valid ones continue to work."""

import http.client
import json
from pathlib import Path

import pytest

from daemon.api.guesses import Guesses
from tests.support.api import TOKEN, call, start_on_tcp
from tests.support.daemon_process import StartDaemon
from tests.support.waiting import wait_until

WRONG = "wr0ng-token-of-20-or-more"


def ask(port: int, token: str, at: str = "127.0.0.1") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(at, 0))
    connection.request("GET", "/runs", headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def test_who_guesses_is_slowed_down_logged_and_counted_and_others_are_not(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    assert ask(port, TOKEN, at="127.0.0.1").status == 200
    statuses = [ask(port, f"{WRONG}-{number}", at="127.0.0.2").status for number in range(22)]
    assert statuses[:20] == [401] * 20
    assert 429 in statuses[20:]
    refused = wait_until(lambda: next((one for one in [ask(port, WRONG, at="127.0.0.2")] if one.status == 429), None))
    assert refused.headers["Retry-After"] == "5"
    assert ask(port, TOKEN, at="127.0.0.1").status == 200
    assert daemon.wait_for_log("[control] Wrong token", address="127.0.0.2")
    daemon.wait_for_log("[control] Too many wrong tokens", address="127.0.0.2")
    wait_until(lambda: ask(port, TOKEN, at="127.0.0.2").status == 200)  # it recovers
    assert WRONG not in daemon.log_text()
    figures = dict(line.rsplit(" ", 1) for line in call(daemon, "GET", "/metrics").data.decode().splitlines())
    assert float(figures['agentcron_tokens_rejected_total{reason="wrong"}']) >= 20
    assert float(figures['agentcron_tokens_rejected_total{reason="throttled"}']) >= 1


def test_a_token_that_an_address_has_used_works_while_others_guess_from_there(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    start_on_tcp(start_daemon, tmp_path, port)
    assert ask(port, TOKEN).status == 200
    while ask(port, WRONG).status != 429:
        pass
    assert ask(port, TOKEN).status == 200


def test_an_unknown_hook_is_counted_and_logged_with_its_address(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = json.dumps({"status": "completed"})
    connection.request("POST", f"/hooks/{WRONG}", body, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 404
    connection.close()
    daemon.wait_for_log("[control] Refused", what="POST /hooks/{token}", status=404, address="127.0.0.1")
    assert 'tokens_rejected_total{reason="unknown_hook"} 1.0' in call(daemon, "GET", "/metrics").data.decode()
    assert WRONG not in daemon.log_text()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_guesses_are_limited_per_address_and_over_time() -> None:
    clock, rejected = Clock(), list[str]()
    guesses = Guesses(rejected.append, clock)

    def tries(address: str) -> int:
        count = 0
        while guesses.may_try(address):
            guesses.wrong(address)
            count += 1
        return count

    assert (tries("a"), tries("b"), tries("a")) == (20, 20, 0)
    clock.now += 5
    assert tries("a") == 5
    clock.now += 3600
    assert tries("a") == 20
    assert (rejected.count("wrong"), rejected.count("throttled")) == (65, 5)


def test_a_token_is_proven_for_an_hour_and_where_it_was_used() -> None:
    clock = Clock()
    guesses = Guesses(lambda _: None, clock)
    guesses.valid("a", "ci")
    assert [*guesses.proven("a"), *guesses.proven("b")] == ["ci"]
    clock.now += 3601
    assert not guesses.proven("a")


def test_memory_is_bounded() -> None:
    guesses = Guesses(lambda _: None, Clock())
    for number in range(10_000):
        guesses.valid(str(number), "ci")
    assert len(guesses._addresses) == 4096
    assert guesses.proven("9999") == {"ci"}


@pytest.mark.parametrize("content", ["19-characters-long.", "with a blank in it, and long"])
def test_check_and_doctor_refuse_a_token_that_the_daemon_would_refuse(
    start_daemon: StartDaemon, tmp_path: Path, port: int, content: str
) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port)
    assert daemon.cli("check").returncode == 0
    (tmp_path / "ci.token").write_text(content)
    checked = daemon.cli("check")
    assert checked.returncode == 2
    assert "must have at least 20 ASCII characters" in checked.stderr
    assert f"make one with: head -c 32 /dev/urandom | base64 >{tmp_path}/ci.token" in checked.stderr
    assert content not in checked.stderr
    assert "must have at least 20 ASCII characters" in daemon.cli("doctor").stdout
    assert daemon.cli("reload").returncode != 0
    (tmp_path / "ci.token").unlink()
    checked = daemon.cli("check")
    assert checked.returncode == 0
    assert "warning: control.tokens.ci: cannot read" in checked.stderr
