"""Merge rules against attacks: accuracy of the honest peers, mean and worst, and what bad neighbors counted for.

Digits (MLP) split by Dirichlet 0.5 among 16 peers on a random 6-regular graph, 3 of them attackers and no honest peer
with more than 2 of them; complete graphs of five with one attacker, without privacy and at epsilon 8 (softmax); and
breast cancer among 8, on which no constant of REPUTE was chosen. Rules that ask for a number of bad neighbors are told
the true one. Targets are those of the default rule; they are for 150 rounds, ``--quick`` plays 60 and fewer rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from _attack_trials import Found, Trial, play
from common import Row, main

from quidnunc.gossip.learning.builtin import DEFAULTS
from quidnunc.gossip.rules.terms import TERMS, least_rows

DEFAULT = "repute"
QUICK_RULES = ("mean", "trimmed_mean", "cs_plus", "monna", DEFAULT)
MIXED = "nearest "
"""Before a rule's name: rows are mixed with those nearest to them first."""
SLOW_RULES = (*TERMS, MIXED + "trimmed_mean", MIXED + "geometric_median", DEFAULT)
BITING = ("sign_flip", "gaussian", "ipm", "alie", "dissensus", "label_flip", "mimic", "betray")
"""Attacks under which the default rule is to keep 0.90."""
OTHERS = ("slow", "on_off", "free_ride", "replay", "sybil", "backdoor")
OPTIMIZED = ("optimized_ipm", "optimized_alie")
FEW = ("", "sign_flip", "gaussian", "alie", "label_flip")
"""Attacks on small complete graphs and on the unseen data set."""


def options(rule: str, trial: Trial) -> dict[str, float]:
    """What the rule is told: the true number of bad neighbors, the weight they hold, a radius of the usual distance."""
    bad, degree = trial.bad_near, trial.degree or trial.peers - 1
    told = {"bad": float(bad), "mass": bad / (1 + degree), "radius": 1.0}
    name = rule.removeprefix(MIXED)
    mixed = {"nearest": float(bad)} if name != rule else {}
    return mixed | ({key: told[key] for key in TERMS[name].options if key in told} if name in TERMS else {})


def possible(rule: str, trial: Trial) -> bool:
    """Whether every peer has enough neighbors for the rule."""
    rows = 1 + (trial.degree or trial.peers - 1)
    return least_rows(rule.removeprefix(MIXED), options(rule, trial)) <= rows


def table(name: str, base: Trial, rules: Iterable[str], attacks: Iterable[str], *, targets: bool) -> list[Row]:
    """One row per rule and attack, the clean run of each rule first; ``targets`` for the default rule's bounds."""
    rows, plain = [], None
    for rule in rules:
        if not possible(rule, base):
            continue
        trial = replace(base, rule=rule.removeprefix(MIXED), options=options(rule, base))
        clean: Found | None = None
        for attack in attacks:
            found = play(replace(trial, attack=attack))
            clean = clean or found
            plain = plain or found
            floor = _floor(attack, plain.mean) if targets and rule == DEFAULT else None
            bites = targets and rule == "mean" and attack == "sign_flip"
            label = f"{name}, {rule}, {attack or 'nobody attacks'}"
            bounds = {"at_least": floor, "at_most": 0.2 if bites else None}
            rows.append(
                Row(label, found.mean, "accuracy", "worst peer", found.worst, **bounds, note=_note(found, attack))
            )
            if attack == "backdoor":
                most = 2 * max(clean.triggered, 0.01) if targets and rule == DEFAULT else None
                what = f"{label}: triggered"
                rows.append(Row(what, found.triggered, "share", "nobody attacks", clean.triggered, at_most=most))
    return rows


def _floor(attack: str, plain: float) -> float | None:
    if attack in BITING:
        return 0.9
    if attack == "slow":
        return 0.8
    return None if attack else plain - 0.01


def _note(found: Found, attack: str) -> str:
    if not attack:
        return ""
    when = "never isolated" if found.isolated is None else f"isolated from round {found.isolated}"
    return f"AUROC {found.auroc:.2f}, bad neighbors hold {found.held:.1%}, {when}"


def measure(quick: bool) -> list[Row]:
    """The three settings; in full with every rule, the optimized attacks and independent data as well."""
    rounds = 60 if quick else 150
    rules = QUICK_RULES if quick else SLOW_RULES
    digits = Trial("mean", rounds=rounds)
    attacks = ("", *BITING, *OTHERS)
    rows = table("16 peers", digits, rules, attacks if quick else (*attacks, *OPTIMIZED), targets=True)
    if not quick:
        rows += table(
            "16 peers, independent data", replace(digits, alpha=100.0), ("mean", DEFAULT), attacks, targets=True
        )
    five = replace(digits, peers=5, degree=0, attackers=1, bad_near=1, model="softmax", rounds=50)
    defaults = DEFAULTS["digits"]
    some = ("mean", "trimmed_mean", DEFAULT) if quick else rules
    rows += table("complete 5", replace(five, training=defaults.plain), some, FEW, targets=False)
    private = replace(five, training=defaults.private, epsilon=8.0)
    rows += table("complete 5, epsilon 8", private, some, FEW, targets=False)
    cancer = replace(five, task="breast-cancer", peers=8, training=DEFAULTS["breast-cancer"].plain)
    return rows + table("breast cancer, complete 8", cancer, some if quick else rules, FEW, targets=False)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
