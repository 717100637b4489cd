"""What a user may say of a topology: the table ``[topology]`` of a scenario, and the flags of ``sim topologies``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Kind = Literal[
    "ring",
    "torus",
    "complete",
    "star",
    "hypercube",
    "erdos-renyi",
    "random-regular",
    "small-world",
    "scale-free",
    "exponential",
    "one-peer-exponential",
    "epidemic",
    "sequence",
    "file",
]

PEERS_MIN, PEERS_MAX = 2, 1_000_000
DEGREE_MAX = 4096
EDGES_MAX = 8_000_000
"""No graph may have more edges: 128 MB of indices, and more than any graph that is worth simulating needs."""


class TopologySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of graph and its numbers.

    ``degree`` is that of random-regular, of the ring that small-world starts from, the edges each newcomer brings in
    scale-free, and the peers each peer sends to in epidemic. ``probability`` is that of an edge in erdos-renyi (0:
    twice the threshold of connectedness, 2 ln n / n) and of rewiring in small-world (0: 0.1). ``redraw_every`` draws a
    random graph anew after as many rounds (0: never). ``of`` are the kinds that a sequence goes through, ``every``
    rounds each. ``file`` is a GraphML file or an edge list.
    """

    kind: Kind = "random-regular"
    degree: Annotated[int, Meta(ge=1, le=DEGREE_MAX)] = 4
    probability: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    redraw_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    of: Annotated[tuple[Kind, ...], Meta(max_length=16)] = ()
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    file: str = ""


RANDOM = ("erdos-renyi", "random-regular", "small-world", "scale-free")
"""Kinds whose edges are drawn from the seed."""
