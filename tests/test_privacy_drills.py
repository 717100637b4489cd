"""Defects that void privacy, put in on purpose: each is caught by a check that has a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import make_home, quidnunc
from founders import private
from learners import blobs_task
from node_helpers import Bench
from test_audit import codes, spend, story, update
from test_cli_ledger import NOISE_U, Scribe
from test_cli_ledger import spend as counted
from test_recompute_tool import recomputed
from torch import nn

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import DescribeJob, JobFailed, PrivacyStep, Unit
from quidnunc.gossip.learning import convolved, privacy
from quidnunc.gossip.learning.codec import FLOAT32
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.message import Update
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.provenance import NoiseSource, PrivacySpend
from quidnunc.gossip.task import Plan, Site, Training
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.home import Home
from quidnunc.peer.pipe import Setup

STEP = PrivacyStep(clip=0.5, noise_multiplier=4.0)


def setup(*, stack: bool) -> tuple[Functional, np.ndarray]:
    model = lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), *([] if stack else [nn.GELU()]))  # noqa: E731
    net = Functional(model(), replace(blobs_task(), model=model))
    assert (net.layers is not None) == stack
    return net, NoiseStream(bytes(32), b"at").gaussian(net.dim).astype(np.float32)


# The two named checks of the mechanism.


def noise_scale(net: Functional, vector: np.ndarray) -> float:
    """The standard deviation of a release on no record at all, as a multiple of the one that is claimed."""
    inputs, targets = blobs_task().train
    step, stream = replace(STEP, rate=1e-9), NoiseStream(bytes(32), b"n")
    released = [privacy.private_gradient(net, vector, inputs, targets, step, stream)[0] for _ in range(60)]
    return float(np.concatenate(released).std() * step.rate * len(inputs) / (step.noise_multiplier * step.clip))


def sensitivity(net: Functional, vector: np.ndarray) -> float:
    """How far one outlying record, of whatever class, moves the sum at most, as a multiple of the clip."""
    inputs, targets = (each.clone() for each in blobs_task().train)
    inputs[7] *= 100
    kept = torch.arange(len(inputs)) != 7
    without, _ = privacy.clipped_sum(net, vector, inputs[kept], targets[kept], STEP.clip)
    moved = []
    for label in range(3):
        targets[7] = label
        moved.append(privacy.clipped_sum(net, vector, inputs, targets, STEP.clip)[0] - without)
    return float(max(np.linalg.norm(each) for each in moved) / STEP.clip)


def test_noise_at_half_scale_is_caught_by_noise_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    net, vector = setup(stack=True)
    assert noise_scale(net, vector) == pytest.approx(1.0, abs=0.05)
    whole = NoiseStream.add_noise
    monkeypatch.setattr(
        NoiseStream, "add_noise", lambda self, values, sigma, *rest: whole(self, values, sigma / 2, *rest)
    )
    assert noise_scale(net, vector) == pytest.approx(0.5, abs=0.03)


def test_noise_at_half_scale_that_is_written_down_is_caught_by_budget_show(tmp_path: Path) -> None:
    make_home(tmp_path / "a", "A")
    Scribe(Home.at(tmp_path / "a")).write(replace(counted(1), noise_u=NOISE_U // 2))
    result = quidnunc("--home", tmp_path / "a", "--json", "budget", "show")
    assert (result.code, "its releases cost" in result.envelope["error"]["message"]) == (30, True)


def no_clip(square: torch.Tensor, clip: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.ones_like(square), None


@pytest.mark.parametrize("stack", [True, False], ids=["ghost", "vmap"])
def test_a_missing_clip_is_caught_by_sensitivity(stack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, vector = setup(stack=stack)
    assert 0.9 < sensitivity(net, vector) <= 1 + 1e-5
    monkeypatch.setattr(privacy, "clip_factors", no_clip)
    assert sensitivity(net, vector) > 2


def test_a_missing_clip_of_convolutions_is_caught_by_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    task = blobs_task()
    inputs = torch.cat((task.train[0], task.train[0][:, :4]), dim=1).reshape(-1, 1, 3, 3)
    net = Functional(model, replace(task, model=lambda: model))
    assert net.convolutions is not None
    vector = NoiseStream(bytes(32), b"at").gaussian(net.dim).astype(np.float32)
    far = inputs.clone()
    far[7] *= 100
    kept = torch.arange(len(inputs)) != 7

    def moved() -> float:
        with_it, _ = privacy.clipped_sum(net, vector, far, task.train[1], STEP.clip)
        without, _ = privacy.clipped_sum(net, vector, far[kept], task.train[1][kept], STEP.clip)
        return float(np.linalg.norm(with_it - without) / STEP.clip)

    assert 0.9 < moved() <= 1 + 1e-5
    monkeypatch.setattr(convolved, "clip_factors", no_clip)
    assert moved() > 2


# The same two checks where the unit is the whole site.


def site_release(training: Training, scale: float = 1.0, noise: float = 0.0) -> np.ndarray:
    """What one round of a site adds to its params, by the trainer."""
    net, vector = setup(stack=True)
    inputs, targets = blobs_task().train
    step = replace(STEP, noise_multiplier=noise, unit=Unit.SITE)
    trained, _ = train(net, (inputs * scale, targets), vector, training, step, NoiseStream(bytes(32), b"site"))
    return trained.astype(np.float64) - vector


def site_noise_scale() -> float:
    """The noise of a site that learns nothing, as a multiple of the one that is claimed."""
    still = Training(learning_rate=1e-9, local_steps=1, batch_size=1)
    net, vector = setup(stack=True)
    released = []
    for round_ in range(40):
        step, stream = replace(STEP, unit=Unit.SITE), NoiseStream(bytes(32), b"%d" % round_)
        released.append(train(net, blobs_task().train, vector, still, step, stream)[0] - vector)
    return float(np.concatenate(released).std() / (STEP.noise_multiplier * STEP.clip))


def site_sensitivity() -> float:
    """How far a site moves its params before noise, with data of any size, as a multiple of the clip."""
    training = Training(learning_rate=2.0, local_steps=8)
    return float(max(np.linalg.norm(site_release(training, scale)) for scale in (0.1, 1.0, 1e3)) / STEP.clip)


def test_site_noise_at_half_scale_is_caught_by_noise_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    assert site_noise_scale() == pytest.approx(1.0, abs=0.05)
    whole = NoiseStream.add_noise
    monkeypatch.setattr(
        NoiseStream, "add_noise", lambda self, values, sigma, *rest: whole(self, values, sigma / 2, *rest)
    )
    assert site_noise_scale() == pytest.approx(0.5, abs=0.03)


def test_a_missing_site_clip_is_caught_by_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.9 < site_sensitivity() <= 1 + 1e-5
    monkeypatch.setattr(privacy, "clipped_delta", lambda delta, clip: delta)
    assert site_sensitivity() > 2


def test_a_clip_of_every_step_in_place_of_the_whole_delta_is_caught_by_sensitivity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The classic wrong bound: eight clipped steps are up to eight clips long."""
    bound = privacy.clipped_delta
    monkeypatch.setattr(privacy, "clipped_delta", lambda delta, clip: 8 * bound(delta / 8, clip))
    assert site_sensitivity() > 2


def test_a_release_of_one_unit_under_the_label_of_the_other_is_caught_by_i10() -> None:
    told = [replace(spend(2, 900), site=True) if seq == 8 else each for seq, each in enumerate(story())]
    assert ("I10", 9) in codes(told)


# What leaves a peer.


def bodies(bench: Bench) -> dict[bytes, list[set[bytes]]]:
    """The bodies of the own updates that each neighbor was sent, by its name."""
    found: dict[bytes, list[set[bytes]]] = {}
    federation = bench.charter.federation_id
    for each in bench.sent:
        message = parse_message(each.frame.header, federation)
        if isinstance(message, Update):
            found.setdefault(each.peer, []).append({each.body_blob or each.frame.body, message.token})
    return found


def test_one_release_is_one_body_for_all_neighbors() -> None:
    bench = Bench(privacy=private(rounds=3), rounds=RoundSpec(3, 0, 0, "majority"))
    bench.greet()
    for _ in range(2):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    sent = bodies(bench)
    first, *others = sent.values()
    assert len(sent) == len(bench.authors)
    assert all(each == first for each in others)
    assert len(first) == len([record for record in bench.records() if isinstance(record, PrivacySpend)]) >= 2


def test_fresh_noise_for_each_neighbor_is_caught_as_two_stories() -> None:
    """Two bodies under one number are two updates signed under one number: whoever sees both convicts."""
    bench = Bench()
    bench.greet()
    author = bench.authors[0]
    twin = author.twin()
    bench.receive(author, author.update(1.0).frame)
    bench.settle()
    bench.receive(author, twin.update(1.5).frame)
    bench.settle()
    assert bench.neighbor(author).quarantined


# What the ledger says.


@pytest.mark.parametrize(
    "change",
    [{9: update(2, 1, 900)}, {8: spend(1, 900)}],
    ids=["under the spend of another round", "under a spend for another round"],
)
def test_a_replayed_round_is_caught_by_i10(change: dict[int, object]) -> None:
    told = [change.get(seq, each) for seq, each in enumerate(story())]
    assert ("I10", 9) in codes(told)  # type: ignore[arg-type]


def test_a_refunded_budget_is_caught_by_i10() -> None:
    told = [spend(2, 399) if seq == 8 else each for seq, each in enumerate(story())]
    assert ("I10", 8) in codes(told)


def test_a_refund_that_only_stands_still_is_caught_by_the_recomputation(tmp_path: Path) -> None:
    """Nothing falls, so that I10 has nothing to say: the releases cost more than what is claimed."""
    free = replace(counted(2), epsilon_u=0, cumulative_u=counted(1).cumulative_u)
    code, text = recomputed(tmp_path / "a", [counted(1), free])
    assert (code, "UNDERSTATED" in text) == (30, True), text
    assert quidnunc("--home", tmp_path / "a", "budget", "show").code == 30


def test_a_test_seed_in_production_is_caught_twice(tmp_path: Path) -> None:
    code, text = recomputed(tmp_path / "a", [counted(1, source=NoiseSource.TEST_SEED)])
    assert (code, "VOID" in text) == (30, True), text
    shown = quidnunc("--home", tmp_path / "a", "budget", "show")
    assert (shown.code, "VOID" in shown.out) == (30, True)


def test_no_daemon_can_be_told_to_use_a_test_seed() -> None:
    """Its key comes from the system at every start of the compute process; only tests pass that class a seed."""
    peer = Path(__file__).resolve().parent.parent / "peer"
    texts = {path.name: path.read_text() for path in peer.rglob("*.py")}
    assert [name for name, text in texts.items() if "TEST_SEED" in text] == []
    assert [name for name, text in texts.items() if "noise_seed" in text] == ["compute.py"]
    assert len({ComputeProcess(Setup(task="t:t", blobs=""))._noise_key() for _ in range(2)}) == 2


# What is not trained at all.


@pytest.mark.parametrize(
    "layer", [lambda: nn.BatchNorm1d(6), lambda: nn.InstanceNorm1d(6, track_running_stats=True)], ids=["batch", "run"]
)
def test_batch_statistics_are_refused_before_training(layer: Callable[[], nn.Module]) -> None:
    task = replace(blobs_task(), model=lambda: nn.Sequential(nn.Linear(5, 6), layer(), nn.Linear(6, 3)))
    plan = Plan(seed=1, codec=FLOAT32, training=Training(learning_rate=0.1), merge_rule="mean", private=True)
    failed = Compute(lambda _: task, Site(), plan, MemoryBlobs(), NoiseStream(bytes(32), b"x")).handle(DescribeJob())
    assert isinstance(failed, JobFailed)
    assert "mixes examples" in failed.why
