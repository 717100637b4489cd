"""tools/recompute_epsilon.py against the program's own numbers, on ledgers with defects and without."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from cli_helpers import make_home
from founders import charter, private
from test_cli_ledger import Scribe

from quidnunc.gossip.budget import Budget
from quidnunc.gossip.federation.charter import PrivacySpec
from quidnunc.gossip.learning.sampled import costs
from quidnunc.gossip.provenance import NoiseSource, PrivacySpend, payload_of
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

TOOL = Path(__file__).resolve().parent.parent / "tools" / "recompute_epsilon.py"
SAMPLED = PrivacySpec("dp-sgd-poisson", 8_000_000, 5, 1_000_000, 2_000_000, 50, 50_000, 4)


def spends(privacy: PrivacySpec, source: NoiseSource = NoiseSource.CHACHA20_OS_KEY) -> list[PrivacySpend]:
    """Three releases as a peer would count them."""
    table = costs((), privacy.release, 3, 5)[0] if privacy.sampled else ()
    budget = Budget(charter(privacy=privacy), 8_000_000, source, b"d" * 32, table=table)
    return [budget.spend(number) for number in (1, 2, 3)]


def recomputed(path: Path, records: list[PrivacySpend]) -> tuple[int, str]:
    make_home(path, "A")
    home = Home.at(path)
    Scribe(home).write(*records)
    done = subprocess.run(
        [sys.executable, "-I", str(TOOL), str(home.ledger)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("privacy", [private(), SAMPLED], ids=["full", "sampled"])
def test_it_finds_what_the_peer_has_counted(tmp_path: Path, privacy: PrivacySpec) -> None:
    records = spends(privacy)
    code, text = recomputed(tmp_path / "a", records)
    assert code == 0, text
    match = re.search(r"3 releases, epsilon ([\d.]+) claimed, ([\d.]+) recomputed, delta 1e-5: ok", text)
    assert match, text
    assert float(match[1]) == pytest.approx(records[-1].cumulative_u / 1e6, abs=1e-4)
    assert float(match[2]) == pytest.approx(float(match[1]), abs=2e-3)


def test_what_is_no_ledger_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0\n" * 40)
    for name in ("passwd", "none", "."):
        done = subprocess.run(
            [sys.executable, "-I", str(TOOL), str(tmp_path / name)], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (65, "", 1)
        assert done.stderr.startswith(f"error: {tmp_path / name}: no ledger that can be read: ")


def test_noise_at_half_scale_under_the_claim_of_the_whole_is_caught(tmp_path: Path) -> None:
    halved = [replace(each, noise_u=each.noise_u // 2) for each in spends(private())]
    code, text = recomputed(tmp_path / "a", halved)
    assert code == 30, text
    assert "UNDERSTATED" in text


def edited(tmp_path: Path, change: str, *values: object) -> tuple[int, str, str]:
    """What the tool says of a ledger of three releases after that change."""
    recomputed(tmp_path / "a", spends(private()))
    ledger = Home.at(tmp_path / "a").ledger
    with sqlite3.connect(ledger) as db:
        db.execute(change, values)
    done = subprocess.run([sys.executable, "-I", str(TOOL), str(ledger)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("DELETE FROM entry WHERE seq = 0", "release 2 stands where release 1 is due"),
        ("DELETE FROM entry WHERE seq = 1", "release 3 stands where release 2 is due"),
        ("UPDATE entry SET seq = 99 WHERE seq = 0", "release 2 stands where release 1 is due"),
    ],
    ids=["first", "second", "order"],
)
def test_missing_and_moved_releases_are_named(tmp_path: Path, change: str, why: str) -> None:
    """Found by hand: a ledger without its first release was said to be ok."""
    code, out, err = edited(tmp_path, change)
    assert why in err
    assert err.count("\n") == 1
    assert (code, "UNDERSTATED" in out) in ((32, False), (30, True))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("sg_u", 0, "sg_u is 0, must be 1 to"),
        ("sg_u", -5, "sg_u is -5, must be 1 to"),
        ("sg_u", "x", "sg_u is x, must be 1 to"),
        ("sg_u", None, "sg_u is None, must be 1 to"),
        ("de", 400, "de is 400, must be 1 to 15"),
        ("de", 0, "de is 0, must be 1 to 15"),
        ("st", 100_001, "st is 100001, must be 1 to 100000"),
        ("q_ppm", 0, "q_ppm is 0, must be 1 to 1000000"),
        ("ns", True, "ns is True, must be 1 to 2"),
    ],
)
def test_entries_that_no_daemon_writes_are_named_in_one_line(tmp_path: Path, key: str, value: object, why: str) -> None:
    """Found by hand: they ended in tracebacks, and a step count of 10^9 in no end at all."""
    payload = {**msgpack.unpackb(payload_of(spends(private())[1])), key: value}
    code, out, err = edited(tmp_path, "UPDATE entry SET payload = ? WHERE seq = 1", msgpack.packb(payload))
    assert (code, out, err.count("\n")) == (65, "", 1)
    assert f"no ledger that can be read: dp.spend 2: {why}" in err


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\xc1", b"\x81"])
def test_payloads_that_are_no_map_are_named_in_one_line(tmp_path: Path, payload: bytes) -> None:
    code, out, err = edited(tmp_path, "UPDATE entry SET payload = ? WHERE seq = 1", payload)
    assert (code, out, err.count("\n")) == (65, "", 1)


def test_a_test_seed_is_caught(tmp_path: Path) -> None:
    code, text = recomputed(tmp_path / "a", spends(private(), NoiseSource.TEST_SEED))
    assert code == 30, text
    assert "VOID: noise from a test seed" in text


def told(*places: Path) -> tuple[int, str, str]:
    """What the tool says of these places."""
    done = subprocess.run(
        [sys.executable, "-I", str(TOOL), *map(str, places)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_a_copy_without_its_wal_is_not_taken_for_a_peer_that_spent_nothing(tmp_path: Path) -> None:
    """Regression: the copied file of a running daemon has no entries yet, and was reported as epsilon 0, exit 0."""
    make_home(tmp_path / "a", "A")
    home = Home.at(tmp_path / "a")
    scribe = Scribe(home)
    with Store.open(home.ledger, readonly=True):  # keeps the writer from folding its log into the file
        scribe.write(*spends(private()))
        (tmp_path / "copy.db").write_bytes(home.ledger.read_bytes())
    code, out, err = told(tmp_path / "copy.db")
    assert (code, out) == (32, ""), err
    assert "a copy without its ledger.db-wal: export a bundle" in err


def test_homes_and_bundles_are_read_and_one_bad_place_hides_no_other(tmp_path: Path) -> None:
    """Regression: an exported bundle was a disk I/O error, and an unreadable file ended the run before the others."""
    halved = [replace(each, noise_u=each.noise_u // 2) for each in spends(private())]
    recomputed(tmp_path / "a", spends(private()))
    recomputed(tmp_path / "b", halved)
    assert told(tmp_path / "a")[0] == 0
    code, out, err = told(tmp_path / "none", tmp_path / "a")
    assert (code, out.count(": ok"), err.count("\n")) == (65, 1, 1)
    code, out, _ = told(tmp_path / "b", tmp_path / "none", tmp_path / "a")
    assert (code, out.count("UNDERSTATED"), out.count(": ok")) == (30, 1, 1)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Regression: opening a FIFO hung until somebody wrote into it."""
    os.mkfifo(tmp_path / "fifo")
    code, out, err = told(tmp_path / "fifo")
    assert (code, out) == (65, "")
    assert "is no regular file" in err


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x81\xc1", "dp.spend 2 is no msgpack: FormatError"),
        (bytes(65_536), "dp.spend 2 has 65536 bytes, limit is 65535"),
        (msgpack.packb({**msgpack.unpackb(payload_of(spends(private())[1])), "si": [1]}), "dp.spend 2: si is [1]"),
    ],
    ids=["garbage", "large", "unit"],
)
def test_a_spend_that_no_daemon_writes_is_named_with_the_reason(tmp_path: Path, payload: bytes, why: str) -> None:
    """Regression: garbage was an error without words, any size was read, and a list stood for unit site."""
    code, out, err = edited(tmp_path, "UPDATE entry SET payload = ? WHERE seq = 1", payload)
    assert (code, out) == (65, "")
    assert why in err


def test_without_msgpack_it_says_what_to_install() -> None:
    """Regression: a traceback."""
    code = f"import sys; sys.modules['msgpack'] = None; exec(compile(open({str(TOOL)!r}).read(), 'tool', 'exec'))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: this needs the package msgpack: python -m pip install msgpack\n"
