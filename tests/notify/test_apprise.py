"""Targets that the library apprise sends to, in a process of its own: a real one, on loopback."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.agents.process.supervisor import tree
from daemon.config.loading import load_config
from daemon.errors import ConfigError
from daemon.notify.apprise_call import send_with_apprise
from daemon.notify.outbox import host_name
from daemon.notify.post import NotSentError
from tests.support.api import call
from tests.support.configs import config_text, shell_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.peers.processes import Peer, peer
from tests.support.runs import triggered
from tests.support.waiting import wait_until

TOKEN = "xoxb4f9c1d77"  # noqa: S105 - made up
EVENT = {"id": "7", "event": "completed", "host": "box", "text": "box: a/s completed (run 1)"}
QUICK = """
import datetime
import daemon.notify.post as post
import daemon.notify.sender as sender
sender.next_try = lambda tries: datetime.timedelta(seconds=0.1)
post._COMMAND_TIME = 5.0
"""
NOTES_IMPORT = """
import sys
def note(event, facts):
    if event == "import" and facts[0] == "apprise":
        open("{0}", "w")
sys.addaudithook(note)
if "apprise" in sys.modules:
    open("{0}", "w")
"""


def config(folder: Path, **target: object) -> str:
    """Return a config with an agent that says hello, and with a target."""
    say = """echo '{"message": "hello"}' > $AGENTCRON_RESULT"""
    agent = shell_agent(say, schedule={"every": "36500d"})
    (folder / "target.url").touch(mode=0o600)
    return config_text(agents={"a": agent}, notify={"ops": {"on": ["completed"], **target}})


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Peer]:
    with peer(tmp_path, "webhook") as found:
        yield found


def set_mode(hook: Peer, mode: str) -> None:
    hook.log.with_name(hook.log.name + ".mode").write_text(mode)


def helper_of(daemon: DaemonProcess) -> int:
    """Return the process that sends for a daemon."""
    [found] = [one for one in tree.descendants(daemon.process.pid) if b"apprise_helper" in command_of(one.pid)]
    return found.pid


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_an_answer_reaches_a_target_of_apprise(start_daemon: StartDaemon, tmp_path: Path, hook: Peer) -> None:
    text = config(tmp_path, url=f"apprise:json://127.0.0.1:{hook.port}/x", send="answer")
    daemon = start_daemon(text, slowed=NOTES_IMPORT.format(tmp_path / "loaded"))
    triggered(daemon, "a/s")
    [request] = wait_until(hook.requests, what="the answer")
    body = json.loads(request["body"])
    assert (body["title"], body["type"]) == (f"agentcron on {host_name()}: completed", "success")
    assert body["message"] == f"{host_name()}: a/s completed (run 1)\n\nhello"
    daemon.wait_for_row("SELECT 1 FROM run_notifications WHERE state = 'notified'")
    assert not (tmp_path / "loaded").exists()  # the daemon itself does without


def test_a_url_in_a_file_is_shown_nowhere(start_daemon: StartDaemon, tmp_path: Path, hook: Peer) -> None:
    text = config(tmp_path, apprise={"file": "target.url"})
    (tmp_path / "target.url").write_text(f"json://127.0.0.1:{hook.port}/{TOKEN}?rto=60\n")  # longer than we wait
    set_mode(hook, "hang")
    daemon = start_daemon(text, slowed=QUICK)
    triggered(daemon, "a/s")
    wait_until(hook.requests, what="a request that hangs")
    helper = helper_of(daemon)
    assert TOKEN.encode() not in command_of(helper) + Path(f"/proc/{helper}/environ").read_bytes()
    reason = daemon.wait_for_log("[daemon] Notification not sent, will retry")["reason"]
    assert reason == "apprise did not end within 5 s"
    assert tree.start_of(helper) is None
    set_mode(hook, "refuse")
    dropped = daemon.wait_for_log("[daemon] Notification dropped after its last attempt")
    assert (
        dropped["reason"]
        == "apprise: Failed to send JSON POST notification: Bad Request - Unsupported Parameters., error=400."
    )
    [shown] = call(daemon, "GET", "/runs/1").body["notifications"]
    assert (shown["state"], shown["reason"]) == ("refused", dropped["reason"])
    assert len(hook.requests()) <= 5
    assert TOKEN not in daemon.log_text()
    assert TOKEN.encode() not in (daemon.state / "state.db").read_bytes()


def test_a_target_whose_file_is_missing_is_a_problem_that_says_so(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(config(tmp_path, apprise={"file": "no.url"}), slowed=QUICK)
    triggered(daemon, "a/s")
    reason = daemon.wait_for_log("[daemon] Notification not sent, will retry")["reason"]
    assert reason == f"notify.ops.apprise: cannot read {tmp_path}/no.url: No such file or directory"


async def test_an_answer_is_cut_to_what_the_service_takes(hook: Peer) -> None:
    event = {**EVENT, "answer": "é" * 60_000, "event": "failed"}
    await send_with_apprise(f"json://127.0.0.1:{hook.port}", event)
    await send_with_apprise(f"json://127.0.0.1:{hook.port}?overflow=split", event)
    whole, *parts = [json.loads(one["body"]) for one in hook.requests()]
    assert 32_000 < len(whole["message"]) <= 32_768
    assert whole["message"].endswith("é\n[cut]")
    assert whole["type"] == "failure"
    assert "".join(part["message"] for part in parts).count("é") == 60_000


@pytest.mark.parametrize(
    ("url", "may_pass", "reason"),
    [
        (f"nothing://{TOKEN}/x", False, "apprise: apprise cannot use this URL; "),
        (f"tgram://{TOKEN}", False, "apprise: apprise cannot use this URL; "),
        (f"json://127.0.0.1:9/{TOKEN}", True, "apprise: A Connection error occurred sending JSON notification to ***"),
        (f"json://a/{TOKEN} json://b", True, "apprise: the file or the credential does not hold one URL"),
    ],
)
async def test_why_apprise_did_not_send_is_told_without_the_url(url: str, may_pass: bool, reason: str) -> None:
    with pytest.raises(NotSentError) as raised:
        await send_with_apprise(url, EVENT)
    assert str(raised.value).startswith(reason)
    assert raised.value.may_pass is may_pass
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("target", [{"url": "apprise:json://h"}, {"apprise": {"file": "target.url"}}])
def test_a_missing_library_is_an_error_of_the_config_that_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: dict[str, object]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(config(tmp_path, **target))
    load_config(file, {})
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"not installed; install it with pip install 'agentcron\[apprise\]'"):
        load_config(file, {})
    file.write_text(config(tmp_path, url="http://h"))
    load_config(file, {})
