"""A model as a file: the params that a new federation starts from instead of freshly drawn ones.

The charter names them by hash; the file is passed from hand to hand beside it; every member keeps a copy in its home.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from quidnunc.crypto.errors import CharterError, ConfigError, RemoteProtocolError
from quidnunc.gossip.federation.charter import FLOAT_BYTES
from quidnunc.gossip.resume import fold
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.files import atomic_write, read_capped
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

SUFFIX = ".params"


def beside(charter: Path) -> Path:
    """Where the params of the charter at ``charter`` are looked for: ``charter.params`` for ``charter.note``."""
    return charter.with_suffix(SUFFIX)


def read_model(path: Path, dim: int) -> bytes:
    """The params [dim] in a file, or those that the peer whose home is ``path`` has come to; raises ConfigError."""
    from quidnunc.gossip.learning import codec  # numpy: only who names a model needs it

    data = _of_home(Home.at(path), dim) if path.is_dir() else _of_file(path, dim)
    try:
        codec.parse_state(data, dim)
    except RemoteProtocolError as error:
        raise ConfigError(
            f"{path}: no params of this task's model: {error.message}",
            hint=f"a model of {dim} parameters is {FLOAT_BYTES * dim} bytes, float32, little-endian",
        ) from error
    return data


def install_model(path: Path, home: Home, genesis: bytes, dim: int) -> None:
    """Keep the params at ``path`` in ``home``; raises CharterError unless they are those that the charter names."""
    data = read_model(path, dim)
    name = hashlib.sha256(data).digest()
    if name != genesis:
        raise CharterError(
            f"{path}: holds params {name.hex()[:16]}, the charter begins with {genesis.hex()[:16]}",
            hint="ask whoever drafted the charter for the file beside it",
        )
    atomic_write(home.model, data)


def installed_model(home: Home, genesis: bytes, dim: int) -> bytes | None:
    """The params ``genesis`` if they were installed in ``home``, else None."""
    try:
        data = read_capped(home.model, FLOAT_BYTES * dim)
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).digest() == genesis else None


def _of_file(path: Path, dim: int) -> bytes:
    try:
        return read_capped(path, FLOAT_BYTES * dim)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"{path}: cannot be read: {why}", hint="name a file of params, or a peer's home") from None


def _of_home(home: Home, dim: int) -> bytes:
    """The last merge of a peer, or its own replica if there was none since."""
    if not home.ledger.exists():
        raise ConfigError(f"{home.root}: no peer lives here", hint="name a file of params, or a peer's home")
    with Store.open(home.ledger, readonly=True) as store:
        resume = fold(store.entries())
    blobs = FileBlobs(home.blobs, max_bytes=FLOAT_BYTES * dim)
    for name in (resume.base, resume.replica):
        data = None if name is None else blobs.get(name)
        if data is not None:
            return data
    raise ConfigError(
        f"{home.root}: this peer has no model of {dim} parameters",
        hint="name a peer of the same task that took part in some rounds",
    )
