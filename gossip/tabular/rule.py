"""Which target values count as positive: ``> 0``, ``>= 1``, ``< 7``, ``<= 7``, ``= yes``, ``in [2, 3]``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from quidnunc.crypto.errors import ConfigError

RULE_CHARS_MAX = 1024

_ORDER = re.compile(r"(>=|<=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)", re.ASCII)
# "=> 0" and "== 0" are slips; a value that begins with a sign has a space or a quote before it.
_EQUAL = re.compile(r"=(?![<>=]\s*\S)\s*(\S.*)")
_WHOLE = re.compile(r"([+-]?\d+)[.,]0*", re.ASCII)
_AMONG = re.compile(r"in\s*\[(.*)\]")
_SIGNS = {"=>": ">=", "=<": "<=", "==": "=", "> =": ">=", "< =": "<=", "\u2265": ">=", "\u2264": "<=", "=": "="}
"""What is written for the signs of rules, longest first, and the signs themselves."""
RULE_HINT = 'write it like positive = "> 0", positive = "= yes" or positive = "in [2, 3]"'


@dataclass(frozen=True, slots=True)
class Rule:
    """Orders compare numbers with ``bound``; ``=`` and ``in`` compare texts with ``words``, where 1.0 equals 1."""

    text: str
    order: str = ""
    bound: float = 0.0
    words: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether the target must be a number."""
        return bool(self.order)

    def above(self, value: float) -> bool:
        """Whether a number is positive under an order."""
        match self.order:
            case ">":
                return value > self.bound
            case ">=":
                return value >= self.bound
            case "<":
                return value < self.bound
            case _:
                return value <= self.bound


def parse_rule(text: str) -> Rule:
    """Read a rule; raises ConfigError with the forms there are."""
    shown = text.strip()
    if order := _ORDER.fullmatch(shown):
        bound = float(order[2])
        if math.isfinite(bound):
            return Rule(shown, order[1], bound)
    elif equal := _EQUAL.fullmatch(shown):
        word = _unquoted(equal[1])
        if word:
            return Rule(shown, words=(word,))
    elif among := _AMONG.fullmatch(shown):
        words = tuple(_unquoted(part) for part in among[1].split(","))
        if all(words):
            return Rule(shown, words=words)
    raise ConfigError(f"positive is {text[:80]!a}, not a rule", hint=_hint(shown))


def _hint(text: str) -> str:
    """What the author of a rule that is none may have meant."""
    odd = next((sign for sign in _SIGNS if text.startswith(sign)), "")
    if odd:
        meant = f"{_SIGNS[odd]} {text[len(odd) :].strip()}".replace(",", ".")
        if _ORDER.fullmatch(meant) or _SIGNS[odd] == "=":
            return f'did you mean positive = "{meant}"?'
    if text.startswith(("!", "<>", "\u2260", "not ")):
        return 'a rule says what is positive, not what is not: list it, like positive = "in [2, 3]"'
    if (comma := text.replace(",", ".")) != text and _ORDER.fullmatch(comma):
        return f'did you mean positive = "{comma}"? numbers in a schema have a decimal point'
    named = re.search(r"(?:[<>]=?|=|in\b).*", text)
    if named and named.start() and re.match(r"(?:[<>=]|in\b)", text[named.start() :]):
        return f'leave out the name of the column: positive = "{named[0]}"'
    return RULE_HINT


def plain_word(cell: str) -> str:
    """A category cell as it is compared: whole numbers that a program wrote as floats (1.0, 1,00) lose their zeros."""
    whole = _WHOLE.fullmatch(cell)
    return whole[1] if whole else cell


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].strip()
    return text
