"""The audit itself: sound training is consistent, broken training is caught by the part that can, blindness is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from learners import blobs_task
from scipy.stats import norm
from torch import nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning import blocks, privacy
from quidnunc.gossip.learning.accountant import epsilon_of, noise_for
from quidnunc.gossip.learning.builtin import DEFAULTS, digits
from quidnunc.gossip.learning.codec import FLOAT32, INT8
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import build, genesis
from quidnunc.gossip.privacy_audit import canaries, mechanism
from quidnunc.gossip.privacy_audit.inversion import invert, inverted
from quidnunc.gossip.privacy_audit.membership import area, found_at, halves, likelihoods, membership
from quidnunc.gossip.privacy_audit.report import Effort, Terms, audit
from quidnunc.gossip.privacy_audit.rounds import gradient_sum, momentum_weights, shown_rounds
from quidnunc.gossip.task import Plan, Site, Task, Training

ROUNDS = 16
TASK = digits(Site(peers=4))
PLAN = Plan(0, INT8, DEFAULTS["digits"].private, private=True)
STEP = PrivacyStep(1.0, noise_for(2.0, ROUNDS, 1e-5))
EFFORT = Effort(canaries=96, shadows=0, seed=0)


def stream(name: bytes = b"test") -> NoiseStream:
    return NoiseStream(bytes(32), name)


def audited(step: PrivacyStep | None = STEP, epsilon: float = 2.0, effort: Effort = EFFORT, plan: Plan = PLAN) -> Any:
    return audit(TASK, Terms(plan, step, ROUNDS, epsilon, 1e-5), effort, lambda what: None)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {part: found[part]["verdict"] for part in ("mechanism", "canaries", "inversion")}


def test_sound_training_is_consistent_and_every_attack_sees_without_noise() -> None:
    found = audited()
    assert found["verdict"] == "consistent"
    assert set(verdicts(found).values()) == {"consistent"}
    shown = found["canaries"]
    assert 0 <= shown["epsilon"] <= shown["epsilon_gaussian"] < 2.0
    assert shown["control"]["epsilon"] == shown["showable_epsilon"] > 3
    assert 0 <= shown["epsilon_by_loss"] < 2.0
    assert found["mechanism"]["largest_contribution"] == pytest.approx(1 - blocks.SPARE, abs=1e-4)
    assert found["inversion"]["control"]["cosine"] > 0.99
    assert found["inversion"]["cosine"] < 0.3
    assert found["membership"]["verdict"] == "not run"
    again = [canaries.attack(TASK, PLAN, STEP, 2, 8, stream()).scores.tolist() for _ in range(2)]
    assert again[0] == again[1], "everything is drawn from the seed"


def scaled(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Noise of the wrong scale, where training draws it."""

    def put_in(patch: pytest.MonkeyPatch) -> None:
        whole = privacy.private_gradient

        def weaker(*args: Any) -> Any:
            *rest, step, noise, pairs = args
            return whole(*rest, replace(step, noise_multiplier=factor * step.noise_multiplier), noise, pairs)

        patch.setattr("quidnunc.gossip.learning.trainer.private_gradient", weaker)

    return put_in


def unclipped(patch: pytest.MonkeyPatch) -> None:
    whole = privacy.clip_factors

    def ones(square: torch.Tensor, clip: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        factors, broken = whole(square, clip)
        return torch.where(factors > 0, 1.0, 0.0).double(), broken

    patch.setattr(blocks, "clip_factors", ones)


def repeated(patch: pytest.MonkeyPatch) -> None:
    whole = NoiseStream.add_noise
    patch.setattr(NoiseStream, "add_noise", lambda self, values, sigma, *rest: whole(stream(), values, sigma, *rest))


@pytest.mark.parametrize(
    ("defect", "caught"),
    [
        (scaled(0.5), {"mechanism"}),
        (scaled(0.125), {"mechanism", "canaries"}),
        (scaled(0.0), {"mechanism", "canaries", "inversion"}),
        (unclipped, {"mechanism", "canaries"}),
    ],
    ids=["half the noise", "an eighth of it, as if seven others added theirs", "no noise", "no clip"],
)
def test_a_broken_mechanism_is_caught(
    defect: Callable[[pytest.MonkeyPatch], None], caught: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the noise is beyond what so few canaries can tell: only the measurement sees it."""
    defect(monkeypatch)
    found = audited()
    assert found["verdict"] == "contradicted"
    assert {part for part, word in verdicts(found).items() if word == "contradicted"} == caught


def test_noise_that_is_the_same_in_every_round_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(mechanism.measured_noise(TASK, PLAN, STEP, stream()).repeated) < 0.05
    repeated(monkeypatch)
    noise = mechanism.measured_noise(TASK, PLAN, STEP, stream())
    assert noise.ratio == pytest.approx(1, abs=0.1)
    assert noise.repeated > 0.9


def test_noise_that_is_the_same_in_the_steps_of_a_round_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    step, plan = replace(STEP, rate=0.3, steps=4), replace(PLAN, training=Training(1.0, momentum=0.5))
    sound = mechanism.measured_noise(TASK, plan, step, stream())
    assert abs(sound.ratio - 1) <= sound.bound
    child = NoiseStream.child
    monkeypatch.setattr(
        NoiseStream, "child", lambda self, name: child(self, b"step" if name.startswith(b"step/") else name)
    )
    broken = mechanism.measured_noise(TASK, plan, step, stream())
    assert broken.ratio > 1.5


def test_samples_are_audited_with_the_records_as_nothing() -> None:
    step = PrivacyStep(1.0, 1.5, rate=0.25, steps=2)
    found = audited(step, epsilon=20.0)
    assert found["verdict"] == "consistent"
    assert found["canaries"]["epsilon_gaussian"] is None
    assert found["canaries"]["control"]["epsilon"] > 2


def test_few_canaries_are_blind_and_say_so() -> None:
    found = audited(effort=replace(EFFORT, canaries=8))
    assert found["canaries"]["verdict"] == found["verdict"] == "blind"
    assert found["mechanism"]["verdict"] == "consistent"


def test_without_privacy_nothing_is_claimed_and_the_record_is_read_from_the_bytes() -> None:
    plain = Plan(0, INT8, DEFAULTS["digits"].plain)
    found = audited(None, float("inf"), plan=plain)
    assert (found["verdict"], found["claim"]["epsilon"], found["mechanism"]) == (
        "no claim",
        None,
        {"verdict": "no claim"},
    )
    assert found["canaries"]["epsilon"] > 1
    assert found["canaries"]["epsilon_by_loss"] > 0.3, "whoever has the last model only sees some of it"
    assert found["inversion"]["cosine"] > 0.99
    assert found["inversion"]["psnr_db"] > 35


def test_a_lone_record_is_read_back_exactly_and_a_model_without_a_bias_is_not_attacked() -> None:
    records = TASK.train[0][:3], TASK.train[1][:3]
    exact = inverted(TASK, Plan(0, FLOAT32, Training(0.1, local_steps=1)), None, records, stream())
    assert exact is not None
    assert exact.cosine == pytest.approx(1, abs=1e-6)
    bare = replace(TASK, model=lambda: nn.Linear(64, 10, bias=False))
    net = Functional(build(bare, 0), bare)
    assert invert(net, np.ones(net.dim, np.float32)) is None
    found = audit(bare, Terms(PLAN, STEP, 2, 2.0, 1e-5), replace(EFFORT, canaries=8), lambda what: None)
    assert found["inversion"]["verdict"] == "not run"


@pytest.mark.parametrize("stack", [True, False], ids=["ghost", "vmap"])
def test_a_canary_that_is_out_adds_nothing_and_one_that_is_in_what_the_attacker_expects(stack: bool) -> None:
    task = TASK if stack else replace(TASK, model=lambda: nn.Sequential(nn.Linear(64, 5), nn.GELU(), nn.Linear(5, 10)))
    net, vector = Functional(build(task, 0), task), genesis(task, 0)
    inputs, targets = canaries.make_canaries(task, 6, stream())
    clip = blocks.row_clip(net, 0.7) if stack else 0.7
    each = canaries.clipped(canaries.record_gradients(net, vector, inputs, targets), clip)
    assert np.linalg.norm(each, axis=1) == pytest.approx(np.full(6, clip))
    inputs[[1, 4]] = canaries.nothing(inputs[[1, 4]])
    total, _ = privacy.clipped_sum(net, vector, inputs, targets, 0.7)
    assert total == pytest.approx(each[[0, 2, 3, 5]].sum(0), abs=1e-6)


def test_what_a_round_shows_is_the_sum_of_its_gradients() -> None:
    training = Training(learning_rate=0.25, momentum=0.5)
    plan = Plan(0, FLOAT32, training, private=True)
    bare = PrivacyStep(clip=1e6, noise_multiplier=0.0)
    for round_ in shown_rounds(TASK, plan, bare, 2, stream()):
        net = Functional(build(TASK, 0), TASK)
        whole, _ = privacy.clipped_sum(net, round_.before, *TASK.train, 1e6)
        assert gradient_sum(round_, training, 1, len(TASK.train[0])) == pytest.approx(whole, abs=1e-2)
    # v1 = g1, v2 = g2 + g1/2, v3 = g3 + g2/2 + g1/4, and a round moves by their sum.
    assert momentum_weights(0.5, 3).tolist() == [1.75, 1.5, 1.0]


class Filling(nn.Module):
    """What models do that take missing values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.nan_to_num()


def test_what_cannot_be_audited_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = replace(TASK, train=(TASK.train[0].long(), TASK.train[1]))
    with pytest.raises(ConfigError, match="int64"):
        audit(tokens, Terms(PLAN, STEP, 1, 2.0, 1e-5), EFFORT, lambda what: None)
    holes = TASK.train[0].clone()
    holes[3, 5] = torch.nan
    with pytest.raises(ConfigError, match=r"row 3 \(of 1\): inputs are not finite"):
        canaries.require_auditable(replace(TASK, train=(holes, TASK.train[1])), PLAN)
    mixing = replace(TASK, model=lambda: nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10)))
    with pytest.raises(ConfigError, match="mixes examples"):
        canaries.require_auditable(mixing, PLAN)
    filled = replace(TASK, model=lambda: nn.Sequential(Filling(), nn.Linear(64, 10)))
    with pytest.raises(ConfigError, match="makes numbers of NaN"):
        canaries.require_auditable(filled, PLAN)
    monkeypatch.setattr(canaries, "GRADIENTS_MAX", 10 * 650)
    canaries.attack(TASK, PLAN, STEP, 1, 10, stream())
    with pytest.raises(ConfigError, match="7150 numbers, limit is 6500"):
        canaries.attack(TASK, PLAN, STEP, 1, 11, stream())


def test_training_that_fails_is_named() -> None:
    def model() -> nn.Module:
        raise RuntimeError("no such weights")

    with pytest.raises(ConfigError, match="no such weights"):
        next(shown_rounds(replace(TASK, model=model), PLAN, STEP, 1, stream()))


# Membership inference.


def test_members_of_a_model_without_noise_are_found_and_with_it_hardly() -> None:
    """A12 asks for at least .72 and at most .62, of 24 models after 50 rounds; these are 12 after 30."""
    small = replace(TASK, train=(TASK.train[0][:120], TASK.train[1][:120]))
    bare = membership(small, PLAN, replace(STEP, noise_multiplier=0.0), 30, 12, stream())
    noised = membership(small, PLAN, replace(STEP, noise_multiplier=noise_for(2.0, 30, 1e-5)), 30, 12, stream())
    assert bare.by_likelihood.auc > 0.65
    assert noised.by_likelihood.auc < 0.57
    assert (bare.models, bare.records) == (12, 120)


def test_area_and_share_found_are_what_they_say() -> None:
    rng = np.random.default_rng(2)
    members, others = rng.integers(0, 20, 50).astype(float), rng.integers(-3, 17, 70).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in members for b in others]
    assert area(members, others) == pytest.approx(np.mean(pairs))
    assert area(others, others) == 0.5
    assert found_at(np.array([5.0, 7.0]), np.arange(100.0) / 16, 0.01) == 0.5
    assert found_at(np.array([1.0]), np.ones(100), 0.01) == 0.0, "a tie is not found"


def test_every_record_is_in_half_of_the_models_and_is_judged_by_the_others() -> None:
    inside = halves(6, 40, stream())
    assert inside.sum(0).tolist() == [3] * 40
    losses = np.abs(np.random.default_rng(3).normal(size=inside.shape)) + 0.1
    logits = -np.log(np.expm1(losses))
    means = {
        side: np.array(
            [[logits[(inside[:, i] == side) & (np.arange(6) != k), i].mean() for i in range(40)] for k in range(6)]
        )
        for side in (True, False)
    }
    spread = {side: np.sqrt(((logits - means[side])[inside == side] ** 2).mean()) for side in (True, False)}
    densities = {side: norm(means[side], spread[side]).logpdf(logits) for side in (True, False)}
    assert likelihoods(losses, inside) == pytest.approx(densities[True] - densities[False])
    assert np.isfinite(likelihoods(np.array([[0.0, np.inf, 1.0]] * 6), halves(6, 3, stream()))).all()


def test_a_claim_is_that_of_the_rounds_that_were_trained() -> None:
    assert epsilon_of(STEP.noise_multiplier, ROUNDS, 1e-5) <= 2.0
    task: Task = blobs_task()
    found = audit(task, Terms(PLAN, STEP, 3, 1.0, 1e-5), Effort(16, 4, 5), lambda what: None)
    assert (found["rounds"], found["seed"], found["records"]) == (3, 5, len(task.train[0]))
    assert found["membership"]["models"] == 4
