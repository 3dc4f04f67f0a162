"""A2A agents, built with the protocol's own SDK, in both versions: messages, tasks, questions, cancels, restarts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.agents.remote.a2a_card import interface_of
from daemon.agents.remote.a2a_task import RemoteTask
from daemon.agents.remote.json_rpc import AnswerError, result_of
from tests.support.configs import config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.peers.processes import Peer, peer
from tests.support.runs import cancel, ended, finished, triggered
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("a2a")  # its tests share a daemon

WORDS = {"echo": "echo hello", "task": "task made", "slow": "slow made", "long": "long", "ask": "ask"}
WORDS |= {"fail": "fail", "reject": "reject", "usage": "usage"}
METHODS = {"new": ("SendMessage", "GetTask", "CancelTask"), "old": ("message/send", "tasks/get", "tasks/cancel")}


@dataclass
class World:
    """A daemon and an agent in each version."""

    daemon: DaemonProcess
    peers: dict[str, Peer]

    def calls(self, version: str, method: int) -> list[dict[str, object]]:
        name = METHODS[version][method]
        return [one for one in self.peers[version].requests() if one["body"]["method"] == name]


def text(peers: dict[str, Peer], **keys: object) -> str:
    agents = {name: triggered_agent(WORDS, type="a2a", url=one.url, **keys) for name, one in peers.items()}
    return config_text(daemon={"max_concurrent_runs": 50}, agents=agents)


def only(url: str, **inputs: str) -> str:
    """Return a config with one agent `a`."""
    return config_text(agents={"a": triggered_agent(inputs, type="a2a", url=url, timeout="6s")})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("a2a")
    with peer(folder, "a2a_sdk") as new, peer(folder, "a2a_sdk", "--v03") as old, daemons_in(folder) as start:
        peers = {"new": new, "old": old}
        yield World(start(text(peers, api_key="sesame")), peers)


@pytest.mark.parametrize("version", METHODS)
def test_a_message_completes_the_run_and_is_its_output(world: World, version: str) -> None:
    run = finished(world.daemon, f"{version}/echo")
    assert (run["status"], run["message"], run["error"]) == ("completed", "hello", None)
    assert world.daemon.output(run["id"]) == "hello"
    sent = world.calls(version, 0)[-1]
    body, headers = sent["body"], sent["headers"]
    assert isinstance(body, dict)
    assert isinstance(headers, dict)
    assert headers.get("a2a-version") == ("1.0" if version == "new" else None)
    assert headers["authorization"] == "Bearer sesame"
    assert headers["x-idempotency-key"] == run["idempotency_key"]
    assert body["params"]["message"]["metadata"] == json.loads(run["task_metadata"])


@pytest.mark.parametrize("version", METHODS)
@pytest.mark.parametrize("word", ["task", "slow"])
def test_a_task_is_watched_until_it_completes(world: World, version: str, word: str) -> None:
    run = finished(world.daemon, f"{version}/{word}")
    assert (run["status"], run["message"]) == ("completed", "made")
    assert world.daemon.output(run["id"]) == "made"
    assert run["delivered_at"]
    looks = world.calls(version, 1)  # whose answers are to be fresh
    assert [one for one in looks if "x-idempotency-key" in one["headers"]] == []  # type: ignore[operator]


@pytest.mark.parametrize("version", METHODS)
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("ask", "the agent asks for input: Which branch?"),
        ("fail", "the agent's task failed: it broke"),
        ("reject", "the agent rejected the task: not my job"),
    ],
)
def test_other_ends_are_failures_with_the_agents_words(world: World, version: str, word: str, reason: str) -> None:
    run = finished(world.daemon, f"{version}/{word}")
    assert (run["status"], run["error"]) == ("failed", reason)


def test_a_task_that_waits_for_an_answer_is_cancelled(world: World) -> None:
    before = len(world.calls("new", 2))
    finished(world.daemon, "new/ask")
    assert len(world.calls("new", 2)) == before + 1


@pytest.mark.parametrize("version", METHODS)
def test_usage_in_metadata_is_stored(world: World, version: str) -> None:
    run = finished(world.daemon, f"{version}/usage")
    assert (run["input_tokens"], run["output_tokens"], run["cost_usd"]) == (5, 7, 0.25)


@pytest.mark.parametrize("version", METHODS)
def test_a_cancel_cancels_the_task(world: World, version: str) -> None:
    number = triggered(world.daemon, f"{version}/long")
    world.daemon.wait_for_run("suspended", number=number)
    before = len(world.calls(version, 2))
    cancel(world.daemon, number)
    run = ended(world.daemon, number)
    assert (run["status"], run["error"]) == ("cancelled", "cancelled by root")
    assert len(world.calls(version, 2)) == before + 1


def test_a_suspended_run_is_adopted_and_not_delivered_again(start_daemon: StartDaemon, tmp_path: Path) -> None:

    with peer(tmp_path, "a2a_sdk") as new:
        first = start_daemon(text({"new": new}))
        number = triggered(first, "new/long")
        slow = triggered(first, "new/slow")
        first.wait_for_run("suspended", number=number)
        first.wait_for_run("suspended", number=slow)
        first.kill()
        second = start_daemon(text({"new": new}))
        assert ended(second, slow)["message"] == "made"
        assert second.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "suspended"
        assert second.stop() == 0  # suspended runs go on without the daemon
        third = start_daemon(text({"new": new}))
        assert third.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "suspended"
        new.end()
        third.wait_for_log("Cannot read the agent's task; retrying", run_id=number)
        with peer(tmp_path, "a2a_sdk", port=new.port) as forgetful:
            run = ended(third, number, deadline=40)
            assert run["error"].startswith("GetTask: Task not found")
            sent = [one for one in forgetful.requests() if one["body"]["method"] == "SendMessage"]
            assert len(sent) == 2


def test_a_task_that_outlasts_the_timeout_fails_and_is_cancelled(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "a2a_sdk") as new:
        daemon = start_daemon(only(new.url, long="long"))
        run = finished(daemon, "a/long")
        assert (run["status"], run["error"]) == ("failed", "timeout: the run took longer than its timeout of 6s")
        wait_until(lambda: [one for one in new.requests() if one["body"]["method"] == "CancelTask"], what="the cancel")


def test_a_server_without_a_card_is_reported(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "sync") as other:
        run = finished(start_daemon(only(other.url, echo="x")), "a/echo")
        assert (run["status"], run["error"]) == ("failed", "agent card: HTTP 404 Not Found: 404: Not Found")


NEW = {"url": "/a2a", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}


@pytest.mark.parametrize(
    ("card", "url", "version"),
    [
        ({"supportedInterfaces": [NEW]}, "https://h/a2a", "1.0"),
        ({"supportedInterfaces": [{**NEW, "protocolVersion": "0.3"}, {**NEW, "url": "/new"}]}, "https://h/new", "1.0"),
        ({"supportedInterfaces": [{**NEW, "protocolBinding": "GRPC"}], "url": "/old"}, "https://h/old", "0.3"),
        ({"url": "https://other/x", "protocolVersion": "0.2.6"}, "https://other/x", "0.3"),
        (
            {
                "url": "/g",
                "preferredTransport": "GRPC",
                "additionalInterfaces": [{"transport": "JSONRPC", "url": "/j"}],
            },
            "https://h/j",
            "0.3",
        ),
    ],
)
def test_the_card_decides_version_and_url(card: dict[str, object], url: str, version: str) -> None:
    found = interface_of(card, "https://h/.well-known/agent-card.json")
    assert (found.url, found.version) == (url, version)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({}, "no JSON-RPC interface"),
        ({"supportedInterfaces": [{**NEW, "protocolVersion": "2.0"}]}, "no JSON-RPC interface"),
        ({"supportedInterfaces": "none", "url": 5}, "no JSON-RPC interface"),
        ({"url": "http://h/x"}, "less secure than the card's own URL"),
        ({"url": "file:///etc/passwd"}, "less secure than the card's own URL"),
        ({"supportedInterfaces": [{**NEW, "tenant": "x" * 501}]}, "a tenant of more than 500 characters"),
        ({"url": "/x" * 1001}, "a URL of more than 2000 characters"),
        ({"supportedInterfaces": [{"url": "/x"}] * 100 + [NEW]}, "no JSON-RPC interface"),
    ],
)
def test_a_card_that_offers_nothing_usable_is_refused(card: dict[str, object], reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        interface_of(card, "https://h/.well-known/agent-card.json")


CARD_PLACE = "http://h/.well-known/agent-card.json"


@pytest.mark.parametrize(
    "place", ["http://elsewhere/x", "http://h:81/x", "https://h/x", "//h:8080/x", "http://h.:80/x", "https://h:80/x"]
)
def test_a_key_goes_to_the_configured_scheme_host_and_port_only(place: str) -> None:
    assert interface_of({"url": place}, CARD_PLACE).url
    with pytest.raises(AnswerError, match=r"to which the key is not sent: the config names http://h; if it is right"):
        interface_of({"url": place}, CARD_PLACE, has_key=True)


@pytest.mark.parametrize("place", ["http://h/x", "http://H:80/x", "//h/x", "/x", "x"])
def test_a_key_goes_to_the_configured_place_however_the_card_writes_it(place: str) -> None:
    assert interface_of({"url": place}, CARD_PLACE, has_key=True).url.startswith("http://h/")


@pytest.mark.parametrize("place", ["http://h:99999/", "http://[", "https:///x", "http://\ud800/", "http://h:-1/"])
def test_a_url_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(AnswerError, match="which is not a URL"):
        interface_of({"url": place}, CARD_PLACE)


@pytest.mark.parametrize("answer", [{"task": {}}, {"task": {"id": 5, "status": "completed"}}, {"task": {"id": "x"}}])
def test_half_a_task_is_no_task(answer: dict[str, object]) -> None:
    with pytest.raises(AnswerError, match="has no id or no state"):
        RemoteTask.in_answer(answer)


@pytest.mark.parametrize("answer", [{}, {"kind": "message"}, {"message": {}}])
def test_a_message_is_distinguished_from_a_task(answer: dict[str, object]) -> None:
    assert RemoteTask.in_answer(answer) is None


BEARER = {"type": "http", "scheme": "bearer"}


def named(*headers: str) -> list[dict[str, object]]:
    """Return security schemes that want an API key in these headers, in the format of 1.0 and of 0.3 in turn."""
    return [
        {"apiKeySecurityScheme": {"location": "header", "name": name}}
        if number % 2 == 0
        else {"type": "apiKey", "in": "header", "name": name}
        for number, name in enumerate(headers)
    ]


def card_with(schemes: Sequence[object]) -> dict[str, object]:
    return {"url": "/x", "securitySchemes": {str(number): scheme for number, scheme in enumerate(schemes)}}


@pytest.mark.parametrize(
    ("schemes", "header"),
    [
        (named("X-API-Key"), "X-API-Key"),
        (named("Cookie", "x-api-key"), "x-api-key"),
        ([BEARER], None),
        ([BEARER, *named("Host")], None),
        ([], None),
        (["none", 5, None, []], None),
    ],
)
def test_the_card_names_the_header_of_the_key(schemes: list[object], header: str | None) -> None:
    assert interface_of(card_with(schemes), "https://h/card.json", has_key=True).key_header == header


@pytest.mark.parametrize(
    "name",
    ["Host", "Cookie", "X\r\nEvil: 1", "X-Forwarded-For", "X-HTTP-Method-Override", "Content-Length", "", "X-API-Key "],
)
def test_a_card_that_wants_the_key_in_another_header_is_refused(name: str) -> None:
    card = card_with(named(name))
    assert interface_of(card, "https://h/card.json").key_header is None
    with pytest.raises(AnswerError, match="a key is sent only in one of Authorization, X-API-Key"):
        interface_of(card, "https://h/card.json", has_key=True)


def test_a_tenant_of_common_length_is_kept() -> None:
    assert interface_of({"supportedInterfaces": [{**NEW, "tenant": "x" * 500}]}, CARD_PLACE).tenant == "x" * 500


def test_a_header_with_a_long_name_is_shown_in_brief() -> None:
    with pytest.raises(AnswerError) as refused:
        interface_of(card_with(named("x" * 1_000_000)), "https://h/card.json", has_key=True)
    assert len(str(refused.value)) < 1000


async def test_an_id_that_is_not_ours_is_shown_in_brief() -> None:
    with pytest.raises(AnswerError, match="which belongs to another request") as refused:
        await result_of(b'{"id": "%b", "result": {}}' % (b"x" * 1_000_000), "ours")
    assert len(str(refused.value)) < 1000


def test_an_answer_that_holds_nothing_fails_the_run(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "a2a_nothing") as found:
        daemon = start_daemon(only(found.url, x="x", parts="parts"))
        for name, reason in (
            ("x", "SendMessage: the answer contains neither a task nor a message"),
            ("parts", "SendMessage: the message in the answer has no parts"),
        ):
            run = finished(daemon, f"a/{name}")
            assert (run["status"], run["error"]) == ("failed", reason)
        tried = daemon.query("SELECT data FROM events WHERE type = 'delivery_failed'")
        assert not tried, "a card at the old place is no failed attempt, which restarts would add up"
