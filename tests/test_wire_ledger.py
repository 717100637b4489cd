"""What peers really write follows docs/wire.md: ledgers of short runs, re-derived here from the document alone."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import EntryType, commit_private, open_entry
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.learning.builtin import breast_cancer
from quidnunc.gossip.provenance import Merge, PrivacySpend, UpdatePublished, UpdateReceived, parse_record
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.task import Training
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.world import Peer, World

PPB = 1_000_000_000
ROUNDS = 6
KEEP = Settings(repair_retry_s=0.5, keep_rounds=1000)

State = NDArray[np.float32]


@cache
def ran(rule: str = "repute", *, epsilon: float | None = None, codec: int = 1, attack: str = "sign_flip") -> World:
    scenario = Scenario(
        breast_cancer,
        Training(1.0, 0.0, 4, 32),
        peers=4,
        rounds=ROUNDS,
        rule=rule,
        epsilon=epsilon,
        codec=codec,
        attackers={3: attack} if attack else {},
        settings=KEEP,
    )
    world = build(scenario)
    for index in range(4):
        world.start(index)
    world.run(until=60.0, stop=lambda: all(peer.node and peer.node.rounds.trained >= ROUNDS for peer in world.peers))
    return world


def records(peer: Peer) -> Iterator[tuple[int, object]]:
    for entry in peer.disk.entries:
        header = open_entry(entry)
        if header.type != EntryType.GENESIS:
            yield header.seq, parse_record(header.type, entry.payload)


def state(peer: Peer, name: bytes) -> State:
    data = peer.disk.blobs.get(name)
    assert data is not None
    assert hashlib.sha256(data).digest() == name
    return np.frombuffer(data, "<f4")


def weighted(states: list[State], weights: list[int]) -> State:
    """Section 6.4: the pivot plus f * (state - pivot), row by row, every operation rounded to float32."""
    pivot, result = states[0], states[0]
    for other, weight in zip(states[1:], weights[1:], strict=True):
        if weight > 0:
            difference = (other - pivot).astype(np.float32)
            step = (np.float32(weight / PPB) * difference).astype(np.float32)
            result = (result + step).astype(np.float32)
    return result


def median(states: list[State]) -> State:
    """Section 6.4: the middle value, or a + 0.5 * (b - a) of the two middle ones."""
    columns = [sorted(column) for column in zip(*states, strict=True)]
    k = len(states)
    low, high = (np.array([column[i] for column in columns], np.float32) for i in ((k - 1) // 2, k // 2))
    return low if k % 2 else low + np.float32(0.5) * (high - low)


def int8_values(data: bytes) -> State:
    """Section 6.2: one signed byte e, then signed bytes q; the values are q * 2**e."""
    exponent, *levels = struct.unpack(f"{len(data)}b", data)
    return np.array([level * 2.0**exponent for level in levels], np.float32)


def median_shares(states: list[State]) -> list[int]:
    """Section 5: the part of the coordinates that each row decided, rounded down; what is left is the pivot's."""
    k, dim = len(states), len(states[0])
    assert dim <= 65536
    parts = [0.0] * k
    for column in zip(*states, strict=True):
        order = sorted(range(k), key=lambda row: (column[row], row))
        for place in ((k - 1) // 2, k // 2):
            parts[order[place]] += 0.5 / dim
    shares = [math.floor(PPB * part + 1e-3) for part in parts]
    return [PPB - sum(shares[1:]), *shares[1:]]


@pytest.mark.parametrize("rule", ["repute", "mean", "median"])
def test_every_merge_can_be_recomputed_from_its_entry(rule: str) -> None:
    merges = 0
    for peer in ran(rule).peers:
        published: bytes = b""
        for _, record in records(peer):
            if isinstance(record, UpdatePublished):
                published = record.replica_after
            if not isinstance(record, Merge):
                continue
            merges += 1
            states = [state(peer, row.state) for row in record.rows]
            effective = [row.effective for row in record.rows]
            again = median(states) if record.approximate else weighted(states, effective)
            assert hashlib.sha256(again.tobytes()).digest() == record.result
            if rule == "median" and len(states) > 1:
                assert max(abs(a - b) for a, b in zip(effective, median_shares(states), strict=True)) <= 1
            assert record.rows[0].state == published
            assert record.rows[0].log_id == peer.log_id
            assert record.approximate is (rule == "median")
            assert sum(row.effective for row in record.rows) == sum(row.weight for row in record.rows) == PPB
            if rule != "median":
                assert all(row.effective <= row.weight for row in record.rows[1:])
    assert merges >= 4 * (ROUNDS - 1)


def test_clip_factors_of_all_rows_have_one_unit() -> None:
    rows = [row for peer in ran().peers for _, r in records(peer) if isinstance(r, Merge) for row in r.rows]
    assert all(0 < row.clip <= PPB for row in rows)
    assert {row.clip for row in rows if row.log_id is None or row.weight == row.effective} == {PPB}


@pytest.mark.parametrize(("epsilon", "steps"), [(None, 4), (8.0, 1)])
def test_updates_say_how_many_steps_were_trained(epsilon: float | None, steps: int) -> None:
    for peer in ran(epsilon=epsilon, attack="").peers:
        updates = [record for _, record in records(peer) if isinstance(record, UpdatePublished)]
        assert len(updates) >= ROUNDS
        trained = [update.steps for update in updates if update.steps]
        assert trained == [steps] * ROUNDS
        claimed = [update for update in updates if update.privacy is not None]
        assert len(claimed) == (ROUNDS if epsilon else 0)


@pytest.mark.parametrize("codec", [0, 1])
def test_replicas_follow_from_the_deltas(codec: int) -> None:
    for peer in ran(codec=codec, attack="").peers:
        updates = [record for _, record in records(peer) if isinstance(record, UpdatePublished)]
        assert [update.number for update in updates] == list(range(1, len(updates) + 1))
        assert all(before.replica_after == after.replica_before for before, after in pairwise(updates))
        for update in updates:
            data = peer.disk.blobs.get(update.delta)
            assert data is not None
            assert len(data) == update.size
            before = state(peer, update.replica_before)
            values = np.frombuffer(data, "<f4") if codec == 0 else int8_values(data)
            assert hashlib.sha256((before + values).tobytes()).digest() == update.replica_after


def epsilon(noise_multiplier: float, releases: int, delta: float) -> float:
    """Section 5, map dp: the smallest e with Q(e*s - 1/(2s)) - exp(e) * Q(e*s + 1/(2s)) <= delta, by halving."""
    s = noise_multiplier / math.sqrt(releases)

    def exceeds(e: float) -> bool:
        tails = [math.erfc((e * s + sign / (2 * s)) / math.sqrt(2)) / 2 for sign in (-1, 1)]
        return tails[0] - math.exp(e) * tails[1] > delta

    low, high = 0.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def test_spent_epsilon_follows_from_noise_and_releases() -> None:
    for peer in ran(epsilon=8.0, attack="").peers:
        spends = [record for _, record in records(peer) if isinstance(record, PrivacySpend)]
        assert [spend.release for spend in spends] == list(range(1, ROUNDS + 1))
        for spend in spends:
            expected = epsilon(spend.noise_u / 1e6, spend.release, 10.0**-spend.delta_exp)
            assert spend.cumulative_u - 1.001 < expected * 1e6 <= spend.cumulative_u + 1e-3
        assert sum(spend.epsilon_u for spend in spends) == spends[-1].cumulative_u <= spends[-1].cap_u == 8_000_000


def test_schema_size_and_rule_are_named_as_the_document_says() -> None:
    world = ran()
    rows = [["0.bias", "float32", [2]], ["0.weight", "float32", [2, 30]]]
    for peer in world.peers:
        for _, record in records(peer):
            if isinstance(record, UpdatePublished):
                assert record.schema == tagged_hash("schema", encode(rows))
                assert 2**record.size_bucket <= peer.described.examples < 2 ** (record.size_bucket + 1)
            if isinstance(record, Merge):
                assert record.rule == tagged_hash("rule", encode(world.charter.merge.to_value()))


def test_spends_precede_their_updates_and_private_parts_open() -> None:
    for peer in ran(epsilon=8.0, attack="").peers:
        spends = {seq: record for seq, record in records(peer) if isinstance(record, PrivacySpend)}
        accepted = {seq for seq, record in records(peer) if isinstance(record, UpdateReceived)}
        for seq, record in records(peer):
            if isinstance(record, UpdatePublished) and record.privacy is not None:
                spend = spends[record.privacy.spend_seq]
                assert record.privacy.spend_seq < seq
                assert (spend.round, spend.cumulative_u) == (record.round, record.privacy.cumulative_u)
                assert spend.cumulative_u <= spend.cap_u
            if isinstance(record, Merge):
                assert set(record.received) <= accepted
                entry = peer.disk.entries[seq]
                assert record.private == commit_private(entry.private_salt, entry.private)
