"""One sweep at a time in a directory: the other would remove what this one is writing."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quidnunc.crypto.errors import StoreLocked, StoreUnwritable


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make ``directory`` and hold it; a process that dies lets it go.

    Raises StoreLocked where another process on this machine holds it, StoreUnwritable where it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StoreUnwritable(
            f"{directory}: cannot be written: {why}", hint="choose another place with --out"
        ) from None
    try:
        # The directory itself is held: nothing is left in it. File systems without locks hold nobody off.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(
                f"{directory}: another sweep is writing here", hint="wait for it, or choose another place with --out"
            ) from None
        except OSError:
            yield
            return
        yield
    finally:
        os.close(descriptor)
