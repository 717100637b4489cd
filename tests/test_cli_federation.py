"""From three empty directories to an installed charter, through the commands a person would type."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_helpers import Result, make_home, quidnunc
from founders import charter, founder

from quidnunc.crypto.encoding import encode
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.federation.founding import draft_note, open_charter, sign_charter
from quidnunc.gossip.learning.builtin import DEFAULTS
from quidnunc.peer import keys
from quidnunc.peer.config import load
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store


@dataclass(frozen=True)
class Founding:
    """Three homes and a draft of their charter, made by the real command."""

    root: Path
    draft: Path
    facts: dict[str, object]

    def home(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    root = tmp_path_factory.mktemp("federation")
    cards = [make_home(root / name, f"Hospital {name.upper()}", "--no-input") for name in "abc"]
    draft = root / "charter.note"
    words = ["--rounds", "40", "--interval", "0.5", "--epsilon", "4", "--seed", "7", "--option", "model=softmax"]
    result = quidnunc("--json", "federation", "create", *cards, *words, "--purpose", "sepsis", "--out", draft)
    return Founding(root, draft, result.data)


@pytest.fixture
def founding(made: Founding, tmp_path: Path) -> Founding:
    """A copy of the three homes and the draft that a test may spoil."""
    root = tmp_path / "f"
    shutil.copytree(made.root, root)
    return Founding(root, root / "charter.note", made.facts)


# init and id.


def hinted(result: Result) -> str:
    return str(result.envelope["error"]["hint"])


def test_a_lost_configuration_is_written_anew_by_the_command_that_the_hint_names(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "a b")
    make_home(home.root, "Hospital A", "--listen", "/ip4/192.0.2.7/tcp/4901")
    kept = {path: path.read_bytes() for path in (home.root_key, home.operational_key, home.card, home.ledger)}
    before = home.config.read_bytes()
    refused = quidnunc("--home", home.root, "init", "--config-only")
    assert (refused.code, "config.toml: is there already" in refused.err) == (64, True)
    home.config.unlink()
    command = f"quidnunc --home '{home.root}' init --config-only"
    assert hinted(quidnunc("--home", home.root, "--json", "run", "--check")).endswith(command)
    assert hinted(quidnunc("--home", home.root, "--json", "init", "--name", "x")).endswith(command)
    made = quidnunc("--home", home.root, "--json", "init", "--config-only")
    assert made.data["listen"] == ["/ip4/192.0.2.7/tcp/4901"]
    assert "privacy.epsilon_cap" in made.envelope["warnings"][0]
    assert home.config.read_bytes() == before
    assert home.config.stat().st_mode & 0o777 == 0o600
    assert {path: path.read_bytes() for path in kept} == kept
    for more in (["--examples", "7"], ["--root-key", home.root_key]):
        assert quidnunc("--home", home.root, "init", "--config-only", *more).code == 2
    assert quidnunc("--home", tmp_path / "none", "init", "--config-only").code == 32


def test_no_hint_about_a_lost_part_of_a_home_names_init_which_refuses(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "a")
    make_home(home.root, "Hospital A")
    home.operational_key.rename(tmp_path / "key")
    lost = quidnunc("--home", home.root, "--json", "run", "--check")
    assert (lost.code, "tar xf FILE keys/operational.key" in hinted(lost)) == (77, True)
    (tmp_path / "key").rename(home.operational_key)
    home.ledger.unlink()
    home.ledger.mkdir()
    other = quidnunc("--home", home.root, "--json", "ledger", "log")
    assert (other.code, "not a file" in other.err, "quidnunc restore" in hinted(other)) == (64, True, True)
    for result in (lost, other):
        assert "with: quidnunc init" not in hinted(result)


def test_init_makes_a_home_that_only_its_owner_can_read(tmp_path: Path) -> None:
    listen = ["--listen", "/ip4/0.0.0.0/tcp/4901", "--listen", "/ip4/192.0.2.7/tcp/4901"]
    result = quidnunc("--home", tmp_path / "a", "--json", "init", "--name", "Hospital A", *listen, "--examples", "700")
    home = Home.at(tmp_path / "a")
    member = open_card(home.card.read_bytes())
    assert result.data["log_id"] == member.log_id.hex()
    assert (member.name, member.size_bucket, member.addresses) == ("Hospital A", 9, ("/ip4/192.0.2.7/tcp/4901",))
    modes = {
        path: path.stat().st_mode & 0o777 for path in (home.keys, home.root_key, home.operational_key, home.config)
    }
    assert modes == {home.keys: 0o700, home.root_key: 0o600, home.operational_key: 0o600, home.config: 0o600}
    config = load(home.config)
    assert (config.node.name, config.network.listen) == (
        "Hospital A",
        ("/ip4/0.0.0.0/tcp/4901", "/ip4/192.0.2.7/tcp/4901"),
    )
    assert len(keys.load(home.root_key, "root")) == len(keys.load(home.operational_key, "operational")) == 32
    with Store.open(home.ledger) as store:
        assert (store.log_id, store.public, store.size) == (member.log_id, member.log, 0)


def test_init_tells_a_person_what_comes_next(tmp_path: Path) -> None:
    result = quidnunc("--home", tmp_path / "a", "init", "--name", "Hospital A")
    card = open_card((tmp_path / "a" / "card.note").read_bytes())
    for expected in (card.log_id.hex(), "PeerID       12D3KooW", "keys/root.key", "offline", "federation create"):
        assert expected in result.out
    # Regression: the default listens on a port of this machine alone, and nothing said that nobody can dial it.
    assert result.out.splitlines()[-1].startswith("warning: the card has no address that others can dial")
    told = quidnunc("--home", tmp_path / "b", "init", "--name", "Hospital B", "--listen", "/ip4/192.0.2.7/tcp/4901")
    assert "no address" not in told.out


def test_init_twice_is_two_identities_and_never_one_home(tmp_path: Path) -> None:
    first, second = (open_card(make_home(tmp_path / name, "Same Name").read_bytes()) for name in "ab")
    assert not set(first.keys) & set(second.keys)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    again = quidnunc("--home", tmp_path / "a", "init", "--name", "Another", "--json")
    assert again.code == 64
    assert "a peer lives here already" in again.envelope["error"]["message"]
    assert before == {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "no name given"),
        (["--name", ""], 2, "no name given"),
        (["--name", "a\x1b[31m"], 64, "a\\x1b[31m"),
        (["--name", "x" * 65], 64, "65 bytes"),
        (["--name", "A", "--listen", "127.0.0.1"], 64, "--listen: address"),
        (["--name", "A", "--announce", "/ip4/1.2.3.4 /tcp/1"], 64, "--announce: address"),
        (["--name", "A", "--examples", "-1"], 2, "--examples"),
    ],
)
def test_init_refuses_before_it_writes(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    result = quidnunc("--home", tmp_path / "a", "init", "--no-input", *words)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert not (tmp_path / "a").exists()


def test_init_that_cannot_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise keys.KeyFileError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "create", full)
        assert quidnunc("--home", tmp_path / "a", "init", "--name", "A").code == 77
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()] == []
    make_home(tmp_path / "a", "A")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_init_where_nobody_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert quidnunc("--home", tmp_path / "a", "init", "--name", "A").code == 73


def test_a_name_in_decomposed_unicode_is_composed(tmp_path: Path) -> None:
    assert open_card(make_home(tmp_path / "a", "Cafe\u0301").read_bytes()).name == "Caf\u00e9"


def test_id_shows_names_and_paths(made: Founding) -> None:
    card = open_card((made.home("a") / "card.note").read_bytes())
    data = quidnunc("--home", made.home("a"), "id", "--json").data
    assert data["log_id"] == card.log_id.hex()
    assert data["keys"] == dict(
        zip(("root", "log", "witness", "transport"), (key.hex() for key in card.keys), strict=True)
    )
    assert data["paths"]["root_key"] == str(made.home("a") / "keys" / "root.key")
    assert data["present"]["root_key"]
    assert not data["present"]["socket"]
    shown = quidnunc("--home", made.home("a"), "id").out
    assert all(data[key] in shown for key in ("name", "log_id", "peer_id", "fingerprint"))
    nobody = quidnunc("--home", made.root / "nobody", "id")
    assert (nobody.code, "no peer lives here" in nobody.err) == (64, True)


# create.


def test_create_drafts_what_was_asked_for(made: Founding) -> None:
    opened = open_charter(made.draft.read_bytes())
    found = opened.charter
    cards = [open_card((made.home(name) / "card.note").read_bytes()) for name in "abc"]
    assert set(found.members) == set(cards)
    assert opened.signed == frozenset()
    assert (found.purpose, found.task.reference, found.task.seed, found.task.dim) == ("sepsis", "digits", 7, 650)
    assert found.task.options == {"model": "softmax"}
    assert (found.rounds.count, found.rounds.interval_ms, found.rounds.lead) == (40, 500, 2)
    assert (found.privacy.epsilon_u, found.privacy.releases, found.privacy.delta_exp) == (4_000_000, 40, 5)
    assert (found.merge.rule, found.merge.drag_cap_u, found.codec, found.quorum) == ("repute", 1_000_000, 1, 3)
    assert found.edges == ((0, 1), (0, 2), (1, 2))
    assert made.facts["federation_id"] == found.federation_id.hex()
    assert made.facts["missing"] == [member.name for member in found.members]


def test_create_without_privacy(made: Founding, tmp_path: Path) -> None:
    words = [
        "--epsilon",
        "inf",
        "--rule",
        "mean",
        "--lr",
        "0.25",
        "--momentum",
        "0.9",
        "--local-steps",
        "3",
        "--batch",
        "16",
    ]
    more = ["--codec", "float32", "--start", "all", "--option", "model=mlp", "--task", "breast-cancer", "--quorum", "2"]
    cards = [made.home(name) / "card.note" for name in "abc"]
    result = quidnunc("federation", "create", *cards, *words, *more, "--out", tmp_path / "c.note")
    assert result.code == 0, result.err
    assert "privacy    none: what is sent may reveal training records" in result.out
    found = open_charter((tmp_path / "c.note").read_bytes()).charter
    assert not found.privacy.private
    assert (found.training.learning_rate_u, found.training.momentum_u) == (250_000, 900_000)
    assert (found.training.local_steps, found.training.batch_size) == (3, 16)
    assert (found.merge.rule, found.merge.drag_cap_u, found.rounds.lead) == ("mean", 3_000_000, 4)
    assert (found.codec, found.rounds.start, found.quorum, found.task.dim) == (0, "all", 2, 30 * 16 + 16 + 16 * 2 + 2)


def test_create_with_a_rule_of_the_catalogue(made: Founding, tmp_path: Path) -> None:
    words = ["--rule", "trimmed_mean", "--rule-option", "bad=1", "--size-cap", "2.5", "--epsilon", "inf"]
    words += ["--prox", "0.01", "--personal", "0.bias"]
    cards = [made.home(name) / "card.note" for name in "abc"]
    result = quidnunc("federation", "create", *cards, *words, "--out", tmp_path / "c.note")
    assert result.code == 0, result.err
    told = "merge      trimmed_mean, bad=1, int8 deltas, members weighed by size up to 2.5 times the median"
    assert told in result.out
    assert "momentum 0, proximal term 0.01\n" in result.out
    assert "personal   0.bias: trained by every member for itself, never sent" in result.out
    shown = quidnunc("federation", "show", tmp_path / "c.note", "--json").data
    assert (shown["training"]["prox"], shown["task"]["personal"], shown["task"]["dim"]) == (0.01, ["0.bias"], 640)
    assert shown["merge"] == {"rule": "trimmed_mean", "options": {"bad": 1.0}, "drag_cap": 1.5, "size_cap": 2.5}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--prox", "1001"], 64, "training.prox_u is 1001000000, must be 0 to 1000000000"),
        (["--prox", "-1"], 2, "--prox is -1, must be 0 to 1000000"),
        (["--personal", "bias"], 64, "the model has no trainable tensor 'bias' to keep personal"),
        (["--personal", "0"], 64, "nothing is left to share"),
        (["--personal", "a b"], 64, "task.personal holds 'a b'"),
        (["--rule", "krumm"], 2, "argument --rule: merge rule krumm is unknown; did you mean krum?"),
        (["--rule", "krum"], 64, "merge rule krum needs the option bad"),
        (["--rule", "krum", "--rule-option", "bad"], 2, "--rule-option 'bad' is not of the form key=number"),
        (["--rule", "krum", "--rule-option", "bad=nan"], 2, "--rule-option bad is nan, must be a number of at most"),
        (["--rule", "krum", *("--rule-option", "bad=1") * 2], 2, "--rule-option bad is given twice"),
        (["--rule", "krum", "--rule-option", "bad=1"], 64, "merge rule krum needs 4 neighbors with these options"),
        (["--rule", "rtc", "--rule-option", "mass=1e-7"], 2, "--rule-option mass is 1e-07, the finest is 0.000001"),
        (["--rule-option", "radios=2"], 64, "merge option radios is unknown"),
        (["--size-cap", "0.5"], 2, "--size-cap is 0.5, must be 1 to 1000"),
        (["--epsilon", "0"], 2, "argument --epsilon"),
        (["--epsilon", "nan"], 2, "argument --epsilon"),
        (["--epsilon", "1e-9"], 2, "'1e-9' is not 0.000001 to 1000, nor inf for no privacy at all"),
        (["--epsilon", "1e400"], 2, "'1e400' is not 0.000001 to 1000"),
        (["--epsilon", "1000.001"], 2, "argument --epsilon"),
        (["--epsilon", "-inf"], 2, "argument --epsilon"),
        (["--rounds", "0"], 2, "--rounds is 0, must be 1 to 1000000"),
        (["--rounds", "1000001"], 2, "--rounds is 1000001, must be 1 to 1000000"),
        (["--rounds", "9" * 60], 2, f"--rounds is {'9' * 37}..., must be 1 to 1000000"),
        (["--rounds", "9" * 60, "--epsilon", "inf"], 2, "must be 1 to 1000000"),
        (["--delta-exp", "0"], 2, "--delta-exp is 0, must be 1 to 15"),
        (["--delta-exp", "16"], 2, "--delta-exp is 16, must be 1 to 15"),
        (["--batch", "1000001"], 2, "--batch is 1000001, must be 1 to 1000000"),
        (["--site-peers", "0"], 2, "--site-peers is 0, must be 1 to 4096"),
        (["--site-peers", "4097"], 2, "--site-peers is 4097, must be 1 to 4096"),
        (["--clip", "1e400"], 2, "--clip is inf"),
        (["--clip", "0"], 2, "--clip is 0, must be 0.000001 to 1000000"),
        (["--clip", "-1"], 2, "--clip is -1, must be 0.000001 to 1000000"),
        (["--clip", "9e-7"], 2, "--clip is 9e-07, must be 0.000001 to 1000000"),
        (["--clip", "1000000.1"], 2, "--clip is 1000000.1, must be 0.000001 to 1000000"),
        (["--clip", "1", "--epsilon", "inf"], 2, "--clip without privacy: with --epsilon inf nothing is clipped"),
        (["--delta-exp", "5", "--epsilon", "inf"], 2, "--delta-exp without privacy"),
        (["--batch", "32"], 2, "--batch does not go with privacy of single records: every step takes all records"),
        (["--batch", "32", "--sampling-rate", "0.1"], 2, "takes each record with probability --sampling-rate"),
        (["--local-steps", "2"], 2, "--local-steps does not go with full batches"),
        (["--interval", "nan"], 2, "--interval is nan"),
        (["--interval", "-1"], 2, "--interval is -1"),
        (["--option", "model"], 2, "not of the form key=value"),
        (["--seed", "-1"], 2, "--seed is -1"),
        (["--lr", "-1"], 2, "--lr is -1"),
        (["--local-steps", "0"], 2, "--local-steps is 0, must be 1 to 100000"),
        (["--quorum", "1"], 64, "quorum is 1, must be 2 to 3"),
        (["--purpose", "a\nb"], 64, "purpose"),
        (["--task", "nowhere"], 64, "no built-in task 'nowhere'"),
        (["--task", "no.such.module:task"], 64, "no module"),
        (["--task", "rm -rf"], 64, "task"),
        (["--option", "model=tree"], 64, "option model is 'tree'"),
    ],
)
def test_create_refuses_and_writes_nothing(
    made: Founding, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    cards = [made.home(name) / "card.note" for name in "abc"]
    result = quidnunc("federation", "create", *cards, *words, "--out", tmp_path / "c.note")
    assert (result.code, result.out) == (code, ""), result.err
    assert message in result.err
    assert not (tmp_path / "c.note").exists()


def test_create_refuses_bad_cards(made: Founding, tmp_path: Path) -> None:
    good = made.home("a") / "card.note"
    bad = tmp_path / "bad.note"
    bad.write_bytes(good.read_bytes().replace(b"A", b"B", 1))
    for cards, code, message in (
        ([good], 2, "1 card"),
        ([good, good], 2, "is named already"),
        ([good, bad], 64, f"{bad}: card refused"),
        ([good, tmp_path], 64, f"{tmp_path}: not a regular file"),
        ([good, tmp_path / "none"], 64, f"{tmp_path / 'none'}: cannot be read: no such file"),
        ([good, made.draft], 64, f"{made.draft}: card refused"),
    ):
        result = quidnunc("federation", "create", *cards, "--out", tmp_path / "c.note")
        assert result.code == code, result.err
        assert message in result.err
    assert not (tmp_path / "c.note").exists()


def test_create_warns_when_delta_is_too_large_for_the_data(made: Founding, tmp_path: Path) -> None:
    card = make_home(tmp_path / "big", "Big", "--examples", "100000")
    result = quidnunc(
        "federation", "create", card, made.home("a") / "card.note", "--out", tmp_path / "c.note", "--json"
    )
    assert result.envelope["warnings"][0] == (
        "Big has at least 65536 records: delta 1e-05 is above a tenth of one over that; raise --delta-exp"
    )
    # Regression: homes made without --listen founded a federation that could never meet, and nothing said so.
    assert result.envelope["warnings"][1].startswith("no two neighbors can ever meet: neither card has an address")


# sign, verify, install, show: the path.


def test_the_whole_path(founding: Founding) -> None:
    file = founding.draft
    first = quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", file)
    assert first.code == 0, first.err
    assert first.out.startswith(f"signed {file} as Hospital A\nsigned by 1 of 3 members, missing: ")
    assert "epsilon 4 at delta 1e-05" in first.err

    # B signs a copy of its own; what was gathered apart is brought together.
    apart = founding.root / "b.note"
    shutil.copy(file, apart)
    assert quidnunc("--home", founding.home("b"), "federation", "sign", "--yes", apart).code == 0
    open_state = quidnunc("federation", "verify", file, "--json")
    assert open_state.code == 41
    assert set(open_state.envelope["data"]["missing"]) == {"Hospital B", "Hospital C"}
    assert "signed by 1 of 3 members, missing: Hospital" in open_state.envelope["error"]["message"]
    for name in ("Hospital B", "Hospital C"):
        assert name in open_state.envelope["error"]["message"]

    last = quidnunc(
        "--home", founding.home("c"), "federation", "sign", "--yes", file, "--merge", apart, "--install", "--json"
    )
    assert last.data["missing"] == []
    assert last.data["installed"]
    verdict = quidnunc("federation", "verify", file)
    assert verdict.code == 0
    assert [line.split()[:2] for line in verdict.out.splitlines()[1:]] == [
        ["encoding", "OK"],
        ["members", "OK"],
        ["graph", "OK"],
        ["privacy", "OK"],
        ["signatures", "OK"],
    ]

    assert quidnunc("--home", founding.home("a"), "federation", "install", file).code == 0
    assert quidnunc("--home", founding.home("b"), "federation", "verify", file, "--install").code == 0
    installed = {(founding.home(name) / "charter.note").read_bytes() for name in "abc"}
    assert installed == {file.read_bytes()}
    data = quidnunc("--home", founding.home("b"), "federation", "show", "--json").data
    assert data["complete"]
    assert data["federation_id"] == founding.facts["federation_id"]
    assert all(member["signed"] for member in data["members"])
    assert data["privacy"]["epsilon"] == 4.0
    assert data["training"]["learning_rate"] == DEFAULTS["digits"].private.learning_rate
    shown = quidnunc("--home", founding.home("b"), "federation", "show").out
    assert "signed by all 3 members" in shown
    assert "Hospital C" in shown
    # Again is no harm.
    assert quidnunc("--home", founding.home("a"), "federation", "install", file).code == 0
    before = file.read_bytes()
    assert quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", file).code == 0
    assert file.read_bytes() == before


def test_an_unsigned_charter_is_not_installed(founding: Founding) -> None:
    assert quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft).code == 0
    for words in (["install", founding.draft], ["verify", founding.draft, "--install"]):
        result = quidnunc("--home", founding.home("a"), "federation", *words)
        assert result.code == 41
        assert "Hospital B" in result.err
        assert "Hospital C" in result.err
        assert "Hospital A (" not in result.err
    signed = quidnunc(
        "--home", founding.home("b"), "federation", "sign", "--yes", founding.draft, "--install", "--json"
    )
    assert (signed.data["installed"], signed.data["missing"]) == (False, ["Hospital C"])
    for name in "ab":
        assert not (founding.home(name) / "charter.note").exists()


def test_sign_refuses_a_charter_without_this_home(founding: Founding, tmp_path: Path) -> None:
    make_home(tmp_path / "d", "Hospital D")
    before = founding.draft.read_bytes()
    result = quidnunc("--home", tmp_path / "d", "federation", "sign", "--yes", founding.draft)
    assert result.code == 64
    assert "Hospital D" in result.err
    assert "is not a member" in result.err
    assert founding.draft.read_bytes() == before


def test_sign_refuses_a_charter_that_changed_this_member(founding: Founding) -> None:
    """The drafter put an address of its own into our entry: our genesis still fits, our card does not."""
    from dataclasses import replace

    found = open_charter(founding.draft.read_bytes()).charter
    card = open_card((founding.home("a") / "card.note").read_bytes())
    theirs = replace(card, addresses=("/ip4/203.0.113.9/tcp/1",))
    members = tuple(theirs if member == card else member for member in found.members)
    founding.draft.write_bytes(draft_note(replace(found, members=members)))
    result = quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft)
    assert result.code == 64
    assert "lists other keys, addresses or sizes for Hospital A than its card" in result.err
    assert open_charter(founding.draft.read_bytes()).signed == frozenset()


def test_sign_with_a_root_key_kept_elsewhere(founding: Founding) -> None:
    offline = founding.root / "usb"
    offline.mkdir(mode=0o700)
    (founding.home("a") / "keys" / "root.key").rename(offline / "root.key")
    missing = quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft)
    assert (missing.code, "root.key: no such key file" in missing.err) == (77, True)
    other = quidnunc(
        "--home",
        founding.home("a"),
        "federation",
        "sign",
        "--yes",
        founding.draft,
        "--key",
        founding.home("b") / "keys" / "root.key",
    )
    assert (other.code, "the card of Hospital A names" in other.err) == (77, True)
    wrong = quidnunc(
        "--home",
        founding.home("a"),
        "federation",
        "sign",
        "--yes",
        founding.draft,
        "--key",
        founding.home("a") / "keys/operational.key",
    )
    assert (wrong.code, "holds the operational key" in wrong.err) == (77, True)
    right = quidnunc(
        "--home", founding.home("a"), "federation", "sign", "--yes", founding.draft, "--key", offline / "root.key"
    )
    assert right.code == 0
    assert len(open_charter(founding.draft.read_bytes()).signed) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_root_key_that_others_can_read_is_not_used(founding: Founding, mode: int) -> None:
    key = founding.home("a") / "keys" / "root.key"
    key.chmod(mode)
    result = quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft, "--json")
    assert result.code == 77
    assert result.envelope["error"]["hint"].startswith("chmod 600 ")
    assert open_charter(founding.draft.read_bytes()).signed == frozenset()


def test_out_leaves_the_draft_alone(founding: Founding) -> None:
    before = founding.draft.read_bytes()
    out = founding.root / "signed.note"
    assert quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft, "--out", out).code == 0
    assert founding.draft.read_bytes() == before
    assert len(open_charter(out.read_bytes()).signed) == 1


def test_merge_of_another_federation_is_refused(founding: Founding) -> None:
    other = founding.root / "other.note"
    other.write_bytes(draft_note(charter(3)))
    result = quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft, "--merge", other)
    assert (result.code, "two federations" in result.err) == (64, True)


def test_a_home_belongs_to_one_federation(founding: Founding) -> None:
    from dataclasses import replace

    found = open_charter(founding.draft.read_bytes()).charter
    another = founding.root / "another.note"
    another.write_bytes(draft_note(replace(found, purpose="something else")))
    for file in (founding.draft, another):
        for name in "abc":
            assert quidnunc("--home", founding.home(name), "federation", "sign", "--yes", file).code == 0
    assert quidnunc("--home", founding.home("a"), "federation", "install", founding.draft).code == 0
    result = quidnunc("--home", founding.home("a"), "federation", "install", another)
    assert (result.code, "belongs to federation" in result.err) == (64, True)
    assert (founding.home("a") / "charter.note").read_bytes() == founding.draft.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: note[:-20],
        lambda note: note.replace(b"quidnunc/v1/charter", b"quidnunc/v2/charter"),
        lambda note: note.replace(b"\n\n", b"\n"),
        lambda note: note[:200] + (b"B" if note[200:201] == b"A" else b"A") + note[201:],
        lambda note: note + b"\xff",
        lambda note: b"",
        lambda note: encode({"v": 1}),
        lambda note: note + b"x" * (1 << 20),
    ],
)
def test_verify_of_a_damaged_charter_ends_with_30(founding: Founding, damage: object) -> None:
    assert quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft).code == 0
    founding.draft.write_bytes(damage(founding.draft.read_bytes()))  # type: ignore[operator]
    result = quidnunc("federation", "verify", founding.draft, "--json")
    assert result.code == (64 if founding.draft.stat().st_size > 1 << 20 else 30), result.out
    if result.code == 30:
        assert result.envelope["data"] == {
            "file": str(founding.draft),
            "valid": False,
            "complete": False,
            "missing": [],
        }
    assert quidnunc("federation", "show", founding.draft).code == 64
    assert quidnunc("--home", founding.home("b"), "federation", "sign", "--yes", founding.draft).code == 64


def test_files_that_are_not_there(made: Founding, tmp_path: Path) -> None:
    for words in (["show"], ["verify"]):
        result = quidnunc("--home", made.home("a"), "federation", *words)
        assert (result.code, "charter.note: there is no charter yet" in result.err) == (64, True)
    for words in (
        ["show", tmp_path / "x"],
        ["sign", tmp_path / "x"],
        ["install", tmp_path / "x"],
    ):
        result = quidnunc("--home", made.home("a"), "federation", *words)
        assert (result.code, "cannot be read: no such file" in result.err) == (64, True)


def test_a_person_is_asked_before_signing(founding: Founding, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def __init__(self, answer: str) -> None:
            self.answer = answer

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.answer

    words = ["--home", founding.home("a"), "federation", "sign", founding.draft]
    for answer in ("", "\n", "n\n", "nope\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        result = quidnunc(*words)
        assert (result.code, "with the root key? [y/N]" in result.err) == (64, True)
        assert open_charter(founding.draft.read_bytes()).signed == frozenset()
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert quidnunc(*words, "--yes").code == 0
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert quidnunc("--home", founding.home("b"), "federation", "sign", "--yes", founding.draft).code == 0
    monkeypatch.setattr("sys.stdin", Terminal("Hospital Z\n"))
    assert quidnunc("--home", founding.root / "z", "init", "--no-passphrase").code == 0
    assert open_card((founding.root / "z" / "card.note").read_bytes()).name == "Hospital Z"


def test_a_member_signature_by_library_is_the_same(founding: Founding) -> None:
    """What the command writes is what :mod:`quidnunc.gossip.federation.founding` writes: one format."""
    from quidnunc.crypto.identity import SecretKey

    root = SecretKey(keys.load(founding.home("a") / "keys" / "root.key", "root"))
    expected = sign_charter(founding.draft.read_bytes(), root)
    assert quidnunc("--home", founding.home("a"), "federation", "sign", "--yes", founding.draft).code == 0
    assert founding.draft.read_bytes() == expected
    with pytest.raises(Exception, match="belongs to no member"):
        sign_charter(expected, founder(9).root)
