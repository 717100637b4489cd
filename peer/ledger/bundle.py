"""Ledgers to hand on: a read-only bundle, and the log as a directory of tiles.

A bundle has a home's layout without its keys, configuration, blobs and private parts, so that every command that
reads a ledger reads it::

    BUNDLE/card.note            the public keys of its owner
    BUNDLE/charter.note         the signed charter, if there is one
    BUNDLE/state/ledger.db      entries, checkpoints, tokens, proofs and cosignatures

Tiles are what C2SP tlog-tiles asks of a log's web server: ``checkpoint``, and ``tile/LEVEL/INDEX`` for hashes and
entries. The entries in them are headers: payloads stay behind their commitments.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from quidnunc.crypto.errors import ConfigError, LedgerCorrupt
from quidnunc.crypto.merkle import MAX_SIZE
from quidnunc.crypto.tiles import ENTRIES, TILE_HEIGHT, bundle_entries, tile_bytes, tile_path, tiles_of
from quidnunc.gossip.federation.card import CARD_BYTES
from quidnunc.gossip.federation.founding import NOTE_BYTES
from quidnunc.peer.files import read_capped, unwritable
from quidnunc.peer.home import Home
from quidnunc.peer.ledger import database, tally
from quidnunc.peer.ledger.ledger_reader import LedgerReader
from quidnunc.peer.new_file import new_file, require_free

CHECKPOINT = "checkpoint"


def write_bundle(home: Home, path: Path) -> None:
    """Make a bundle of the ledger of ``home`` at ``path``, whole or not at all.

    Raises ConfigError when something is there already, or for a card or charter that is no file of its kind,
    StoreUnwritable when the disk fails.
    """
    public = _public(home)
    with _new_directory(path) as temporary:
        found = Home.at(temporary)
        found.state.mkdir()
        database.copy_public(home.ledger, found.ledger, partial(tally.update, after=0))
        found.ledger.chmod(0o644)
        for name, data in public.items():
            (found.root / name).write_bytes(data)


def _public(home: Home) -> dict[str, bytes]:
    """Card and charter as far as there are any, by file name.

    Never a plain copy: what lies at these names in a home that was handed over may be a link to anything.
    """
    found = {}
    for path, limit in ((home.card, CARD_BYTES), (home.charter, NOTE_BYTES)):
        try:
            found[path.name] = read_capped(path, limit)
        except FileNotFoundError:
            continue
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            raise ConfigError(f"{path}: cannot be read: {why}", hint="check who may read it") from error
    return found


def write_tiles(reader: LedgerReader, note: bytes, size: int, path: Path) -> int:
    """Write the first ``size`` entries of a ledger, which ``note`` signs, as tiles to ``path``; how many files.

    Whole or not at all. Raises ConfigError when something is there already, StoreUnwritable when the disk fails,
    LedgerCorrupt when a tile is not what the ledger holds.
    """
    if not 0 < size <= reader.size <= MAX_SIZE:
        raise LedgerCorrupt(reader.size - 1, f"a checkpoint over {size} entries, there are {reader.size}")
    tree = reader.tree()
    files = 1
    with _new_directory(path) as temporary:
        for tile in tiles_of(size):
            _put(temporary / tile_path(tile), tile_bytes(tree, tile))
            files += 1
            if tile.level == 0:
                first = tile.number << TILE_HEIGHT
                headers = [entry.header for _, entry in reader.headers(first, first + tile.width)]
                _put(temporary / tile_path(tile._replace(level=ENTRIES)), bundle_entries(headers))
                files += 1
        # Last, as on a web server: whoever sees the checkpoint must find its tiles.
        _put(temporary / CHECKPOINT, note)
    return files


def write_lines(path: Path, lines: Iterable[str], mode: int) -> tuple[int, int]:
    """Write ``lines`` to a file at ``path``, whole or not at all, without holding them; (lines, bytes).

    Raises ConfigError when something is there already, StoreUnwritable when the disk fails.
    """
    count = 0
    with new_file(path, mode) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(f"{line}\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    return count, size


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextlib.contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which then appears at ``path``, or not at all."""
    require_free(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        # Never in place of a file; what gets there meanwhile can be replaced only if it is an empty directory.
        temporary.rename(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
