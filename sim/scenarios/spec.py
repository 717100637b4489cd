"""A scenario: everything that decides what a simulation computes, one frozen value per table of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from quidnunc.gossip.task import PROX_MAX
from quidnunc.sim.batched.codec import CodecSpec
from quidnunc.sim.batched.conditions import Conditions, Share
from quidnunc.sim.data.spec import DataSpec
from quidnunc.sim.topology.spec import PEERS_MAX, PEERS_MIN, TopologySpec

ROUNDS_MAX = 1_000_000
SEEDS_MAX = 1000
SEED_MAX = 2**62

Seed = Annotated[int, Meta(ge=0, le=SEED_MAX)]
Positive = Annotated[float, Meta(gt=0.0, le=1e6)]
Seconds = Annotated[float, Meta(ge=0.0, le=3600.0)]
Rate = Annotated[float, Meta(ge=0.0, le=1e6)]
Peer = Annotated[int, Meta(ge=0, le=PEERS_MAX)]
LINKS_MAX = 4096
BATCHED, PROTOCOL = "batched", "protocol"
"""Kinds of engines."""


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """``softmax`` is one linear layer; ``mlp`` has layers of ``hidden`` units with ``activation`` between them.

    ``cnn``, for images, has a convolution of ``kernel`` x ``kernel`` for each of ``channels``, each with ``activation``
    and halved by its maxima, then the layers of an mlp.
    """

    kind: Literal["softmax", "mlp", "cnn"] = "softmax"
    channels: Annotated[tuple[Annotated[int, Meta(ge=1, le=4096)], ...], Meta(min_length=1, max_length=8)] = (8, 16)
    kernel: Literal[1, 3, 5, 7] = 3
    hidden: Annotated[tuple[Annotated[int, Meta(ge=1, le=65_536)], ...], Meta(min_length=1, max_length=16)] = (32,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"


class TrainingSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Local training between two merges: ``local_steps`` of SGD on ``batch_size`` examples; momentum starts at zero, or
    is that of the merged model with ``quasi_global``.

    ``prox`` pulls every step back to where the round began (FedProx: Li et al. 2020).
    A private round is one full-batch step with ``learning_rate`` instead.
    """

    learning_rate: Positive = 0.1
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    local_steps: Annotated[int, Meta(ge=1, le=100_000)] = 2
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 32
    quasi_global: bool = False
    prox: Annotated[float, Meta(ge=0.0, le=PROX_MAX)] = 0.0


class PrivacySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Example-level DP-SGD: ``epsilon`` at delta 10^-``delta_exp`` over all rounds, gradients clipped to ``clip``."""

    epsilon: Positive
    delta_exp: Annotated[int, Meta(ge=1, le=12)] = 5
    clip: Positive = 1.0


class MergeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The merge rule by name: ``mean`` is plain mixing, ``repute`` the default of real federations, others are those of
    ``gossip/rules``. ``options`` are the rule's own.

    ``holdout`` is the part of its examples that each peer keeps from training to judge neighbors by; -1 is 0.2 under
    repute and none under other rules.
    """

    rule: str = "mean"
    options: Mapping[str, float] = field(default_factory=dict)
    holdout: Annotated[float, Meta(ge=-1.0, le=0.9)] = -1.0


class AttackSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Who attacks how. ``count`` peers are drawn from the seed, or ``peers`` names them.

    ``placement`` "spread" draws them so that no honest peer has more of them as neighbors than need be; "random" does
    not look. ``begin`` is the first round of the attack, ``strength`` what some attacks take (-1: their default).
    ``beyond`` allows more attackers than the merge rule bears, to see it break.
    """

    name: str
    count: Annotated[int, Meta(ge=0, le=PEERS_MAX)] = 0
    peers: tuple[Annotated[int, Meta(ge=0, le=PEERS_MAX)], ...] = ()
    placement: Literal["spread", "random"] = "spread"
    begin: Annotated[int, Meta(ge=0, le=ROUNDS_MAX)] = 0
    strength: Annotated[float, Meta(ge=-1.0, le=1e6)] = -1.0
    beyond: bool = False


class LinkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The link ``between`` two peers where it differs; ``loss`` and ``duplicate`` None are those of all links."""

    between: tuple[Peer, Peer]
    delay_s: Seconds = 0.02
    jitter_s: Seconds = 0.02
    loss: Share | None = None
    duplicate: Share | None = None
    mbit_s: Rate = 0.0


class NetworkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Links of the protocol engine, whose rounds of training take a virtual second: ``delay_s`` plus exponential
    jitter of mean ``jitter_s`` each way, so that messages overtake each other; ``duplicate`` of them arrive twice, and
    ``mbit_s`` megabits a second go over a link each way (0: no limit). How many are lost is a condition.
    """

    delay_s: Seconds = 0.02
    jitter_s: Seconds = 0.02
    duplicate: Share = 0.0
    mbit_s: Rate = 0.0
    links: Annotated[tuple[LinkSpec, ...], Meta(max_length=LINKS_MAX)] = ()


class EngineSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What computes it where: ``kind`` "batched" is fast and counts rounds, "protocol" runs real nodes with ledgers and
    signatures in virtual time.

    ``device`` "auto" takes a GPU if there is one; one thread is fastest on a busy machine. ``processes`` train and
    test, with the same result; for models of kind cnn. ``memory_gib`` is what params may take; a larger scenario is
    refused before it starts.
    """

    kind: Literal["batched", "protocol"] = "batched"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    memory_gib: Annotated[float, Meta(gt=0.0, le=1e5)] = 16.0


class SimScenario(Struct, frozen=True, forbid_unknown_fields=True):
    """What is simulated. Everybody is measured every ``evaluate_every`` rounds and after the last one, per seed.

    With ``alone`` everybody is trained without exchange, too, to tell what joining is worth.
    """

    peers: Annotated[int, Meta(ge=PEERS_MIN, le=PEERS_MAX)]
    rounds: Annotated[int, Meta(ge=1, le=ROUNDS_MAX)]
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "scenario"
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1, max_length=SEEDS_MAX)] = (0,)
    evaluate_every: Annotated[int, Meta(ge=1, le=ROUNDS_MAX)] = 10
    alone: bool = True
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    topology: TopologySpec = field(default_factory=TopologySpec)
    merge: MergeSpec = field(default_factory=MergeSpec)
    attack: AttackSpec | None = None
    privacy: PrivacySpec | None = None
    codec: CodecSpec = field(default_factory=CodecSpec)
    conditions: Conditions = field(default_factory=Conditions)
    network: NetworkSpec = field(default_factory=NetworkSpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
