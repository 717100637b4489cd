"""What a federation trains, as data: user code returns a :class:`Task`, the trainer owns the loop.

That the loop is ours is what lets privacy, batching and merging work for any model. Nothing here imports
torch, so that charters, settings and the command line can name a task without loading it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Site:
    """Where a task function runs: which peer out of how many, where its data lies, and free options.

    ``index``, ``peers``, ``alpha`` and ``seed`` say which shard of a built-in data set to take (Dirichlet
    concentration ``alpha``); tasks with data of their own read ``path`` and ``options`` instead. ``schema`` is
    the text of the data schema that all members signed, empty where the charter has none. With ``blank`` only the
    model is wanted (a charter is being drafted): there may be no data yet, and any rows of the right shape will do.
    """

    index: int = 0
    peers: int = 1
    alpha: float = 0.5
    seed: int = 0
    path: str = ""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    schema: str = ""
    blank: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """A model, a loss and local data.

    ``model()`` returns a fresh ``nn.Module`` with float32 parameters. ``loss(outputs, targets)`` returns one
    loss per example, shape ``[batch]``: privacy clips examples one by one. ``train``, ``holdout`` and
    ``test`` are pairs of tensors ``(inputs [n, ...], targets [n, ...])``; ``holdout`` judges neighbors and
    may be empty, ``test`` is only reported. ``metrics`` map a name to ``f(outputs, targets) -> float``;
    ``accuracy`` replaces the built-in one. ``notes`` are remarks on the local data for whoever runs the peer, a line
    each: ``quidnunc status`` tells the first and how many there are, and nothing of them is sent.

    Which of the model's tensors are shared is not the task's to say but the charter's, see ``gossip/personal.py``.

    Raises ConfigError for an empty training split, and for inputs and targets of unequal length.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    train: tuple[Tensor, Tensor]
    holdout: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    metrics: Mapping[str, Callable[[Tensor, Tensor], float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, split in (("train", self.train), ("holdout", self.holdout), ("test", self.test)):
            if len(split) != 2 or len(split[0]) != len(split[1]):
                sizes = " and ".join(str(len(part)) for part in split)
                raise ConfigError(
                    f"task split {name} has {sizes} rows, must be inputs and targets of equal length",
                    hint="return (inputs, targets) with one target per input",
                )
        if len(self.train[0]) == 0:
            raise ConfigError("task split train has 0 rows, must have at least 1", hint="check the data path")


TaskFunction = Callable[[Site], Task]
"""What user code provides, named ``package.module:function`` in a charter."""


PROX_MAX = 1000.0


@dataclass(frozen=True, slots=True)
class Training:
    """Local training between two merges: ``local_steps`` of SGD on ``batch_size`` examples each.

    ``momentum`` starts from zero in every round; ``prox`` pulls every step back to where the round began. A private
    round takes its steps and batches from the charter's privacy instead, unless its unit is the site. Raises
    ConfigError for values out of range.
    """

    learning_rate: float
    momentum: float = 0.0
    local_steps: int = 2
    batch_size: int = 32
    prox: float = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"training.learning_rate is {self.learning_rate}, must be above 0")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"training.momentum is {self.momentum}, must be at least 0 and below 1")
        if not 1 <= self.local_steps <= 100_000:
            raise ConfigError(f"training.local_steps is {self.local_steps}, must be 1 to 100000")
        if not 1 <= self.batch_size <= 1_000_000:
            raise ConfigError(f"training.batch_size is {self.batch_size}, must be 1 to 1000000")
        if not 0 <= self.prox <= PROX_MAX:
            raise ConfigError(f"training.prox is {self.prox}, must be 0 to {PROX_MAX:g}")


@dataclass(frozen=True, slots=True)
class Plan:
    """The part of a charter that the compute side follows.

    ``seed`` is the genesis seed, ``codec`` a code of ``gossip/learning/codec.py``, ``merge_rule`` a name of
    ``gossip/learning/merge.py`` with ``merge_options`` for it. With ``private`` (each record by itself) a model that
    mixes the examples of a batch is refused when it is built, before anything is trained. ``rounds`` are those of the
    charter, 0 for no end. ``personal`` names the tensors that are not shared.
    """

    seed: int
    codec: int
    training: Training
    merge_rule: str = "repute"
    merge_options: Mapping[str, float] = field(default_factory=dict)
    private: bool = False
    rounds: int = 0
    personal: tuple[str, ...] = ()
