"""Rights: who may see and do what, over both sockets and from inside a run, and creators that lose theirs."""

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import HOURLY, SCHEDULES, call
from tests.support.daemon_process import StartDaemon
from tests.support.pids import REUSE, can_choose_pids, reused
from tests.support.waiting import wait_until

needs_root = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("curl") is None or shutil.which("setpriv") is None,
    reason="asking as another user needs root, curl and setpriv",
)
NOBODY = "nobody"
AGENT = 'command = ["sh", "-c", "echo hello"]\n'


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike the one of the test."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def config(folder: Path, agents: str, access: str = "") -> str:
    group = pwd.getpwnam(NOBODY).pw_gid
    name = next(line.split(":")[0] for line in Path("/etc/group").read_text().splitlines() if f":{group}:" in line)
    return f'[daemon]\nstate_dir = "state"\n[control]\nsocket = "{folder}/c.sock"\ngroup = "{name}"\n{access}\n{agents}'


def ask_as(user: str, folder: Path, method: str, path: str, body: object = None) -> tuple[int, Any]:
    entry = pwd.getpwnam(user)
    identity = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    curl = ["curl", "-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket", f"{folder}/c.sock", f"http://x{path}"]
    if body is not None:
        curl += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    said = subprocess.run([*identity, *curl], capture_output=True, text=True, check=True).stdout
    text, _, status = said.rpartition("\n")
    return int(status), json.loads(text) if text else None


@needs_root
def test_a_user_sees_and_changes_what_the_config_grants(start_daemon: StartDaemon, open_folder: Path) -> None:
    agents = (
        f'[agents.mine]\n{AGENT}allow = ["{NOBODY}"]\n[agents.seen]\n{AGENT}read = ["{NOBODY}"]\n'
        f"[agents.hidden]\n{AGENT}"
        + "".join(f'[agents.{agent}.schedules.d]\nevery = "36500d"\n' for agent in ("mine", "seen", "hidden"))
    )
    daemon = start_daemon(config(open_folder, agents))

    def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
        return ask_as(NOBODY, open_folder, method, path, body)

    for agent, seen, changed in (("mine", 200, 200), ("seen", 200, 403), ("hidden", 404, 404)):
        assert ask("GET", f"/agents/{agent}/schedules")[0] == seen
        assert ask("GET", f"/agents/{agent}/schedules/d")[0] == seen
        assert ask("POST", f"/agents/{agent}/schedules/d/pause")[0] == changed
        assert ask("POST", f"/agents/{agent}/schedules", HOURLY)[0] == {200: 201}.get(changed, changed)
        for start in ("schedules/d/trigger", "runs"):
            assert ask("POST", f"/agents/{agent}/{start}")[0] == {200: 201}.get(changed, changed)
    assert ask("GET", "/agents/mine/schedules/s")[1]["creator_principal"] == NOBODY
    daemon.wait_for_run("completed", number=1)
    hidden_path = "/agents/hidden/schedules/d/trigger"
    as_root = subprocess.run(
        ["curl", "-s", "-X", "POST", "--unix-socket", f"{open_folder}/c.sock", f"http://x{hidden_path}"],
        check=True,
        capture_output=True,
    )
    hidden = json.loads(as_root.stdout)["id"]
    daemon.wait_for_run("completed", number=hidden)
    status, page = ask("GET", "/runs?limit=1")
    assert (status, page["total"], [run["agent"] for run in page["runs"]]) == (200, 2, ["mine"])
    for path in (f"/runs/{hidden}", f"/runs/{hidden}/output", f"/runs/{hidden}/answer"):
        assert ask("GET", path)[0] == 404
    assert ask("POST", f"/runs/{hidden}/retry")[0] == 404
    assert ask("POST", "/reload")[0] == 403
    assert {entry["schedule"] for entry in ask("GET", "/status")[1]["timeline"]} == {"mine/d"}


@needs_root
def test_only_administrators_pause_and_others_see_pools_of_agents_that_they_may_see(
    start_daemon: StartDaemon, open_folder: Path
) -> None:
    agents = (
        f'[pools.mine]\n[pools.hidden]\n[agents.mine]\n{AGENT}allow = ["{NOBODY}"]\npools = ["mine"]\n'
        f'[agents.hidden]\n{AGENT}pools = ["mine", "hidden"]\n'
    )
    daemon = start_daemon(config(open_folder, agents))
    for path in ("/pools/pause", "/pools/mine/pause", "/pools/resume"):
        status, body = ask_as(NOBODY, open_folder, "POST", path)
        assert (status, "access.admins grants it" in body["message"]) == (403, True)
    daemon.cli("pause", "mine", "--note", "for all to read")
    status, body = ask_as(NOBODY, open_folder, "GET", "/pools")
    assert status == 200
    assert [(pool["pool"], pool["closures"][0]["reason"]) for pool in body["pools"]] == [("mine", "for all to read")]


@needs_root
def test_a_creator_that_loses_the_right_stops_firing_visibly(start_daemon: StartDaemon, open_folder: Path) -> None:
    granted = config(open_folder, f'[agents.a]\n{AGENT}allow = ["{NOBODY}"]\n')
    daemon = start_daemon(granted)
    body = {"name": "s", "interval_seconds": 1}
    assert ask_as(NOBODY, open_folder, "POST", SCHEDULES, body)[0] == 201
    daemon.wait_for_row("SELECT 1 FROM fires WHERE outcome = 'launched'")
    daemon.config.write_text(granted.replace(f'allow = ["{NOBODY}"]', "allow = []"))
    daemon.cli("reload")
    # one that has a run was fired before the reload, and its run was not yet started
    denied_at_once = "SELECT * FROM fires WHERE outcome = 'skipped_permission_denied' AND run_id IS NULL"
    row = daemon.wait_for_row(denied_at_once)
    assert NOBODY in row["reason"]
    assert "skipped_permission_denied" in daemon.cli("schedules", "history", "a/s").stdout
    curl = ["curl", "-s", "--unix-socket", f"{open_folder}/c.sock", "http://x/metrics"]
    figures = subprocess.run(curl, capture_output=True, text=True, check=True).stdout
    denied = next(line for line in figures.splitlines() if 'fires_total{outcome="skipped_permission_denied"}' in line)
    assert float(denied.split()[1]) >= 1
    daemon.config.write_text(granted)
    daemon.cli("reload")
    daemon.wait_for_row(
        "SELECT 1 FROM fires WHERE outcome = 'launched' AND scheduled_for > ?", row["scheduled_for"], deadline=10
    )


@needs_root
def test_a_run_whose_creator_lost_the_right_before_delivery_is_cancelled(
    start_daemon: StartDaemon, open_folder: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    agents = f'[agents.a]\ncommand = ["cat", "{tmp_path}/gate"]\nallow = ["{NOBODY}"]\n'
    agents += '[agents.a.schedules.d]\nevery = "36500d"\n'
    granted = config(open_folder, agents)
    daemon = start_daemon(granted)
    for _ in range(2):  # the second one waits: max_concurrent is 1
        assert ask_as(NOBODY, open_folder, "POST", f"{SCHEDULES}/d/trigger")[0] == 201
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = 1 AND delivered_at IS NOT NULL")
    daemon.config.write_text(granted.replace(f'allow = ["{NOBODY}"]', ""))
    assert daemon.cli("reload").returncode == 0
    (tmp_path / "gate").write_text("")
    run = daemon.wait_for_run("cancelled", number=2)
    assert f"{NOBODY}, who requested it, may no longer use a" in run["error"]
    assert run["delivered_at"] is None
    assert daemon.wait_for_run("completed", number=1)


CALLBACK = """\
import json, os, socket, sys
def ask(method, path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
        head = f"{method} {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n"
        s.sendall(head.encode())
        data = b""
        while part := s.recv(65536):
            data += part
    return int(data.split()[1])
if os.fork():
    os.wait()
else:
    os.setsid()
    own = os.environ.get("AGENTCRON_RUN_ID", "1")
    asked = [("GET", f"/runs/{own}"), ("GET", "/agents/a/schedules"), ("GET", "/runs/999"), ("POST", "/reload"),
             ("GET", "/status"), ("GET", "/metrics"), ("POST", "/agents/a/schedules/s/trigger"),
             ("POST", "/agents/a/runs"), ("GET", "/runs")]
    print(json.dumps([ask(*one) for one in asked]), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("environment", ["kept", "cleared"])
def test_an_agent_that_calls_back_may_see_and_end_its_own_run_only(
    start_daemon: StartDaemon, tmp_path: Path, environment: str
) -> None:
    (tmp_path / "callback.py").write_text(CALLBACK)
    clean = "env -i " if environment == "cleared" else ""
    run = f"{clean}{sys.executable} {tmp_path}/callback.py {tmp_path}/c.sock"
    daemon = start_daemon(
        '[daemon]\nstate_dir = "state"\n[control]\nsocket = "c.sock"\n'
        f"[agents.a]\ncommand = ['sh', '-c', '{run}']\n[agents.a.schedules.s]\nevery = \"1s\"\n"
    )
    daemon.wait_for_run("completed")
    assert json.loads(daemon.output(1)) == [200, 404, 404, 403, 403, 403, 404, 404, 200]


GONE = """\
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
if os.fork() == 0:
    s.connect(sys.argv[1])
    os._exit(0)
os.wait()
s.sendall(b"POST /agents/a/schedules/s/pause HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n")
print(s.recv(4096).split()[1].decode(), flush=True)
"""


def test_an_agent_cannot_hide_behind_an_ended_process(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(GONE)
    run = f"{sys.executable} {tmp_path}/gone.py {tmp_path}/c.sock"
    daemon = start_daemon(
        '[daemon]\nstate_dir = "state"\n[control]\nsocket = "c.sock"\n'
        f"[agents.a]\ncommand = ['sh', '-c', '{run}']\n[agents.a.schedules.s]\nevery = \"1s\"\n"
    )
    daemon.wait_for_run("completed")
    # 404 as the run that it is, if the daemon saw the process before it ended; else it is nobody known
    assert daemon.output(1) in {"403\n", "404\n"}


def agent_running(script: Path, *arguments: object) -> str:
    return f"command = {json.dumps([sys.executable, str(script), *map(str, arguments)])}\n"


ONE_RUN = '[agents.a.schedules.s]\nevery = "36500d"\n'
POSE = f"""\
import os, sys
{REUSE}
with open(sys.argv[1]) as stream:
    reuse(int(stream.read()))
open(sys.argv[2], "w").close()
os.wait()
"""


@needs_root
@pytest.mark.skipif(not can_choose_pids, reason="choosing a pid needs ns_last_pid")
@pytest.mark.parametrize("kernel", ["pidfd", "old"])
def test_nobody_becomes_a_run_whose_process_got_the_pid_of_a_connection(
    start_daemon: StartDaemon, open_folder: Path, tmp_path: Path, kernel: str
) -> None:
    (tmp_path / "pose.py").write_text(POSE)
    os.mkfifo(tmp_path / "pid")
    agents = f"[agents.a]\n{agent_running(tmp_path / 'pose.py', tmp_path / 'pid', tmp_path / 'posed')}{ONE_RUN}"
    slowed = "" if kernel == "pidfd" else "from daemon import socket_peer; socket_peer._SO_PEERPIDFD = 9999"
    daemon = start_daemon(config(open_folder, agents), slowed=slowed)
    daemon.cli("schedules", "trigger", "a/s")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    daemon.process.send_signal(signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        (tmp_path / "pid").write_text(str(connect_and_end(client, open_folder / "c.sock", pwd.getpwnam(NOBODY))))
        wait_until((tmp_path / "posed").exists)
        daemon.process.send_signal(signal.SIGCONT)
        assert ask_on(client, "GET", "/runs/1") == 404
        assert ask_on(client, "POST", "/runs/1/cancel") == 404
    assert daemon.query("SELECT 1 FROM cancellation_flags") == []


def connect_and_end(client: socket.socket, path: Path, user: pwd.struct_passwd) -> int:
    """Have a child connect a socket and end; return its pid."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            client.connect(str(path))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return child


def ask_on(client: socket.socket, method: str, path: str) -> int:
    """Ask on a connection and return the status."""
    client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    response = http.client.HTTPResponse(client)
    response.begin()
    response.read()
    return response.status


HIDE = """\
import os, socket, sys
with open(sys.argv[2]) as stream:
    stream.read()
s = socket.socket(socket.AF_UNIX)
child = os.fork()
if child == 0:
    s.connect(sys.argv[1])
    os._exit(0)
os.waitpid(child, 0)
with open(sys.argv[3], "w") as stream:
    stream.write(str(child))
s.sendall(b"POST /agents/a/schedules/s/pause HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n")
print(s.recv(4096).split()[1].decode(), flush=True)
"""


@pytest.mark.skipif(not can_choose_pids, reason="choosing a pid needs root and ns_last_pid")
def test_an_agent_cannot_hide_behind_a_stranger_that_got_the_pid(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "hide.py").write_text(HIDE)
    os.mkfifo(tmp_path / "begin")
    os.mkfifo(tmp_path / "pid")
    script = agent_running(tmp_path / "hide.py", tmp_path / "c.sock", tmp_path / "begin", tmp_path / "pid")
    daemon = start_daemon(f'[control]\nsocket = "c.sock"\n[agents.a]\n{script}{ONE_RUN}')
    daemon.cli("schedules", "trigger", "a/s")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    daemon.process.send_signal(signal.SIGSTOP)
    (tmp_path / "begin").write_text("")
    with reused(int((tmp_path / "pid").read_text())):
        daemon.process.send_signal(signal.SIGCONT)
        daemon.wait_for_run("completed")
    assert daemon.output(1) == "403\n"


HAND_OVER = """\
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
with socket.socket(socket.AF_UNIX) as to:
    to.connect(sys.argv[2])
    socket.send_fds(to, [b"x"], [s.fileno()])
    to.recv(1)
"""


@pytest.mark.parametrize("when", ["during the run", "after it"])
def test_a_connection_that_an_agent_passes_on_keeps_its_rights(
    start_daemon: StartDaemon, tmp_path: Path, when: str
) -> None:
    (tmp_path / "pass.py").write_text(HAND_OVER)
    script = agent_running(tmp_path / "pass.py", tmp_path / "c.sock", tmp_path / "receiver")
    with socket.socket(socket.AF_UNIX) as receiver:
        receiver.bind(str(tmp_path / "receiver"))
        receiver.listen()
        daemon = start_daemon(f'[control]\nsocket = "c.sock"\n[agents.a]\n{script}{ONE_RUN}')
        daemon.cli("schedules", "trigger", "a/s")
        agent, _ = receiver.accept()
        with agent:
            _, [descriptor], _, _ = socket.recv_fds(agent, 1, 1)
            if when == "after it":
                agent.sendall(b"x")
                daemon.wait_for_run("completed")
            with socket.socket(fileno=descriptor) as client:
                client.settimeout(30)
                assert ask_on(client, "POST", "/agents/a/schedules/s/pause") == (
                    404 if when == "during the run" else 403
                )
    assert daemon.query("SELECT paused_at FROM schedules WHERE paused_at IS NOT NULL") == []


@needs_root
def test_no_other_process_can_pose_as_a_run(start_daemon: StartDaemon, open_folder: Path) -> None:
    agents = '[agents.a]\ncommand = ["sleep", "300"]\n[agents.a.schedules.s]\nevery = "1s"\n'
    daemon = start_daemon(config(open_folder, agents))
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTCRON_RUN_ID", "1")
        assert ask_as(NOBODY, open_folder, "GET", "/runs/1")[0] == 404


def test_an_agent_may_end_its_own_run_and_nothing_else(start_daemon: StartDaemon, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    ask = f"{curl} -s --unix-socket {tmp_path}/c.sock http://x"
    script = f"""for place in daemon status metrics; do {ask}/$place -o /dev/null -w "%{{http_code}} "; done
for place in agents/a/runs agents/a/schedules/s/trigger agents/a/schedules/s/pause runs/$AGENTCRON_RUN_ID/retry; do
    {ask}/$place -X POST -o /dev/null -w "%{{http_code}} "
done
{ask}/runs/$AGENTCRON_RUN_ID/cancel -X POST -o /dev/null; sleep 300"""
    text = (
        '[daemon]\nstate_dir = "state"\n[control]\nsocket = "c.sock"\n'
        f"[agents.a]\ncommand = ['sh', '-c', '''{script}''']\nkill_grace = \"1s\"\n"
    )
    daemon = start_daemon(text + '[agents.a.schedules.s]\nevery = "1s"\n')
    assert daemon.wait_for_run("cancelled")["error"] == "cancelled by run:1"
    assert daemon.output(1) == "403 403 403 404 404 404 403 "


def test_the_command_line_works_through_the_socket_where_the_state_is_closed(
    start_daemon: StartDaemon,
) -> None:
    text = (
        '[daemon]\nstate_dir = "state"\n[control]\nsocket = "c.sock"\n[agents.a]\ncommand = ["echo", "hello"]\n'
        '[agents.a.schedules.s]\nevery = "1s"\n'
    )
    daemon = start_daemon(text)
    daemon.wait_for_run("completed")
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"] if os.getuid() == 0 else []
    daemon.state.chmod(0)
    try:
        for arguments, shown in (
            ("schedules list", "a/s"),
            ("schedules show a/s", "every 1s"),
            ("schedules history a/s", "launched"),
            ("runs list", "completed"),
            ("runs show 1", "completed"),
            ("runs logs 1", "hello"),
            ("status", "running, pid"),
        ):
            command = [*powerless, sys.executable, "-m", "daemon", "--config", str(daemon.config), *arguments.split()]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (found.returncode, shown in found.stdout) == (0, True), (arguments, found.stdout, found.stderr)
    finally:
        daemon.state.chmod(0o700)
    assert wait_until(lambda: call(daemon, "GET", "/healthz").status == 200)
