"""Drills on links between real daemons: every trouble is named, by the neighbor, survived, and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import daemons
import pytest
from chaos import Chaos, Mode
from daemons import check_ledger, copied, finishes, found, healthy, plan, reaches, records, running, tells, told

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished, parse_record
from quidnunc.peer.rehearsal import Actor, Rehearsal

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

PING_S = 4.0
"""Longer than the delays here, so that only what is silent counts as gone."""
DROP_S = 30.0
ROUNDS = 75
CUT_FROM = 15


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with daemons.importable():
        yield found(tmp_path_factory.mktemp("founded"), plan(3, 100_000, ping_s=PING_S))


def published(actor: Actor) -> int:
    return int((actor.status() or actor.last_status)["updates_published"])


def test_links_that_delay_crawl_reset_garble_or_fall_silent(original: Rehearsal, tmp_path: Path) -> None:
    federation = copied(original, tmp_path / "f")
    with Chaos.between(federation) as chaos, running(federation) as actors:
        first, second, third = actors
        for actor in actors:
            reaches(actor, 10)
        healthy(actors)
        for mode, value, ids in (
            (Mode.DELAY, 1.5, ("neighbor-slow", "link-slow", "sends-dropped")),
            (Mode.SLOW, 300.0, ("neighbor-slow", "link-slow", "sends-dropped")),
            (Mode.CUT, 0.0, ("neighbor-disconnected",)),
            (Mode.GARBLE, 0.0, ("neighbor-disconnected",)),
            (Mode.BLACKHOLE, 0.0, ("neighbor-disconnected",)),
        ):
            chaos.link(first.name, second.name, mode, value)
            for actor, other in ((first, second), (second, first)):
                tells(actor, *((each, other.name) for each in ids), code=10)
            for actor in actors:
                reaches(actor, published(actor) + 3)
            assert not {each for each in told(third) if each[0] == "neighbor-disconnected"}
            chaos.heal()
            healthy(actors)
    for actor in actors:
        check_ledger(actor)


def trained(actor: Actor) -> list[tuple[float, int]]:
    """When each round of training was published, in seconds, and under which number."""
    found = []
    for entry in daemons.ledger(actor):
        header = parse_header(entry.header)
        if header.type == EntryType.UPDATE_PUBLISHED:
            record: Any = parse_record(header.type, entry.payload)
            if record.steps:
                found.append((header.t_ms / 1000, record.number))
    return found


def test_thirty_seconds_without_one_peer_cost_nothing_but_its_progress(tmp_path: Path) -> None:
    """The others go on at their pace; the dropped one spends nothing meanwhile, catches up, and finishes."""
    with daemons.importable():
        federation = found(tmp_path / "f", plan(4, ROUNDS, interval=1.0))
    with Chaos.between(federation) as chaos, running(federation) as actors:
        dropped, *others = actors
        for actor in actors:
            reaches(actor, CUT_FROM)
        healthy(actors)
        before = {actor.name: published(actor) for actor in actors}
        chaos.isolate(dropped.name, Mode.BLACKHOLE)
        for actor in others:
            tells(actor, ("neighbor-disconnected", dropped.name), code=10)
        tells(dropped, ("isolated", "rounds"))
        tells(dropped, *(("neighbor-disconnected", actor.name) for actor in others))
        for actor in others:
            reaches(actor, before[actor.name] + int(DROP_S))
        at_heal = (dropped.status() or {})["privacy"]["releases"]
        assert at_heal <= before[dropped.name] + 3, "it has spent nothing while nobody could hear of it"
        chaos.heal()
        healthy(actors)
        finishes(actors)
    for actor in actors:
        entries = check_ledger(actor)
        assert len(records(entries, PrivacySpend)) == ROUNDS
        assert sum(update.steps > 0 for update in records(entries, UpdatePublished)) == ROUNDS
    for actor in others:
        rounds = trained(actor)
        calm = [b - a for (a, _), (b, number) in pairwise(rounds) if number <= before[actor.name]]
        cut = [b - a for (a, _), (b, number) in pairwise(rounds) if before[actor.name] < number]
        assert median(cut) <= 1.5 * median(calm)
        # Once: two pings until the link is known to be gone, and the round that waited.
        assert sum(gap > 2 * median(calm) for gap in cut) <= 3
