"""Compiled passes over stacks are their numpy twins: bit for bit where ledgers state results, to rounding elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from threading import Barrier, get_ident

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.reputation import FOUNDER
from quidnunc.gossip.rules import compiled, gram, linear, median, repute, spans
from quidnunc.gossip.rules.gram import RefusedRows
from quidnunc.gossip.rules.linear import Stack
from quidnunc.gossip.rules.network import MOST_ROWS
from quidnunc.gossip.rules.registry import apply

pytestmark = pytest.mark.skipif(find_spec("numba") is None, reason="the extra [fast] is not installed")

NEVER, ALWAYS = sys.maxsize, 0
ROWS = (2, 3, 8, 9)
BLOCK = 512
WIDTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 13)

KINDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "spread": lambda draw, shape: draw.normal(size=shape),
    "ties": lambda draw, shape: draw.choice([-1.0, -0.0, 0.0, 2.0], size=shape),
    "close": lambda draw, shape: 1000 + 1e-3 * draw.normal(size=shape),
    "subnormal": lambda draw, shape: draw.integers(-9, 9, size=shape) * 1.4e-45,
    "tiny": lambda draw, shape: 1e-30 * draw.normal(size=shape),
    "huge": lambda draw, shape: draw.choice([-3.4e38, -1.0, 0.0, 3.4e38], size=shape),
}

stacks = st.builds(
    lambda kind, k, dim, seed: KINDS[kind](np.random.Generator(np.random.PCG64(seed)), (k, dim)).astype(np.float32),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(ROWS),
    st.sampled_from(WIDTHS),
    st.integers(0, 2**32),
)


@contextmanager
def compiled_from(elements: int) -> Iterator[None]:
    before, compiled.LEAST_ELEMENTS = compiled.LEAST_ELEMENTS, elements
    try:
        # Overflow is among what is tried.
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    finally:
        compiled.LEAST_ELEMENTS = before


def by_numpy(action: Callable[[], np.ndarray]) -> np.ndarray:
    with compiled_from(NEVER):
        return action()


def by_numba(action: Callable[[], np.ndarray]) -> np.ndarray:
    with compiled_from(ALWAYS):
        return action()


def equal_weights(stack: Stack) -> np.ndarray:
    return np.full(len(stack), 1 / len(stack))


@given(stacks)
def test_a_median_has_the_same_bits(stack: Stack) -> None:
    found = by_numba(lambda: compiled.median(stack))
    assert found.tobytes() == by_numpy(lambda: median.coordinate_median(stack)).tobytes()
    assert found.tobytes() == by_numpy(lambda: apply("median", stack, equal_weights(stack), {})).tobytes()


@given(stacks, st.floats(0, 1))
def test_a_trimmed_mean_has_the_same_bits(stack: Stack, part: float) -> None:
    bad = round(part * ((len(stack) - 1) // 2))
    found = by_numba(lambda: compiled.trimmed_mean(stack, bad))
    expected = by_numpy(lambda: apply("trimmed_mean", stack, equal_weights(stack), {"bad": bad}))
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@given(stacks, st.lists(st.sampled_from([0, 1, 7, 250_000_000, PPB]), min_size=8, max_size=8))
def test_weighted_differences_have_the_bits_that_a_ledger_states(stack: Stack, weights: list[int]) -> None:
    rows, effective = stack[1:], weights[: len(stack) - 1]
    found = by_numba(lambda: linear.recompute_stack(stack[0], rows, effective))
    expected = by_numpy(lambda: linear.recompute(stack[0], list(zip(rows, effective, strict=True))))
    assert found.tobytes() == expected.tobytes()


@given(stacks, st.lists(st.floats(-1, 1, width=32), min_size=9, max_size=9))
def test_weighted_sums_are_those_of_float64_to_rounding(stack: Stack, given_factors: list[float]) -> None:
    factors = np.array(given_factors[: len(stack)], np.float32)
    found = by_numba(lambda: compiled.weighted_sum(stack, factors))
    sizes = np.abs(factors).astype(np.float64) @ np.abs(stack).astype(np.float64)
    held = sizes < 1e38
    expected = (factors.astype(np.float64) @ stack.astype(np.float64))[held]
    assert (np.abs(found[held] - expected) <= len(stack) * (2.0**-23 * sizes[held] + 2.0**-148)).all()


@given(stacks)
def test_squared_distances_are_the_exact_sum(stack: Stack) -> None:
    with compiled_from(ALWAYS):
        found = compiled.square_distances(stack[0], stack[1:])
        steps = (stack[1:] - stack[0]).astype(np.float64)
        np.testing.assert_allclose(found, (steps * steps).sum(axis=-1), rtol=1e-12)


@given(stacks)
def test_geometry_is_the_same_to_rounding(stack: Stack) -> None:
    pivot, rows = stack[0], stack[1:]
    with compiled_from(ALWAYS):
        away, places = repute.distances_and_geometry(pivot, rows)
    with compiled_from(NEVER):
        usual, expected = repute.distances_and_geometry(pivot, rows)
    # numpy sums squares of distances in float32 within a block.
    np.testing.assert_allclose(away, usual, rtol=1e-6)
    np.testing.assert_allclose(places.away, expected.away, rtol=1e-12)
    scale = np.abs(expected.share)[np.isfinite(expected.share)].max(initial=1.0)
    np.testing.assert_allclose(places.share, expected.share, rtol=0, atol=1e-12 * scale)


@given(stacks)
def test_gram_products_are_float32_at_worst(stack: Stack) -> None:
    with compiled_from(ALWAYS):
        found = compiled.gram(stack[0], stack[1:])
        steps = (stack[1:] - stack[0]).astype(np.float64)
    sizes = np.sqrt((steps * steps).sum(axis=-1))
    if not np.isfinite(found).all() or (sizes < 1e-10).any():
        return  # the caller takes them again in float64
    bound = 1e-5 * np.outer(sizes, sizes)
    assert (np.abs(found - steps @ steps.T)[np.tril_indices(len(steps))] <= bound[np.tril_indices(len(steps))]).all()
    assert not found[np.triu_indices(len(steps), 1)].any()


@given(stacks)
def test_gram_products_are_had_either_way(stack: Stack) -> None:
    def products() -> np.ndarray:
        return gram.gram(stack)

    try:
        expected = by_numpy(products)
    except RefusedRows:
        with pytest.raises(RefusedRows):
            by_numba(products)
        return
    sizes = np.sqrt(np.diag(expected))
    assert (np.abs(by_numba(products) - expected) <= 1e-5 * np.outer(sizes, sizes)).all()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def everything(stack: Stack) -> list[bytes]:
    """What every compiled pass makes of ``stack``."""
    pivot, rows = stack[0], stack[1:]
    factors = np.linspace(0, 1, len(rows), dtype=np.float32)
    found = (
        compiled.median(stack),
        compiled.trimmed_mean(stack, 1),
        compiled.geometry_sums(pivot, rows),
        compiled.square_distances(pivot, rows),
        compiled.gram(pivot, rows),
        compiled.recompute(pivot, rows, factors),
        compiled.weighted_sum(stack, np.append(factors, np.float32(0.5))),
    )
    return [np.ascontiguousarray(each).tobytes() for each in found]


@pytest.mark.parametrize("dim", [spans.SPAN, spans.SPAN + 1, 3 * spans.SPAN - 700])
def test_threads_change_no_bit(dim: int) -> None:
    stack = KINDS["spread"](np.random.Generator(np.random.PCG64(11)), (5, dim)).astype(np.float32)
    with compiled_from(ALWAYS):
        with torch_threads(1):
            expected = everything(stack)
        for count in (2, 3, 8):
            with torch_threads(count):
                assert everything(stack) == expected


def test_a_pass_takes_no_more_threads_than_torch_was_told_to_use() -> None:
    def ran(count: int) -> set[int]:
        together = Barrier(count, timeout=30)

        def work(begin: int, stop: int) -> int:
            together.wait()  # comes back only where ``count`` of them are at work
            return get_ident()

        with torch_threads(count):
            return set(spans.in_spans(work, 4 * spans.SPAN))

    assert ran(1) == {get_ident()}
    assert len(ran(2)) == 2
    assert len(ran(4)) == 4


def test_passes_of_a_crew_share_its_threads() -> None:
    together = Barrier(2, timeout=30)

    def work(begin: int, stop: int) -> int:
        together.wait()
        return get_ident()

    with torch_threads(2):
        with ThreadPoolExecutor(1) as pool, spans.crew(pool):
            first, second = (set(spans.in_spans(work, 4 * spans.SPAN)) for _ in range(2))
            assert first == second
        assert len(set(spans.in_spans(work, 4 * spans.SPAN))) == 2


def test_where_one_thread_is_to_be_used_a_crew_is_not() -> None:
    with torch_threads(1), ThreadPoolExecutor(1) as pool, spans.crew(pool):
        assert set(spans.in_spans(lambda begin, stop: get_ident(), 2 * spans.SPAN)) == {get_ident()}


def test_where_nobody_loaded_torch_a_pass_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert spans.threads() == 1


def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    def work(begin: int, stop: int) -> None:
        raise ValueError(begin)

    for count in (1, 2):
        with torch_threads(count), pytest.raises(ValueError, match=r"0|131072"):
            spans.in_spans(work, 2 * spans.SPAN)


def test_spans_are_all_of_them_once_in_either_direction() -> None:
    dim = 3 * spans.SPAN + 1
    with torch_threads(1):
        forward = spans.in_spans(lambda begin, stop: (begin, stop), dim)
        assert forward == [(at, min(dim, at + spans.SPAN)) for at in range(0, dim, spans.SPAN)]
        assert spans.in_spans(lambda begin, stop: (begin, stop), dim, backward=True) == forward[::-1]
        assert spans.in_spans(lambda begin, stop: begin, 0) == []


FORKED = """
import contextlib, os, sys, numpy as np, torch
from concurrent.futures import ThreadPoolExecutor
from quidnunc.gossip.rules import compiled, spans
compiled.LEAST_ELEMENTS = 0
torch.set_num_threads(2)
stack = np.random.Generator(np.random.PCG64(7)).normal(size=(3, 2 * spans.SPAN)).astype(np.float32)
os.register_at_fork(after_in_child=spans.disband)
with spans.crew(ThreadPoolExecutor(1)) if "crew" in sys.argv else contextlib.nullcontext():
    before = compiled.median(stack).tobytes()
    child = os.fork()
    if child == 0:
        os._exit(0 if compiled.median(stack).tobytes() == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), compiled.median(stack).tobytes() == before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("who", ["alone", "crew"])
def test_a_process_may_be_forked_after_a_pass_in_threads(who: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, who], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["0", "True"], done.stderr


@pytest.mark.parametrize("k", [MOST_ROWS, MOST_ROWS + 1])
def test_most_rows_of_a_network_and_one_more(k: int) -> None:
    stack = KINDS["spread"](np.random.Generator(np.random.PCG64(k)), (k, BLOCK + 3)).astype(np.float32)
    for rule, options in (("median", {}), ("trimmed_mean", {"bad": 20})):
        found = by_numba(lambda rule=rule, options=options: apply(rule, stack, equal_weights(stack), options))
        expected = by_numpy(lambda rule=rule, options=options: apply(rule, stack, equal_weights(stack), options))
        assert found.tobytes() == expected.tobytes()
    with compiled_from(ALWAYS):
        away, places = repute.distances_and_geometry(stack[0], stack[1:])
    with compiled_from(NEVER):
        usual, expected_places = repute.distances_and_geometry(stack[0], stack[1:])
    np.testing.assert_allclose(away, usual, rtol=1e-6)
    np.testing.assert_allclose(places.share, expected_places.share, rtol=1e-12)


def test_code_is_compiled_from_the_least_number_of_elements_on() -> None:
    stack = np.zeros((4, 25), np.float32)
    with compiled_from(stack.size):
        assert compiled.kernels_for(stack[0], stack[1:]) is not None
    with compiled_from(stack.size + 1):
        assert compiled.kernels_for(stack[0], stack[1:]) is None
        assert compiled.median(stack) is None


@pytest.mark.parametrize(
    "stack",
    [
        np.zeros((1, 40), np.float32),
        np.zeros((2, 4, 40), np.float32),
        np.zeros((4, 40), np.float64),
        np.zeros((4, 80), np.float32)[:, ::2],
        np.zeros((40, 4), np.float32).T,
        np.frombuffer(b"\0" * 641, np.uint8)[1:].view(np.float32).reshape(4, 40),
    ],
    ids=["one row", "a batch", "float64", "every other coordinate", "transposed", "unaligned"],
)
def test_other_arrays_are_left_to_numpy(stack: np.ndarray) -> None:
    with compiled_from(ALWAYS):
        assert compiled.median(stack) is None
        assert compiled.trimmed_mean(stack, 0) is None
        assert compiled.square_distances(stack[..., 0, :], stack[..., 1:, :]) is None
        assert median.coordinate_median(stack).tobytes() == stack[..., 0, :].tobytes()


def test_shapes_that_do_not_fit_are_refused_as_ever() -> None:
    stack = np.ones((4, 40), np.float32)
    with compiled_from(ALWAYS):
        with pytest.raises(ValueError, match="broadcast"):
            linear.distances(stack[0, :39], stack[1:])
        with pytest.raises(ValueError, match="broadcast"):
            repute.distances_and_geometry(np.ones(41, np.float32), stack)
        with pytest.raises(ValueError, match="zip"):
            linear.recompute_stack(stack[0], stack[1:], [1, 1, 1, 1])


def test_read_only_states_are_taken_as_they_are() -> None:
    stack = KINDS["spread"](np.random.Generator(np.random.PCG64(3)), (3, 700)).astype(np.float32)
    frozen = np.frombuffer(stack.tobytes(), np.float32).reshape(stack.shape)
    expected = by_numpy(lambda: median.coordinate_median(stack))
    assert by_numba(lambda: median.coordinate_median(frozen)).tobytes() == expected.tobytes()
    assert not frozen.flags.writeable
    assert stack.flags.writeable


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, BLOCK, BLOCK + 8])
@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "clipped_gossip"])
def test_a_row_that_is_not_finite_is_refused(rule: str, at: int, value: float) -> None:
    stack = np.ones((8, BLOCK + 9), np.float32)
    stack[3, at] = value
    with compiled_from(ALWAYS), pytest.raises(RefusedRows):
        apply(rule, stack, equal_weights(stack), {} if rule == "median" else {"bad": 2})


@pytest.mark.parametrize("k", [2, 3])
def test_the_median_of_rows_that_are_not_finite_is_numpys(k: int) -> None:
    stack = np.ones((k, BLOCK + 9), np.float32)
    stack[1, 0], stack[1, 3], stack[0, BLOCK + 1], stack[1, BLOCK + 1] = np.nan, np.inf, np.inf, -np.inf
    found = by_numba(lambda: median.coordinate_median(stack))
    np.testing.assert_array_equal(found, by_numpy(lambda: median.coordinate_median(stack)))


@pytest.mark.parametrize("rule", ["mean", "median", "krum", "clipped_gossip", "repute"])
def test_a_merge_by_compiled_code_is_what_deep_verification_computes(rule: str) -> None:
    stack = KINDS["spread"](np.random.Generator(np.random.PCG64(5)), (9, 1100)).astype(np.float32)
    stack[8] *= 1000
    pivot, rows = stack[0], stack[1:]
    inputs = Inputs(rows, [PPB // 9] * 8, [FOUNDER] * 8, [True] * 8)
    options = {"bad": 1.0} if rule in ("krum", "clipped_gossip") else {}
    with compiled_from(ALWAYS):
        done = merge(rule, pivot, inputs, None, options)
    with compiled_from(NEVER):
        usual = merge(rule, pivot, inputs, None, options)
        if rule == "median":
            expected = median.coordinate_median(stack)
        else:
            expected = linear.recompute(pivot, [(row, one.effective) for row, one in zip(rows, done.rows, strict=True)])
    assert done.result.tobytes() == expected.tobytes()
    for one, other in zip(done.rows, usual.rows, strict=True):
        assert one.doubts == other.doubts
        assert one.effective == pytest.approx(other.effective, abs=100)
    np.testing.assert_allclose(done.result, usual.result, atol=1e-4)


MEDIAN = """
import sys
{before}
import hashlib, numpy as np
from quidnunc.gossip.rules import compiled
from quidnunc.gossip.rules.registry import apply
compiled.LEAST_ELEMENTS = {least}
stack = np.random.Generator(np.random.PCG64(7)).normal(size=(8, 1000)).astype(np.float32)
print(hashlib.sha256(apply("median", stack, np.full(8, 1 / 8), {{}}).tobytes()).hexdigest())
print(compiled.median(stack) is not None, sys.modules.get("numba") is not None)
"""


FORBIDDEN = "import ctypes; sys.exit(77) if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) else None"
"""PR_SET_MDWE of Linux 6.3, which is what systemd's MemoryDenyWriteExecute= asks for."""


@pytest.mark.parametrize(
    ("before", "least", "used"),
    [
        ("sys.modules['numba'] = None", 0, "False False"),
        (FORBIDDEN, 0, "False False"),
        ("", 8001, "False False"),
        ("", 8000, "True True"),
    ],
    ids=["without numba", "without leave to make code", "a small stack", "a large one"],
)
def test_numba_is_loaded_where_it_is_used_and_never_needed(before: str, least: int, used: str) -> None:
    if before == FORBIDDEN and sys.platform != "linux":
        pytest.skip("memory is forbidden to be executed on Linux only")
    stack = np.random.Generator(np.random.PCG64(7)).normal(size=(8, 1000)).astype(np.float32)
    expected = sha256(by_numba(lambda: compiled.median(stack)).tobytes()).hexdigest()
    code = MEDIAN.format(before=before, least=least)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this system cannot forbid it")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == [expected, used]
