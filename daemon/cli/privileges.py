"""Exchange root's rights for those of the daemon's user, whose agents can put anything into the state directory.

A command of root first acts as that user, but can still connect to the daemon as root, so that the daemon knows who
asks. Before it opens the database it gives up root for good.
"""

import contextlib
import getpass
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import pydantic

from daemon.config.paths import keep_paths, state_dir
from daemon.config.schema import Config
from daemon.errors import RefusedError
from daemon.path_owners import owner_name, places_of
from daemon.store.ownership import owner_of_state

_NOBODY = 65534  # the group of a user that the host does not know


def act_as_owner(folder: Path) -> None:
    """If we are root, act as the user whom a state directory belongs to, until `as_root` or `give_up_root`.

    Nothing changes if it belongs to root, or if we act as a user already. Raise RefusedError if it belongs to nobody
    alone, or that user may not read this program.
    """
    owner = _owner_other_than_root(folder)
    if owner is not None:
        _become(owner, saved=0)


@contextlib.contextmanager
def as_root() -> Iterator[None]:
    """Be root meanwhile, if root runs this command and has not given that up."""
    if not acts_for_root():
        yield
        return
    user = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(user)


def asker() -> str:
    """Return the name of the user who runs this command."""
    return owner_name(0) if acts_for_root() else getpass.getuser()


def acts_for_root() -> bool:
    """Tell whether we act as another user, and could be root again."""
    return os.geteuid() != 0 and 0 in os.getresuid()


def give_up_root(folder: Path) -> None:
    """Be for good the user that we act as, or else the one whom a state directory belongs to."""
    act_as_owner(folder)
    if acts_for_root():
        user = os.geteuid()
        os.setresuid(user, user, user)


def become_owner(folder: Path) -> str | None:
    """If we are root, become for good the user whom a state directory belongs to; return its name if that changed us.

    Raise as `act_as_owner` does.
    """
    owner = _owner_other_than_root(folder)
    if owner is None:
        return None
    _become(owner, saved=owner)
    return owner_name(owner)


def become_reader(config: Config, name: str | None = None) -> str | None:
    """If we are root, become for good a user who may know what a config names; return its name if that changed us.

    That is the daemon's user or, if that is root or not known yet, the owner of the config, who chose what it names: of
    the file itself or, if that is root, of a link that leads to it. A user whom we have become before, with `name`, is
    the one. Raise as `act_as_owner` does.
    """
    if name is None:
        name = become_owner(state_dir(config))
    if name is None and os.geteuid() == 0 and (owner := _writer_of(config.file)):
        _become(owner, saved=owner)
        name = owner_name(owner)
    if name is not None:
        enter_home(config)
    return name


def become(account: str) -> str | None:
    """If we are root, become the user with a name or number for good; return the name of the user if it changed.

    An unknown user, or root, changes nothing. Raise RefusedError if that user has no permission to read this program.
    """
    try:
        user = pwd.getpwuid(int(account)) if account.isdigit() else pwd.getpwnam(account)
    except (KeyError, OverflowError):
        return None
    if os.geteuid() != 0 or user.pw_uid == 0:
        return None
    _become(user.pw_uid, saved=user.pw_uid)
    return user.pw_name


def enter_home(config: Config) -> None:
    """Give what we start the environment of the user that we became."""
    keep_paths(config)
    with contextlib.suppress(KeyError):  # a user that the host does not know
        user = pwd.getpwuid(os.geteuid())
        os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}


def _writer_of(file: Path) -> int:
    """Return whom a file belongs to or, if that is root, a link that leads to it."""
    trail = [place.lstat() for place in places_of(file)]
    owners = [trail[-1].st_uid, *(found.st_uid for found in reversed(trail) if stat.S_ISLNK(found.st_mode))]
    return next(filter(None, owners), 0)


def _owner_other_than_root(folder: Path) -> int | None:
    """Return whom a directory belongs to; None if that is root, unknown, or we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return owner_of_state(folder) or None
    except OSError:  # root without its capabilities: what follows says what it lacks
        return None


def _become(uid: int, saved: int) -> None:
    """Take on a user and its groups; `saved` is the user that we can be again. Raise RefusedError."""
    name = owner_name(uid)
    try:
        group = pwd.getpwuid(uid).pw_gid
        groups = os.getgrouplist(name, group)
    except KeyError:
        group, groups = _NOBODY, []
    try:
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(uid, uid, saved)
    except OSError as error:
        raise RefusedError(f"cannot act as {name}, the daemon's user: {error.strerror}; run this as {name}") from None
    for place in (os.__file__, pydantic.__file__, __file__):  # Python, our dependencies, and agentcron
        if not os.access(place, os.R_OK):
            raise RefusedError(f"{name} cannot read {place}; install agentcron where the daemon's user can read it")
