"""``quidnunc privacy audit``: in a process of its own, on this home's terms, with exit codes that scripts can use."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from founders import charter
from test_cli_budget import FULL, home_with
from test_cli_ledger import spend

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.charter import PrivacySpec, RoundSpec
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.jobs import Unit
from quidnunc.peer import privacy_audit
from quidnunc.peer.commands.promise import check_promise
from quidnunc.peer.pipe import Setup
from quidnunc.peer.privacy_audit import AuditFailed, Request, audited

SMALL = ("--rounds", "2", "--canaries", "16", "--shadows", "0")
REQUEST = Request(Setup(task="digits", blobs="", peers=16), 1, 5, 8, 0, 0)


@cache
def report() -> dict[str, Any]:
    """That of a small audit."""
    return audited(
        replace(REQUEST, noise_u=8_000_000, clip_u=1_000_000, rate_ppm=1_000_000, steps=1), lambda what: None
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the command asks for; it is answered with :func:`report`, whatever it is."""
    found: list[Request] = []

    def run(request: Request, say: object) -> dict[str, Any]:
        found.append(request)
        return report()

    monkeypatch.setattr(privacy_audit, "run", run)
    return found


def test_this_home_is_audited_on_its_charters_terms_and_nothing_of_it_changes(tmp_path: Path) -> None:
    home = home_with(tmp_path / "a", FULL, spend(1))
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    result = quidnunc("--home", home, "--json", "privacy", "audit", *SMALL)
    assert result.code in (0, 32), result.err
    data = result.envelope["data"]
    assert (data["task"], data["rounds"], data["canaries"]["count"]) == ("digits", 2, 16)
    assert data["claim"]["noise_multiplier"] == FULL.noise_u / 1e6
    assert 0 < data["claim"]["epsilon"] < 8
    assert "training with 16 canaries" in result.err
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_charter_fixes_what_is_audited(tmp_path: Path, asked: list[Request]) -> None:
    sampled = PrivacySpec("dp-sgd-poisson", 8_000_000, 6, 500_000, 2_000_000, 10, 50_000, 4)
    home = home_with(tmp_path / "a", sampled)
    quidnunc("--home", home, "privacy", "audit")
    quidnunc("--home", home, "privacy", "audit", "--rounds", "70")
    (home / "charter.note").write_bytes(
        draft_note(charter(3, privacy=PrivacySpec("none"), rounds=RoundSpec(80, 0, 2, "all")))
    )
    quidnunc("--home", home, "privacy", "audit")
    short, longer, plain = asked
    assert (short.rounds, short.delta_exp, short.steps, short.rate_ppm) == (10, 6, 4, 50_000)
    assert (short.setup.task, dict(short.setup.options)["width"], short.setup.private) == ("digits", 8, True)
    assert longer.rounds == 70
    assert (plain.rounds, plain.privacy(), plain.epsilon()) == (50, None, float("inf"))


def test_a_charter_for_whole_sites_is_audited_site_by_site(tmp_path: Path, asked: list[Request]) -> None:
    home = home_with(tmp_path / "a", replace(FULL, mechanism="gaussian-delta", unit=Unit.SITE))
    quidnunc("--home", home, "privacy", "audit")
    quidnunc("--home", tmp_path / "none", "privacy", "audit", "--task", "digits", "--privacy-unit", "site")
    for each in asked:
        step = each.privacy()
        assert step is not None
        assert (step.unit, each.setup.private) == (Unit.SITE, False)
    assert asked[0].noise_u == FULL.noise_u
    for words in (["--epsilon=inf"], ["--sampling-rate=.5"]):
        refused = ["privacy", "audit", "--task", "digits", "--privacy-unit", "site", *words]
        assert quidnunc("--home", tmp_path / "none", *refused).code == 2
    assert quidnunc("--home", home, "privacy", "audit", "--privacy-unit", "site").code == 2
    assert len(asked) == 2


def test_personal_tensors_are_audited_as_if_they_were_sent(tmp_path: Path, asked: list[Request]) -> None:
    home = home_with(tmp_path / "a", FULL)
    told = charter(3, privacy=FULL, rounds=RoundSpec(FULL.releases, 0, 2, "all"))
    (home / "charter.note").write_bytes(draft_note(replace(told, task=replace(told.task, personal=("0.bias",)))))
    quidnunc("--home", home, "privacy", "audit")
    assert asked[0].setup.personal == ()


def test_steps_that_nobody_could_account_for_are_refused_at_once(tmp_path: Path, asked: list[Request]) -> None:
    words = ["--task", "digits", "--sampling-rate=0.5", "--local-steps=1000", "--rounds=501"]
    refused = quidnunc("--home", tmp_path / "none", "privacy", "audit", *words)
    assert "501000 steps to account for, limit is 500000" in refused.err
    assert asked == []
    drawn = PrivacySpec("dp-sgd-poisson", 8_000_000, 6, 500_000, 2_000_000, 500, 50_000, 1001)
    with pytest.raises(ConfigError, match="500500 steps to account for"):
        check_promise(drawn)


def test_a_built_in_task_needs_no_home(tmp_path: Path, asked: list[Request]) -> None:
    for words in ([], ["--epsilon=8", "--sampling-rate=0.5", "--local-steps=2", "--rounds=1"], ["--epsilon", "inf"]):
        quidnunc("--home", tmp_path / "none", "privacy", "audit", "--task", "breast-cancer", *words)
    full, sampled, plain = asked
    assert full.epsilon() == pytest.approx(8, abs=1e-3)
    assert (full.rounds, full.setup.peers, full.privacy().clip) == (50, 4, 1.0)  # type: ignore[union-attr]
    assert sampled.epsilon() == pytest.approx(8, abs=1e-2)
    assert (sampled.rate_ppm, sampled.steps, sampled.rounds) == (500_000, 2, 1)
    assert plain.privacy() is None


@pytest.mark.parametrize(
    ("verdict", "code", "word"), [("contradicted", 20, "CONTRADICTED"), ("blind", 32, "CANNOT SEE")]
)
def test_the_exit_code_is_the_verdict(verdict: str, code: int, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report() | {"verdict": verdict, "canaries": report()["canaries"] | {"verdict": verdict}}
    monkeypatch.setattr(privacy_audit, "run", lambda request, say: found)
    result = quidnunc("privacy", "audit", "--task", "digits")
    assert (result.code, word in result.out) == (code, True)
    assert "what it does not show:" in result.out
    assert "no budget was spent" in result.out
    assert quidnunc("--json", "privacy", "audit", "--task", "digits").envelope["data"]["verdict"] == verdict


@pytest.mark.parametrize(
    "words",
    [
        ["--task=digits", "--canaries=7"],
        ["--task=digits", "--canaries=5001"],
        ["--task=digits", "--shadows=3"],
        ["--task=digits", "--shadows=2"],
        ["--task=digits", "--rounds=0"],
        ["--task=digits", "--rounds=1001"],
        ["--task=digits", "--local-steps=2"],
        ["--task=digits", "--sampling-rate=1"],
        ["--task=digits", "--epsilon=inf", "--sampling-rate=0.5"],
        ["--task=nope"],
        ["--epsilon=2"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_is_refused(words: list[str], asked: list[Request]) -> None:
    result = quidnunc("--json", "privacy", "audit", *words)
    assert (result.code, result.envelope["error"]["id"], asked) == (2, "usage_error", [])


def test_without_a_home_or_a_task_the_home_is_asked_for(tmp_path: Path) -> None:
    result = quidnunc("--home", tmp_path / "none", "privacy", "audit")
    assert (result.code, "no peer lives here" in result.err) == (64, True)


def test_a_task_that_cannot_be_loaded_and_a_process_that_dies_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fatal_task.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no module 'no_such'"):
        audited(replace(REQUEST, setup=replace(REQUEST.setup, task="no_such:task")), lambda what: None)
    with pytest.raises(AuditFailed, match="ended with 9"):
        privacy_audit.run(replace(REQUEST, setup=replace(REQUEST.setup, task="fatal_task:task")), lambda what: None)
