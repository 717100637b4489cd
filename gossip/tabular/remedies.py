"""What a cell that is no number probably was meant to be, and so what to do about it."""

from __future__ import annotations

import re
import unicodedata

from quidnunc.gossip.tabular.findings import printable

PLAIN_REMEDY = "write the number alone (the unit stands in the schema), or leave the cell empty"

_NUMBER = r"[+-]?\d+(?:[.,]\d+)?"
_KINDS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), what, remedy)
    for pattern, what, remedy in (
        (
            r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?: .*)?",
            "is a date, not a number",
            'write it as a number, for example days or an age, or kind = "ignore" in the schema',
        ),
        (r"\d{1,3}:\d{2}(?::\d{2})?", "is a time, not a number", "write it as a number, for example of minutes"),
        (
            rf"{_NUMBER}\s*%",
            "has a percent sign, must be a number alone",
            "write the number without the sign, and state its unit in the schema",
        ),
        (
            rf"(?:[<>]=?|~)\s*{_NUMBER}",
            "is a bound, not a number",
            "write the limit itself if all members do, or leave the cell empty",
        ),
        (
            rf"{_NUMBER}\s*(?:-|to|\.\.)\s*{_NUMBER}",
            "is a span, not a number",
            "write one number, for example its middle",
        ),
        (
            r"true|false|yes|no|y|n|t|f",
            "is a truth value, not a number",
            'write 1 or 0, or kind = "category" with its values in the schema',
        ),
        (r"=.*", "is a formula, not a number", "export the values of the cells, not their formulas"),
        (
            r"[+-]?(?:inf|infinity)|[+-]?\d+(?:[.,]\d*)?(?:e[+-]?\d+)?",
            "is not a finite number",
            "correct the cell, or leave it empty",
        ),
        (rf"['\"]{_NUMBER}['\"]?", "has a quote in the cell, must be a number alone", "remove the quote"),
    )
)
_SIGNS = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
    "\u066b": ".",
    "\uff0c": ",",
}


def number_meant(cell: str) -> tuple[str, str]:
    """What is wrong with ``cell`` as a number, in words that follow the cell, and the remedy."""
    for pattern, what, remedy in _KINDS:
        if pattern.fullmatch(cell):
            return what, remedy
    odd = next((char for char in cell if not char.isascii()), "")
    if odd and re.fullmatch(rf"{_NUMBER}(?:e[+-]?\d+)?", _plain(cell), re.ASCII | re.IGNORECASE):
        name = unicodedata.name(odd, "no name")
        what = f"has the character U+{ord(odd):04X} ({name.lower()}) in it"
        return what, f"write it with plain characters: {printable(_plain(cell))}"
    return "is not a number", PLAIN_REMEDY


def _plain(cell: str) -> str:
    """``cell`` in ASCII digits and signs, as far as it means those, without characters that are not seen."""
    seen = (char for char in cell if unicodedata.category(char) != "Cf")
    digits = (str(unicodedata.digit(char)) if char.isdigit() else _SIGNS.get(char, char) for char in seen)
    return "".join(digits)
