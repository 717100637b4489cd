"""Scenarios from TOML: strict, with one error that names path, value, bound and remedy, before any work starts."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import spelling
from quidnunc.sim.files import read_regular
from quidnunc.sim.scenarios.spec import SimScenario

SCENARIO_BYTES_MAX = 1 << 20
DEPTH_MAX = 8
_SHOWN = 60


def read_scenario(path: Path, changes: Iterable[str] = ()) -> SimScenario:
    """The scenario in a file, after ``changes`` of the form ``key.path=value``. Raises ConfigError."""
    return parse_scenario(_text(path), str(path), changes)


def read_table(path: Path, changes: Iterable[str] = ()) -> dict[str, Any]:
    """The nested tables of a file after ``changes``, not looked at any further. Raises ConfigError."""
    return _changed(_table(_text(path), str(path)), str(path), changes)


def _text(path: Path) -> str:
    try:
        data = read_regular(path, SCENARIO_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"{path}: cannot be read: {why.lower()}", hint="check the path of the scenario") from None
    if len(data) > SCENARIO_BYTES_MAX:
        raise ConfigError(f"{path}: more than {SCENARIO_BYTES_MAX:,} bytes", hint="is this a scenario?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None


def parse_scenario(text: str, source: str = "scenario", changes: Iterable[str] = ()) -> SimScenario:
    """:func:`read_scenario` for a file's text; ``source`` names it in errors."""
    return to_scenario(_table(text, source), source, changes)


def _table(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not TOML: {str(error)[:200]}", hint="see docs/simulator.md") from None


def to_scenario(table: Mapping[str, Any], source: str = "scenario", changes: Iterable[str] = ()) -> SimScenario:
    """The scenario of nested tables; raises ConfigError for the first thing that is wrong."""
    changed = _changed(table, source, changes)
    if "sweep" in changed:
        raise ConfigError(f"{source}: a table [sweep] makes many scenarios", hint="use quidnunc sim sweep")
    for path, value in _leaves(changed, ()):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{source}: {'.'.join(path)} = {value}: must be a finite number", hint="give a number")
    try:
        return msgspec.convert(changed, SimScenario)
    except msgspec.ValidationError as error:
        raise _explained(error, changed, source) from None


def _changed(table: Mapping[str, Any], source: str, changes: Iterable[str]) -> dict[str, Any]:
    changed = _copied(table, source)
    for change in changes:
        _apply(changed, change)
    return changed


def _copied(table: Mapping[str, Any], source: str, depth: int = 0) -> dict[str, Any]:
    if depth > DEPTH_MAX:
        raise ConfigError(f"{source}: tables nested deeper than {DEPTH_MAX}", hint="see docs/simulator.md")
    return {
        key: _copied(value, source, depth + 1) if isinstance(value, Mapping) else value for key, value in table.items()
    }


def _apply(table: dict[str, Any], change: str) -> None:
    path, found, text = change.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not found or not all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys) or len(keys) > DEPTH_MAX:
        raise ConfigError(f"--set {change[:_SHOWN]!r}: must be key=value", hint="for example --set data.alpha=0.1")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    set_at(table, keys, value, f"--set {change[:_SHOWN]!r}")


def set_at(table: dict[str, Any], path: list[str], value: Any, source: str) -> None:
    """Put ``value`` at ``path`` of nested tables, making those that are missing; ``source`` names it in errors."""
    for key in path[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {key} is no table", hint="name a key inside a table")
    table[path[-1]] = value


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and len(path) <= 2 * DEPTH_MAX:
        for at, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(at)))
    else:
        yield path, value


_PERSONAL = (
    "scenarios share all params",
    "quidnunc demo --personal NAME runs real peers that each keep a tensor of their own",
)
_ELSEWHERE = {
    "model.personal": _PERSONAL,
    "training.personal": _PERSONAL,
    "privacy.private_sum": (
        "scenarios do not know private sums: every peer's noise is its own here, and a merge may read states of "
        "several rounds, in which the noise of pairs would not cancel",
        "quidnunc demo --private-sum runs one with real peers",
    ),
    "privacy.unit": (
        "scenarios know privacy of single records only",
        "quidnunc demo --privacy-unit site runs the other kind with real peers",
    ),
    "privacy.sampling_rate": (
        "a private round of a scenario is one step on all records",
        "quidnunc demo --sampling-rate runs samples with real peers",
    ),
}
"""Keys that somebody may look for, and why they are not here."""


def _explained(error: msgspec.ValidationError, table: dict[str, Any], source: str) -> ConfigError:
    """msgspec's complaint in our words: path, value, bound, remedy."""
    what, _, where = str(error).partition(" - at ")
    path = [part for part in re.split(r"\.|\[(\d+|\.\.\.)\]", where.strip("`")) if part and part != "$"]
    path = _named(path, table)
    if unknown := re.search(r"unknown field `(.*)`", what):
        key = ".".join([*path, unknown[1]])
        if key in _ELSEWHERE:
            reason, hint = _ELSEWHERE[key]
            return ConfigError(f"{source}: {key}: {reason}", hint=hint)
        known = _known(path)
        hint = spelling.hint(unknown[1], known, otherwise=f"known here: {', '.join(known)}")
        return ConfigError(f"{source}: {'.'.join([*path, unknown[1]])[:_SHOWN]}: no such key", hint=hint)
    if missing := re.search(r"missing required field `(.*)`", what):
        key = ".".join([*path, missing[1]])
        return ConfigError(f"{source}: {key} is missing", hint=f"add {missing[1]} = ...")
    key = ".".join(path)
    value = _value_at(table, path)
    hint = f"change {key}, or leave it out for the default" if not _required(path) else ""
    if what.startswith("Invalid enum value"):
        choices = _choices(path)
        return ConfigError(f"{source}: {key} = {value!r}: not known", hint=f"one of: {', '.join(choices)}")
    bound = what[:1].lower() + what[1:].replace("`", "")
    return ConfigError(f"{source}: {key} = {repr(value)[:_SHOWN]}: {bound}", hint=hint or f"change {key}")


def _named(path: list[str], table: Any) -> list[str]:
    """``path`` with the key of a table of numbers, which msgspec leaves out: the first that is none."""
    found = []
    for part in path:
        if part == "..." and isinstance(table, dict):
            numbers = (int, float)
            part = next((k for k, v in table.items() if not isinstance(v, numbers) or isinstance(v, bool)), part)
        found.append(part)
        table = table.get(part) if isinstance(table, dict) else table
    return found


def _struct_at(path: list[str]) -> type[msgspec.Struct]:
    kind: type[msgspec.Struct] = SimScenario
    for part in path:
        found = next((item.type for item in msgspec.structs.fields(kind) if item.name == part), None)
        inner = [each for each in (found, *getattr(found, "__args__", ())) if isinstance(each, type)]
        kind = next((each for each in inner if issubclass(each, msgspec.Struct)), kind)
    return kind


def _required(path: list[str]) -> bool:
    """Whether the key that ``path`` leads to, or into, has no default."""
    named = [part for part in path if not part.isdecimal() and part != "..."]
    fields = {item.name: item for item in msgspec.structs.fields(_struct_at(named[:-1]))}
    return not named or (named[-1] in fields and fields[named[-1]].required)


def _known(path: list[str]) -> list[str]:
    return [item.name for item in msgspec.structs.fields(_struct_at(path))]


def _choices(path: list[str]) -> list[str]:
    named = [part for part in path if not part.isdecimal() and part != "..."]
    hint = next(item.type for item in msgspec.structs.fields(_struct_at(named[:-1])) if item.name == named[-1])
    return _literals(hint)


def _literals(hint: Any) -> list[str]:
    """The strings of the first Literal inside a type."""
    found = [each for each in getattr(hint, "__args__", ()) if isinstance(each, str)]
    if found:
        return found
    return next((inner for each in getattr(hint, "__args__", ()) if (inner := _literals(each))), [])


def _value_at(table: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(table, dict) and part in table:
            table = table[part]
        elif isinstance(table, list) and part.isdecimal() and int(part) < len(table):
            table = table[int(part)]
    return table
