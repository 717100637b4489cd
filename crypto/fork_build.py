"""Making proofs of equivocation out of what a peer holds: notes, headers, trees, tokens.

Each function returns None where what it was given can all belong to one history: that is no error, and the
usual case. Signatures are not checked here; :func:`quidnunc.crypto.fork.verify_fork` judges what comes out.
Of a note only the lines that the proof needs are kept, so that a proof stays small whatever it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from quidnunc.crypto.checkpoint import Checkpoint, parse_checkpoint
from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.fork_proof import (
    ChainFault,
    EntryFork,
    LogFork,
    PrefixFork,
    SizeFork,
    TwiceFault,
    WitnessFork,
)
from quidnunc.crypto.merkle import Tree, leaf_hash
from quidnunc.crypto.note import Note, format_note, parse_note
from quidnunc.crypto.tiled import Frontier
from quidnunc.crypto.token import TokenParts, parse_token


def fork_of_notes(note_a: bytes, note_b: bytes) -> SizeFork | None:
    """Kind A, if both notes are of one log and size and have different roots."""
    (a, checkpoint_a), (b, checkpoint_b) = _opened(note_a), _opened(note_b)
    if checkpoint_a[:2] != checkpoint_b[:2] or checkpoint_a.root == checkpoint_b.root:
        return None
    first, second = sorted((a, b), key=lambda note: note.text)
    return SizeFork(_trimmed(first, checkpoint_a.origin), _trimmed(second, checkpoint_a.origin))


def fork_of_headers(
    note_a: bytes, headers_a: Sequence[bytes], note_b: bytes, headers_b: Sequence[bytes]
) -> SizeFork | EntryFork | None:
    """Kind A or B from two whole histories, each the headers under its note.

    Headers that do not have the root in their note raise :class:`LocalProtocolError`.
    """
    if parse_checkpoint(parse_note(note_a).text).size > parse_checkpoint(parse_note(note_b).text).size:
        return fork_of_headers(note_b, headers_b, note_a, headers_a)
    (a, checkpoint_a), (b, checkpoint_b) = _opened(note_a), _opened(note_b)
    if checkpoint_a.origin != checkpoint_b.origin:
        return None
    same_size = fork_of_notes(note_a, note_b)
    if same_size is not None:
        return same_size
    trees = _grown(headers_a, checkpoint_a), _grown(headers_b, checkpoint_b)
    pairs = enumerate(zip(headers_a[: checkpoint_a.size], headers_b, strict=False))
    index = next((index for index, (ours, theirs) in pairs if ours != theirs), None)
    if index is None:
        return None
    origin = checkpoint_a.origin
    return EntryFork(
        _trimmed(a, origin),
        _trimmed(b, origin),
        index,
        headers_a[index],
        tuple(trees[0].inclusion(index, checkpoint_a.size)),
        headers_b[index],
        tuple(trees[1].inclusion(index, checkpoint_b.size)),
    )


def fork_of_prefix(older: bytes, newer: bytes, tree: Tree) -> PrefixFork | None:
    """Kind B2 from the tree under the ``newer`` note alone: for when the older history is withheld."""
    (a, checkpoint_a), (b, checkpoint_b) = _opened(older), _opened(newer)
    if checkpoint_a.origin != checkpoint_b.origin or not 0 < checkpoint_a.size < checkpoint_b.size:
        return None
    if tree.root(checkpoint_b.size) != checkpoint_b.root:
        raise LocalProtocolError(f"this is not the tree of {checkpoint_b.size} entries in the newer note")
    root = tree.root(checkpoint_a.size)
    if root == checkpoint_a.root:
        return None
    path = tuple(tree.consistency(checkpoint_a.size, checkpoint_b.size))
    return PrefixFork(_trimmed(a, checkpoint_a.origin), _trimmed(b, checkpoint_a.origin), root, path)


def fork_of_kept(notes: Iterable[bytes], headers: Iterable[bytes]) -> SizeFork | PrefixFork | None:
    """Kind A or B2 from checkpoints of one log and its first entries, as somebody else keeps them.

    One of the ``notes`` must be a checkpoint of these entries, and one that is no larger must not be. Notes over more
    entries than there are say nothing. The entries need no proof: the one note is it.
    """
    sizes = {note: parse_checkpoint(parse_note(note).text) for note in notes}
    heads = {note: each for note, each in sizes.items() if each.size > 0}
    if len(heads) < 2:
        return None
    leaves, roots = _roots_at({each.size for each in heads.values()}, headers)
    within = {note: each for note, each in heads.items() if each.size in roots}
    ours = {note for note, each in within.items() if roots[each.size] == each.root}
    if not ours or len(ours) == len(within):
        return None
    newest = max(ours, key=lambda note: within[note].size)
    tree = Tree()  # only now: nearly always all of them are ours
    for leaf in leaves:
        tree.append(leaf)
    for note in within.keys() - ours:
        proof = fork_of_notes(note, newest) or fork_of_prefix(note, newest, tree)
        if proof is not None:
            return proof
    return None


def _roots_at(sizes: Set[int], headers: Iterable[bytes]) -> tuple[list[bytes], dict[int, bytes]]:
    """The leaves up to the largest of ``sizes``, and the roots at those of them that ``headers`` reach."""
    edge, last = Frontier(), max(sizes)
    leaves: list[bytes] = []
    roots: dict[int, bytes] = {}
    for header in headers:
        leaf = leaf_hash(header)
        leaves.append(leaf)
        edge.append(leaf)
        if edge.size in sizes:
            roots[edge.size] = edge.root()
        if edge.size == last:
            break
    return leaves, roots


def fork_of_tokens(token_a: bytes, token_b: bytes) -> SizeFork | EntryFork | TwiceFault | None:
    """Kind A, B or C2 from two tokens of one log, as a peer has them when one update number came twice."""
    a, b = parse_token(token_a), parse_token(token_b)
    header_a, header_b = parse_header(a.header), parse_header(b.header)
    if header_a.log_id != header_b.log_id or a.header == b.header:
        return fork_of_notes(a.note, b.note)
    same_size = fork_of_notes(a.note, b.note)
    if same_size is not None:
        return same_size
    if header_a.seq == header_b.seq:
        return _fork_at(header_a.seq, a, b)
    if header_a.seq > header_b.seq:
        return fork_of_tokens(token_b, token_a)
    twice = header_a.type == header_b.type and header_a.type in (EntryType.UPDATE_PUBLISHED, EntryType.UPDATE_RECEIVED)
    return TwiceFault(token_a, token_b) if twice else None


def fault_of_headers(note: bytes, headers: Sequence[bytes]) -> ChainFault | None:
    """Kind C: the first of the ``headers`` under ``note`` that cannot stand where it does.

    Headers that do not have the root in the note raise :class:`LocalProtocolError`.
    """
    parsed, checkpoint = _opened(note)
    tree = _grown(headers, checkpoint)
    trimmed = _trimmed(parsed, checkpoint.origin)
    for index, data in enumerate(headers[: checkpoint.size]):
        path = tuple(tree.inclusion(index, checkpoint.size))
        if _is_wrong(data, index, checkpoint.origin):
            return ChainFault(trimmed, index, data, path, None, ())
        if index and not _follows(headers[index - 1], data):
            before_path = tuple(tree.inclusion(index - 1, checkpoint.size))
            return ChainFault(trimmed, index, data, path, headers[index - 1], before_path)
    return None


def against_witness(name: str, proof: LogFork, note_a: bytes, note_b: bytes) -> WitnessFork:
    """Kind D: ``proof`` turned on the witness ``name``, whose cosignatures stand in both notes.

    ``note_a`` and ``note_b`` are the notes of ``proof``, in its order, with all their lines.
    """
    notes = _trimmed(parse_note(note_a), name), _trimmed(parse_note(note_b), name)
    match proof:
        case PrefixFork():
            return WitnessFork(name, proof._replace(older=notes[0], newer=notes[1]))
        case SizeFork() | EntryFork():
            return WitnessFork(name, proof._replace(note_a=notes[0], note_b=notes[1]))


def _fork_at(index: int, a: TokenParts, b: TokenParts) -> EntryFork:
    """Kind B from two tokens of different entries with one number."""
    (note_a, checkpoint_a), (note_b, checkpoint_b) = _opened(a.note), _opened(b.note)
    if checkpoint_a.size > checkpoint_b.size:
        return _fork_at(index, b, a)
    notes = _trimmed(note_a, checkpoint_a.origin), _trimmed(note_b, checkpoint_a.origin)
    return EntryFork(*notes, index, a.header, a.path, b.header, b.path)


def _is_wrong(data: bytes, index: int, origin: str) -> bool:
    """Whether a leaf is wrong without looking at its neighbors."""
    try:
        header = parse_header(data)
    except Malformed:
        return True
    return header.seq != index or not origin.endswith(header.log_id.hex())


def _follows(before: bytes, data: bytes) -> bool:
    first, second = parse_header(before), parse_header(data)
    linked = second.prev == leaf_hash(before) and second.t_ms >= first.t_ms
    return linked and first.type != EntryType.LOG_RETIRE


def _grown(headers: Sequence[bytes], checkpoint: Checkpoint) -> Tree:
    tree = Tree()
    for header in headers[: checkpoint.size]:
        tree.append(leaf_hash(header))
    if tree.size != checkpoint.size or tree.root() != checkpoint.root:
        raise LocalProtocolError(f"these are not the {checkpoint.size} headers under the note")
    return tree


def _opened(data: bytes) -> tuple[Note, Checkpoint]:
    note = parse_note(data)
    return note, parse_checkpoint(note.text)


def _trimmed(note: Note, name: str) -> bytes:
    """The note with the lines of ``name`` only; all of them where it has none."""
    kept = tuple(line for line in note.signatures if line.name == name)
    return format_note(Note(note.text, kept or note.signatures)).encode()
