"""The thresholds of REPUTE by the names they have in a charter, and their defaults with and without privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.rules.terms import Bound, nearest

REPUTE = "repute"
"""The default rule's name."""


@dataclass(frozen=True, slots=True)
class ReputeOptions:
    """The thresholds of REPUTE, by the names they have in a charter.

    ``radius``: clip radius in median distances. ``least_share``: bad holds less than this part of what the median
    peer holds of the others. ``outlier_spread``, ``outlier_margin``: far is who is farther from the common coordinate
    median than median + spread * MAD + margin * median of all such distances, and bad unless smoothed harm is below 0;
    who is far even with ``outlier_gross`` in place of a smaller margin is bad anyhow. ``probe_step``: the part of a
    clipped step that is probed. ``harm_scale``, ``harm_cap``: relative harm is (loss - own)/(own + harm_scale *
    untrained), cut at harm_cap. ``harm_memory``: how much of the old smoothed harm is kept. ``harm_floor``,
    ``harm_spread``, ``harm_margin``: bad is above max(floor, median + spread * MAD + margin). ``gate``: BALANCE's
    gamma, 0 for none, never with privacy. ``validate_factor``, ``validate_margin``: a result is refused if its holdout
    loss exceeds both factor * own + margin and the loss of untrained params.
    """

    radius: float = 1.5
    outlier_spread: float = 5.0
    outlier_margin: float = 1.0
    outlier_gross: float = 3.0
    least_share: float = 0.1
    probe_step: float = 0.5
    harm_scale: float = 0.4
    harm_cap: float = 10.0
    harm_memory: float = 0.8
    harm_floor: float = 0.05
    harm_spread: float = 4.0
    harm_margin: float = 0.2
    gate: float = 0.0
    validate_factor: float = 1.25
    validate_margin: float = 0.05


PRIVATE = ReputeOptions(outlier_margin=2.0, outlier_gross=2.0, harm_margin=1.0)
"""The defaults under privacy noise.

Noise makes the distances of honest peers with smaller data sets larger, and losses on a small holdout so uneven that
they prove little: both tests look for gross cases only. The share in the common model is what noise cannot hide.
"""


_ANY = Bound(0.0, 1e6)
BOUNDS: Mapping[str, Bound] = {
    "radius": Bound(0.0, 1000.0),
    "outlier_spread": _ANY,
    "outlier_margin": _ANY,
    "outlier_gross": _ANY,
    "least_share": Bound(0.0, 1.0),
    "probe_step": Bound(0.0, 1.0),
    "harm_scale": _ANY,
    "harm_cap": _ANY,
    "harm_memory": Bound(0.0, 0.999),
    "harm_floor": _ANY,
    "harm_spread": _ANY,
    "harm_margin": _ANY,
    "gate": Bound(0.0, 100.0),
    "validate_factor": _ANY,
    "validate_margin": _ANY,
}
"""The range of each threshold. A million switches a test off; a memory of one would never learn, more would diverge."""


def repute_options(options: Mapping[str, float], *, private: bool = False) -> ReputeOptions:
    """The defaults with ``options`` applied. Raises ConfigError for an unknown name or a value out of BOUNDS."""
    for name, value in options.items():
        if name not in BOUNDS:
            raise ConfigError(f"merge option {name[:40]} is unknown", hint=nearest(name, list(BOUNDS)))
        bound = BOUNDS[name]
        if not (isfinite(value) and bound.low <= value <= bound.high):
            raise ConfigError(
                f"merge option {name} is {value:.10g}, must be {bound.low:g} to {bound.high:g}",
                hint="leave it out for its default",
            )
    return replace(PRIVATE if private else ReputeOptions(), **options)
