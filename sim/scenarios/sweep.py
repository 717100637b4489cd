"""Many scenarios from one: a grid of values, in one process or several, resumed where a crash has ended it.

A sweep's directory holds one run directory for each scenario, named by the hash of what it computes. A run counts as
finished when its manifest says so, was written by the same versions for the same scenario, and its metrics are those
that the manifest names: everything else is run again.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from quidnunc.crypto.errors import ConfigError, StoreUnwritable
from quidnunc.sim.batched.draws import keys, uniforms
from quidnunc.sim.scenarios.directory import FORMAT, MANIFEST, METRICS
from quidnunc.sim.scenarios.lock import locked
from quidnunc.sim.scenarios.on_ray import on_ray
from quidnunc.sim.scenarios.pool import Job, run_all
from quidnunc.sim.scenarios.run import Progress, check, run
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.scenarios.stored import Manifest
from quidnunc.sim.scenarios.text import read_table, set_at, to_scenario
from quidnunc.sim.scenarios.versions import versions

SCENARIOS_MAX = 10_000
_NAME_CHARS = 16


class Point(NamedTuple):
    """One scenario of a sweep and the values that make it differ, by path."""

    scenario: SimScenario
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its directory: what is computed decides it, what it is called does not."""
        told = msgspec.to_builtins(msgspec.structs.replace(self.scenario, name="scenario"))
        return sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:_NAME_CHARS]


def read_sweep(path: Path, changes: list[str], sample: int = 0, seed: int = 0) -> list[Point]:
    """The scenarios of the grid in table ``[sweep]`` of a file, after ``changes``; with ``sample`` so many drawn ones.

    Keys of the table are paths (``"merge.rule"``), values lists. Raises ConfigError before anything runs.
    """
    table = read_table(path, changes)
    grid = table.pop("sweep", None)
    if not isinstance(grid, Mapping) or not grid:
        raise ConfigError(
            f"{path}: no table [sweep]", hint='for example [sweep] with "merge.rule" = ["mean", "repute"]'
        )
    axes: dict[str, list[Any]] = {}
    for key, values in _flat(grid, ""):
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"{path}: sweep.{key} = {str(values)[:60]}: must be a list of values", hint="write [ ... ]"
            )
        axes[key] = values
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > SCENARIOS_MAX:
        raise ConfigError(
            f"{path}: {count:,} scenarios in [sweep], at most {SCENARIOS_MAX:,}", hint="give fewer values"
        )
    points = []
    for chosen in itertools.product(*axes.values()):
        values_of = dict(zip(axes, chosen, strict=True))
        points.append(Point(_scenario(table, values_of, str(path)), values_of))
    if sample:
        order = np.argsort(uniforms(keys(seed, "sweep", 0, np.arange(count)), 1)[:, 0], kind="stable")
        points = [points[at] for at in sorted(order[:sample].tolist())]
    return points


def _flat(grid: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    """Paths and values: dotted keys without quotes are tables in TOML."""
    found = []
    for key, value in grid.items():
        path = f"{above}.{key}" if above else key
        found += _flat(value, path) if isinstance(value, Mapping) else [(path, value)]
    return found


def _scenario(table: Mapping[str, Any], values: Mapping[str, Any], source: str) -> SimScenario:
    whole = msgspec.json.decode(msgspec.json.encode(table))
    for key, value in values.items():
        set_at(whole, key.split("."), value, f"sweep.{key}")
    return to_scenario(whole, source)


class Swept(NamedTuple):
    """What became of a point: where it stands, whether it was there already, and what was wrong (mostly nothing)."""

    point: Point
    directory: Path
    resumed: bool
    problem: str = ""


def sweep(
    points: list[Point],
    base: Path,
    out: Path,
    progress: Callable[[int, Point], Progress | None] | None = None,
    processes: int = 1,
    ray: str = "",
) -> list[Swept]:
    """Run what is not finished yet of ``points`` into ``out``; relative paths in scenarios are looked for in ``base``.

    Everything that is to run is prepared first: raises ConfigError for what cannot be, before anything runs. One that
    fails on the way (params that diverge) is left as it is, named, and does not keep the others from running. Raises
    StoreLocked while another sweep writes into ``out``.
    ``progress`` is asked for a callback before each run; with several ``processes`` or on the Ray cluster at ``ray``,
    after each, and not used further.
    """
    for point in points:
        if not finished(out / point.name, point.scenario):
            check(point.scenario, base)
    with locked(out):
        return _swept(points, base, out, progress, processes, ray)


def _swept(
    points: list[Point],
    base: Path,
    out: Path,
    progress: Callable[[int, Point], Progress | None] | None,
    processes: int,
    ray: str,
) -> list[Swept]:
    told = [(point, out / point.name, finished(out / point.name, point.scenario)) for point in points]
    # A grid may name one scenario twice.
    missing = {directory: number for number, (_, directory, done) in reversed(list(enumerate(told))) if not done}
    numbers = sorted(missing.values())
    problems: dict[Path, str] = {}
    if processes > 1 or ray:
        jobs = [Job(points[number].scenario, told[number][1]) for number in numbers]
        answers = on_ray(jobs, base, _clear, ray) if ray else run_all(jobs, base, processes, _clear)
        for number, problem in zip(numbers, answers, strict=True):
            problems[told[number][1]] = problem
            if progress:
                progress(number, points[number])
    else:
        for number in numbers:
            point, directory, _ = told[number]
            _clear(directory)
            try:
                run(point.scenario, out=directory, base=base, progress=progress(number, point) if progress else None)
            except ConfigError as error:
                problems[directory] = error.message
    return [Swept(*each, problems.get(each[1], "")) for each in told]


def finished(directory: Path, scenario: SimScenario) -> bool:
    """Whether ``directory`` holds this scenario, completely run by these versions, with the metrics it had then."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
        digest = sha256((directory / METRICS).read_bytes()).hexdigest()
    except (OSError, msgspec.DecodeError):
        return False
    same = msgspec.structs.replace(manifest.scenario, name=scenario.name) == scenario
    return (
        manifest.status == "complete" and same and manifest.versions == versions() and manifest.metrics_sha256 == digest
    )


def _clear(directory: Path) -> None:
    """Remove what a run left that did not finish; nothing that is no run directory."""
    if not directory.exists():
        return
    try:
        told = msgspec.json.decode((directory / MANIFEST).read_bytes()) if (directory / MANIFEST).exists() else {}
        # A full disk or a kill may have come before the first manifest was whole.
        begun = {each.name for each in directory.iterdir()} - {f"{MANIFEST}.new"}
        if begun and (not isinstance(told, dict) or told.get("format") != FORMAT):
            raise ConfigError(f"{directory} is no run directory", hint="choose another place with --out")
        shutil.rmtree(directory)
    except msgspec.DecodeError:
        raise ConfigError(f"{directory / MANIFEST}: not JSON", hint="remove it, or choose another --out") from None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StoreUnwritable(
            f"{directory}: cannot be removed: {why}", hint="choose another place with --out"
        ) from None
