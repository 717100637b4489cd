"""What mail programs, editors and disks do to charters and cards is named, with the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from founders import charter, founders
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.crypto.errors import CharterError
from quidnunc.gossip.federation.card import make_card, open_card
from quidnunc.gossip.federation.founding import draft_note, open_charter, sign_charter

TRIO = founders(3)
CARD = make_card(TRIO[0].member, TRIO[0].root)
DRAFT = draft_note(charter(TRIO))
SIGNED = DRAFT
for founder in TRIO:
    SIGNED = sign_charter(SIGNED, founder.root)


def crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def wrapped(data: bytes) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join(line[at : at + 76] for line in lines for at in range(0, max(1, len(line)), 76))


CASES: list[tuple[Callable[[bytes], bytes], str, str]] = [
    (crlf, "its line endings were changed (CR LF in place of LF)", "sed -i"),
    (lambda data: data.replace(b"\n", b"\r"), "its line endings were changed", "sed -i"),
    (lambda data: b"\xef\xbb\xbf" + data, "byte order mark", "first three bytes"),
    (lambda data: b"\xef\xbb\xbf" + crlf(data), "its line endings were changed", "sed -i"),
    (lambda data: data.decode().encode("utf-16"), "saved as UTF-16", "as an attachment"),
    (lambda data: b"", "the file is empty", "again"),
    (lambda data: data[:100], "cut short after 100 bytes", "again"),
    (lambda data: data[:-1], "cut short after", "again"),
    (lambda data: data[:-30], "cut short after", "again"),
    (wrapped, "its long lines were wrapped", "as an attachment"),
    (lambda data: b"From: a@b\n\n" + data, "something stands before its first line", "as an attachment"),
    (lambda data: b"\n".join(b"> " + line for line in data.split(b"\n")), "something stands before", "attachment"),
]


@pytest.mark.parametrize(("spoil", "why", "hint"), CASES)
@pytest.mark.parametrize(("data", "opens"), [(SIGNED, open_charter), (CARD, open_card)], ids=["charter", "card"])
def test_what_happened_to_a_file_is_named(
    data: bytes, opens: Callable[[bytes], object], spoil: Callable[[bytes], bytes], why: str, hint: str
) -> None:
    opens(data)
    with pytest.raises(CharterError) as caught:
        opens(spoil(data))
    assert why in caught.value.message
    assert hint in caught.value.hint


def test_a_draft_that_is_cut_in_its_body_is_told_from_one_that_nobody_signed() -> None:
    assert len(open_charter(DRAFT).missing) == 3
    with pytest.raises(CharterError, match="cut short after"):
        open_charter(DRAFT[:-1])


def test_what_nobody_did_by_accident_keeps_its_own_words() -> None:
    changed = SIGNED.replace(b"\n", b"\n0", 1)
    with pytest.raises(CharterError) as caught:
        open_charter(changed)
    assert "cut short" not in caught.value.message
    assert caught.value.hint == "ask its drafter for the file again"


def opened_or_refused(data: bytes) -> str:
    """What is said of a charter: why it is refused, or who has not signed it."""
    try:
        return ", ".join(member.name for member in open_charter(data).missing)
    except CharterError as error:
        return error.message


@given(st.integers(1, len(SIGNED) - 1))
def test_a_charter_cut_anywhere_is_cut_short_or_lacks_signatures(size: int) -> None:
    told = opened_or_refused(SIGNED[:size])
    first_line = len("quidnunc/v1/charter\n")
    assert "Hospital" in told or "cut short" in told or size < first_line, told
    assert told, "a part is never the whole"
