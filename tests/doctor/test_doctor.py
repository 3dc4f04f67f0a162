"""`agentcron doctor`: one thing broken at a time, reported with its severity and its fix."""

import contextlib
import http.server
import json
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from daemon.cli import privileges
from daemon.config.loading import load_config
from daemon.doctor.service_unit import Unit, check_unit
from daemon.doctor.settings import check_settings
from daemon.doctor.state import check_state
from tests.support import forked
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.database import change_database, damaged

GOOD = "[agents.a]\ncommand = ['sh', '-c', 'exit 0']\n[agents.a.schedules.s]\nevery = '1s'\n"


class Answering(http.server.BaseHTTPRequestHandler):
    """Says no to everything, which is an answer."""

    def do_GET(self) -> None:
        """Refuse."""
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def findings(daemon: DaemonProcess) -> list[dict[str, Any]]:
    done = daemon.cli("doctor", "--json")
    assert done.stderr == ""
    document = json.loads(done.stdout)
    worst = [finding for finding in document["findings"] if finding["severity"] == "error"]
    assert (done.returncode, document["errors"]) == (1 if worst else 0, len(worst))
    assert all(finding["mend"] for finding in document["findings"] if finding["severity"] in {"error", "warning"})
    found: list[dict[str, Any]] = document["findings"]
    return found


def found(daemon: DaemonProcess, about: str, severity: str) -> str:
    """Return what is told of something, at a severity."""
    said = [one["what"] for one in findings(daemon) if (one["about"], one["severity"]) == (about, severity)]
    assert said, findings(daemon)
    return " ".join(said)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A state directory that a daemon has used."""
    folder = tmp_path_factory.mktemp("used")
    with daemons_in(folder) as start:
        daemon = start(GOOD)
        daemon.wait_for_run("completed")
        daemon.stop()
        yield daemon


@pytest.fixture
def used(stopped: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    """A copy of it for one test."""
    shutil.copytree(stopped.folder, tmp_path, dirs_exist_ok=True)
    daemon = object.__new__(DaemonProcess)
    daemon.__dict__.update(stopped.__dict__)
    daemon.folder, daemon.state, daemon.config = tmp_path, tmp_path / "state", tmp_path / "config.toml"
    return daemon


def test_a_working_installation_has_no_errors(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(GOOD)
    said = findings(daemon)
    assert not [one for one in said if one["severity"] == "error"]
    good = {one["about"] for one in said if one["severity"] == "ok"}
    assert {"config", "state", "database", "daemon", "disk"} <= good
    shown = daemon.cli("doctor").stdout
    assert f"pid {daemon.process.pid} responds" in shown
    assert "0 errors" in shown


def test_a_bad_config_is_reported_completely(used: DaemonProcess) -> None:
    used.config.write_text("[daemon]\nnonsense = 1\nmax_concurrent_runs = 'x'\n")
    said = findings(used)
    assert {one["about"] for one in said} == {"config"}
    assert len(said) >= 2


def test_without_a_daemon_there_is_nothing_wrong(used: DaemonProcess) -> None:
    assert [one for one in findings(used) if one["severity"] == "error"] == []
    assert "no daemon runs on" in found(used, "daemon", "note")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to somebody else")
@pytest.mark.parametrize(
    ("log", "is_told"),
    [("log/file", True), ("log/below/file", True), ("link", True), ("closed", True), ("dangling", False)],
)
def test_root_without_its_capabilities_is_told_which_log_it_cannot_write(
    tmp_path: Path, log: str, *, is_told: bool
) -> None:
    for name in ("log", "bin"):
        (tmp_path / name).mkdir(mode=0o700)
        os.chown(tmp_path / name, 65534, 65534)
    (tmp_path / "closed").touch(mode=0o600)
    os.chown(tmp_path / "closed", 65534, 65534)
    (tmp_path / "link").symlink_to("log/file")
    (tmp_path / "dangling").symlink_to("nothing yet")
    (tmp_path / "state").mkdir()
    (tmp_path / "config.toml").write_text(
        f"[daemon]\nstate_dir = 'state'\n[log]\nfile = '{log}'\n[agents.a]\ncommand = ['{tmp_path}/bin/agent']\n"
    )
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    command = [*powerless, sys.executable, "-m", "daemon", "--config", str(tmp_path / "config.toml"), "check", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    expected = [f"log.file: cannot write {tmp_path}/{log}"] if is_told else []
    expected.append(f"agents.a.command: no executable program '{tmp_path}/bin/agent' found")
    assert sorted(json.loads(told.stdout)["warnings"]) == sorted(expected)


def test_without_state_there_is_nothing_wrong(used: DaemonProcess) -> None:
    shutil.rmtree(used.state)
    assert "the first start creates it" in found(used, "state", "note")


@pytest.mark.parametrize("name", ["", "state.db", "witness.json", "hook.key"])
def test_state_that_others_may_read_is_an_error(used: DaemonProcess, name: str) -> None:
    (used.state / name).chmod(0o755)
    assert "accessible to other users (mode 0755)" in found(used, "state", "error")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_an_error(used: DaemonProcess) -> None:
    os.chown(used.state / "witness.json", 65534, 65534)
    assert "witness.json belongs to" in found(used, "state", "error")


def test_an_obstacle_is_reported_with_a_fix(used: DaemonProcess, tmp_path: Path) -> None:
    (used.state / "hook.key").write_text("xx")
    shutil.rmtree(used.state / "runs")
    (used.state / "runs").touch()
    (tmp_path / "c.sock").mkdir()
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "dos").write_bytes(b"#!/bin/sh\r\n")
    (tmp_path / "dos").chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "bare").write_text("echo hi\n")
    (tmp_path / "bare").chmod(0o755)
    used.config.write_text(f"""
[daemon]
state_dir = "state"
[log]
file = "no/such/log"
[control]
socket = "c.sock"
[agents.script]
command = ["{tmp_path}/script"]
[agents.dos]
command = ["{tmp_path}/dos"]
[agents.plain]
command = ["{tmp_path}/plain"]
[agents.bare]
command = ["{tmp_path}/bare"]
""")
    said = {(one["about"], one["what"]): one["mend"] for one in findings(used) if one["severity"] == "error"}
    text = "\n".join(f"{about}: {what}; {mend}" for (about, what), mend in said.items())
    for words in (
        "hooks: ",
        "runs is not a directory; find out what created it, and move it away: `mv ",
        "c.sock is not a socket; move it away",
        f"log.file: directory {tmp_path}/no/such does not exist",
        "names /no/such/interpreter, which is not an executable program",
        "names /bin/sh\r, which is not an executable program",
        f"agents.bare.command: {tmp_path}/bare has no first line with #!",
        f"plain is not executable; `chmod +x {tmp_path}/plain`, if it is a program",
    ):
        assert words in text
    assert "Not a directory" not in text


def test_a_state_directory_of_another_user_than_the_units_is_the_only_finding(used: DaemonProcess) -> None:
    config = load_config(used.config)
    [finding] = check_state(config, "nobody")
    assert finding.what == f"{used.state} belongs to {pwd.getpwuid(os.geteuid()).pw_name}, but the unit runs as nobody"
    assert finding.fix == f"chown -R nobody {used.state}"
    for same in (str(os.geteuid()), "no such user", None):
        assert not [one for one in check_state(config, same) if one.severity == "error"]


def test_a_dangling_link_and_a_newer_schema_are_reported(used: DaemonProcess) -> None:
    with contextlib.closing(sqlite3.connect(used.state / "state.db")) as connection:
        connection.execute("PRAGMA user_version = 9999")
    [newer] = [one for one in findings(used) if one["about"] == "database"]
    assert newer["mend"] == "install that version of agentcron again"
    shutil.rmtree(used.state)
    used.state.symlink_to("nowhere")
    assert "is a dangling symbolic link" in found(used, "state", "error")


@pytest.mark.parametrize("name", ["hook.key", "witness.json", "state.db-wal"])
def test_no_fix_follows_a_link_in_the_state_directory(used: DaemonProcess, name: str) -> None:
    (used.state / name).unlink(missing_ok=True)
    (used.state / name).symlink_to("/etc/passwd")
    fixes = [one.fix for one in check_state(load_config(used.config), None) if name in one.what]
    assert f"find out what created it, and move it away: `mv {used.state / name} {used.state / name}.odd`" in fixes
    assert not [fix for fix in fixes if fix and ("chown" in fix or "chmod" in fix)]


def test_a_flipped_page_is_found(used: DaemonProcess) -> None:
    damaged(used.state / "state.db", page=6)
    assert str(used.state / "state.db") in found(used, "database", "error")


def test_an_input_that_no_run_starts_with_is_found(used: DaemonProcess) -> None:
    change_database(used, "UPDATE runs SET input_content = printf('%.*c', 16 * 1024 * 1024 + 1, 'x') WHERE id = 1")
    assert "its input in the database is longer than 16 MiB" in found(used, "database", "error")


def test_a_lost_database_and_a_lost_tail_are_found(used: DaemonProcess) -> None:
    witness = json.loads((used.state / "witness.json").read_text())
    (used.state / "witness.json").write_text(json.dumps({**witness, "highest_run": 9999}))
    assert "its last writes are lost" in found(used, "witness", "error")
    (used.state / "state.db").unlink()
    assert "is missing, but existed" in found(used, "database", "error")


def test_folders_without_a_run_are_named(used: DaemonProcess) -> None:
    (used.state / "runs/777").mkdir()
    (used.state / "environments/site/tasks/778").mkdir(parents=True)
    (used.state / "environments/site/quarantine/779").mkdir(parents=True)
    assert "such as 777" in found(used, "runs", "note")
    places = found(used, "workspaces", "warning")
    assert "tasks/778 belongs to no run" in places
    assert "quarantine/779" in places


def test_a_supervisor_without_a_run_is_named(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(GOOD.replace("exit 0", "sleep 300"))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    daemon.kill()
    subprocess.run(
        ["sqlite3", daemon.state / "state.db", "PRAGMA foreign_keys = OFF; DELETE FROM runs"], check=True, timeout=20
    )
    what = found(daemon, "supervisors", "warning")
    assert f"process {run['pid']} and its agent work on run {run['id']}, which is not running" in what
    os.kill(run["pid"], 15)


@pytest.mark.parametrize("change", ["boot_id = 'earlier'", "pid = pid + 1", "pid_started = pid_started - 1"])
def test_a_supervisor_is_known_by_its_whole_identity(start_daemon: StartDaemon, change: str) -> None:
    daemon = start_daemon(GOOD.replace("exit 0", "sleep 300"))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    daemon.kill()
    assert not [one for one in findings(daemon) if one["about"] == "supervisors" and one["severity"] != "ok"]
    change_database(daemon, f"UPDATE runs SET {change}")
    what = found(daemon, "supervisors", "warning")
    assert f"process {run['pid']} and its agent work on run {run['id']}, which has another process" in what
    os.kill(run["pid"], 15)


def test_what_agents_need_and_do_not_have_is_named(used: DaemonProcess, tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "site.git"], check=True)
    used.config.write_text(f"""
[daemon]
state_dir = "state"
[environments.good]
mode = "git"
repository = "site.git"
[environments.bad]
mode = "git"
repository = "nowhere.git"
require_fetch = true
quota = "9000TB"
[environments.gone]
mode = "local"
path = "no/such/folder"
[agents.missing]
command = ["no-such-program"]
env = {{ KEY = {{ file = "no-such-file" }} }}
[agents.editor]
type = "acp"
command = ["true"]
mcp_servers.files = {{ command = ["no-such-server"] }}
[agents.up]
type = "a2a"
url = "http://127.0.0.1:{server.server_port}"
[agents.down]
type = "a2a"
url = "http://127.0.0.1:1/agent"
""")
    with contextlib.closing(server.socket):
        said = {(one["about"], one["severity"]): one["what"] for one in findings(used)}
        server.shutdown()
    assert "no executable program 'no-such-program' found" in said["agents.missing.command", "error"]
    assert "'no-such-server' found" in said["agents.editor.mcp_servers.files.command", "error"]
    assert "no-such-file" in said["agents.missing.env.KEY", "error"]
    assert "responds" in said["agents.up", "ok"]
    assert "Connection refused" in said["agents.down", "error"]
    assert "site.git responds" in said["environments.good.repository", "ok"]
    assert "nowhere.git" in said["environments.bad.repository", "error"]
    assert "is not a directory" in said["environments.gone.path", "error"]
    assert "more than the disk holds" in said["disk", "warning"]


def test_a_server_that_answers_byte_by_byte_is_abandoned(used: DaemonProcess) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        ended = threading.Event()

        def drip() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.send(b"HTTP/1.1 200 OK\r\nX: ")
                while not ended.wait(0.5):
                    client.send(b"x")

        threading.Thread(target=drip, daemon=True).start()
        used.config.write_text(
            '[daemon]\nstate_dir = "state"\n[agents.slow]\n'
            f'type = "a2a"\nurl = "http://127.0.0.1:{server.getsockname()[1]}"\n'
        )
        told = found(used, "agents.slow", "error")
        ended.set()
    assert "did not respond within 10 s" in told


def test_a_server_that_answers_at_length_what_is_not_http_is_reported_in_brief(used: DaemonProcess) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:

        def babble() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"x" * 60_000 + b"\r\n\r\n")

        threading.Thread(target=babble, daemon=True).start()
        used.config.write_text(
            '[daemon]\nstate_dir = "state"\n[agents.odd]\n'
            f'type = "a2a"\nurl = "http://127.0.0.1:{server.getsockname()[1]}"\n'
        )
        told = found(used, "agents.odd", "error")
    assert "does not respond: xxx" in told
    assert len(told) < 1000


def test_a_program_in_a_folder_that_the_service_hides_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    interpreter = tmp_path / "interpreter"
    interpreter.write_text("")
    interpreter.chmod(0o755)
    program.write_text(f"#!{interpreter}\0x\n")
    program.chmod(0o755)
    (tmp_path / "config.toml").write_text(f"[agents.a]\ncommand = ['{program}']\n")
    config = load_config(tmp_path / "config.toml")
    assert [finding.severity for finding in check_settings(config)] == []
    for hidden in (program, interpreter):
        [finding] = check_settings(config, hides=lambda path, hidden=hidden: path == hidden)  # type: ignore[misc]
        assert f"{hidden} is in a home directory, which ProtectHome= hides" in finding.what


def test_what_a_unit_hides_shows_and_sets() -> None:
    bound = {"ProtectHome": "tmpfs", "BindPaths": "-/srv/x:/home/alice/site:rbind", "BindReadOnlyPaths": "/root/a"}
    unit = Unit({**bound, "User": "agentcron", "Environment": 'PATH=/bin "WORDS=a b"'}, "")
    places = ("/home/bob/x", "/home/alice/site/x", "/root/a", "/usr/bin/x")
    assert [unit.hides(Path(place)) for place in places] == [True, False, False, False]
    assert not Unit({"ProtectHome": "read-only"}, "").hides(Path("/home/bob/x"))
    assert (unit.user, unit.environment["PATH"], unit.environment["WORDS"]) == ("agentcron", "/bin", "a b")
    assert "HOME" in unit.environment


def test_a_unit_that_harms_agents_at_a_restart_is_reported(used: DaemonProcess) -> None:
    config = load_config(used.config)
    good = {"ActiveState": "active", "KillMode": "process", "RemoveIPC": "no", "Delegate": "yes"}
    assert [one.severity for one in check_unit(config, Unit(good, ""))] == ["ok"]
    for harmful in ({"KillMode": "mixed"}, {"RemoveIPC": "yes"}):
        _, told = check_unit(config, Unit({**good, **harmful}, ""))
        assert told.severity == "error"
        assert "all running agents" in told.what


def test_a_variable_to_inherit_is_looked_for_where_the_unit_sets_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[agents.a]\ncommand = ['true']\nenv = { TOKEN = { inherit = true } }\n")
    config = load_config(tmp_path / "config.toml")
    assert list(check_settings(config, {"PATH": "/bin:/usr/bin", "TOKEN": "x"})) == []
    [finding] = check_settings(config, {"PATH": "/bin:/usr/bin"})
    assert (finding.severity, finding.about) == ("warning", "agents.a.env.TOKEN")


def test_secrets_that_the_unit_shows_to_everybody_are_reported(used: DaemonProcess) -> None:
    secret = used.folder / "secret"
    secret.write_text("sesame")
    used.config.write_text(
        used.config.read_text().replace(
            "[agents.a.sch",
            "env = { A = { credential = 'a' }, B = { credential = 'b' }, API_KEY = { inherit = true }, "
            "SOCK = { inherit = true } }\n[agents.a.sch",
        )
    )
    properties = {"ActiveState": "active", "KillMode": "process", "Delegate": "yes", "Environment": "API_KEY=x SOCK=/x"}
    text = f"SetCredential=a:sesame\nLoadCredential=b:{secret}\nEnvironmentFile=-{secret}.env\nSetCredential=other:x\n"
    unit = Unit(properties, text)
    config = load_config(used.config)
    told = {one.about: (one.severity, one.what) for one in check_unit(config, unit) if one.severity != "ok"}
    assert told.keys() == {"agents.a.env.A", "agents.a.env.API_KEY"}
    assert told["agents.a.env.A"][0] == "error"
    assert told["agents.a.env.API_KEY"][0] == "warning"
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        for file in ("secret", "secret.env"):
            (Path(name) / file).touch(mode=0o644)
        unit = Unit(properties, text.replace(str(secret), f"{name}/secret"))
        open_files = [one for one in check_unit(config, unit) if "contains a secret" in one.what]
    assert [one.severity for one in open_files] == ["error", "error"]
    assert f"{name}/secret.env contains a secret, and everybody can read it" in open_files[1].what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others, and give up its rights")
def test_root_without_its_capabilities_is_told_which_secret_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "key").touch(mode=0o600)
    os.chown(tmp_path / "key", 65534, 65534)
    (tmp_path / "state").mkdir()
    config = "[daemon]\nstate_dir = 'state'\n[agents.a]\ncommand = ['true']\nenv = { KEY = { file = 'key' } }\n"
    (tmp_path / "config.toml").write_text(config)
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--", sys.executable, "-m", "daemon"]
    check = [*powerless, "--config", str(tmp_path / "config.toml"), "check", "--json"]
    told = subprocess.run(check, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    warnings = json.loads(told.stdout)["warnings"]
    assert f"agents.a.env.KEY: cannot read {tmp_path}/key: Permission denied" in warnings


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_nothing_that_is_opened_is_waited_for(tmp_path: Path, command: str) -> None:
    """A pipe with the right to execute, as an interpreter, key, token, repository or log, blocks whoever opens it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o755)
    (tmp_path / "script").write_text(f"#!{pipe}\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "token").write_text("ci-0123456789abcdef0123")
    (tmp_path / "config.toml").write_text(f"""
[daemon]
state_dir = "state"
[log]
file = "pipe"
[control]
listen = "127.0.0.1:1"
tokens = [{{ name = "ci", file = "token" }}]
[environments.e]
mode = "git"
repository = "{pipe}"
[agents.pipe]
command = ["{pipe}"]
env = {{ KEY = {{ file = "pipe" }} }}
[agents.script]
command = ["{tmp_path}/script"]
[agents.device]
command = ["/dev/null"]
[notify.n]
command = ["{pipe}"]
""")
    done = forked.run(["--config", str(tmp_path / "config.toml"), command, "--json"], dict(os.environ), tmp_path)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert f"agents.pipe.command: {pipe} is not a regular file" in said.replace('",\n      "what": "', ": ")
    assert f"the first line of {tmp_path}/script names {pipe}, which is not an executable program" in said
    assert f"{pipe} is a pipe; lines are lost" in said
    (tmp_path / "token").unlink()
    os.mkfifo(tmp_path / "token")
    done = forked.run(["--config", str(tmp_path / "config.toml"), command, "--json"], dict(os.environ), tmp_path)
    assert f"{tmp_path}/token is not a regular file" in done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_can_check_as_the_user_of_the_unit() -> None:
    script = (
        "import os; from daemon.cli.privileges import become; print(become('no such'), become('nobody'), os.geteuid())"
    )
    needed = [Path(str(module.__file__)) for module in (os, typer, privileges)]
    closed = [place for place in needed if not all(above.stat().st_mode & 0o001 for above in place.parents)]
    for name in ("nobody", str(pwd.getpwnam("nobody").pw_uid)):
        run = [sys.executable, "-c", script.replace("'nobody'", f"'{name}'")]
        said = subprocess.run(run, capture_output=True, text=True, check=False)
        if closed:  # in the home of root, where agentcron may be under test
            assert f"RefusedError: nobody cannot read {closed[0]}" in said.stderr
        else:
            assert said.stdout.split() == ["None", "nobody", str(pwd.getpwnam("nobody").pw_uid)]


def test_a_daemon_that_does_not_answer_is_an_error(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(GOOD)
    daemon.process.send_signal(19)
    assert f"pid {daemon.process.pid} does not respond" in found(daemon, "daemon", "error")
    daemon.process.send_signal(18)


def test_a_credential_that_the_unit_loads_since_the_daemon_started_needs_a_restart(tmp_path: Path) -> None:
    (tmp_path / "given").touch()
    (tmp_path / "config.toml").write_text(
        "[agents.a]\ncommand = ['true']\nenv = { A = { credential = 'given' }, B = { credential = 'later' } }\n"
    )
    config = load_config(tmp_path / "config.toml")
    for environment, missing in (({"CREDENTIALS_DIRECTORY": str(tmp_path)}, {"later"}), ({}, {"given", "later"})):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as daemon:
            properties = {"ActiveState": "active", "MainPID": str(daemon.pid)}
            unit = Unit(properties, "LoadCredential=given:/x/a\nLoadCredential=later:/x/b\n")
            told = [one.what for one in check_unit(config, unit) if "has not got the credential" in one.what]
            daemon.communicate()
        assert {what.split("'")[1] for what in told} == missing


def test_what_is_left_in_the_trash_is_named(used: DaemonProcess) -> None:
    (used.state / "environments" / ".trash" / "left").mkdir(parents=True)
    assert "1 folder in " in found(used, "trash", "warning")
