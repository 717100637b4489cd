"""Reading a TOML text key by key, strictly: types, bounds, a suggestion for an unknown key, the line of each fault."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import spelling

_SHOWN = 80
WIDTH_MIN = 1e-9
"""The least width of a range, as a share of its larger end: half of a float's digits."""
_DIGITS_MAX = 4300
"""Python reads no longer whole numbers, because the time grows with the square of the digits."""
_TOML_HINT = "docs/data.md has an example of a schema; data check FILE --write-schema makes one from a table"


class Keys:
    """One table of a TOML text. Every getter notes its key; :meth:`done` refuses keys that nobody asked for.

    Getters raise ConfigError naming source, line, key, value and bound.
    """

    def __init__(self, table: dict[str, Any], path: tuple[str, ...], text: str, source: str) -> None:
        self._table = table
        self._path = path
        self._text = text
        self._source = source
        self._asked: list[str] = []

    @classmethod
    def parse(cls, text: str, source: str) -> Keys:
        """The top table of ``text``; ``source`` is the file named in errors. Raises ConfigError."""
        try:
            return cls(tomllib.loads(text), (), text, source)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: not TOML: {str(error)[:200].lower()}", hint=_toml_hint(text)) from error
        except ValueError as error:
            raise _too_long(text, source) from error
        except RecursionError as error:
            raise ConfigError(f"{source}: tables or lists in it are nested too deeply", hint=_TOML_HINT) from error

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def names(self) -> tuple[str, ...]:
        """All keys, in the order of the text."""
        return tuple(self._table)

    def fail(self, key: str, what: str, hint: str = "") -> ConfigError:
        """The error that ``key`` is wrong; ``""`` means this table."""
        path = (*self._path, key) if key else self._path
        line = _line_of(self._text, path)
        value = self._table.get(key)
        shown = "" if value is None or isinstance(value, dict) else f" = {_literal(value)}"
        name = ".".join(path) or "(top level)"
        return ConfigError(f"{self._source}{f':{line}' if line else ''}: {name[:_SHOWN]}{shown}: {what}", hint=hint)

    def table(self, key: str, *, required: bool = False) -> Keys:
        """The table under ``key``; an empty one where it is not there."""
        found = self._get(key, required=required)
        if found is None:
            found = {}
        if not isinstance(found, dict):
            raise self.fail(key, "must be a table", f"begin it with [{'.'.join((*self._path, key))}]")
        return Keys(found, (*self._path, key), self._text, self._source)

    def text(self, key: str, default: str | None = None, chars_max: int = 200, hint: str = "") -> str:
        """Printable text of 1 to ``chars_max`` characters; ``default`` where it is not there."""
        found = self._get(key, required=default is None)
        if found is None:
            return default or ""
        return self._checked_text(key, found, chars_max, hint)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One of ``choices``."""
        found = self._get(key)
        if found is None:
            return default
        if found not in choices:
            raise self.fail(key, f"must be {_alternatives(choices)}", spelling.hint(str(found), choices, ""))
        return str(found)

    def integer(self, key: str, low: int, high: int, default: int) -> int:
        """A whole number, ``low`` to ``high``."""
        found = self._get(key)
        if found is None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            raise self.fail(key, f"must be a whole number, {low} to {high}")
        return found

    def real(self, key: str, low: float, high: float) -> float | None:
        """A finite number, ``low`` to ``high``; None where it is not there."""
        found = self._get(key)
        if found is None:
            return None
        value = _real(found)
        if value is None or not low <= value <= high:
            raise self.fail(key, f"must be a number, {low:g} to {high:g}")
        return value

    def interval(self, key: str, bound: float, *, required: bool, hint: str = "") -> tuple[float, float] | None:
        """Two numbers within +-``bound``, the first below the second."""
        found = self._get(key, required=required, hint=hint)
        if found is None:
            return None
        ends = [_real(each) for each in found] if isinstance(found, list) else []
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] >= ends[1]:
            commas = len(ends) in (3, 4) and all(type(each) is int for each in found)
            hint = "numbers in a schema have a decimal point: 18.5" if commas else "for example range = [20, 80]"
            raise self.fail(key, "must be two numbers, finite and the lower one first", hint)
        low, high = ends[0], ends[1]
        if max(abs(low), abs(high)) > bound:
            raise self.fail(key, f"must lie within +-{bound:g}", "state the range that values can really have")
        if high - low < WIDTH_MIN * max(abs(low), abs(high)):
            raise self.fail(
                key, f"must be wider than {WIDTH_MIN:g} of its ends", "values in it could not be told apart"
            )
        return low, high

    def words(self, key: str, *, count_max: int, chars_max: int, required: bool = False) -> tuple[str, ...]:
        """A list of distinct texts; numbers in it are taken as they would be written in a table."""
        found = self._get(key, required=required)
        if found is None:
            return ()
        if not isinstance(found, list) or not 1 <= len(found) <= count_max:
            raise self.fail(key, f"must be a list of 1 to {count_max} values")
        texts = []
        for each in found:
            value = _real(each)
            texts.append(self._checked_text(key, each, chars_max) if value is None else f"{value:.15g}")
        if len(set(texts)) != len(texts):
            twice = next(each for each in texts if texts.count(each) > 1)
            raise self.fail(key, f"has {twice!r} more than once")
        return tuple(texts)

    def done(self) -> None:
        """Refuse the first key that no getter asked for."""
        for key in self._table:
            if key not in self._asked:
                hint = spelling.hint(key, self._asked, f"known here: {', '.join(self._asked)}")
                raise self.fail(key, "no such key", hint)

    def _get(self, key: str, *, required: bool = False, hint: str = "") -> Any:
        self._asked.append(key)
        if required and key not in self._table:
            written = spelling.nearest(key, (each for each in self._table if each not in self._asked))
            if written:
                raise self.fail(written, "no such key", f"did you mean {key}?")
            raise self.fail("", f"{key} is missing", hint)
        return self._table.get(key)

    def _checked_text(self, key: str, value: object, chars_max: int, hint: str = "") -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= chars_max or not value.isprintable():
            hint = hint or ('write it in quotes: "..."' if not isinstance(value, str) else "")
            raise self.fail(key, f"must be printable text of 1 to {chars_max} characters", hint)
        if value != value.strip():
            raise self.fail(key, "must not begin or end with a space")
        return value


def _too_long(text: str, source: str) -> ConfigError:
    """The error that a number has more digits than can be read."""
    longest = max(re.finditer(r"[0-9_]+", text), key=lambda found: len(found[0]))
    line = text.count("\n", 0, longest.start()) + 1
    what = f"{source}:{line}: a number of {len(longest[0])} digits, must have at most {_DIGITS_MAX}"
    return ConfigError(what, hint="shorten it, or put it in quotes where it is a text")


def _toml_hint(text: str) -> str:
    """Curly quotes are what word processors make of straight ones."""
    for number, line in enumerate(text.split("\n"), start=1):
        if any(quote in line.partition("#")[0] for quote in "\u201c\u201d\u201e\u2018\u2019"):
            return f'line {number} has curly quotes, must be straight ones (")'
    return _TOML_HINT


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        shown = f"[{', '.join(_literal(each) for each in value[:_SHOWN])}]"
    elif isinstance(value, dict):
        shown = "{...}"
    elif isinstance(value, int) and abs(value) >= 10**_SHOWN:
        shown = "(a very long number)"
    else:
        shown = ascii(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _alternatives(choices: tuple[str, ...]) -> str:
    quoted = [f"'{each}'" for each in choices]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


_KEY = re.compile(r""""((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+)""")


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """The line of a key where it is written plainly (``[section]``, ``key = value``), else of its section; 0: none."""
    section: tuple[str, ...] = ()
    best = depth = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            section = _parts(header[1])
            if len(section) > depth and section == path[: len(section)]:
                best, depth = number, len(section)
        elif key := re.match(r"([^=#]+)=", line):
            found = (*section, *_parts(key[1]))
            if len(found) > depth and found == path[: len(found)]:
                best, depth = number, len(found)
    return best


def _parts(text: str) -> tuple[str, ...]:
    return tuple(double or single or bare for double, single, bare in _KEY.findall(text))
