"""A run directory, read back: strict, capped, one error that names the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.files import read_regular
from quidnunc.sim.scenarios.directory import FORMAT, MANIFEST, METRICS, TOPOLOGY, VERSION
from quidnunc.sim.scenarios.spec import SimScenario

MANIFEST_BYTES_MAX = 16 << 20
METRICS_BYTES_MAX = 512 << 20
TOPOLOGY_BYTES_MAX = 64 << 20

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0)]


class Record(Struct, frozen=True, omit_defaults=True):
    """One line of metrics; what a run did not measure is None. See docs/simulator.md for the columns."""

    seed: Count
    round: Count
    accuracy_mean: float | None = None
    accuracy_median: float | None = None
    accuracy_worst: float | None = None
    accuracy_p10: float | None = None
    accuracy_best: float | None = None
    alone_mean: float | None = None
    gain_mean: float | None = None
    gain_worst: float | None = None
    test_loss: float | None = None
    train_loss: float | None = None
    consensus_distance: float | None = None
    peers_present: Count | None = None
    messages: Count | None = None
    messages_lost: Count | None = None
    bytes_sent: Count | None = None
    epsilon: float | None = None
    virtual_s: float | None = None
    messages_refused: Count | None = None
    ledger_entries: Count | None = None
    ledger_heads: str = ""
    attackers_present: Count | None = None
    attacker_weight: float | None = None
    attacker_mixing_weight: float | None = None
    detection_auroc: float | None = None
    backdoor_rate: float | None = None
    weight_kept: list[float | None] | None = None
    refused: list[tuple[Count, Count]] | None = None
    accuracies: list[float] | None = None
    present: list[bool] | None = None
    alone: list[float] | None = None


class Graph(Struct, frozen=True):
    """The graph of the first seed as it is drawn: edges (a part of very many), places in [0, 1], who attacks."""

    seed: Count
    kind: str
    peers: Count
    edges_in_all: Count
    edges: list[tuple[Count, Count]]
    places: list[tuple[float, float]]
    attackers: list[Count]


class Manifest(Struct, frozen=True):
    """What was run, and how it ended."""

    format: str
    v: int
    name: str
    status: str
    scenario: SimScenario
    seeds: list[dict[str, Any]]
    versions: dict[str, str]
    elapsed_s: float | None = None
    records: int | None = None
    metrics_sha256: str = ""


class StoredRun(Struct, frozen=True):
    """A run directory: its path, manifest, records in order, and graph (None in one that an old version wrote)."""

    path: Path
    manifest: Manifest
    records: Sequence[Record]
    graph: Graph | None

    @property
    def final(self) -> list[Record]:
        """The last record of every seed, in the order of the seeds."""
        return list({record.seed: record for record in self.records}.values())

    def mean(self, name: str) -> tuple[float, float] | None:
        """Mean and standard deviation over seeds of a column of :attr:`final`; None where it is empty."""
        values = [value for record in self.final if (value := getattr(record, name)) is not None]
        if not values:
            return None
        return fmean(values), stdev(values) if len(values) > 1 else 0.0


def read_run(path: Path, *, unmeasured: bool = False) -> StoredRun:
    """The run in directory ``path``; ``unmeasured`` allows one that ended before anything was measured.

    Raises ConfigError for a directory that holds none, or none that is whole.
    """
    manifest = _decoded(path / MANIFEST, MANIFEST_BYTES_MAX, Manifest)
    if manifest.format != FORMAT or manifest.v != VERSION:
        raise ConfigError(
            f"{path / MANIFEST}: format {manifest.format[:40]!r} version {manifest.v}, must be {FORMAT} {VERSION}",
            hint="run the scenario again with this version",
        )
    lines = _bytes(path / METRICS, METRICS_BYTES_MAX).splitlines()
    decoder = msgspec.json.Decoder(Record)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path / METRICS}: line {number}: {error}", hint="run the scenario again") from None
    if not records and not unmeasured:
        raise ConfigError(f"{path / METRICS}: no records", hint="run the scenario again")
    graph = None
    if (path / TOPOLOGY).exists():
        graph = _decoded(path / TOPOLOGY, TOPOLOGY_BYTES_MAX, Graph)
        top = max([0, *(end for edge in graph.edges for end in edge), *graph.attackers])
        if len(graph.places) != graph.peers or top >= max(1, graph.peers):
            raise ConfigError(f"{path / TOPOLOGY}: names peers that have no place", hint="run the scenario again")
    return StoredRun(path, manifest, records, graph)


def _bytes(path: Path, most: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most:
            raise ConfigError(f"{path}: {size:,} bytes, at most {most:,}", hint="is this a run directory?")
        return read_regular(path, most)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(
            f"{path}: cannot be read: {why}", hint="name a directory that quidnunc sim run has written"
        ) from None


def _decoded(path: Path, most: int, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(_bytes(path, most), type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}", hint="run the scenario again") from None
