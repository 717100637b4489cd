"""docs/wire.md says what the code does: registries, key sets, kinds, limits and vectors are compared."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from founders import charter, founder
from test_private_sum import sum_charter
from wire_tables import WIRE, blocks, section, sections, table

from quidnunc.crypto import merkle
from quidnunc.crypto.checkpoint import open_checkpoint
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import (
    EntryType,
    Header,
    commit_payload,
    encode_header,
    log_id_of,
    parse_header,
)
from quidnunc.crypto.errors import CharterError, Reason
from quidnunc.crypto.identity import Role, SecretKey, derive_seed, tagged_hash
from quidnunc.crypto.keyfile import Cost, encode_key_file, lock_key_file
from quidnunc.crypto.noise import NoiseStream
from quidnunc.crypto.pairwise import pair_key, x25519
from quidnunc.crypto.token import open_token
from quidnunc.gossip.events import Frame
from quidnunc.gossip.evidence import PENALIZED
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.genesis import make_genesis
from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.terms import MergeSpec, TaskSpec, TrainingSpec
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.pair_noise import pair_noise
from quidnunc.gossip.message import (
    Consistency,
    Cosigned,
    Entries,
    Fetch,
    Heads,
    Hello,
    Known,
    Newest,
    Notice,
    Proof,
    Prove,
    Recall,
    Recalled,
    Snapshot,
    Unavailable,
    Update,
    Vouch,
    Vouched,
    VouchRow,
    Want,
)
from quidnunc.gossip.message_codec import write_message
from quidnunc.gossip.provenance import RECORDS, PrivacyClaim
from quidnunc.gossip.records import BOOL, COSIGNATURE, HASH, SIGNATURE, UINT, WORD, Kind
from quidnunc.gossip.rules.linear import recompute
from quidnunc.gossip.rules.terms import NEAREST, TERMS, Bound
from quidnunc.gossip.rules.thresholds import BOUNDS, ReputeOptions
from quidnunc.peer.ledger.invariants import INVARIANTS
from quidnunc.peer.network.transfer import FRAME_PROTOCOL, Offer, encode_offer

ROOT = Path(__file__).resolve().parent.parent
VECTOR: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "ledger.json").read_text("utf-8"))

_PLAIN = {UINT: "uint", BOOL: "bool", HASH: "hash", WORD: "word", COSIGNATURE: "cosig", SIGNATURE: "sig"}
_MAPS = {PrivacyClaim: "dp"}


def spelled(kind: Kind) -> str:
    """A kind as the document writes it."""
    kind = kind._replace(absent=None)
    if kind in _PLAIN:
        return _PLAIN[kind]
    inner = inspect.getclosurevars(kind.parse).nonlocals
    if "limit" in inner:
        return f"array of {spelled(inner['kind'])}, up to {inner['limit']}"
    if "kinds" in inner:
        return f"[{', '.join(spelled(each) for each in inner['kinds'])}]"
    if "fields" in inner:
        return f"map {_MAPS[inner['make']]}"
    return f"nil or {spelled(inner['kind'])}"


# -- registries -------------------------------------------------------------------------------------------------


def test_the_entry_registry_is_the_documents() -> None:
    rows = {int(row["type"], 16): (row["name"], row["state"]) for row in table("5. Entries")}
    written = {EntryType.GENESIS, *RECORDS}
    assert rows == {kind.value: (kind.label, "written" if kind in written else "reserved") for kind in EntryType}


@pytest.mark.parametrize("kind", sorted(RECORDS), ids=lambda kind: EntryType(kind).label)
def test_every_payload_key_and_kind_is_the_documents(kind: int) -> None:
    rows = table(f"0x{kind:02x} {EntryType(kind).label}")
    expected = {key: spelled(field) for key, (_, field) in RECORDS[kind].FIELDS.items()}
    assert {row["key"]: row["kind"] for row in rows} == expected
    assert [row["key"] for row in rows] == list(expected), "in the order of the code"
    assert all(row["meaning"] for row in rows)


def test_no_section_describes_an_entry_that_is_not_written() -> None:
    described = {int(match[1], 16) for heading in sections() if (match := re.match("0x([0-9a-f]{2}) ", heading))}
    assert described == set(RECORDS)


def test_the_privacy_claim_is_the_documents() -> None:
    expected = {key: spelled(field) for key, (_, field) in PrivacyClaim.FIELDS.items()}
    assert {row["key"]: row["kind"] for row in table("map dp")} == expected


def test_the_reason_codes_are_the_documents() -> None:
    rows = {int(row["code"]): (row["name"], row["penalized"]) for row in table("10. Refusals")}
    assert rows == {reason.value: (reason.label, "yes" if reason in PENALIZED else "no") for reason in Reason}


def test_every_reason_has_a_place_in_the_journey() -> None:
    rows = table("8. An update's journey")
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    named = {row["reason"] for row in rows} | set(re.findall("`([a-z_]+)`", section("8. An update's journey")))
    assert {reason.label for reason in Reason} <= named
    assert {row["recorded as"] for row in rows} == {"", "message.refused", "update.received"}


def test_the_message_headers_are_the_documents() -> None:
    fed, token = b"f" * 32, b"token"
    messages = {
        "update": Update(fed, token),
        "snapshot": Snapshot(fed, token),
        "hello": Hello(fed, token, True),
        "want": Want(fed, 1, 2, False),
        "unavailable": Unavailable(fed, 1, 2),
        "recall": Recall(fed, 1, 2),
        "recalled": Recalled(fed, 1),
        "proof": Proof(fed, b"proof"),
        "notice": Notice(fed, token),
        "heads": Heads(fed, (b"note",)),
        "prove": Prove(fed, 1, 2),
        "consistency": Consistency(fed, 1, 2, b"r" * 32, ()),
        "cosigned": Cosigned(fed, b"note"),
        "vouch": Vouch(fed, b"note", (VouchRow(fed, 1, fed, ()),)),
        "vouched": Vouched(fed, b"note"),
        "newest": Newest(fed),
        "known": Known(fed, b"note", 1, 2),
        "fetch": Fetch(fed, fed, 1, 2),
        "entries": Entries(fed, fed, 1, (), b"note"),
    }
    rows = {row["message"]: row for row in table("7. Messages")}
    assert rows.keys() == messages.keys()
    for name, message in messages.items():
        value = decode(write_message(message), max_bytes=65_536)
        assert isinstance(value, list)
        assert value[:2] == [rows[name]["tag"], fed]
        kinds = [each.split()[0] for each in rows[name]["further elements"].split(", ") if each]
        assert [{bytes: "bin", bool: "bool", int: "int", list: "array"}[type(each)] for each in value[2:]] == kinds


def test_the_tags_are_those_in_the_code() -> None:
    used = set()
    for path in (path for layer in ("crypto", "gossip", "peer", "sim") for path in (ROOT / layer).rglob("*.py")):
        used |= set(re.findall(r'\b(?:tagged|tagged_hash|_commit)\(\s*"([^"]+)"', path.read_text("utf-8")))
    assert {row["tag"] for row in table("1. Conventions")} == used


def test_the_invariants_are_those_that_verification_reports() -> None:
    checks = ("ledger_check", "tree_check", "meaning_check", "tally")
    paths = [*(f"peer/ledger/{name}.py" for name in checks), "peer/commands/ledger_witness.py"]
    text = "".join((ROOT / name).read_text("utf-8") for name in (*paths, "gossip/audit.py", "gossip/claims.py"))
    codes = {row["code"] for row in table("13. Invariants")}
    assert codes == set(re.findall(r'"(I\d+)"', text))
    assert codes == INVARIANTS.keys()


def test_roles_and_protocols_are_the_documents() -> None:
    assert {row["role"] for row in table("3.1 Role keys")} == set(Role)
    assert f"Protocol `{FRAME_PROTOCOL}`" in WIRE.read_text("utf-8")


# -- maps -------------------------------------------------------------------------------------------------------


def keys(start: str) -> set[str]:
    return {row["key"] for row in table(start)}


def mapping(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def test_key_files_hold_the_documents_keys() -> None:
    common = keys("3.2 Key files")
    plain = mapping(decode(encode_key_file("root", bytes(32)), max_bytes=4096))
    assert common | keys("Further keys without a lock") == plain.keys()
    locked = mapping(decode(blocks("14.1 Keys")["locked key file"], max_bytes=4096))
    assert common | keys("Further keys under a passphrase") == locked.keys()


def test_a_genesis_holds_the_documents_keys() -> None:
    assert keys("11.1 Genesis") == mapping(decode(founder(1).member.genesis, max_bytes=512)).keys()


def test_members_and_charters_hold_the_documents_keys() -> None:
    body = mapping(decode(charter().body(), max_bytes=1 << 20))
    assert keys("11.4 Charter") == body.keys()
    assert keys("11.2 Member") == body["members"][0].keys()
    for name in ("task", "training", "merge", "privacy", "rounds"):
        assert keys(f"charter.{name}") == body[name].keys()
    sampled = mapping(mapping(decode(charter(privacy=SAMPLED).body(), max_bytes=1 << 20))["privacy"])
    assert keys("charter.privacy") | keys("Sampled privacy") == sampled.keys()
    summed = mapping(mapping(decode(sum_charter().body(), max_bytes=1 << 20))["privacy"])
    assert keys("charter.privacy") | keys("Privacy of a private sum") == summed.keys()
    kept = mapping(mapping(decode(charter(task=PERSONAL).body(), max_bytes=1 << 20))["task"])
    assert keys("charter.task") | keys("Personal tensors") == kept.keys()
    proximal = mapping(mapping(decode(charter(training=PROXIMAL).body(), max_bytes=1 << 20))["training"])
    assert keys("charter.training") | keys("Proximal training") == proximal.keys()
    sized = mapping(mapping(decode(charter(merge=SIZED).body(), max_bytes=1 << 20))["merge"])
    assert keys("charter.merge") | keys("Sized members") == sized.keys()


def worded(bound: Bound) -> str:
    default = "" if bound.default is None else f", default {bound.default:g}"
    return f"{bound.low:g} to {bound.high:g}{', whole' if bound.whole else ''}{default}"


def needed(least: Callable[[int], int]) -> str:
    """``2 bad + 2`` for a rule that needs 2 * bad + 3 rows, the own one included."""
    more = least(0) - 1
    times = least(1) - least(0)
    assert [least(bad) for bad in range(5)] == [times * bad + more + 1 for bad in range(5)]
    if not times:
        return ""
    return f"{times} bad" * (times > 1) + "bad" * (times == 1) + f" + {more}" * (more > 0)


def test_the_merge_rules_and_their_options_are_the_documents() -> None:
    assert table("Merge rules") == [
        {
            "rule": name,
            "options": "; ".join(
                f"{key} {worded(bound)}" for key, bound in terms.options.items() if not bound.by_round
            ),
            "neighbors": needed(terms.least_rows),
        }
        for name, terms in TERMS.items()
    ]
    text = section("Merge rules")
    assert f"`nearest` {worded(NEAREST)}" in text
    assert set(BOUNDS) == {each.name for each in dataclasses.fields(ReputeOptions)}
    assert all(f"`{name}` {worded(bound)}" in text for name, bound in BOUNDS.items())


def number(text: str) -> int:
    """``2^28``, ``2^63-1`` or ``1000``."""
    power, minus, less = text.partition("-") if "^" in text else (text, "", "")
    base, _, exponent = power.partition("^")
    return int(base) ** int(exponent or 1) - (int(less) if minus else 0)


def ranged() -> list[tuple[str, str, int, int]]:
    """Every number of a charter whose bounds the document gives: map, key, least, most."""
    maps = {"": "11.4 Charter", "member": "11.2 Member"}
    maps |= {name: f"charter.{name}" for name in ("task", "training", "merge", "privacy", "rounds")}
    maps["sampled"] = "Sampled privacy"
    maps["sized"] = "Sized members"
    maps["proximal"] = "Proximal training"
    found = []
    for name, start in maps.items():
        for row in table(start):
            match = re.fullmatch(r"int, ([\d^-]+) to ([\d^-]+)", row["kind"])
            if match:
                found.append((name, row["key"], number(match[1]), number(match[2])))
    return found


ROOMY = PrivacySpec("dp-sgd-full-batch", 8_000_000, 5, 1, 1_000_000_000_000, 1_000_000)
"""Privacy whose noise suffices for any delta and any number of rounds."""

SAMPLED = PrivacySpec("dp-sgd-poisson", 8_000_000, 5, 1, 2_000_000, 1_000_000, 50_000, 4)

SIZED = MergeSpec("repute", 1_000_000, {}, 4_000_000)
PROXIMAL = TrainingSpec(500_000, 0, 4, 32, 10_000)
PERSONAL = TaskSpec("digits", b"s" * 32, b"g" * 32, 650, personal=("head",))


@pytest.mark.parametrize(("name", "key", "least", "most"), ranged(), ids=lambda value: str(value))
def test_bounds_of_a_charter_are_the_documents(name: str, key: str, least: int, most: int) -> None:
    privacy = SAMPLED if name == "sampled" else ROOMY
    merge = SIZED if name == "sized" else MergeSpec("repute", 1_000_000)
    base = charter(privacy=privacy, merge=merge, payload_bytes=2**30, task=TaskSpec("digits", b"s" * 32, b"g" * 32, 1))
    for value, allowed in ((least - 1, False), (least, True), (most, True), (most + 1, False)):
        body = mapping(decode(base.body(), max_bytes=1 << 20))
        inner = {"sampled": "privacy", "sized": "merge", "proximal": "training"}.get(name, name)
        place = {"": body, "member": body["members"][0]}.get(name) or body[inner]
        place[key] = value
        if allowed:
            assert Charter.parse(encode(body)).body() == encode(body)
        else:
            with pytest.raises(CharterError):
                Charter.parse(encode(body))


def test_the_document_bounds_most_numbers_of_a_charter() -> None:
    assert len(ranged()) >= 13


def test_a_header_holds_the_documents_fields() -> None:
    fields = [row["field"] for row in table("4.1 Header")]
    assert fields == ["v", *Header._fields]


# -- limits -----------------------------------------------------------------------------------------------------


def looked_up(path: str) -> object:
    """The value of ``module.NAME``, or of a field of a dataclass of settings, by its dotted path."""
    parts = path.split(".")
    depth = next(d for d in range(len(parts), 0, -1) if (ROOT / "/".join(parts[:d])).with_suffix(".py").exists())
    value: Any = importlib.import_module(".".join(["quidnunc", *parts[:depth]]))
    for part in parts[depth:]:
        value = getattr(value, part)
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            value = value()
    return value


@pytest.mark.parametrize("row", table("12. Limits"), ids=lambda row: row["in the code"])
def test_every_limit_is_the_codes(row: dict[str, str]) -> None:
    assert looked_up(row["in the code"]) == int(row["value"])


# -- vectors ----------------------------------------------------------------------------------------------------


def test_vectors_of_keys_and_genesis() -> None:
    known = blocks("14.1 Keys")
    secret = known["operational secret"]
    made = {role: SecretKey(derive_seed(secret, role, 0)) for role in Role}
    assert known["log seed"] == made[Role.LOG].seed
    for role in Role:
        assert known[f"{role} public"] == made[role].public
    salt, nonce, cost = bytes(range(100, 116)), bytes(range(200, 224)), Cost(2, 19456)
    file = lock_key_file("root", bytes(range(32)), b"correct horse", salt=salt, nonce=nonce, cost=cost)
    assert known["locked key file"] == file
    genesis = blocks("14.2 Genesis")
    root = SecretKey(b"\x01" * 32)
    assert genesis["root public"] == root.public
    assert genesis["genesis payload"] == make_genesis(root.public, made[Role.LOG], bytes(range(16)), "Ward A")
    assert genesis["log id"] == log_id_of(genesis["genesis payload"])


def test_vectors_of_the_log_follow_from_the_payloads() -> None:
    known = blocks("14.3 Log, checkpoint, token")
    log_id = log_id_of(known["payload 0"])
    prev, leaves = bytes(32), []
    for seq, (t_ms, kind) in enumerate([(1_760_000_000_000, 1), (1_760_000_001_000, 16)]):
        payload = known[f"payload {seq}"]
        cmt = commit_payload(b"\x11" * 16, payload)
        header = encode_header(Header(log_id, seq, prev, t_ms, kind, 0, len(payload), cmt))
        prev = merkle.leaf_hash(header)
        leaves.append(prev)
        assert (cmt, header, prev) == tuple(known[f"{name} {seq}"] for name in ("commitment", "header", "leaf"))
        assert parse_header(header).seq == seq
    assert known["root"] == merkle.node_hash(*leaves)
    assert known["origin's log id"] == log_id


def test_the_checkpoint_and_token_vectors_verify() -> None:
    known = blocks("14.3 Log, checkpoint, token")
    fenced = section("14.3 Log, checkpoint, token").split("```\n")[1]
    assert fenced == VECTOR["note"]
    log_id, public = known["origin's log id"], known["key public"]
    assert open_checkpoint(fenced.encode(), f"quidnunc/v1/{log_id.hex()}", public).root == known["root"]
    token = bytes.fromhex(VECTOR["token"])
    assert f"{len(token)} bytes" in section("14.3 Log, checkpoint, token")
    assert known["token hash"] == hashlib.sha256(token).digest()
    assert open_token(token, log_id=log_id, public=public).leaf == known["leaf 1"]


def test_vectors_of_params() -> None:
    known = blocks("14.4 Params")
    rows = [["0.bias", "float32", [10]], ["0.weight", "float32", [10, 64]]]
    assert known["schema"] == tagged_hash("schema", encode(rows))
    before = codec.parse_state(known["replica before"], 3)
    assert before.tolist() == [1.0, -0.5, 0.25]
    assert codec.decode(codec.INT8, known["delta"], 3).tolist() == [0.5, -0.9921875, 0.0]
    after = codec.state_bytes(codec.advance(before, known["delta"], codec.INT8))
    assert after == known["replica after"]
    assert hashlib.sha256(known["replica before"]).digest() == known["its state hash"]
    assert hashlib.sha256(after).digest() == known["its state hash after"]
    pivot, state = (codec.parse_state(known[name], 2) for name in ("pivot", "state"))
    assert codec.state_bytes(recompute(pivot, [(state, 333_333_333)])) == known["merged"]


def test_the_rounding_of_int8_is_the_documents() -> None:
    values = np.array([0.3, -0.01, 1.0, -1.0], np.float32)
    uniform = np.array([0.1, 0.9, 0.5, 0.0])
    exponent = -6  # ceil(log2(1 / 127))
    levels = [int(np.floor(v * 2.0**-exponent + u)) for v, u in zip(values.tolist(), uniform, strict=True)]
    assert max(map(abs, levels)) >= 64
    data = codec.encode_int8(values, uniform)
    assert data == exponent.to_bytes(1, "big", signed=True) + bytes(level % 256 for level in levels)


def test_vectors_of_messages() -> None:
    known = blocks("14.5 Messages and frames")
    fed = b"\xaa" * 32
    frame = Frame(write_message(Want(fed, 1, 3, False)))
    assert frame.header == known["want"]
    offer = Offer(fed, len(frame.header), 0, frame.digest())
    assert encode_offer(offer) == known["offer"]
    sizes = [row["bytes"] for row in table("9.2 Frames")][:5]
    assert sum(map(int, sizes)) == len(known["offer"])


def test_vectors_of_pairs() -> None:
    """The values were made by other libraries; the code and the two members have to come to the same."""
    known = blocks("14.7 Pairs")
    low, high, federation = b"\x0a" * 32, b"\x0b" * 32, b"\xaa" * 32
    ends = SecretKey(b"\x01" * 32), SecretKey(b"\x02" * 32)
    assert tuple(end.public for end in ends) == (known["transport of l"], known["transport of h"])
    scalars = [hashlib.sha512(end.seed).digest()[:32] for end in ends]
    assert x25519(scalars[0], known["u of h"]) == x25519(scalars[1], known["u of l"]) == known["shared secret"]
    pair = pair_key(ends[0], low, ends[1].public, high, federation)
    assert pair == (known["pair key"], 1)
    assert pair_key(ends[1], high, ends[0].public, low, federation) == (known["pair key"], -1)
    child = tagged_hash("noise-child", pair.key, b"\x00\x00\x00\x04pair")
    assert known["child"] == child
    assert known["seed of draw 0"] == tagged_hash("noise", child, b"round/12", bytes(8))
    stream = NoiseStream(pair.key, b"pair").child(b"round/12")
    assert stream.bytes(len(known["key stream"])) == known["key stream"]
    told = re.search(r"member l adds (\S+), (\S+) and (\S+):", section("14.7 Pairs"))
    assert told is not None
    assert pair_noise([pair], 12, 3) == pytest.approx([float(each) for each in told.groups()], abs=1e-6)


def test_links_inside_the_document_lead_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in sections()}
    links = re.findall(r"\]\(#([^)]+)\)", WIRE.read_text("utf-8"))
    assert len(links) == 14
    assert set(links) <= anchors
