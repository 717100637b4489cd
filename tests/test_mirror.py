"""What is kept for neighbors: in order, without gaps, bounded, and begun anew when it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_helpers import Author, Bench, header_of

from quidnunc.crypto.entry import Entry, EntryType
from quidnunc.crypto.errors import Reason, StoreNewer
from quidnunc.crypto.log import Log
from quidnunc.gossip.events import Mirror
from quidnunc.gossip.message import Entries, Fetch
from quidnunc.peer.ledger.mirror import MIRROR_VERSION, MirrorStore

LOG = b"g" * 32
OTHER = b"h" * 32


def history(size: int, log_id: bytes = LOG, payload: bytes = b"\xc0") -> list[Entry]:
    """A log of ``size`` entries."""
    log = Log(log_id)
    return [log.append(0x80, payload, salt=bytes(16), t_ms=0) for _ in range(size)]


def test_what_is_kept_is_there_after_a_restart_and_read_as_far_as_one_message_takes(tmp_path: Path) -> None:
    entries = history(300, payload=b"\xc5\x01\x00" + bytes(256))
    store = MirrorStore.open(tmp_path / "m.db")
    store.keep(LOG, 0, entries[:100])
    store.keep(LOG, 100, entries[100:])
    store.keep(OTHER, 5, history(6, OTHER)[5:])
    store.close()
    store = MirrorStore.open(tmp_path / "m.db")
    assert store.held() == {LOG: (0, 300, entries[-1].leaf), OTHER: (5, 6, history(6, OTHER)[-1].leaf)}
    assert store.read(LOG, 298, 400) == entries[298:]
    part = store.read(LOG, 10, 300)
    assert part == entries[10 : 10 + len(part)]
    assert 100 < len(part) < 290
    assert list(store.headers(LOG)) == [each.header for each in entries]
    assert list(store.headers(OTHER)) == [], "not from its beginning"
    assert store.read(LOG, 300, 301) == store.read(b"i" * 32, 0, 9) == store.read(OTHER, 0, 6) == []
    store.close()


def test_the_oldest_give_way_at_the_bound_and_not_before(tmp_path: Path) -> None:
    entries = history(20)
    size = sum(len(each.header) + len(each.payload) + len(each.salt) for each in entries)
    store = MirrorStore.open(tmp_path / "m.db", bytes_max=size)
    store.keep(LOG, 0, entries)
    assert store.held()[LOG][:2] == (0, 20)
    store.close()
    store = MirrorStore.open(tmp_path / "m.db", bytes_max=size)
    more = history(21)
    store.keep(LOG, 20, more[20:])
    assert store.held()[LOG] == (1, 21, more[-1].leaf)
    assert store.read(LOG, 0, 21) == []
    store.close()


def test_an_erased_payload_is_no_gap_and_only_what_may_be_erased_may_lack_it() -> None:
    """Regression: who began to keep a log anew refused its first erased entry, and all behind it, for ever."""
    bench = Bench(3)
    bench.connect()
    author = bench.authors[0]
    for kind in (EntryType.NODE_START, EntryType.UPDATE_PUBLISHED):
        author.append(kind, b"\x80")
    bare = [each._replace(payload=b"", salt=b"") for each in author.entries]
    assert say(bench, author, 0, [author.entries[0], bare[1]]) == []
    assert bench.disk.mirrors[author.member.log_id] == (0, [author.entries[0], bare[1]])
    assert say(bench, author, 2, [bare[2]]) == [Reason.MALFORMED]
    assert say(bench, author, 2, [author.entries[2]]) == []
    assert bench.node.mirrors.span(author.member.log_id) == (0, 3)


@pytest.mark.parametrize("damage", ["garbage", "gap"])
def test_a_damaged_mirror_is_begun_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.db"
    store = MirrorStore.open(path)
    store.keep(LOG, 0, history(9))
    if damage == "gap":
        store._connection.execute("DELETE FROM entry WHERE seq = 4")
    store.close()
    if damage == "garbage":
        path.write_bytes(b"not a database, but as long as a header of one must be" * 40)
    store = MirrorStore.open(path)
    assert store.held() == {}
    store.close()


@pytest.mark.parametrize(("version", "newer"), [(MIRROR_VERSION, False), (MIRROR_VERSION + 1, True)])
def test_a_mirror_of_a_later_version_is_left_alone(tmp_path: Path, version: int, newer: bool) -> None:
    """Regression: it was read, and written, as if it were of this one."""
    path = tmp_path / "m.db"
    store = MirrorStore.open(path)
    store.keep(LOG, 0, history(9))
    store._connection.execute(f"PRAGMA user_version={version}")
    store.close()
    before = path.read_bytes()
    if newer:
        with pytest.raises(StoreNewer, match="version 1, known is 0"):
            MirrorStore.open(path)
        assert path.read_bytes() == before
    else:
        MirrorStore.open(path).close()


# The node's side.


def say(bench: Bench, author: Author, first: int, entries: list[Entry], log_id: bytes | None = None) -> list[Reason]:
    who = author.member.log_id if log_id is None else log_id
    return bench.receive(author, header_of(Entries(bench.charter.federation_id, who, first, tuple(entries), b"")))


def test_entries_are_kept_in_order_gaps_are_asked_for_and_nonsense_is_refused() -> None:
    bench = Bench(3)
    bench.connect()
    author, other = bench.authors
    entries = history(10, author.member.log_id)
    who = author.member.log_id
    assert say(bench, author, 0, entries[:3]) == []
    assert say(bench, author, 0, entries[:3]) == []
    assert bench.disk.mirrors[who] == (0, entries[:3])
    assert say(bench, author, 6, entries[6:8]) == []
    assert bench.messages(author)[-1] == Fetch(bench.charter.federation_id, who, 3, 8)
    assert bench.disk.mirrors[who] == (0, entries[:3])
    assert say(bench, author, 2, entries[2:8]) == []
    assert bench.disk.mirrors[who] == (0, entries[:8])
    assert say(bench, author, 8, [entries[8], entries[8]]) == [Reason.MALFORMED], "out of its place"
    assert say(bench, author, 8, [entries[8]._replace(payload=b"\x01")]) == [Reason.MALFORMED]
    assert say(bench, author, 8, history(9, author.member.log_id, b"\x02")[8:]) == [], "another history"
    assert say(bench, author, 0, history(1, other.member.log_id), other.member.log_id) == [Reason.UNSOLICITED]
    assert bench.disk.mirrors[who] == (0, entries[:8])
    assert bench.disk.mirrors.keys() == {who}


def test_only_a_neighbors_own_log_and_ours_are_given_and_not_faster_than_a_slow_link() -> None:
    bench = Bench(3)
    bench.connect()
    author, other = bench.authors
    federation, mine, theirs = bench.charter.federation_id, bench.own.log_id, author.member.log_id
    say(bench, author, 0, history(4, theirs))
    size = len(bench.disk.entries)

    def asked(log_id: bytes, first: int, last: int, who: Author = author) -> tuple[int, int] | None:
        before = len(bench.supplies)
        assert bench.receive(who, header_of(Fetch(federation, log_id, first, last))) == []
        if len(bench.supplies) > before:
            return bench.supplies[-1].first, bench.supplies[-1].last
        assert bench.messages(who)[-1] == Entries(federation, log_id, first, (), b"")
        return None

    assert asked(mine, 0, 10**6) == (0, size)
    assert asked(theirs, 1, 3) == (1, 3)
    assert asked(mine, size, size + 1) is None
    assert asked(theirs, 4, 9) is None
    assert asked(theirs, 0, 4, other) is None, "another's log"
    given = 0
    while asked(mine, 0, 1) is not None:
        given += 1
    rate = bench.settings.repair_bytes_per_s * bench.settings.window_s
    assert rate / 49_152 - 2 <= given <= rate / 49_152 + 2
    assert asked(mine, 0, 1, other) == (0, 1), "each has a share of its own"
    bench.now += 2 * bench.settings.window_s
    assert asked(mine, 0, 1) == (0, 1)


def test_new_entries_follow_every_own_update() -> None:
    bench = Bench(3)
    bench.greet()
    bench.turn()
    for author in bench.authors:
        told = [m for m in bench.messages(author) if isinstance(m, Entries)]
        rows = [entry for each in told for entry in each.entries]
        assert [each.header for each in rows] == [each.header for each in bench.disk.entries]
        assert told[0].first == 0
        assert not any(each.private for each in rows), "what is private stays here"
    assert not any(isinstance(effect, Mirror) for effect in bench.tick())
