"""Others who can change the config or read its secrets: found by owner, group, mode, ACL, and every folder above."""

import os
import pwd
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.config.exposure import Exposure, daemon_user, find_exposures
from daemon.config.loading import load_config
from tests.support.daemon_process import StartDaemon

AGENT = "[agents.a]\ncommand = ['true']\n"
WITH_KEY = AGENT + "env = { KEY = { file = 'keys/key' } }\n"
OTHER = pwd.getpwnam("daemon")  # on every host, and in a group of its own
ACL = "system.posix_acl_access"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can reach and enter, with a config, a folder for keys, and a state directory."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "keys").mkdir()
        (folder / "state").mkdir(mode=0o700)
        (folder / "keys/key").write_text("sesame")
        (folder / "keys/key").chmod(0o600)
        (folder / "config.toml").write_text(WITH_KEY)
        (folder / "config.toml").chmod(0o644)
        yield folder


def exposures(
    place: Path, *, user: int | None = os.geteuid(), control: str = "", config: str | None = None
) -> list[Exposure]:
    """Return what is open, with the state directory of the place."""
    file = place / "config.toml"
    text = file.read_text() if config is None else config
    if control not in text:
        text = f"[control]\n{control}\n{text}"
    if "[daemon]" not in text:
        text = f"[daemon]\nstate_dir = 'state'\n{text}"
    file.write_text(text)
    return list(find_exposures(load_config(file), user, {"CREDENTIALS_DIRECTORY": str(place / "credentials")}))


def give(path: Path, user: int = 0, group: int = 0, mode: int = 0o600) -> Path:
    """Set owner, group and mode; return the folder."""
    os.chown(path, user, group, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(mode)
    return path.parent


def test_what_only_root_and_the_daemons_user_can_read_is_not_reported(place: Path) -> None:
    assert exposures(place) == []


def test_a_config_that_everybody_can_write_is_reported(place: Path) -> None:
    (place / "config.toml").chmod(0o666)
    [found] = exposures(place)
    assert (found.about, found.fix) == ("config", f"chmod o-w {place}/config.toml")
    assert f"everybody can write or replace {place}/config.toml" in found.what


def behind_a_link_of_another_user(place: Path) -> None:
    """Put the config behind a link that belongs to another user, in a folder where everybody may create files."""
    (place / "real").mkdir(mode=0o755)
    (place / "config.toml").rename(place / "real/config.toml")
    (place / "config.toml").symlink_to("real/config.toml")
    give(place / "config.toml", OTHER.pw_uid)
    place.chmod(0o1777)


def link_to(place: Path) -> None:
    (place / "far").mkdir()
    (place / "config.toml").rename(place / "far/config.toml")
    (place / "near").symlink_to(place / "far")
    (place / "config.toml").symlink_to("near/../far/config.toml")
    (place / "far").chmod(0o777)


@as_root
@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda place: place.chmod(0o777), ""),
        (lambda place: place.chmod(0o1777), None),  # as /tmp: files of others cannot be replaced
        (behind_a_link_of_another_user, "config.toml"),
        (link_to, "far"),
        (lambda place: give(place, OTHER.pw_uid, mode=0o755), ""),
        (lambda place: give(place / "config.toml", OTHER.pw_uid, mode=0o600), "config.toml"),
        (lambda place: give(place / "config.toml", 0, OTHER.pw_gid, 0o664), "config.toml"),
        (lambda place: give(place / "config.toml", 0, 0, 0o664), None),  # root's own group
        (lambda place: give(place, 0, OTHER.pw_gid, 0o775), ""),
    ],
)
def test_whoever_can_replace_the_config_on_its_path_is_reported_and_the_fix_helps(
    place: Path, change: Callable[[Path], object], where: str | None
) -> None:
    (place / "config.toml").write_text(AGENT)
    exposures(place)  # completes the file before it is given away
    change(place)
    found = exposures(place)
    assert {one.what.partition(";")[0].rpartition(" ")[2] for one in found} == (
        set() if where is None else {str(place / where)}
    )
    for one in found:
        subprocess.run(one.fix, shell=True, check=True)  # noqa: S602 - the fix is a command line for people
    assert exposures(place) == []


def with_acl(path: Path, user: int) -> None:
    """Let a user read a file by an ACL, as setfacl(1) does."""
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, user),
        (0x04, 0, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, ACL, data)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error.strerror}")


@as_root
@pytest.mark.parametrize(
    ("change", "who"),
    [
        (lambda key: give(key, mode=0o644), "everybody"),
        (lambda key: give(key, 0, OTHER.pw_gid, 0o640), "members of the group daemon (daemon"),
        (lambda key: give(key, 0, 0, 0o640), None),
        (lambda key: with_acl(key, OTHER.pw_uid), "the user daemon"),
        (lambda key: with_acl(key, 0), None),
        (lambda key: give(give(key, mode=0o644), mode=0o700), None),  # nobody else gets there
        (
            lambda key: give(give(key, mode=0o644), 0, OTHER.pw_gid, 0o750),
            "members of the group daemon",
        ),
    ],
)
def test_whoever_can_read_a_secret_is_reported_and_the_fix_helps(
    place: Path, change: Callable[[Path], object], who: str | None
) -> None:
    change(place / "keys/key")
    found = exposures(place)
    assert len(found) == (who is not None)
    for one in found:
        assert one.about == "agents.a.env.KEY"
        assert f"{place}/keys/key contains a secret, and {who}" in one.what
        fix = one.fix
        if "setfacl" in fix and shutil.which("setfacl") is None:
            os.removexattr(place / "keys/key", ACL)
            fix = fix.partition(" && ")[2]
        subprocess.run(fix, shell=True, check=True)  # noqa: S602 - as above
    assert exposures(place) == []


def key_is(place: Path, target: str, owner: int = 0) -> None:
    """Let a link take the place of the key."""
    (place / "keys/key").unlink()
    (place / "keys/key").symlink_to(target)
    os.chown(place / "keys/key", owner, owner, follow_symlinks=False)


@as_root
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "."])
def test_what_is_no_regular_file_is_never_to_be_closed(place: Path, target: str) -> None:
    key_is(place, target)
    assert exposures(place, user=OTHER.pw_uid) == []
    file = str(place / "keys" / target)  # no link, if it is absolute
    assert exposures(place, user=OTHER.pw_uid, config=WITH_KEY.replace("keys/key", file)) == []


@as_root
def test_a_file_of_the_host_is_never_to_be_changed(place: Path) -> None:
    another = "use another file, which holds nothing but this secret, and name it without links of others"
    key_is(place, "/etc/passwd")
    assert {one.fix for one in exposures(place, user=OTHER.pw_uid)} == {another}
    (place / "mine").write_text("of root, which a link of the daemon's user leads to")
    give(place / "mine", mode=0o644)
    key_is(place, "../mine", owner=OTHER.pw_uid)
    assert {one.fix for one in exposures(place, user=OTHER.pw_uid)} == {another}


@as_root
def test_odd_names_are_quoted(place: Path) -> None:
    odd = place / "keys/$(touch made); key"
    (place / "keys/key").rename(odd)
    odd.chmod(0o644)
    config = WITH_KEY.replace("keys/key", f"keys/{odd.name}")
    [found] = exposures(place, config=config)
    subprocess.run(found.fix, shell=True, check=True, cwd=place)  # noqa: S602 - as above
    assert exposures(place) == []
    assert not (place / "made").exists()


@as_root
def test_the_group_of_the_socket_is_for_others_whoever_is_in_it(place: Path) -> None:
    give(place / "keys/key", OTHER.pw_uid, OTHER.pw_gid, 0o640)
    assert exposures(place, user=OTHER.pw_uid) == []  # a group of its own
    [found] = exposures(place, user=OTHER.pw_uid, control="group = 'daemon'")
    assert "members of the group daemon can read it" in found.what
    give(place / "keys/key", OTHER.pw_uid, 0, 0o604)
    give(place / "keys", 0, OTHER.pw_gid, 0o750)
    [found] = exposures(place, user=OTHER.pw_uid)
    assert "members of the group daemon can read it" in found.what


@as_root
def test_every_kind_of_secret_is_looked_at(place: Path) -> None:
    (place / "credentials").mkdir()
    for name in ("keys/api", "keys/token", "credentials/password", "credentials/token", "state/hook.key"):
        (place / name).write_text("sesame")
        (place / name).chmod(0o644)
    (place / "state").chmod(0o755)
    config = """
[control]
tokens = [{ name = "ci", file = "keys/token" }, { name = "cd", credential = "token" }]
[agents.a]
command = ["true"]
env = { PASSWORD = { credential = "password" }, SAME = { credential = "password" } }
[agents.remote]
type = "a2a"
url = "http://127.0.0.1:1"
api_key = { file = "keys/api" }
"""
    found = exposures(place, config=config)
    places = ["agents.a.env.PASSWORD", "agents.remote.api_key", "control.tokens.cd", "control.tokens.ci", "hooks"]
    assert sorted(one.about for one in found) == places


def test_secrets_in_a_config_that_others_read_are_reported_and_their_values_are_not_shown(place: Path) -> None:
    config = """
[environments.site]
mode = "git"
repository = "https://me:sesame@127.0.0.1/site.git"
[agents.a]
command = ["true"]
env = { API_TOKEN = "sesame", MODE = "ci", MAX_TOKENS = "4096", SSL_KEY = "/etc/ssl/key", EMPTY_KEY = "" }
[agents.remote]
type = "a2a"
url = "http://127.0.0.1:1"
api_key = "sesame"
[notify.ops]
url = "https://me:sesame@127.0.0.1/hook"
[notify.mail]
url = "apprise:mailto://me:sesame@127.0.0.1"
"""
    found = {one.about: one.is_certain for one in exposures(place, config=config)}
    assert found == {
        "agents.a.env.API_TOKEN": False,
        "agents.remote.api_key": True,
        "environments.site.repository": True,
        "notify.mail.url": True,
        "notify.ops.url": True,
    }
    assert "sesame" not in repr(exposures(place))
    (place / "config.toml").chmod(0o600)
    assert exposures(place) == []


@as_root
def test_the_daemons_user_is_the_owner_of_its_state(place: Path) -> None:
    exposures(place)
    config = load_config(place / "config.toml")
    assert daemon_user(config) == 0
    os.chown(place / "state", OTHER.pw_uid, 0)
    assert daemon_user(config) == OTHER.pw_uid
    (place / "state").rmdir()
    assert daemon_user(config) is None  # root has not started it yet


@as_root
def test_before_the_first_start_nobody_is_taken_for_an_outsider_by_mistake(place: Path) -> None:
    give(place / "keys/key", 0, OTHER.pw_gid, 0o640)
    give(place / "config.toml", OTHER.pw_uid, mode=0o644)
    assert exposures(place, user=None) == []


def test_check_start_and_reload_warn_and_doctor_reports_an_error(start_daemon: StartDaemon, place: Path) -> None:
    key = place / "keys/key"
    daemon = start_daemon(AGENT + f"env = {{ KEY = {{ file = '{key}' }} }}\n")
    daemon.wait_for_log("[daemon] Ready")
    problem = f"{key} contains a secret, and everybody can read it"
    assert problem not in daemon.cli("check").stderr
    assert problem not in daemon.cli("doctor").stdout
    key.chmod(0o644)
    assert daemon.cli("reload").returncode == 0
    warned = daemon.wait_for_log("[config] Open to others", subject="agents.a.env.KEY", level="warning")
    assert (warned["problem"], warned["fix"]) == (problem, f"chmod 0600 {key}")
    assert f"warning: agents.a.env.KEY: {problem}" in daemon.cli("check").stderr
    doctor = daemon.cli("doctor")
    assert doctor.returncode == 1
    assert problem in doctor.stdout
    daemon.stop()
    again = start_daemon(daemon.config.read_text())
    again.wait_for_log("[config] Open to others", problem=problem)
