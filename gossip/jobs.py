"""Numeric work as data: what the node asks to be computed and what comes back.

A job names vectors by hash only; the compute side reads and writes them in a :class:`~quidnunc.gossip.blobs.Blobs`.
That makes a compute process a pure function of (job, blobs), so that it can be killed and restarted at any moment,
and lets a node run in a process that never imports torch.

Weights are integers in parts per billion (ppb), because they are signed into the ledger.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.learning.accountant import summed_noise_u

PPM = 1_000_000
"""One, in parts per million: a sampling rate of 1 takes every example."""

PPB = 1_000_000_000
"""One, in parts per billion."""


class Unit(IntEnum):
    """Whose presence an epsilon is about: one record of a peer, or all of its training records together.

    SUM is about one record as well, against fewer: whoever listens, and a stated number of curious members, not all
    others together (gossip/private_sum.py). It is a unit of its own, because an epsilon of it is none of the others.
    """

    EXAMPLE = 0
    SITE = 1
    SUM = 2

    @property
    def label(self) -> str:
        """Its name in charters, flags and ``--json``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class PrivacyStep:
    """How one release is made.

    Unit example: clip each example's gradient to ``clip``, add N(0, (noise*clip)^2) to their sum. A release is
    ``steps`` such steps, each on a Poisson sample in which every example is with probability ``rate``, independently
    of all others; rate 1 takes every example. All steps count as released. Unit site: train plainly, clip the whole
    delta of the round to ``clip``, add the same noise once; ``rate`` and ``steps`` are 1. Unit sum: one step on every
    example, with noise of ``pair_multiplier`` for each pair of members on top, which cancels in their mean, and the sum
    divided by ``records``, the same number for everybody, instead of the examples that there are.
    """

    clip: float
    noise_multiplier: float
    rate: float = 1.0
    steps: int = 1
    unit: Unit = Unit.EXAMPLE
    pair_multiplier: float = 0.0
    records: int = 0


class Release(NamedTuple):
    """How one release was noised, and for whom: multiplier and sampling rate in millionths, noisy steps, unit.

    With unit sum ``noise_u`` is the noise of its own, ``pair_u`` that of each pair of ``members``, and up to
    ``colluders`` of them are curious. Clipping norms do not matter to its cost.
    """

    noise_u: int
    rate_ppm: int = PPM
    steps: int = 1
    unit: Unit = Unit.EXAMPLE
    pair_u: int = 0
    members: int = 0
    colluders: int = 0

    @property
    def sampled(self) -> bool:
        """Whether its batches were samples."""
        return self.rate_ppm != PPM


Spent = tuple[tuple[Release, int], ...]
"""All releases of a peer so far, by kind, each kind with how many there were."""


def counting(spent: Spent, unit: Unit, colluders: int = 0) -> Spent:
    """The releases among ``spent`` that an epsilon of ``unit`` adds up, each as what it is to that unit.

    For a site only its own. For a record those of a site as well, as if noised half as much: with one record more or
    less a clipped delta is another one within the same ball, at most twice the clip away. A private sum counts for a
    record against everybody by its own noise alone, and against ``colluders`` of its members (unit sum) by what the
    noise of honest pairs adds to that; what holds against everybody holds against them.
    """
    found: Counter[Release] = Counter()
    for release, count in spent:
        if release.unit == Unit.SITE:
            if unit == Unit.SITE:
                found[release] += count
            else:
                found[Release(release.noise_u // 2)] += count
        elif unit != Unit.SITE:
            found[against(release, colluders if unit == Unit.SUM else release.members)] += count
    return tuple(sorted(found.items()))


def against(release: Release, colluders: int) -> Release:
    """A release for records as the plain Gaussian release that it is against ``colluders`` of its members."""
    if release.unit != Unit.SUM:
        return release
    return Release(summed_noise_u(release.noise_u, release.pair_u, release.members - colluders))


@dataclass(frozen=True, slots=True)
class AccountJob:
    """What 1 to ``releases`` more releases would have cost at delta 10^-``delta_exp``. Answered by Accounted."""

    history: Spent
    release: Release
    releases: int
    delta_exp: int


@dataclass(frozen=True, slots=True)
class Accounted:
    """Cumulative epsilon (``_u``, rounded up) after further releases, and of all of them without any history.

    ``points`` are (releases, epsilon), ascending; a number between two costs as much as the greater.
    """

    points: tuple[tuple[int, int], ...]
    alone_u: int


@dataclass(frozen=True, slots=True)
class DescribeJob:
    """Build the task and say what it is. Answered by :class:`Described`."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a task is: schema hash, number of parameters, hash of the genesis params, and facts on local data.

    ``data_root`` is a plain hash of the local training tensors: private, to be salted before it is signed.
    """

    schema: bytes
    dim: int
    genesis: bytes
    examples: int
    holdout: int
    data_root: bytes


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train from ``base`` (unless ``train`` is false: a heartbeat) and quantize the step against ``replica``.

    With v = base + drag * (trained - base) - replica, the delta is quantize(v) and the new replica is
    replica + dequantize(delta). Answered by :class:`Trained`. All blobs are durable before the answer. ``personal`` is
    the state of the personal tensors, empty for that of the genesis model. ``privacy`` without ``train`` is a release
    of no record: its noise alone, which must be there to cancel that of others.
    """

    round: int
    number: int
    base: bytes
    replica: bytes
    train: bool
    drag: float
    privacy: PrivacyStep | None
    personal: bytes = b""


@dataclass(frozen=True, slots=True)
class Trained:
    """The delta of one round: its blob hash and size, and the replica it leads to.

    ``loss`` stays private, and so does ``personal``, the new state of the personal tensors.
    """

    round: int
    number: int
    delta: bytes
    size: int
    result: bytes
    loss: float
    personal: bytes = b""


@dataclass(frozen=True, slots=True)
class AdvanceJob:
    """Advance ``author``'s replica ``base`` by ``delta``. Answered by :class:`Advanced` or :class:`Rejected`.

    Refuses, with the reason: a delta that does not decode strictly, is of the wrong length, has a scale that is not
    a power of two in range, is not finite, or does not lead to ``result``.
    """

    author: bytes
    number: int
    base: bytes
    delta: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class AdoptJob:
    """Check that blob ``state`` is a params vector of this task (length, finite). Same answers as AdvanceJob."""

    author: bytes
    number: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Advanced:
    """``author``'s replica number ``number`` is now in the blobs under ``result``."""

    author: bytes
    number: int
    result: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """``author``'s body number ``number`` was refused; nothing was written."""

    author: bytes
    number: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Direct evidence on one neighbor: good mass, bad mass, smoothed holdout harm. See ``gossip/reputation.py``."""

    good: float
    bad: float
    harm: float


@dataclass(frozen=True, slots=True)
class MergeInput:
    """One neighbor's replica as a merge sees it. ``weight`` is its mixing weight in ppb, before reputation."""

    author: bytes
    state: bytes
    weight: int
    standing: Standing
    fresh: bool


@dataclass(frozen=True, slots=True)
class MergeJob:
    """Merge neighbors' replicas into ``pivot``, the own replica as just published. Answered by :class:`Merged`.

    All of them are judged with the own ``personal`` tensors.
    """

    round: int
    pivot: bytes
    inputs: tuple[MergeInput, ...]
    personal: bytes = b""


class Doubt(IntFlag):
    """What spoke against an input of a merge; none of them is good evidence for its standing."""

    LOSS = 1
    """Toward it the loss on the own holdout grows more than toward the others."""
    DISTANCE = 2
    """It lies much farther from the middle of all states than the others do."""
    DIRECTION = 4
    """It holds less of what all have in common than the others do, or the opposite of it."""
    GATE = 8
    """It lies outside the gate that a charter sets."""


@dataclass(frozen=True, slots=True)
class MergedRow:
    """How one input entered a merge: effective weight and clip factor in ppb, its new standing, and ``doubts``, of
    :class:`Doubt`, that it met.
    """

    author: bytes
    state: bytes
    weight: int
    effective: int
    clip: int
    standing: Standing
    doubts: int


WITHHELD = 4
"""The step of a merge for which there were fewer rows than the rule needs: the pivot was kept.

3 is the adoption of a median, which is no merge.
"""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge result: ``pivot + sum(effective/1e9 * (state - pivot))``, exactly, in row order, in float32.

    ``step`` is 0 when the full step was taken, 1 for a quarter step, 2 when it was not taken at all, 4 (WITHHELD)
    when the rule needs more rows than were given. ``approximate`` marks rules without scalar weights: the equation
    does not hold, and a row's effective weight is the mean part it had in a coordinate.
    """

    round: int
    result: bytes
    rows: tuple[MergedRow, ...]
    step: int
    approximate: bool


@dataclass(frozen=True, slots=True)
class MedianJob:
    """Coordinate median of ``states``, written to the blobs: what a long-absent peer adopts. Answered by Adopted."""

    states: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Adopted:
    """The coordinate median asked for."""

    result: bytes


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """Measure ``state``, with the ``personal`` tensors, on the local test split. Answered by :class:`Evaluated`."""

    round: int
    state: bytes
    personal: bytes = b""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Local test metrics of a state; never sent to a peer."""

    round: int
    state: bytes
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The compute side could not finish ``job`` (its class name): a crash, a hang, a missing blob, user code.

    ``missing`` names the blob that was not there, if that was the cause; ``unwritable`` says that our own disk was,
    ``exhausted`` that memory ran out.
    """

    job: str
    why: str
    missing: bytes = b""
    author: bytes = b""
    number: int = 0
    unwritable: bool = False
    exhausted: bool = False


Job = DescribeJob | AccountJob | TrainJob | AdvanceJob | AdoptJob | MergeJob | MedianJob | EvaluateJob
Result = Described | Accounted | Trained | Advanced | Rejected | Merged | Adopted | Evaluated | JobFailed

_EXHAUSTION = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory")


def is_exhaustion(error: BaseException) -> bool:
    """Whether memory ran out: torch's allocators say so in a RuntimeError."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _EXHAUSTION)
