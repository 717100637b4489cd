"""Who else vouches for this ledger: the cosignatures it keeps, held against the charter's members, offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from quidnunc.crypto.checkpoint import witness_verifier
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.crypto.note import parse_note
from quidnunc.crypto.policy import Policy, Witness, judge, quorum_of
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.commands.entry_times import checked, summaries
from quidnunc.peer.commands.trust import latest_time, log_key
from quidnunc.peer.ledger.ledger_check import Layer
from quidnunc.peer.ledger.store import Store

SELF_ATTESTED = "SELF-ATTESTED"
"""What a ledger without a quorum of cosignatures amounts to: its owner could have rewritten all of it."""


class Seen(NamedTuple):
    """A member that cosigned the checkpoint of ``size`` entries, at ``time`` (seconds since 1970, by its clock)."""

    name: str
    size: int
    time: int


class Witnessed(NamedTuple):
    """The verdict. ``size`` entries are under the cosignatures of a quorum (0: none); ``layer`` says what is wrong."""

    size: int
    seen: tuple[Seen, ...]
    witnesses: int
    quorum: int
    layer: Layer

    @property
    def label(self) -> str:
        """``WITNESSED k of n``, k of whom saw ``size`` entries or more, or ``SELF-ATTESTED`` without a quorum."""
        count = sum(each.size >= self.size for each in self.seen)
        return f"WITNESSED {count} of {self.witnesses}" if self.size else SELF_ATTESTED


NOBODY = Witnessed(0, (), 0, 0, Layer("cosignatures"))
"""The verdict where cosignatures cannot be read."""


def witnessed(store: Store, members: Sequence[Member]) -> Witnessed:
    """Hold the kept cosignatures against the own checkpoints they stand under and the keys of all other ``members``.

    Whoever cosigned a checkpoint vouches for every smaller one: it checked that they are of one history, and
    ``ledger verify`` checks that they are of this one.
    """
    layer = Layer("cosignatures")
    if not members:
        return Witnessed(0, (), 0, 0, layer)
    others = {each.log_id: each for each in members if each.log_id != store.log_id}
    own = next((log_key(each) for each in members if each.log_id == store.log_id), None)
    seen: list[Seen] = []
    for log_id, (size, note) in sorted(store.cosignatures().items()):
        layer.checked += 1
        member = others.get(log_id)
        if member is None or own is None:
            layer.report("I16", size, f"cosigned by {log_id.hex()[:16]}, who is not a member of the charter")
            continue
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
            seen.append(Seen(member.name, size, found[0].time))
        else:
            layer.report("I16", size, f"{member.name} did not cosign the note that is kept as its")
    _check_summaries(store, others, layer)
    quorum = quorum_of(len(others)) if others else 0
    sizes = sorted((each.size for each in seen), reverse=True)
    size = sizes[quorum - 1] if quorum and len(sizes) >= quorum else 0
    return Witnessed(size, tuple(seen), len(others), quorum, layer)


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
