"""Rules of the catalogue on real rows: the ledger says what was done, and too few rows merge nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from founders import charter, founders
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.entry import EntryType, open_entry
from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.explain import merge_reasons
from quidnunc.gossip.federation.charter import MergeSpec
from quidnunc.gossip.jobs import PPB, WITHHELD, Merged, Standing
from quidnunc.gossip.learning import catalogued
from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.provenance import Merge, UpdatePublished, parse_record
from quidnunc.gossip.rules import shares
from quidnunc.gossip.rules.linear import Stack, recompute
from quidnunc.gossip.rules.registry import RULES, apply
from quidnunc.gossip.rules.terms import TERMS, Counting, least_rows
from quidnunc.gossip.rules.thresholds import BOUNDS, PRIVATE, ReputeOptions, repute_options
from quidnunc.gossip.status import peers, status
from quidnunc.gossip.task import Site, Task, Training
from quidnunc.peer.ledger.deep_check import check_arithmetic
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.trials import PACE, QUADRATIC_DIM, quadratic
from quidnunc.sim.world import Peer

OPTIONS: dict[str, dict[str, float]] = {
    "mass_trimmed_mean": {"mass": 0.2},
    "centered_clip": {"radius": 1.0},
    "rtc": {"mass": 0.25},
} | {name: {"bad": 1} for name, terms in TERMS.items() if "bad" in terms.options}
COORDINATE = [name for name, terms in TERMS.items() if terms.counting is Counting.COORDINATE]


def rows(seed: int, k: int, d: int = 40) -> Stack:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=(k, d)).astype(np.float32)


def inputs(stack: Stack, weight: int | None = None) -> Inputs:
    k = len(stack)
    return Inputs(stack, [weight or PPB // (k + 1)] * k, [Standing(1.0, 0.0, 0.0)] * k, [True] * k)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"mean"}))
def test_a_merge_is_the_rule_on_own_row_and_neighbors(rule: str) -> None:
    stack = rows(1, 6)
    options = OPTIONS.get(rule, {})
    merged = merge(rule, stack[0], inputs(stack[1:]), None, options)
    weights = np.full(6, 1 / 6)
    np.testing.assert_allclose(merged.result, apply(rule, stack, weights, options), atol=1e-6)
    assert merged.approximate is (rule in COORDINATE)
    effective = [row.effective for row in merged.rows]
    assert 0 <= sum(effective) <= PPB
    if not merged.approximate:
        assert recompute(stack[0], list(zip(stack[1:], effective, strict=True))).tobytes() == merged.result.tobytes()


@pytest.mark.parametrize("rule", sorted(set(RULES)))
def test_mixing_goes_in_front_and_rows_say_what_they_counted_for_in_the_end(rule: str) -> None:
    stack = rows(1, 7)
    stack[3] += 50
    options = {**OPTIONS.get(rule, {}), "nearest": 2}
    merged = merge(rule, stack[0], inputs(stack[1:]), None, options)
    np.testing.assert_allclose(merged.result, apply(rule, stack, np.full(7, 1 / 7), options), atol=2e-5)
    effective = [row.effective for row in merged.rows]
    assert 0 < sum(effective) <= PPB
    assert all(row.clip == PPB for row in merged.rows)
    assert merged.approximate is (rule in COORDINATE)
    if rule in COORDINATE or rule == "mean":
        # An outlier is near to nobody: only its own mean, one of seven, holds it.
        assert effective[2] <= PPB / 7 / 5 + 1
    if not merged.approximate:
        assert recompute(stack[0], list(zip(stack[1:], effective, strict=True))).tobytes() == merged.result.tobytes()


def test_mixing_needs_an_honest_majority_of_those_that_were_heard() -> None:
    stack = rows(1, 4)
    withheld = merge("mean", stack[0], inputs(stack[1:]), None, {"nearest": 2})
    assert (withheld.step, withheld.result.tobytes()) == (WITHHELD, stack[0].tobytes())
    # One that arithmetic cannot hold is one of the two that were foreseen.
    far = rows(1, 5)
    far[4, 0] = 3e38
    merged = merge("mean", far[0], inputs(far[1:]), None, {"nearest": 2})
    assert merged.step != WITHHELD
    assert np.abs(merged.result).max() < 10


@pytest.mark.parametrize("rule", COORDINATE)
@pytest.mark.parametrize("k", [5, 6])
def test_a_row_outside_everywhere_counts_for_nothing(rule: str, k: int) -> None:
    stack = rows(2, k)
    stack[2] = 100
    merged = merge(rule, stack[0], inputs(stack[1:]), None, OPTIONS.get(rule, {}))
    assert merged.rows[1].effective == 0
    effective = [row.effective for row in merged.rows]
    counted = [PPB - sum(effective), effective[0], *effective[2:]]
    assert all(0 < each < PPB / 2 for each in counted)


def test_shares_of_a_median_are_the_parts_of_the_coordinates() -> None:
    stack = np.array([[1, 1, 1, -0.0], [2, 2, 3, 0.0], [3, 0, 2, 5]], np.float32)
    found = shares.coordinate_shares("median", stack, np.full(3, 1 / 3), {})
    assert found.tolist() == [0.25, 0.5, 0.25]
    even = shares.coordinate_shares("median", np.array([[1], [2], [3], [9]], np.float32), np.full(4, 0.25), {})
    assert even.tolist() == [0, 0.5, 0.5, 0]


def test_shares_follow_every_so_manyth_coordinate_of_a_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SAMPLED_COORDINATES", 4)
    stack = rows(3, 3, d=9)
    looked_at = shares.coordinate_shares("median", stack[:, ::3], np.full(3, 1 / 3), {})
    assert shares.coordinate_shares("median", stack, np.full(3, 1 / 3), {}).tolist() == looked_at.tolist()


@pytest.mark.parametrize("rule", [name for name in OPTIONS if least_rows(name, {"bad": 1}) > 1])
def test_one_row_too_few_keeps_the_own_state(rule: str) -> None:
    least = least_rows(rule, {"bad": 1})
    stack = rows(4, least)
    enough = merge(rule, stack[0], inputs(stack[1:]), None, {"bad": 1})
    assert enough.step == 0
    few = merge(rule, stack[0], inputs(stack[1:-1]), None, {"bad": 1})
    assert (few.step, few.approximate) == (WITHHELD, False)
    assert few.result.tobytes() == stack[0].tobytes()
    assert [row.effective for row in few.rows] == [0] * (least - 2)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"mean", "median"}))
def test_a_row_that_arithmetic_cannot_hold_is_one_of_the_bad(rule: str) -> None:
    stack = rows(5, 5)
    far = np.full((1, stack.shape[1]), 3e38, np.float32)
    merged = merge(rule, stack[0], inputs(np.concatenate([stack[1:], far]), PPB // 6), None, OPTIONS.get(rule, {}))
    assert merged.step == 0
    assert merged.rows[-1].effective == 0
    assert np.isfinite(merged.result).all()
    assert np.abs(merged.result).max() < 10


def test_a_median_that_is_not_finite_is_withheld() -> None:
    huge = np.array([[3e38], [-3e38], [3e38]], np.float32)
    with np.errstate(over="ignore"):
        merged = merge("median", np.array([-3e38], np.float32), inputs(huge), None, {})
    assert merged.step == WITHHELD


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(set(RULES) - {"mean"})),
    st.integers(1, 7),
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=14, max_size=14),
    st.lists(st.integers(0, PPB // 7), min_size=7, max_size=7),
)
def test_whatever_neighbors_send_a_merge_is_finite_and_its_weights_are_those_of_one(
    rule: str, k: int, values: list[float], weights: list[int]
) -> None:
    stack = np.array(values[: 2 * k], np.float32).reshape(k, 2)
    given_ = Inputs(stack, weights[:k], [Standing(0.0, 0.0, 0.0)] * k, [True] * k)
    with np.errstate(over="ignore"):
        merged = merge(rule, np.zeros(2, np.float32), given_, None, OPTIONS.get(rule, {}), over=0.5)
    assert np.isfinite(merged.result).all()
    assert all(0 <= row.effective <= PPB and 0 <= row.clip <= PPB for row in merged.rows)
    assert sum(row.effective for row in merged.rows) <= PPB


def test_balance_closes_its_gate_as_the_rounds_go_by() -> None:
    stack = np.array([[10.0], [12.0]], np.float32)
    early = merge("balance", stack[0], inputs(stack[1:]), None, {}, over=0.0)
    late = merge("balance", stack[0], inputs(stack[1:]), None, {}, over=1.0)
    assert (early.rows[0].effective, late.rows[0].effective) == (PPB // 2, 0)
    with pytest.raises(CharterError, match="balance has no option t"):
        MergeSpec("balance", 1_000_000, {"t": 0})


@pytest.mark.parametrize(
    ("rule", "options", "message", "hint"),
    [
        ("medain", {}, "merge rule medain is unknown", "did you mean median?"),
        ("reputed", {}, "merge rule reputed is unknown", "did you mean repute?"),
        ("trimmed_mean", {}, "trimmed_mean needs the option bad", "give bad a whole number from 0 to 1000"),
        ("trimmed_mean", {"bat": 1_000_000}, "trimmed_mean has no option bat", "did you mean bad?"),
        (
            "trimmed_mean",
            {"bad": 1_500_000},
            "is 1.5, must be a whole number",
            "give bad a whole number from 0 to 1000",
        ),
        (
            "trimmed_mean",
            {"bad": 1_001_000_000},
            "is 1001, must be 0 to 1000",
            "give bad a whole number from 0 to 1000",
        ),
        ("mass_trimmed_mean", {"mass": 499_001}, "is 0.499001, must be 0 to 0.499", "give mass 0 to 0.499"),
        ("balance", {"own": 1_000_001}, "is 1.000001, must be 0 to 1", "leave it out for 0.5"),
        ("repute", {"radios": 1}, "merge option radios is unknown", "did you mean radius?"),
        ("repute", {"radius": -1}, "radius is -1e-06, must be 0 to 1000", "leave it out for its default"),
        ("repute", {"harm_memory": 999_001}, "is 0.999001, must be 0 to 0.999", "leave it out for its default"),
        ("repute", {"probe_step": 1_000_001}, "is 1.000001, must be 0 to 1", "leave it out for its default"),
    ],
)
def test_a_charter_names_a_rule_and_options_that_there_are(
    rule: str, options: dict[str, int], message: str, hint: str
) -> None:
    with pytest.raises(CharterError, match=message) as caught:
        MergeSpec(rule, 1_000_000, options)
    assert caught.value.hint == hint


def test_options_stand_at_their_bounds() -> None:
    assert MergeSpec("trimmed_mean", 1_000_000, {"bad": 1_000_000_000}).values == {"bad": 1000.0}
    assert MergeSpec("mass_trimmed_mean", 1_000_000, {"mass": 499_000}).values == {"mass": 0.499}
    assert MergeSpec("geometric_median", 1_000_000, {"floor": 1}).values == {"floor": 1e-6}


@pytest.mark.parametrize("name", BOUNDS)
def test_every_threshold_of_repute_has_a_range(name: str) -> None:
    bound = BOUNDS[name]
    for value in (bound.low, bound.high, getattr(ReputeOptions(), name), getattr(PRIVATE, name)):
        assert getattr(repute_options({name: value}), name) == value
    for value in (bound.low - 1e-6, bound.high + 1e-3, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"merge option {name} is .*, must be {bound.low:g} to") as caught:
            repute_options({name: value})
        assert caught.value.hint


def test_a_charter_gives_every_member_the_neighbors_its_rule_needs() -> None:
    four = founders(4)
    complete = tuple((i, j) for i in range(4) for j in range(i + 1, 4))
    spec = MergeSpec("trimmed_mean", 1_000_000, {"bad": 1_000_000})
    charter(four, merge=spec, edges=complete)
    charter(four, merge=spec, edges=complete[1:])
    with pytest.raises(CharterError, match=r"needs 2 neighbors with these options, .* has 1") as caught:
        charter(four, merge=spec, edges=((0, 1), (0, 2), (0, 3), (1, 2)))
    assert "fewer bad peers" in caught.value.hint


def united(site: Site) -> Task:
    """Everybody pulls every param to about one."""
    return replace(quadratic(site), train=(torch.ones(1, 1), torch.full((1, QUADRATIC_DIM), 1 + 0.05 * site.index)))


WORLDS = ("median", "trimmed_mean", "geometric_median", "cs_plus", "multi_krum", "ios", "balance")


def parsed(peer: Peer) -> Iterator[tuple[int, object]]:
    for entry in peer.disk.entries:
        header = open_entry(entry)
        if header.type != EntryType.GENESIS:
            yield header.seq, parse_record(header.type, entry.payload)


@pytest.mark.parametrize("rule", WORLDS)
def test_a_federation_runs_under_a_rule_of_the_catalogue(rule: str) -> None:
    """Real nodes and ledgers: one flips its signs; what stands in a merge entry explains it."""
    options = OPTIONS.get(rule, {})
    world = build(
        Scenario(
            united,
            Training(0.2, 0.0, 1, 1),
            peers=6,
            rounds=8,
            rule=rule,
            rule_options=options,
            attackers={5: "sign_flip"},
            edges=tuple((i, j) for i in range(6) for j in range(i + 1, 6)),
            settings=replace(PACE, keep_rounds=1000),
        )
    )
    merges: list[Merged] = []
    for peer in world.peers:
        worker = peer.worker

        def watched(job: object, worker: object = worker) -> object:
            result = worker(job)  # type: ignore[operator]
            if isinstance(result, Merged):
                merges.append(result)
            return result

        peer.worker = watched  # type: ignore[assignment]
        world.start(peer.index)
    world.run(60.0, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in world.peers))
    assert all(p.node is not None and p.node.rounds.last_failure == "" for p in world.peers)
    first = world.peers[0].node
    assert first is not None
    for shown in peers(first, world.now):
        assert 0 <= shown["last_clip"] <= 1
        assert all(isinstance(reason, str) for reason in shown["merge_reasons"])
        assert rule not in COORDINATE or shown["merge_reasons"][0].startswith(f"{rule} treats every coordinate")
    assert status(first, world.now)["merges_withheld"] == first.rounds.withheld
    for peer in world.peers:
        made = [(seq, record) for seq, record in parsed(peer) if isinstance(record, Merge | UpdatePublished)]
        dim, code = world.charter.task.dim, world.charter.codec
        found = check_arithmetic(made, peer.disk.blobs.data.get, dim, code, rule)
        assert (found.layer.failed, bool(found.not_linear)) == (0, rule == "trimmed_mean")
        assert found.not_held == 0
        assert found.layer.checked + found.not_linear == len(made)
    full = [each for each in merges if len(each.rows) == 5]
    assert full
    assert all(each.step == 0 and each.approximate is (rule in COORDINATE) for each in full)
    bad = world.peers[5].log_id
    late = [row.effective for each in full[len(full) // 2 :] for row in each.rows if row.author == bad]
    honest = [row.effective for each in full[len(full) // 2 :] for row in each.rows if row.author != bad]
    assert np.mean(late) < np.mean(honest)


def test_reasons_say_what_the_rule_did_with_a_row() -> None:
    fifth = PPB // 5
    assert merge_reasons("median", fifth, PPB // 10, PPB, 0) == [
        "median treats every coordinate by itself: it decided 10.0% of them"
    ]
    assert merge_reasons("krum", fifth, 0, PPB, 0) == ["it was not used: krum left it out"]
    assert merge_reasons("krum", fifth, PPB, PPB, 0) == ["krum selected it"]
    assert merge_reasons("cs_plus", fifth, fifth // 2, PPB // 2, 0) == [
        "its difference was longer than the clip radius: 50% of it counts"
    ]
    assert merge_reasons("monna", fifth, 0, PPB, WITHHELD) == [
        "it was not used: the rule needs more rows than were heard"
    ]
    assert merge_reasons("krum", fifth, PPB // 4, PPB, 0, mixes=True) == [
        "krum was given means of nearest rows: 25.0% of the result is of this one"
    ]
    assert merge_reasons("repute", fifth, fifth, PPB, 0) == []
    assert merge_reasons("repute", fifth, 0, PPB, 0) == [
        "it was not used: its standing leaves it no weight, or it was absent for a while"
    ]
    assert merge_reasons("repute", fifth, 0, PPB, 2) == ["it was not used: no step was taken"]
    assert merge_reasons("mean", fifth, fifth, PPB, 0) == []
    assert merge_reasons("", fifth, fifth // 2, PPB, 0) == [
        "its weight was reduced; the charter that says by which rule is not here"
    ]
    assert merge_reasons("repute", fifth, fifth // 2, PPB, 0) == [
        "its weight was reduced by its reputation, or because it was absent for a while"
    ]


def test_an_unknown_rule_is_named_at_a_merge_too() -> None:
    stack = rows(6, 3)
    with pytest.raises(ConfigError, match="merge rule krumm is unknown"):
        catalogued.merge_catalogued("krumm", stack[0], inputs(stack[1:]), {})
