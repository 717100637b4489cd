"""The catalogue of merge rules by name, and how any of them is applied to a stack.

A stack is float32 [..., k, d], row 0 the own model; weights are float64 [..., k] >= 0 that sum to one. Arrays are
numpy's, as everywhere between wire and ledger: the rules need no gradient, and a process that merges need not load
torch. Work goes in blocks of coordinates, so that memory beyond the result stays far below that of the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.rules import central, compiled, coordinate, decentral
from quidnunc.gossip.rules.blocks import blocks, width_of
from quidnunc.gossip.rules.coordinate import Work
from quidnunc.gossip.rules.gram import Matrix, RefusedRows, combine, gram, squares
from quidnunc.gossip.rules.linear import Reals, Stack, Vector
from quidnunc.gossip.rules.network import MOST_ROWS
from quidnunc.gossip.rules.terms import (
    TERMS,
    Bound,
    Options,
    Terms,
    checked_options,
    least_rows,
    terms_named,
)

__all__ = ["RULES", "Bound", "Options", "Rule", "apply", "checked_options", "coefficients", "rule_named"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its terms and how it computes, which is one of ``by_*``.

    ``by_coordinate`` maps (block [..., k, c], weights, options, work [k+1, ..., c]) to [..., c]; ``compiled`` gives the
    same bits for a whole stack [k, d] and options, or None where it does not apply; ``by_pairs`` and
    ``by_distance`` map Gram products or squared distances, weights, the own row's norm [..., 1] and options to
    coefficients [..., k]; ``by_weights`` needs the weights alone. One with ``by_pairs`` that has ``by_distance`` as
    well needs no more than that for a single step.
    """

    terms: Terms
    by_weights: Callable[[Reals], Reals] | None = None
    by_coordinate: Callable[[Stack, Reals, Options, Work], Vector] | None = None
    compiled: Callable[[Stack, Options], Vector | None] | None = None
    by_pairs: Callable[[Matrix, Reals, Options], Reals] | None = None
    by_distance: Callable[[Reals, Reals, Reals, Options], Reals] | None = None

    @property
    def parameters(self) -> Mapping[str, Bound]:
        """The rule's options by name."""
        return self.terms.options


RULES: Mapping[str, Rule] = {
    "mean": Rule(TERMS["mean"], by_weights=decentral.mean),
    "median": Rule(
        TERMS["median"],
        by_coordinate=lambda x, w, o, work: coordinate.median(x, work),
        compiled=lambda x, o: compiled.median(x),
    ),
    "trimmed_mean": Rule(
        TERMS["trimmed_mean"],
        by_coordinate=lambda x, w, o, work: coordinate.trimmed_mean(x, int(o["bad"]), work),
        compiled=lambda x, o: compiled.trimmed_mean(x, int(o["bad"])),
    ),
    "mass_trimmed_mean": Rule(
        TERMS["mass_trimmed_mean"], by_coordinate=lambda x, w, o, work: coordinate.mass_trimmed_mean(x, w, o["mass"])
    ),
    "geometric_median": Rule(
        TERMS["geometric_median"],
        by_pairs=lambda g, w, o: central.geometric_median(g, w, int(o["steps"]), o["floor"]),
    ),
    "krum": Rule(TERMS["krum"], by_pairs=lambda g, w, o: central.krum(g, w, int(o["bad"]))),
    "multi_krum": Rule(TERMS["multi_krum"], by_pairs=lambda g, w, o: central.multi_krum(g, w, int(o["bad"]))),
    "centered_clip": Rule(
        TERMS["centered_clip"],
        by_pairs=lambda g, w, o: central.centered_clip(g, w, int(o["steps"]), o["radius"]),
        by_distance=lambda s, w, n, o: decentral.pulled(decentral.clipped(w, np.sqrt(s), o["radius"])),
    ),
    "clipped_gossip": Rule(
        TERMS["clipped_gossip"], by_distance=lambda s, w, n, o: decentral.clipped_gossip(s, w, int(o["bad"]))
    ),
    "cs_plus": Rule(TERMS["cs_plus"], by_distance=lambda s, w, n, o: decentral.cs_plus(s, w, int(o["bad"]))),
    "monna": Rule(TERMS["monna"], by_distance=lambda s, w, n, o: decentral.monna(s, w, int(o["bad"]))),
    "rtc": Rule(TERMS["rtc"], by_distance=lambda s, w, n, o: decentral.remove_then_clip(s, w, o["mass"])),
    "ios": Rule(TERMS["ios"], by_pairs=lambda g, w, o: decentral.outlier_scissor(g, w, int(o["bad"]))),
    "balance": Rule(
        TERMS["balance"],
        by_distance=lambda s, w, n, o: decentral.balance(s, w, n, o["gate"], o["decay"], o["own"], o["t"]),
    ),
}
"""Every rule by the name a configuration gives it."""


def rule_named(name: str) -> Rule:
    """The rule called ``name``. Raises ConfigError with the nearest name."""
    terms_named(name)
    return RULES[name]


def apply(name: str, stack: Stack, weights: Reals, options: Options) -> Vector:
    """``stack`` [..., k, d] merged by the rule ``name``: [..., d].

    Raises ConfigError for a bad name, option or number of rows, and RefusedRows for values that are not finite.
    """
    rule, checked = rule_named(name), checked_options(name, options)
    _check_rows(name, stack, weights, checked)
    if rule.by_coordinate is not None:
        mixing = mixing_of(stack, checked)
        if mixing is None and (found := _compiled(rule, stack, checked)) is not None:
            return found
        return _by_coordinate(rule.by_coordinate, stack, weights, checked, mixing)
    result = combine(stack, _affine(rule, stack, weights, checked))
    if not _finite(result):
        raise RefusedRows
    return result


def coefficients(name: str, stack: Stack, weights: Reals, options: Options) -> Reals:
    """How much of the result each row of ``stack`` [..., k, d] is, float64 [..., k] that sum to one.

    Raises what :func:`apply` raises, and ConfigError for a rule that treats every coordinate by itself.
    """
    rule, checked = rule_named(name), checked_options(name, options)
    if rule.by_coordinate is not None:
        raise ConfigError(f"merge rule {name} has no coefficients of rows")
    _check_rows(name, stack, weights, checked)
    return _affine(rule, stack, weights, checked)


def mixing_of(stack: Stack, options: Options) -> Matrix | None:
    """How nearest-neighbor mixing makes each row of the rows of ``stack``, [..., k, k]; None for no mixing."""
    bad = int(options.get("nearest", 0))
    return central.nearest_mixing(gram(stack), bad) if bad else None


def _affine(rule: Rule, stack: Stack, weights: Reals, options: Options) -> Reals:
    """Coefficients of the rows of ``stack``, of a rule that has them."""
    if bad := int(options["nearest"]):
        products = gram(stack)
        mixing = central.nearest_mixing(products, bad)
        after = _recentered(mixing @ products @ np.swapaxes(mixing, -1, -2))
        point = _coefficients(rule, after, stack, weights, options)
        mixed: Reals = (point[..., None, :] @ mixing)[..., 0, :]
        return mixed
    if rule.by_weights is not None:
        return rule.by_weights(weights)
    if rule.by_distance is not None and (rule.by_pairs is None or options["steps"] == 1):
        return rule.by_distance(squares(stack), weights, _norm(stack, rule), options)
    return _coefficients(rule, gram(stack), stack, weights, options)


def _coefficients(rule: Rule, products: Matrix, stack: Stack, weights: Reals, options: Options) -> Reals:
    if rule.by_weights is not None:
        return rule.by_weights(weights)
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


def _compiled(rule: Rule, stack: Stack, options: Options) -> Vector | None:
    """The rule by compiled code, where there is any for this stack and its rows are finite."""
    if rule.compiled is None or stack.shape[-2] > MOST_ROWS:
        return None
    return rule.compiled(stack, options)


def _by_coordinate(
    rule: Callable[[Stack, Reals, Options, Work], Vector],
    stack: Stack,
    weights: Reals,
    options: Options,
    mixing: Matrix | None,
) -> Vector:
    """The rule block by block, on rows mixed by ``mixing`` [..., k, k] if given."""
    *before, k, dim = stack.shape
    result: Vector = np.empty((*before, dim), np.float32)
    work = np.empty((k + 1, *before, width_of(stack)), np.float32)
    for part in blocks(stack):
        block = stack[..., part]
        if not _finite(block):
            raise RefusedRows
        if mixing is not None:
            own = block[..., :1, :]
            block = own + mixing.astype(np.float32) @ (block - own)
        result[..., part] = rule(block, weights, options, work[..., : part.stop - part.start])
    return result


def _finite(values: Vector) -> bool:
    """Whether every value is finite. A sum tells it in a third of the time; one that overflowed tells nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduce(values, axis=-1)
    return bool(np.isfinite(sums).all() or np.isfinite(values).all())


def _check_rows(name: str, stack: Stack, weights: Reals, options: Options) -> None:
    """Raise ConfigError where shapes, weights or the number of rows do not allow the rule."""
    if stack.ndim < 2 or stack.dtype != np.float32 or weights.shape != stack.shape[:-1]:
        raise ConfigError(
            f"a stack is {stack.dtype} {stack.shape} with weights {weights.shape}",
            hint="stacks are float32 [..., k, d], weights float64 [..., k]",
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and np.allclose(weights.sum(axis=-1), 1.0, atol=1e-6)):
        sums = " ".join(f"{each:.6g}" for each in np.ravel(weights.sum(axis=-1))[:4])
        raise ConfigError(
            f"weights of a merge sum to {sums}, must be finite, at least 0 and sum to one",
            hint="divide them by their sum",
        )
    rows = stack.shape[-2]
    least = least_rows(name, options)
    if rows < least:
        told = ", ".join(f"{key} {options[key]:g}" for key in ("bad", "nearest") if options.get(key))
        raise ConfigError(
            f"merge rule {name} with {told or 'bad 0'} needs {least} rows, has {rows}",
            hint="tell it of fewer bad rows, or give it more rows",
        )
