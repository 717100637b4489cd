"""Signed notes against those of Go and C2SP, and every form that must be refused."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.note import (
    COSIGNATURE,
    ED25519,
    MAX_SIGNATURES,
    Note,
    Signature,
    Verifier,
    add_signature,
    cosignature_time,
    format_note,
    format_vkey,
    key_id,
    parse_note,
    parse_vkey,
    sign_note,
    verify_note,
)

# golang.org/x/mod/sumdb/note, example_test.go
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# c2sp.org/signed-note
EXAMPLE = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

KEY = SecretKey(bytes(range(32)))
WITNESS = SecretKey(bytes([7]) * 32)
VERIFIER = Verifier("me", KEY.public)
GOOD = sign_note("text\n", "me", KEY)
LINE = GOOD.split("\n")[2]

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="+"),
    min_size=1,
    max_size=20,
)
lines = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
texts = st.lists(lines, min_size=1, max_size=4).map(lambda each: "\n".join(each) + "\n")


def test_go_signs_the_same_note() -> None:
    secret = base64.b64decode(PETER_SECRET)
    assert secret[0] == ED25519
    key = SecretKey(secret[1:])
    assert format_vkey(Verifier("PeterNeumann", key.public)) == PETER
    assert sign_note(PETER_TEXT, "PeterNeumann", key) == f"{PETER_TEXT}\n{PETER_LINE}"


@pytest.mark.parametrize(
    ("vkey", "note"), [(PETER, f"{PETER_TEXT}\n{PETER_LINE}"), (EXAMPLE, EXAMPLE_NOTE)], ids=["go", "c2sp"]
)
def test_published_notes_verify_and_only_unchanged(vkey: str, note: str) -> None:
    verifier = parse_vkey(vkey)
    assert format_vkey(verifier) == vkey
    parsed = parse_note(note)
    assert verify_note(parsed, [verifier]) == [verifier.name]
    assert format_note(parsed) == note
    with pytest.raises(RemoteProtocolError) as caught:
        verify_note(parsed._replace(text="x" + parsed.text[1:]), [verifier])
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_a_key_id_is_the_documented_hash() -> None:
    expected = hashlib.sha256(b"a/b\n\x04" + KEY.public).digest()[:4]
    assert key_id("a/b", COSIGNATURE, KEY.public) == Verifier("a/b", KEY.public, COSIGNATURE).id == expected


@given(texts, names)
@settings(deadline=None, max_examples=100)
def test_every_signed_note_reads_back(text: str, name: str) -> None:
    note = sign_note(text, name, KEY)
    for data in (note, note.encode()):
        parsed = parse_note(data)
        assert parsed.text == text
        assert format_note(parsed) == note
        assert verify_note(parsed, [Verifier(name, KEY.public)]) == [name]


@given(st.integers(0), st.integers(0, 255), st.sampled_from(["set", "insert", "delete"]))
@settings(deadline=None, max_examples=200)
def test_a_mutated_note_is_refused_or_says_the_same(where: int, value: int, action: str) -> None:
    data = bytearray(GOOD.encode())
    where %= len(data)
    if action == "set":
        data[where] = value
    elif action == "insert":
        data.insert(where, value)
    else:
        del data[where]
    try:
        parsed = parse_note(bytes(data))
        signed = verify_note(parsed, [VERIFIER])
    except RemoteProtocolError:
        return
    assert format_note(parsed).encode() == bytes(data)
    assert not signed or bytes(data) == GOOD.encode()


@given(st.binary(max_size=100) | st.text(max_size=100))
@settings(deadline=None, max_examples=200)
def test_arbitrary_input_is_a_note_or_refused(data: bytes | str) -> None:
    try:
        parsed = parse_note(data)
    except Malformed:
        return
    assert format_note(parsed) == (data if isinstance(data, str) else data.decode())


@pytest.mark.parametrize(
    ("note", "what"),
    [
        ("", "nothing"),
        ("text\n", "no signature"),
        ("text\n\n", "no signature line"),
        ("text\n\n\n", "an empty signature line"),
        (f"text\n{LINE}\n", "no blank line"),
        (f"text\n\n{LINE}", "no final newline"),
        (f"text\n\n{LINE}\n\n", "a blank line at the end"),
        (f"text\n\n{LINE}\nx", "something behind"),
        (f"text\n\n\n{LINE}\nx\n", "a line that is no signature"),
        (f"te\txt\n\n{LINE}\n", "a tab"),
        (f"text\r\n\n{LINE}\n", "a carriage return"),
        (f"te\0xt\n\n{LINE}\n", "NUL"),
        (f"te\x7fxt\n\n{LINE}\n", "delete"),
        (f"te\x85xt\n\n{LINE}\n", "a C1 control"),
        (f"text\n\n{LINE.replace('—', '-')}\n", "a hyphen for the dash"),
        (f"text\n\n{LINE.replace('— ', '—')}\n", "no space behind the dash"),
        (f"text\n\n {LINE}\n", "a space before the dash"),
        (f"text\n\n{LINE} \n", "a space at the end"),
        (f"text\n\n{LINE.replace('me ', 'me  ')}\n", "two spaces"),
        (f"text\n\n{LINE.replace('me ', '')}\n", "no name"),
        (f"text\n\n{LINE.replace('me ', 'm+e ')}\n", "a plus in the name"),
        ("text\n\n" + LINE.replace("me ", "m\u00a0e ") + "\n", "a no-break space in the name"),
        ("text\n\n" + LINE.replace("me ", "m\u2028e ") + "\n", "a line separator in the name"),
        (f"text\n\n{LINE.replace('me ', 'm' * 257 + ' ')}\n", "a long name"),
        ("text\n\n— me \n", "no base64"),
        ("text\n\n— me AAAAAA==\n", "a key id and nothing else"),
        ("text\n\n— me AAAAAAB=\n", "base64 with stray bits"),
        ("text\n\n— me AAAAAAA\n", "base64 without padding"),
        ("text\n\n— me AAAAAAA==\n", "base64 with too much padding"),
        ("text\n\n— me AAAA-AA=\n", "base64 of another alphabet"),
        ("text\n\n— me AAAA\u0661AAA\n", "a digit that is not ASCII"),
        ("text\n\n" + f"{LINE}\n" * (MAX_SIGNATURES + 1), "too many signatures"),
        ("\ud800\n\n" + LINE + "\n", "a surrogate"),
        ("x" * 20_000 + f"\n\n{LINE}\n", "too many bytes"),
    ],
    ids=lambda item: "" if "\n" in item else item,
)
def test_malformed_notes_are_refused(note: str, what: str) -> None:
    with pytest.raises(Malformed):
        parse_note(note)


@pytest.mark.parametrize("data", [b"\xff\n\n", b"te\xc3\x28xt\n\n", b"\xed\xa0\x80\n\n"])
def test_bad_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="UTF-8"):
        parse_note(data + LINE.encode() + b"\n")


def test_the_last_blank_line_parts_text_and_signatures() -> None:
    # As in Go: a text may hold blank lines, and what looks like a signature above the last one is text.
    inner = f"text\n\n{LINE}\n"
    parsed = parse_note(sign_note(inner, "me", WITNESS))
    assert parsed.text == inner
    assert verify_note(parsed, [VERIFIER]) == []


def test_the_limit_on_signatures_is_exact() -> None:
    note = parse_note("text\n\n" + f"{LINE}\n" * MAX_SIGNATURES)
    assert verify_note(note, [VERIFIER]) == ["me"]
    with pytest.raises(LocalProtocolError, match="64 signatures"):
        add_signature(note, "me", KEY)


def test_unknown_keys_are_passed_over_and_a_known_one_must_be_right() -> None:
    note = add_signature(parse_note(GOOD), "other", WITNESS)
    assert verify_note(note, []) == []
    assert verify_note(note, [VERIFIER]) == ["me"]
    assert verify_note(note, [Verifier("other", WITNESS.public), VERIFIER]) == ["me", "other"]
    # The right key under another name, or another key under the right one, is not known.
    assert verify_note(note, [Verifier("you", KEY.public), Verifier("me", WITNESS.public)]) == []
    spoiled = Signature("me", VERIFIER.id, bytes(64))
    for signatures in ((spoiled,), (*note.signatures, spoiled), (spoiled, *note.signatures)):
        with pytest.raises(RemoteProtocolError) as caught:
            verify_note(Note("text\n", signatures), [VERIFIER])
        assert caught.value.reason is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("size", [1, 63, 65, 72])
@pytest.mark.parametrize("sig_type", [ED25519, COSIGNATURE])
def test_signatures_of_other_sizes_are_bad(size: int, sig_type: int) -> None:
    verifier = Verifier("me", KEY.public, sig_type)
    with pytest.raises(RemoteProtocolError) as caught:
        verify_note(Note("text\n", (Signature("me", verifier.id, bytes(size)),)), [verifier])
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_two_keys_that_one_line_could_mean_are_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verifier, "id", property(lambda self: b"same"))
    with pytest.raises(LocalProtocolError, match="two keys of me"):
        verify_note(parse_note(GOOD), [VERIFIER, Verifier("me", WITNESS.public)])
    assert verify_note(parse_note(GOOD), [VERIFIER, VERIFIER]) == []


def test_a_cosignature_signs_its_time() -> None:
    note = add_signature(parse_note(GOOD), "w", WITNESS, COSIGNATURE, time=1_760_000_002)
    verifier = Verifier("w", WITNESS.public, COSIGNATURE)
    assert verify_note(note, [verifier]) == ["w"]
    line = note.signatures[1]
    assert cosignature_time(line) == 1_760_000_002
    message = b"cosignature/v1\ntime 1760000002\ntext\n"
    assert line.signature[8:] == WITNESS.sign(message)
    later = line._replace(signature=(1_760_000_003).to_bytes(8, "big") + line.signature[8:])
    # The same bytes taken for a plain signature are wrong too.
    for bad in (line._replace(signature=line.signature[8:]), later):
        with pytest.raises(RemoteProtocolError):
            verify_note(Note("text\n", (bad,)), [verifier])
    with pytest.raises(Malformed):
        cosignature_time(note.signatures[0])


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "\u2003", "x" * 257, "\ud800", "\x1b"])
def test_a_name_that_could_not_be_read_back_is_a_bug_of_ours(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        sign_note("text\n", name, KEY)


@pytest.mark.parametrize("text", ["", "text", "te\txt\n", "\ud800\n"])
def test_a_text_that_could_not_be_read_back_is_a_bug_of_ours(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        sign_note(text, "me", KEY)


@pytest.mark.parametrize(("sig_type", "time"), [(2, 0), (6, 0), (COSIGNATURE, -1), (COSIGNATURE, 2**63)])
def test_only_known_signatures_are_made(sig_type: int, time: int) -> None:
    with pytest.raises(LocalProtocolError):
        sign_note("text\n", "me", KEY, sig_type, time=time)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "a",
        "a+b",
        "a+530d903a+",
        EXAMPLE[:-1],
        EXAMPLE.replace("530d903a", "530d903b"),
        EXAMPLE.upper(),
        EXAMPLE.replace("example", "exbmple"),
        " " + EXAMPLE,
        EXAMPLE + "+",
        EXAMPLE.replace("+Ae", "+Be"),
    ],
)
def test_malformed_keys_are_refused(vkey: str) -> None:
    with pytest.raises(Malformed):
        parse_vkey(vkey)
