"""The whole audit of one training: every attack beside its positive control, and what follows from it.

An attack that finds nothing says something only if the same attack finds what is there without the noise. Where it
does not, the verdict is ``blind``, never ``consistent``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from quidnunc.crypto.identity import tagged_hash
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep, Unit
from quidnunc.gossip.privacy_audit import bound, mechanism, presence
from quidnunc.gossip.privacy_audit.canaries import Attacked, attack, make_canaries, require_auditable
from quidnunc.gossip.privacy_audit.inversion import Inverted, inverted
from quidnunc.gossip.privacy_audit.membership import RECORDS_MIN, Attack, Membership, membership
from quidnunc.gossip.task import Plan, Task

LEVEL = 0.05
"""Bounds hold with confidence 1 - LEVEL."""

CONTROL_EPSILON_MIN = 2.0
"""What the canaries must show where there is no noise, or they are blind."""

CONTROL_AUC_MIN = 0.55
CONTROL_COSINE_MIN = 0.9
RECOVERED_COSINE = 0.5
"""From here on a record counts as read back from an update."""

CONTRIBUTION_MAX = 1.001
"""Clips that one record may move the sum by: clipping is exact to a rounding of float32 params."""

CONSISTENT, CONTRADICTED, BLIND, NO_CLAIM, NOT_RUN = "consistent", "contradicted", "blind", "no claim", "not run"

_OUTLIERS = 12
_INVERTED = 32

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is audited: ``rounds`` rounds of the training of ``plan``, claimed to be (``epsilon``, ``delta``)-DP.

    Without ``privacy`` nothing is claimed, epsilon is infinite, and delta the one at which bounds are given.
    """

    plan: Plan
    privacy: PrivacyStep | None
    rounds: int
    epsilon: float
    delta: float

    @property
    def site(self) -> PrivacyStep | None:
        """How the release of a whole site is made; None where single records are protected, or nothing is."""
        return self.privacy if self.privacy is not None and self.privacy.unit == Unit.SITE else None


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried: ``canaries`` of one run, where whole sites are protected so many runs with the site and
    without, ``shadows`` models for membership inference (0: none), and the ``seed`` of everything that is drawn.
    """

    canaries: int
    shadows: int
    seed: int


def audit(task: Task, terms: Terms, effort: Effort, say: Say) -> dict[str, Any]:
    """Everything found, as plain data; ``say`` hears what is being done. Raises ConfigError for a task that fails."""
    require_auditable(task, terms.plan)
    stream = NoiseStream(tagged_hash("privacy-audit", effort.seed.to_bytes(8, "big")), b"audit")
    if terms.site is not None:
        presence.require_absentable(task, terms.plan, terms.site, stream.child(b"absent"))
    found: dict[str, Any] = {
        "records": len(task.train[0]),
        "rounds": terms.rounds,
        "claim": _claim(terms),
        "seed": effort.seed,
        "mechanism": _mechanism(task, terms, stream.child(b"mechanism"), say),
        "canaries": _canaries(task, terms, effort.canaries, stream.child(b"canaries"), say),
        "membership": _membership(task, terms, effort.shadows, stream.child(b"membership"), say),
        "inversion": _inversion(task, terms, stream.child(b"inversion"), say),
    }
    # Membership inference is weak against models that generalize, whatever their noise: it may be blind.
    parts = [found[part]["verdict"] for part in ("mechanism", "canaries", "inversion")]
    found["verdict"] = next((worst for worst in (CONTRADICTED, BLIND, CONSISTENT) if worst in parts), NO_CLAIM)
    return found


def _claim(terms: Terms) -> dict[str, Any]:
    privacy = terms.privacy
    return {
        "epsilon": None if math.isinf(terms.epsilon) else terms.epsilon,
        "delta": terms.delta,
        "clip": privacy.clip if privacy else None,
        "noise_multiplier": privacy.noise_multiplier if privacy else None,
        "sampling_rate": privacy.rate if privacy else None,
        "steps": privacy.steps if privacy and not terms.site else terms.plan.training.local_steps,
        "unit": privacy.unit.label if privacy else None,
    }


def _mechanism(task: Task, terms: Terms, stream: NoiseStream, say: Say) -> dict[str, Any]:
    privacy = terms.privacy
    if privacy is None:
        return {"verdict": NO_CLAIM}
    say("measuring noise and clipping")
    if terms.site is not None:
        noise = presence.measured_noise(task, terms.plan, privacy, stream.child(b"noise"))
        moved = presence.largest_release(task, terms.plan, privacy, stream.child(b"bare"))
    else:
        noise = mechanism.measured_noise(task, terms.plan, privacy, stream.child(b"noise"))
        own = mechanism.some(task.train, _OUTLIERS, stream.child(b"own"))
        made = make_canaries(task, _OUTLIERS, stream)
        moved = max(
            mechanism.largest_contribution(task, terms.plan, privacy, records, stream.child(b"bare"))
            for records in (own, made)
        )
    sound = abs(noise.ratio - 1) <= noise.bound and abs(noise.repeated) <= noise.repeated_bound
    return {
        "noise_ratio": noise.ratio,
        "noise_ratio_bound": noise.bound,
        "noise_repeated": noise.repeated,
        "noise_repeated_bound": noise.repeated_bound,
        "largest_contribution": moved,
        "verdict": CONSISTENT if sound and moved <= CONTRIBUTION_MAX else CONTRADICTED,
    }


def _canaries(task: Task, terms: Terms, count: int, stream: NoiseStream, say: Say) -> dict[str, Any]:
    privacy = terms.privacy
    what = f"with {count} canaries" if terms.site is None else f"{count} times, with this site and without"
    say(f"training {what}")
    real = _attacked(task, terms, privacy, count, stream.child(b"real"))
    found: dict[str, Any] = {
        "count": count,
        "confidence": 1 - LEVEL,
        "showable_epsilon": bound.epsilon_showable(count, terms.delta, LEVEL),
        "clip_used": real.clip_used if privacy else None,
        **_shown(real, terms),
    }
    if privacy is None:
        return found | {"verdict": NO_CLAIM}
    say(f"training {what} and no noise: the positive control")
    bare = _attacked(task, terms, _bare(privacy), count, stream.child(b"control"))
    control = _shown(bare, terms)
    refuted = max(found["epsilon"], found["epsilon_gaussian"] or 0.0)
    sees = control["epsilon"] >= CONTROL_EPSILON_MIN
    judged = CONTRADICTED if refuted > terms.epsilon else CONSISTENT if sees else BLIND
    return found | {"control": control, "verdict": judged}


def _attacked(task: Task, terms: Terms, privacy: PrivacyStep | None, count: int, stream: NoiseStream) -> Attacked:
    if terms.site is not None and privacy is not None:
        return presence.attack(task, terms.plan, privacy, terms.rounds, count, stream)
    return attack(task, terms.plan, privacy, terms.rounds, count, stream)


def _shown(real: Attacked, terms: Terms) -> dict[str, Any]:
    """The bounds; that of Gaussian mechanisms only where releases of whole batches claim to be one."""
    shown = bound.epsilon_shown(real.scores, real.included, terms.delta, LEVEL)
    by_loss = bound.epsilon_shown(real.by_loss, real.included, terms.delta, LEVEL)
    as_gaussian = None
    if terms.privacy is not None and terms.privacy.rate == 1:
        as_gaussian = bound.epsilon_shown(real.scores, real.included, terms.delta, LEVEL, bound.gaussian).epsilon
    return {**shown._asdict(), "epsilon_gaussian": as_gaussian, "epsilon_by_loss": by_loss.epsilon}


def _membership(task: Task, terms: Terms, models: int, stream: NoiseStream, say: Say) -> dict[str, Any]:
    if not models:
        return {"verdict": NOT_RUN, "why": "no shadow models were asked for"}
    if len(task.train[0]) < RECORDS_MIN:
        return {"verdict": NOT_RUN, "why": f"{len(task.train[0])} records, it takes {RECORDS_MIN}"}
    privacy = terms.privacy
    say(f"training {models} models on halves of the records")
    real = membership(task, terms.plan, privacy, terms.rounds, models, stream.child(b"real"))
    found: dict[str, Any] = {"models": real.models, "records": real.records, **_attacks(real)}
    if privacy is None:
        return found | {"verdict": NO_CLAIM}
    say(f"training {models} models without noise: the positive control")
    bare = membership(task, terms.plan, _bare(privacy), terms.rounds, models, stream.child(b"control"))
    sees = max(bare.by_loss.auc, bare.by_likelihood.auc) >= CONTROL_AUC_MIN
    return found | {"control": _attacks(bare), "verdict": CONSISTENT if sees else BLIND}


def _attacks(found: Membership) -> dict[str, Any]:
    def one(each: Attack) -> dict[str, float]:
        return {"auc": each.auc, "tpr_at_1_percent_fpr": each.found}

    return {"loss": one(found.by_loss), "likelihood": one(found.by_likelihood)}


def _inversion(task: Task, terms: Terms, stream: NoiseStream, say: Say) -> dict[str, Any]:
    privacy = terms.privacy
    say("reading records back from updates")
    records = mechanism.some(task.train, _INVERTED, stream.child(b"records"))
    real = inverted(task, terms.plan, privacy, records, stream.child(b"real"))
    if real is None:
        return {"verdict": NOT_RUN, "why": "the model does not begin with a linear layer with a bias"}
    if privacy is None:
        return {**_read(real), "verdict": NO_CLAIM}
    bare = inverted(task, terms.plan, _bare(privacy), records, stream.child(b"control"))
    assert bare is not None
    sees = bare.cosine >= CONTROL_COSINE_MIN
    judged = CONTRADICTED if real.cosine >= RECOVERED_COSINE else CONSISTENT if sees else BLIND
    return {**_read(real), "control": _read(bare), "verdict": judged}


def _read(found: Inverted) -> dict[str, Any]:
    return {
        "cosine": found.cosine,
        "psnr_db": found.psnr_db,
        "cosine_by_chance": found.chance,
        "records": found.records,
    }


def _bare(privacy: PrivacyStep) -> PrivacyStep:
    return replace(privacy, noise_multiplier=0.0)
