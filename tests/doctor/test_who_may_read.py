"""`agentcron check`: who runs it decides what it can say about files of the daemon's user, and what it may open."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.schedules.declared import sync_declared
from daemon.store.state_dir import open_state
from daemon.units import utc_now
from tests.support.other_user import NOBODY, Shell, Site, needs_another_user, new_site

pytestmark = [needs_another_user, pytest.mark.xdist_group("root")]
OUTSIDER = NOBODY - 1
CONFIG = """
[daemon]
state_dir = "n/state"
[log]
file = "{log}"
[control]
socket = "n/c.sock"
listen = "127.0.0.1:1"
tokens = [{{ name = "ci", file = "{token}" }}]
[agents.a]
command = ["true"]
env = {{ KEY = {{ file = "{key}" }} }}
"""


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """Return what runs root's commands."""
    shell = Shell()
    yield shell
    shell.close()


@pytest.fixture
def site(shell: Shell) -> Iterator[Site]:
    """Return a site of the other user: a state, a folder for logs, a key and a token, none of which others may see."""
    folder = Path(tempfile.mkdtemp())
    site = new_site(folder, "", shell)
    for name in ("state", "log"):
        (site.theirs / name).mkdir(mode=0o700)
    for name in ("key", "token", "closed"):
        (site.theirs / name).write_text("0123456789abcdef0123456789abcdef\n")
        (site.theirs / name).chmod(0o600)
    for place in site.theirs.iterdir():
        site.give_away(place)
    yield site
    shutil.rmtree(folder)


def write(site: Site, *, log: str = "n/log/file", ci: str = "n/token", key: str = "n/key") -> None:
    site.config.write_text(CONFIG.format(log=log, token=ci, key=key))


def warnings(site: Site, uid: int = 0) -> list[str]:
    """Return the warnings of `check` that a user gets, sorted."""
    done = site.cli_of(uid, "check", "--json") if uid else site.cli("check", "--json")
    assert done.returncode == 0, done.stderr
    return sorted(json.loads(done.stdout)["warnings"])


@pytest.mark.parametrize("log", ["n/log/file", "n/log/below/file", "n/closed"])
def test_an_outsider_does_not_judge_what_only_the_daemon_may_see(site: Site, log: str) -> None:
    """People who may read the config, but no secret, use `check`, too."""
    write(site, log=log)
    assert warnings(site, OUTSIDER) == []


def test_root_judges_what_the_daemons_user_may_do(site: Site) -> None:
    write(site)
    assert warnings(site) == []
    write(site, log="log", key="only-root")
    assert warnings(site) == [
        f"agents.a.env.KEY: cannot read {site.secret}: Permission denied",
        f"log.file: cannot write {site.folder}/log",
    ]
    site.config.chmod(0o600)
    assert f"config: nobody has no permission to read {site.config}" in warnings(site)


def test_root_reads_no_file_for_another_user(site: Site) -> None:
    site.secret.write_text("short")  # which would be said of a token
    write(site, ci="only-root")
    assert warnings(site) == [f"control.tokens.ci: cannot read {site.secret}: Permission denied"]


def test_root_reads_no_file_for_who_wrote_the_config_of_a_state_of_root(site: Site) -> None:
    site.secret.write_text("short")
    write(site, ci="only-root", key="only-root", log="n/log/file")
    site.config.write_text(site.config.read_text().replace("n/state", "state"))
    site.give_away(site.config)
    (site.folder / "state").mkdir(mode=0o700)
    found = warnings(site)  # the daemon would be root, so nothing is said of what this user cannot read
    assert not [one for one in found if "cannot read" in one or "token" in one.partition(":")[2]]


async def test_root_compares_the_config_of_another_user_with_a_state_of_root(site: Site) -> None:
    write(site)
    text = site.config.read_text().replace("n/state", "state")
    site.config.write_text(f'{text}[agents.a.schedules.s]\nevery = "1h"\n')
    site.give_away(site.config)
    state, now = site.folder / "state", utc_now()
    state.mkdir(mode=0o700)
    async with open_state(state, now, accept_data_loss=False) as database:
        await database.write(lambda tx: sync_declared(tx, load_config(site.config), now))
    done = site.cli("check", "--diff", "--json")
    assert (done.returncode, json.loads(done.stdout)["changes"]) == (0, []), done.stderr
    async with open_state(state, now, accept_data_loss=False) as database:
        await database.write(lambda tx: tx.execute("UPDATE schedules SET source = 'created'"))
    done = site.cli("check")
    assert (done.returncode, "agents.a.schedules.s" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("is_file_theirs", [True, False], ids=["their file", "their link"])
def test_root_reads_no_file_for_who_chose_the_config_that_a_link_leads_to(site: Site, is_file_theirs: bool) -> None:
    site.secret.write_text("short")
    write(site, ci=str(site.secret), key=str(site.secret), log=str(site.theirs / "log/file"))
    linked, real = site.theirs / "linked.toml", site.theirs / "real.toml"
    real.write_text(site.config.read_text().replace("n/state", str(site.folder / "state")))
    linked.symlink_to(real)
    site.give_away(real if is_file_theirs else linked)
    site.config.unlink()
    site.config.symlink_to(linked)
    assert not [one for one in warnings(site) if "a token must have" in one]


def test_root_reads_no_file_for_who_wrote_the_config_while_there_is_no_state(site: Site) -> None:
    site.secret.write_text("short")
    write(site, ci="only-root")
    site.config.write_text(site.config.read_text().replace("n/state", "state"))
    site.give_away(site.config)
    found = json.loads(site.cli("doctor", "--json").stdout)["findings"]
    assert "checks run as user nobody" in [one["what"] for one in found]
    assert not [one for one in found if "a token must have" in one["what"]]
    assert not [one for one in warnings(site) if "a token must have" in one]
