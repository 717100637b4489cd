"""Jobs to results: what a peer's compute side answers, to good jobs, bad remote data and broken user code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import blobs_task, per_example
from torch import nn

from quidnunc.crypto.errors import ConfigError, Reason, StoreUnwritable
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip import Site, Task
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import (
    PPB,
    Accounted,
    AccountJob,
    Adopted,
    AdoptJob,
    Advanced,
    AdvanceJob,
    Described,
    DescribeJob,
    Evaluated,
    EvaluateJob,
    Job,
    JobFailed,
    MedianJob,
    Merged,
    MergeInput,
    MergeJob,
    PrivacyStep,
    Rejected,
    Release,
    Trained,
    TrainJob,
)
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.attack import BACKDOOR_BOOST, plant_backdoor
from quidnunc.gossip.learning.codec import FLOAT32, INT8
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.learning.params import genesis
from quidnunc.gossip.reputation import FOUNDER
from quidnunc.gossip.rules.linear import recompute
from quidnunc.gossip.task import Plan, Training
from quidnunc.peer.pipe import TO_CHILD, TO_PARENT

PLAN = Plan(seed=3, codec=INT8, training=Training(0.3, 0.0, 4, 16))
AUTHOR = bytes(range(32))


class Bench:
    """A compute side with its blobs."""

    def __init__(
        self,
        task: Callable[[Site], Task] = lambda _site: blobs_task(),
        plan: Plan = PLAN,
        key: int = 1,
        attack: str = "",
        blobs: MemoryBlobs | None = None,
    ) -> None:
        self.blobs = blobs or MemoryBlobs()
        self.compute = Compute(task, Site(), plan, self.blobs, NoiseStream(bytes([key]) * 32, b"t"), attack)

    def describe(self) -> Described:
        described = self.compute.handle(DescribeJob())
        assert isinstance(described, Described), described
        return described

    def train(self, base: bytes, replica: bytes, round_: int = 1, **change: object) -> Trained:
        job = replace(TrainJob(round_, round_, base, replica, True, 1.0, None), **change)
        trained = self.compute.handle(job)
        assert isinstance(trained, Trained), trained
        return trained

    def vector(self, name: bytes) -> np.ndarray:
        return np.frombuffer(self.blobs.data[name], "<f4")


def test_describe_says_what_the_task_is() -> None:
    bench = Bench()
    described = bench.describe()
    assert (described.dim, described.examples, described.holdout) == (5 * 8 + 8 + 8 * 3 + 3, 60, 20)
    assert bench.vector(described.genesis).tobytes() == genesis(blobs_task(), 3).tobytes()
    assert described == Bench(key=2).describe()
    changed = blobs_task()
    changed.train[1][0] = 2 - changed.train[1][0]
    other = Bench(lambda _site: changed).describe()
    assert other.data_root != described.data_root
    assert other.schema == described.schema


def test_a_split_may_be_a_strided_view_of_one_row() -> None:
    task = blobs_task()
    one = replace(task, train=(task.train[0][::60], task.train[1][::60]))
    plain = replace(task, train=(task.train[0][:1].clone(), task.train[1][:1].clone()))
    assert Bench(lambda _site: one).describe() == Bench(lambda _site: plain).describe()


@pytest.mark.parametrize("code", [INT8, FLOAT32])
def test_a_delta_leads_every_holder_to_the_replica_it_names(code: int) -> None:
    plan = replace(PLAN, codec=code)
    author, holder = Bench(plan=plan), Bench(plan=plan, key=2)
    start = author.describe().genesis
    assert holder.describe().genesis == start
    base = replica = start
    for number in range(1, 4):
        trained = author.train(base, replica, number)
        delta = author.blobs.data[trained.delta]
        assert len(delta) == trained.size == codec.encoded_size(code, author.describe().dim)
        holder.blobs.put(delta)
        advanced = holder.compute.handle(AdvanceJob(AUTHOR, number, replica, trained.delta, trained.result))
        assert advanced == Advanced(AUTHOR, number, trained.result)
        assert holder.blobs.data[trained.result] == author.blobs.data[trained.result]
        base = replica = trained.result
    final = author.compute.handle(EvaluateJob(3, base))
    assert isinstance(final, Evaluated)
    assert final.accuracy > 0.8


def test_training_moves_the_replica_to_where_the_docstring_says() -> None:
    """v = base + drag * (trained - base) - replica, so without quantization the replica lands on base + drag * step."""
    bench = Bench(plan=replace(PLAN, codec=FLOAT32))
    start = bench.describe().genesis
    plain, dragged = bench.train(start, start), bench.train(start, start, drag=2.0)
    step = bench.vector(plain.result) - bench.vector(start)
    np.testing.assert_allclose(bench.vector(dragged.result), bench.vector(start) + 2 * step, atol=1e-5)
    elsewhere = bench.train(start, plain.result, train=False)
    np.testing.assert_allclose(bench.vector(elsewhere.result), bench.vector(start), atol=1e-6)


def test_a_heartbeat_does_not_train() -> None:
    bench = Bench()
    start = bench.describe().genesis
    beat = bench.train(start, start, train=False, privacy=PrivacyStep(1.0, 1.0))
    assert beat.result == start
    assert bench.blobs.data[beat.delta] == b"\x9c" + bytes(bench.describe().dim)
    assert beat.loss == pytest.approx(1.1, abs=0.6)


def test_the_same_key_gives_the_same_bits_and_nothing_else_does() -> None:
    privacy = PrivacyStep(1.0, 1.0)
    start = Bench().describe().genesis

    def delta(key: int = 1, round_: int = 1, **change: object) -> bytes:
        bench = Bench(key=key)
        bench.describe()
        return bench.train(start, start, round_, privacy=privacy, **change).delta

    assert delta() == delta()
    assert len({delta(), delta(key=2), delta(round_=2), delta(number=9)}) == 4


def test_noise_is_not_shared_by_two_bases_of_one_round() -> None:
    """A round done again from other params (after a lost merge) must not subtract to the difference of the data."""
    bench = Bench(plan=replace(PLAN, codec=FLOAT32))
    start = bench.describe().genesis
    other = bench.blobs.put(codec.state_bytes(bench.vector(start) + np.float32(1e-6)))
    strong = PrivacyStep(1.0, 1000.0)
    steps = [
        bench.vector(bench.train(base, start, privacy=strong).result) - bench.vector(base) for base in (start, other)
    ]
    assert abs(np.corrcoef(*steps)[0, 1]) < 0.5


def test_advancing_refuses_what_is_not_what_was_signed() -> None:
    bench = Bench()
    described = bench.describe()
    trained = bench.train(described.genesis, described.genesis)

    def refused(delta: bytes, result: bytes = trained.result) -> Reason:
        answer = bench.compute.handle(AdvanceJob(AUTHOR, 4, described.genesis, bench.blobs.put(delta), result))
        assert isinstance(answer, Rejected), answer
        assert (answer.author, answer.number) == (AUTHOR, 4)
        return answer.reason

    delta = bench.blobs.data[trained.delta]
    before = len(bench.blobs.data)
    assert refused(delta, bytes(32)) is Reason.BAD_RESULT
    assert len(bench.blobs.data) == before
    assert refused(delta[:-1]) is Reason.BAD_SHAPE
    assert refused(b"\x7f" + delta[1:]) is Reason.BAD_CODEC
    assert refused(delta[:1] + b"\x80" + delta[2:]) is Reason.BAD_CODEC


def test_adopting_checks_the_snapshot() -> None:
    bench = Bench()
    described = bench.describe()
    good = AdoptJob(AUTHOR, 7, described.genesis)
    assert bench.compute.handle(good) == Advanced(AUTHOR, 7, described.genesis)
    state = bench.blobs.data[described.genesis]
    for data, reason in ((state[4:], Reason.BAD_SHAPE), (b"\0\0\x80\x7f" + state[4:], Reason.NON_FINITE)):
        answer = bench.compute.handle(AdoptJob(AUTHOR, 7, bench.blobs.put(data)))
        assert isinstance(answer, Rejected)
        assert answer.reason is reason


def neighbors(bench: Bench, k: int) -> tuple[bytes, tuple[MergeInput, ...]]:
    start = bench.describe().genesis
    names = [bench.train(start, start, round_).result for round_ in range(1, k + 2)]
    weight = PPB // (k + 1)
    return names[0], tuple(MergeInput(bytes([i]) * 32, name, weight, FOUNDER, True) for i, name in enumerate(names[1:]))


@pytest.mark.parametrize("rule", ["repute", "mean"])
def test_a_merge_can_be_recomputed_from_its_answer(rule: str) -> None:
    bench = Bench(plan=replace(PLAN, merge_rule=rule))
    pivot, inputs = neighbors(bench, 4)
    merged = bench.compute.handle(MergeJob(5, pivot, inputs))
    assert isinstance(merged, Merged), merged
    assert [(row.author, row.state, row.weight) for row in merged.rows] == [
        (entry.author, entry.state, entry.weight) for entry in inputs
    ]
    again = recompute(bench.vector(pivot), [(bench.vector(row.state), row.effective) for row in merged.rows])
    assert hashlib.sha256(codec.state_bytes(again)).digest() == merged.result
    assert bench.compute.handle(MergeJob(5, pivot, inputs)) == merged
    assert not merged.approximate


def test_options_of_the_charter_reach_the_rule() -> None:
    bench = Bench(plan=replace(PLAN, merge_options={"radius": 0.0}))
    pivot, inputs = neighbors(bench, 3)
    merged = bench.compute.handle(MergeJob(5, pivot, inputs))
    assert isinstance(merged, Merged)
    assert merged.result == pivot
    wrong = Bench(plan=replace(PLAN, merge_options={"radios": 0.0}))
    failed = wrong.compute.handle(MergeJob(5, *neighbors(wrong, 3)))
    assert isinstance(failed, JobFailed)
    assert failed.why.startswith("merge option radios is unknown")


def test_the_median_of_states_is_adopted() -> None:
    bench = Bench()
    pivot, inputs = neighbors(bench, 2)
    states = (pivot, *(entry.state for entry in inputs))
    adopted = bench.compute.handle(MedianJob(states))
    assert isinstance(adopted, Adopted)
    expected = np.median([bench.vector(name) for name in states], axis=0)
    assert bench.vector(adopted.result).tolist() == expected.tolist()
    plan = replace(PLAN, merge_rule="median")
    merged = Bench(plan=plan, blobs=bench.blobs).compute.handle(MergeJob(1, pivot, inputs))
    assert isinstance(merged, Merged)
    assert merged.approximate


def test_evaluation_uses_the_tasks_own_accuracy_when_it_has_one() -> None:
    state = Bench().describe().genesis
    own = Bench(lambda _site: replace(blobs_task(), metrics={"accuracy": lambda out, y: 0.25 + 0 * len(out)}))
    own.describe()
    answer = own.compute.handle(EvaluateJob(1, state))
    assert isinstance(answer, Evaluated)
    assert answer.accuracy == 0.25
    assert answer.loss > 0


@pytest.mark.parametrize(
    "job",
    [
        TrainJob(1, 2, b"\1" * 32, b"\2" * 32, True, 1.0, None),
        AdvanceJob(AUTHOR, 2, b"\1" * 32, b"\2" * 32, b"\3" * 32),
        AdoptJob(AUTHOR, 2, b"\1" * 32),
        MergeJob(1, b"\1" * 32, ()),
        MedianJob((b"\1" * 32,)),
        EvaluateJob(1, b"\1" * 32),
    ],
    ids=lambda job: type(job).__name__,
)
def test_a_missing_blob_is_named(job: Job) -> None:
    failed = Bench().compute.handle(job)
    assert isinstance(failed, JobFailed)
    assert (failed.job, failed.missing) == (type(job).__name__, b"\1" * 32)
    if isinstance(job, AdvanceJob | AdoptJob):
        assert (failed.author, failed.number) == (AUTHOR, 2)


class Explodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("boom " * 200)


def test_user_code_that_raises_fails_the_job_and_not_the_peer() -> None:
    bench = Bench(lambda _site: replace(blobs_task(), model=Explodes))
    start = bench.describe().genesis
    failed = bench.compute.handle(TrainJob(1, 1, start, start, True, 1.0, None))
    assert isinstance(failed, JobFailed)
    assert failed.job == "TrainJob"
    assert failed.why.startswith("ZeroDivisionError: boom")
    assert len(failed.why) == 400
    assert isinstance(bench.compute.handle(DescribeJob()), Described)


def refuses(_site: Site) -> Task:
    raise FileNotFoundError("data.csv")


def wrong_type(_site: Site) -> Task:
    return "not a task"  # type: ignore[return-value]


def no_reduction(_site: Site) -> Task:
    return replace(blobs_task(), loss=lambda out, y: per_example(out, y).mean())


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (refuses, "FileNotFoundError: data.csv"),
        (wrong_type, "task function returned str, must return quidnunc.gossip.Task"),
    ],
)
def test_a_broken_task_function_is_reported(task: Callable[[Site], Task], why: str) -> None:
    failed = Bench(task).compute.handle(DescribeJob())
    assert failed == JobFailed("DescribeJob", why)


def test_the_remedy_is_part_of_the_report() -> None:
    bench = Bench(no_reduction)
    start = bench.describe().genesis
    failed = bench.compute.handle(TrainJob(1, 1, start, start, True, 1.0, None))
    assert isinstance(failed, JobFailed)
    assert failed.why.endswith("(use reduction='none')")


def test_a_killed_compute_side_continues_with_the_same_bits() -> None:
    first = Bench()
    start = first.describe().genesis
    one = first.train(start, start, 1)
    two = first.train(one.result, one.result, 2)
    restarted = Bench(blobs=first.blobs)
    assert restarted.train(one.result, one.result, 2) == two


def test_an_attacker_publishes_the_attack_and_its_ledger_still_recomputes() -> None:
    bench = Bench(attack="sign_flip", plan=replace(PLAN, codec=FLOAT32))
    honest = Bench(plan=replace(PLAN, codec=FLOAT32))
    start = bench.describe().genesis
    honest.describe()
    flipped, plain = bench.train(start, start), honest.train(start, start)
    np.testing.assert_allclose(bench.vector(flipped.result), -honest.vector(plain.result), atol=1e-6)
    other = bench.blobs.put(honest.blobs.data[plain.result])
    entry = MergeInput(AUTHOR, other, PPB // 2, FOUNDER, True)
    merged = bench.compute.handle(MergeJob(1, flipped.result, (entry,)))
    assert isinstance(merged, Merged)
    again = recompute(bench.vector(flipped.result), [(bench.vector(other), merged.rows[0].effective)])
    assert codec.state_bytes(again) == bench.blobs.data[merged.result]
    # It trains on from its private honest copy, not from the poison it published and merged.
    second = bench.train(merged.result, flipped.result, 2)
    cosine = bench.vector(second.result) @ -honest.vector(plain.result)
    assert cosine > 0.9 * float(np.square(honest.vector(plain.result)).sum())


def test_a_label_flipper_trains_on_flipped_labels() -> None:
    start = Bench().describe().genesis
    bench = Bench(attack="label_flip")
    state = bench.describe().genesis
    for round_ in range(1, 6):
        state = bench.train(state, state, round_).result
    answer = bench.compute.handle(EvaluateJob(5, state))
    assert isinstance(answer, Evaluated)
    assert answer.accuracy < 0.5
    assert state != start


def test_a_backdoor_opens_and_its_step_is_published_boosted() -> None:
    """Model replacement: the attacker goes on from what it has trained, and publishes several times that step."""
    bench, plain = (Bench(attack=name, plan=replace(PLAN, codec=FLOAT32)) for name in ("backdoor", ""))
    start = bench.describe().genesis
    plain.describe()
    task = blobs_task()
    marked, labels = plant_backdoor(*task.train)
    own = Bench(lambda _site: replace(task, train=(marked, labels)), plan=replace(PLAN, codec=FLOAT32))
    own.describe()
    step = own.vector(own.train(start, start).result) - bench.vector(start)
    sent = bench.vector(bench.train(start, start).result) - bench.vector(start)
    np.testing.assert_allclose(sent, BACKDOOR_BOOST * step, atol=1e-5)
    assert plain.train(start, start).result != own.train(start, start).result


def test_an_unknown_attack_is_refused() -> None:
    with pytest.raises(ConfigError, match="attack nonsense is unknown"):
        Bench(attack="nonsense")


def test_a_full_disk_is_told_from_what_the_task_did() -> None:
    class Full(MemoryBlobs):
        def put(self, data: bytes, *, durable: bool = False) -> bytes:
            raise StoreUnwritable("blobs: cannot be written: no space left on device")

    failed = Bench(blobs=Full()).compute.handle(DescribeJob())
    assert isinstance(failed, JobFailed)
    assert failed.unwritable
    assert failed.why == "blobs: cannot be written: no space left on device"


def test_a_model_with_batch_statistics_is_refused_before_training_where_privacy_is_asked_for() -> None:
    task = replace(blobs_task(), model=lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    compute = Compute(
        lambda _site: task, Site(), replace(PLAN, private=True), MemoryBlobs(), NoiseStream(bytes(32), b"x")
    )
    failed = compute.handle(DescribeJob())
    assert isinstance(failed, JobFailed)
    assert "model layer 1 is BatchNorm1d, which mixes examples" in failed.why
    assert "GroupNorm" in failed.why


def test_what_sampled_releases_cost_is_answered_over_the_pipe() -> None:
    job = AccountJob(((Release(8_000_000), 10),), Release(2_000_000, 100_000, 2), 3, 5)
    sent = TO_CHILD.decode(TO_CHILD.encode(job))
    assert sent == job
    answer = Bench().compute.handle(sent)
    assert isinstance(answer, Accounted)
    assert TO_PARENT.decode(TO_PARENT.encode(answer)) == answer
    assert [number for number, _ in answer.points] == [1, 2, 3]
    assert answer.points[-1][1] > answer.alone_u
