"""tools/recompute_epsilon.py against the program's own numbers, on ledgers with defects and without."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
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
    from dataclasses import replace

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
