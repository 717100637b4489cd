"""``state/journal`` and ``quidnunc replay``: bounded, private, never in the way; clear words for every bad file."""

from __future__ import annotations

import errno
import logging
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from cli_helpers import make_home, quidnunc
from journals import journal_of, kept_world, read
from node_helpers import start_all
from test_journal import EMPTY, step

from quidnunc.gossip.events import TimerFired
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.journal import frames
from quidnunc.gossip.journal.frames import FIRST_SEAL, MAGIC, OVERHEAD_BYTES, seal
from quidnunc.gossip.journal.records import End, Entered, Life, Step, write_record
from quidnunc.peer import journal
from quidnunc.peer.config import Config, parse, render
from quidnunc.peer.home import Home
from quidnunc.peer.journal import FULL, STOPPED, JournalFile

ROOM = 10_000


def told(path: Path, *records: Entered, max_bytes: int = ROOM) -> bytes:
    """What lies at ``path`` after a process has written these records there."""
    file = JournalFile.at(path, max_bytes)
    for record in records:
        file.write(record)
    file.close()
    return path.read_bytes()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_several_processes_write_one_journal_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    told(path, step(now=1.0))
    assert mode(path) == 0o600
    path.chmod(0o644)
    assert told(path, step(now=2.0)) == journal_of([step(now=1.0), step(now=2.0)])
    assert mode(path) == 0o600


@pytest.mark.parametrize("torn", [1, 9, 30])
def test_what_a_killed_daemon_began_to_write_gives_way(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "journal"
    whole = told(path, step(now=1.0), step(now=2.0))
    path.write_bytes(whole[:-torn])
    assert told(path, step(now=3.0)) == journal_of([step(now=1.0), step(now=3.0)])
    path.write_bytes(MAGIC[:5])
    assert told(path, step(now=4.0)) == journal_of([step(now=4.0)])
    assert not (tmp_path / "journal.old").exists()


def test_nothing_is_written_where_none_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    file = JournalFile.at(path, 0)
    file.write(step())
    assert not file.open
    assert not path.exists()
    assert Config().debug.journal_mib == 0
    assert "no training data, no keys" in render(Config())
    assert parse("version = 1\n[debug]\njournal_mib = 16384\n").debug.journal_mib == 16384


def test_it_is_filled_up_to_its_bound_then_ends_and_the_next_start_begins_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    caplog.set_level(logging.WARNING, "quidnunc.peer")
    size = len(write_record(step())) + OVERHEAD_BYTES
    bound = len(MAGIC) + 3 * size + journal._END_BYTES
    assert told(path, step(), step(), step(), max_bytes=bound) == journal_of([step()] * 3)
    assert caplog.records == []
    path.unlink()
    found = told(path, *[step()] * 5, max_bytes=bound - 1)
    assert found == journal_of([step(), step(), End(FULL)])
    assert len(found) <= bound
    assert f"limit is {bound - 1} (debug.journal_mib)" in caplog.text
    assert told(path, step(now=7.0)) == journal_of([step(now=7.0)])
    assert (tmp_path / "journal.old").read_bytes() == found
    assert mode(tmp_path / "journal.old") == 0o600


def test_a_damaged_one_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for damaged in (b"something else", told(path, step(), step())[:-1] + b"?", b"quidnunc/v2/journal\n"):
        path.write_bytes(damaged)
        assert told(path, step(now=2.0)) == journal_of([step(now=2.0)])
        assert (tmp_path / "journal.old").read_bytes() == damaged


def test_a_disk_that_takes_no_more_ends_the_journal_and_not_the_peer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    file = JournalFile.at(path, ROOM)
    file.write(step(now=1.0))

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", half)
        file.write(step(now=2.0))
    file.write(step(now=3.0))
    assert not file.open
    assert "no space left on device" in caplog.text
    assert told(path, step(now=4.0)) == journal_of([step(now=1.0), step(now=4.0)])


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "missing"])
def test_where_none_can_be_kept_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    path = tmp_path / "journal"
    if kind == "link":
        (tmp_path / "precious").write_bytes(b"precious")
        path.symlink_to(tmp_path / "precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = tmp_path / "nowhere" / "journal"
    file = JournalFile.at(path, ROOM)
    file.write(step())
    assert not file.open
    assert "none is kept" in caplog.text
    assert kind != "link" or (tmp_path / "precious").read_bytes() == b"precious"


def test_a_record_that_cannot_be_encoded_or_read_back_ends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    assert told(path, step(TimerFired("\n")), step()) == journal_of([End(STOPPED)])
    assert "cannot be encoded" in caplog.text
    monkeypatch.setattr(journal, "RECORD_BYTES_MAX", len(write_record(step())))
    fits, longer = step(), step(signatures=(b"s",))
    assert told(path, fits, longer) == journal_of([fits, End(FULL)])


@pytest.fixture(scope="module")
def lived() -> tuple[bytes, dict[int, bytes]]:
    """The journal of a peer of two, and the leaf hashes of its ledger."""
    world, papers = kept_world(2, rounds=RoundSpec(1000, 0, 0, "majority"))
    start_all(world)
    world.run(5)
    return bytes(papers[0].data), dict(enumerate(entry.leaf for entry in world.peers[0].disk.entries))


def test_replay_says_what_came_of_it(tmp_path: Path, lived: tuple[bytes, dict[int, bytes]]) -> None:
    data, leaves = lived
    path = tmp_path / "journal"
    path.write_bytes(data)
    found = quidnunc("--json", "replay", path).data
    assert (found["head"], found["size"], found["entries"]) == (leaves[len(leaves) - 1].hex(), len(leaves), len(leaves))
    assert (found["divergence"], found["compared"], found["torn"], found["lives"]) == (None, None, False, 1)
    shown = quidnunc("replay", path)
    assert shown.code == 0
    assert f"{found['events']} events in 1 life, {len(leaves)} entries made again, each the same" in shown.out
    assert f"head {found['head']} of {len(leaves)} entries" in shown.out
    told = quidnunc("-v", "replay", path, "--until", "3")
    assert told.code == 0
    assert [line.split()[0] for line in told.err.splitlines()] == ["1", "2", "3"]
    assert "3 events in 1 life" in told.out


def test_replay_ends_with_20_and_the_first_difference(tmp_path: Path, lived: tuple[bytes, dict[int, bytes]]) -> None:
    records = list(read(lived[0]))
    place, late = next((i, r) for i, r in enumerate(records) if isinstance(r, Step) and r.entropy and i > 20)
    assert isinstance(late, Step)
    records[place] = replace(late, entropy=(bytes(16), *late.entropy[1:]))
    path = tmp_path / "journal"
    path.write_bytes(journal_of(records))
    ended = quidnunc("--json", "replay", path)
    divergence = ended.envelope["data"]["divergence"]
    assert ended.code == 20
    assert divergence["event"] == sum(isinstance(each, Step) for each in records[: place + 1])
    assert divergence["what"].endswith("is another one")
    shown = quidnunc("replay", path)
    assert shown.code == 20
    assert f"error: event {divergence['event']}, {divergence['kind']}: {divergence['what']}" in shown.err
    assert quidnunc("replay", path, "--until", str(divergence["event"] - 1)).code == 0


def test_a_difference_in_a_journal_of_another_version_says_so(
    tmp_path: Path, lived: tuple[bytes, dict[int, bytes]]
) -> None:
    life, *rest = read(lived[0])
    assert isinstance(life, Life)
    other = replace(life, software=replace(life.software, version="0.0.7"))
    path = tmp_path / "journal"
    path.write_bytes(journal_of([other, *rest]))
    ended = quidnunc("replay", path)
    assert ended.code == 20, "the version stands in the ledger"
    assert "hint: the journal is of version 0.0.7, this is" in ended.err


def test_bad_files_end_with_their_own_code_and_a_word_on_what_is_wrong(
    tmp_path: Path, lived: tuple[bytes, dict[int, bytes]]
) -> None:
    path = tmp_path / "journal"

    def ends(data: bytes, code: int, *words: str) -> None:
        path.write_bytes(data)
        ended = quidnunc("replay", path)
        assert (ended.code, ended.out) == (code, "")
        assert all(word in ended.err for word in words), ended.err

    ends(b"not a journal", 65, "error: journal: does not begin as a journal does")
    ends(b"quidnunc/v2/journal\n", 78, "later version")
    damaged = bytearray(lived[0])
    damaged[len(damaged) // 2] ^= 1
    ends(bytes(damaged), 65, "error: journal record ", "at byte ", "hint: --until N")
    whole, _ = seal(FIRST_SEAL, b"\x93\x01\x02\x03")
    ends(MAGIC + whole, 65, "journal record 1: ")
    whole, _ = seal(FIRST_SEAL, write_record(Step(**EMPTY | {"now": -1.0, "event": TimerFired("round")})))
    ends(MAGIC + whole, 65, "journal record 1: an event at -1.0 s")
    path.unlink()
    assert quidnunc("replay", path).code == 64
    assert quidnunc("replay", tmp_path).code == 64
    assert "not a regular file" in quidnunc("replay", tmp_path).err
    for number in ("-1", "x", "1e3", "9" * 19):
        assert quidnunc("replay", path, f"--until={number}").code == 2
    path.write_bytes(lived[0][:-3])
    assert "ends within a record" in quidnunc("replay", path).out
    path.write_bytes(b"")
    assert quidnunc("replay", path).code == 0


def test_a_home_without_a_ledger_or_of_another_log_is_an_error(
    tmp_path: Path, lived: tuple[bytes, dict[int, bytes]]
) -> None:
    path = tmp_path / "journal"
    path.write_bytes(lived[0])
    assert quidnunc("--home", tmp_path / "none", "replay", path).code == 64
    make_home(tmp_path / "a", "A")
    ended = quidnunc("--home", tmp_path / "a", "replay", path)
    assert ended.code == 64
    assert "the journal of" in ended.err


def test_no_backup_holds_it(tmp_path: Path) -> None:
    make_home(tmp_path / "a", "A")
    home = Home.at(tmp_path / "a")
    home.create()
    home.journal.write_bytes(b"what neighbors sent")
    assert quidnunc("--home", home.root, "backup", tmp_path / "file").code == 0
    with tarfile.open(tmp_path / "file") as archive:
        names = archive.getnames()
    assert names
    assert not any("journal" in name for name in names)


def test_it_is_told_what_it_discloses_before_it_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    said = quidnunc("replay", "--help").out
    text = " ".join(said.split())
    assert "no training data, no model and no keys" in text
    assert "what neighbors sent" in text


def test_the_limit_of_a_record_holds_a_million_entries() -> None:
    assert frames.RECORD_BYTES_MAX > 1_000_000 * 32
