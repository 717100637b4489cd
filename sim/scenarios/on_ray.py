"""Scenarios on a Ray cluster, by the same interface as the process pool; the extra ``[ray]``.

A task carries the scenario as JSON and brings back the files of its run directory, so that nodes need no common disk;
what a scenario names by path must lie at the same place on every node. A worker that is killed is begun again by Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.sim.scenarios.connected import connected
from quidnunc.sim.scenarios.directory import MANIFEST, METRICS, REPORT, TOPOLOGY
from quidnunc.sim.scenarios.pool import TRIES, Job
from quidnunc.sim.scenarios.versions import versions
from quidnunc.sim.worker import Order, Ran, ran

FILES = frozenset({MANIFEST, METRICS, REPORT, TOPOLOGY})
_TOLD_CHARS = 500


def on_ray(
    jobs: Sequence[Job],
    base: Path,
    clear: Callable[[Path], None],
    address: str,
    work: Callable[[bytes], bytes] = ran,
) -> Iterator[str]:
    """Run ``jobs`` on the cluster at ``address``; for each in order what was wrong with it, empty where nothing was.

    ``clear`` removes what is left of an earlier try. Raises ConfigError where Ray is missing or cannot be reached.
    """
    with connected(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=TRIES - 1)(work)
        orders = [msgspec.json.encode(Order(job.scenario, str(base.resolve()), "")) for job in jobs]
        answers = [task.remote(order) for order in orders]
        for job, answer in zip(jobs, answers, strict=True):
            try:
                found = msgspec.msgpack.decode(ray.get(answer), type=Ran)
            except ray.exceptions.RayError as error:
                told = str(error).strip()[-_TOLD_CHARS:]
                yield f"the worker failed: {told or type(error).__name__}"
                continue
            yield _kept(job, found, clear)


def _kept(job: Job, found: Ran, clear: Callable[[Path], None]) -> str:
    """Write what came back; what was wrong with it."""
    if found.versions != versions():
        return f"a node has {found.versions}, this one {versions()}: results would differ"
    if not found.files.keys() <= FILES:
        return f"a node sent {sorted(found.files)[:8]}, not the files of a run"
    clear(job.out)
    try:
        job.out.mkdir(parents=True)
        for name, content in found.files.items():
            (job.out / name).write_bytes(content)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StoreUnwritable(f"{job.out}: cannot be written: {why}", hint="choose another place with --out") from None
    return found.problem
