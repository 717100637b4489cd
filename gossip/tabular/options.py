"""The free options of a ``csv`` task: the model from the charter, the dialect of its files from each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import spelling
from quidnunc.gossip.tabular.header import DELIMITERS
from quidnunc.gossip.tabular.table import PLAIN, Dialect
from quidnunc.gossip.tabular.text import ENCODINGS

MODELS = ("logistic", "mlp")
HIDDEN_MAX = 4096
TOKENS_MAX = 32
KNOWN = ("model", "hidden", "delimiter", "decimal", "encoding", "missing")


@dataclass(frozen=True, slots=True)
class Options:
    """What model, and how this site writes tables. ``hidden`` are the hidden units of ``mlp``."""

    model: str = "logistic"
    hidden: int = 16
    dialect: Dialect = PLAIN


def parse_options(options: Mapping[str, str | int | float | bool]) -> Options:
    """Read options strictly; raises ConfigError naming option, value and bound."""
    for name in options:
        if name not in KNOWN:
            hint = spelling.hint(name, KNOWN, f"there are: {', '.join(KNOWN)}")
            raise ConfigError(f"option {name[:40]!a} is unknown to the task csv", hint=hint)
    model = _choice(options, "model", MODELS, "logistic")
    hidden = options.get("hidden", 16)
    if not isinstance(hidden, int) or isinstance(hidden, bool) or not 1 <= hidden <= HIDDEN_MAX:
        raise ConfigError(f"option hidden is {str(hidden)[:40]!a}, must be a whole number, 1 to {HIDDEN_MAX}")
    return Options(model, hidden, _dialect(options))


def _dialect(options: Mapping[str, str | int | float | bool]) -> Dialect:
    delimiter = options.get("delimiter", ",")
    by_name = {"tab": "\t", "\\t": "\t", **{mark: mark for mark in DELIMITERS}}
    if not isinstance(delimiter, str) or delimiter not in by_name:
        raise ConfigError(
            f"option delimiter is {str(delimiter)[:40]!a}, must be {', '.join(DELIMITERS.values())}",
            hint='in config.toml: delimiter = ";" under [data.options]',
        )
    missing = options.get("missing", "")
    # A token such as -9 may have been written as a number.
    tokens = tuple(dict.fromkeys(str(missing).split())) if not isinstance(missing, bool) else ()
    if isinstance(missing, bool) or len(tokens) > TOKENS_MAX:
        raise ConfigError(f"option missing is {str(missing)[:40]!a}, must be at most {TOKENS_MAX} words")
    return Dialect(
        by_name[delimiter],
        _choice(options, "decimal", (".", ","), "."),
        _choice(options, "encoding", ENCODINGS, "utf-8"),
        tokens,
    )


def _choice(options: Mapping[str, str | int | float | bool], name: str, choices: tuple[str, ...], default: str) -> str:
    found = options.get(name, default)
    if not isinstance(found, str) or found not in choices:
        named = " or ".join(repr(each) for each in choices)
        raise ConfigError(f"option {name} is {str(found)[:40]!a}, must be {named}")
    return found
