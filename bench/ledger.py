"""The ledger on a real file system: commits beside a bare append and fdatasync, proofs, a whole verification, a trace.

``commit`` is what the daemon does before it sends anything: compare, insert, read back, recompute, verify the own
signature, sync. The baseline writes the same number of bytes to a file and calls fdatasync. Entries have the payloads
of a peer with seven neighbors: spend, update, seven receipts, merge. Memory is that of a process of its own. What
mirrors and witnesses add to the traffic is counted in a simulated federation.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from common import Row, main

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.lineage import Lineage, Place
from quidnunc.gossip.provenance import (
    Merge,
    MergeRow,
    PrivacyClaim,
    PrivacySpend,
    Record,
    UpdatePublished,
    UpdateReceived,
    payload_of,
)
from quidnunc.peer.ledger.store import Store

NEIGHBORS = 7


def name(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def round_records(number: int) -> Iterator[Record]:
    """One round of a peer with ``NEIGHBORS`` neighbors, as its daemon would record it."""
    n = number
    yield PrivacySpend(n, n, 1_250_000 + n, 1_250_000 + n, 8_000_000, 5, 4_244_000, 1_000_000, 1, name("data"))
    for i in range(NEIGHBORS):
        hashes = [name(part, n, i) for part in ("leaf", "root", "token", "delta", "state")]
        yield UpdateReceived(name("log", i), 10 * n, hashes[0], 10 * n + 1, *hashes[1:3], n, *hashes[3:], False, 0)
    rows = [MergeRow(name("state", n, i), name("log", i), n, PPB // 8, PPB // 8, PPB) for i in range(NEIGHBORS + 1)]
    received = tuple(range(10 * n, 10 * n + NEIGHBORS))
    yield Merge(n, name("merge", n), name("rule"), tuple(rows), False, 0, received, None)
    claim = PrivacyClaim(1, 1, 1_000_000, 4_244_000, 1_000_000, 1, 5, 1_250_000 + n, 1_250_000 + n, "agm-1", 10 * n)
    fixed = (name("federation"), name("schema"), n, n)
    vectors = (name("merge", n), name("own", n - 1), name("own", n), name("delta", n))
    yield UpdatePublished(*fixed, *vectors, 651, 1, 1, name("data"), 9, claim)


class Writer:
    """An author with a store of its own."""

    def __init__(self, path: Path) -> None:
        self.key = SecretKey.from_seed(bytes(32))
        self.log = Log(name("log"))
        self.store = Store.create(path, self.log.log_id, self.key.public)
        self.rng = random.Random(1)
        self.records = (record for number in itertools.count(1) for record in round_records(number))

    def entries(self, count: int) -> list[Entry]:
        """The next ``count`` entries."""
        return [self._entry(next(self.records)) for _ in range(count)]

    def _entry(self, record: Record) -> Entry:
        t_ms = 1_760_000_000_000 + self.log.size
        return self.log.append(record.TYPE, payload_of(record), salt=self.rng.randbytes(16), t_ms=t_ms)

    def bytes_per_entry(self) -> float:
        """The size of the database once its log is folded in; nothing can be written afterwards."""
        self.store.close()
        return self.store.path.stat().st_size / self.log.size

    def commit(self, entries: list[Entry]) -> float:
        """Seconds of one commit, the signature included as the node makes it."""
        start = time.perf_counter()
        self.store.commit(entries, self.log.checkpoint(self.key))
        return time.perf_counter() - start


def raw_sync(path: Path, count: int, size: int) -> list[float]:
    """Seconds of ``count`` appends of ``size`` bytes, each followed by fdatasync."""
    data, took = os.urandom(size), []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            start = time.perf_counter()
            os.write(descriptor, data)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)
    return took


def commits(root: Path, quick: bool) -> list[Row]:
    rows = []
    for per, least, count in ((1, 200, 400), (10, 2000, 200), (256, 5000, 40)):
        count = count // 4 if quick else count
        writer = Writer(root / f"commit-{per}.db")
        took, raw = [], []
        for _ in range(count):
            batch = writer.entries(per)
            took.append(writer.commit(batch))
            raw += raw_sync(root / "raw", 1, per * 500)
        what = f"{per} entries per commit"
        at_most = 1000 * median(raw) + 1 if per <= 10 else None
        rows.append(
            Row(
                f"commit p50, {what}",
                1000 * median(took),
                "ms",
                "write and fdatasync",
                1000 * median(raw),
                at_most=at_most,
            )
        )
        rows.append(Row(f"appends, {what}", per * count / sum(took), "1/s", at_least=least))
        if per == 10:
            rows.append(Row(f"database, {what}", writer.bytes_per_entry(), "B/entry", at_most=900))
            rows.append(Row(f"database with the tokens of all updates, {what}", with_tokens(root), "B/entry"))
    return rows


def with_tokens(root: Path) -> float:
    """Bytes per entry where each round also keeps the tokens of its update and of those received, as a daemon does."""
    writer = Writer(root / "tokens.db")
    for number in range(100):
        batch = writer.entries(10)
        note = writer.log.checkpoint(writer.key)
        token = make_token(batch[-1], writer.log.inclusion(writer.log.size - 1), note)
        kept = [token, *(token + bytes([i]) for i in range(NEIGHBORS))]
        named = [(hashlib.sha256(each).digest(), name("log", i), number, each) for i, each in enumerate(kept)]
        writer.store.commit(batch, note, named)
    return writer.bytes_per_entry()


def build(path: Path, entries: int) -> Writer:
    writer = Writer(path)
    while writer.log.size < entries:
        writer.commit(writer.entries(min(2560, entries - writer.log.size)))
    return writer


def verifying(path: Path) -> int:
    """In a process of its own: verify, print seconds and peak MiB."""
    start = time.perf_counter()
    with Store.open(path, readonly=True) as store:
        report = store.verify()
        assert report.ok, report
    seconds = time.perf_counter() - start
    print(seconds, peak_mib())
    return 0


def peak_mib() -> float:
    """The most memory this process had since it began.

    Of a child ``ru_maxrss`` also counts what its parent had before the exec, which here is a tree of all entries.
    """
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def whole(root: Path, quick: bool) -> list[Row]:
    entries = 50_000 if quick else 1_000_000
    path = root / "whole.db"
    writer = build(path, entries)
    store = writer.store
    scale = 1_000_000 / entries
    done = subprocess.run(
        [sys.executable, __file__, "--verify-child", str(path)], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, peak = map(float, done.stdout.split())
    label = f"{entries:,} entries"
    rows = [
        Row(f"verify with every payload decoded, {label}", seconds, "s", at_most=60 / scale),
        Row(f"peak memory of verify, {label}", peak, "MiB", at_most=100),
    ]
    rng, took = random.Random(2), []
    for _ in range(200):
        seq = rng.randrange(entries)
        start = time.perf_counter()
        path_ = store.tree().inclusion(seq)
        took.append(time.perf_counter() - start)
        assert path_ == writer.log.inclusion(seq)
    rows.append(Row(f"inclusion proof from the database p50, {label}", 1000 * median(took), "ms", at_most=2))
    note = store.checkpoint()
    assert note is not None
    token = make_token(store.entry(entries - 1), store.tree().inclusion(entries - 1), note)
    rows.append(Row(f"provenance token, {label}", len(token), "B", at_most=2048))
    return rows


def traced(quick: bool) -> list[Row]:
    """A mesh of 100 peers; every merge has nine inputs."""
    edges = 100_000 if quick else 1_000_000
    peers, rng = 100, random.Random(3)
    logs = [name("peer", i) for i in range(peers)]
    lineage = Lineage(name("genesis"))
    states = [(name("genesis"), None) for _ in logs]
    merged = [name("genesis") for _ in logs]
    zero, count, seq = bytes(32), 0, 0
    while count < edges:
        seq += 2
        for i, log_id in enumerate(logs):
            after = name("u", i, seq)
            update = UpdatePublished(zero, zero, seq, seq, merged[i], zero, after, zero, 1, 1, 1, zero, 1, None)
            lineage.add(log_id, seq, update)
            states[i] = (after, seq)  # type: ignore[assignment]
        count += peers
        for i, log_id in enumerate(logs):
            chosen = [i, *rng.sample(range(peers), 8)]
            rows = tuple(MergeRow(states[j][0], logs[j], states[j][1], PPB // 9, PPB // 9, PPB) for j in chosen)
            merged[i] = name("m", i, seq)
            lineage.add(log_id, seq + 1, Merge(seq, merged[i], zero, rows, False, 0, (), None))
        count += 9 * peers
    start = time.perf_counter()
    lineage.trace(Place(logs[0], seq + 1))
    first = time.perf_counter() - start
    start = time.perf_counter()
    found = lineage.trace(Place(logs[0], seq + 1))
    again = time.perf_counter() - start
    assert len(found.shares) == peers
    label = f"{count:,} edges"
    at_most = 2 * count / 1_000_000
    return [
        Row(f"trace, first of a set of ledgers, {label}", first, "s", at_most=at_most),
        Row(f"trace of another model of the same set, {label}", again, "s", at_most=at_most),
    ]


def traffic(quick: bool) -> list[Row]:
    """What mirrors and witnesses add on the wire."""
    # Not above: torch would count as memory of the child, which imports this file and starts from our peak.
    from _mirror_traffic import mirrored

    return mirrored(quick)


def measure(quick: bool) -> list[Row]:
    parts: list[Callable[[Path], list[Row]]] = [
        lambda root: commits(root, quick),
        lambda root: whole(root, quick),
        lambda root: traced(quick),
        lambda root: traffic(quick),
    ]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="quidnunc-bench-", dir=".") as where:
        for part in parts:
            rows += part(Path(where))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--verify-child"]:
        raise SystemExit(verifying(Path(sys.argv[2])))
    raise SystemExit(main(__doc__, measure))
