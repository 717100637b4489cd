"""Three commands to a running peer: the drafter's draft is signed, the last signature installs, run takes the file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cli_helpers import Result, make_home, quidnunc
from terminal import COMMAND, Terminal

from quidnunc.gossip.federation.founding import draft_note, open_charter
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import default_home

CREATE = ("federation", "create", "--option", "model=softmax", "--rounds", "10")


@dataclass(frozen=True)
class Pair:
    """Two homes, and the charter as the first of them made it."""

    root: Path
    created: Result

    @property
    def file(self) -> Path:
        return self.root / "charter.note"

    def run(self, name: str, *words: str | Path) -> Result:
        return quidnunc("--home", self.root / name, "--no-input", "--yes", *words)

    def home(self, name: str) -> Home:
        return Home.at(self.root / name)


def cards(root: Path, names: str = "ab") -> list[Path]:
    return [root / name / "card.note" for name in names]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("pair")
    for name in "ab":
        make_home(root / name, f"Hospital {name.upper()}")
    created = quidnunc("--home", root / "a", *CREATE, *cards(root), "--out", root / "charter.note", "--yes")
    return Pair(root, created)


@pytest.fixture
def pair(made: Pair, tmp_path: Path) -> Pair:
    """A copy that a test may spoil."""
    shutil.copytree(made.root, tmp_path / "p")
    return Pair(tmp_path / "p", made.created)


def signers(file: Path) -> list[str]:
    opened = open_charter(file.read_bytes())
    return sorted(member.name for member in opened.charter.members if member.log_id in opened.signed)


def test_a_member_that_drafts_has_signed(pair: Pair) -> None:
    assert pair.created.code == 0, pair.created.err
    assert signers(pair.file) == ["Hospital A"]
    assert "signed by 1 of 2 members, missing: Hospital B" in pair.created.out
    assert "next: hand " in pair.created.out
    assert "on the machine of Hospital B:\n  quidnunc federation sign charter.note\n" in pair.created.out
    assert not pair.home("a").charter.exists()


def test_the_last_signature_installs_and_run_takes_the_file_elsewhere(pair: Pair) -> None:
    signed = pair.run("b", "federation", "sign", "--yes", pair.file)
    assert signed.code == 0, signed.err
    home = pair.home("b")
    assert home.charter.read_bytes() == pair.file.read_bytes()
    for expected in (
        "signed by all 2 members",
        f"installed {home.charter}",
        f"next, on this machine:\n  quidnunc --home {home.root} run\n",
        "on each of their machines:\n  quidnunc run --charter charter.note\n",
    ):
        assert expected in signed.out
    assert pair.run("b", "run", "--check").code == 0

    ready = pair.run("a", "run", "--check", "--charter", pair.file)
    assert (ready.code, "is ready to run" in ready.out) == (0, True)
    assert not pair.home("a").charter.exists(), "a check installs nothing"
    assert pair.run("a", "run", "--check").code == 64


def test_run_refuses_a_charter_that_is_not_for_it(pair: Pair) -> None:
    unsigned = pair.run("a", "run", "--charter", pair.file)
    assert (unsigned.code, "missing: Hospital B" in unsigned.err) == (41, True)
    assert pair.run("a", "run", "--check", "--charter", pair.file).code == 41
    nowhere = pair.run("a", "run", "--charter", pair.root / "none")
    assert (nowhere.code, "cannot be read" in nowhere.err) == (64, True)
    assert not pair.home("a").charter.exists()
    assert pair.run("b", "federation", "sign", "--yes", pair.file).code == 0
    make_home(pair.root / "c", "Hospital C")
    stranger = pair.run("c", "run", "--charter", pair.file)
    assert (stranger.code, "is not a member" in stranger.err) == (64, True)
    assert pair.run("c", "run", "--check", "--charter", pair.file).code == 64
    assert not pair.home("c").charter.exists()


def other_federation(pair: Pair) -> Path:
    """A second charter of the same two, signed by A."""
    found = open_charter(pair.file.read_bytes()).charter
    path = pair.root / "other.note"
    path.write_bytes(draft_note(replace(found, purpose="something else")))
    assert pair.run("a", "federation", "sign", "--yes", path).code == 0
    return path


def test_a_home_of_another_federation_signs_and_keeps_its_charter(pair: Pair) -> None:
    other = other_federation(pair)
    assert pair.run("b", "federation", "sign", "--yes", pair.file).code == 0
    before = pair.home("b").charter.read_bytes()
    refused = pair.run("b", "federation", "sign", "--yes", other, "--install")
    assert (refused.code, "belongs to federation" in refused.err) == (64, True)
    assert signers(other) == ["Hospital A"]
    signed = pair.run("b", "federation", "sign", "--yes", other, "--json")
    assert not signed.data["installed"]
    assert signed.envelope["warnings"][0].startswith("signed, but not installed: ")
    assert signers(other) == ["Hospital A", "Hospital B"]
    for words in (["run", "--charter", other], ["run", "--check", "--charter", other]):
        result = pair.run("b", *words)
        assert (result.code, "belongs to federation" in result.err) == (64, True)
    assert pair.home("b").charter.read_bytes() == before


def test_who_drafts_for_others_signs_nothing(made: Pair, tmp_path: Path) -> None:
    make_home(tmp_path / "c", "Hospital C")
    for number, words in enumerate(
        (
            [tmp_path / "nobody"],
            [tmp_path / "c"],
            [made.root / "a", "--no-sign"],
        )
    ):
        out = tmp_path / f"charter{number}.note"
        result = quidnunc("--no-input", "--home", words[0], *CREATE, *cards(made.root), "--out", out, *words[1:])
        assert result.code == 0, result.err
        assert signers(out) == []
        assert "signed by nobody yet" in result.out


def test_a_root_key_that_is_elsewhere_leaves_a_draft_and_says_how_to_sign(pair: Pair, tmp_path: Path) -> None:
    pair.home("a").root_key.rename(tmp_path / "root.key")
    pair.file.unlink()
    result = pair.run("a", *CREATE, *cards(pair.root), "--out", pair.file)
    assert result.code == 0, result.err
    assert "is not here: sign with federation sign" in result.err
    assert signers(pair.file) == []


def test_a_locked_or_foreign_root_key_is_found_out_before_the_task_is_built(pair: Pair, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.touch(0o600)
    phrase.write_text("correct horse")
    assert pair.run("a", "key", "lock", "root", "--passphrase-file", phrase).code == 0
    out = tmp_path / "charter.note"
    result = pair.run("a", *CREATE, *cards(pair.root), "--out", out)
    assert (result.code, "no passphrase was given" in result.err) == (77, True)
    assert "building task" not in result.err
    shutil.copy(pair.home("b").root_key, pair.home("a").root_key)
    result = pair.run("a", *CREATE, *cards(pair.root), "--out", out)
    assert (result.code, "holds root key" in result.err) == (77, True)
    assert not out.exists()


def test_create_replaces_no_charter_no_draft_and_no_key(pair: Pair) -> None:
    home = pair.home("a")
    link = pair.root / "dangling.note"
    link.symlink_to(pair.root / "nothing")
    before = {path: path.read_bytes() for path in (pair.file, home.root_key, home.card)}
    for path in (*before, link, pair.root):
        result = pair.run("a", *CREATE, *cards(pair.root), "--out", path)
        assert (result.code, f"{path}: is there already" in result.err) == (64, True)
        assert "name another path, or remove that one" in result.err
        assert "building task" not in result.err
    assert {path: path.read_bytes() for path in before} == before
    assert not (pair.root / "nothing").exists()


def test_sign_replaces_the_file_that_it_signs_and_no_other(pair: Pair) -> None:
    home = pair.home("b")
    before = home.root_key.read_bytes()
    refused = pair.run("b", "federation", "sign", "--yes", pair.file, "--out", home.root_key)
    assert (refused.code, "is there already" in refused.err) == (64, True)
    assert (home.root_key.read_bytes(), signers(pair.file)) == (before, ["Hospital A"])
    same = pair.root / "b" / ".." / "charter.note"
    assert pair.run("b", "federation", "sign", "--yes", pair.file, "--out", same).code == 0
    assert signers(pair.file) == ["Hospital A", "Hospital B"]


def test_a_stale_card_of_our_own_is_refused_before_the_task_is_built(pair: Pair, tmp_path: Path) -> None:
    from quidnunc.crypto.identity import SecretKey
    from quidnunc.gossip.federation.card import make_card, open_card
    from quidnunc.peer import keys

    home = pair.home("a")
    root = SecretKey(keys.load(home.root_key, "root"))
    stale = tmp_path / "stale.note"
    stale.write_bytes(make_card(replace(open_card(home.card.read_bytes()), size_bucket=9), root))
    result = pair.run("a", *CREATE, stale, pair.root / "b" / "card.note", "--out", tmp_path / "charter.note")
    assert (result.code, "lists other keys, addresses or sizes" in result.err) == (64, True)
    assert "building task" not in result.err


def test_no_root_key_signs_unasked(pair: Pair) -> None:
    """In-process there is no terminal, as under cron: nobody can answer."""
    before = pair.file.read_bytes()
    for more in ([], ["--no-input"], ["--json"]):
        refused = quidnunc("--home", pair.root / "b", "federation", "sign", pair.file, *more)
        assert (refused.code, "nobody can answer" in refused.err, "add --yes" in refused.err) == (2, True, True)
    assert pair.file.read_bytes() == before
    assert not pair.home("b").charter.exists()
    new = pair.root / "new.note"
    refused = quidnunc("--home", pair.root / "a", *CREATE, *cards(pair.root), "--out", new)
    assert (refused.code, "add --yes, or --no-sign to draft only" in refused.err) == (2, True)
    assert not new.exists()


def test_a_person_who_drafts_is_asked_and_may_decline(pair: Pair) -> None:
    pair.file.unlink()
    command = [*COMMAND, "--home", str(pair.root / "a"), *CREATE, *map(str, cards(pair.root)), "--out", str(pair.file)]
    with Terminal(command) as terminal:
        assert terminal.ends({"[y/N]": "n"}) == 0
        assert "epsilon 8 at delta 1e-05" in terminal.shown
        assert "signed by nobody yet" in terminal.shown
    assert signers(pair.file) == []


def test_hints_leave_the_usual_home_out(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIDNUNC_HOME", str(pair.root / "b"))
    assert default_home() == str(pair.root / "b")
    signed = quidnunc("federation", "sign", "--yes", pair.file, "--no-input")
    assert "next, on this machine:\n  quidnunc run\n" in signed.out


def test_a_card_named_twice_is_named(pair: Pair) -> None:
    first, second = cards(pair.root)
    copy = pair.root / "copy.note"
    shutil.copy(first, copy)
    for named, other in (((first, second, copy), first), ((first, first), first)):
        found = pair.run("a", *CREATE, *named, "--out", pair.root / "new.note")
        assert found.code == 2
        assert f"{named[-1]}: the card of Hospital A is named already, as {other}" in found.err
        assert not (pair.root / "new.note").exists()
