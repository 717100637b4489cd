"""One population on a Ray cluster: every node trains and tests some peers at a time, whichever come next.

The counterpart of ``sim/scenarios/crew.py`` where there is no common memory: the params of the peers that are worked on
side by side travel to a node and back. Merging stays in this process. Results are those of one process, bit for bit. A
worker that is killed, or whose node is lost, is replaced and its work given to the next.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.setup import Setup
from quidnunc.sim.batched.training import Tested, Trainer, of_part
from quidnunc.sim.scenarios.prepare import Custom
from quidnunc.sim.scenarios.spec import PROTOCOL, SimScenario
from quidnunc.sim.scenarios.versions import versions
from quidnunc.sim.station import Founding, Given, Returned, Station, packed, unpacked
from quidnunc.sim.trainer import Work

TRIES = 3
"""How often the same work is given out before a worker that dies is taken for the scenario's fault."""
_TOLD_CHARS = 500


def check_spread(scenario: SimScenario, setup: Setup, custom: Custom | None) -> None:
    """Raise ConfigError for what cannot be computed on several machines."""
    own = custom is not None and (custom.model is not None or custom.loss is not None)
    for wrong, why in (
        (scenario.engine.kind == PROTOCOL, "engine.kind = 'protocol': its nodes live in one process"),
        (setup.device != "cpu", f"device {setup.device}: set engine.device = 'cpu'"),
        (own, "a model or loss given in Python: it cannot be handed on"),
    ):
        if wrong:
            raise ConfigError(f"--ray with {why}", hint="leave --ray out")


class RayCrew:
    """The :class:`quidnunc.sim.batched.training.Workers` on a cluster: ``engine.processes`` of them, or if that is 1
    one for every processor of the cluster; never more than there is work for.

    ``ray`` is the module, connected; ``setup`` is that of ``seed``. Raises ConfigError for a worker that fails, or dies
    over the same work TRIES times. Leaving it as a context ends all workers.
    """

    def __init__(
        self, ray: Any, scenario: SimScenario, seed: int, base: Path, setup: Setup, station: type = Station
    ) -> None:
        self._ray, self._slots = ray, setup.net.slots
        trainer = Trainer(setup)
        self._chunks, self._test_chunks = trainer.chunks(), trainer.test_chunks()
        # A node with a GPU would compute other bits.
        engine = msgspec.structs.replace(scenario.engine, device="cpu")
        told = Founding(msgspec.structs.replace(scenario, engine=engine), seed, str(base.resolve()))
        self._founding = msgspec.msgpack.encode(told)
        # Spread over the nodes and holding no processor: one in place of another finds room on any node that is left.
        self._kind = ray.remote(scheduling_strategy="SPREAD")(station)
        there = int(ray.cluster_resources().get("CPU", 1))
        wanted = engine.processes if engine.processes > 1 else there
        self._hands = [self._kind.remote(self._founding) for _ in range(max(1, min(wanted, len(self._chunks))))]

    def __enter__(self) -> RayCrew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def train(self, params: Tensors, active: NDArray[np.bool_], number: int, drift: Tensors | None) -> float:
        """See :class:`quidnunc.sim.batched.training.Workers`."""
        chosen = [part for part in self._chunks if active[slice(*part)].any()]
        works = [Work(*part, number, tuple(active[slice(*part)].tolist())) for part in chosen]
        total = 0.0
        for part, found in zip(chosen, self._all(works, params, drift), strict=True):
            total += found.done.loss
            back = unpacked(found.params, part[1] - part[0], self._slots)
            for tensor, taken in zip(of_part(params, part), back, strict=True):
                tensor.copy_(taken)
        trained = int(active.sum())
        return total / trained if trained else float("nan")

    def test(self, params: Tensors) -> Tested:
        """See :class:`quidnunc.sim.batched.training.Workers`."""
        found = [each.done for each in self._all([Work(*part) for part in self._test_chunks], params, None)]
        accuracies, losses = ([each.accuracies for each in found], [each.losses for each in found])
        return Tested(np.concatenate(accuracies), np.concatenate(losses))

    def close(self) -> None:
        """End all workers."""
        for hand in self._hands:
            self._ray.kill(hand)
        self._hands = []

    def _all(self, works: Sequence[Work], params: Tensors, drift: Tensors | None) -> list[Returned]:
        """What became of ``works``, in their order."""
        found: dict[int, Returned] = {}
        tries: Counter[int] = Counter()
        waiting, idle, busy = deque(range(len(works))), list(range(len(self._hands))), dict[Any, tuple[int, int]]()
        while len(found) < len(works):
            while idle and waiting:
                hand, at = idle.pop(), waiting.popleft()
                tries[at] += 1
                busy[self._hands[hand].work.remote(_given(works[at], params, drift))] = hand, at
            for answer in self._ray.wait(list(busy))[0]:
                hand, at = busy.pop(answer)
                idle.append(hand)
                returned = self._answered(answer, tries[at] < TRIES)
                if returned is None:
                    self._ray.kill(self._hands[hand])
                    self._hands[hand] = self._kind.remote(self._founding)
                    waiting.appendleft(at)
                else:
                    found[at] = self._checked(returned, works[at])
        return [found[at] for at in range(len(works))]

    def _answered(self, answer: Any, again: bool) -> Returned | None:
        """What has come; None where the worker was lost and there may be another try."""
        errors = self._ray.exceptions
        try:
            return msgspec.msgpack.decode(self._ray.get(answer), type=Returned)
        except errors.RayError as error:
            if again and not isinstance(error, errors.RayTaskError):
                return None
            why = str(error).strip()[-_TOLD_CHARS:] or type(error).__name__
            raise ConfigError(
                f"--ray: a worker failed: {why}",
                hint="leave --ray out to see it here; most are lost for want of memory",
            ) from None

    def _checked(self, found: Returned, work: Work) -> Returned:
        """The same. Raises ConfigError for a node that cannot do it, or is not like this one."""
        peers, trained = work.high - work.low, work.number >= 0
        wrong = found.problem and f"a node says: {found.problem}"
        if found.versions != versions():
            wrong = f"a node has {found.versions}, this one {versions()}: results would differ"
        elif not wrong and len(found.params) != (4 * peers * self._slots[-1].stop if trained else 0):
            wrong = f"a node sent {len(found.params)} bytes of params for {peers} peers"
        elif not wrong and not trained and {len(found.done.accuracies), len(found.done.losses)} != {peers}:
            wrong = f"a node tested {len(found.done.accuracies)} of {peers} peers"
        if wrong:
            raise ConfigError(f"--ray: {wrong}", hint="install the same on every node, with the same files beside it")
        return found


def _given(work: Work, params: Tensors, drift: Tensors | None) -> bytes:
    part = work.low, work.high
    moved = b"" if drift is None else packed(of_part(drift, part))
    return msgspec.msgpack.encode(Given(work, packed(of_part(params, part)), moved))
