"""What a start checks besides the entries: older checkpoints and kept tokens, as far as that is cheap.

The newest checkpoint covers all entries, so that nothing depends on the older ones and on tokens but what is told to
others: repairs, cosignatures, proofs. Their texts and seals are compared at every start, and signatures of the
newest; ``quidnunc ledger verify`` checks every signature.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from quidnunc.crypto.checkpoint import open_checkpoint, parse_checkpoint
from quidnunc.crypto.errors import LedgerCorrupt, RemoteProtocolError
from quidnunc.crypto.log import Log
from quidnunc.crypto.log_keys import Keys
from quidnunc.crypto.note import parse_note
from quidnunc.gossip.resume import Resume
from quidnunc.peer.ledger.database import DatabaseCorrupt, row_seal

log = logging.getLogger("quidnunc.peer")


def check_checkpoints(notes: Iterable[tuple[int, bytes]], tree: Log, public: Keys, signed_from: int) -> None:
    """Every one of ``notes`` (size, checkpoint) states the root at its size; those above ``signed_from`` are signed.

    Raises LedgerCorrupt naming the last entry under the first that does not.
    """
    for size, note in notes:
        try:
            if size > signed_from:
                checkpoint = open_checkpoint(note, tree.origin, public)
            else:
                checkpoint = parse_checkpoint(parse_note(note).text)
        except RemoteProtocolError as error:
            raise LedgerCorrupt(size - 1, f"the checkpoint over it is damaged: {error.message}") from error
        stated = checkpoint.origin, checkpoint.size, checkpoint.root
        if not 0 < size <= tree.size or stated != (tree.origin, size, tree.root_at(size)):
            raise LedgerCorrupt(size - 1, "the checkpoint over it is damaged: it is not of this log at this size")


def check_tokens(rows: Iterable[tuple[bytes, bytes, int, bytes, bytes]], path: Path) -> None:
    """Every kept token (hash, author, number, body, seal) is what was written; else raises DatabaseCorrupt."""
    for name, author, number, body, seal in rows:
        if row_seal("token", name, author, number, body) != seal:
            raise DatabaseCorrupt(path, f"the token of update {number} of {author.hex()[:16]} is damaged")


def tell_missing_tokens(resume: Resume, newest: range) -> int:
    """Say in the log which tokens this start would have needed and that are gone; how many those are.

    ``newest`` are the numbers of the own updates that are kept for neighbors. A peer goes on without: a neighbor that
    missed one of its updates is sent a snapshot, and a second update under one number convicts nobody.
    """
    held = {number for number, _ in resume.tokens}
    lost = {"this peer": [number for number in newest if number not in held]}
    for author, tracked in resume.tracked.items():
        lost[author.hex()[:16]] = sorted(set(tracked.leaves) - set(tracked.tokens))
    for who, numbers in lost.items():
        if numbers:
            span = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
            log.warning(
                "tokens=missing author=%s updates=%s count=%d: the ledger names them, and they are not in ledger.db "
                "any more; see quidnunc ledger verify",
                *(who, span, len(numbers)),
            )
    return sum(map(len, lost.values()))
