"""The private sum: less noise where members trust each other not to join in great number.

Every release carries a little noise of its own, and for each pair of members noise that one of them adds and the other
subtracts (DECOR: Allouah, Koloskova, El Firdoussi, Jaggi and Guerraoui 2024). In the mean over all members what is
left is their own noise alone, close to that of all records in one place; whoever sees single releases sees all of it.

So the promise is about one record, against whoever listens and up to ``colluders`` curious members who put all that
they know together: each of them knows the noise of its own pairs. Against more of them only the noise of one's own is
left, which is an epsilon too, a larger one. Whoever does not follow the protocol is outside of it: members' models are
hidden in noise far larger than any step, nothing can be screened, and a single member can spoil the model of all.

What makes it cancel:

- all members are neighbors of each other, the rule is the plain mean, and nobody's delta is scaled: one merge of all
  members' releases of one round is then their mean, to the last noise of a pair;
- the noise of a round is named by the round that stands in the signed update. Peers stay in step: a merge reads the
  releases of the round just published and no others, and updates of later rounds wait (:func:`reads`);
- a member that does not train in a round, because it is paused or its budget is spent, releases its noise all the
  same; it costs nothing, as no record is in it;
- every gradient sum is divided by one number that the charter names, not by a member's own count of records.

A member that is away leaves the noise of its pairs in the others' mean: of each of them, of that round. Nothing waits
for it, and the promise only grows. One that is back goes on with the round of the others (:func:`next_round`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from statistics import median_low
from typing import NamedTuple

from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.pairwise import PairKey, pair_key
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.privacy_terms import PRIVATE_SUM, PrivacySpec
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Release, Unit, against
from quidnunc.gossip.learning.accountant import epsilon_of, noise_for, summed_noise_u
from quidnunc.gossip.neighbor import Neighbor

PAIR_FACTOR = 2
"""Noise of a pair, in noises of one's own.

With more the honest ones' own noise could be smaller, down to 1/sqrt(h) of what one alone needs; at 2 and seven honest
members it is .415 instead of .378, and one absent member of eight leaves less noise behind than everybody's would be
without pairs.
"""


class Noise(NamedTuple):
    """Multipliers in millionths: of one's own noise, and of each pair."""

    own_u: int
    pair_u: int


def calibrated(epsilon: float, releases: int, delta: float, honest: int) -> Noise:
    """The least noise with which ``releases`` cost at most (epsilon, delta) against all but ``honest`` members.

    Pairs have PAIR_FACTOR times the noise of one's own.
    """
    needed_u = ceil(noise_for(epsilon, releases, delta) * 1e6)
    while epsilon_of(needed_u / 1e6, releases, delta) > epsilon:
        needed_u += 1
    low, high = 0, needed_u
    while high - low > 1:
        middle = (low + high) // 2
        if summed_noise_u(middle, PAIR_FACTOR * middle, honest) < needed_u:
            low = middle
        else:
            high = middle
    return Noise(high, PAIR_FACTOR * high)


def summed(
    epsilon_u: int, delta_exp: int, clip_u: int, rounds: int, *, members: int, colluders: int, records: int
) -> PrivacySpec:
    """The privacy of a charter with just the noise that it takes; raises CharterError for numbers out of range."""
    honest = members - colluders
    noise = calibrated(epsilon_u / MICRO, rounds, 10.0**-delta_exp, honest)
    return PrivacySpec(
        *(PRIVATE_SUM, epsilon_u, delta_exp, clip_u, noise.own_u, rounds),
        unit=Unit.SUM,
        pair_u=noise.pair_u,
        members=members,
        colluders=colluders,
        records=records,
    )


def epsilon_alone(release: Release, releases: int, delta: float) -> float:
    """What ``releases`` of a private sum cost where everybody else has joined in: one's own noise is all there is."""
    assert release.unit == Unit.SUM
    return epsilon_of(against(release, release.members).noise_u / 1e6, releases, delta)


def newest_round(neighbor: Neighbor) -> int:
    """The newest round of which a release of this neighbor is here, applied or waiting."""
    return max([neighbor.round, *(each.signed.update.round for each in neighbor.waiting.values())])


def next_round(published: int, neighbors: Iterable[Neighbor]) -> int:
    """The round that a peer whose newest release is of round ``published`` takes part in next.

    The one after it; but where most of its neighbors have gone on without it, the one after theirs. ``neighbors`` are
    those that are connected and were heard; a single one that claims to be far ahead moves nobody.
    """
    rounds = [newest_round(neighbor) for neighbor in neighbors]
    middle = median_low(rounds) if rounds else 0
    return middle + 1 if middle > published + 1 else published + 1


def reads(neighbor: Neighbor, round_: int, last: int) -> bool:
    """Whether a merge of releases of ``round_`` reads this neighbor: after the ``last`` one, whoever is past it too."""
    return neighbor.round == round_ or (round_ > last and neighbor.round > last)


def awaited(neighbors: Iterable[Neighbor], round_: int, now: float, patience_s: float) -> list[Neighbor]:
    """Those of the live ``neighbors`` whose release of ``round_`` a merge of that round waits for.

    One that has been silent for more than ``patience_s`` is not waited for.
    """
    late = [neighbor for neighbor in neighbors if neighbor.round < round_]
    return [n for n in late if n.last_advance is not None and now - n.last_advance <= patience_s]


def pair_keys(charter: Charter, me: bytes, transport: SecretKey) -> tuple[PairKey, ...]:
    """The keys of the pairs of the member whose log is ``me``, one with each other; none without a private sum.

    Raises Malformed for a transport key in the charter that is no key.
    """
    if charter.privacy.unit != Unit.SUM:
        return ()
    others = (member for member in charter.members if member.log_id != me)
    return tuple(pair_key(transport, me, each.transport, each.log_id, charter.federation_id) for each in others)
