"""From a scenario and a seed to an engine that is ready to go; everything that can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.params import scoped_rng
from quidnunc.gossip.rules.thresholds import REPUTE
from quidnunc.gossip.task import Training
from quidnunc.sim.batched.attackers import COLLUDING
from quidnunc.sim.batched.draws import Indices, keys, permutations
from quidnunc.sim.batched.engine import Setup
from quidnunc.sim.batched.merging import Merging, StackRule
from quidnunc.sim.batched.net import net_of
from quidnunc.sim.data.pool import Pool, load_pool
from quidnunc.sim.data.shares import Shares, share_out
from quidnunc.sim.scenarios.adversary import attack_of, check_borne, merging_of
from quidnunc.sim.scenarios.fits import check_events, check_rows
from quidnunc.sim.scenarios.spec import ModelSpec, PrivacySpec, SimScenario
from quidnunc.sim.topology.catalog import build_topology

ModelMaker = Callable[[Pool], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]

HOLDOUT = 0.2
"""The part of its examples by which a peer judges neighbors under REPUTE, as in the built-in tasks."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True, slots=True)
class Custom:
    """What only Python code can give: a model for a pool, a loss per example, a merge rule on gathered neighbors."""

    model: ModelMaker | None = None
    loss: Loss | None = None
    rule: StackRule | None = None


def prepare(scenario: SimScenario, seed: int, base: Path | None = None, custom: Custom | None = None) -> Setup:
    """The setup of one seed; relative paths in the scenario are looked for in ``base``.

    Raises ConfigError for what does not fit together, before anything is computed.
    """
    custom = custom or Custom()
    check_events(scenario)
    merging = Merging() if custom.rule is not None else merging_of(scenario.merge)
    device = _device(scenario.engine.device)
    if scenario.engine.processes > 1:
        _check_processes(scenario.engine.processes, device, custom)
    topology = build_topology(scenario.topology, scenario.peers, seed, base)
    check_rows(scenario, merging, topology)
    pool = load_pool(scenario.data, seed, base)
    attack = attack_of(scenario, topology, seed)
    if attack is not None and custom.rule is None:
        check_borne(scenario, merging, topology, attack)
    shares = share_out(pool, scenario.data, scenario.peers, seed)
    shares, holdout = _held_out(shares, scenario, seed)
    with scoped_rng(seed):
        module = custom.model(pool) if custom.model else model_for(scenario.model, pool)
    net = net_of(module, custom.loss)
    given = dict(module.named_parameters())
    genesis = [given[slot.name].detach().clone() for slot in net.slots]
    setup = Setup(
        net,
        genesis,
        pool,
        shares,
        topology,
        Training(
            scenario.training.learning_rate,
            scenario.training.momentum,
            scenario.training.local_steps,
            scenario.training.batch_size,
            scenario.training.prox,
        ),
        privacy=_privacy(scenario.privacy, scenario.rounds),
        delta=10.0 ** -(scenario.privacy.delta_exp if scenario.privacy else PrivacySpec(1.0).delta_exp),
        codec=scenario.codec,
        conditions=scenario.conditions,
        merging=merging,
        rule=custom.rule,
        attack=attack,
        holdout=holdout,
        quasi_global=_quasi_global(scenario),
        rounds=scenario.rounds,
        seed=seed,
        device=device,
    )
    _check_memory(scenario, net.slots[-1].stop, setup)
    return setup


def model_for(spec: ModelSpec, pool: Pool) -> nn.Module:
    """The model of a scenario for the inputs and classes of ``pool``, initialized by torch's own rules."""
    if spec.kind == "softmax":
        return nn.Sequential(nn.Linear(pool.features, pool.classes))
    layers: list[nn.Module] = []
    width = pool.features
    if spec.kind == "cnn":
        layers, width = _convolutions(spec, pool)
    for units in spec.hidden:
        layers += [nn.Linear(width, units), _ACTIVATIONS[spec.activation]()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, pool.classes))


def _convolutions(spec: ModelSpec, pool: Pool) -> tuple[list[nn.Module], int]:
    """The layers before an mlp's, and what they give it. Raises ConfigError for data that are no images."""
    shape = pool.shape if len(pool.shape) == 3 else (1, *pool.shape)
    if len(shape) != 3:
        raise ConfigError(
            f"model.kind = 'cnn' with {pool.name}: examples of shape {pool.shape}, not (rows, columns) with or without "
            "channels first",
            hint="choose mlp, or data.source = 'images' or 'digits'",
        )
    if min(shape[1:]) < 2 ** len(spec.channels):
        raise ConfigError(
            f"model.channels has {len(spec.channels)} layers that halve an image of {shape[1]} x {shape[2]}",
            hint=f"give at most {min(shape[1:]).bit_length() - 1}",
        )
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    before, height, width = shape
    for channels in spec.channels:
        layers.append(nn.Conv2d(before, channels, spec.kernel, padding=spec.kernel // 2))
        layers += [nn.MaxPool2d(2), _ACTIVATIONS[spec.activation]()]
        before, height, width = channels, height // 2, width // 2
    return [*layers, nn.Flatten()], before * height * width


def _held_out(shares: Shares, scenario: SimScenario, seed: int) -> tuple[Shares, list[Indices] | None]:
    """What is left to train on, and what each peer keeps to judge neighbors by; None where nothing is kept.

    At least one example is trained on; a peer with a single one judges by it, too.
    """
    part = scenario.merge.holdout
    if part < 0:
        part = HOLDOUT if scenario.merge.rule == REPUTE else 0.0
    if part == 0:
        return shares, None
    trained, kept = [], []
    names = keys(seed, "holdout", 0, np.arange(scenario.peers))
    for rows, order in zip(shares.rows, permutations(names, shares.sizes), strict=True):
        count = min(max(1, len(rows) - 1), max(1, round(part * len(rows))))
        chosen = order[: len(rows)]
        kept.append(np.sort(rows[chosen[:count]]))
        trained.append(np.sort(rows[chosen[count:]]) if len(rows) > 1 else rows)
    return Shares(trained, shares.replaced, shares.natural), kept


def _quasi_global(scenario: SimScenario) -> bool:
    """Whether momentum is quasi-global. Raises ConfigError where it has no meaning, or was measured to collapse."""
    if not scenario.training.quasi_global:
        return False
    for wrong, why in (
        (scenario.training.momentum == 0, "training.momentum = 0: there is nothing to carry over"),
        (scenario.privacy is not None, "privacy: a private round is one step without momentum"),
        (not scenario.conditions.perfect, "conditions: it collapses where states are old or peers are away"),
    ):
        if wrong:
            raise ConfigError(
                f"training.quasi_global = true with {why}", hint="set it to false, or change what is named"
            )
    return True


def _device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("engine.device = 'cuda': torch finds no GPU here", hint='set engine.device = "auto"')
    return "cuda" if there and wanted != "cpu" else "cpu"


def _check_processes(count: int, device: str, custom: Custom) -> None:
    """Raise ConfigError where several processes cannot do what one can."""
    for wrong, why in (
        (device != "cpu", f"on device {device}: they would share it"),
        (
            custom.model is not None or custom.loss is not None,
            "a model or loss given in Python: it cannot be handed on",
        ),
    ):
        if wrong:
            raise ConfigError(f"engine.processes = {count} with {why}", hint="set engine.processes = 1")


def _privacy(spec: PrivacySpec | None, rounds: int) -> PrivacyStep | None:
    if spec is None:
        return None
    return PrivacyStep(clip=spec.clip, noise_multiplier=noise_for(spec.epsilon, rounds, 10.0**-spec.delta_exp))


def _check_memory(scenario: SimScenario, dim: int, setup: Setup) -> None:
    extra = 0
    if setup.attack is not None:
        first = setup.topology.at(0)
        near = int(np.isin(first.indices, setup.attack.peers).sum()) if setup.attack.name in COLLUDING else 0
        extra = max(len(setup.attack.peers), near)
    kept = 4 if setup.quasi_global else 2
    if scenario.alone:
        kept += 2 if setup.quasi_global else 1
    if scenario.conditions.lossy and setup.topology.period == 1:
        kept += scenario.conditions.window
    kept += {"float32": 0, "int8": 1, "top_k": 2}[scenario.codec.kind]
    if scenario.engine.processes > 1:
        kept += 3 if setup.quasi_global else 2
    need = 4 * dim * (scenario.peers + extra) * kept / 2**30
    if need > scenario.engine.memory_gib:
        raise ConfigError(
            f"{scenario.peers:,} peers with {dim:,} params, {kept} states each: {need:.1f} GiB, at most "
            f"{scenario.engine.memory_gib:g} (engine.memory_gib)",
            hint="use fewer peers, a smaller model or a smaller conditions.window, or raise engine.memory_gib",
        )
