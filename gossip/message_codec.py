"""The bytes of messages: canonical headers, written and parsed. ``docs/wire.md`` is normative.

Parsers raise :class:`~quidnunc.crypto.errors.RemoteProtocolError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.encoding import Encodable, Value, decode, encode
from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.merkle import HASH_BYTES, MAX_PATH
from quidnunc.gossip.events import Frame
from quidnunc.gossip.message import (
    ENTRIES_BYTES,
    ENTRIES_MAX,
    ENTRIES_ROOM,
    HEADER_BYTES_MAX,
    HEADS_MAX,
    NUMBER_MAX,
    VOUCHES_MAX,
    Consistency,
    Cosigned,
    Entries,
    Fetch,
    Heads,
    Hello,
    Known,
    Message,
    Newest,
    Notice,
    Proof,
    Prove,
    Recall,
    Recalled,
    Snapshot,
    Unavailable,
    Update,
    Vouch,
    Vouched,
    VouchRow,
    Want,
)

UPDATE = "quidnunc/v1/update"
SNAPSHOT = "quidnunc/v1/snapshot"
HELLO = "quidnunc/v1/hello"
WANT = "quidnunc/v1/want"
UNAVAILABLE = "quidnunc/v1/unavailable"
RECALL = "quidnunc/v1/recall"
RECALLED = "quidnunc/v1/recalled"
PROOF = "quidnunc/v1/proof"
NOTICE = "quidnunc/v1/notice"
HEADS = "quidnunc/v1/heads"
PROVE = "quidnunc/v1/prove"
CONSISTENCY = "quidnunc/v1/consistency"
COSIGNED = "quidnunc/v1/cosigned"
VOUCH = "quidnunc/v1/vouch"
VOUCHED = "quidnunc/v1/vouched"
NEWEST = "quidnunc/v1/newest"
KNOWN = "quidnunc/v1/known"
FETCH = "quidnunc/v1/fetch"
ENTRIES = "quidnunc/v1/entries"


def write_message(message: Message) -> bytes:
    """Canonical header bytes of a message."""
    match message:
        case Update(federation, token):
            return encode([UPDATE, federation, token])
        case Snapshot(federation, token):
            return encode([SNAPSHOT, federation, token])
        case Hello(federation, token, reply):
            return encode([HELLO, federation, token, reply])
        case Want(federation, first, last, snapshot):
            return encode([WANT, federation, first, last, snapshot])
        case Unavailable(federation, first, last):
            return encode([UNAVAILABLE, federation, first, last])
        case Recall(federation, first, last):
            return encode([RECALL, federation, first, last])
        case Recalled(federation, number):
            return encode([RECALLED, federation, number])
        case Proof(federation, proof):
            return encode([PROOF, federation, proof])
        case Notice(federation, token):
            return encode([NOTICE, federation, token])
        case Heads(federation, notes):
            return encode([HEADS, federation, list(notes)])
        case Prove(federation, old, new):
            return encode([PROVE, federation, old, new])
        case Consistency(federation, old, new, root, path):
            return encode([CONSISTENCY, federation, old, new, root, list(path)])
        case Cosigned(federation, note):
            return encode([COSIGNED, federation, note])
        case _:
            return _write_about_logs(message)


def _write_about_logs(message: Vouch | Vouched | Newest | Known | Fetch | Entries) -> bytes:
    match message:
        case Vouch(federation, note, vouches):
            asked: list[Encodable] = [[each.witness, each.old, each.root, list(each.path)] for each in vouches]
            return encode([VOUCH, federation, note, asked])
        case Vouched(federation, note):
            return encode([VOUCHED, federation, note])
        case Newest(federation):
            return encode([NEWEST, federation])
        case Known(federation, note, first, last):
            return encode([KNOWN, federation, note, first, last])
        case Fetch(federation, log_id, first, last):
            return encode([FETCH, federation, log_id, first, last])
        case Entries(federation, log_id, first, entries, note):
            rows: list[Encodable] = [[each.header, each.payload, each.salt] for each in entries]
            return encode([ENTRIES, federation, log_id, first, rows, note])


def parse_message(header: bytes, federation: bytes) -> Message:
    """The message in a frame header; raises Malformed, or WRONG_FEDERATION for another federation's."""
    value = decode(header, max_bytes=HEADER_BYTES_MAX)
    if not isinstance(value, list) or len(value) < 2 or not isinstance(value[0], str):
        raise Malformed("message header: expected a list that starts with a tag")
    tag, sender_federation, rest = value[0], value[1], value[2:]
    if not isinstance(sender_federation, bytes) or len(sender_federation) != 32:
        raise Malformed("message header: expected a federation id of 32 bytes")
    if sender_federation != federation:
        raise RemoteProtocolError(
            Reason.WRONG_FEDERATION,
            f"message of federation {sender_federation.hex()[:16]}, ours is {federation.hex()[:16]}",
        )
    return _parse_kind(tag, federation, rest)


def _parse_kind(tag: str, federation: bytes, rest: list[Value]) -> Message:
    match tag, rest:
        case "quidnunc/v1/update", [bytes() as token]:
            return Update(federation, token)
        case "quidnunc/v1/snapshot", [bytes() as token]:
            return Snapshot(federation, token)
        case "quidnunc/v1/hello", [bytes() as token, bool() as reply]:
            return Hello(federation, token, reply)
        case "quidnunc/v1/want", [int() as first, int() as last, bool() as snapshot]:
            return Want(federation, *_span(first, last), snapshot)
        case "quidnunc/v1/unavailable", [int() as first, int() as last]:
            return Unavailable(federation, *_span(first, last))
        case "quidnunc/v1/recall", [int() as first, int() as last]:
            return Recall(federation, *_span(first, last))
        case "quidnunc/v1/recalled", [int() as number]:
            return Recalled(federation, _span(number, number)[0])
        case "quidnunc/v1/proof", [bytes() as proof]:
            return Proof(federation, proof)
        case "quidnunc/v1/notice", [bytes() as token]:
            return Notice(federation, token)
        case "quidnunc/v1/heads", [list() as notes]:
            return Heads(federation, _all_bytes(notes, HEADS_MAX, "notes"))
        case "quidnunc/v1/prove", [int() as old, int() as new]:
            return Prove(federation, *_growth(old, new))
        case "quidnunc/v1/consistency", [int() as old, int() as new, bytes() as root, list() as path]:
            if len(root) != HASH_BYTES:
                raise Malformed(f"a root of {len(root)} bytes: expected {HASH_BYTES}")
            return Consistency(federation, *_growth(old, new), root, _all_bytes(path, MAX_PATH + 1, "hashes"))
        case "quidnunc/v1/cosigned", [bytes() as note]:
            return Cosigned(federation, note)
        case "quidnunc/v1/vouch", [bytes() as note, list() as rows]:
            return Vouch(federation, note, _vouches(rows))
        case "quidnunc/v1/vouched", [bytes() as note]:
            return Vouched(federation, note)
        case "quidnunc/v1/newest", []:
            return Newest(federation)
        case "quidnunc/v1/known", [bytes() as note, int() as first, int() as last]:
            return Known(federation, note, *_range(first, last))
        case "quidnunc/v1/fetch", [bytes() as log_id, int() as first, int() as last] if len(log_id) == HASH_BYTES:
            return Fetch(federation, log_id, *_range(first, last))
        case "quidnunc/v1/entries", [bytes() as log_id, int() as first, list() as rows, bytes() as note] if (
            len(log_id) == HASH_BYTES
        ):
            return Entries(federation, log_id, _range(first, first)[0], _entries(rows), note)
    if tag.startswith("quidnunc/") and not tag.startswith("quidnunc/v1/"):
        raise RemoteProtocolError(Reason.VERSION, f"message {tag[:64]!r}: this version speaks quidnunc/v1")
    raise Malformed(f"message {tag[:64]!r}: unknown tag or wrong fields")


def _span(first: int, last: int) -> tuple[int, int]:
    if isinstance(first, bool) or isinstance(last, bool) or not 1 <= first <= last <= NUMBER_MAX:
        raise Malformed(f"update numbers {first} to {last}: expected 1 <= first <= last")
    return first, last


def _growth(old: int, new: int) -> tuple[int, int]:
    if isinstance(old, bool) or isinstance(new, bool) or not 1 <= old < new <= NUMBER_MAX:
        raise Malformed(f"a log of {old} and of {new} entries: expected 1 <= old < new")
    return old, new


def _range(first: int, last: int) -> tuple[int, int]:
    if isinstance(first, bool) or isinstance(last, bool) or not 0 <= first <= last <= NUMBER_MAX:
        raise Malformed(f"entries {first} to {last}: expected 0 <= first <= last")
    return first, last


def _entries(rows: list[Value]) -> tuple[Entry, ...]:
    if len(rows) > ENTRIES_MAX:
        raise Malformed(f"{len(rows)} entries, limit is {ENTRIES_MAX}")
    found = []
    for each in rows:
        match each:
            case [bytes(header), bytes(payload), bytes(salt)]:
                found.append(Entry(header, payload, salt))
            case _:
                raise Malformed("an entry must be an array of header, payload and salt")
    return tuple(found)


def _vouches(rows: list[Value]) -> tuple[VouchRow, ...]:
    if not 1 <= len(rows) <= VOUCHES_MAX:
        raise Malformed(f"{len(rows)} witnesses asked, expected 1 to {VOUCHES_MAX}")
    found = []
    for each in rows:
        match each:
            case [bytes(witness), int(old), bytes(root), list(path)] if len(witness) == len(root) == HASH_BYTES:
                hashes = _all_bytes(path, MAX_PATH + 1, "hashes")
                found.append(VouchRow(witness, _range(old, old)[0], root, hashes))
            case _:
                raise Malformed("a witness is asked by an array of log id, size, root and path")
    return tuple(found)


def _all_bytes(values: list[Value], limit: int, what: str) -> tuple[bytes, ...]:
    found = tuple(each for each in values if isinstance(each, bytes))
    if len(found) != len(values) or len(values) > limit:
        raise Malformed(f"expected at most {limit} {what}, found {len(values)} elements")
    return found


def frame(message: Message, body: bytes = b"") -> Frame:
    """A frame ready to be sent."""
    return Frame(write_message(message), body)


def entries_frame(
    federation: bytes, log_id: bytes, first: int, entries: Iterable[Entry], note: bytes = b""
) -> tuple[Frame, int]:
    """A frame with as many of ``entries`` as fit, and how many these are; ``note`` goes along only if all do.

    An entry that fits no frame at all, which takes a payload of almost 64 KiB, ends it.
    """
    taken: list[Entry] = []
    size, whole = 0, True
    for each in entries:
        grown = size + len(each.header) + len(each.payload) + len(each.salt) + 16
        if len(taken) == ENTRIES_MAX or size >= ENTRIES_BYTES or grown > HEADER_BYTES_MAX - ENTRIES_ROOM:
            whole = False
            break
        taken.append(Entry(each.header, each.payload, each.salt))
        size = grown
    return frame(Entries(federation, log_id, first, tuple(taken), note if whole else b"")), len(taken)
