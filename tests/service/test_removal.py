"""The end of an administrator's days: the service is removed by the README's lines."""

import pytest

from tests.support.booted import Host
from tests.support.service_host import configure, readme, runs, trigger, wait_for_runs

pytestmark = [pytest.mark.xdist_group("acceptance"), pytest.mark.timeout(300)]


def test_the_readmes_lines_remove_it(host: Host) -> None:
    configure(host)
    trigger(host, "stubborn/never")  # which takes two seconds to end
    wait_for_runs(host, "stubborn", 1, status="running")
    host.run(readme("**Remove**"))
    assert {run["status"] for run in runs(host, "stubborn")} == {"cancelled"}
    assert host.run("systemctl is-active agentcron", check=False).strip() == "inactive"
    left = host.run("find /opt/agentcron /usr/local/bin/agentcron /etc/systemd/system -name 'agentcron*'", check=False)
    assert [line for line in left.splitlines() if "No such file" not in line and ".service.d" not in line] == []
    assert (host.root / "var/lib/agentcron/state.db").exists()
    assert (host.root / "etc/agentcron/config.toml").exists()
    assert "agentcron-run" not in host.run("ps ax -o comm")
