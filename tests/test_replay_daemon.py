"""The journal of a real daemon, killed in the middle, replays to the head of the ledger it has written."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import daemons
import pytest
from daemons import answers, cli, finishes, found, ledger, plan, reaches, running, until

from quidnunc.peer import keys
from quidnunc.peer.config_text import with_values
from quidnunc.peer.membership import Keys
from quidnunc.peer.rehearsal import Rehearsal

pytestmark = pytest.mark.slow

ROUNDS = 8
KILLED_AT = 3


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Rehearsal]:
    """Two peers, the first of which keeps a journal."""
    with daemons.importable():
        made = found(tmp_path, plan(2, ROUNDS, interval=0.05))
        config = made.actors[0].home.config
        config.write_text(with_values(config.read_text(), {"debug.journal_mib": 8}))
        yield made


def test_a_daemons_journal_over_a_kill_and_a_pause_replays_to_its_ledgers_head(federation: Rehearsal) -> None:
    keeper, other = federation.actors
    with running(federation) as actors:
        reaches(keeper, KILLED_AT)
        keeper.signal(signal.SIGKILL)
        keeper.wait()
        keeper.start("--paused")
        answers(keeper)
        beside = cli(keeper, "replay", str(keeper.home.journal))
        assert beside["code"] == 0, beside
        assert cli(keeper, "resume")["code"] == 0
        finishes(actors)
        until(lambda: (keeper.status() or {})["finished"], "it is done", [keeper])
    journal = keeper.home.journal
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert not other.home.journal.exists()
    replayed = cli(keeper, "replay", str(journal))
    assert replayed["code"] == 0, replayed
    entries = ledger(keeper)
    data = replayed["data"]
    assert data["divergence"] is None
    assert (data["size"], data["head"]) == (len(entries), entries[-1].leaf.hex())
    assert (data["lives"], data["compared"]) == (2, len(entries))
    assert (data["outside"], data["torn"], data["ended"]) == (0, False, "")
    assert data["entries"] == len(entries) + data["lost"]
    everything = journal.read_bytes()
    secret = keys.load(keeper.home.operational_key, "operational")
    roles = Keys.derive(secret)
    assert roles.log.public in everything
    seeds = (secret, roles.log.seed, roles.witness.seed, roles.transport.seed)
    assert not any(seed in everything for seed in seeds)
    trained = [path.read_bytes() for path in keeper.home.blobs.rglob("*") if path.is_file()]
    assert trained
    assert not any(blob in everything for blob in trained)
