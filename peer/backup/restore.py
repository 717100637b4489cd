"""Restoring a backup: everything is checked beside the place where it will lie, and only then put there.

Nothing of a home stays behind when a backup is refused. The keys are put in place last: a restore that a power loss
cuts short leaves a home that no daemon can sign for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quidnunc.crypto.errors import ConfigError, KeyFileError, QuidnuncError, StoreNewer, StoreUnwritable
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.federation.founding import open_charter
from quidnunc.gossip.federation.member import Member
from quidnunc.peer import config, keys
from quidnunc.peer.backup import contents
from quidnunc.peer.backup.archive import (
    BackupDamaged,
    Item,
    Manifest,
    chunks,
    members,
    open_archive,
    read_manifest,
)
from quidnunc.peer.backup.archive import Member as ArchiveMember
from quidnunc.peer.files import PRIVATE_DIR, PRIVATE_FILE, fsync_dir, unwritable
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import ORIGIN, RESTORED, RESTORED_AT, Store

_IGNORED = frozenset({"lost+found"})
"""What stands in the root of a fresh file system."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What is in place now."""

    manifest: Manifest
    member: Member
    config: config.Config
    charter: bool


def restore(path: Path, home: Home) -> Restored:
    """Put the backup at ``path`` into ``home``, which must be empty or not there.

    Raises BackupDamaged, StoreNewer, ConfigError for a home that is not empty, StoreUnwritable; then nothing of it
    is left.
    """
    with open_archive(path) as file:
        found = members(file, path)
        manifest = read_manifest(file, path, found)
        _check_names(path, manifest)
        with _staging(home) as staging:
            for member, item in zip(found[:-1], manifest.files, strict=True):
                _extract(file, member, item, staging, path)
            restored = _checked(staging, manifest, path)
            _put_in_place(staging, home)
    return restored


def _check_names(path: Path, manifest: Manifest) -> None:
    for item in manifest.files:
        limit = contents.limit_of(item.name)
        if limit is None:
            raise BackupDamaged(path, f"holds {item.name!r}, which is no file of a home")
        if item.size > limit:
            raise BackupDamaged(path, f"{item.name}: {item.size} bytes, limit is {limit}")
        digest = contents.blob_digest(item.name)
        if digest not in (None, item.sha256):
            raise BackupDamaged(path, f"{item.name}: said to have the hash {item.sha256[:16]!r}")
    missing = set(contents.REQUIRED) - {item.name for item in manifest.files}
    if missing:
        raise BackupDamaged(path, f"holds no {min(missing)}")


def _extract(file: BinaryIO, member: ArchiveMember, item: Item, staging: Path, path: Path) -> None:
    """Write one member, durably, and compare its hash."""
    target = contents.place(staging, item.name)
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb") as out:
            for chunk in chunks(file, member):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        fsync_dir(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    if digest.hexdigest() != item.sha256:
        raise BackupDamaged(path, f"{item.name}: not what was backed up (its SHA-256 is {digest.hexdigest()[:16]})")


def _checked(staging: Path, manifest: Manifest, path: Path) -> Restored:
    """Whether what was extracted is one peer, with a ledger that a daemon would start on."""

    def at(name: str) -> Path:
        return contents.place(staging, name)

    try:
        settings = config.load(at(contents.CONFIG))
        member = open_card(at(contents.CARD).read_bytes())
        for name, kind in contents.KEYS.items():
            if at(name).exists():
                keys.read(at(name), kind)
        charter = at(contents.CHARTER).exists()
        if charter and open_charter(at(contents.CHARTER).read_bytes()).charter.member(member.log_id) is None:
            raise BackupDamaged(path, f"{contents.CHARTER}: does not list {member.name}")
        with Store.open(at(contents.LEDGER)) as store:
            ledger = store.log_id.hex(), store.size, store.root.hex()
            if not store.size and store.get_meta(ORIGIN) is None:
                # The peer may have begun since: it must not begin again before a neighbor says that it has not.
                store.put_meta(ORIGIN, RESTORED)
            store.put_meta(RESTORED_AT, str(store.size).encode())
    except (BackupDamaged, StoreNewer, StoreUnwritable):
        raise
    except KeyFileError as error:
        raise BackupDamaged(path, _inside(error, staging)) from error
    except QuidnuncError as error:
        raise BackupDamaged(path, _inside(error, staging)) from error
    if ledger != (manifest.log_id, manifest.entries, manifest.root) or manifest.log_id != member.log_id.hex():
        raise BackupDamaged(path, "its card, ledger and manifest are not of one peer")
    return Restored(manifest, member, settings, charter)


def _inside(error: QuidnuncError, staging: Path) -> str:
    """The message of an error about a staged file, as a name inside the backup."""
    return error.message.replace(f"{staging}/", "")


@contextlib.contextmanager
def _staging(home: Home) -> Iterator[Path]:
    """A directory inside ``home`` to extract into. When the block fails, nothing that was made is left."""
    made = [path for path in (home.root, *home.root.parents) if not path.exists()]
    staging = home.root / f".restore-{secrets.token_hex(8)}"
    try:
        home.root.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        present = sorted(set(os.listdir(home.root)) - _IGNORED)
        if present:
            raise ConfigError(
                f"{home.root}: not empty, {present[0]} is there: a backup replaces nothing",
                hint="name an empty directory with --home, or move this one away first",
            )
        staging.mkdir(mode=PRIVATE_DIR)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{home.root}: not a directory", hint="name another directory with --home") from None
    except OSError as error:
        raise unwritable(home.root, error) from error
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _put_in_place(staging: Path, home: Home) -> None:
    """Move everything out of ``staging``, the keys last; back again when that fails."""
    last = staging / home.keys.name
    names = [*(path.name for path in sorted(staging.iterdir()) if path != last), last.name]
    try:
        for name in names:
            (staging / name).rename(home.root / name)
            fsync_dir(home.root)
    except OSError as error:
        for name in names:
            with contextlib.suppress(OSError):
                (home.root / name).rename(staging / name)
        raise unwritable(home.root, error) from error
    with contextlib.suppress(OSError):
        staging.rmdir()
    home.create()
