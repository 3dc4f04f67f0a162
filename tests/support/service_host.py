"""The service on a booted host: its config, the README's lines, and what administrator and people ask of it."""

import re
from pathlib import Path

from tests.support.booted import Host
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIG = """
[daemon]
max_concurrent_runs = 20
on_stop = "{on_stop}"
stop_timeout = "5s"

[control]
group = "agentcron-users"

[environments.work]
mode = "git"
repository = "/srv/site.git"

[agents.hello]
command = ["sh", "-c", "echo hello; grep ^0:: /proc/self/cgroup"]
[agents.hello.schedules.often]
every = "2s"

[agents.long]
command = ["sh", "-c", '''test "$SECRET" && echo of run $AGENTCRON_RUN_ID >$TMPDIR/mine && echo begun;
echo shared >/dev/shm/$AGENTCRON_RUN_ID; while [ ! -e /var/tmp/go ]; do sleep 0.1; done
cat $TMPDIR/mine /dev/shm/$AGENTCRON_RUN_ID; test "$(cat $CREDENTIALS_FILE)" && exit 7''']
env = {{ SECRET = {{ credential = "pass" }}, CREDENTIALS_FILE = "/run/credentials/agentcron.service/pass" }}
max_concurrent = 3
[agents.long.schedules.never]
cron = "0 0 1 1 *"
overlap = "allow_all"

[agents.coder]
environment = "work"
command = ["sh", "-c", '''node -e "let s = 0; for (let i = 0; i < 3e6; i++) s += i; console.log(s)" >sum.txt &&
git add sum.txt && git -c user.name=a -c user.email=a@example.org commit -qm sum && git push -q origin HEAD''']
[agents.coder.schedules.never]
cron = "0 0 1 1 *"

[agents.stubborn]
command = ["sh", "-c", '''trap "" TERM; (setsid sh -c "trap '' TERM; sleep 600" &)
echo begun; while :; do sleep 1; done''']
kill_grace = "2s"
[agents.stubborn.schedules.never]
cron = "0 0 1 1 *"
"""


def readme(heading: str) -> str:
    """Return the first block of commands after some words of the README."""
    block = re.search(r"```sh\n(.*?)```", README[README.index(heading) :], re.DOTALL)
    assert block is not None
    return block[1]


def runs(host: Host, agent: str, **where: str) -> list[dict[str, str]]:
    """Return runs of an agent from the database, with some of their columns."""
    condition = "".join(f" AND {column} = '{value}'" for column, value in where.items())
    query = f"SELECT id, status, coalesce(exit_code, '-') FROM runs WHERE agent = '{agent}'{condition} ORDER BY id"
    rows = host.run(f'sqlite3 /var/lib/agentcron/state.db "{query}"').split()
    return [dict(zip(("id", "status", "exit_code"), row.split("|"), strict=True)) for row in rows]


def main_pid(host: Host) -> str:
    return host.run("systemctl show -P MainPID agentcron").strip()


def state(host: Host) -> list[str]:
    return host.run("systemctl is-active agentcron", check=False).split()


def trigger(host: Host, schedule: str) -> None:
    host.run(f"agentcron schedules trigger {schedule}")


def wait_for_runs(host: Host, agent: str, count: int, **where: str) -> None:
    try:
        wait_until(lambda: len(runs(host, agent, **where)) >= count, deadline=40, what=f"{count} x {agent} {where}")
    except AssertionError as error:
        last = (runs(host, agent) or [{"id": "0"}])[-1]["id"]
        log = host.run(f"agentcron runs show {last}; agentcron runs logs {last}", check=False)
        raise AssertionError(f"{error}\n{log}") from None


def configure(host: Host, on_stop: str = "detach") -> None:
    (host.root / "etc/agentcron/config.toml").write_text(CONFIG.format(on_stop=on_stop))
    host.run("systemctl reload agentcron")


def mode(host: Host, path: str) -> str:
    """Return owner, group and mode of a file."""
    return host.run(f"stat -c '%U %G %a' {path}").strip()


def as_person(host: Host, name: str, command: str) -> str:
    """Return what a command prints when a person of the host runs it."""
    return host.run(f"runuser -u {name} -- {command}", check=False)


def wait_for_restart(host: Host, before: str) -> None:
    wait_until(
        lambda: main_pid(host) not in {before, "0"} and "active" in state(host),
        deadline=60,
        what="another daemon",
    )
    host.wait_for("agentcron status")
