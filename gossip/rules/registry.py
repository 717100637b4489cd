"""The catalogue of merge rules by name, and how any of them is applied to a stack.

A stack is float32 [..., k, d], row 0 the own model; weights are float64 [..., k] >= 0 that sum to one. Arrays are
numpy's, as everywhere between wire and ledger: the rules need no gradient, and a process that merges need not load
torch. Work goes in blocks of coordinates, so that memory beyond the result stays far below that of the stack.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.rules import central, coordinate, decentral
from quidnunc.gossip.rules.gram import Matrix, RefusedRows, blocks, combine, gram, squares
from quidnunc.gossip.rules.linear import Reals, Stack, Vector

Options = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bound:
    """A parameter's range, both ends included, its default (None: must be given), and whether it counts things."""

    low: float
    high: float
    default: float | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: how it computes (one of ``by_*``), its parameters, and the least number of rows by ``bad``.

    ``by_coordinate`` maps (block [..., k, c], weights, options) to [..., c]; ``by_pairs`` and ``by_distance`` map Gram
    products or squared distances, weights, the own row's norm [..., 1] and options to coefficients [..., k].
    """

    parameters: Mapping[str, Bound]
    by_coordinate: Callable[[Stack, Reals, Options], Vector] | None = None
    by_pairs: Callable[[Matrix, Reals, Options], Reals] | None = None
    by_distance: Callable[[Reals, Reals, Reals, Options], Reals] | None = None
    least_rows: Callable[[int], int] = lambda bad: 1


_BAD = Bound(0, 1000, None, whole=True)


def _majority(bad: int) -> int:
    return 2 * bad + 1


def _neighbors(bad: int) -> int:
    return bad + 1


RULES: Mapping[str, Rule] = {
    "mean": Rule({}, by_distance=lambda s, w, n, o: decentral.pulled(w)),
    "median": Rule({}, by_coordinate=lambda x, w, o: coordinate.median(x)),
    "trimmed_mean": Rule(
        {"bad": _BAD},
        by_coordinate=lambda x, w, o: coordinate.trimmed_mean(x, int(o["bad"])),
        least_rows=_majority,
    ),
    "mass_trimmed_mean": Rule(
        {"mass": Bound(0.0, 0.499)}, by_coordinate=lambda x, w, o: coordinate.mass_trimmed_mean(x, w, o["mass"])
    ),
    "geometric_median": Rule(
        {"steps": Bound(1, 100, 8, whole=True), "floor": Bound(1e-12, 1e6, 1e-6)},
        by_pairs=lambda g, w, o: central.geometric_median(g, w, int(o["steps"]), o["floor"]),
    ),
    "krum": Rule(
        {"bad": _BAD},
        by_pairs=lambda g, w, o: central.krum(g, w, int(o["bad"])),
        least_rows=lambda bad: 2 * bad + 3,
    ),
    "multi_krum": Rule(
        {"bad": _BAD},
        by_pairs=lambda g, w, o: central.multi_krum(g, w, int(o["bad"])),
        least_rows=lambda bad: 2 * bad + 3,
    ),
    "centered_clip": Rule(
        {"radius": Bound(0.0, 1e9), "steps": Bound(1, 100, 1, whole=True)},
        by_pairs=lambda g, w, o: central.centered_clip(g, w, int(o["steps"]), o["radius"]),
    ),
    "clipped_gossip": Rule(
        {"bad": _BAD},
        by_distance=lambda s, w, n, o: decentral.clipped_gossip(s, w, int(o["bad"])),
        least_rows=_neighbors,
    ),
    "cs_plus": Rule(
        {"bad": _BAD},
        by_distance=lambda s, w, n, o: decentral.cs_plus(s, w, int(o["bad"])),
        least_rows=_neighbors,
    ),
    "monna": Rule(
        {"bad": _BAD}, by_distance=lambda s, w, n, o: decentral.monna(s, w, int(o["bad"])), least_rows=_majority
    ),
    "rtc": Rule(
        {"mass": Bound(1e-6, 0.499)}, by_distance=lambda s, w, n, o: decentral.remove_then_clip(s, w, o["mass"])
    ),
    "ios": Rule(
        {"bad": _BAD},
        by_pairs=lambda g, w, o: decentral.outlier_scissor(g, w, int(o["bad"])),
        least_rows=_neighbors,
    ),
    "balance": Rule(
        {
            "gate": Bound(0.0, 100.0, 0.3),
            "decay": Bound(0.0, 100.0, 1.0),
            "own": Bound(0.0, 1.0, 0.5),
            "t": Bound(0.0, 1.0, 0.0),
        },
        by_distance=lambda s, w, n, o: decentral.balance(s, w, n, o["gate"], o["decay"], o["own"], o["t"]),
    ),
}
"""Every rule by the name a configuration gives it."""


def rule_named(name: str) -> Rule:
    """The rule called ``name``. Raises ConfigError with the nearest name."""
    if name not in RULES:
        close = difflib.get_close_matches(name, RULES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(RULES)}"
        raise ConfigError(f"merge rule {name} is unknown", hint=hint)
    return RULES[name]


def checked_options(name: str, options: Options) -> dict[str, float]:
    """``options`` of the rule ``name`` with its defaults. Raises ConfigError for an unknown, missing or bad one."""
    known = rule_named(name).parameters
    for key in options:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known) or 'none'}"
            raise ConfigError(f"merge rule {name} has no option {key}", hint=hint)
    found = {}
    for key, bound in known.items():
        value = options.get(key, bound.default)
        if value is None:
            raise ConfigError(f"merge rule {name} needs the option {key}", hint=f"{bound.low:g} to {bound.high:g}")
        if not (isfinite(value) and bound.low <= value <= bound.high):
            raise ConfigError(f"option {key} of {name} is {value}, must be {bound.low:g} to {bound.high:g}")
        if bound.whole and value != int(value):
            raise ConfigError(f"option {key} of {name} is {value}, must be a whole number")
        found[key] = value
    return found


def apply(name: str, stack: Stack, weights: Reals, options: Options, *, mixed_bad: int | None = None) -> Vector:
    """``stack`` [..., k, d] merged by the rule ``name``: [..., d]; after nearest-neighbor mixing with ``mixed_bad``.

    Raises ConfigError for a bad name, option or number of rows, and RefusedRows for values that are not finite.
    """
    rule, checked = rule_named(name), checked_options(name, options)
    _check_rows(name, rule, stack, weights, checked, mixed_bad)
    if mixed_bad is not None:
        products = gram(stack)
        mixing = central.nearest_mixing(products, mixed_bad)
        if rule.by_coordinate is not None:
            return _by_coordinate(rule.by_coordinate, stack, weights, checked, mixing)
        after = _recentered(mixing @ products @ np.swapaxes(mixing, -1, -2))
        point = _coefficients(rule, after, stack, weights, checked)
        return combine(stack, (point[..., None, :] @ mixing)[..., 0, :])
    if rule.by_coordinate is not None:
        return _by_coordinate(rule.by_coordinate, stack, weights, checked, None)
    if rule.by_distance is not None:
        return combine(stack, rule.by_distance(squares(stack), weights, _norm(stack, rule), checked))
    return combine(stack, _coefficients(rule, gram(stack), stack, weights, checked))


def _coefficients(rule: Rule, products: Matrix, stack: Stack, weights: Reals, options: Options) -> Reals:
    if rule.by_pairs is not None:
        return rule.by_pairs(products, weights, options)
    assert rule.by_distance is not None
    return rule.by_distance(np.einsum("...kk->...k", products).copy(), weights, _norm(stack, rule), options)


def _recentered(products: Matrix) -> Matrix:
    """The products of differences from row 0, given products of differences from any point."""
    return products - products[..., :1, :] - products[..., :, :1] + products[..., :1, :1]


def _norm(stack: Stack, rule: Rule) -> Reals:
    """||x_0||, [..., 1]; only BALANCE asks for it."""
    if "gate" not in rule.parameters:
        return np.zeros((*stack.shape[:-2], 1))
    own = stack[..., 0, :]
    total: Reals = sum(
        (np.square(own[..., part].astype(np.float64)).sum(axis=-1) for part in blocks(own)), np.zeros(own.shape[:-1])
    )
    return np.sqrt(total)[..., None]


def _by_coordinate(
    rule: Callable[[Stack, Reals, Options], Vector],
    stack: Stack,
    weights: Reals,
    options: Options,
    mixing: Matrix | None,
) -> Vector:
    """The rule block by block, on rows mixed by ``mixing`` [..., k, k] if given."""
    result: Vector = np.empty((*stack.shape[:-2], stack.shape[-1]), np.float32)
    for part in blocks(stack):
        block = stack[..., part]
        if not np.isfinite(block).all():
            raise RefusedRows
        if mixing is not None:
            own = block[..., :1, :]
            block = own + mixing.astype(np.float32) @ (block - own)
        result[..., part] = rule(block, weights, options)
    return result


def _check_rows(name: str, rule: Rule, stack: Stack, weights: Reals, options: Options, mixed_bad: int | None) -> None:
    """Raise ConfigError where shapes, weights or the number of rows do not allow the rule."""
    if stack.ndim < 2 or stack.dtype != np.float32 or weights.shape != stack.shape[:-1]:
        raise ConfigError(
            f"a stack is {stack.dtype} {stack.shape} with weights {weights.shape}",
            hint="stacks are float32 [..., k, d], weights float64 [..., k]",
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and np.allclose(weights.sum(axis=-1), 1.0, atol=1e-6)):
        raise ConfigError("weights of a merge must be finite, at least 0 and sum to one")
    rows = stack.shape[-2]
    bad = int(options.get("bad", 0))
    least = max(1, rule.least_rows(bad))
    if rows < least:
        raise ConfigError(f"merge rule {name} with bad {bad} needs {least} rows, has {rows}")
    if mixed_bad is not None and not 0 <= 2 * mixed_bad < rows:
        raise ConfigError(f"nearest-neighbor mixing of {rows} rows is for 0 to {(rows - 1) // 2} bad, not {mixed_bad}")
