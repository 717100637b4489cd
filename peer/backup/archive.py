"""The backup file: a plain tar archive of which exactly one spelling is accepted.

Members are regular files of mode 0600 in the POSIX ``ustar`` layout (POSIX.1-2001, *pax*), so that ``tar tf`` lists a
backup and ``tar xf`` unpacks one. The last member is ``manifest.json``: what the backup is of, and name, size and
SHA-256 of every member before it. Two blocks of zeros end the file, and nothing follows them.

A header is read by writing it anew from the name and size it states: links, devices, directories, other modes,
extended headers and sparse files differ from that, and are refused with everything else that differs. Nothing in
memory grows with a size that a file states.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from quidnunc.crypto.errors import ConfigError, QuidnuncError, StoreNewer
from quidnunc.peer.output import ExitCode

FORMAT = "quidnunc-backup"
VERSION = 1
MANIFEST = "manifest.json"

BLOCK = 512
END = bytes(2 * BLOCK)
NAME_BYTES_MAX = 100
FILE_BYTES_MAX = 8**11 - 1
"""What the eleven octal digits of a header can say: 8 GiB less one byte."""
MEMBERS_MAX = 65_536
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
_CHUNK = 1024 * 1024


class BackupDamaged(QuidnuncError):
    """A file is no backup, or not as it was written."""

    exit_code = ExitCode.DATA_CORRUPT

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path}: {why}", hint="nothing was restored; take another copy of this backup, or an older one"
        )


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup; ``sha256`` in hex."""

    name: str
    size: int
    sha256: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup is of: whose home, how far its ledger went, and when (ISO 8601, UTC) it was made.

    ``sha256`` is that of the manifest itself with this field empty: with it a flipped bit is found here too.
    """

    format: str
    v: int
    program: str
    made: str
    name: str
    log_id: str
    entries: int
    root: str
    files: list[Item]
    sha256: str = ""

    def encoded(self) -> bytes:
        """The one text of this manifest."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def sealed(self) -> Manifest:
        """This manifest with its own hash."""
        bare = msgspec.structs.replace(self, sha256="")
        return msgspec.structs.replace(self, sha256=hashlib.sha256(bare.encoded()).hexdigest())


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of one file lie in the archive."""

    name: str
    size: int
    offset: int


class Writer:
    """Writes members one after the other to ``file`` and remembers what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.items: list[Item] = []

    def add(self, name: str, source: BinaryIO, size: int) -> None:
        """Add ``size`` bytes of ``source`` as ``name``. Raises ConfigError when it is too large or ends before."""
        if size > FILE_BYTES_MAX:
            raise ConfigError(f"{name}: {size} bytes, limit of a backup is {FILE_BYTES_MAX} bytes a file")
        if len(self.items) >= MEMBERS_MAX - 1:
            raise ConfigError(f"{name}: limit of a backup is {MEMBERS_MAX - 1} files")
        self._file.write(header(name, size))
        digest, left = hashlib.sha256(), size
        while left:
            chunk = source.read(min(_CHUNK, left))
            if not chunk:
                raise ConfigError(f"{name}: became {left} bytes shorter while it was read", hint="try again")
            self._file.write(chunk)
            digest.update(chunk)
            left -= len(chunk)
        self._file.write(_padding(size))
        self.items.append(Item(name, size, digest.hexdigest()))

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest and the end."""
        data = manifest.sealed().encoded()
        self.add(MANIFEST, io.BytesIO(data), len(data))
        self._file.write(END)


def header(name: str, size: int) -> bytes:
    """The one header of a member: 512 bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def open_archive(path: Path) -> BinaryIO:
    """The file at ``path``; raises ConfigError when it cannot be read or is no regular file."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {(error.strerror or type(error).__name__).lower()}",
            hint="check the path and who may read it",
        ) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ConfigError(f"{path}: not a regular file", hint="name the file that quidnunc backup wrote")
    return file


def members(file: BinaryIO, path: Path) -> list[Member]:
    """Every member, in order, without reading what is in them. Raises BackupDamaged."""
    end = file.seek(0, os.SEEK_END)
    found: list[Member] = []
    offset = 0
    while not found or found[-1].name != MANIFEST:
        if len(found) >= MEMBERS_MAX:
            raise BackupDamaged(path, f"more than {MEMBERS_MAX} files")
        file.seek(offset)
        member = _member(file.read(BLOCK), offset + BLOCK, path, first=not found)
        offset = member.offset + member.size + len(_padding(member.size))
        if offset > end:
            raise BackupDamaged(path, f"cut short: {member.name} ends at byte {offset}, the file at {end}")
        file.seek(member.offset + member.size)
        if any(file.read(len(_padding(member.size)))):
            raise BackupDamaged(path, f"something stands behind {member.name}")
        found.append(member)
    file.seek(offset)
    if file.read(len(END) + 1) != END:
        raise BackupDamaged(path, "cut short at its end" if end < offset + len(END) else "something stands at its end")
    return found


def read_manifest(file: BinaryIO, path: Path, found: list[Member]) -> Manifest:
    """The manifest, which names the other members exactly. Raises BackupDamaged, or StoreNewer for a later format."""
    last = found[-1]
    if last.size > MANIFEST_BYTES_MAX:
        raise BackupDamaged(path, f"{MANIFEST}: {last.size} bytes, limit is {MANIFEST_BYTES_MAX}")
    data = b"".join(chunks(file, last))
    try:
        version = msgspec.json.decode(data, type=_Version)
        if version.format == FORMAT and version.v > VERSION:
            raise StoreNewer(
                f"{path}: a backup of format {version.v}, this program knows formats up to {VERSION}",
                hint="restore it with the newer quidnunc that wrote it",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BackupDamaged(path, f"{MANIFEST}: {str(error)[:200].lower()}") from None
    if (manifest.format, manifest.v) != (FORMAT, VERSION):
        raise BackupDamaged(path, f"{MANIFEST}: of {manifest.format[:40]!r} {manifest.v}, not {FORMAT!r} {VERSION}")
    if manifest.sealed().encoded() != data:
        raise BackupDamaged(path, f"{MANIFEST}: not as it was written")
    named = [(item.name, item.size) for item in manifest.files]
    if named != [(member.name, member.size) for member in found[:-1]]:
        raise BackupDamaged(path, f"{MANIFEST}: names other files than those that are there")
    if len({name for name, _ in named}) < len(named):
        raise BackupDamaged(path, "a file is there twice")
    return manifest


def chunks(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """What is in a member, in pieces of at most 1 MiB."""
    file.seek(member.offset)
    left = member.size
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


class _Version(Struct):
    format: str
    v: int


def _member(block: bytes, offset: int, path: Path, *, first: bool) -> Member:
    if len(block) < BLOCK and not first:
        raise BackupDamaged(path, "cut short: it has no manifest")
    try:
        name = block[:NAME_BYTES_MAX].split(b"\0", 1)[0].decode("ascii")
        size = int(block[124:135], 8)
        same = 0 <= size <= FILE_BYTES_MAX and bool(name) and header(name, size) == block
    except (ValueError, UnicodeDecodeError):
        same = False
    if not same:
        raise BackupDamaged(path, "not a backup" if first else f"byte {offset - BLOCK} begins no file as a backup has")
    return Member(name, size, offset)


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)
