"""An administrator's day under a real systemd, in order: install, run, reload, crash, hang, upgrade, stop."""

import json
import re
import time

import pytest

from tests.support.booted import Host
from tests.support.service_host import (
    CONFIG,
    as_person,
    configure,
    main_pid,
    mode,
    readme,
    runs,
    trigger,
    wait_for_restart,
    wait_for_runs,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("acceptance"), pytest.mark.timeout(300)]


def test_the_readmes_lines_install_it_and_the_first_run_completes(host: Host) -> None:
    assert host.run("systemctl is-active agentcron").strip() == "active"
    trigger(host, "hello/greeting")
    wait_for_runs(host, "hello", 1, status="completed")
    assert mode(host, "/etc/agentcron/config.toml") == "root agentcron-users 640"
    assert mode(host, "/etc/agentcron") == "root agentcron-users 750"
    assert mode(host, "/etc/agentcron/secrets") == "root agentcron 750"
    assert mode(host, "/var/lib/agentcron") == "agentcron agentcron 700"
    assert mode(host, "/run/agentcron/control.sock") == "agentcron agentcron-users 660"
    assert host.run("systemctl show -P LimitCORE agentcron").strip() == "0"
    assert "Permission denied" not in host.run("journalctl -u agentcron --no-pager")


def test_a_reload_is_applied_and_a_broken_one_changes_nothing(host: Host) -> None:
    (host.root / "srv").mkdir(exist_ok=True)
    host.run(
        "git init -q --bare -b main /srv/site.git; git clone -q /srv/site.git /var/tmp/c; cd /var/tmp/c; "
        "git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m one; "
        "git push -q origin HEAD:main; chown -R agentcron: /srv/site.git"
    )
    (host.root / "etc/agentcron/secrets/pass").write_text("sesame\n")
    (host.root / "etc/agentcron/secrets/pass").chmod(0o600)
    drop_in = host.root / "etc/systemd/system/agentcron.service.d/test.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(
        "[Service]\nLoadCredential=pass:/etc/agentcron/secrets/pass\nWatchdogSec=2s\nReadWritePaths=/srv/site.git\n"
    )
    configure(host)
    host.run("systemctl daemon-reload && systemctl restart agentcron")
    (host.root / "etc/agentcron/config.toml").write_text("[daemon]\nnonsense = 1\n")
    host.run("systemctl reload agentcron")
    host.wait_for("journalctl -u agentcron --no-pager -o cat -p err | grep -q 'Not reloaded'")
    assert host.run("systemctl is-active agentcron").strip() == "active"
    before = len(runs(host, "hello"))
    configure(host)
    wait_for_runs(host, "hello", before + 1, status="completed")


def test_each_run_has_its_own_cgroup(host: Host) -> None:
    configure(host)
    wait_for_runs(host, "hello", 1, status="completed")
    last = runs(host, "hello", status="completed")[-1]["id"]
    assert f"/system.slice/agentcron.service/run-{last}" in host.run(f"agentcron runs logs {last}")


def test_node_and_git_work_under_the_hardening(host: Host) -> None:
    if "no" in host.run("command -v node >/dev/null || echo no"):
        pytest.skip("no Node.js here")
    trigger(host, "coder/never")
    wait_until(lambda: runs(host, "coder")[0]["status"] in {"completed", "failed"}, deadline=60, what="the coder's end")
    [run] = runs(host, "coder")
    assert run["status"] == "completed", host.run(f"agentcron runs show {run['id']}; agentcron runs logs {run['id']}")
    assert (
        host.run(f"runuser -u agentcron -- git -C /srv/site.git show agentcron/{run['id']}:sum.txt").strip()
        == "4499998500000"
    )


def test_three_long_agents_outlive_crash_hang_and_upgrade(host: Host) -> None:
    for _ in range(3):
        trigger(host, "long/never")
    wait_for_runs(host, "long", 3, status="running")
    numbers = [run["id"] for run in runs(host, "long")]
    for number in numbers:
        host.wait_for(f"agentcron runs logs {number} | grep -q begun")
    crashed = main_pid(host)
    host.run(f"kill -9 {crashed}")
    wait_for_restart(host, crashed)
    hung = main_pid(host)
    host.run(f"kill -STOP {hung}")  # which is what a loop that is blocked for good looks like
    wait_for_restart(host, hung)
    assert "Fatal Python error: Aborted" in host.run("journalctl -u agentcron --no-pager -o cat")
    upgraded = main_pid(host)
    reinstalled = readme("**Upgrade**").replace("--upgrade", "--force-reinstall --no-deps")
    host.run(f"cd /var/tmp/here\n{reinstalled}", timeout=240)
    wait_for_restart(host, upgraded)
    assert [run["status"] for run in runs(host, "long")] == ["running"] * 3
    (host.root / "var/tmp/go").touch()
    wait_for_runs(host, "long", 3, status="failed", exit_code="7")
    for number in numbers:
        assert host.run(f"agentcron runs logs {number}").split() == ["begun", "of", "run", number, "shared"]
    (host.root / "var/tmp/go").unlink()


def test_controllers_that_are_handed_down_do_not_hinder_a_restart(host: Host) -> None:
    """Where systemd leaves a process in a cgroup whose controllers are handed down, the kernel refuses it (EBUSY)."""
    controllers = host.run("cat /sys/fs/cgroup/cgroup.controllers").split()
    if not controllers:
        pytest.skip("no controller of cgroups of version 2 can be had here")
    unit = "system.slice/agentcron.service"
    trigger(host, "long/never")
    wait_for_runs(host, "long", 1, status="running")
    for folder in ("", "system.slice", unit):
        host.run(f"cd /sys/fs/cgroup/{folder} && echo +{controllers[0]} >cgroup.subtree_control")
    before = main_pid(host)
    host.run("systemctl restart agentcron")
    wait_for_restart(host, before)
    [run] = runs(host, "long", status="running")
    host.run(f"agentcron runs cancel {run['id']}")
    wait_for_runs(host, "long", 1, status="cancelled")


@pytest.mark.parametrize("on_stop", ["detach", "drain", "cancel"])
def test_a_stop_with_hostile_agents_takes_no_longer_than_it_may(host: Host, on_stop: str) -> None:
    host.run("systemctl start agentcron")
    configure(host, on_stop)
    before = len(runs(host, "stubborn"))
    trigger(host, "stubborn/never")
    wait_for_runs(host, "stubborn", before + 1)
    number = runs(host, "stubborn")[-1]["id"]
    host.wait_for(f"agentcron runs logs {number} | grep -q begun")
    began = time.monotonic()
    host.run("systemctl stop agentcron")
    took = time.monotonic() - began
    assert took < 10.5
    assert host.run("systemctl show -P Result agentcron").strip() == "success"
    host.run("systemctl start agentcron")
    host.run(f"agentcron runs cancel {number}", check=False)
    wait_until(lambda: runs(host, "stubborn")[-1]["status"] in {"cancelled", "interrupted"}, deadline=30, what=number)
    assert "sleep 600" not in host.run("ps ax -o args")


def test_the_units_checks_are_silent(host: Host) -> None:
    assert host.run("systemd-analyze verify /etc/systemd/system/agentcron.service") == ""
    user_unit = "/opt/agentcron/share/agentcron/systemd/user/agentcron.service"
    assert host.run(f"XDG_RUNTIME_DIR=/run systemd-analyze --user verify {user_unit}") == ""
    exposure = host.run("systemd-analyze security agentcron.service --no-pager | tail -1")
    assert float(re.search(r": ([0-9.]+)", exposure)[1]) <= 3.0  # type: ignore[index]


def test_doctor_finds_nothing_wrong_with_the_service(host: Host) -> None:
    document = json.loads(host.run("agentcron doctor --json"))
    assert document["errors"] == 0
    assert {"unit", "daemon", "database", "environments.work.repository"} <= {
        finding["about"] for finding in document["findings"] if finding["severity"] == "ok"
    }


def test_doctor_checks_as_the_daemons_user(host: Host) -> None:
    host.run("chmod 600 /etc/agentcron/config.toml && chown root /var/lib/agentcron/runs")
    told = host.run("agentcron doctor", check=False)
    assert "agentcron has no permission to read /etc/agentcron/config.toml" in told
    assert "/var/lib/agentcron/runs belongs to root, but the state directory to agentcron" in told
    host.run("systemd-tmpfiles --create /etc/tmpfiles.d/agentcron.conf; chown agentcron /var/lib/agentcron/runs")
    host.run("agentcron doctor")


def test_people_use_the_command_line_and_read_no_secret(host: Host) -> None:
    """A token by credential is a file of root alone; one by file is also of the daemon, and so are old ones."""
    secrets = "/etc/agentcron/secrets"
    host.run(f"""
        useradd -m bob; usermod -aG agentcron-users bob; cd {secrets}
        echo token-of-the-credential >ci; chmod 600 ci
        echo token-in-the-directory >file.token; echo token-beside-the-config >../old.token
        chgrp agentcron file.token ../old.token; chmod 640 file.token ../old.token""")
    tokens = ['{ name = "ci", credential = "ci" }', '{ name = "file", file = "secrets/file.token" }']
    tokens.append('{ name = "old", file = "old.token" }')
    config = host.root / "etc/agentcron/config.toml"
    config.write_text(config.read_text().replace("[control]\n", f"[control]\ntokens = [{', '.join(tokens)}]\n"))
    drop_in = host.root / "etc/systemd/system/agentcron.service.d/tokens.conf"
    drop_in.write_text(f"[Service]\nLoadCredential=ci:{secrets}/ci\n")
    host.run("systemctl daemon-reload; systemctl restart agentcron")
    assert "run_schedules" in as_person(host, "bob", "agentcron schedules list --json")
    assert "is valid" in as_person(host, "bob", "agentcron check")
    for secret in ("secrets/ci", "secrets/file.token", "secrets/pass", "old.token"):
        assert "Permission denied" in as_person(host, "bob", f"cat /etc/agentcron/{secret}"), secret
    assert "Permission denied" in as_person(host, "bob", "sh -c 'echo >>/etc/agentcron/config.toml'")
    assert "Permission denied" in as_person(host, "bob", "ls /var/lib/agentcron")
    assert json.loads(host.run("agentcron doctor --json"))["errors"] == 0


def test_an_installation_whose_people_read_its_secrets_is_upgraded_by_the_readmes_lines(host: Host) -> None:
    """Until version 0.1, one group was for people and for the daemon's secrets."""
    config = host.root / "etc/agentcron/config.toml"
    config.write_text(config.read_text().replace('group = "agentcron-users"\n', ""))
    host.run("""
        gpasswd -d agentcron agentcron-users; groupdel agentcron-users; rm /etc/sysusers.d/agentcron.conf
        printf 'z /etc/agentcron 0750 root agentcron\nz /etc/agentcron/config.toml 0640 root agentcron\n' \
            >/etc/tmpfiles.d/agentcron.conf
        systemd-tmpfiles --create /etc/tmpfiles.d/agentcron.conf
        useradd -m carol; usermod -aG agentcron carol; systemctl restart agentcron""")
    assert as_person(host, "carol", "cat /etc/agentcron/old.token") == "token-beside-the-config\n"
    told = host.run("agentcron doctor", check=False)
    assert "old.token contains a secret, and members of the group agentcron (carol) can read it" in told
    host.wait_for("journalctl -u agentcron --no-pager -o cat -p warning | grep 'Open to others' | grep -q old.token")
    upgrade = readme("**Upgrade**").replace("--upgrade", "--force-reinstall --no-deps")
    host.run(f"cd /var/tmp/here\n{upgrade}", timeout=240)
    config.write_text(config.read_text().replace("[control]\n", '[control]\ngroup = "agentcron-users"\n'))
    host.run(readme("**move these people**"))
    host.wait_for("agentcron status")
    assert "run_schedules" in as_person(host, "carol", "agentcron schedules list --json")
    assert "Permission denied" in as_person(host, "carol", "cat /etc/agentcron/old.token")
    assert mode(host, "/etc/agentcron/config.toml") == "root agentcron-users 640"
    assert mode(host, "/run/agentcron/control.sock") == "agentcron agentcron-users 660"
    assert json.loads(host.run("agentcron doctor --json"))["errors"] == 0
    host.run("rm /etc/systemd/system/agentcron.service.d/tokens.conf; systemctl daemon-reload")
    config.write_text(CONFIG.format(on_stop="detach"))
    host.run("systemctl restart agentcron")


def test_a_user_who_may_not_read_the_config_gets_an_error(host: Host) -> None:
    told = host.run("runuser -u nobody -- agentcron runs list", check=False)
    assert "no permission to read /etc/agentcron/config.toml" in told
    assert "Traceback" not in told


def test_root_restores_with_the_rights_of_the_daemons_user(host: Host) -> None:
    """Agents of that user may have planted links in the state directory, which must not lead root astray."""
    host.run("agentcron backup /root/backup.db && systemctl stop agentcron")
    known = int(runs(host, "hello")[-1]["id"])
    host.run("ln -s /root/planted /var/lib/agentcron/witness.new")
    host.run("agentcron restore /root/backup.db")
    assert "planted" not in host.run("ls /root; ls -l /var/lib/agentcron")
    assert host.run("find /var/lib/agentcron ! -user agentcron") == ""
    host.run("systemctl start agentcron")
    wait_until(lambda: int(runs(host, "hello")[-1]["id"]) > known, deadline=40, what="another run")


def test_doctor_names_a_credential_that_the_unit_does_not_load(host: Host) -> None:
    drop_in = host.root / "etc/systemd/system/agentcron.service.d/test.conf"
    drop_in.write_text(drop_in.read_text().replace("LoadCredential", "#LoadCredential"))
    changed = host.run("agentcron doctor", check=False)
    assert "the unit file has changed since systemd loaded it" in changed
    host.run("systemctl daemon-reload")
    assert "the unit does not load the credential 'pass'" in host.run("agentcron doctor", check=False)


def test_a_persons_own_daemon_runs_by_the_readmes_lines_and_loses_no_run_at_a_restart(host: Host) -> None:
    """The user's manager is started as a service, since this host has no logins."""
    environment = "HOME=/home/alice USER=alice XDG_RUNTIME_DIR=/run/alice"
    host.run(
        "useradd -m alice && install -d -o alice -m 700 /run/alice && systemd-run -q --unit=alices --uid=alice "
        f"-p Delegate=yes -p Environment='{environment}' /lib/systemd/systemd --user"
    )
    host.wait_for("test -S /run/alice/systemd/private")

    def as_alice(script: str) -> str:
        (host.root / "var/tmp/script").write_text(f"cd /home/alice\n{script}")
        path = "/usr/local/bin:/usr/bin:/bin"
        return host.run(f"runuser -u alice -- env -i {environment} PATH={path} sh -e /var/tmp/script")

    as_alice(readme("Your own daemon").replace("loginctl", "true loginctl"))
    assert as_alice("systemctl --user is-active agentcron").strip() == "active"
    assert as_alice("systemctl --user show -P LimitCORE agentcron").strip() == "0"
    long = '[agents.long]\ncommand = ["sleep", "600"]\n[agents.long.schedules.never]\nevery = "36500d"\n'
    as_alice(f"cat >>.config/agentcron/config.toml <<'END'\n{long}END\nsystemctl --user reload agentcron")
    wait_until(lambda: "long/never" in as_alice("agentcron schedules list"), deadline=20)
    number = json.loads(as_alice("agentcron schedules trigger long/never --json"))["id"]
    host.wait_for("pgrep -u alice -x sleep")
    before = host.run("pgrep -u alice -x sleep")
    as_alice("systemctl --user restart agentcron")
    assert host.run("pgrep -u alice -x sleep") == before
    shown = json.loads(as_alice(f"agentcron runs show {number} --json"))
    assert shown["status"] == "running"
    as_alice(f"agentcron runs cancel {number}")
    wait_until(lambda: "cancelled" in as_alice(f"agentcron runs show {number} --json"), deadline=20)
    as_alice("agentcron schedules trigger hello/greeting")
    wait_until(
        lambda: '"completed"' in as_alice("agentcron runs list --json"), deadline=20, what="a run of the example"
    )
    assert host.run("ls -A /home/alice/.local/state/agentcron | grep -c state.db").strip() != "0"
    as_alice("systemctl --user stop agentcron")
    host.run("systemctl stop alices")
