"""Homes as the daemons of a federation would leave them, made by the simulator in virtual time."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from cli_helpers import make_home
from node_helpers import start_all

from quidnunc.crypto.log import Log
from quidnunc.gossip.events import Commit
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.database import row_seal
from quidnunc.peer.ledger.store import Store
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.world import Hooks, Peer, World

_BATCH = 200


@dataclass
class Federation:
    """A world that ran, and the homes of its peers."""

    world: World
    tokens: dict[bytes, list[tuple[bytes, bytes, int, bytes]]] = field(default_factory=dict)
    homes: list[Path] = field(default_factory=list)

    def names(self) -> dict[bytes, str]:
        return {member.log_id: member.name for member in self.world.charter.members}


def federation(scenario: Scenario, seconds: float, root: Path) -> Federation:
    """Run ``scenario`` for that many virtual seconds and put its ledgers into homes under ``root``."""

    def committed(peer: Peer, commit: Commit) -> None:
        found.tokens.setdefault(peer.log_id, []).extend(commit.tokens)

    found = Federation(build(scenario, Hooks(on_commit=committed)))
    start_all(found.world)
    found.world.run(seconds)
    found.homes = [_home(found, peer, root / f"peer-{peer.index}") for peer in found.world.peers]
    return found


def _home(found: Federation, peer: Peer, path: Path) -> Path:
    """What this peer would have on disk, but for its keys."""
    make_home(path, f"peer-{peer.index}")
    home = Home.at(path)
    for each in home.ledger.parent.glob(f"{home.ledger.name}*"):
        each.unlink()
    Store.create(home.ledger, peer.log_id, peer.secret.public).close()
    log = Log(peer.log_id)
    cosigned = [(witness, *each) for witness, each in peer.disk.cosigned.items()]
    kept = sorted({size for _, size, _ in cosigned} | {len(peer.disk.entries)})
    with Store.open(home.ledger) as store:
        done = 0
        for size in kept:
            for entry in peer.disk.entries[done:size]:
                log.replay(entry)
            if size > done:
                store.commit(peer.disk.entries[done:size], log.checkpoint(peer.secret), found.tokens[peer.log_id])
            done = size
        for log_id, (size, root, note) in peer.disk.heads.items():
            store.witness(log_id, size, root, note)
    _cosign(home.ledger, cosigned)
    home.charter.write_bytes(draft_note(found.world.charter))
    return path


def _cosign(path: Path, rows: list[tuple[bytes, int, bytes]]) -> None:
    with sqlite3.connect(path) as connection:
        sealed = [(*each, row_seal("cosignature", *each)) for each in rows]
        connection.executemany("INSERT OR REPLACE INTO cosignature VALUES (?, ?, ?, ?)", sealed)
    connection.close()
