"""What happened to a charter or card on its way: mail programs and editors change text files, and disks cut them short.

Pure diagnosis for people: it never makes a file valid that was not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_BASE64 = re.compile(rb"[A-Za-z0-9+/=]+")
_BOM8, _BOM16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


class Spoiled(NamedTuple):
    """What happened to a file, and the remedy."""

    why: str
    hint: str


def diagnose(data: bytes, first_line: str, what: str, reads: Callable[[bytes], bool]) -> Spoiled | None:
    """What happened to ``data``, which is no valid ``what``, or None if nothing is known that would explain it.

    ``reads`` tells whether bytes are a valid one. The text of such a file is ``first_line``, lines, a blank line and
    signature lines.
    """
    again = f"ask for the {what} again, packed (zip) or as an attachment"
    if not data:
        return Spoiled("the file is empty", again)
    if data.startswith(_BOM16):
        return Spoiled("saved as UTF-16 by some editor", again)
    plain = data.removeprefix(_BOM8)
    if b"\r" in plain and reads(plain.replace(b"\r\n", b"\n").replace(b"\r", b"\n")):
        return Spoiled(
            "its line endings were changed (CR LF in place of LF), as mail programs and editors do",
            f"change them back: sed -i 's/\\r$//' FILE; or {again}",
        )
    if plain != data and reads(plain):
        return Spoiled("an editor has put a byte order mark before it", f"remove its first three bytes, or {again}")
    text = plain.replace(b"\r\n", b"\n")
    before, first, rest = text.partition(first_line.encode() + b"\n")
    if not first:
        return None
    if before.strip():
        return Spoiled("something stands before its first line, such as a mail's header or quotation marks", again)
    if _is_wrapped(rest):
        return Spoiled("its long lines were wrapped, as mail programs do", again)
    _, blank, tail = rest.partition(b"\n\n")
    cut = not blank or (tail and not tail.endswith(b"\n"))
    return Spoiled(f"cut short after {len(data)} bytes", again) if cut else None


def _is_wrapped(rest: bytes) -> bool:
    """Whether what is one line stands on many, all of a length but the last."""
    lines = rest.partition(b"\n\n")[0].split(b"\n")[-4:-1]
    return len(lines) == 3 and len({len(line) for line in lines}) == 1 and bool(_BASE64.fullmatch(b"".join(lines)))
