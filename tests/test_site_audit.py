"""The audit of whole sites: sound training is consistent, and each defect is caught by the part that can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_privacy_audit import TASK, Filling, stream, verdicts
from torch import nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PrivacyStep, Unit
from quidnunc.gossip.learning import privacy
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.builtin import DEFAULTS
from quidnunc.gossip.learning.codec import INT8
from quidnunc.gossip.privacy_audit import presence
from quidnunc.gossip.privacy_audit.report import Effort, Terms, audit
from quidnunc.gossip.task import Plan, Task

ROUNDS = 4
PLAN = Plan(0, INT8, DEFAULTS["digits"].plain)
STEP = PrivacyStep(1.0, noise_for(2.0, ROUNDS, 1e-5), unit=Unit.SITE)


def audited(task: Task = TASK) -> Any:
    return audit(task, Terms(PLAN, STEP, ROUNDS, 2.0, 1e-5), Effort(48, 0, 0), lambda what: None)


def test_sound_training_of_a_site_is_consistent_and_the_attack_sees_without_noise() -> None:
    found = audited()
    assert set(verdicts(found).values()) == {found["verdict"]} == {"consistent"}
    shown = found["canaries"]
    assert 0 <= max(shown["epsilon"], shown["epsilon_gaussian"]) < 2.0
    assert shown["control"]["epsilon"] == shown["showable_epsilon"] > 2
    assert found["mechanism"]["largest_contribution"] == pytest.approx(1, abs=1e-3)
    assert found["claim"]["unit"] == "site"


def scaled(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Noise of the wrong scale, where a site's delta gets it."""

    def put_in(patch: pytest.MonkeyPatch) -> None:
        whole = privacy.private_delta

        def weaker(delta: Any, step: PrivacyStep, noise: Any) -> Any:
            return whole(delta, replace(step, noise_multiplier=factor * step.noise_multiplier), noise)

        patch.setattr("quidnunc.gossip.learning.trainer.private_delta", weaker)

    return put_in


def unclipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(privacy, "clipped_delta", lambda delta, clip: np.nan_to_num(delta))


def clipped_by_step(patch: pytest.MonkeyPatch) -> None:
    """The classic wrong bound: four clipped steps are up to four clips long."""
    bound = privacy.clipped_delta
    patch.setattr(privacy, "clipped_delta", lambda delta, clip: 4 * bound(delta / 4, clip))


@pytest.mark.parametrize(
    ("defect", "caught"),
    [
        (scaled(0.5), {"mechanism"}),
        (scaled(0.0), {"mechanism", "canaries", "inversion"}),
        (unclipped, {"mechanism"}),
        (clipped_by_step, {"mechanism"}),
    ],
    ids=["half the noise", "no noise", "no clip", "a clip of every step"],
)
def test_a_broken_release_of_a_site_is_caught(
    defect: Callable[[pytest.MonkeyPatch], None], caught: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    found = audited()
    assert found["verdict"] == "contradicted"
    assert {part for part, word in verdicts(found).items() if word == "contradicted"} >= caught


def test_an_absent_site_releases_nothing_but_noise_and_a_present_one_its_clip() -> None:
    bare = replace(STEP, noise_multiplier=0.0)
    assert presence.largest_release(presence.absent(TASK), PLAN, bare, stream()) == 0.0
    assert presence.largest_release(TASK, PLAN, bare, stream()) == pytest.approx(1, abs=1e-3)


def test_a_model_that_learns_from_records_of_nothing_is_refused() -> None:
    filling = replace(TASK, model=lambda: nn.Sequential(Filling(), nn.Linear(64, 10)))
    with pytest.raises(ConfigError, match="makes numbers of NaN"):
        audited(filling)


def test_batch_normalization_is_no_matter_where_all_records_are_one_unit() -> None:
    mixing = replace(TASK, model=lambda: nn.Sequential(nn.BatchNorm1d(64, affine=False), nn.Linear(64, 10)))
    found = presence.attack(mixing, PLAN, STEP, 2, 4, stream())
    assert np.isfinite(found.scores).all()
