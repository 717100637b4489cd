"""What the privacy audit shows, beside what is claimed: canaries, membership inference, gradient inversion.

Digits, the first of four shares, 50 rounds, delta 1e-5. Canaries: the softmax model, 300 of them, five seeds; a bound
above the claim in any of them would be a defect. Membership: a 64-64-10 network on 300 records of which one in ten has
a wrong label, 24 shadow models; without privacy it is plain training, as the charter of such a federation has it.
--quick takes one seed, and epsilon 2 and 8 only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from common import Row, main
from torch import nn

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.builtin import DEFAULTS, digits
from quidnunc.gossip.learning.codec import INT8
from quidnunc.gossip.privacy_audit import mechanism
from quidnunc.gossip.privacy_audit.bound import any_mechanism, epsilon_shown, gaussian
from quidnunc.gossip.privacy_audit.canaries import attack
from quidnunc.gossip.privacy_audit.inversion import inverted
from quidnunc.gossip.privacy_audit.membership import membership
from quidnunc.gossip.task import Plan, Site, Task

ROUNDS, DELTA, LEVEL, CANARIES = 50, 1e-5, 0.05, 300
PRIVATE = Plan(0, INT8, DEFAULTS["digits"].private, private=True)
PLAIN = Plan(0, INT8, DEFAULTS["digits"].plain)
SIZES = {False: ((1.0, 2.0, 4.0, 8.0), range(5), 24), True: ((2.0, 8.0), range(1), 24)}


def stream(seed: int, name: str) -> NoiseStream:
    """Everything drawn for one measurement."""
    return NoiseStream(seed.to_bytes(32, "big"), name.encode())


def step(epsilon: float, factor: float = 1.0) -> PrivacyStep:
    """Releases that are claimed to cost ``epsilon``, with so much of the noise that this takes."""
    return PrivacyStep(1.0, factor * noise_for(epsilon, ROUNDS, DELTA))


def shown(task: Task, epsilon: float, factor: float, seed: int) -> tuple[float, float]:
    """The epsilon that canaries show: of any mechanism, and of a Gaussian one."""
    found = attack(task, PRIVATE, step(epsilon, factor), ROUNDS, CANARIES, stream(seed, "canaries"))
    any_, as_gaussian = (
        epsilon_shown(found.scores, found.included, DELTA, LEVEL, refutes).epsilon
        for refutes in (any_mechanism, gaussian)
    )
    return any_, as_gaussian


def canary_rows(task: Task, quick: bool) -> list[Row]:
    """A10: never above the claim, far above it where the noise is missing."""
    epsilons, seeds, _ = SIZES[quick]
    rows = []
    for epsilon in epsilons:
        found = [shown(task, epsilon, 1.0, seed) for seed in seeds]
        note = ", ".join(f"{any_:.2f} ({as_gaussian:.2f})" for any_, as_gaussian in found)
        name = f"canaries, epsilon {epsilon:g}: most shown, as Gaussian"
        rows.append(Row(name, max(max(each) for each in found), at_most=epsilon, note=f"any (Gaussian): {note}"))
    bare = [shown(task, 2.0, 0.0, seed)[0] for seed in seeds]
    rows.append(Row("canaries, no noise: least shown", min(bare), at_least=3.5))
    eighth = [shown(task, 2.0, 0.125, seed)[0] for seed in seeds]
    rows.append(Row("canaries, an eighth of the noise, claimed 2: least shown", min(eighth), at_least=2.0))
    half = [shown(task, 2.0, 0.5, seed) for seed in seeds]
    note = ", ".join(f"{any_:.2f} ({as_gaussian:.2f})" for any_, as_gaussian in half)
    rows.append(Row("canaries, half of the noise, claimed 2: most shown", max(max(each) for each in half), note=note))
    return rows


def inversion_rows(task: Task) -> list[Row]:
    """A11: a record of one is read from wire bytes without noise, and not with it."""
    records = mechanism.some(task.train, 64, stream(0, "records"))
    rows = []
    for name, privacy, bounds in (("no noise", step(8.0, 0.0), (0.99, None)), ("epsilon 8", step(8.0), (None, 0.15))):
        found = inverted(task, PRIVATE, privacy, records, stream(0, name))
        assert found is not None
        note = f"{found.psnr_db:.1f} dB"
        rows.append(
            Row(f"inversion, {name}: median cosine", found.cosine, "", "by chance", found.chance, *bounds, note=note)
        )
    return rows


def membership_rows(quick: bool) -> list[Row]:
    """A12: the likelihood attack finds members without privacy, and hardly at epsilon 2."""
    models = SIZES[quick][2]
    whole = digits(Site(peers=4))
    labels = whole.train[1][:300].clone()
    wrong = torch.arange(0, len(labels), 10)
    labels[wrong] = (labels[wrong] + 1 + torch.from_numpy(np.arange(len(wrong)) % 9)) % 10
    task = replace(
        whole,
        model=lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        train=(whole.train[0][:300], labels),
    )
    rows = []
    for name, plan, privacy, low, high in (
        ("no privacy", PLAIN, None, 0.72, None),
        ("epsilon 8", PRIVATE, step(8.0), None, None),
        ("epsilon 2", PRIVATE, step(2.0), None, 0.62),
    ):
        found = membership(task, plan, privacy, ROUNDS, models, stream(0, name))
        note = f"TPR at 1% FPR {found.by_likelihood.found:.3f}; by loss alone {found.by_loss.auc:.3f}"
        rows.append(Row(f"membership, {name}: AUC", found.by_likelihood.auc, at_least=low, at_most=high, note=note))
    return rows


def measure(quick: bool) -> list[Row]:
    """All three attacks."""
    torch.set_num_threads(1)
    task = digits(Site(peers=4))
    return [*canary_rows(task, quick), *inversion_rows(task), *membership_rows(quick)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
