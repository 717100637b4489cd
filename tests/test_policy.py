"""Verdicts: who vouches for a checkpoint, from when on, and what a policy file may say."""

from __future__ import annotations

from itertools import combinations

import pytest
from histories import T_MS, History, cosigned, key_of, witness
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.checkpoint import witness_verifier
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.note import Signature, Verifier, format_vkey, parse_note
from quidnunc.crypto.policy import (
    CLOCK_SKEW_S,
    Cosigner,
    Group,
    Policy,
    TimeBounds,
    Verdict,
    Witness,
    flat_policy,
    judge,
    quorum_of,
    time_bounds,
)
from quidnunc.crypto.policy_file import (
    MAX_POLICY_BYTES,
    MAX_POLICY_GROUPS,
    MAX_POLICY_LOGS,
    MAX_POLICY_WITNESSES,
    format_policy,
    parse_policy,
)

HISTORY = History("clinic").grow(20)
NAMES = ("b", "c", "d", "e", "f")
NOW = T_MS // 1000


def witness_named(name: str) -> Witness:
    log_id, key = witness(name)
    return Witness(name, witness_verifier(log_id, key.public))


WITNESSES = tuple(witness_named(name) for name in NAMES)


def verdict(need: int, *names: str, latest: int = 2**63 - 1) -> Verdict:
    note = parse_note(cosigned(HISTORY.note(), *names, time=NOW))
    return judge(note, flat_policy(HISTORY.verifier, WITNESSES, need), latest=latest)


def test_without_cosignatures_a_log_speaks_for_itself() -> None:
    for need in (0, 1, 5):
        found = verdict(need)
        assert (found.label, found.cosigners, found.since, found.met) == ("SELF-ATTESTED", (), None, need == 0)
        assert found.checkpoint.size == 20


def test_a_quorum_is_complete_at_its_last_cosignature() -> None:
    for need in range(1, 6):
        for count in range(6):
            found = verdict(need, *NAMES[:count])
            assert found.met == (count >= need)
            assert found.label == (f"WITNESSED {count} of 5" if count >= need else "SELF-ATTESTED")
            assert found.since == (NOW + need - 1 if count >= need else None)
            assert found.cosigners == tuple(Cosigner(name, NOW + at) for at, name in enumerate(NAMES[:count]))


def test_cosignatures_that_do_not_count() -> None:
    # By somebody whom the policy does not list, of a time that has not come, a second one of the same witness.
    assert verdict(1, "x", "y").label == "SELF-ATTESTED"
    assert verdict(2, "b", "c", latest=NOW).label == "SELF-ATTESTED"
    assert verdict(1, "b", "c", latest=NOW).label == "WITNESSED 1 of 5"
    assert verdict(2, "b", "b").label == "SELF-ATTESTED"
    assert verdict(1, "b", "b").cosigners == (Cosigner("b", NOW),)


def test_the_owner_does_not_vouch_for_itself() -> None:
    # The log key's own line, and a cosignature under the log's name by a key that nobody listed.
    found = verdict(1, "clinic")
    assert found.label == "SELF-ATTESTED"


def test_bad_lines_of_known_keys_spoil_the_note() -> None:
    policy = flat_policy(HISTORY.verifier, WITNESSES, 1)
    note = parse_note(cosigned(HISTORY.note(), "b"))
    line = note.signatures[1]
    for signature in (bytes(72), line.signature[:-1], line.signature[8:], b"\xff" * 8 + line.signature[8:]):
        spoiled = note._replace(signatures=(note.signatures[0], Signature(line.name, line.key_id, signature)))
        with pytest.raises(RemoteProtocolError) as caught:
            judge(spoiled, policy)
        assert caught.value.reason is Reason.BAD_SIGNATURE
    moved = parse_note(cosigned(HISTORY.note(19), "b"))._replace(text=note.text)
    for signatures in (moved.signatures, (note.signatures[0], moved.signatures[1])):
        with pytest.raises(RemoteProtocolError) as caught:
            judge(note._replace(signatures=signatures), policy)
        assert caught.value.reason is Reason.BAD_SIGNATURE


def test_another_log_is_a_stranger_and_an_unsigned_note_is_refused() -> None:
    stranger = History("stranger").grow(3)
    for note, reason in (
        (stranger.note(), Reason.STRANGER),
        (HISTORY.note(key=key_of("thief")), Reason.BAD_SIGNATURE),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            judge(parse_note(note), flat_policy(HISTORY.verifier, WITNESSES, 0))
        assert caught.value.reason is reason


def test_groups_of_groups() -> None:
    policy = Policy(
        (HISTORY.verifier,),
        WITNESSES,
        (Group("x", 2, ("b", "c", "d")), Group("y", 1, ("e", "f")), Group("both", 2, ("x", "y"))),
        "both",
    )
    for count in range(6):
        for names in combinations(NAMES, count):
            found = judge(parse_note(cosigned(HISTORY.note(), *names, time=NOW)), policy)
            assert found.met == (len({*names} & {"b", "c", "d"}) >= 2 and bool({*names} & {"e", "f"}))
    late = judge(parse_note(cosigned(HISTORY.note(), "e", "c", "d", time=NOW)), policy)
    assert late.since == NOW + 2
    assert parse_policy(format_policy(policy)) == policy


def test_quorums_do_not_overlap_in_liars_alone() -> None:
    assert [quorum_of(n) for n in (1, 2, 3, 4, 5, 8)] == [1, 2, 2, 3, 4, 6]
    for n in range(1, 65):
        k, f = quorum_of(n), (n - 1) // 3
        assert 2 * k - n > f, "two quorums share an honest witness"
        assert 2 * (k - 1) - n <= f, "the smallest such"
        assert k <= n - f or n == 2, "the honest ones suffice"
    with pytest.raises(LocalProtocolError):
        quorum_of(0)
    for need in (-1, 6):
        with pytest.raises(LocalProtocolError):
            flat_policy(HISTORY.verifier, WITNESSES, need)


def test_a_witness_called_quorum_is_one_witness() -> None:
    log_id, key = witness("b")
    named = (Witness("quorum", witness_verifier(log_id, key.public)), *WITNESSES[1:])
    policy = flat_policy(HISTORY.verifier, named, 3)
    found = judge(parse_note(cosigned(HISTORY.note(), "b")), policy)
    assert (found.label, found.met) == ("SELF-ATTESTED", False)
    assert parse_policy(format_policy(policy)) == policy
    with pytest.raises(LocalProtocolError, match="different witnesses"):
        flat_policy(HISTORY.verifier, (named[0], named[1]._replace(name="quorum")), 1)
    with pytest.raises(LocalProtocolError):
        format_policy(flat_policy(HISTORY.verifier, (named[0]._replace(name="Clinic B"),), 1))


# Times.


def at(size: int, *names: str, time: int) -> Verdict:
    return judge(
        parse_note(cosigned(HISTORY.note(size), *names, time=time)), flat_policy(HISTORY.verifier, WITNESSES, 2)
    )


def test_the_three_bounds_are_never_blended() -> None:
    verdicts = [
        at(4, "b", "c", time=100),
        at(5, "d", time=150),
        at(6, "b", "c", time=200),
        at(9, "b", "c", "d", time=190),
        at(7, "b", time=180),
    ]
    cited = [(3, 80), (5, 120), (6, 500)]
    assert time_bounds(5, 130_000, verdicts, cited) == TimeBounds(130_000, 120, 191, 150)
    assert time_bounds(3, 0, verdicts, cited) == TimeBounds(0, 80, 101, None)
    assert time_bounds(9, 0, verdicts) == TimeBounds(0, None, None, 201)
    assert time_bounds(0, 0, []) == TimeBounds(0, None, None, None)


@pytest.mark.parametrize(
    ("claimed", "before", "after", "flag"),
    [
        (1000, None, None, ""),
        (1000, 1000 + CLOCK_SKEW_S, None, ""),
        (1000, 1001 + CLOCK_SKEW_S, None, "BACKDATED"),
        (1000 + CLOCK_SKEW_S, None, 1000, ""),
        (1001 + CLOCK_SKEW_S, None, 1000, "POSTDATED"),
    ],
)
def test_a_claim_outside_the_hard_bounds_is_flagged(
    claimed: int, before: int | None, after: int | None, flag: str
) -> None:
    assert TimeBounds(claimed * 1000, before, after, None).flag == flag
    # What was first unseen proves nothing.
    assert TimeBounds(claimed * 1000, None, None, claimed + 10**6).flag == ""


# Files.

LOG = f"log {format_vkey(HISTORY.verifier)}"
LINES = [LOG, *(f"witness {each.name} {format_vkey(each.verifier)}" for each in WITNESSES)]


def policy_text(*more: str) -> bytes:
    return "\n".join([*LINES, *more, ""]).encode()


def test_a_policy_as_people_write_it() -> None:
    text = (
        "# our consortium\n\n"
        f"  {LOG} https://example.org/log \n"
        f"witness\tb  {format_vkey(WITNESSES[0].verifier)}\thttps://b.example\n"
        f"witness c {format_vkey(WITNESSES[1].verifier)}\n"
        "\t# both\ngroup g all b c\nquorum g"
    )
    policy = parse_policy(text.encode())
    assert policy == Policy((HISTORY.verifier,), WITNESSES[:2], (Group("g", 2, ("b", "c")),), "g")
    assert policy.rule == "2 of 2"
    assert parse_policy(format_policy(policy)) == policy
    assert parse_policy(policy_text("quorum none")).rule == "none"
    assert parse_policy(policy_text("quorum b")).rule == "b"
    assert parse_policy(policy_text("group g any b c", "quorum g")).groups[0].need == 1


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
@settings(deadline=None, max_examples=50)
def test_every_policy_reads_back(sizes: list[int], data: st.DataObject) -> None:
    free = list(NAMES)
    groups = []
    for number, size in enumerate(sizes):
        members = tuple(free.pop(data.draw(st.integers(0, len(free) - 1))) for _ in range(min(size, len(free))))
        groups.append(Group(f"g{number}", data.draw(st.integers(1, len(members))), members))
        free.append(f"g{number}")
    quorum = data.draw(st.sampled_from(["none", *NAMES, *(group.name for group in groups)]))
    policy = Policy((HISTORY.verifier,), WITNESSES, tuple(groups), quorum)
    assert parse_policy(format_policy(policy)) == policy


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "must have a quorum line"),
        (policy_text(), "must have a quorum line"),
        (policy_text("quorum"), "line 7: must be a log"),
        (policy_text("quorum g"), "line 7: quorum 'g' is not defined"),
        (policy_text("quorum b", "quorum b"), "line 8: a second quorum"),
        (policy_text("quorum log", LOG), "not defined"),
        (policy_text("Quorum none"), "must be a log"),
        (policy_text(LOG, "quorum none"), "line 7: this key is listed already"),
        (policy_text(f"witness z {format_vkey(HISTORY.verifier)}", "quorum none"), "type 1, must be 4"),
        (policy_text(f"witness z {format_vkey(WITNESSES[0].verifier)}", "quorum none"), "listed already"),
        (
            policy_text(f"witness z {format_vkey(Verifier('z', HISTORY.key.public, 4))}", "quorum none"),
            "listed already",
        ),
        (policy_text(f"log {format_vkey(WITNESSES[0].verifier)}", "quorum none"), "type 4, must be 1"),
        (policy_text("log nonsense", "quorum none"), "verifier key|base64"),
        (policy_text("group g 2 b", "quorum g"), "a group of 1 needs"),
        (policy_text("group g 0 b", "quorum g"), "a group of 1 needs"),
        (policy_text("group g 01 b", "quorum g"), "a group of 1 needs"),
        (policy_text("group g most b", "quorum g"), "a group of 1 needs"),
        (policy_text("group g any", "quorum g"), "must be a log"),
        (policy_text("group g any b b", "quorum g"), "'b' is not defined above, or"),
        (policy_text("group g any b", "group h any b c", "quorum h"), "'b' is not defined above, or"),
        (policy_text("group g any g", "quorum g"), "'g' is not defined"),
        (policy_text("group g any z", "quorum g"), "'z' is not defined"),
        (policy_text("group g any none", "quorum g"), "'none' is not defined"),
        (policy_text("group b any c", "quorum b"), "the name 'b' is taken"),
        (policy_text("group none any c", "quorum none"), "the name 'none' is taken"),
        (policy_text("quorum b\r"), "control character"),
        (policy_text("quorum none\0"), "control character"),
        (b"\xff\xfe\nquorum none", "UTF-8"),
        (b"#" * (MAX_POLICY_BYTES + 1), "limit is 65536"),
    ],
)
def test_malformed_policies_are_refused_by_line(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse_policy(data)


def many(what: str, count: int) -> bytes:
    keys = [key_of(f"{what} {number}").public for number in range(count)]
    if what == "log":
        lines = [f"log {format_vkey(Verifier(f'l{n}', key))}" for n, key in enumerate(keys)]
    elif what == "witness":
        lines = [f"witness w{n} {format_vkey(Verifier(f'w{n}', key, 4))}" for n, key in enumerate(keys)]
    else:
        lines = [*LINES, "group g0 any b", *(f"group g{n} any g{n - 1}" for n in range(1, count))]
    return "\n".join([*lines, "quorum none"]).encode()


@pytest.mark.parametrize(
    ("what", "limit"), [("log", MAX_POLICY_LOGS), ("witness", MAX_POLICY_WITNESSES), ("group", MAX_POLICY_GROUPS)]
)
def test_limits_are_exact(what: str, limit: int) -> None:
    assert parse_policy(many(what, limit))
    with pytest.raises(Malformed, match=f"more than {limit}"):
        parse_policy(many(what, limit + 1))
    assert parse_policy(b"quorum none\n".ljust(MAX_POLICY_BYTES, b"\n"))
