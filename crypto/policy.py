"""Who must have cosigned a checkpoint before it is believed, and who has.

A log without enough cosignatures is *self-attested*: its owner could have rewritten all of it. One that a quorum
has cosigned is *witnessed*: within the trust put in the witnesses there is no other history.

Times are bounds and are never blended. *Not after*: a quorum had cosigned a checkpoint that holds the entry.
*Not before*: the log cites, at the entry or earlier, something that did not exist until then. *First unseen*,
which proves nothing: the newest cosignature on a checkpoint without the entry. A log's own claim beside them is
backdated or postdated where it lies outside the first two by more than clocks may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from quidnunc.crypto.checkpoint import Checkpoint, parse_checkpoint
from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError
from quidnunc.crypto.note import (
    MAX_TIME,
    Note,
    Verifier,
    cosignature_time,
    verify_note,
)

NO_QUORUM = "none"
CLOCK_SKEW_S = 300
"""How far two honest clocks may differ."""


class Witness(NamedTuple):
    """Who may cosign: a name that only the policy uses, and the key."""

    name: str
    verifier: Verifier


class Group(NamedTuple):
    """Has witnessed once ``need`` of its ``members``, witnesses or earlier groups by name, have."""

    name: str
    need: int
    members: tuple[str, ...]


class Policy(NamedTuple):
    """Known logs and witnesses, and the witness or group without which nothing counts as witnessed."""

    logs: tuple[Verifier, ...]
    witnesses: tuple[Witness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str = NO_QUORUM

    @property
    def rule(self) -> str:
        """What is needed, in words, for example ``2 of 3``."""
        group = next((each for each in self.groups if each.name == self.quorum), None)
        return f"{group.need} of {len(group.members)}" if group else self.quorum


class Cosigner(NamedTuple):
    """A witness that cosigned, by its name in the policy, and when, in seconds since 1970."""

    name: str
    time: int


class Verdict(NamedTuple):
    """Who vouches for a checkpoint. ``cosigners`` ascend by time; ``since`` is when the quorum was complete."""

    checkpoint: Checkpoint
    cosigners: tuple[Cosigner, ...]
    witnesses: int
    met: bool
    since: int | None

    @property
    def label(self) -> str:
        """``WITNESSED k of n``, or ``SELF-ATTESTED`` without a quorum of witnesses."""
        if self.met and self.cosigners:
            return f"WITNESSED {len(self.cosigners)} of {self.witnesses}"
        return "SELF-ATTESTED"


class TimeBounds(NamedTuple):
    """What is known of an entry's time beside its claim; seconds since 1970, None where nothing is."""

    claimed_ms: int
    not_before: int | None
    not_after: int | None
    first_unseen: int | None

    @property
    def flag(self) -> str:
        """``BACKDATED``, ``POSTDATED`` or ""."""
        claimed = self.claimed_ms // 1000
        if self.not_before is not None and claimed < self.not_before - CLOCK_SKEW_S:
            return "BACKDATED"
        if self.not_after is not None and claimed > self.not_after + CLOCK_SKEW_S:
            return "POSTDATED"
        return ""


def quorum_of(witnesses: int) -> int:
    """The smallest k above (n + f)/2, f = floor((n - 1)/3): f liars cannot lend two histories a quorum each."""
    if witnesses < 1:
        raise LocalProtocolError(f"no quorum of {witnesses} witnesses")
    return (witnesses + (witnesses - 1) // 3) // 2 + 1


def flat_policy(log: Verifier, witnesses: Sequence[Witness], need: int) -> Policy:
    """``need`` of ``witnesses`` for the one ``log``; the log's owner is not among them."""
    names = tuple(each.name for each in witnesses)
    if not 0 <= need <= len(names) or len(set(names)) != len(names):
        raise LocalProtocolError(f"a quorum of {need} among {len(set(names))} different witnesses")
    if need == 0:
        return Policy((log,), tuple(witnesses))
    # A witness may be called "quorum"; it must not pass for all of them.
    group = "quorum"
    while group in names:
        group += "'"
    return Policy((log,), tuple(witnesses), (Group(group, need, names),), group)


def judge(note: Note, policy: Policy, *, latest: int = MAX_TIME) -> Verdict:
    """Who of ``policy`` vouches for the checkpoint in ``note``; cosignatures later than ``latest`` do not count.

    Raises :class:`RemoteProtocolError`: :attr:`Reason.STRANGER` for a checkpoint of another log,
    :attr:`Reason.BAD_SIGNATURE` where the log's key did not sign or a known key's line is wrong.
    """
    checkpoint = parse_checkpoint(note.text)
    logs = [verifier for verifier in policy.logs if verifier.name == checkpoint.origin]
    if not logs:
        raise RemoteProtocolError(Reason.STRANGER, f"checkpoint of {checkpoint.origin}, which the policy does not list")
    if not verify_note(note, logs):
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"checkpoint is not signed by the key of {checkpoint.origin}")
    verify_note(note, [witness.verifier for witness in policy.witnesses])
    times: dict[str, int] = {}
    for witness in policy.witnesses:
        own = [
            cosignature_time(line)
            for line in note.signatures
            if (line.name, line.key_id) == (witness.verifier.name, witness.verifier.id)
        ]
        seen = [time for time in own if time <= latest]
        if seen:
            times[witness.name] = min(seen)
    cosigners = sorted((Cosigner(*each) for each in times.items()), key=lambda each: (each.time, each.name))
    since = _complete(policy, times)
    met = policy.quorum == NO_QUORUM or since is not None
    return Verdict(checkpoint, tuple(cosigners), len(policy.witnesses), met, since)


def time_bounds(
    seq: int, claimed_ms: int, verdicts: Iterable[Verdict], cited: Iterable[tuple[int, int]] = ()
) -> TimeBounds:
    """What ``verdicts`` on checkpoints of one log say of the time of its entry ``seq``.

    ``cited`` are (seq, seconds) of entries of the same log that name what did not exist before that second: a
    foreign cosigned checkpoint or a peer's token.
    """
    after: list[int] = []
    unseen: list[int] = []
    for verdict in verdicts:
        if verdict.checkpoint.size <= seq:
            unseen += [each.time for each in verdict.cosigners]
        elif verdict.since is not None:
            after.append(verdict.since)
    before = [time for at, time in cited if at <= seq]
    return TimeBounds(claimed_ms, max(before, default=None), min(after, default=None), max(unseen, default=None))


def _complete(policy: Policy, times: dict[str, int]) -> int | None:
    """When the last cosignature came that the quorum needed, None if it is not complete."""
    known: dict[str, int] = dict(times)
    for group in policy.groups:
        ready = sorted(known[name] for name in group.members if name in known)
        if len(ready) >= group.need:
            known[group.name] = ready[group.need - 1]
    return known.get(policy.quorum)
