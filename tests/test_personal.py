"""Personal tensors: named by the charter, trained by every member for itself, kept where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from founders import charter, founders
from hypothesis import given
from hypothesis import strategies as st
from learners import blobs_task, per_example
from torch import nn

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import CharterError, ConfigError, Malformed
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.federation.charter import MAX_BODY_BYTES, Charter
from quidnunc.gossip.jobs import (
    Described,
    DescribeJob,
    Evaluated,
    EvaluateJob,
    JobFailed,
    PrivacyStep,
    Trained,
    TrainJob,
    Unit,
)
from quidnunc.gossip.learning.codec import FLOAT32, state_bytes
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.learning.params import genesis, layout
from quidnunc.gossip.learning.split import Split
from quidnunc.gossip.personal import (
    NAME_BYTES,
    NAMES_MAX,
    checked_names,
    chosen,
    parse_personal,
    write_personal,
)
from quidnunc.gossip.resume import fold
from quidnunc.gossip.task import Plan, Site, Task, Training
from quidnunc.sim.federation import Scenario
from quidnunc.sim.trials import PACE, begin
from quidnunc.sim.world import Peer, World

HEAD = ("2",)
PLAN = Plan(seed=3, codec=FLOAT32, training=Training(0.3, 0.0, 4, 16), personal=HEAD)
SLOTS = layout(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))
HEAD_DIM = 8 * 3 + 3
CHARTER = charter(founders(4))


# The names.


def test_names_of_tensors_and_modules_are_taken_in_order() -> None:
    assert checked_names(("0.bias", "2", "2_bias", "head", "head0")) == ("0.bias", "2", "2_bias", "head", "head0")
    assert len(checked_names([f"layer_{number:02}" for number in range(NAMES_MAX)])) == NAMES_MAX
    assert checked_names(["x" * NAME_BYTES])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("",), "must be the name of a tensor"),
        (("a..b",), "must be the name"),
        (("a b",), "must be the name"),
        (("ä",), "must be the name"),
        (("a\n",), "must be the name"),
        (("x" * (NAME_BYTES + 1),), "must be the name"),
        (("b", "a"), "'b' before 'a'"),
        (("a", "a"), "'a' before 'a'"),
        (("a", "a.b"), "'a' before 'a.b'"),
        ([f"layer_{number:02}" for number in range(NAMES_MAX + 1)], "65 names"),
    ],
)
def test_other_names_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(CharterError, match=message):
        checked_names(names)


def test_a_name_stands_for_a_tensor_or_for_a_whole_module() -> None:
    tensors = ["body.bias", "body.weight", "head.bias", "head.weight", "header.bias"]
    assert chosen(["head"], tensors) == (False, False, True, True, False)
    assert chosen(["body.bias"], tensors) == (True, False, False, False, False)
    assert chosen([], tensors) == (False,) * 5
    with pytest.raises(ConfigError, match="no trainable tensor 'hea' to keep personal") as refusal:
        chosen(["hea"], tensors)
    assert "body.bias, body.weight" in refusal.value.hint
    with pytest.raises(ConfigError, match="nothing is left to share"):
        chosen(["body", "head", "header"], tensors)


def test_a_charter_names_them_and_one_without_any_has_the_bytes_it_had() -> None:
    body = decode(CHARTER.body(), max_bytes=MAX_BODY_BYTES)
    assert isinstance(body, dict)
    task: Any = body["task"]
    assert "personal" not in task
    told = replace(CHARTER, task=replace(CHARTER.task, personal=HEAD))
    assert Charter.parse(told.body()) == told
    assert told.plan().personal == HEAD
    assert told.federation_id != CHARTER.federation_id
    for wrong in ([], ["b", "a"], ["a b"], [1], "a", ["a"] * 65):
        with pytest.raises((CharterError, Malformed)):
            Charter.parse(encode({**body, "task": {**task, "personal": wrong}}))


# The vector in two parts.


@given(st.sets(st.sampled_from([slot.name for slot in SLOTS]), max_size=3), st.integers(0, 3))
def test_both_parts_make_the_whole(names: set[str], rows: int) -> None:
    split = Split(SLOTS, sorted(names))
    whole = np.arange(SLOTS[-1].stop, dtype=np.float32)
    assert split.dim + split.personal_dim == len(whole)
    shared, personal = split.shared(whole), split.personal(whole)
    assert (len(shared), len(personal)) == (split.dim, split.personal_dim)
    assert np.array_equal(split.join(shared, personal), whole)
    assert np.array_equal(split.join(np.tile(shared, (rows, 1)), personal), np.tile(whole, (rows, 1)))
    kept = {index for slot in SLOTS if slot.name in names for index in range(slot.start, slot.stop)}
    assert set(personal.astype(int)) == kept


def test_the_private_part_of_an_update_names_one_blob() -> None:
    assert parse_personal(write_personal(b"h" * 32)) == b"h" * 32


@given(st.binary(max_size=80))
def test_any_other_private_part_is_refused(data: bytes) -> None:
    try:
        assert write_personal(parse_personal(data)) == data
    except Malformed:
        return


@pytest.mark.parametrize(
    "value", [{"personal": b"short"}, {"personal": b"h" * 32, "x": 1}, {"other": b"h" * 32}, [b"h" * 32], {}]
)
def test_a_private_part_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        parse_personal(encode(value))


# Training.


class Learner:
    """A compute side that goes from round to round by itself."""

    def __init__(self, task: Task, plan: Plan = PLAN, key: int = 1) -> None:
        self.blobs = MemoryBlobs()
        self.compute = Compute(lambda _site: task, Site(), plan, self.blobs, NoiseStream(bytes([key]) * 32, b"t"))
        described = self.compute.handle(DescribeJob())
        assert isinstance(described, Described), described
        self.described = described
        self.state, self.personal, self.number = described.genesis, b"", 0

    def train(self, privacy: PrivacyStep | None = None) -> Trained:
        self.number += 1
        job = TrainJob(self.number, self.number, self.state, self.state, True, 1.0, privacy, self.personal)
        trained = self.compute.handle(job)
        assert isinstance(trained, Trained), trained
        self.state, self.personal = trained.result, trained.personal
        return trained

    def vector(self, name: bytes) -> np.ndarray:
        return np.frombuffer(self.blobs.data[name], "<f4")

    def accuracy(self, personal: bytes) -> float:
        measured = self.compute.handle(EvaluateJob(1, self.state, personal))
        assert isinstance(measured, Evaluated), measured
        return measured.accuracy


def headed(classes: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, classes))


def test_what_is_exchanged_is_the_shared_part_alone() -> None:
    learner = Learner(blobs_task())
    whole = genesis(blobs_task(), PLAN.seed)
    assert learner.described.dim == len(whole) - HEAD_DIM
    assert learner.blobs.data[learner.described.genesis] == state_bytes(whole[: learner.described.dim])
    trained = learner.train()
    assert len(learner.vector(trained.result)) == learner.described.dim
    assert len(learner.vector(trained.personal)) == HEAD_DIM
    assert trained.size < len(whole) * 4 - HEAD_DIM * 4 + 32


def test_members_with_heads_of_their_own_shape_have_one_schema() -> None:
    """Three classes here and four there: what they share is the body."""
    assert (
        Learner(blobs_task()).described.schema
        == Learner(replace(blobs_task(), model=headed(4))).described.schema
        != Learner(blobs_task(), replace(PLAN, personal=())).described.schema
    )


def test_the_head_is_trained_and_used() -> None:
    learner = Learner(blobs_task())
    for _ in range(5):
        learner.train()
    assert learner.accuracy(learner.personal) > 0.9
    assert learner.accuracy(b"") < learner.accuracy(learner.personal)


def test_a_heartbeat_leaves_them_as_they_are() -> None:
    learner = Learner(blobs_task())
    personal = learner.train().personal
    beat = learner.compute.handle(TrainJob(2, 2, learner.state, learner.state, False, 1.0, None, personal))
    assert isinstance(beat, Trained)
    assert beat.personal == personal


def test_lost_personal_tensors_are_named() -> None:
    learner = Learner(blobs_task())
    learner.personal = b"x" * 32
    failed = learner.compute.handle(TrainJob(1, 1, learner.state, learner.state, True, 1.0, None, learner.personal))
    assert isinstance(failed, JobFailed)
    assert failed.missing == learner.personal


# Privacy.


def one_more(task: Task) -> Task:
    """The same data and one extreme record more."""
    far = torch.cat([task.train[0], 1e3 * torch.ones(1, 5)]), torch.cat([task.train[1], torch.tensor([2])])
    return replace(task, train=far)


def test_one_record_moves_shared_and_personal_tensors_jointly_by_no_more_than_the_bound() -> None:
    """With both parts clipped by themselves, or the head left without a bound, it would be more than that."""
    clip, rate = 0.7, 1.0
    plan = replace(PLAN, training=Training(rate, 0.0))
    step = PrivacyStep(clip, 1.0)
    sums = []
    for task in (blobs_task(), one_more(blobs_task())):
        learner = Learner(task, plan)
        start = np.concatenate([learner.vector(learner.state), genesis(task, PLAN.seed)[-HEAD_DIM:]])
        trained = learner.train(step)
        after = np.concatenate([learner.vector(trained.result), learner.vector(trained.personal)])
        # The same noise was added to both sums, under the same key: what is left is the records'.
        sums.append((after.astype(np.float64) - start) * len(task.train[0]) / rate)
    moved = np.linalg.norm(sums[1] - sums[0])
    assert 0.9 * clip < moved < clip * 1.0001


def test_with_unit_site_the_delta_of_both_parts_is_clipped_as_one() -> None:
    learner = Learner(blobs_task())
    start = genesis(blobs_task(), PLAN.seed)
    trained = learner.train(PrivacyStep(0.05, 0.0, unit=Unit.SITE))
    after = np.concatenate([learner.vector(trained.result), learner.vector(trained.personal)])
    assert np.linalg.norm(after - start) == pytest.approx(0.05, rel=1e-3)


def silent(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss without gradients: what moves the params is noise alone."""
    return 0.0 * per_example(outputs, targets)


def test_personal_tensors_get_the_noise_of_the_shared_ones() -> None:
    """Drill: an un-noised private head. Its bound on the shared part would not hold any more."""
    task = replace(blobs_task(), loss=silent, model=lambda: nn.Sequential(nn.Linear(5, 400), nn.Linear(400, 5)))
    learner = Learner(task, replace(PLAN, training=Training(1.0, 0.0), personal=("1",)))
    trained = learner.train(PrivacyStep(2.0, 3.0))
    noise = 2.0 * 3.0 / len(task.train[0])
    start = genesis(task, PLAN.seed)
    shared = learner.vector(trained.result) - start[: learner.described.dim]
    personal = learner.vector(trained.personal) - start[learner.described.dim :]
    for part in (shared, personal):
        assert np.std(part) == pytest.approx(noise, rel=0.08)


# The node.


def biased(site: Site) -> Task:
    """Clouds that only a bias tells apart, with labels turned at odd sites: no one model serves all."""
    generator = torch.Generator().manual_seed(site.index)
    inputs = torch.randn(60, 3, generator=generator)
    labels = torch.full((60,), site.index % 2)
    parts = [(inputs[a:b], labels[a:b]) for a, b in ((0, 40), (40, 50), (50, 60))]
    return Task(lambda: nn.Linear(3, 2), per_example, parts[0], parts[1], parts[2])


def world(**change: Any) -> World:
    scenario = Scenario(task=biased, training=Training(0.5, 0.0, 4, 16), peers=4, rounds=25, settings=PACE, **change)
    return begin(scenario, 0.0)


def accuracies(world: World) -> list[float]:
    found = []
    for peer in world.peers:
        assert peer.node is not None
        measured = peer.worker(EvaluateJob(0, peer.node.rounds.base, peer.node.rounds.personal))
        assert isinstance(measured, Evaluated), measured
        found.append(measured.accuracy)
    return found


def updates(peer: Peer) -> list[Any]:
    return [entry for entry in peer.disk.entries if parse_header(entry.header).type == EntryType.UPDATE_PUBLISHED]


def test_sites_that_no_one_model_serves_keep_a_bias_each() -> None:
    one, kept = world(), world(personal=("bias",))
    for each in (one, kept):
        each.run(60.0)
    assert min(accuracies(kept)) == 1.0
    assert min(accuracies(one)) < 0.9


def test_nobody_is_sent_what_is_personal_and_a_restart_goes_on_with_it() -> None:
    kept = world(personal=("bias",))
    kept.run(20.0)
    peer = kept.peers[0]
    assert peer.node is not None
    personal = peer.node.rounds.personal
    assert len(personal) == 32
    assert all(entry.private for entry in updates(peer))
    for other in kept.peers[1:]:
        assert personal not in other.disk.blobs.data
        for _, entries in other.disk.mirrors.values():
            assert not any(entry.private for entry in entries)
    assert fold(peer.disk.entries).personal == personal
    newest = updates(peer)[-1]
    came_back = [e._replace(private=b"", private_salt=b"") if e is newest else e for e in peer.disk.entries]
    assert fold(came_back).personal == parse_personal(updates(peer)[-2].private), "what came back has no private part"
    kept.crash(0)
    kept.start(0)
    assert peer.node.rounds.personal == personal
    kept.crash(0)
    peer.disk.blobs.discard(personal)
    kept.start(0)
    assert peer.node.rounds.personal == b"", "a head that the disk lost begins anew"
    kept.run(60.0)
    assert accuracies(kept)[0] == 1.0
    assert peer.node.rounds.finished
