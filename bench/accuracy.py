"""Accuracy together against alone, without and with privacy, without and with an attacker.

The demo's settings (digits, softmax, 50 rounds, the default rule, equal speeds) in the virtual world with the real
nodes; the baselines run beside them: every peer alone with the same training and privacy, the plain mean rule, and the
honest peers without the attacker (its data are missing there too, which no rule can bring back).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from common import Row, main

from quidnunc.gossip.jobs import Evaluated, EvaluateJob, PrivacyStep, Trained, TrainJob
from quidnunc.gossip.learning.builtin import DEFAULTS, digits
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.trials import PACE
from quidnunc.sim.world import World

ROUNDS = 50
LEAD = {None: 4, 8.0: 2}
"""The charter's defaults: without privacy, and with it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One federation: how many peers, how skewed, how private, under which rule, with whom absent or attacking."""

    peers: int
    alpha: float
    epsilon: float | None
    rule: str = "repute"
    attacker: str = ""
    absent: bool = False


def founded(setting: Setting, seed: int) -> World:
    """The world of a setting, nobody started."""
    defaults = DEFAULTS["digits"]
    last = setting.peers - 1
    return build(
        Scenario(
            task=digits,
            training=defaults.plain if setting.epsilon is None else defaults.private,
            peers=setting.peers,
            alpha=setting.alpha,
            rounds=ROUNDS,
            epsilon=setting.epsilon,
            clip=defaults.clip,
            rule=setting.rule,
            lead=LEAD[setting.epsilon],
            link=Link(0.05, 0.05),
            attackers={last: setting.attacker} if setting.attacker else {},
            start="majority" if setting.absent else "all",
            settings=PACE,
            seed=seed,
        )
    )


def together(setting: Setting, seed: int) -> float:
    """Mean test accuracy of the honest peers when all have trained their rounds."""
    world = founded(setting, seed)
    honest = world.peers[:-1] if setting.attacker or setting.absent else world.peers
    for peer in honest if setting.absent else world.peers:
        world.start(peer.index)
    world.run(10 * ROUNDS, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in honest))
    world.run(world.now + 5)
    return fmean(accuracy(peer.worker, peer.node.rounds.base) for peer in honest if peer.node is not None)


def alone(setting: Setting, seed: int) -> float:
    """Mean test accuracy of every peer by itself, after as many rounds of the same training."""
    found = []
    world = founded(setting, seed)
    privacy = world.charter.privacy_step()
    for peer in world.peers:
        state = peer.described.genesis
        for number in range(1, ROUNDS + 1):
            state = trained(peer.worker, number, state, privacy)
        found.append(accuracy(peer.worker, state))
    return fmean(found)


def trained(worker: object, number: int, state: bytes, privacy: PrivacyStep | None) -> bytes:
    """The params after one more round of local training."""
    result = worker(TrainJob(number, number, state, state, True, 1.0, privacy))  # type: ignore[operator]
    assert isinstance(result, Trained), result
    return result.result


def accuracy(worker: object, state: bytes) -> float:
    """Test accuracy of a state."""
    result = worker(EvaluateJob(0, state))  # type: ignore[operator]
    assert isinstance(result, Evaluated), result
    return result.accuracy


def measure(quick: bool) -> list[Row]:
    """Every line of the acceptance list that speaks of accuracy."""
    seeds = range(1) if quick else range(3)
    rows = []
    for peers in (4,) if quick else (4, 5, 8):
        for epsilon, floor in ((None, 0.93), (8.0, 0.88)):
            for alpha, gain in ((0.5, 0.05), (0.1, 0.15)):
                setting = Setting(peers, alpha, epsilon)
                value = fmean(together(setting, seed) for seed in seeds)
                by_itself = fmean(alone(setting, seed) for seed in seeds)
                target = max(floor, by_itself + gain) if alpha == 0.5 else by_itself + gain
                rows.append(Row(_name(setting), value, "accuracy", "alone", by_itself, at_least=target))
    for epsilon in (None, 8.0):
        clean = fmean(together(Setting(5, 0.5, epsilon), seed) for seed in seeds)
        attacked = Setting(5, 0.5, epsilon, attacker="sign_flip")
        value = fmean(together(attacked, seed) for seed in seeds)
        rows.append(Row(_name(attacked), value, "accuracy", "nobody attacks", clean, at_least=clean - 0.03))
        missing = fmean(together(Setting(5, 0.5, epsilon, absent=True), seed) for seed in seeds)
        rows.append(Row(_name(attacked), value, "accuracy", "attacker absent", missing))
        naive = fmean(together(Setting(5, 0.5, epsilon, "mean", "sign_flip"), seed) for seed in seeds)
        rows.append(Row(_name(attacked), value, "accuracy", "mean rule", naive))
    return rows


def _name(setting: Setting) -> str:
    privacy = "no privacy" if setting.epsilon is None else f"epsilon {setting.epsilon:g}"
    attack = ", one sign flip" if setting.attacker else ""
    return f"{setting.peers} peers, Dirichlet {setting.alpha:g}, {privacy}{attack}"


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
