"""What the whole session shares: one thread for arithmetic, how garbage is collected, how far random tests explore.

``make test`` draws the same examples each time, so that a change is judged by what it changed. ``make soak`` sets
``QUIDNUNC_EXPLORE=1``: other examples each time, and more of them. No example is judged by the clock.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

EXPLORE = os.environ.get("QUIDNUNC_EXPLORE") == "1"
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("explore" if EXPLORE else "same")


def pytest_configure() -> None:
    # Workers and daemons share the cores already: threads that wait for each other make small models many times slower.
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    # With several workers, one seed of the fuzz tests for all, drawn before they start.
    os.environ.setdefault("QUIDNUNC_FUZZ_SEED", str(secrets.randbits(32)) if EXPLORE else "1")


def pytest_collection_finish() -> None:
    # Thousands of collected tests and their imports stay to the end: without this every full collection walks them
    # all, which takes a tenth of a simulated world's time. What tests make is collected as before, in larger lots.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes of one processor each on this machine, where Ray is installed."""
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    made.add_node(**node)
    yield made
    made.shutdown()
