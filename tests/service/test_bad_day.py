"""A bad day of the service under a real systemd: a remote that hangs, a full disk, a log that nobody reads."""

import json
import socket

import pytest

from tests.support.booted import Host
from tests.support.service_host import as_person, main_pid, runs, wait_for_runs
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("acceptance"), pytest.mark.timeout(300)]
CONFIG = """
[daemon]
max_concurrent_runs = 4

[control]
group = "agentcron-users"

[access]
admins = ["dora"]

[environments.far]
mode = "git"
repository = "git://127.0.0.1:{port}/site.git"

[agents.hello]
command = ["echo", "hello"]
read = ["erik"]
[agents.hello.schedules.often]
every = "1s"

[agents.far]
command = ["true"]
environment = "far"
allow = ["erik"]
[agents.far.schedules.never]
cron = "0 0 1 1 *"
overlap = "allow_all"

[agents.hidden]
command = ["true"]
[agents.hidden.schedules.never]
cron = "0 0 1 1 *"
"""


@pytest.fixture(scope="module")
def service(host: Host) -> Host:
    """The service on a config of its own, with two people of different rights."""
    host.run("for name in dora erik; do useradd -m $name; usermod -aG agentcron-users $name; done")
    configure(host, port=1)
    host.run("systemctl restart agentcron")
    host.wait_for("agentcron status")
    return host


def configure(host: Host, port: int) -> None:
    (host.root / "etc/agentcron/config.toml").write_text(CONFIG.format(port=port))


def test_people_do_what_their_rights_allow(service: Host) -> None:
    assert "hello/often" in as_person(service, "erik", "agentcron schedules list")
    assert "hidden" not in as_person(service, "erik", "agentcron schedules list")
    for change in ("trigger", "pause"):
        assert "agents.hello.allow grants it" in as_person(service, "erik", f"agentcron schedules {change} hello/often")
    assert "hidden/never is paused" in as_person(service, "dora", "agentcron schedules pause hidden/never --note no")
    [change] = json.loads(service.run("agentcron schedules history hidden/never --json"))["revisions"][:1]
    assert change["principal"] == "dora", change
    as_person(service, "dora", "agentcron schedules resume hidden/never")


def test_a_remote_that_hangs_delays_only_who_needs_it(service: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
        configure(service, mute.getsockname()[1])
        service.run("systemctl reload agentcron")
        wait_until(lambda: "far" in service.run("agentcron check --diff; agentcron status"), what="the reload")
        for _ in range(5):  # more than may run at once
            assert "is pending" in as_person(service, "erik", "agentcron schedules trigger far/never")
        service.wait_for("agentcron status | grep -q 'far: for the fetch'")
        before = len(runs(service, "hello", status="completed"))
        wait_for_runs(service, "hello", before + 3, status="completed")
        assert {run["status"] for run in runs(service, "far")} == {"pending"}
        told = as_person(service, "erik", "agentcron runs cancel --agent far")
        wait_for_runs(service, "far", 5, status="cancelled")
        assert "5" in told


STUCK = "import fcntl, os, time; fcntl.fcntl(os.open('/run/stuck', os.O_RDWR), 1031, 4096); time.sleep(600)"
"""A reader that takes nothing from its pipe, which holds one page (F_SETPIPE_SZ): the lines of six runs."""


def test_a_log_that_nobody_reads_stops_nothing(service: Host) -> None:
    drop_in = service.root / "etc/systemd/system/agentcron.service.d/stuck.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nStandardError=file:/run/stuck\n")
    service.run(f'mkfifo /run/stuck; systemd-run -q --unit=stuck python3 -c "{STUCK}"; systemctl daemon-reload')
    try:
        service.run("systemctl restart agentcron")
        before = len(runs(service, "hello", status="completed"))
        wait_for_runs(service, "hello", before + 12, status="completed")
        assert "running" in service.run("agentcron status")
    finally:
        drop_in.unlink()
        service.run("systemctl daemon-reload; systemctl restart agentcron; systemctl stop stuck")


def test_a_start_on_a_full_disk_is_up_says_why_and_recovers(service: Host) -> None:
    state = "/var/lib/agentcron"
    service.run(
        f"systemctl stop agentcron; mount -t tmpfs -o size=160m,mode=700 tmpfs {state}; chown agentcron: {state}"
    )
    try:
        service.run("systemctl start agentcron")
        wait_for_runs(service, "hello", 1, status="completed")
        service.run(f"systemctl stop agentcron; head -c 200M /dev/zero >{state}/ballast-of-another 2>/dev/null || true")
        service.run("systemctl start agentcron")
        told = "systemctl show -P StatusText agentcron; agentcron status"
        wait_until(lambda: service.run(told).count("too little space") > 1, what="both that say why nothing starts")
        count = len(runs(service, "hello"))
        service.run(f"rm {state}/ballast-of-another")
        wait_for_runs(service, "hello", count + 2, status="completed")
    finally:
        service.run(f"systemctl stop agentcron; umount {state}; systemctl start agentcron")
    assert main_pid(service) != "0"
