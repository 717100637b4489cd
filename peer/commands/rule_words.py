"""``--rule`` and ``--rule-option``: the merge rule as the command line words it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.terms import MICRO, SIZE_CAP_MAX
from quidnunc.gossip.rules.terms import terms_named
from quidnunc.gossip.rules.thresholds import REPUTE
from quidnunc.peer.cli import CommandParser
from quidnunc.peer.output import UsageError

_LARGEST = 2**53 / MICRO


def add_rule(parser: CommandParser) -> None:
    """The arguments ``--rule`` and ``--rule-option``."""
    parser.add_argument(
        "--rule",
        type=rule_name,
        default=REPUTE,
        metavar="NAME",
        help="merge rule: repute, mean, median, krum, ... as docs/robustness.md lists them (default: repute)",
    )
    parser.add_argument(
        "--rule-option", action="append", default=[], metavar="K=V", help="a number of the merge rule (repeat for more)"
    )


def rule_name(text: str) -> str:
    """A merge rule by its name; argparse shows what is wrong with another."""
    if text != REPUTE:
        try:
            terms_named(text, (REPUTE,))
        except ConfigError as error:
            raise argparse.ArgumentTypeError(f"{error.message}; {error.hint}") from None
    return text


def rule_options(words: Sequence[str]) -> dict[str, int]:
    """The options ``K=V`` in millionths. Raises UsageError for a word that is none, or a number given twice."""
    found: dict[str, int] = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            key = ""
        if not (key and equals):
            raise UsageError(f"--rule-option {word[:60]!r} is not of the form key=number", hint="for example: bad=1")
        if not abs(value) <= _LARGEST:
            raise UsageError(
                f"--rule-option {key[:40]} is {value:g}, must be a number of at most {_LARGEST:.0f}",
                hint="docs/robustness.md says what each option means",
            )
        if key in found:
            raise UsageError(f"--rule-option {key[:40]} is given twice")
        found[key] = round(value * MICRO)
        if value and not found[key]:
            raise UsageError(f"--rule-option {key[:40]} is {value:g}, the finest is {1 / MICRO:f}")
    return found


def size_cap(value: float) -> int:
    """``--size-cap`` in millionths; raises UsageError outside 1 to SIZE_CAP_MAX."""
    if not 1 <= value <= SIZE_CAP_MAX:
        raise UsageError(f"--size-cap is {value:g}, must be 1 to {SIZE_CAP_MAX}", hint="leave it out for equal weights")
    return round(value * MICRO)
