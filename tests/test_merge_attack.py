"""One peer of five lies from the first round on: the others must learn as if it were not there, private or not.

Complete graph, digits with Dirichlet 0.5, 50 synchronous rounds. "Clean" has all five honest, so what the liar's own
data would have taught is part of the three points allowed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from learners import Outcome, Scenario, run

from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.builtin import DEFAULTS

SEEDS = (0, 1, 2)
DIGITS = DEFAULTS["digits"]
PLAIN = Scenario(training=DIGITS.plain)
PRIVATE = Scenario(training=DIGITS.private, privacy=PrivacyStep(DIGITS.clip, noise_for(8.0, 50, 1e-5)))
LIAR = {4: "sign_flip"}


def outcomes(scenario: Scenario) -> list[Outcome]:
    return [run(scenario, seed) for seed in SEEDS]


def mean(results: list[Outcome]) -> float:
    return sum(result.mean for result in results) / len(results)


@pytest.mark.parametrize(("scenario", "least"), [(PLAIN, 0.93), (PRIVATE, 0.89)], ids=["plain", "epsilon-8"])
def test_a_sign_flipper_costs_at_most_three_points(scenario: Scenario, least: float) -> None:
    clean = outcomes(scenario)
    attacked = outcomes(replace(scenario, attackers=LIAR))
    assert mean(attacked) >= mean(clean) - 0.03
    assert mean(attacked) >= least
    assert all(result.mean >= least - 0.03 for result in attacked)
    assert all(result.trust_bad == 0 for result in attacked)
    assert all(result.trust_honest >= 0.95 for result in clean + attacked)


@pytest.mark.parametrize("scenario", [PLAIN, PRIVATE], ids=["plain", "epsilon-8"])
def test_the_same_attack_destroys_plain_averaging(scenario: Scenario) -> None:
    """The positive control: without it the test above would prove nothing."""
    assert run(replace(scenario, rule="mean", attackers=LIAR), 0).mean <= 0.6


@pytest.mark.parametrize("attack", ["inner_product", "gaussian", "zero", "boost"])
@pytest.mark.parametrize("scenario", [PLAIN, PRIVATE], ids=["plain", "epsilon-8"])
def test_other_attacks_are_silenced_too(scenario: Scenario, attack: str) -> None:
    attacked = run(replace(scenario, attackers={4: attack}), 0)
    assert attacked.mean >= 0.89
    assert attacked.trust_bad == 0


def test_a_traitor_is_silenced_after_it_turns() -> None:
    attacked = run(replace(PLAIN, attackers={4: "betray"}), 0)
    assert attacked.mean >= 0.93
    assert attacked.trust_bad == 0


def test_flipped_labels_do_little_harm() -> None:
    assert run(replace(PLAIN, peers=8, attackers={7: "label_flip"}), 0).mean >= 0.92


def test_the_same_seed_gives_the_same_bits() -> None:
    short = replace(PRIVATE, rounds=4, attackers=LIAR)
    assert run(short, 1).results == run(short, 1).results != run(short, 2).results
