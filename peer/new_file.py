"""Files that a command makes where the operator says: never in place of something that is there already."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from quidnunc.crypto.errors import ConfigError
from quidnunc.peer.files import PRIVATE_FILE, fsync_dir, unwritable, write_all

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems without hard links answer; those of memory sticks are among them."""


def taken(path: Path) -> ConfigError:
    """The refusal to put a new file or directory where something lies already."""
    return ConfigError(
        f"{path}: is there already", hint="nothing is overwritten: name another path, or remove that one first"
    )


def require_free(path: Path) -> None:
    """Raise ConfigError when anything is at ``path``, before work is done for it; a dangling link is something.

    It spares work and promises nothing: only :func:`new_file` holds what it says against another process.
    """
    if os.path.lexists(path):
        raise taken(path)


@contextlib.contextmanager
def new_file(path: Path, mode: int = PRIVATE_FILE) -> Iterator[Path]:
    """A file of this mode to fill, which then appears at ``path``, whole, or not at all; the block syncs it.

    Raises ConfigError when something is there already or gets there meanwhile, StoreUnwritable when the disk fails.
    """
    require_free(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        yield temporary
        _place(temporary, path)
        fsync_dir(path.parent)
    except FileExistsError:
        raise taken(path) from None
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_new(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Put ``data`` at ``path``, where nothing was; raises as :func:`new_file` does."""
    with new_file(path, mode) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _place(temporary: Path, path: Path) -> None:
    """Give the file its name; raises FileExistsError when the name is taken, however lately."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The name is claimed by an empty file first: from here on it is ours to replace.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
        try:
            temporary.rename(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
