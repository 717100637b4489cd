"""A peer that was killed and comes back when the others have finished is caught up with, not judged for being late."""

from __future__ import annotations

import pytest
from node_helpers import parsed

from quidnunc.gossip.health import conditions
from quidnunc.gossip.learning.builtin import BUILTIN, DEFAULTS
from quidnunc.gossip.provenance import ReputationChange, standing_code
from quidnunc.gossip.reputation import StandingClass, classify
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.world import EPOCH_S

LATE = 2
ROUNDS = 30
EDGES = ((0, 1), (0, 2), (1, 2))


@pytest.mark.parametrize("epsilon", [8.0, None], ids=["epsilon 8", "epsilon inf"])
def test_a_peer_that_is_back_after_the_end_keeps_its_standing(epsilon: float | None) -> None:
    """Regression: two that had finished silenced the third, which trained on for nobody until its budget was spent."""
    defaults = DEFAULTS["digits"]
    training = defaults.plain if epsilon is None else defaults.private
    world = build(
        Scenario(
            *(BUILTIN["digits"], training),
            peers=3,
            rounds=ROUNDS,
            epsilon=epsilon,
            clip=defaults.clip,
            edges=EDGES,
            link=Link(0.02, 0.02),
        )
    )
    late = world.peers[LATE]
    for index in range(3):
        world.start(index)
    world.run(600, stop=lambda: late.node is not None and late.node.rounds.trained >= 8)
    world.crash(LATE)
    others = [peer.node for peer in world.peers[:LATE] if peer.node is not None]
    world.run(world.now + 600, stop=lambda: all(node.rounds.finished for node in others))
    world.run(world.now + 20)
    world.start(LATE)
    world.run(world.now + 600, stop=lambda: late.node is not None and late.node.rounds.finished)
    assert late.node is not None
    assert late.node.rounds.finished
    for node in others:
        neighbor = node.neighbors[late.log_id]
        assert classify(neighbor.standing) == StandingClass.NORMAL
        assert "neighbor-distrusted" not in {each.id for each in conditions(node, EPOCH_S + world.now)}
    for peer in world.peers[:LATE]:
        changes = [record for _, record in parsed(peer.disk.entries) if isinstance(record, ReputationChange)]
        # The step from where it was killed to where the others are is a long one: it may cost something for a moment.
        assert all(change.new < standing_code(StandingClass.EXCLUDED) for change in changes)
        if epsilon is not None:
            assert all(change.new == 0 for change in changes)
