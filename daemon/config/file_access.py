"""Who can read or replace a file, by owner, group, mode and ACL of the file and of every directory on its path."""

import contextlib
import grp
import os
import pwd
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISVTX

from daemon.path_owners import group_name, owner_name, places_of

_READ, _WRITE, _SEARCH = 4, 2, 1
_NAMED = 3  # members of a group that a message lists
_ACL = "system.posix_acl_access"
_ACL_HEADER = 4  # bytes
_ACL_ENTRY = struct.Struct("<HHI")  # struct posix_acl_xattr_entry: tag, rights, id


class _Tag(IntEnum):
    """Tags of ACL entries (linux/posix_acl.h)."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


@dataclass(frozen=True)
class Subject:
    """A user, the members of a group, or, with neither, everybody."""

    user: int | None = None
    group: int | None = None

    def __str__(self) -> str:
        """Return how a message names it."""
        if self.user is not None:
            return f"the user {owner_name(self.user)}"
        return "everybody" if self.group is None else f"members of the group {group_name(self.group)}"


_EVERYBODY = Subject()


@dataclass(frozen=True)
class Insiders:
    """Those who may have access; root and the members of its group always may."""

    user: int | None
    """The user of the daemon, None if it is not known yet; then nobody can say who else is in its group."""

    outside_group: int | None = None
    """A group that is meant for other people, whoever is in it now."""

    def include(self, subject: Subject) -> bool:
        """Tell whether a subject holds nobody else."""
        if subject.user is not None:
            return subject.user == 0 or self.user in {None, subject.user}
        if subject.group is None:
            return False
        if subject.group == self.outside_group:
            return False
        return subject.group == 0 or self.user is None or not self.others_in(subject.group)

    def describe(self, subject: Subject) -> str:
        """Return how a message names a subject: a group with its other members."""
        found = [] if subject.group is None else self.others_in(subject.group)
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"{subject} ({', '.join(found[:_NAMED])}{more})" if found else str(subject)

    def others_in(self, group: int) -> list[str]:
        """Return the names of the other members of a group."""
        try:
            names = set(grp.getgrgid(group).gr_mem)
        except KeyError:
            names = set()
        found = {user.pw_name: user.pw_uid for user in pwd.getpwall() if user.pw_gid == group}
        for name in names:
            with contextlib.suppress(KeyError):  # a member that is no user
                found[name] = pwd.getpwnam(name).pw_uid
        return sorted(name for name, uid in found.items() if uid not in {0, self.user})


@dataclass(frozen=True)
class _Rights:
    """Who may do what with one file or directory."""

    owner: int
    mode: int
    groups: dict[int, int]
    """The rights of the owning group, and of groups in the ACL."""

    users: dict[int, int]
    """The rights of users in the ACL."""

    has_acl: bool

    def of(self, subject: Subject) -> int:
        """Return the rights of a subject whose other groups are not known (acl(5), ACCESS CHECK ALGORITHM)."""
        if subject.user is not None and subject.user in self.users:
            return self.users[subject.user]
        if subject.group is not None and subject.group in self.groups:
            return self.groups[subject.group]
        return self.mode & 0o7

    def subjects(self) -> Iterator[Subject]:
        """Yield everybody who is named, except the owner."""
        yield from (Subject(group=group) for group in self.groups)
        yield from (Subject(user=user) for user in self.users)


class FileAccess:
    """Examines files; it reads each file's rights, and the members of each group, once."""

    def __init__(self, insiders: Insiders) -> None:
        self._insiders = insiders
        self._rights: dict[Path, _Rights | None] = {}
        self._inside: dict[Subject, bool] = {}
        self._examined: set[Path] = set()

    def readers(self, path: Path) -> list[Subject]:
        """Return who else can read a file; nobody if we cannot see it ourselves."""
        real = Path(os.path.realpath(path))
        rights = self._rights_of(real)
        return [] if rights is None else list(self._able(real, rights, _READ))

    def writers(self, path: Path) -> Iterator[tuple[Path, Subject]]:
        """Yield who else can write a file, or replace it or a directory or link on its path, and where they can.

        A place that several files share is yielded for the first of them.
        """
        for place in visible_places_of(path):
            if place in self._examined:
                continue
            self._examined.add(place)
            rights = self._rights_of(place)
            if rights is None:
                return
            owner = Subject(user=rights.owner)
            if S_ISLNK(rights.mode):  # can be replaced by its owner where nobody can replace what belongs to others
                parent = self._rights_of(place.parent)
                if parent is not None and parent.mode & S_ISVTX and not self._is_inside(owner):
                    yield place, owner
                continue
            if not self._is_inside(owner):
                yield place, owner
            if S_ISDIR(rights.mode) and rights.mode & S_ISVTX:
                continue
            for subject in self._able(place, rights, _WRITE | _SEARCH if S_ISDIR(rights.mode) else _WRITE):
                yield place, subject

    def is_owner(self, path: Path, user: int) -> bool:
        """Tell whether a file belongs to a user."""
        rights = self._rights_of(path)
        return rights is not None and rights.owner == user

    def has_acl(self, path: Path) -> bool:
        """Tell whether a file has an ACL."""
        rights = self._rights_of(path)
        return rights is not None and rights.has_acl

    def _able(self, path: Path, rights: _Rights, needed: int) -> Iterator[Subject]:
        """Yield who else has some rights to a file that they can reach; if that is everybody, nobody further."""
        above = [self._rights_of(folder) for folder in path.parents]
        if None in above:
            return
        folders = [folder for folder in above if folder is not None]

        def can(subject: Subject) -> bool:
            reaches = all(folder.of(subject) & _SEARCH for folder in folders)
            return reaches and rights.of(subject) & needed == needed and not self._is_inside(subject)

        if can(_EVERYBODY):
            yield _EVERYBODY
            return
        named = [subject for one in (rights, *folders) for subject in one.subjects()]
        if self._insiders.outside_group is not None:
            named.append(Subject(group=self._insiders.outside_group))
        yield from filter(can, dict.fromkeys(named))

    def _is_inside(self, subject: Subject) -> bool:
        if subject not in self._inside:
            self._inside[subject] = self._insiders.include(subject)
        return self._inside[subject]

    def _rights_of(self, path: Path) -> _Rights | None:
        if path not in self._rights:
            self._rights[path] = _read_rights(path)
        return self._rights[path]


def _read_rights(path: Path) -> _Rights | None:
    """Return the rights to a file, None if it does not exist or we cannot see it."""
    try:
        status = path.lstat()
    except OSError:
        return None
    groups, mask, acl = {status.st_gid: status.st_mode >> 3 & 0o7}, 0o7, _read_acl(path)
    users: dict[int, int] = {}
    for tag, rights, number in acl:
        match tag:
            case _Tag.USER:
                users[number] = rights
            case _Tag.GROUP_OBJ:
                groups[status.st_gid] = rights
            case _Tag.GROUP:
                groups[number] = groups.get(number, 0) | rights
            case _Tag.MASK:
                mask = rights
    groups = {group: rights & mask for group, rights in groups.items()}
    users = {user: rights & mask for user, rights in users.items()}
    return _Rights(status.st_uid, status.st_mode, groups, users, bool(acl))


def _read_acl(path: Path) -> list[tuple[int, int, int]]:
    try:
        data = os.getxattr(path, _ACL, follow_symlinks=False)
    except OSError:  # no ACL, or none on this file system
        return []
    return list(_ACL_ENTRY.iter_unpack(data[_ACL_HEADER:]))


def visible_places_of(path: Path) -> Iterator[Path]:
    """Yield what a path leads through as `places_of` does, and end at what we cannot see, or after too many links."""
    with contextlib.suppress(OSError):
        yield from places_of(path)
