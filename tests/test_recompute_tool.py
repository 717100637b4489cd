"""tools/recompute_epsilon.py against the program's own numbers, on ledgers with defects and without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import make_home
from founders import charter, private
from test_cli_ledger import Scribe

from quidnunc.gossip.budget import Budget
from quidnunc.gossip.federation.charter import PrivacySpec
from quidnunc.gossip.learning.sampled import costs
from quidnunc.gossip.provenance import NoiseSource, PrivacySpend
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


def test_a_test_seed_is_caught(tmp_path: Path) -> None:
    code, text = recomputed(tmp_path / "a", spends(private(), NoiseSource.TEST_SEED))
    assert code == 30, text
    assert "VOID: noise from a test seed" in text
