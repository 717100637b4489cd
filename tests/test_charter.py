"""The charter: canonical, refused when anything in it is off, in force only when everybody signed."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from founders import Founder, charter, founder, founders, private
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import CharterError, CharterUnsigned, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey, tagged_hash
from quidnunc.crypto.note import sign_note
from quidnunc.gossip.federation.charter import (
    MAX_BODY_BYTES,
    Charter,
    MergeSpec,
    PrivacySpec,
    RoundSpec,
    TaskSpec,
    TrainingSpec,
    default_quorum,
    smallest_quorum,
)
from quidnunc.gossip.federation.founding import (
    NOTE_BYTES,
    draft_note,
    merge_notes,
    open_charter,
    require_signed,
    sign_charter,
)
from quidnunc.gossip.federation.genesis import parse_genesis
from quidnunc.gossip.federation.terms import DATA_SCHEMA_BYTES
from quidnunc.gossip.federation.topology import founding_edges

BOUNDED = settings(deadline=None, max_examples=150)
FOUNDERS = founders(4)
CHARTER = charter(FOUNDERS)


def value_of(body: bytes) -> dict[str, Any]:
    value = decode(body, max_bytes=MAX_BODY_BYTES)
    assert isinstance(value, dict)
    return value


# The body.


def test_parse_gives_back_what_body_wrote() -> None:
    parsed = Charter.parse(CHARTER.body())
    assert parsed == CHARTER
    assert parsed.body() == CHARTER.body()
    assert parsed.federation_id == CHARTER.federation_id == tagged_hash("charter", CHARTER.body())


def test_every_field_changes_the_federation_id() -> None:
    others = [
        charter(FOUNDERS, purpose="another"),
        charter(FOUNDERS, nonce=b"n" * 16),
        charter(FOUNDERS, t_ms=1),
        charter(5),
        charter(FOUNDERS, task=replace(CHARTER.task, genesis=b"h" * 32)),
        charter(FOUNDERS, task=replace(CHARTER.task, data_schema="version = 1\n")),
        charter(FOUNDERS, training=replace(CHARTER.training, local_steps=5)),
        charter(FOUNDERS, merge=MergeSpec("mean", 1_000_000)),
        charter(FOUNDERS, privacy=private(7.0)),
        charter(FOUNDERS, rounds=RoundSpec(50, 1000, 3, "majority")),
        charter(FOUNDERS, edges=((0, 1), (1, 2), (2, 3))),
        charter(FOUNDERS, codec=0),
        charter(FOUNDERS, quorum=4),
        charter(FOUNDERS, payload_bytes=1 << 20),
    ]
    assert len({each.federation_id for each in [CHARTER, *others]}) == len(others) + 1


@BOUNDED
@given(st.data())
def test_a_changed_byte_is_refused_or_is_another_federation(data: st.DataObject) -> None:
    body = bytearray(CHARTER.body())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = Charter.parse(bytes(body))
    except CharterError:
        return
    assert parsed.body() == bytes(body)
    assert parsed.federation_id != CHARTER.federation_id


@BOUNDED
@given(st.binary(max_size=200) | st.builds(lambda n: CHARTER.body()[:n], st.integers(0, len(CHARTER.body()) - 1)))
def test_bytes_that_are_no_charter_are_refused(data: bytes) -> None:
    with pytest.raises(CharterError):
        Charter.parse(data)


_PATHS = [
    *((key,) for key in value_of(CHARTER.body())),
    *(
        (key, inner)
        for key in ("task", "training", "merge", "privacy", "rounds")
        for inner in value_of(CHARTER.body())[key]
    ),
    *(("members", 0, inner) for inner in value_of(CHARTER.body())["members"][0]),
    ("edges", 0),
    ("edges", 0, 0),
    ("task", "options", "model"),
    ("merge", "options", "radius"),
]
_KINDS: list[Any] = [None, True, -1, "x", b"x", [], {}, [[0]], 2**64 - 1]


@pytest.mark.parametrize("path", _PATHS, ids=str)
def test_a_value_of_another_kind_is_refused_everywhere(path: tuple[Any, ...]) -> None:
    accepted = []
    for wrong in _KINDS:
        value = value_of(CHARTER.body())
        place: Any = value
        for step in path[:-1]:
            place = place[step]
        if type(place[path[-1]]) is type(wrong):
            continue
        place[path[-1]] = wrong
        try:
            Charter.parse(encode(value))
        except CharterError:
            continue
        accepted.append(wrong)
    # An option of a task may be of any scalar kind.
    assert accepted == ([True, -1] if path == ("task", "options", "model") else [])


@pytest.mark.parametrize("path", [p for p in _PATHS if isinstance(p[-1], str)], ids=str)
def test_a_missing_or_unknown_key_is_refused(path: tuple[Any, ...]) -> None:
    if "options" in path[:-1]:
        return
    for change in ("drop", "add"):
        value = value_of(CHARTER.body())
        place: Any = value
        for step in path[:-1]:
            place = place[step]
        if change == "drop":
            del place[path[-1]]
        else:
            place["zz"] = 1
        with pytest.raises(CharterError, match="key"):
            Charter.parse(encode(value))


def test_another_version_is_refused_by_name() -> None:
    value = value_of(CHARTER.body())
    value["v"] = 2
    with pytest.raises(CharterError, match="charter format 2, this program reads 1"):
        Charter.parse(encode(value))


def with_schema(text: str) -> Charter:
    return charter(FOUNDERS, task=replace(CHARTER.task, data_schema=text))


@BOUNDED
@given(
    st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="\u2028"), max_size=40), st.integers(0, 9)
)
def test_a_data_schema_comes_back_as_it_was_signed(line: str, lines: int) -> None:
    text = unicodedata.normalize("NFC", line + "\n") * lines
    assert Charter.parse(with_schema(text).body()).task.data_schema == text


def test_the_largest_data_schema_fits_and_the_next_does_not() -> None:
    text = "é" * (DATA_SCHEMA_BYTES // 2)
    body = with_schema(text).body()
    assert Charter.parse(body).task.data_schema == text
    value = value_of(body)
    for wrong, why in ((text.encode() + b"\n", "65537 bytes, limit is 65536"), (b"\xff", "not UTF-8"), ("a", "bytes")):
        value["task"]["data_schema"] = wrong
        with pytest.raises(CharterError, match=why):
            Charter.parse(encode(value))


# The terms.


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: charter(FOUNDERS, quorum=2), "quorum is 2, must be 3 to 4"),
        (lambda: charter(FOUNDERS, quorum=5), "quorum"),
        (lambda: charter(FOUNDERS, payload_bytes=2**30 + 1), "payload_bytes"),
        (lambda: charter(FOUNDERS, payload_bytes=2599), "payload_bytes .* 2600"),
        (lambda: charter(FOUNDERS, codec=2), "codec"),
        (lambda: charter(FOUNDERS, epoch=1), "epoch"),
        (lambda: charter(FOUNDERS, nonce=b"short"), "nonce"),
        (lambda: charter(FOUNDERS, purpose="x" * 2049), "purpose"),
        (lambda: charter(FOUNDERS, purpose="a\nb"), "purpose"),
        (lambda: charter(FOUNDERS, purpose="e\u0301"), "purpose"),
        (lambda: charter(FOUNDERS, t_ms=-1), "t_ms"),
        (lambda: charter(FOUNDERS, edges=((0, 1), (0, 2), (1, 2))), "connected"),
        (lambda: charter(FOUNDERS, edges=((0, 1), (1, 1), (1, 2), (2, 3))), "edge"),
        (lambda: charter(FOUNDERS, edges=((1, 0), (1, 2), (2, 3))), "edge"),
        (lambda: charter(FOUNDERS, edges=((0, 1), (1, 4), (2, 3))), "edge"),
        (lambda: charter(FOUNDERS, edges=((0, 1), (0, 1), (1, 2), (2, 3))), "ascending"),
        (lambda: charter(FOUNDERS, edges=((0, 1), (2, 3), (1, 2))), "ascending"),
        (lambda: charter(FOUNDERS, edges=((0, 1),)), "number of edges"),
        (lambda: charter(list(reversed(FOUNDERS))), "ascending"),
        (lambda: charter([FOUNDERS[0], FOUNDERS[0]]), "ascending"),
        (lambda: charter(1, edges=()), "number of members"),
        (lambda: RoundSpec(0, 1, 0, "all"), "rounds.count"),
        (lambda: RoundSpec(1, -1, 0, "all"), "interval"),
        (lambda: RoundSpec(1, 1, 0, "most"), "start"),
        (lambda: TrainingSpec(0, 0, 1, 1), "learning_rate"),
        (lambda: TrainingSpec(1, 1_000_000, 1, 1), "momentum"),
        (lambda: MergeSpec("average", 1_000_000), "rule"),
        (lambda: MergeSpec("mean", 999_999), "drag_cap"),
        (lambda: MergeSpec("mean", 1_000_000, {"Bad Key": 1}), "merge.options"),
        (lambda: TaskSpec("os.system", b"s" * 32, b"g" * 32, 1), "task reference"),
        (lambda: TaskSpec("a b:c", b"s" * 32, b"g" * 32, 1), "task reference"),
        (lambda: TaskSpec("digits", b"s" * 31, b"g" * 32, 1), "schema"),
        (lambda: TaskSpec("digits", b"s" * 32, b"g" * 32, 0), "dim"),
        (lambda: TaskSpec("digits", b"s" * 32, b"g" * 32, 1, -1), "seed"),
        (lambda: TaskSpec("digits", b"s" * 32, b"g" * 32, 1, 0, {"k": "x" * 257}), "options"),
        (lambda: TaskSpec("digits", b"s" * 32, b"g" * 32, 1, 0, {"k": "\x1b"}), "options"),
        (lambda: with_schema("x" * (DATA_SCHEMA_BYTES + 1)), "task.data_schema in bytes is 65537, must be 0 to 65536"),
        (lambda: with_schema("é" * (DATA_SCHEMA_BYTES // 2) + "x"), "task.data_schema in bytes is 65537"),
        (lambda: with_schema("a = 1\n\x1b[2J = 2\n"), "task.data_schema, line 2: holds control"),
        (lambda: with_schema("a = 1\r\n"), "task.data_schema, line 1"),
        (lambda: with_schema("a\t= 1"), "task.data_schema, line 1"),
        (lambda: with_schema("a = '\u202e'"), "task.data_schema, line 1"),
        (lambda: with_schema("a\u2028b"), "task.data_schema, line 1"),
        (lambda: with_schema("e\u0301"), "task.data_schema, line 1"),
        (lambda: with_schema("\ud800"), "task.data_schema"),
        (lambda: PrivacySpec("none", epsilon_u=1), "without privacy"),
        (lambda: PrivacySpec("none", rate_ppm=1), "without privacy"),
        (lambda: replace(private(), rate_ppm=1), "rate_ppm of full batches"),
        (lambda: replace(private(), steps=1), "steps of full batches"),
        (lambda: replace(private(), mechanism="dp-sgd-poisson"), "rate_ppm is 0, must be 1 to 999999"),
        (lambda: PrivacySpec("dp"), "mechanism"),
        (lambda: replace(private(), delta_exp=0), "delta_exp"),
        (lambda: charter(FOUNDERS, rounds=RoundSpec(51, 0, 0, "all")), "releases is 50, must be at least"),
    ],
)
def test_terms_out_of_bounds_are_refused(make: Any, word: str) -> None:
    with pytest.raises(CharterError, match=word):
        make()


def test_noise_that_does_not_keep_the_promise_is_refused() -> None:
    enough = private(8.0, 50)
    assert enough.noise_u == pytest.approx(4_240_000, rel=0.01)
    with pytest.raises(CharterError, match="cost epsilon"):
        replace(enough, noise_u=enough.noise_u - 1000)
    with pytest.raises(CharterError, match="the charter promises 8"):
        replace(enough, releases=51)
    with pytest.raises(CharterError, match="cost epsilon"):
        replace(enough, delta_exp=6)


def test_references_of_tasks() -> None:
    for reference in ("digits", "breast-cancer", "acme.ward:make_task", "ward:task"):
        assert TaskSpec(reference, b"s" * 32, b"g" * 32, 1).reference == reference


# The members.


def test_names_and_keys_are_unique() -> None:
    twins = sorted((founder(1, "Clinic"), founder(2, "CLINIC")), key=lambda each: each.member.log_id)
    with pytest.raises(CharterError, match="two members are called"):
        charter(twins)
    same = replace(FOUNDERS[1].member, transport=FOUNDERS[0].member.transport)
    with pytest.raises(CharterError, match="in common"):
        charter([FOUNDERS[0], Founder(FOUNDERS[1].root, b"", same), *FOUNDERS[2:]])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": "Somebody Else"}, "differ from those in its genesis"),
        ({"root": bytes(32)}, "differ"),
        ({"log": bytes(32)}, "differ"),
        ({"log_id": bytes(32)}, "differ"),
        ({"genesis": b"\x80"}, "genesis is not valid"),
        ({"witness": b"short"}, "32 bytes"),
        ({"witness": FOUNDERS[0].member.transport}, "different"),
        ({"size_bucket": 64}, "size bucket"),
        ({"addresses": ("127.0.0.1:80",)}, "multiaddress"),
        ({"addresses": ("/ip4/1.2.3.4/tcp/1\x1b",)}, "multiaddress"),
        ({"addresses": ("/ip4/1.2.3.4/tcp/1",) * 2}, "addresses"),
        ({"addresses": tuple(f"/ip4/1.2.3.4/tcp/{i}" for i in range(9))}, "addresses"),
    ],
)
def test_a_member_whose_parts_do_not_fit_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(CharterError, match=word):
        replace(FOUNDERS[0].member, **changes)


@BOUNDED
@given(st.data())
def test_a_changed_genesis_is_refused(data: st.DataObject) -> None:
    payload = bytearray(FOUNDERS[0].member.genesis)
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = parse_genesis(bytes(payload))
    except RemoteProtocolError:
        return
    # The name alone is not under the proof of possession; it is under the log id.
    assert changed.log_id != FOUNDERS[0].member.log_id
    assert (changed.root, changed.key) == (FOUNDERS[0].member.root, FOUNDERS[0].member.log)


# Who is who.


def test_lookups() -> None:
    ring = charter(FOUNDERS, edges=((0, 1), (0, 3), (1, 2), (2, 3)))
    members = ring.members
    assert [ring.index(member.log_id) for member in members] == [0, 1, 2, 3]
    assert ring.neighbors(members[0].log_id) == (members[1], members[3])
    assert ring.neighbors(members[2].log_id) == (members[1], members[3])
    assert ring.by_transport(members[2].transport) == members[2]
    assert ring.by_transport(members[2].log) is None
    assert ring.member(members[1].log_id) == members[1]
    assert ring.member(bytes(32)) is None
    third = 10**9 // 3
    assert ring.weights(members[0].log_id) == {
        members[1].log_id: third,
        members[3].log_id: third,
        members[0].log_id: 10**9 - 2 * third,
    }
    with pytest.raises(CharterError, match="not a member"):
        ring.index(bytes(32))
    with pytest.raises(CharterError, match="not a member"):
        ring.neighbors(bytes(32))


def test_the_plan_is_in_real_units() -> None:
    plan = CHARTER.plan()
    assert (plan.seed, plan.codec, plan.merge_rule, plan.merge_options) == (0, 1, "repute", {"radius": 1.5})
    assert (plan.training.learning_rate, plan.training.local_steps) == (0.5, 4)
    step = CHARTER.privacy_step()
    assert step is not None
    assert (step.clip, step.noise_multiplier) == (1.0, CHARTER.privacy.noise_u / 1e6)
    assert charter(FOUNDERS, privacy=PrivacySpec("none")).privacy_step() is None


@pytest.mark.parametrize(("n", "expected"), [(2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (100, 67)])
def test_quorums_overlap(n: int, expected: int) -> None:
    assert default_quorum(n) == expected
    assert 3 * (2 * expected - n) > n
    assert 2 * smallest_quorum(n) > n


@pytest.mark.parametrize("n", [2, 7, 8, 9, 30])
def test_founding_edges_are_complete_or_six_regular_and_fit_a_charter(n: int) -> None:
    edges = founding_edges(n, 3)
    degrees = [sum(i in edge for edge in edges) for i in range(n)]
    assert set(degrees) == {min(n - 1, 6)}
    assert edges == founding_edges(n, 3)
    assert charter(n, edges=edges).edges == edges
    if n > 8:
        assert edges != founding_edges(n, 4)


# Signing.


def signed_by(*who: Founder) -> bytes:
    note = draft_note(CHARTER)
    for each in who:
        note = sign_charter(note, each.root)
    return note


def test_a_draft_is_signed_by_nobody_and_names_everybody() -> None:
    opened = open_charter(draft_note(CHARTER))
    assert opened.charter == CHARTER
    assert (opened.signed, opened.missing) == (frozenset(), CHARTER.members)
    with pytest.raises(CharterUnsigned) as caught:
        require_signed(opened)
    assert "signed by 0 of 4 members" in caught.value.message
    assert all(each.member.name in caught.value.message for each in FOUNDERS)


def test_signatures_gather_in_any_order_to_the_same_bytes() -> None:
    note = signed_by(*FOUNDERS)
    assert require_signed(open_charter(note)) == CHARTER
    assert signed_by(*reversed(FOUNDERS)) == note
    assert signed_by(*FOUNDERS, FOUNDERS[0]) == note
    apart = [signed_by(each) for each in FOUNDERS]
    assert merge_notes(apart[2], [apart[0], apart[3], apart[1], draft_note(CHARTER)]) == note
    assert merge_notes(draft_note(CHARTER), []) == draft_note(CHARTER)


def test_a_missing_signature_is_named() -> None:
    with pytest.raises(CharterUnsigned) as caught:
        require_signed(open_charter(signed_by(*FOUNDERS[:2])))
    message = caught.value.message
    assert "signed by 2 of 4" in message
    for each in FOUNDERS:
        assert (each.member.name in message) == (each in FOUNDERS[2:])


def test_signatures_of_others_count_for_nothing() -> None:
    stranger = founder(99).root
    with pytest.raises(CharterError, match="belongs to no member"):
        sign_charter(draft_note(CHARTER), stranger)
    text = draft_note(CHARTER).decode()[:-1]
    forged = sign_note(text, "quidnunc/v1/root/" + stranger.public.hex(), stranger).encode()
    assert open_charter(forged).signed == frozenset()
    # The operational keys are not the root key, even under its name.
    posing = sign_note(text, "quidnunc/v1/root/" + FOUNDERS[0].member.root.hex(), stranger).encode()
    assert open_charter(posing).signed == frozenset()


def test_notes_of_two_charters_do_not_merge() -> None:
    other = draft_note(charter(FOUNDERS, purpose="another"))
    with pytest.raises(CharterError, match="two federations"):
        merge_notes(signed_by(FOUNDERS[0]), [other])


@BOUNDED
@given(st.data())
def test_a_changed_note_is_refused_or_loses_a_signature(data: st.DataObject) -> None:
    note = signed_by(*FOUNDERS)
    changed = bytearray(note)
    at = data.draw(st.integers(0, len(note) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        opened = open_charter(bytes(changed))
    except CharterError:
        return
    assert opened.charter == CHARTER
    with pytest.raises(CharterUnsigned):
        require_signed(opened)


@BOUNDED
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_bytes_that_are_no_note_are_refused(data: bytes) -> None:
    for prefix in (b"", b"quidnunc/v1/charter\n", draft_note(CHARTER)[:-1], draft_note(CHARTER)):
        if prefix + data == draft_note(CHARTER):
            continue
        with pytest.raises(CharterError):
            open_charter(prefix + data)


def test_the_note_is_capped() -> None:
    with pytest.raises(CharterError, match="limit"):
        open_charter(draft_note(CHARTER) + b"x" * NOTE_BYTES)
    lines = b"".join(b"\xe2\x80\x94 a AAAAAAAA\n" for _ in range(513))
    with pytest.raises(CharterError, match="512 signature lines"):
        open_charter(draft_note(CHARTER) + lines)


def test_a_federation_id_that_is_not_of_the_body_is_refused() -> None:
    lines = draft_note(CHARTER).split(b"\n")
    lines[1] = b"0" * 64
    with pytest.raises(CharterError, match="not that of the body"):
        open_charter(b"\n".join(lines))


@pytest.mark.slow
def test_the_largest_federation_fits() -> None:
    many = founders(512)
    task = replace(CHARTER.task, data_schema="x" * DATA_SCHEMA_BYTES)
    large = charter(many, edges=founding_edges(512, 0), task=task)
    note = draft_note(large)
    text = note[:-1].decode()
    for each in many:
        note += sign_note(text, "quidnunc/v1/root/" + each.member.root.hex(), each.root).encode()[len(text) + 1 + 0 :]
    assert len(note) < NOTE_BYTES
    assert require_signed(open_charter(note)) == large


def test_a_secret_is_not_a_member() -> None:
    with pytest.raises(CharterError, match="belongs to no member"):
        sign_charter(draft_note(CHARTER), SecretKey(bytes(32)))
