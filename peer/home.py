"""The directory of one peer: where everything lies, and who may hold it.

::

    config.toml             what the operator writes
    charter.note            the signed charter of the federation
    genesis.params          what the charter begins with, if it begins with an earlier model
    card.note               the public keys handed to the other founders
    keys/root.key           0600 in a 0700 directory; belongs offline once the federation is founded
    keys/operational.key    0600
    state/ledger.db         SQLite, see peer/ledger/store.py
    state/mirrors.db        what is kept for neighbors, see peer/ledger/mirror.py; no part of a backup
    state/blobs/            params and deltas by hash, see peer/blobs.py
    state/journal           0600, if [debug] asks for it, see peer/journal.py; no part of a backup
    state/lock              held (flock) by the one process that may write here
    run/control.sock        the control API

A unix socket's address is limited to about 107 bytes. When the home's path is too long for that, the socket
lies in a 0700 directory ``quidnunc-<uid>`` under ``$XDG_RUNTIME_DIR`` or, without one, the system's temporary
directory, named by a hash of the home's path; ``run/control.sock`` is then a symbolic link to it, so that a
client with another environment finds it too.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quidnunc.crypto.errors import ConfigError, StoreLocked
from quidnunc.peer.files import PRIVATE_DIR, PRIVATE_FILE, writing

SOCKET_PATH_MAX = 103
"""Bytes in a unix socket's address that work everywhere (Linux allows 107, macOS 103)."""

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 3800
"""Linux takes names of 255 and paths of 4095 bytes; what lies in a home needs the rest."""

LOCK_RETRIES_S = (0.02, 0.05, 0.1, 0.0)

_OTHER_HOME = "name another directory with --home"


@dataclass(frozen=True, slots=True)
class Home:
    """The layout under ``root``. Pure path arithmetic, except for the methods that say otherwise."""

    root: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Home:
        """The home at ``path``, made absolute, so that a later change of directory does not move it.

        Raises ConfigError for a path that no directory can have.
        """
        try:
            root = Path(path).expanduser().absolute()
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"home {_short(path)}: {str(error)[:200].lower()}", hint=_OTHER_HOME) from None
        why = _impossible(root)
        if why:
            raise ConfigError(f"home {_short(path)}: {why}", hint=_OTHER_HOME)
        return cls(root)

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def charter(self) -> Path:
        return self.root / "charter.note"

    @property
    def model(self) -> Path:
        return self.root / "genesis.params"

    @property
    def card(self) -> Path:
        return self.root / "card.note"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def root_key(self) -> Path:
        return self.keys / "root.key"

    @property
    def operational_key(self) -> Path:
        return self.keys / "operational.key"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def mirrors(self) -> Path:
        return self.state / "mirrors.db"

    @property
    def blobs(self) -> Path:
        return self.state / "blobs"

    @property
    def journal(self) -> Path:
        return self.state / "journal"

    @property
    def lock_file(self) -> Path:
        return self.state / "lock"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def exists(self) -> bool:
        """Whether ``quidnunc init`` was here (reads the disk). Raises ConfigError when the disk will not tell."""
        try:
            return self.config.exists() or self.operational_key.exists()
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            raise ConfigError(f"home {_short(self.root)}: cannot be read: {why}", hint=_OTHER_HOME) from None

    @property
    def directories(self) -> tuple[Path, ...]:
        """All that :meth:`create` makes, the outer ones first."""
        return (self.root, self.keys, self.state, self.blobs, self.run)

    def create(self) -> None:
        """Make the directories, 0700, keeping those that are there.

        Raises StoreUnwritable, or ConfigError when something else than a directory is in the way.
        """
        for directory in self.directories:
            with writing(directory):
                try:
                    directory.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
                except FileExistsError:
                    raise ConfigError(f"{directory}: not a directory", hint=_OTHER_HOME) from None
                if directory != self.root and stat.S_IMODE(directory.stat().st_mode) & 0o077:
                    directory.chmod(PRIVATE_DIR)

    def socket(self) -> Path:
        """Where the control socket is or will be: at most SOCKET_PATH_MAX bytes long (reads the disk)."""
        plain = self.run / "control.sock"
        if len(os.fsencode(plain)) <= SOCKET_PATH_MAX:
            return plain
        with contextlib.suppress(OSError):
            return Path(os.readlink(plain))
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if not os.path.isdir(base) or len(os.fsencode(base)) > SOCKET_PATH_MAX - 48:
            base = tempfile.gettempdir()
        return Path(base) / f"quidnunc-{os.geteuid()}" / f"{digest}.sock"

    def prepare_socket(self) -> Path:
        """Make sure the socket can be bound safely: private directory, no stale socket. Call under the lock.

        Raises ConfigError when another user has put something where the short path leads.
        """
        path = self.socket()
        with writing(path):
            path.parent.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            found = path.parent.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise ConfigError(
                    f"{path.parent}: not a directory of ours with mode 0700",
                    hint="remove it, or use a shorter --home so that the control socket can lie inside",
                )
            path.unlink(missing_ok=True)
            plain = self.run / "control.sock"
            if path != plain:
                plain.unlink(missing_ok=True)
                plain.symlink_to(path)
        return path

    def remove_socket(self) -> None:
        """Remove the control socket and what leads to it. Call under the lock."""
        for path in (self.socket(), self.run / "control.sock"):
            with contextlib.suppress(OSError):
                path.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that writes here, until the block ends or the process dies, however it dies.

        Raises StoreLocked naming the holder's pid, StoreUnwritable when the lock file cannot be made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(self.lock_file):
            descriptor = os.open(self.lock_file, flags, PRIVATE_FILE)
        try:
            if not _locked(descriptor):
                raise StoreLocked(
                    f"{self.root} is in use by process {_holder(descriptor)}",
                    hint="stop that process first, or name another directory with --home",
                )
            with writing(self.lock_file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def locked_by(self) -> int | None:
        """The pid of the process that holds the lock, 0 if it left none, or None if nobody does."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = _holder(descriptor)
            return int(text) if text.isdecimal() else 0
        finally:
            os.close(descriptor)
        return None


def _locked(descriptor: int) -> bool:
    """Take the lock; tried for a moment, because ``status`` holds a shared one while it looks."""
    for pause in LOCK_RETRIES_S:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False


def _impossible(root: Path) -> str:
    """Why no peer can live at this path, or nothing."""
    try:
        path = str(root).encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    if b"\0" in path:
        return "a path has no zero bytes"
    longest = max(len(part) for part in path.split(b"/"))
    if longest > NAME_BYTES_MAX:
        return f"a name of {longest} bytes, limit is {NAME_BYTES_MAX}"
    if len(path) > PATH_BYTES_MAX:
        return f"a path of {len(path)} bytes, limit is {PATH_BYTES_MAX}"
    return ""


def _short(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return text if text.isdecimal() else "(unknown)"
