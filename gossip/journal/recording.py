"""Takes down a node's life while it is lived: what it is built from, then each event with what it drew and did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.gossip.events import Effect, Event
from quidnunc.gossip.journal.marks import leaves, marks
from quidnunc.gossip.journal.records import Entered, Life, Set, Step, kept
from quidnunc.gossip.node import Node
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.recorder import Entropy
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.settings import Settings


class _Overheard(SecretKey):
    """A secret key whose signatures, which are public anyhow, are kept."""

    __slots__ = ("_inner", "_kept")

    def __init__(self, inner: SecretKey, kept: list[bytes]) -> None:
        self._inner, self._kept = inner, kept

    @property
    def public(self) -> bytes:
        return self._inner.public

    @property
    def seed(self) -> bytes:
        return self._inner.seed

    def sign(self, message: bytes) -> bytes:
        signature = self._inner.sign(message)
        self._kept.append(signature)
        return signature


class Recording:
    """Records the nodes of one peer, one after the other.

    ``write`` takes a record and must not raise; ``charter`` is the signed text of the charter they all have.
    """

    def __init__(self, write: Callable[[Entered], None], charter: bytes) -> None:
        self._write = write
        self._charter = charter
        self._entropy: list[bytes] = []
        self._signatures: list[bytes] = []

    def begin(
        self,
        own: Self,
        log: Log,
        resume: Resume,
        entropy: Entropy,
        settings: Settings,
        *,
        rebuilt: bool = False,
    ) -> tuple[Self, Entropy]:
        """Record what a node is about to be built from; it is to be built with the two parts returned instead."""
        described = own.described
        described = replace(described, examples=_rounded(described.examples), holdout=0, data_root=b"")
        life = Life(
            charter=self._charter,
            log_id=own.log_id,
            log_key=own.key.public,
            witness_key=own.witness.public,
            genesis=own.genesis,
            charter_note=own.charter_note,
            dataset=own.dataset,
            described=described,
            noise_source=own.noise_source,
            epsilon_cap_u=own.epsilon_cap_u,
            accounted=own.accounted,
            elsewhere=own.elsewhere,
            software=own.software,
            settings=settings,
            resume=resume,
            leaves=b"".join(log.leaf(seq) for seq in range(log.size)),
            last_t_ms=log.last_t_ms,
            rebuilt=rebuilt,
        )
        self._write(life)
        self._entropy.clear()
        self._signatures.clear()

        def drawn(size: int) -> bytes:
            data = entropy(size)
            self._entropy.append(data)
            return data

        keys = (_Overheard(key, self._signatures) for key in (own.key, own.witness))
        return replace(own, key=next(keys), witness=next(keys)), drawn

    def set_paused(self, node: Node, paused: bool) -> None:
        """Tell ``node``, outside of any event, whether training is paused, and record it."""
        self._write(Set(paused))
        node.rounds.paused = paused

    def handle(self, node: Node, event: Event, now: float) -> list[Effect]:
        """What ``node`` says must be done about ``event``; recorded before anything is done, or when it raises."""
        effects: list[Effect] | None = None
        raised = ""
        try:
            effects = node.handle(event, now)
            return effects
        except Exception as error:
            raised = type(error).__name__
            raise
        finally:
            self._record(event, now, effects or [], raised)

    def _record(self, event: Event, now: float, effects: list[Effect], raised: str) -> None:
        entropy, signatures = tuple(self._entropy), tuple(self._signatures)
        self._entropy.clear()
        self._signatures.clear()
        self._write(Step(now, kept(event), entropy, signatures, marks(effects), leaves(effects), raised))


def set_paused(node: Node, paused: bool, recording: Recording | None) -> None:
    """Tell a new ``node`` whether training is paused, recorded or not."""
    if recording is None:
        node.rounds.paused = paused
    else:
        recording.set_paused(node, paused)


def _rounded(examples: int) -> int:
    """The largest power of two in it: all that a node tells of how much data there is."""
    return 1 << (examples.bit_length() - 1) if examples > 0 else 0
