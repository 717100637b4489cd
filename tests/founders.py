"""Members and charters for tests, made from small numbers: the same number gives the same keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from quidnunc.crypto.entry import log_id_of
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.gossip.federation.charter import (
    Charter,
    Member,
    MergeSpec,
    PrivacySpec,
    RoundSpec,
    TaskSpec,
    TrainingSpec,
    default_quorum,
)
from quidnunc.gossip.federation.genesis import make_genesis
from quidnunc.gossip.learning.accountant import noise_for

MICRO = 1_000_000


@dataclass(frozen=True)
class Founder:
    """An organization's secrets and what it shows of them."""

    root: SecretKey
    secret: bytes
    member: Member


def founder(number: int, name: str = "", **changes: Any) -> Founder:
    """Organization ``number``; ``changes`` are fields of its Member."""
    name = name or f"Hospital {number}"
    seed = hashlib.sha256(f"founder {number}".encode()).digest()
    root = SecretKey(hashlib.sha256(b"root" + seed).digest())
    log, witness, transport = (SecretKey(derive_seed(seed, role, 0)) for role in Role)
    genesis = make_genesis(root.public, log, seed[:16], name)
    member = Member(name, log_id_of(genesis), root.public, log.public, witness.public, transport.public, genesis)
    return Founder(root, seed, replace(member, **changes))


def founders(count: int) -> list[Founder]:
    """``count`` organizations in the order in which a charter lists them."""
    return sorted((founder(number) for number in range(count)), key=lambda each: each.member.log_id)


def private(epsilon: float = 8.0, rounds: int = 50) -> PrivacySpec:
    """Noise that suffices for ``epsilon`` at 1e-5."""
    noise_u = int(noise_for(epsilon, rounds, 1e-5) * MICRO) + 1
    return PrivacySpec("dp-sgd-full-batch", round(epsilon * MICRO), 5, MICRO, noise_u, rounds)


def charter(members: list[Founder] | int = 4, **changes: Any) -> Charter:
    """A valid charter on a complete graph; ``changes`` are fields of it."""
    chosen = founders(members) if isinstance(members, int) else members
    fields: dict[str, Any] = {
        "purpose": "a test",
        "nonce": bytes(16),
        "t_ms": 1_800_000_000_000,
        "members": tuple(each.member for each in chosen),
        "task": TaskSpec("digits", b"s" * 32, b"g" * 32, 650, 0, {"model": "softmax", "deep": False, "width": 8}),
        "training": TrainingSpec(500_000, 0, 4, 32),
        "merge": MergeSpec("repute", MICRO, {"radius": 1_500_000}),
        "privacy": private(),
        "rounds": RoundSpec(50, 1000, 2, "majority"),
        "edges": tuple(combinations(range(len(chosen)), 2)),
        "codec": 1,
        "quorum": default_quorum(len(chosen)),
        "payload_bytes": 1 << 24,
    }
    return Charter(**(fields | changes))
