"""The terms of a charter: what is learned, how, and in which rhythm (privacy: ``privacy_terms``).

Reals stand as micro-units (``_u``: millionths), because what is signed holds no floats.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from quidnunc.crypto.encoding import Encodable
from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.fields import Fields, checked_text
from quidnunc.gossip.personal import NAME_BYTES, NAMES_MAX, checked_names
from quidnunc.gossip.rules.terms import TERMS, checked_options, least_rows, terms_named
from quidnunc.gossip.rules.thresholds import REPUTE, repute_options
from quidnunc.gossip.task import PROX_MAX

MICRO = 1_000_000
"""One, in micro-units."""

HASH_BYTES = 32
MAX_OPTIONS = 32
OPTION_BYTES = 256
REFERENCE_BYTES = 128
DATA_SCHEMA_BYTES = 64 * 1024
MAX_DIM = 2**28
MAX_ROUNDS = 1_000_000
MAX_SEED = 2**63 - 1

RULES = (REPUTE, *TERMS)
SIZE_CAP_MAX = 1000
PROX_U_MAX = round(PROX_MAX * MICRO)
STARTS = ("all", "majority")

_REFERENCE = re.compile(r"[a-z][a-z0-9-]*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


def within(what: str, value: int, low: int, high: int) -> None:
    """Raise CharterError unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise CharterError(f"{what} is {value}, must be {low} to {high}")


def one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise CharterError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise CharterError(f"{what} is {value[:40]!a}, must be one of: {', '.join(choices)}")


def plain_text(what: str, value: str, limit: int) -> None:
    """Raise CharterError unless ``value`` is one line of at most ``limit`` bytes that shows all that it holds."""
    within(f"the length of {what} in bytes", len(value.encode("utf-8", "replace")), 0, limit)
    if not value.isprintable() or not unicodedata.is_normalized("NFC", value):
        raise CharterError(
            f"{what} holds control, invisible or decomposed characters",
            hint="write it on one line, in Unicode NFC",
        )


def plain_document(what: str, value: str, limit: int) -> None:
    """Raise CharterError unless ``value`` is at most ``limit`` bytes of lines that show all that they hold."""
    within(f"the length of {what} in bytes", len(value.encode("utf-8", "replace")), 0, limit)
    for number, line in enumerate(value.split("\n"), start=1):
        if not line.isprintable() or not unicodedata.is_normalized("NFC", line):
            raise CharterError(
                f"{what}, line {number}: holds control, invisible or decomposed characters",
                hint="write it in Unicode NFC, with spaces for tabs",
            )


def _check_options(what: str, options: Mapping[str, str | int | bool]) -> None:
    within(f"the number of {what}", len(options), 0, MAX_OPTIONS)
    for key, value in options.items():
        if not _OPTION.fullmatch(key):
            raise CharterError(f"{what} has the key {key[:40]!a}, must be lower case letters, digits and _")
        if isinstance(value, str):
            plain_text(f"{what}.{key}", value, OPTION_BYTES)
        else:
            within(f"{what}.{key}", value, -(2**53), 2**53)


def is_task_reference(text: str) -> bool:
    """Whether ``text`` is written as the name of a built-in task or as ``package.module:function``."""
    return len(text) <= REFERENCE_BYTES and _REFERENCE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Which model and data: a built-in name (``digits``) or ``package.module:function``, with its options.

    ``schema`` is the hash of the params' names and shapes, ``dim`` their number, ``genesis`` the SHA-256 of
    the params that everybody starts from, drawn from ``seed``. ``data_schema`` is the text by which every
    member reads its own table (a ``schema.toml``), empty for a task that needs none: it is signed as it stands,
    because members that encode rows differently do not train one model. ``personal`` names the tensors that every
    member keeps to itself (``gossip/personal.py``); ``schema``, ``genesis`` and ``dim`` are of the others.
    """

    reference: str
    schema: bytes
    genesis: bytes
    dim: int
    seed: int = 0
    options: Mapping[str, str | int | bool] = field(default_factory=dict)
    data_schema: str = ""
    personal: tuple[str, ...] = ()

    KEYS: ClassVar = ("reference", "options", "schema", "genesis", "dim", "seed", "data_schema")
    PERSONAL_KEYS: ClassVar = (*KEYS, "personal")

    def __post_init__(self) -> None:
        if not is_task_reference(self.reference):
            raise CharterError(
                f"task {self.reference[:REFERENCE_BYTES]!a} is not a task reference",
                hint="name a built-in task such as digits, or package.module:function",
            )
        _check_options("task.options", self.options)
        for what, value in (("schema", self.schema), ("genesis", self.genesis)):
            within(f"the length of task.{what}", len(value), HASH_BYTES, HASH_BYTES)
        within("task.dim", self.dim, 1, MAX_DIM)
        within("task.seed", self.seed, 0, MAX_SEED)
        plain_document("task.data_schema", self.data_schema, DATA_SCHEMA_BYTES)
        checked_names(self.personal)

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map."""
        personal: dict[str, Encodable] = {"personal": list(self.personal)} if self.personal else {}
        return {
            "reference": self.reference,
            "options": dict(self.options),
            "schema": self.schema,
            "genesis": self.genesis,
            "dim": self.dim,
            "seed": self.seed,
            # Bytes, because a text of the encoding is one line of at most 4096.
            "data_schema": self.data_schema.encode(),
            **personal,
        }

    @classmethod
    def read(cls, fields: Fields, *, personal: bool = False) -> TaskSpec:
        """Read :meth:`to_value` strictly; ``personal`` if it names personal tensors, which then must be some."""
        options: dict[str, str | int | bool] = {}
        for key, value in fields.open_map("options", MAX_OPTIONS).items():
            if isinstance(value, int):
                options[key] = value
            else:
                options[key] = checked_text(value, f"task.options.{key}", OPTION_BYTES)
        return cls(
            reference=fields.text("reference", REFERENCE_BYTES),
            schema=fields.data("schema", HASH_BYTES),
            genesis=fields.data("genesis", HASH_BYTES),
            dim=fields.integer("dim"),
            seed=fields.integer("seed"),
            options=options,
            data_schema=fields.document("data_schema", DATA_SCHEMA_BYTES),
            personal=_some_names(fields) if personal else (),
        )


def _some_names(fields: Fields) -> tuple[str, ...]:
    """Personal tensors that stand in a charter; a charter without any leaves the key out."""
    names = fields.texts("personal", NAMES_MAX, NAME_BYTES)
    within("the number of task.personal", len(names), 1, NAMES_MAX)
    return names


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Local training between two merges; a private round takes its steps from the privacy instead.

    With privacy of unit site it is trained as without privacy. ``prox_u`` weighs the proximal term, 0 is none.
    """

    learning_rate_u: int
    momentum_u: int
    local_steps: int
    batch_size: int
    prox_u: int = 0

    KEYS: ClassVar = ("learning_rate_u", "momentum_u", "local_steps", "batch_size")
    PROXIMAL_KEYS: ClassVar = (*KEYS, "prox_u")

    def __post_init__(self) -> None:
        within("training.learning_rate_u", self.learning_rate_u, 1, 1000 * MICRO)
        within("training.momentum_u", self.momentum_u, 0, MICRO - 1)
        within("training.local_steps", self.local_steps, 1, 100_000)
        within("training.batch_size", self.batch_size, 1, 1_000_000)
        within("training.prox_u", self.prox_u, 0, PROX_U_MAX)

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map."""
        return {key: getattr(self, key) for key in (self.PROXIMAL_KEYS if self.prox_u else self.KEYS)}

    @classmethod
    def read(cls, fields: Fields, *, proximal: bool = False) -> TrainingSpec:
        """Read :meth:`to_value` strictly; ``proximal`` if it weighs a proximal term, which then must be there."""
        keys = cls.PROXIMAL_KEYS if proximal else cls.KEYS
        made = cls(**{key: fields.integer(key) for key in keys})
        if proximal:
            within("training.prox_u", made.prox_u, 1, PROX_U_MAX)
        return made


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """How neighbors' models are merged: the rule, its options in micro-units, and the cap on drag compensation.

    The rule is REPUTE or one of the catalogue; its options are those of the rule and within their bounds. With a
    ``size_cap_u`` members weigh by the examples on their cards, nobody more than so many millionths of the median
    member; 0 is weights by the graph alone.
    """

    rule: str
    drag_cap_u: int
    options: Mapping[str, int] = field(default_factory=dict)
    size_cap_u: int = 0

    KEYS: ClassVar = ("rule", "options", "drag_cap_u")
    SIZED_KEYS: ClassVar = (*KEYS, "size_cap_u")

    def __post_init__(self) -> None:
        _check_options("merge.options", self.options)
        try:
            if self.rule == REPUTE:
                repute_options(self.values)
            else:
                terms_named(self.rule, (REPUTE,))
                checked_options(self.rule, self.values, charter=True)
        except ConfigError as error:
            raise CharterError(f"merge.rule and options: {error.message}", hint=error.hint) from None
        within("merge.drag_cap_u", self.drag_cap_u, MICRO, 10 * MICRO)
        if self.size_cap_u:
            within("merge.size_cap_u", self.size_cap_u, MICRO, SIZE_CAP_MAX * MICRO)

    @property
    def values(self) -> dict[str, float]:
        """The options as numbers."""
        return {key: value / MICRO for key, value in self.options.items()}

    @property
    def mixes(self) -> bool:
        """Whether rows are mixed with those nearest to them before the rule sees them."""
        return bool(self.options.get("nearest"))

    @property
    def least_neighbors(self) -> int:
        """The neighbors that a member must have for the rule to merge at all."""
        return least_rows(self.rule, self.values) - 1

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map."""
        sized: dict[str, Encodable] = {"size_cap_u": self.size_cap_u} if self.size_cap_u else {}
        return {"rule": self.rule, "options": dict(self.options), "drag_cap_u": self.drag_cap_u, **sized}

    @classmethod
    def read(cls, fields: Fields, *, sized: bool = False) -> MergeSpec:
        """Read :meth:`to_value` strictly; ``sized`` if it holds a size cap, which then must be one."""
        names = fields.open_map("options", MAX_OPTIONS)
        options = fields.inner("options", names)
        return cls(
            rule=fields.text("rule", 32),
            drag_cap_u=fields.integer("drag_cap_u"),
            options={key: options.integer(key) for key in names},
            size_cap_u=_present(fields.integer("size_cap_u")) if sized else 0,
        )


def _present(size_cap_u: int) -> int:
    """A size cap that stands in a charter; a charter without one leaves the key out."""
    within("merge.size_cap_u", size_cap_u, MICRO, SIZE_CAP_MAX * MICRO)
    return size_cap_u


@dataclass(frozen=True, slots=True)
class RoundSpec:
    """The rhythm: how many training rounds, how far apart (ms, 0: as fast as training allows), and when to begin.

    No peer runs more than ``lead`` rounds ahead of its slowest live neighbor (0: no bound). ``start`` says
    whether a peer waits for all of its neighbors or for most of them before round 1.
    """

    count: int
    interval_ms: int
    lead: int
    start: str

    KEYS: ClassVar = ("count", "interval_ms", "lead", "start")

    def __post_init__(self) -> None:
        within("rounds.count", self.count, 1, MAX_ROUNDS)
        within("rounds.interval_ms", self.interval_ms, 0, 7 * 86_400_000)
        within("rounds.lead", self.lead, 0, 1000)
        one_of("rounds.start", self.start, STARTS)

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map."""
        return {key: getattr(self, key) for key in self.KEYS}

    @classmethod
    def read(cls, fields: Fields) -> RoundSpec:
        """Read :meth:`to_value` strictly."""
        return cls(
            fields.integer("count"),
            fields.integer("interval_ms"),
            fields.integer("lead"),
            fields.text("start", 16),
        )
