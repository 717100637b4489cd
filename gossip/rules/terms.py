"""What a charter has to know of each merge rule: its options and their bounds, the rows it needs, how it counts rows.

Apart from the rules themselves and without numpy, so that a charter can be read and a command line parsed in no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import spelling

Options = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bound:
    """An option's range, both ends included, its default (None: must be given), and whether it counts things.

    One ``by_round`` changes from merge to merge: the peer sets it, no charter does.
    """

    low: float
    high: float
    default: float | None = None
    whole: bool = False
    by_round: bool = False

    def words(self) -> str:
        """``1 to 100``, or ``a whole number from 1 to 100``."""
        return f"{'a whole number from ' if self.whole else ''}{self.low:g} to {self.high:g}"


class Counting(StrEnum):
    """How a rule makes one state of many, which is what a ledger can say of a row."""

    MIXING = "mixing"
    """Every row by its mixing weight."""
    CLIPPING = "clipping"
    """By its mixing weight, differences beyond a radius shortened or dropped."""
    SELECTING = "selecting"
    """Some rows share all of the weight, the others have none."""
    WEIGHING = "weighing"
    """By weights that follow from all distances."""
    COORDINATE = "coordinate"
    """Every coordinate by itself: no weight of a row determines the result."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one rule; ``least_rows`` maps the number of bad rows to the rows it needs, the own included."""

    counting: Counting
    options: Mapping[str, Bound] = field(default_factory=dict)
    least_rows: Callable[[int], int] = lambda bad: 1


_BAD = Bound(0, 1000, None, whole=True)


def _majority(bad: int) -> int:
    return 2 * bad + 1


def _krum(bad: int) -> int:
    return 2 * bad + 3


def _neighbors(bad: int) -> int:
    return bad + 1


TERMS: Mapping[str, Terms] = {
    "mean": Terms(Counting.MIXING),
    "median": Terms(Counting.COORDINATE),
    "trimmed_mean": Terms(Counting.COORDINATE, {"bad": _BAD}, _majority),
    "mass_trimmed_mean": Terms(Counting.COORDINATE, {"mass": Bound(0.0, 0.499)}),
    "geometric_median": Terms(
        Counting.WEIGHING, {"steps": Bound(1, 100, 8, whole=True), "floor": Bound(1e-12, 1e6, 0.1)}
    ),
    "krum": Terms(Counting.SELECTING, {"bad": _BAD}, _krum),
    "multi_krum": Terms(Counting.SELECTING, {"bad": _BAD}, _krum),
    "centered_clip": Terms(Counting.CLIPPING, {"radius": Bound(0.0, 1e9), "steps": Bound(1, 100, 1, whole=True)}),
    "clipped_gossip": Terms(Counting.CLIPPING, {"bad": _BAD}, _neighbors),
    "cs_plus": Terms(Counting.CLIPPING, {"bad": _BAD}, _neighbors),
    "monna": Terms(Counting.SELECTING, {"bad": _BAD}, _majority),
    "rtc": Terms(Counting.CLIPPING, {"mass": Bound(1e-6, 0.499)}),
    "ios": Terms(Counting.SELECTING, {"bad": _BAD}, _neighbors),
    "balance": Terms(
        Counting.SELECTING,
        {
            "gate": Bound(0.0, 100.0, 0.3),
            "decay": Bound(0.0, 100.0, 1.0),
            "own": Bound(0.0, 1.0, 0.5),
            "t": Bound(0.0, 1.0, 0.0, by_round=True),
        },
    ),
}
"""Every rule of the catalogue by the name a configuration gives it; REPUTE, which keeps standings, is none of it."""


NEAREST = Bound(0, 1000, 0, whole=True)
"""The option ``nearest`` that every rule of the catalogue has: the number of bad rows for which rows are first replaced
by the mean of those nearest to them (nearest-neighbor mixing, Allouah et al. 2023); 0 for no mixing."""


def terms_named(name: str, others: Iterable[str] = ()) -> Terms:
    """The terms of the rule ``name``. Raises ConfigError with the nearest of the known names and ``others``."""
    if name not in TERMS:
        known = [*TERMS, *others]
        raise ConfigError(f"merge rule {name[:40]} is unknown", hint=nearest(name, known))
    return TERMS[name]


def checked_options(name: str, options: Options, *, charter: bool = False) -> dict[str, float]:
    """``options`` of the rule ``name`` with its defaults. Raises ConfigError for an unknown, missing or bad one.

    A ``charter`` cannot give what changes from round to round.
    """
    bounds = {**terms_named(name).options, "nearest": NEAREST}
    known = {key: bound for key, bound in bounds.items() if not (charter and bound.by_round)}
    for key in options:
        if key not in known:
            raise ConfigError(f"merge rule {name} has no option {key[:40]}", hint=nearest(key, list(known)))
    return {key: _checked(name, key, bound, options.get(key, bound.default)) for key, bound in known.items()}


def _checked(name: str, key: str, bound: Bound, value: float | None) -> float:
    remedy = f"give {key} {bound.words()}" if bound.default is None else f"leave it out for {bound.default:g}"
    if value is None:
        raise ConfigError(f"merge rule {name} needs the option {key}", hint=remedy)
    if not (isfinite(value) and bound.low <= value <= bound.high):
        raise ConfigError(
            f"option {key} of {name} is {value:.10g}, must be {bound.low:g} to {bound.high:g}", hint=remedy
        )
    if bound.whole and value != int(value):
        raise ConfigError(f"option {key} of {name} is {value:.10g}, must be a whole number", hint=remedy)
    return value


def least_rows(name: str, options: Options) -> int:
    """The rows, the own included, that the rule ``name`` needs with ``options``; 1 for a rule without such a need."""
    terms = TERMS.get(name)
    if terms is None:
        return 1
    return max(_majority(int(options.get("nearest", 0))), terms.least_rows(int(options.get("bad", 0))))


def nearest(name: str, known: list[str]) -> str:
    """A hint for a name that is none of ``known``: the one most like it, else all of them."""
    return spelling.hint(name, known, otherwise=f"known are {', '.join(known) or 'none'}")
