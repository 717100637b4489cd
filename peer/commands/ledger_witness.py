"""Who else vouches for this ledger: the cosignatures it keeps, held against the charter's members, offline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from quidnunc.crypto.checkpoint import origin_of, parse_checkpoint, witness_verifier
from quidnunc.crypto.errors import LedgerCorrupt, RemoteProtocolError
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.crypto.note import MAX_SIGNATURES, Note, Signature, Verifier, format_note, parse_note, verify_note
from quidnunc.crypto.policy import Policy, Witness, judge, quorum_of
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.commands.entry_times import checked, summaries
from quidnunc.peer.commands.trust import latest_time
from quidnunc.peer.ledger.findings import Layer
from quidnunc.peer.ledger.members_keys import retired_members
from quidnunc.peer.ledger.store import Store

SELF_ATTESTED = "SELF-ATTESTED"
"""What a ledger without a quorum of cosignatures amounts to: its owner could have rewritten all of it."""

NOT_CHECKED = "NOT CHECKED"
"""What is said of cosignatures where nobody knows whose they may be."""


class Seen(NamedTuple):
    """A member that cosigned the checkpoint of ``size`` entries, at ``time`` (seconds since 1970, by its clock).

    Of one that has ended its log, or is no witness of this one, it is told, and it does not count.
    """

    name: str
    size: int
    time: int
    log_id: bytes
    counts: bool = True


class Witnessed(NamedTuple):
    """The verdict. ``size`` entries are under the cosignatures of a quorum (0: none); ``layer`` says what is wrong.

    ``witnesses`` are those that may count: who witnesses this log by the charter, but not who has ended its own.
    ``known`` is False where there are cosignatures, and no charter says who the members are.
    """

    size: int
    seen: tuple[Seen, ...]
    witnesses: int
    quorum: int
    layer: Layer
    known: bool = True

    @property
    def counted(self) -> list[Seen]:
        """Those whose cosignatures count."""
        return [each for each in self.seen if each.counts]

    @property
    def label(self) -> str:
        """``WITNESSED k of n``, k of whom saw ``size`` entries or more, or ``SELF-ATTESTED`` without a quorum."""
        if not self.known:
            return NOT_CHECKED
        count = sum(each.size >= self.size for each in self.counted)
        return f"WITNESSED {count} of {self.witnesses}" if self.size else SELF_ATTESTED


NOBODY = Witnessed(0, (), 0, 0, Layer("cosignatures"))
"""The verdict where cosignatures cannot be read."""


def cosigned_note(store: Store, members: Sequence[Member], seq: int) -> bytes | None:
    """The own checkpoint over entry ``seq`` that most of the other ``members`` cosigned, with their lines.

    Of several with as many the newest, without any the newest of all; None where none covers the entry. Lines that
    do not verify stay behind: one bad line of a known key would spoil the whole note.
    """
    lines: dict[int, list[Signature]] = {}
    others = {each.log_id: each for each in members if each.log_id != store.log_id}
    for log_id, (size, note) in sorted(store.cosignatures().items()):
        own = store.checkpoint_at(size)
        if log_id not in others or size <= seq or own is None:
            continue
        key = witness_verifier(log_id, others[log_id].witness)
        try:
            parsed = parse_note(note)
            if parsed.text == parse_note(own).text and verify_note(parsed, [key]):
                lines.setdefault(size, []).append(_line_of(parsed, key))
        except RemoteProtocolError:
            continue
    newest = store.checkpoint()
    if not lines:
        return newest if newest is not None and parse_checkpoint(parse_note(newest).text).size > seq else None
    best = max(lines, key=lambda size: (len(lines[size]), size))
    own = store.checkpoint_at(best)
    assert own is not None
    signed = parse_note(own)
    return format_note(signed._replace(signatures=(*signed.signatures, *lines[best][: MAX_SIGNATURES - 1]))).encode()


def counting(store: Store, members: Sequence[Member], elected: Collection[bytes] | None) -> tuple[Member, ...]:
    """The owner, and those of ``members`` whose cosignatures count: the ``elected`` (None: all of them), without those
    that have ended their logs, as far as ``store`` can show that.

    Where a notice does not hold nobody is left out for it; ``verify`` reports it.
    """
    gone = _retired(store, members, Layer("cosignatures"))
    able = members if elected is None else [each for each in members if each.log_id in (*elected, store.log_id)]
    return tuple(each for each in able if each.log_id not in gone)


def _retired(store: Store, members: Sequence[Member], layer: Layer) -> frozenset[bytes]:
    try:
        return retired_members(store, members)
    except LedgerCorrupt as error:
        layer.checked += 1
        layer.report("I15", error.seq, error.why)
        return frozenset()


def _line_of(note: Note, key: Verifier) -> Signature:
    return next(each for each in note.signatures if (each.name, each.key_id) == (key.name, key.id))


def witnessed(store: Store, members: Sequence[Member], elected: Collection[bytes] | None) -> Witnessed:
    """Hold the kept cosignatures against the own checkpoints they stand under and the keys of all other ``members``;
    those of ``elected`` count (None: all).

    Whoever cosigned a checkpoint vouches for every smaller one: it checked that they are of one history, and
    ``ledger verify`` checks that they are of this one.
    """
    layer = Layer("cosignatures")
    if not members:
        return Witnessed(0, (), 0, 0, layer, known=not store.cosignatures())
    others = {each.log_id: each for each in members if each.log_id != store.log_id}
    mine = any(each.log_id == store.log_id for each in members)
    try:
        keys = store.keys
    except LedgerCorrupt:  # its entries are told of by their own layers
        keys = LogKeys.of(store.public)
    gone = _retired(store, members, layer)
    voters = (others.keys() if elected is None else others.keys() & set(elected)) - gone
    seen: list[Seen] = []
    for log_id, (size, note) in sorted(store.cosignatures().items()):
        layer.checked += 1
        member = others.get(log_id)
        if member is None or not mine:
            layer.report("I16", size, f"cosigned by {log_id.hex()[:16]}, who is not a member of the charter")
            continue
        own = Verifier(origin_of(store.log_id), keys.at(size) or store.public)
        policy = Policy((own,), (Witness(member.name, witness_verifier(log_id, member.witness)),))
        try:
            parsed = parse_note(note)
            kept = store.checkpoint_at(size)
            if kept is None or parse_note(kept).text != parsed.text:
                layer.report("I16", size, f"{member.name} cosigned what is not the own checkpoint of that size")
                continue
            found = judge(parsed, policy, latest=latest_time()).cosigners
        except RemoteProtocolError as error:
            layer.report("I16", size, f"cosignature of {member.name}: {error.message}")
            continue
        if found:
            seen.append(Seen(member.name, size, found[0].time, log_id, log_id in voters))
        else:
            layer.report("I16", size, f"{member.name} did not cosign the note that is kept as its")
    _check_summaries(store, others, layer)
    quorum = quorum_of(len(voters)) if voters else 0
    sizes = sorted((each.size for each in seen if each.counts), reverse=True)
    size = sizes[quorum - 1] if quorum and len(sizes) >= quorum else 0
    return Witnessed(size, tuple(seen), len(voters), quorum, layer)


def _check_summaries(store: Store, others: Mapping[bytes, Member], layer: Layer) -> None:
    """The cosignatures that entries hold are the witnesses', under own checkpoints."""
    for seq, summary in summaries(store):
        for row in summary.rows:
            layer.checked += 1
            member = others.get(row.witness)
            if member is None:
                layer.report("I16", seq, f"summary: {row.witness.hex()[:16]} is not a member of the charter")
            elif not checked(store, row, member):
                layer.report("I16", seq, f"summary: {member.name} did not cosign the own checkpoint of {row.size}")
