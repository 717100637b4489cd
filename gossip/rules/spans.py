"""Spans of coordinates, for passes of compiled code that several threads share.

A pass is cut into the same spans whatever the number of threads, and what is summed is summed span by span: threads
change no bit. They live as long as the pass, or are those of the :func:`crew` that it is done in: making one takes as
long as a short pass.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

SPAN = 1 << 17
"""Coordinates of a span: eight or more of them in a stack that is worth a second thread, each of some tenths of a
millisecond."""

Found = TypeVar("Found")

_CREW: ContextVar[Executor | None] = ContextVar("crew", default=None)


def threads() -> int:
    """How many threads a pass may use: as many as torch was told to use here; 1 where nobody has loaded it."""
    torch = sys.modules.get("torch")
    return 1 if torch is None else int(torch.get_num_threads())


def in_spans(work: Callable[[int, int], Found], dim: int, *, backward: bool = False) -> list[Found]:
    """``work(begin, stop)`` for all spans of ``dim`` coordinates, begun in order, or ``backward``; no order of results.

    ``work`` runs in several threads at a time if there are :func:`threads`.
    """
    spans = [(at, min(dim, at + SPAN)) for at in range(0, dim, SPAN)]
    todo, found = deque(reversed(spans) if backward else spans), deque[Found]()

    def some() -> None:
        while todo:
            try:
                begin, stop = todo.popleft()
            except IndexError:  # another thread took the last one
                return
            found.append(work(begin, stop))

    helpers = min(threads(), len(spans)) - 1
    if helpers < 1:
        some()
        return list(found)
    with _helping(helpers) as pool:
        others = [pool.submit(some) for _ in range(helpers)]
        some()
        for other in others:
            other.result()
    return list(found)


def _helping(helpers: int) -> AbstractContextManager[Executor]:
    """The crew's threads if there is one, or some that are made now and end afterwards."""
    crew = _CREW.get()
    return ThreadPoolExecutor(helpers) if crew is None else nullcontext(crew)


@contextmanager
def crew(pool: Executor) -> Iterator[None]:
    """Passes done within use the threads of ``pool``, and make none. One forked meanwhile calls :func:`disband`."""
    token = _CREW.set(pool)
    try:
        yield
    finally:
        _CREW.reset(token)


def disband() -> None:
    """Forget the crew of this context: in a forked process its threads do not exist."""
    _CREW.set(None)
