"""What mirrors and witnesses add to the traffic of a simulated federation; a part of ``bench/ledger.py``."""

from __future__ import annotations

from collections import Counter

import torch
from common import Row

from quidnunc.gossip.events import Send
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.task import Site, Task, Training
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.world import Hooks, Peer


def wide(site: Site) -> Task:
    """Noise with labels for a perceptron of 101,770 params: what is sent is measured, not what is learned."""
    own = torch.Generator().manual_seed(1_000 + site.index)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, 784, generator=own), torch.randint(10, (count,), generator=own)

    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    return Task(model, loss, split(64), split(16), split(16))


def mirrored(quick: bool) -> list[Row]:
    """What keeping each other's entries costs on the wire: a private federation of eight, everybody with everybody."""
    peers, rounds = 8, 3 if quick else 20
    scenario = Scenario(task=wide, training=Training(0.1, 0.0, 1, 64), peers=peers, rounds=rounds, epsilon=8.0)
    sent: Counter[str] = Counter()

    def count(sender: Peer, target: Peer, send: Send, body: bytes) -> tuple[bytes, bytes]:
        message = parse_message(send.frame.header, world.charter.federation_id)
        sent[type(message).__name__] += len(send.frame.header) + len(body)
        return send.frame.header, body

    world = build(scenario, Hooks(tamper=count))
    for index in range(peers):
        world.start(index)
    world.run(10.0 * rounds, stop=lambda: all(peer.node and peer.node.rounds.finished for peer in world.peers))
    published = sum(peer.node.publisher.number for peer in world.peers if peer.node is not None)
    links = published * (peers - 1)
    keeping = sent["Entries"] + sent["Fetch"]
    cosigning = sum(sent[each] for each in ("Heads", "Prove", "Consistency", "Cosigned", "Vouch", "Vouched"))
    label = f"{peers} peers, {world.charter.task.dim:,} params"
    total = sum(sent.values())
    return [
        Row(f"all traffic per update and link, {label}", total / links / 1024, "KiB"),
        Row(f"entries for mirrors per update and link, {label}", keeping / links / 1024, "KiB"),
        Row(f"mirrors' share of all traffic, {label}", 100 * keeping / total, "%", at_most=10),
        Row(f"witnesses' share of all traffic, {label}", 100 * cosigning / total, "%"),
    ]
