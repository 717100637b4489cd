"""The text side of ``config.toml``: what is wrong in it, named with its line, and TOML literals."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import spelling


def explain(
    error: msgspec.ValidationError, kind: type[Struct], table: dict[str, Any], text: str, source: str
) -> ConfigError:
    """Turn msgspec's complaint about ``table``, parsed from ``text`` in file ``source`` as a ``kind``, into ours."""
    message = str(error)
    what, _, where = message.partition(" - at ")
    path = [part for part in re.split(r"\.|(\[[^\]]*\])", where.strip("`")) if part and part != "$"]
    unknown = re.search(r"unknown field `(.*)`", what)
    hint = ""
    if unknown:
        known = _known_keys(kind, path)
        hint = spelling.hint(unknown[1], known, f"known here: {', '.join(known)}")
        path.append(unknown[1])
        what = "no such key" if len(path) > 1 or unknown[1] not in table else "no such section"
    elif what.startswith("Invalid enum value"):
        hint = f"one of: {', '.join(get_args(_hint_at(kind, path)))}"
    elif "^/" in what:
        hint = "a multiaddr looks like /ip4/10.0.0.2/tcp/4901"
    line = _line_of(text, path)
    place = f"{source}:{line}" if line else source
    key = ".".join(part for part in path if not part.startswith("[")) or "(top level)"
    value = _value_at(table, path)
    shown = "" if unknown or value is None or isinstance(value, dict) else f" = {toml_literal(value)[:80]}"
    what = what.replace("`", "")
    return ConfigError(f"{place}: {key}{shown}: {what[:1].lower()}{what[1:]}", hint=hint)


def _known_keys(kind: type[Struct], path: list[str]) -> list[str]:
    for part in path:
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.encode_name == part), kind)
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _hint_at(kind: type[Struct], path: list[str]) -> Any:
    """The type of ``section.key``, without its bounds."""
    section = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == path[0])
    hint = get_type_hints(section, include_extras=True)[path[1]]
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _value_at(table: Any, path: list[str]) -> Any:
    for part in path:
        index = part.strip("[]")
        if isinstance(table, dict) and part in table:
            table = table[part]
        elif isinstance(table, list) and index.isdecimal() and int(index) < len(table):
            table = table[int(index)]
        else:
            break
    return table


def _line_of(text: str, path: list[str]) -> int:
    """The line of a key, when it is written plainly (``[section]`` and ``key = value``); 0 otherwise."""
    section: list[str] = []
    best = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            section = [part.strip().strip("\"'") for part in header[1].split(".")]
            if section == path[: len(section)]:
                best = number
        elif (key := re.match(r"""\s*["']?([^"'=#]+?)["']?\s*=""", line)) and [*section, key[1]] == path[
            : len(section) + 1
        ]:
            return number
    return best


def with_values(text: str, changes: dict[str, Any]) -> str:
    """A configuration text with keys ``section.key`` set, each of which must stand in it on a line of its own.

    Raises ConfigError for one that does not.
    """
    lines: list[str] = []
    section = ""
    left = dict(changes)
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped.strip("[]")
        key = f"{section}.{stripped.split('=')[0].strip()}" if "=" in stripped and not stripped.startswith("#") else ""
        if key in left:
            line = f"{stripped.split('=')[0].strip()} = {toml_literal(left.pop(key))}"
        lines.append(line)
    if left:
        key, value = next(iter(left.items()))
        raise ConfigError(f"config.toml has no line for {key}", hint=f"set it by hand: {key} = {toml_literal(value)}")
    return "\n".join(lines) + "\n"


def toml_literal(value: Any) -> str:
    """A TOML literal. Keys are written as quoted strings, which TOML allows everywhere."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_literal(item) for item in value) + "]"
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 0x20 or ord(char) == 0x7F else "\\" + char if char in '"\\' else char
        for char in str(value)
    )
    return f'"{escaped}"'
