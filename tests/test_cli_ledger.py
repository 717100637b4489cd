"""Reading a ledger from the command line: what it shows, what it refuses, and what it never claims."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import Token

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import Entry, EntryType, commit_private
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.learning.accountant import epsilon_of
from quidnunc.gossip.provenance import (
    CharterAdopt,
    Merge,
    MergeRow,
    MessageRefused,
    NodeStart,
    NoiseSource,
    PrivacyExhausted,
    PrivacySpend,
    Record,
    ReputationChange,
    UpdatePublished,
    UpdateReceived,
    payload_of,
)
from quidnunc.peer import keys
from quidnunc.peer.commands.entry_view import entry_data, entry_line
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

NOISE_U = 4_244_000
DATASET = b"d" * 32
OTHER = b"o" * 32

Written = Record | tuple[int, bytes] | tuple[int, bytes, bytes]


@dataclass
class Scribe:
    """Writes entries into the ledger of a home, as its daemon would."""

    home: Home
    log: Log = field(init=False)
    key: SecretKey = field(init=False)

    def __post_init__(self) -> None:
        secret = keys.load(self.home.operational_key, "operational")
        self.key = SecretKey(derive_seed(secret, Role.LOG, 0))
        self.log = Log(open_card(self.home.card.read_bytes()).log_id)

    def write(
        self, *records: Record | tuple[int, bytes] | tuple[int, bytes, bytes], tokens: Sequence[Token] = ()
    ) -> None:
        entries = [self._entry(record) for record in records]
        note = self.log.checkpoint(self.key)
        first = self.log.size - len(entries)
        own = []
        for seq, (entry, record) in enumerate(zip(entries, records, strict=True), first):
            if isinstance(record, UpdatePublished):
                body = make_token(entry, self.log.inclusion(seq), note)
                own.append((hashlib.sha256(body).digest(), self.log.log_id, record.number, body))
        with Store.open(self.home.ledger) as store:
            store.commit(entries, note, [*own, *tokens])

    def _entry(self, record: Any) -> Entry:
        kind, payload, *private = record if isinstance(record, tuple) else (record.TYPE, payload_of(record))
        salts = {
            "salt": b"s" * 16,
            "private": private[0] if private else b"",
            "private_salt": b"p" * 16 if private else b"",
        }
        return self.log.append(kind, payload, t_ms=1_800_000_000_000 + 1000 * self.log.size, **salts)


def spend(
    release: int, *, noise_u: int = NOISE_U, source: int = NoiseSource.CHACHA20_OS_KEY, claimed: float = -1.0
) -> PrivacySpend:
    total = epsilon_of(noise_u / 1e6, release, 1e-5) if claimed < 0 else claimed
    micro = -int(-total * 1e6 // 1)
    return PrivacySpend(release, release, micro, micro, 8_000_000, 5, noise_u, 1_000_000, source, DATASET)


def published(number: int) -> UpdatePublished:
    replicas = bytes([number - 1]) * 32, bytes([number]) * 32
    return UpdatePublished(
        b"f" * 32, b"s" * 32, number, number, replicas[0], *replicas, b"m" * 32, 651, 1, 1, DATASET, 9, None
    )


def token_of_other() -> tuple[Token, bytes]:
    """The token of update 1 of another member, entry 3 of its log, and the leaf of that entry."""
    other = Log(OTHER)
    update = replace(published(1), replica_after=b"r" * 32)
    for _ in range(4):
        entry = other.append(update.TYPE, payload_of(update), salt=b"s" * 16, t_ms=1)
    body = make_token(entry, other.inclusion(3), other.checkpoint(SecretKey(b"o" * 32)))
    return (hashlib.sha256(body).digest(), OTHER, 1, body), entry.leaf


def received(*, refused: bool = False) -> UpdateReceived:
    (name, *_), leaf = token_of_other()
    reasons = (2, 99) if refused else ()
    return UpdateReceived(OTHER, 3, leaf, 4, b"t" * 32, name, 1, b"m" * 32, b"r" * 32, False, int(refused), reasons)


def merged() -> Merge:
    rows = (
        MergeRow(bytes(32), None, None, 10**9, 6 * 10**8, 10**6),
        MergeRow(b"r" * 32, OTHER, 3, 5 * 10**8, 4 * 10**8, 10**6),
    )
    private = commit_private(b"p" * 16, b"standings")
    return Merge(1, b"z" * 32, b"a" * 32, rows, False, 0, (5,), private)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with every kind of entry in its ledger, two of each that matter."""
    root = tmp_path_factory.mktemp("ledger") / "a"
    make_home(root, "Hospital A")
    scribe = Scribe(Home.at(root))
    scribe.write((EntryType.GENESIS, open_card((root / "card.note").read_bytes()).genesis))
    scribe.write(
        CharterAdopt(b"c" * 32, 0, (OTHER,), 1, b"g" * 32),
        NodeStart(1, "0.1.0", "3.11.7", "2.13.0", "cpu"),
    )
    scribe.write(spend(1), published(1))
    refused = MessageRefused(None, 1, 3, 100, b"h" * 32)
    scribe.write(received(), received(refused=True), refused, tokens=[token_of_other()[0]])
    scribe.write((EntryType.MERGE, payload_of(merged()), b"standings"), ReputationChange(OTHER, 0, 2, (6,)))
    scribe.write(spend(2), published(2), PrivacyExhausted(3, spend(2).cumulative_u, 8_000_000, 5, DATASET))
    scribe.write((0x7F, encode({"new": 1})), (EntryType.EVAL, encode({"mo": b"z" * 32})))
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "a"))


def ledger(home: Path, *words: str) -> Any:
    return quidnunc("--home", home, "--json", "ledger", *words).data


# status, log, show.


def test_status_counts_and_claims_no_witness(written: Path) -> None:
    data = ledger(written, "status")
    assert data["entries"] == sum(data["types"].values()) == 15
    assert data["types"]["update.published"] == data["types"]["update.received"] == data["types"]["dp.spend"] == 2
    assert (data["name"], data["verdict"], data["witnesses"]) == ("Hospital A", "SELF-ATTESTED", 0)
    assert data["epsilon"] == spend(2).cumulative_u / 1e6
    assert data["last_entry"] == "2027-01-15T08:00:14.000Z"
    with Store.open(Home.at(written).ledger) as store:
        assert data["root"] == store.root.hex()
    shown = quidnunc("--home", written, "ledger", "status").out
    assert "SELF-ATTESTED" in shown
    assert "epsilon" in shown


def test_log_is_one_line_per_entry(written: Path) -> None:
    result = quidnunc("--home", written, "ledger", "log", "-n", "0")
    lines = result.out.splitlines()
    assert len(lines) == 15
    told = [line.split(maxsplit=4)[3:] for line in lines]
    assert told[0] == ["genesis", "log of Hospital A"]
    assert told[1] == ["charter.adopt", f"federation {(b'c' * 8).hex()}, epoch 0"]
    assert told[2] == ["node.start", "start 1: quidnunc 0.1.0, Python 3.11.7, torch 2.13.0"]
    assert told[3][1].startswith("round 1: release 1, epsilon 0.")
    assert told[4][1] == "update 1, round 1: delta 6d6d6d6d (651 bytes, 1 steps)"
    assert told[5][1] == "update 1 of 6f6f6f6f accepted"
    assert told[6][1] == "update 1 of 6f6f6f6f refused (bad_signature, reason-99)"
    assert told[7][1] == "3 messages of a stranger refused (malformed)"
    assert told[8][1] == "round 1: 7a7a7a7a from 6f6f6f6f 0.400 (full step)"
    assert told[9][1] == "6f6f6f6f: normal to excluded"
    assert "no more training is published" in told[12][1]
    assert lines[13].split(maxsplit=3)[3].startswith("type 0x7f (unknown)")


def test_log_selects_by_number_and_type(written: Path) -> None:
    assert [each["seq"] for each in ledger(written, "log", "-n", "3")["log"]] == [12, 13, 14]
    assert [each["seq"] for each in ledger(written, "log", "--type", "dp.spend")["log"]] == [3, 10]
    assert [each["seq"] for each in ledger(written, "log", "--type", "dp.spend", "-n", "1")["log"]] == [10]
    assert len(ledger(written, "log")["log"]) == 15
    wrong = quidnunc("--home", written, "ledger", "log", "--type", "dp.spent")
    assert (wrong.code, "there are: genesis, charter.adopt" in wrong.err) == (2, True)
    assert quidnunc("--home", written, "ledger", "log", "-n", "-1").code == 2


def test_members_are_shown_by_name_where_the_charter_is_installed(home: Path) -> None:
    from founders import charter, founders

    trio = founders(3)
    scribe = Scribe(Home.at(home))
    with Store.open(scribe.home.ledger) as store:
        for entry in store.entries():
            scribe.log.replay(entry)
    from dataclasses import replace

    scribe.write(replace(received(), sender=trio[0].member.log_id))
    (home / "charter.note").write_bytes(draft_note(charter(trio)))
    assert f"update 1 of {trio[0].member.name} accepted" in quidnunc("--home", home, "ledger", "log", "-n", "1").out
    (home / "charter.note").write_bytes(b"broken")
    result = quidnunc("--home", home, "ledger", "log", "-n", "1")
    assert result.code == 0
    assert "names are not shown" in result.err


def test_show_finds_an_entry_by_number_and_by_hash(written: Path) -> None:
    by_number = ledger(written, "show", "8")
    assert (by_number["seq"], by_number["type"], by_number["valid"]) == (8, "merge", True)
    assert by_number["payload"]["rows"][1]["effective"] == 4 * 10**8
    assert by_number["private_bytes"] == len(b"standings")
    for digits in (8, 9, 20, 64):
        assert ledger(written, "show", by_number["hash"][:digits]) == by_number
    assert ledger(written, "show", by_number["hash"].upper()) == by_number
    shown = quidnunc("--home", written, "ledger", "show", "8").out
    assert "as committed to by the header" in shown
    assert "rows[1]" in shown
    assert (b"z" * 32).hex() in shown


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("15", "no entry 15: the ledger has 15"),
        ("abcdefg", "is neither a sequence number nor"),
        ("abc", "is neither a sequence number nor"),
        ("00000000", "0 entries have a hash that begins with 00000000"),
        ("١٢", "is neither a sequence number nor"),
        ("z" * 64, "is neither a sequence number nor"),
    ],
)
def test_show_says_why_it_finds_nothing(written: Path, ref: str, message: str) -> None:
    result = quidnunc("--home", written, "ledger", "show", ref)
    assert result.code == 2
    assert message in result.err


# verify.

GOOD_LAYERS = [
    "database",
    "chain",
    "canonical",
    "payloads",
    "merkle",
    "own signatures",
    "side tables",
    "meaning",
    "evidence",
    "claims",
]


def test_verify_gives_a_verdict_per_layer_and_never_a_bare_ok(written: Path) -> None:
    data = ledger(written, "verify")
    assert [layer["name"] for layer in data["layers"]] == GOOD_LAYERS
    assert all(layer["ok"] and not layer["problems"] for layer in data["layers"])
    assert (data["entries"], data["checkpoints"], data["verified"], data["witnesses"]) == (15, 7, True, "SELF-ATTESTED")
    shown = quidnunc("--home", written, "ledger", "verify").out.splitlines()
    assert [line[2:17].strip() for line in shown[1:12]] == ["identity", *GOOD_LAYERS]
    assert "SELF-ATTESTED: nobody else has signed this history" in shown[-1]
    assert all(line.strip() != "OK" for line in shown)


def spoil(home: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(Home.at(home).ledger) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


@pytest.mark.parametrize(
    ("statement", "layer"),
    [
        ("UPDATE entry SET payload = x'80' WHERE seq = 4", "payloads"),
        ("UPDATE entry SET salt = zeroblob(16) WHERE seq = 4", "payloads"),
        ("UPDATE private SET bytes = x'00' WHERE seq = 8", "payloads"),
        ("UPDATE entry SET header = (SELECT header FROM entry WHERE seq = 6) WHERE seq = 5", "chain"),
        ("UPDATE entry SET header = x'90' WHERE seq = 5", "canonical"),
        ("DELETE FROM entry WHERE seq = 14", "merkle"),
        ("DELETE FROM entry WHERE seq = 3", "chain"),
        ("DELETE FROM entry WHERE seq = 0", "chain"),
        ("DELETE FROM checkpoint WHERE size = 15", "merkle"),
        ("UPDATE checkpoint SET note = x'00' WHERE size = 15", "own signatures"),
        ("UPDATE entry SET type = 99 WHERE seq = 5", "chain"),
    ],
)
def test_verify_names_the_layer_and_the_entry(home: Path, statement: str, layer: str) -> None:
    spoil(home, statement)
    result = quidnunc("--home", home, "--json", "ledger", "verify")
    assert result.code == 30
    data = result.envelope["data"]
    assert not data["verified"]
    assert layer in [each["name"] for each in data["layers"] if not each["ok"]]
    assert result.envelope["error"]["message"].startswith("ledger does not verify: ")
    shown = quidnunc("--home", home, "ledger", "verify")
    assert f"  {layer:<15} BAD" in shown.out


def test_verify_reads_what_the_entries_say(home: Path) -> None:
    """A log whose hashes and signatures all hold may still tell a story that cannot be true."""
    scribe = Scribe(Home.at(home))
    with Store.open(scribe.home.ledger) as store:
        for entry in store.entries():
            scribe.log.replay(entry)
    scribe.write(published(4), (EntryType.DP_SPEND, encode({"r": 1})))
    result = quidnunc("--home", home, "--json", "ledger", "verify")
    assert result.code == 30
    layers = {layer["name"]: layer for layer in result.envelope["data"]["layers"]}
    assert [name for name, layer in layers.items() if not layer["ok"]] == ["meaning"]
    found = [(problem["code"], problem["seq"]) for problem in layers["meaning"]["problems"]]
    assert found == [("I12", 15), ("I12", 15), ("I4", 16)]


def test_verify_refuses_a_ledger_of_somebody_else(home: Path, tmp_path: Path) -> None:
    make_home(tmp_path / "b", "Hospital B")
    shutil.copy(Home.at(home).ledger, Home.at(tmp_path / "b").ledger)
    result = quidnunc("--home", tmp_path / "b", "--json", "ledger", "verify")
    assert result.code == 30
    assert not result.envelope["data"]["identity"]
    assert all(layer["ok"] for layer in result.envelope["data"]["layers"])
    assert "not the log of this home's card" in result.envelope["error"]["message"]


def test_an_empty_ledger_is_incomplete(tmp_path: Path) -> None:
    make_home(tmp_path / "a", "Hospital A")
    result = quidnunc("--home", tmp_path / "a", "ledger", "verify", "--json")
    assert (result.code, result.envelope["data"]["verified"]) == (32, False)
    assert ledger(tmp_path / "a", "status")["entries"] == 0
    assert ledger(tmp_path / "a", "log")["log"] == []
    assert quidnunc("--home", tmp_path / "a", "ledger", "show", "0").code == 2


@pytest.mark.parametrize("words", [["status"], ["log"], ["show", "0"], ["verify"]])
def test_a_missing_or_damaged_database(home: Path, words: list[str]) -> None:
    path = Home.at(home).ledger
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    data = path.read_bytes()
    path.write_bytes(b"not SQLite" * 100)
    assert quidnunc("--home", home, "ledger", *words).code == 65
    path.write_bytes(data[:100] + bytes(len(data) - 100))
    assert quidnunc("--home", home, "ledger", *words).code in (30, 65)
    path.unlink()
    missing = quidnunc("--home", home, "ledger", *words)
    assert (missing.code, "there is no ledger" in missing.err) == (32, True)
    nobody = quidnunc("--home", home / "nobody", "ledger", *words)
    assert (nobody.code, "no peer lives here" in nobody.err) == (64, True)


def test_reading_goes_on_beside_a_writer(home: Path) -> None:
    """A daemon holds the database open; commands read what it has committed, and change nothing."""
    with Store.open(Home.at(home).ledger) as store:
        before = store.root
        for words in (["status"], ["log"], ["show", "3"], ["verify"]):
            assert quidnunc("--home", home, "ledger", *words).code == 0
        assert quidnunc("--home", home, "budget", "show").code == 0
        assert store.root == before


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 255),
    st.binary(max_size=80) | st.builds(encode, st.dictionaries(st.sampled_from("abrnqz"), st.integers(0, 9))),
)
def test_any_payload_can_be_shown(kind: int, payload: bytes) -> None:
    entry = Log(OTHER).append(kind, payload, salt=b"s" * 16, t_ms=2**64 - 1)
    line = entry_line(entry, {})
    assert entry.leaf.hex()[:8] in line
    assert entry_data(entry, {})["type_code"] == kind
    broken = entry._replace(header=payload)
    assert entry_data(broken, {}) == {"hash": broken.leaf.hex(), "valid": False}
    assert "HEADER DOES NOT PARSE" in entry_line(broken, {})


def test_hostile_names_in_the_ledger_do_not_reach_the_terminal(home: Path) -> None:
    shown = quidnunc("--home", home, "ledger", "log", "-n", "0").out
    assert shown.replace("\n", "").isprintable()


# budget.


def test_budget_is_a_full_statement(written: Path) -> None:
    (account,) = quidnunc("--home", written, "--json", "budget", "show").data["datasets"]
    assert (account["releases"], account["round"], account["delta"], account["clip"]) == (2, 2, 1e-5, 1.0)
    assert account["epsilon"] == pytest.approx(epsilon_of(NOISE_U / 1e6, 2, 1e-5), abs=1e-6)
    assert account["epsilon"] == pytest.approx(account["epsilon_recomputed"], abs=1e-5)
    assert (account["exhausted"], account["void"]) == (True, False)
    shown = quidnunc("--home", written, "budget", "show").out
    for part in (
        "of 8 spent at delta 1e-5",
        "one record of this peer's training data, add or remove",
        "against everybody outside",
        "through round 2, 2 releases; clip 1, noise multiplier 4.244",
        "accountant: analytic Gaussian",
        "ChaCha20",
        "exhausted",
        "not covered:",
        "holdout records",
        "k members cost k times epsilon",
    ):
        assert part in shown


def test_budget_before_the_first_release(tmp_path: Path) -> None:
    from founders import charter, private

    from quidnunc.gossip.federation.charter import PrivacySpec

    make_home(tmp_path / "a", "A")
    note = tmp_path / "a" / "charter.note"
    assert "epsilon 0 spent" in quidnunc("--home", tmp_path / "a", "budget", "show").out
    note.write_bytes(draft_note(charter(3, privacy=private(2.0))))
    assert "epsilon 0 spent of 2 at delta 1e-05" in quidnunc("--home", tmp_path / "a", "budget", "show").out
    note.write_bytes(draft_note(charter(3, privacy=PrivacySpec("none"))))
    result = quidnunc("--home", tmp_path / "a", "budget", "show", "--json")
    assert result.data["promise"]["mechanism"] == "none"
    assert "epsilon is infinite" in quidnunc("--home", tmp_path / "a", "budget", "show").out


def budget_of(path: Path, *spends: PrivacySpend) -> Callable[..., Any]:
    make_home(path, "A")
    Scribe(Home.at(path)).write(*spends)
    return lambda *words: quidnunc("--home", path, "budget", "show", *words)


def test_a_test_seed_voids_the_statement(tmp_path: Path) -> None:
    show = budget_of(tmp_path / "a", spend(1), spend(2, source=NoiseSource.TEST_SEED))
    assert "VOID: there is no privacy" in show().out
    result = show("--json")
    assert result.code == 30
    assert result.envelope["data"]["datasets"][0]["void"]
    assert "test seed" in result.envelope["error"]["message"]


def test_a_ledger_that_claims_less_than_it_spent_is_caught(tmp_path: Path) -> None:
    show = budget_of(tmp_path / "a", spend(1), spend(2, claimed=0.1))
    result = show("--json")
    assert result.code == 30
    assert "the ledger claims epsilon 0.1000, its releases cost" in result.envelope["error"]["message"]


def test_releases_left_follow_the_charter(home: Path) -> None:
    from founders import charter, private

    (home / "charter.note").write_bytes(draft_note(charter(3, privacy=private(8.0, 50))))
    (account,) = quidnunc("--home", home, "--json", "budget", "show").data["datasets"]
    assert account["releases_left"] == 48
