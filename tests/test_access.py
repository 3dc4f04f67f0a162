"""Who may do what, as the config says it."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from daemon.access import Rights, own_user, user_of
from daemon.config.loading import load_config

SOMEBODY = next(entry for entry in pwd.getpwall() if entry.pw_uid not in {0, os.geteuid()})
GROUP = grp.getgrgid(SOMEBODY.pw_gid).gr_name


def rights(folder: Path, keys: str = "", access: str = "", tokens: str = "") -> Rights:
    file = folder / "config.toml"
    file.write_text(f'{access}\n{tokens}\n[agents.a]\ncommand = ["true"]\n{keys}\n')
    return Rights(load_config(file, {}))


@pytest.mark.parametrize(
    ("keys", "read", "change"),
    [
        ("", False, False),
        (f'allow = ["{SOMEBODY.pw_name}"]', True, True),
        (f'allow = ["@{GROUP}"]', True, True),
        (f'read = ["{SOMEBODY.pw_name}"]', True, False),
        (f'read = []\nallow = ["{SOMEBODY.pw_name}"]', True, True),
        ('allow = ["@no-such-group", "no-such-user"]', False, False),
    ],
)
def test_read_and_allow_grant_what_they_say(tmp_path: Path, keys: str, read: bool, change: bool) -> None:
    granted = rights(tmp_path, keys)
    assert granted.may(SOMEBODY.pw_name, "schedule.read", "a") is read
    for action in ("schedule.update", "schedule.delete", "agent.update", "agent.execute", "task.create", "task.update"):
        assert granted.may(SOMEBODY.pw_name, action, "a") is change
    assert granted.may(SOMEBODY.pw_name, "schedule.read", "gone") is False
    assert granted.may_start((SOMEBODY.pw_name, "a")) is change


def test_admins_the_own_user_and_the_config_have_every_right(tmp_path: Path) -> None:
    granted = rights(tmp_path, access=f'[access]\nadmins = ["@{GROUP}"]')
    for principal in (SOMEBODY.pw_name, own_user(), "config"):
        assert granted.is_admin(principal)
        assert granted.may(principal, "agent.update", "a")
    assert not rights(tmp_path).is_admin(SOMEBODY.pw_name)


def test_a_user_that_no_longer_exists_has_no_right(tmp_path: Path) -> None:
    granted = rights(
        tmp_path, 'allow = ["departed", "token:gone", "run:1", "uid:4711"]', "[access]\nadmins = ['departed']"
    )
    for principal in ("departed", "token:gone", "run:1", "uid:4711", ""):
        assert not granted.is_admin(principal)
        assert not granted.may(principal, "schedule.read", "a")


def test_a_token_is_named_like_a_user(tmp_path: Path) -> None:
    tokens = '[control]\ntokens = [{ name = "ci", file = "x" }, { name = "other", file = "x" }]'
    granted = rights(tmp_path, 'allow = ["token:ci"]', tokens=tokens)
    assert granted.may("token:ci", "agent.execute", "a")
    assert not granted.may("token:other", "agent.execute", "a")


def test_a_uid_without_a_name_is_known_by_its_number() -> None:
    assert user_of(0) == "root"
    assert user_of(3_999_999_999) == "uid:3999999999"
