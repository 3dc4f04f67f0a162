"""Write files as they are into a tar archive: what git cannot store, or folders whose repository git cannot read.

Files are streamed, and holes in them take no room. Names are bytes, links are stored as links, and a file with several
hard links is stored once. Pipes are stored as pipes; sockets and devices hold nothing and are left out. Any GNU tar
extracts the archive. Folders that are so deep that tar could not make them again are stored beside the others, and are
moved to their place afterwards. Standard library only: the helper process imports this.
"""

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from daemon.workspaces.openat import grant_access_by_name, open_path
from daemon.workspaces.salvage.walk import BLOCK, Folder, UnreadableError, room_of, walk

_RECORD = 20 * BLOCK
_CHUNK = 1024**2  # bytes read at once
_LONGEST = 2000  # bytes of a path in the archive: a folder with a longer one is stored beside the others
_MOST_MOVED = 40
_MOVED = ".agentcron-deep"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LARGEST_IN_HEADER = 8**11 - 1  # bytes of a file with holes
_MOST_IN_HEADER = {"uid": 8**7 - 1, "gid": 8**7 - 1, "mtime": 8**11 - 1}
"""The largest numbers in the header of a file with holes, which cannot be in GNU tar's own format; none is negative."""
_MODES = 0o777  # no set-user-ID bits


class Archive:
    """A tar archive that is being written."""

    def __init__(self, path: Path, root: Path) -> None:
        """Write an archive of what is below `root`; names in it are relative to that."""
        self.moved: list[tuple[str, str]] = []
        """Folders that are in the archive under another name, with the path to move them to, the outermost first."""
        self._root = root
        self._stream: BinaryIO = path.open("xb")
        self._hash = hashlib.sha256()
        self._size = 0
        self._linked: dict[tuple[int, int], str] = {}

    def close(self) -> str:
        """Complete the archive; return the SHA-256 of its bytes."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._size % _RECORD))
        self._stream.close()
        return self._hash.hexdigest()

    def add_tree(self, *names: str) -> None:
        """Add a folder with everything in it; raise UnreadableError or OSError."""
        prefix, depth = "/".join(names), 0
        prefixes: list[tuple[str, int]] = []
        for folder in walk(self._root, *names):
            while prefixes and len(folder.parts) < depth:
                prefix, depth = prefixes.pop()
            path = "/".join([*([prefix] if prefix else []), *folder.parts[depth:]])
            if len(os.fsencode(path)) > _LONGEST:
                prefixes.append((prefix, depth))
                path = prefix = self._moved_to(path)
                depth = len(folder.parts)
            self._add_folder(folder, path)

    def add_file(self, path: Path) -> None:
        """Add one file; raise OSError."""
        descriptor = open_path(self._root, *path.parent.parts)
        try:
            self._add(descriptor, path.name, str(path))
        finally:
            os.close(descriptor)

    def _moved_to(self, path: str) -> str:
        if len(self.moved) == _MOST_MOVED:
            raise UnreadableError(f"folders are nested too deeply to be saved: {path[:200]}...")
        name = f"{_MOVED}-{len(self.moved) + 1}"
        while os.path.lexists(self._root / name):
            name += "-again"
        self.moved.append((name, path))
        return name

    def _add_folder(self, folder: Folder, path: str) -> None:
        if path:
            found = os.fstat(folder.descriptor)
            self._header(path, found, tarfile.DIRTYPE, mode=found.st_mode & _MODES | stat.S_IRWXU)
        for name in sorted(folder.files):
            self._add(folder.descriptor, name, f"{path}/{name}" if path else name)

    def _add(self, folder: int, name: str, path: str) -> None:
        found = os.lstat(name, dir_fd=folder)
        kind = stat.S_IFMT(found.st_mode)
        identity = (found.st_dev, found.st_ino)
        if identity in self._linked:
            self._header(path, found, tarfile.LNKTYPE, target=self._linked[identity])
        elif kind == stat.S_IFLNK:
            self._header(path, found, tarfile.SYMTYPE, target=os.readlink(name, dir_fd=folder))
        elif kind == stat.S_IFIFO:
            self._header(path, found, tarfile.FIFOTYPE)
        elif kind != stat.S_IFREG:
            return
        else:
            self._add_content(folder, name, path)
        if found.st_nlink > 1:
            self._linked.setdefault(identity, path)

    def _add_content(self, folder: int, name: str, path: str) -> None:
        try:
            descriptor = os.open(name, _FILE, dir_fd=folder)
        except PermissionError:
            grant_access_by_name(folder, name)
            descriptor = os.open(name, _FILE, dir_fd=folder)
        with open(descriptor, "rb", buffering=0) as source:
            found = os.fstat(descriptor)
            segments = list(_segments(descriptor, found.st_size)) if room_of(found) < found.st_size else None
            if segments is None:
                self._header(path, found, tarfile.REGTYPE, size=found.st_size)
                segments = [(0, found.st_size)]
            else:
                self._sparse_header(path, found, segments)
            for offset, length in segments:
                self._copy(source, offset, length, path)
        self._pad()

    def _copy(self, source: BinaryIO, offset: int, length: int, path: str) -> None:
        source.seek(offset)
        while length:
            data = source.read(min(length, _CHUNK))
            if not data:
                raise OSError(errno.EIO, "the file became shorter while it was being saved", path)
            self._write(data)
            length -= len(data)

    def _header(
        self, path: str, found: os.stat_result, kind: bytes, *, size: int = 0, target: str = "", mode: int | None = None
    ) -> None:
        info = _info(path, found, kind)
        info.size, info.linkname = size, target
        if mode is not None:
            info.mode = mode
        self._write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _sparse_header(self, path: str, found: os.stat_result, segments: list[tuple[int, int]]) -> None:
        """Write the header of a file with holes, and the map of its data (GNU tar manual, Storing Sparse Files)."""
        numbers = [len(segments), *(number for segment in segments for number in segment)]
        table = "".join(f"{number}\n" for number in numbers).encode()
        table += bytes(-len(table) % BLOCK)
        size = len(table) + sum(length for _, length in segments)
        fields = {
            b"size": b"%d" % size,
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": os.fsencode(path),
            b"GNU.sparse.realsize": b"%d" % found.st_size,
        }
        info = _info("GNUSparseFile", found, tarfile.REGTYPE)
        info.size = size if size <= _LARGEST_IN_HEADER else 0  # the record above has it
        for key, most in _MOST_IN_HEADER.items():
            number = getattr(info, key)
            if not 0 <= number <= most:
                fields[key.encode()] = b"%d" % number
                setattr(info, key, 0)
        records = b"".join(_record(key, value) for key, value in fields.items())
        extended = tarfile.TarInfo("././@PaxHeader")
        extended.type, extended.size = tarfile.XHDTYPE, len(records)
        self._write(extended.tobuf(tarfile.USTAR_FORMAT))
        self._write(records)
        self._pad()
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(table)

    def _pad(self) -> None:
        self._write(bytes(-self._size % BLOCK))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self._size += len(data)


def _info(path: str, found: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = kind
    info.mode = found.st_mode & _MODES
    info.uid, info.gid = found.st_uid, found.st_gid
    info.mtime = int(found.st_mtime)
    return info


def _record(key: bytes, value: bytes) -> bytes:
    """Return a record of an extended header: its own length in bytes, then the key and the value (pax(1))."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _segments(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the parts of a file that are not holes, and an empty one at the end of the file."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # there is no more data
                raise
            break
        at = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        yield begin, at - begin
    yield size, 0
