"""One population in several processes: each trains and tests some peers at a time, whichever come next.

For models whose training cannot be batched over peers (convolutions), and where processors are idle. Merging stays in
this process. Results are those of one process, bit for bit: the same peers are worked on side by side by the same code
with draws of the same names, wherever it runs. A worker that is killed is replaced and its work given to the next.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.setup import Setup
from quidnunc.sim.batched.training import Tested, Trainer
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.trainer import DRIFT, GIVEN, TAKEN, Done, Post, Work, mapped, read_frame, write_frame

TRIES = 3
"""How often the same work is given out before a worker that dies is taken for the scenario's fault."""
COMMAND = (sys.executable, "-m", "quidnunc.sim.trainer")
_TOLD_CHARS = 500


class Crew:
    """The :class:`quidnunc.sim.batched.training.Workers` that are ``scenario.engine.processes`` processes.

    ``setup`` is that of ``seed``. Raises ConfigError for a worker that fails, or dies over the same work TRIES times.
    Leaving it as a context ends all processes.
    """

    def __init__(self, scenario: SimScenario, seed: int, base: Path, setup: Setup) -> None:
        trainer = Trainer(setup)
        self._chunks, self._test_chunks = trainer.chunks(), trainer.test_chunks()
        peers, slots = len(setup.shares.rows), setup.net.slots
        places = 3 if setup.quasi_global else 2
        self._memory = _memory(4 * places * peers * slots[-1].stop)
        self._shared = mapped(self._memory, places, peers, slots)
        post = Post(scenario, seed, str(base), self._memory, places)
        count = min(scenario.engine.processes, len(self._chunks))
        self._hands: list[_Hand] = []
        try:
            for _ in range(count):
                self._hands.append(_Hand(post))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes at work."""
        return [hand.process.pid for hand in self._hands]

    def train(self, params: Tensors, active: NDArray[np.bool_], number: int, drift: Tensors | None) -> float:
        """See :class:`quidnunc.sim.batched.training.Workers`."""
        chosen = [part for part in self._chunks if active[slice(*part)].any()]
        self._give(params, GIVEN)
        if drift is not None:
            self._give(drift, DRIFT)
        works = [Work(*part, number, tuple(active[slice(*part)].tolist())) for part in chosen]
        total = 0.0
        for part, done in zip(chosen, self._all(works), strict=True):
            total += done.loss
            for tensor, taken in zip(params, self._shared[TAKEN], strict=True):
                tensor[slice(*part)] = taken[slice(*part)]
        trained = int(active.sum())
        return total / trained if trained else float("nan")

    def test(self, params: Tensors) -> Tested:
        """See :class:`quidnunc.sim.batched.training.Workers`."""
        self._give(params, GIVEN)
        done = self._all([Work(*part) for part in self._test_chunks])
        return Tested(_joined(each.accuracies for each in done), _joined(each.losses for each in done))

    def close(self) -> None:
        """End all processes and wait for them."""
        for hand in self._hands:
            hand.end()
        self._hands = []
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _give(self, params: Tensors, place: int) -> None:
        for shared, tensor in zip(self._shared[place], params, strict=True):
            shared.copy_(tensor)

    def _all(self, works: Sequence[Work]) -> list[Done]:
        """What became of ``works``, in their order."""
        found: dict[int, Done] = {}
        tries: Counter[int] = Counter()
        waiting, idle, busy = deque(range(len(works))), list(self._hands), dict[_Hand, int]()
        with selectors.DefaultSelector() as selector:
            for hand in self._hands:
                selector.register(hand.answers, selectors.EVENT_READ, hand)
            while len(found) < len(works):
                while idle and waiting:
                    hand, at = idle.pop(), waiting.popleft()
                    busy[hand] = at
                    tries[at] += 1
                    hand.give(works[at])
                for key, _ in selector.select():
                    hand = key.data
                    done = hand.answer()
                    if done is not None:
                        found[busy.pop(hand)] = done
                    else:
                        selector.unregister(hand.answers)
                        lost = busy.pop(hand, None)
                        hand.replace(len(self._hands), lost is None or tries[lost] < TRIES)
                        selector.register(hand.answers, selectors.EVENT_READ, hand)
                        if lost is not None:
                            waiting.appendleft(lost)
                    if hand not in idle:
                        idle.append(hand)
        return [found[at] for at in range(len(works))]


class _Hand:
    """One place in a crew, and the process that has it now."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._begin()

    def _begin(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        # A session of its own: Ctrl-C is for the parent, which ends its workers.
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=[self._post.memory],
            start_new_session=True,
        )
        self._send(self._post)

    @property
    def answers(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def _send(self, message: msgspec.Struct) -> None:
        assert self.process.stdin is not None
        try:
            write_frame(self.process.stdin, message)
        except BrokenPipeError:
            # It is gone, and so its answers end: answer() finds out.
            return

    def give(self, work: Work) -> None:
        self._send(work)

    def answer(self) -> Done | None:
        """The answer that has come, None where the process has ended instead."""
        body = read_frame(self.answers)
        return None if body is None else msgspec.msgpack.decode(body, type=Done)

    def replace(self, processes: int, again: bool) -> None:
        """Another process in place of one that was killed. Raises ConfigError for one that failed by itself."""
        code = self.process.wait()
        self._errors.seek(0)
        told = self._errors.read().decode("utf-8", "replace").strip()[-_TOLD_CHARS:]
        self.end()
        if code >= 0 or not again:
            why = told if code >= 0 else f"ended by signal {-code}, {TRIES} times over the same peers"
            raise ConfigError(
                f"engine.processes = {processes}: a worker failed: {why or f'it ended with code {code}'}",
                hint="set engine.processes = 1 to see it here; signal 9 is mostly a lack of memory",
            )
        self._begin()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._errors.close()


def _memory(size: int) -> int:
    """A descriptor of ``size`` bytes that no path leads to: nothing is left of it when its last holder ends."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("quidnunc-params")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _joined(parts: Iterable[tuple[float, ...]]) -> NDArray[np.float64]:
    return np.concatenate([np.array(part) for part in parts])
