"""No forged proof convicts a key that signed one history, however its notes, headers and tokens are put together."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from typing import Any

import pytest
from fuzzing import SEED, fork_examples, fork_logs, mutate
from histories import History, cosigned, key_of, witness

from quidnunc.crypto import note as note_module
from quidnunc.crypto.checkpoint import Checkpoint, origin_of, sign_checkpoint
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import encode_header, parse_header
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.crypto.fork import Fork, KeySpan, KnownKeys, verify_fork
from quidnunc.crypto.fork_proof import FORK_TAG, MAX_FORK_BYTES, ForkKind, encode_fork
from quidnunc.crypto.identity import verify
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token

FORGED = 40_000
MUTATED = 60_000
DRAGGED = 5_000

OLD, NEW = key_of("honest"), key_of("honest, later")
ROTATED = 25
HONEST = History("honest").grow(40)
SECOND = History("second").grow(40)
OURS, THEIRS = fork_logs()
BAD_WITNESS, GOOD_WITNESS = origin_of(witness("v")[0]), origin_of(witness("w")[0])
GUILTY = {OURS.origin, BAD_WITNESS}
KNOWN = KnownKeys(
    {
        HONEST.origin: [KeySpan(OLD.public, 0, ROTATED), KeySpan(NEW.public, ROTATED)],
        SECOND.origin: [KeySpan(SECOND.key.public)],
        OURS.origin: [KeySpan(OURS.key.public)],
    },
    {GOOD_WITNESS: [witness("w")[1].public], BAD_WITNESS: [witness("v")[1].public]},
)


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ed25519 is a function: each (key, message, signature) is verified once in a session."""
    monkeypatch.setattr(note_module, "verify", _verify)


def _verify(public: bytes, message: bytes, signature: bytes) -> None:
    error = _judged(public, message, signature)
    if error is not None:
        raise RemoteProtocolError(error.reason, error.message)


@cache
def _judged(public: bytes, message: bytes, signature: bytes) -> RemoteProtocolError | None:
    try:
        verify(public, message, signature)
    except RemoteProtocolError as error:
        return error
    return None


def fields_of(data: bytes) -> list[Any]:
    value = decode(data, max_bytes=MAX_FORK_BYTES)
    assert isinstance(value, list)
    return list(value)


EXAMPLES = [fields_of(encode_fork(proof)) for proof in fork_examples()]


@cache
def inclusion(log: Log, seq: int, size: int) -> list[bytes]:
    return log.inclusion(seq, size)


class Forger:
    """Everything an adversary can get: what honest keys signed, all headers, own keys; and every way to combine it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"forger {seed}")
        thief = key_of("thief")
        self.bent = HONEST.fork(15).grow(25, "bent")
        self.logs = (HONEST, SECOND, self.bent)
        self.notes: list[bytes] = []
        for size in range(41):
            honest = HONEST.note(size, OLD if size <= ROTATED else NEW)
            self.notes += [cosigned(honest, "w"), cosigned(SECOND.note(size), "w"), honest]
            text, signatures = honest.split(b"\n\n")
            other = self.bent.note(size, thief).split(b"\n\n")
            # A text of ours under lines for another, the thief's under the honest name, the old key's after its time.
            self.notes += [other[0] + b"\n\n" + signatures, text + b"\n\n" + other[1], b"\n\n".join(other)]
            self.notes.append(SECOND.note(size).replace(SECOND.origin.encode(), HONEST.origin.encode()))
        self.notes += [self.bent.note(size, OLD) for size in range(ROTATED + 1, 41)]
        self.notes.append(HONEST.note(ROTATED, NEW))
        self.notes.append(sign_checkpoint(Checkpoint(HONEST.origin, 40, bytes(32)), thief))

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.random() * len(choices))]

    def header(self, seq: int) -> bytes:
        log = self.pick(self.logs)
        data: bytes = log.headers[seq if self.rng.random() < 0.8 else int(self.rng.random() * 40)]
        if self.rng.random() < 0.3:
            header = parse_header(data)
            changes = self.pick(({"t_ms": header.t_ms + 1}, {"type": 5}, {"payload_cmt": bytes(32)}, {"t_ms": 0}))
            data = encode_header(header._replace(**changes))
        return data if self.rng.random() < 0.95 else b"\x99\x01" + self.rng.randbytes(90)

    def path(self, seq: int, size: int) -> list[bytes]:
        size = max(size, seq + 1) if self.rng.random() < 0.9 else 40
        path = list(inclusion(self.pick(self.logs).log, seq, min(max(size, seq + 1), 40)))
        if path and self.rng.random() < 0.3:
            at = int(self.rng.random() * len(path))
            path[at : at + self.pick((0, 1))] = self.pick(([], [bytes(32)], [self.pick(self.logs).log.leaf(seq)]))
        return path

    def token(self) -> bytes:
        log = self.pick(self.logs)
        seq = int(self.rng.random() * 40)
        size = seq + 1 + int(self.rng.random() * (40 - seq))
        notes = (self.pick(self.notes), HONEST.note(size, OLD if size <= ROTATED else NEW), SECOND.note(size))
        return make_token(log.entries[seq], self.path(seq, size), self.pick(notes))

    def inner(self, kind: str) -> list[Any]:
        rng = self.rng
        a, b = self.pick(self.notes), self.pick(self.notes)
        if rng.random() < 0.7:
            texts = [(note.split(b"\n", 2)[0], int(note.split(b"\n", 2)[1])) for note in (a, b)]
            if texts[0] > texts[1] or (kind == "A" and a > b):
                a, b = b, a
        size_a, size_b = int(a.split(b"\n", 2)[1]), int(b.split(b"\n", 2)[1])
        seq = int(rng.random() * max(1, min(size_a, size_b, 40)))
        match kind:
            case "A":
                return ["A", a, b]
            case "B":
                shown = [self.header(seq), self.path(seq, size_a), self.header(seq), self.path(seq, size_b)]
                return ["B", a, b, seq, *shown]
            case "B2":
                log = self.pick(self.logs)
                old, new = max(1, min(size_a, 40)), max(1, min(size_b, 40))
                path = log.log.consistency(min(old, new), max(old, new))
                root = self.pick((log.log.root_at(old), HONEST.log.root_at(old), bytes(32)))
                return ["B2", a, b, root, path]
            case "C":
                seq = int(rng.random() * max(1, min(size_a, 40)))
                before: list[Any] = [None, []]
                if seq and rng.random() < 0.7:
                    before = [self.header(seq - 1), self.path(seq - 1, size_a)]
                return ["C", a, seq, self.header(seq), self.path(seq, size_a), *before]
            case _:
                return ["C2", self.token(), self.token()]

    def proof(self) -> bytes:
        kind = self.pick(("A", "B", "B", "B2", "C", "C", "C2", "D"))
        if kind == "D":
            name = self.pick((GOOD_WITNESS, HONEST.origin))
            return encode([FORK_TAG, "D", name, *self.inner(self.pick(("A", "B", "B2")))])
        return encode([FORK_TAG, *self.inner(kind)])


def tried(data: bytes) -> Fork | str:
    """The conviction, or the reason why there is none."""
    try:
        return verify_fork(data, KNOWN)
    except RemoteProtocolError as error:
        return error.reason.label


@pytest.mark.parametrize("seed", [SEED])
def test_no_honest_key_is_convicted_by_what_honest_keys_signed(seed: int) -> None:
    forger = Forger(seed)
    reasons: Counter[str] = Counter()
    for _ in range(FORGED):
        data = forger.proof()
        found = tried(data)
        assert isinstance(found, str), f"{found} from {data.hex()}"
        reasons[found] += 1
    # The forgeries get past the parser and past the signatures, or they would test nothing.
    assert reasons["malformed"] > FORGED // 4
    assert min(reasons[reason] for reason in ("bad_signature", "stranger")) > FORGED // 100


@pytest.mark.parametrize("seed", [SEED])
def test_mutated_proofs_convict_the_guilty_or_nobody(seed: int) -> None:
    rng = random.Random(f"mutated {seed}")
    proofs = [encode_fork(proof) for proof in fork_examples()]
    forger = Forger(seed + 1)
    corpus = [*proofs, *forger.notes[:50], *HONEST.headers, *SECOND.headers]
    held = 0
    for number in range(MUTATED):
        data = mutate(proofs[number % len(proofs)], corpus, rng)
        found = tried(data)
        if isinstance(found, Fork):
            held += data not in proofs
            assert found.culprit in GUILTY, f"{found} from {data.hex()}"
    # Lines of unknown keys may change: such a proof is another spelling of the same conviction.
    assert held < MUTATED // 10


@pytest.mark.parametrize("seed", [SEED])
def test_a_guilty_log_drags_no_other_along(seed: int) -> None:
    """Real evidence against one log, with one or more parts replaced by those of honest ones."""
    rng = random.Random(f"dragged {seed}")
    forger = Forger(seed + 2)
    swaps = [(OURS.origin.encode(), HONEST.origin.encode()), (OURS.log.log_id, HONEST.log.log_id)]
    for number in range(DRAGGED):
        fields = list(EXAMPLES[number % len(EXAMPLES)])
        for _ in range(1 + int(rng.random() * 2)):
            at = 1 + int(rng.random() * (len(fields) - 1))
            if isinstance(fields[at], bytes):
                fields[at] = (
                    fields[at].replace(*forger.pick(swaps)) if rng.random() < 0.5 else forger.pick(forger.notes)
                )
            elif isinstance(fields[at], list):
                fields[at] = forger.path(int(rng.random() * 40), 40)
        found = tried(encode(fields))
        if isinstance(found, Fork):
            assert found.culprit in GUILTY


def test_the_examples_do_convict() -> None:
    found = [verify_fork(encode_fork(proof), KNOWN) for proof in fork_examples()]
    assert {each.kind for each in found} == set(ForkKind)
    assert {each.culprit for each in found} == GUILTY
