"""Real daemons in a line: the ends are no neighbors, and witness each other's log nevertheless."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import daemons
import pytest
from daemons import cli, found, plan, running, until

from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.federation.founding import draft_note, open_charter, sign_charter
from quidnunc.peer import keys
from quidnunc.peer.rehearsal import Actor, Rehearsal

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def in_a_line(federation: Rehearsal) -> None:
    """Found it anew under a charter whose graph is a line, in the order of its members."""
    homes = [actor.home for actor in federation.actors]
    charter = open_charter(homes[0].charter.read_bytes()).charter
    edges = tuple((i, i + 1) for i in range(len(charter.members) - 1))
    note = draft_note(replace(charter, edges=edges))
    for home in homes:
        note = sign_charter(note, SecretKey(keys.load(home.root_key, "root")))
    for home in homes:
        home.charter.write_bytes(note)


def test_in_a_line_of_three_every_log_is_witnessed_by_both_others(tmp_path: Path) -> None:
    with daemons.importable():
        federation = found(tmp_path / "f", plan(3, 400, interval=0.1, epsilon="inf"))
    in_a_line(federation)
    with daemons.importable(), running(federation) as actors:

        def witnessed(actor: Actor) -> bool:
            return bool(cli(actor, "ledger", "status")["data"]["verdict"] == "WITNESSED 2 of 2")

        until(lambda: all(witnessed(actor) for actor in actors), "all are witnessed by both others", actors)
        assert not any((actor.status() or {})["frozen"] for actor in actors)
    for actor in actors:
        verdict = cli(actor, "ledger", "verify")
        assert verdict["code"] == 0, verdict
