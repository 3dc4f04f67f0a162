"""Root's commands on the state of another user, whose agents can put anything there."""

import json
import os
import shutil
import sqlite3
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.errors import RefusedError
from daemon.store.ownership import owner_of_state
from tests.support.other_user import NOBODY, ONLY_FOR_ROOT, Shell, Site, needs_another_user, new_site
from tests.support.waiting import DEADLINE, wait_until

pytestmark = [needs_another_user, pytest.mark.xdist_group("root")]
CONFIG = """
[daemon]
state_dir = "n/state"
[control]
socket = "n/c.sock"
[agents.a]
command = ["sh", "-c", "echo hello"]
[agents.a.schedules.s]
every = "1s"
"""
SOME = [("status",), ("doctor",)]
MORE = [*SOME, ("runs", "list"), ("runs", "logs", "1"), ("runs", "cancel", "1"), ("check", "--diff")]
OPENED = ["daemon.lock", "witness.json", "hook.key", "state.db", "state.db-wal", "runs/1/status", "ballast"]
KINDS = ["pipe", "endless", "secret"]
PLANTED = [
    *((name, "pipe", SOME) for name in OPENED),
    *((name, "secret", SOME) for name in ("hook.key", "witness.json")),
    *(pytest.param(name, kind, MORE, marks=pytest.mark.soak) for name in OPENED for kind in KINDS),
]


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """Return what runs root's commands."""
    shell = Shell()
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def used(shell: Shell) -> Iterator[Site]:
    """Return a site with the state of a daemon that had completed a run; tests get copies."""
    folder = Path(tempfile.mkdtemp())  # not in the folder of pytest, which only root may enter
    site = new_site(folder, CONFIG, shell)
    with site.daemon():
        wait_until(lambda: (site.state / "state.db").exists() and _completed(site), what="a run", deadline=3 * DEADLINE)
    yield site
    shutil.rmtree(folder)


@pytest.fixture
def site(used: Site, shell: Shell) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as name:
        copy = new_site(Path(name), CONFIG, shell)
        shutil.copytree(used.state, copy.state, symlinks=True)
        for place in (copy.state, *copy.state.rglob("*")):
            copy.give_away(place)
        yield copy


def _completed(site: Site) -> bool:
    with sqlite3.connect(f"file:{site.state / 'state.db'}?mode=ro", uri=True) as connection:
        return bool(connection.execute("SELECT 1 FROM runs WHERE status = 'completed'").fetchone())


def test_a_planted_journal_removes_nothing_of_root(site: Site) -> None:
    """SQLite removes the super-journal that a journal names (sqlite.org/fileformat2.html, the rollback journal)."""
    database, victim = site.state / "state.db", os.fsencode(site.secret)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    magic = bytes.fromhex("d9d505f920a163d7")
    header = (magic + struct.pack(">5I", 0, 0, database.stat().st_size // 4096, 512, 4096)).ljust(512, b"\0")
    name = struct.pack(">I", 0x40000000 // 4096 + 1) + victim + struct.pack(">2I", len(victim), sum(victim)) + magic
    (site.state / "state.db-journal").write_bytes(header + name)
    site.give_away(site.state / "state.db-journal")
    for command in (("runs", "cancel", "1"), ("runs", "cancel", "--all"), ("runs", "list"), ("status",)):
        site.cli(*command)
        assert site.secret.read_text() == ONLY_FOR_ROOT, command


@pytest.mark.parametrize(("name", "kind", "commands"), PLANTED)
def test_nothing_planted_stops_or_misleads_a_command_of_root(
    site: Site, name: str, kind: str, commands: list[tuple[str, ...]]
) -> None:
    place = site.state / name
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place, 0o666)
    else:
        place.symlink_to("/dev/zero" if kind == "endless" else site.secret)
    site.give_away(place)
    backup = site.folder / "backup.db"
    for command in (*commands, ("backup", str(backup)), ("restore", str(backup))):
        done = site.cli(*command)
        assert "Traceback" not in done.stderr, done.stderr
        assert ONLY_FOR_ROOT.strip() not in done.stdout + done.stderr
    assert not backup.exists() or ONLY_FOR_ROOT.encode() not in backup.read_bytes()
    assert site.secret.read_text() == ONLY_FOR_ROOT


@pytest.mark.parametrize(
    "command", [("status",), ("runs", "list"), ("runs", "cancel", "1"), ("check", "--diff"), ("backup", "b.db")]
)
def test_root_opens_no_database_as_root(site: Site, command: tuple[str, ...]) -> None:
    (site.state / "state.db").chmod(0)  # which root could read
    done = site.cli(*command)
    assert (done.returncode, "unable to open database file" in done.stderr) == (1, True), done


def test_root_backs_up_to_where_only_root_may_write_and_restores(site: Site) -> None:
    place = site.folder / "backups"
    place.mkdir(mode=0o700)
    for _ in range(2):  # the second replaces the first
        done = site.cli("backup", "--json", str(place / "backup.db"))
        assert done.returncode == 0, done.stderr
    [file] = place.iterdir()
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o600)
    assert json.loads(done.stdout)["bytes"] == found.st_size
    assert not list(site.state.glob("*.partial*"))
    (site.state / "state.db").unlink()
    done = site.cli("restore", str(file))
    assert done.returncode == 0, done.stderr
    assert {one.lstat().st_uid for one in site.state.iterdir()} == {NOBODY}
    with site.daemon():
        pass


def test_a_backup_that_fails_leaves_nothing_beside_its_target(site: Site) -> None:
    (site.state / "hook.key").unlink()
    (site.state / "hook.key").symlink_to(site.secret)
    before = set(site.folder.iterdir())
    done = site.cli("backup", str(site.folder / "backup.db"))
    assert (done.returncode, "hook.key cannot be read: not a regular file" in done.stderr) == (1, True), done.stderr
    assert set(site.folder.iterdir()) == before


def test_root_follows_no_link_of_another_user_to_or_from_a_backup(site: Site) -> None:
    link = site.theirs / "backup.db"
    link.symlink_to(site.folder / "made")
    site.give_away(link)
    done = site.cli("backup", str(link))
    assert (done.returncode, "belongs to nobody, and root does not follow it" in done.stderr) == (1, True), done.stderr
    assert not (site.folder / "made").exists()
    assert site.cli("backup", str(site.folder / "made")).returncode == 0
    done = site.cli("restore", str(link))
    assert (done.returncode, "root does not follow it" in done.stderr) == (1, True), done.stderr


def test_root_follows_no_link_of_another_user_to_a_new_config(site: Site) -> None:
    link, made = site.theirs / "etc", site.folder / "made"
    made.mkdir()
    link.symlink_to(made)
    site.give_away(link)
    for folder in (link, link / "deeper"):
        done = site.cli("init", str(folder))
        assert (done.returncode, "belongs to nobody, and root does not follow it" in done.stderr) == (1, True), done
    assert not list(made.iterdir())
    assert site.cli("init", str(made)).returncode == 0


def test_a_restore_copies_no_file_of_root_beside_the_backup(site: Site) -> None:
    assert site.cli("backup", str(site.folder / "backup.db")).returncode == 0
    copy, log = site.theirs / "copy.db", site.theirs / "copy.db-wal"
    shutil.copy(site.folder / "backup.db", copy)
    log.symlink_to(site.secret)
    site.give_away(copy)
    site.give_away(log)
    done = site.cli("restore", str(copy))
    assert (done.returncode, "copy.db-wal cannot be read" in done.stderr) == (1, True), done.stderr
    log.unlink()
    assert site.cli("restore", str(copy)).returncode == 0


def test_a_daemon_that_root_starts_runs_as_the_user_of_the_state(site: Site) -> None:
    log = site.theirs / "log"
    log.symlink_to(site.secret)
    site.give_away(log)
    site.config.write_text(CONFIG + "[log]\nfile = 'n/log'\n")
    done = site.cli("run")
    assert (done.returncode, "cannot open" in done.stderr) == (2, True), done.stderr
    assert site.secret.read_text() == ONLY_FOR_ROOT
    site.config.write_text(CONFIG)
    with site.daemon(uid=0) as daemon:
        status = Path(f"/proc/{daemon}/status").read_text()
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
        assert '"user": "nobody"' in (site.folder / "daemon.log").read_text()
    assert {one.lstat().st_uid for one in site.state.rglob("*")} == {NOBODY}


def test_what_root_creates_in_the_folder_of_a_user_is_that_users(site: Site) -> None:
    shutil.rmtree(site.state)
    with site.daemon(uid=0):
        pass
    assert {one.lstat().st_uid for one in (site.state, *site.state.rglob("*"))} == {NOBODY}


def test_what_root_asks_of_the_daemon_is_asked_by_root(site: Site) -> None:
    with site.daemon():
        assert site.cli("schedules", "pause", "a/s").returncode == 0
        assert site.cli_of(NOBODY, "schedules", "resume", "a/s").returncode == 0
        history = json.loads(site.cli("schedules", "history", "a/s", "--json").stdout)
        assert [one["principal"] for one in history["revisions"]][:2] == ["nobody", "root"]


def test_root_hands_no_agent_what_a_planted_link_leads_to(site: Site) -> None:
    planted = site.state / "runs/1/artifacts/report.md"
    planted.symlink_to(site.secret)
    done = site.cli("schedules", "trigger", "a/s", "--input", f"@{planted}")
    assert done.returncode == 2
    assert f"as the daemon's user; give it on standard input: --input - <{planted}" in " ".join(done.stderr.split())


def test_without_a_daemon_root_cancels_as_root(site: Site) -> None:
    with sqlite3.connect(site.state / "state.db") as connection:
        connection.execute("UPDATE runs SET status = 'pending', started_at = NULL, completed_at = NULL WHERE id = 1")
    connection.close()
    done = site.cli("runs", "cancel", "1")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(site.state / "state.db") as connection:
        assert connection.execute("SELECT requested_by FROM cancellation_flags").fetchall() == [("root",)]


@pytest.mark.parametrize(
    "command", [("status",), ("run",), ("runs", "cancel", "1"), ("backup", "/dev/null"), ("doctor",)]
)
def test_a_state_that_somebody_else_can_replace_is_refused(site: Site, command: tuple[str, ...]) -> None:
    os.chown(site.state, 0, 0)
    done = site.cli(*command)
    said = done.stdout if command == ("doctor",) else done.stderr
    assert (done.returncode, f"nobody, who owns {site.theirs}, can replace it" in said) == (1, True), said


def test_a_link_of_another_user_to_a_state_of_root_is_refused(site: Site) -> None:
    (site.folder / "roots").mkdir()
    shutil.rmtree(site.state)
    site.state.symlink_to(site.folder / "roots")
    site.give_away(site.state)
    done = site.cli("run")
    assert (done.returncode, "can replace it" in done.stderr) == (1, True), done.stderr
    assert list((site.folder / "roots").iterdir()) == []


def test_a_state_of_root_in_which_others_write_is_refused(site: Site) -> None:
    (site.folder / "open").mkdir()
    (site.folder / "open").chmod(0o1777)
    (site.folder / "open" / "state.db").touch()
    site.config.write_text(CONFIG.replace("n/state", "open"))
    for command in (("run",), ("status",)):
        done = site.cli(*command)
        assert (done.returncode, "others may write in it (mode 1777)" in done.stderr) == (1, True), done.stderr


def test_a_directory_of_root_without_a_state_is_not_to_be_closed(site: Site) -> None:
    (site.folder / "open").mkdir()
    (site.folder / "open").chmod(0o1777)
    (site.folder / "open" / "other").touch()
    site.config.write_text(CONFIG.replace("n/state", "open"))
    done = site.cli("status")
    assert (done.returncode, "set state_dir to a directory that holds nothing else" in done.stderr) == (1, True), done
    assert "chmod" not in done.stderr


def test_doctor_sees_what_the_owner_of_the_config_may_see(site: Site) -> None:
    (site.folder / "roots").mkdir()
    (site.folder / "roots" / "other").touch()
    site.config.write_text(CONFIG.replace("n/state", "roots"))
    site.give_away(site.config)
    done = site.cli("doctor")
    assert "checks run as user nobody" in done.stdout, done
    assert "it holds other things and no state" in done.stdout
    assert "chmod 0700" not in done.stdout


@pytest.mark.parametrize("command", [("doctor",), ("check", "--diff"), ("backup", "/dev/null")])
@pytest.mark.parametrize(
    ("place", "reason"),
    [("only-for-root/state", "ermission"), ("/a" * 3000, "File name too long")],
    ids=["closed", "long"],
)
def test_a_state_directory_that_cannot_be_reached_is_named(
    site: Site, command: tuple[str, ...], place: str, reason: str
) -> None:
    (site.folder / "only-for-root").mkdir(mode=0o700)
    environment = f"[environments.e]\nmode = 'local'\npath = '{place}'\n"
    site.config.write_text(CONFIG.replace("n/state", place) + environment)
    site.give_away(site.config)
    done = site.cli(*command)
    assert "Traceback" not in done.stderr, done.stderr
    if command == ("doctor",) or place.startswith("/"):
        assert (done.returncode, reason in done.stdout + done.stderr) == (1, True), done


def test_a_user_cannot_use_the_state_of_another(site: Site) -> None:
    site.state.chmod(0o777)
    os.chown(site.state, 12345, 12345)
    for command in (("run",), ("runs", "cancel", "1")):
        done = site.cli_of(NOBODY, *command)
        said = "belongs to uid 12345, but this command runs as nobody"
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_the_command_to_run_as_a_user_without_a_name_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    folder.mkdir(parents=True)
    os.chown(folder.parent, 54320, -1)
    os.chown(folder, 54321, -1)
    with pytest.raises(RefusedError, match=r"\(`setpriv --reuid=54321 --clear-groups agentcron \.\.\.`\)"):
        owner_of_state(folder)
