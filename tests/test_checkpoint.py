"""Checkpoints: one text per checkpoint, and only the right key's note opens."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.checkpoint import (
    Checkpoint,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.merkle import MAX_SIZE, empty_root, leaf_hash
from quidnunc.crypto.note import COSIGNATURE, add_signature, format_note, parse_note, sign_note

KEY = SecretKey(bytes(range(32)))
WITNESS = SecretKey(bytes([7]) * 32)
ORIGIN = "quidnunc/v1/" + "ab" * 32
CHECKPOINT = Checkpoint(ORIGIN, 5, leaf_hash(b"root"))
ROOT = base64.b64encode(CHECKPOINT.root).decode()

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="+"),
    min_size=1,
    max_size=20,
)


def test_the_tree_note_of_sumdb_has_the_body_of_a_checkpoint() -> None:
    # tlog.FormatTree writes "go.sum database tree", whose spaces no origin of ours may hold; the rest agrees.
    body = format_checkpoint(Checkpoint("go.sum-database-tree", 123456789012, leaf_hash(b"hello world")))
    assert body.split("\n")[1:] == ["123456789012", "TszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=", ""]


@given(names, st.integers(0, MAX_SIZE), st.binary(min_size=32, max_size=32))
@settings(deadline=None, max_examples=100)
def test_every_checkpoint_reads_back(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root if size else empty_root())
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint
    assert open_checkpoint(sign_checkpoint(checkpoint, KEY), origin, KEY.public) == checkpoint


@given(st.text(max_size=60) | st.lists(st.sampled_from([ORIGIN, "5", "05", "\n", "-", "AA==", " "])).map("".join))
@settings(deadline=None, max_examples=200)
def test_arbitrary_text_is_a_checkpoint_or_refused(text: str) -> None:
    try:
        checkpoint = parse_checkpoint(text)
    except Malformed:
        return
    assert format_checkpoint(checkpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n5\n{ROOT}",
        f"{ORIGIN}\n5\n{ROOT}\n\n",
        f"{ORIGIN}\n5\n{ROOT}\nextension",
        f"{ORIGIN}\n5\n{ROOT}\nextension\n",
        f"{ORIGIN}\n5\n",
        f"\n5\n{ROOT}\n",
        f"a b\n5\n{ROOT}\n",
        f"{ORIGIN}+\n5\n{ROOT}\n",
        *(
            f"{ORIGIN}\n{size}\n{ROOT}\n"
            for size in [
                "",
                "05",
                "+5",
                "-5",
                " 5",
                "5 ",
                "5_0",
                "0x5",
                "5.0",
                "\u0665",
                str(2**63),
                "9" * 5000,
            ]
        ),
        f"{ORIGIN}\n{'9' * 5000}\n{ROOT}\n",
        f"{ORIGIN}\n0\n{ROOT}\n",
        *(f"{ORIGIN}\n5\n{root}\n" for root in ["", "AAAA", ROOT[:-1], ROOT[:-1] + "A", ROOT + "=", ROOT + ROOT]),
        f"{ORIGIN}\n5\n{ROOT[:-2]}N=\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "change",
    [{"origin": "a b"}, {"origin": ""}, {"size": -1}, {"size": 2**63}, {"root": b""}, {"size": 0}],
)
def test_a_checkpoint_that_could_not_be_read_back_is_a_bug_of_ours(change: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        sign_checkpoint(CHECKPOINT._replace(**change), KEY)


def test_a_checkpoint_opens_for_its_origin_and_key_only() -> None:
    note = sign_checkpoint(CHECKPOINT, KEY)
    assert open_checkpoint(note, ORIGIN, KEY.public) == CHECKPOINT
    cosigned = add_signature(parse_note(note), "w", WITNESS, COSIGNATURE, time=5)
    assert open_checkpoint(format_note(cosigned).encode(), ORIGIN, KEY.public) == CHECKPOINT
    with pytest.raises(RemoteProtocolError) as caught:
        open_checkpoint(note, ORIGIN[:-1] + "c", KEY.public)
    assert caught.value.reason is Reason.STRANGER
    foreign = sign_note(format_checkpoint(CHECKPOINT), ORIGIN, WITNESS).encode()
    renamed = sign_note(format_checkpoint(CHECKPOINT), "w", KEY).encode()
    for unsigned in (foreign, renamed):
        with pytest.raises(RemoteProtocolError) as caught:
            open_checkpoint(unsigned, ORIGIN, KEY.public)
        assert caught.value.reason is Reason.BAD_SIGNATURE
    with pytest.raises(RemoteProtocolError) as caught:
        open_checkpoint(note.replace(b"\n5\n", b"\n6\n"), ORIGIN, KEY.public)
    assert caught.value.reason is Reason.BAD_SIGNATURE
