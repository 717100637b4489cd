"""The numbers of ``federation create``: each within a bound that is named, before anything is built from it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.privacy_terms import SUM_MEMBERS_MAX, SUM_RECORDS_MAX
from quidnunc.gossip.federation.terms import MAX_ROUNDS, MICRO
from quidnunc.gossip.jobs import Unit
from quidnunc.peer.output import UsageError

EPSILON_MIN = 1 / MICRO
EPSILON_MAX = 1000.0
"""As the charter's format: an epsilon of 10 is weak already, and 1000 says nothing about a record any more."""
EPSILON_WEAK = 16.0
"""Above this a draft is warned of: the odds of a guess may change by a factor of 10^7."""
DELTA_EXP_WEAK = 3
DELTA_EXP = 5
"""Of a draft that names none."""
INTERVAL_MAX_S = 7 * 86_400


class _Bound(NamedTuple):
    flag: str
    low: int
    high: int


_WHOLE = (
    _Bound("--rounds", 1, MAX_ROUNDS),
    _Bound("--delta-exp", 1, 15),
    _Bound("--local-steps", 1, 100_000),
    _Bound("--batch", 1, 1_000_000),
    _Bound("--site-peers", 1, 4096),
    _Bound("--seed", 0, 2**63 - 1),
)


def check_whole_numbers(args: argparse.Namespace) -> None:
    """Raise UsageError for a whole number outside its bound; flags that were not given are None and pass."""
    for flag, low, high in _WHOLE:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if value is not None and not low <= value <= high:
            raise UsageError(f"{flag} is {_short(value)}, must be {low} to {high}")


def finite_or_inf(text: str) -> float:
    """The finite number in ``text``, inf for the word inf, else nan.

    A number that is too large for a float reads as infinite, and is none here: nobody gives up privacy by mistyping
    an exponent.
    """
    try:
        value = float(text)
    except ValueError:
        return math.nan
    worded = text.strip().lower().lstrip("+") in ("inf", "infinity")
    return math.nan if math.isinf(value) and not worded else value


def epsilon(text: str) -> float:
    """The value of ``--epsilon``: EPSILON_MIN to EPSILON_MAX, or the word inf for no privacy at all."""
    value = finite_or_inf(text)
    if not (EPSILON_MIN <= value <= EPSILON_MAX or value == math.inf):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not {EPSILON_MIN:f} to {EPSILON_MAX:g}, nor inf for no privacy at all"
        )
    return value


def check_site(epsilon: float, rate: float | None) -> None:
    """Raise UsageError for what contradicts ``--privacy-unit site``."""
    if epsilon == math.inf:
        raise UsageError(
            "--privacy-unit site without privacy: --epsilon inf promises nothing to anybody",
            hint="give a finite --epsilon, or leave --privacy-unit out",
        )
    if rate is not None:
        raise UsageError(
            "--sampling-rate does not go with --privacy-unit site: a site takes part whole or not at all, so that "
            "samples of its records hide nothing of it",
            hint="leave --sampling-rate out; --batch and --local-steps shape its training",
        )


def check_unused(args: argparse.Namespace) -> None:
    """Raise UsageError for a flag that the privacy of this draft has no use for: it would change nothing, unsaid."""
    if args.epsilon == math.inf:
        for flag, given in (("--clip", args.clip), ("--delta-exp", args.delta_exp)):
            if given is not None:
                raise UsageError(
                    f"{flag} without privacy: with --epsilon inf nothing is clipped and no noise is added",
                    hint=f"leave {flag} out, or give a finite --epsilon",
                )
    elif args.batch is not None and args.privacy_unit != Unit.SITE.label:
        taken = "all records" if args.sampling_rate is None else "each record with probability --sampling-rate"
        raise UsageError(
            f"--batch does not go with privacy of single records: every step takes {taken}",
            hint="leave --batch out; samples are shaped by --sampling-rate, and --privacy-unit site takes batches",
        )


def clip_norm(value: float) -> int:
    """``--clip`` in millionths; raises UsageError outside one of them to a million."""
    if not 1 / MICRO <= value <= 1e6:
        raise UsageError(
            f"--clip is {value:.12g}, must be 0.000001 to 1000000",
            hint="it is the length at which a gradient or a site's delta is cut; leave it out for the task's own",
        )
    return round(value * MICRO)


def check_sum(colluders: int, members: int, *, epsilon: float, unit: str, rate: float | None) -> None:
    """Raise UsageError for what contradicts ``--private-sum``."""
    if epsilon == math.inf:
        raise UsageError("--private-sum without privacy: --epsilon inf", hint="give a finite --epsilon")
    if unit != Unit.EXAMPLE.label or rate is not None:
        raise UsageError(
            "--private-sum is about single records and takes all of them in every step",
            hint="leave --privacy-unit and --sampling-rate out",
        )
    if not 3 <= members <= SUM_MEMBERS_MAX:
        raise UsageError(f"--private-sum with {members} members, must be 3 to {SUM_MEMBERS_MAX}")
    if not 1 <= colluders <= members - 2:
        raise UsageError(
            f"--private-sum is {_short(colluders)}, must be 1 to {members - 2}: two of {members} members must be honest"
        )


def usual_records(given: int | None, members: Sequence[Member]) -> int | None:
    """``--records`` or else the mean number by the cards, which round theirs down to a power of two; None without any.

    Raises UsageError for a number out of range.
    """
    if given is not None and not 1 <= given <= SUM_RECORDS_MAX:
        raise UsageError(f"--records is {_short(given)}, must be 1 to {SUM_RECORDS_MAX}")
    told = [member.size_bucket for member in members if member.size_bucket]
    if given is not None or not told:
        return given
    return round(fmean(1.5 * 2**bucket for bucket in told))


def micro(what: str, value: float) -> int:
    """``value`` in millionths; raises UsageError outside 0 to a million."""
    if not 0 <= value <= 1e6:
        raise UsageError(f"{what} is {value:g}, must be 0 to 1000000")
    return round(value * MICRO)


def millis(seconds: float) -> int:
    """``--interval`` in milliseconds; raises UsageError outside 0 to a week."""
    if not 0 <= seconds <= INTERVAL_MAX_S:
        raise UsageError(f"--interval is {seconds:g}, must be 0 to {INTERVAL_MAX_S} seconds")
    return round(seconds * 1000)


def _short(value: int) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
