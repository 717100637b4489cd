"""What a charter must say for a private sum to be private, and a sum: see ``gossip/private_sum.py``."""

from __future__ import annotations

from collections.abc import Sequence

from quidnunc.crypto.errors import CharterError, Malformed
from quidnunc.crypto.pairwise import check_transport
from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.terms import MICRO, MergeSpec, RoundSpec, TaskSpec

LEAD = 1
"""Rounds a member may be ahead of another: they take turns in step."""


def check_private_sum(
    privacy: PrivacySpec,
    merge: MergeSpec,
    rounds: RoundSpec,
    task: TaskSpec,
    *,
    transports: Sequence[bytes],
    edges: int,
) -> None:
    """Raise CharterError for terms under which the noise of pairs would not cancel, or the promise not hold.

    Both codecs pass: they round without bias and each for itself, so that what int8 leaves of a pair is more noise of
    one's own, of less than a quarter of its variance with up to SUM_MEMBERS_MAX members.
    """
    members = len(transports)
    if privacy.members != members:
        raise CharterError(f"privacy.members is {privacy.members}, the charter has {members} members")
    if privacy.releases != rounds.count:
        raise CharterError(
            f"privacy.releases is {privacy.releases}, must be rounds.count, {rounds.count}: a private sum has noise in "
            "these rounds and in no others"
        )
    if edges != members * (members - 1) // 2:
        raise CharterError(
            f"a private sum takes all {members * (members - 1) // 2} links between {members} members, there are "
            f"{edges}: the noise of a pair cancels where both of its members are read, and what is left against "
            "colluders depends on the links between all others",
            hint="draft it again with federation create: it links all members",
        )
    if merge.rule != "mean" or merge.mixes:
        raise CharterError(
            f"merge rule {merge.rule}{' with nearest' if merge.mixes else ''} with a private sum: robust rules and "
            "reputation compare single models, which pair noise hides, and what they leave out no longer cancels",
            hint="take the plain mean and trust all members to follow the protocol, or privacy without pairs",
        )
    if merge.size_cap_u:
        raise CharterError(
            "merge.size_cap_u with a private sum: pair noise cancels between equal weights only",
            hint="leave it out: everybody's gradients are divided by the same number, so that sizes count already",
        )
    if merge.drag_cap_u != MICRO:
        raise CharterError(
            f"merge.drag_cap_u is {merge.drag_cap_u} with a private sum, must be {MICRO}: members that scale their "
            "releases differently do not cancel"
        )
    if rounds.lead != LEAD:
        raise CharterError(
            f"rounds.lead is {rounds.lead} with a private sum, must be {LEAD}: pair noise cancels within one round"
        )
    for public in transports:
        try:
            check_transport(public)
        except Malformed as error:
            raise CharterError(f"private sum: {error.message}", hint="ask its owner for a fresh card") from None
    if task.personal:
        raise CharterError(
            "task.personal with a private sum: the noise of pairs on personal tensors would cancel nowhere, since "
            "nobody sends them",
            hint="share all tensors, or take privacy without pairs",
        )
