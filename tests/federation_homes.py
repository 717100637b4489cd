"""Homes as the daemons of a federation of toy peers would leave them, made by the simulator in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from founders import founders
from node_helpers import start_all, toy_world

from quidnunc.gossip.events import Commit
from quidnunc.gossip.federation.card import make_card
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store
from quidnunc.sim.world import Hooks, Peer, World


@dataclass
class Federation:
    """A world that ran, and the homes of its peers, by index."""

    world: World
    commits: dict[bytes, list[Commit]] = field(default_factory=dict)
    homes: list[Path] = field(default_factory=list)

    def name(self, index: int) -> str:
        """What the charter calls the peer ``index``."""
        member = self.world.charter.member(self.world.peers[index].log_id)
        assert member is not None
        return member.name


def federation(root: Path, seconds: float, members: int = 3, **options: Any) -> Federation:
    """Run a toy world for that many virtual seconds and put its ledgers into homes without keys under ``root``."""
    world, _ = toy_world(members, watch=False, **options)
    found = Federation(world)

    def committed(peer: Peer, commit: Commit) -> None:
        found.commits.setdefault(peer.log_id, []).append(commit)

    world.hooks = Hooks(on_commit=committed)
    start_all(world)
    world.run(seconds)
    found.homes = [_home(found, peer, root / f"peer-{peer.index}", members) for peer in world.peers]
    return found


def _home(found: Federation, peer: Peer, path: Path, members: int) -> Path:
    """What this peer would have on disk, but for its keys and its configuration."""
    home = Home.at(path)
    home.create()
    own = next(each for each in founders(members) if each.member.log_id == peer.log_id)
    home.card.write_bytes(make_card(own.member, own.root))
    home.charter.write_bytes(draft_note(found.world.charter))
    Store.create(home.ledger, peer.log_id, peer.secret.public).close()
    with Store.open(home.ledger) as store:
        for each in found.commits[peer.log_id]:
            store.commit(each.entries, each.note, each.tokens, each.proofs, each.cosigned)
        for log_id, head in peer.disk.heads.items():
            store.witness(log_id, *head)
    return path
