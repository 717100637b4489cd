"""The terms of a charter: what is learned, how, how privately and in which rhythm.

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
from quidnunc.gossip.jobs import PPM, PrivacyStep, Release, Unit
from quidnunc.gossip.learning.accountant import epsilon_of, summed_noise_u
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
NO_PRIVACY = "none"
DP_FULL_BATCH = "dp-sgd-full-batch"
DP_POISSON = "dp-sgd-poisson"
DP_SITE = "gaussian-delta"
PRIVATE_SUM = "private-sum"
SUM_MEMBERS_MAX = 32
SUM_RECORDS_MAX = 2**40
POISSON_NOISE_MIN_U = 100_000
POISSON_STEPS_MAX = 100_000

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
class PrivacySpec:
    """What every member promises about its records.

    With mechanism ``dp-sgd-full-batch``, ``releases`` noisy full-batch steps at noise multiplier ``noise_u``
    and clipping norm ``clip_u`` are (``epsilon_u``, 10**-``delta_exp``)-differentially private for one
    record; that the noise suffices is checked. With ``dp-sgd-poisson`` a release is ``steps`` steps, each on a Poisson
    sample at rate ``rate_ppm``; whether its noise suffices takes a numerical accountant, so it is checked where there
    is one: when a charter is drafted or signed, and by the compute process at every start. With ``gaussian-delta`` the
    promise is about all training records of a member at once, ``unit`` site: a round's delta is clipped to ``clip_u``
    and noised once; every other mechanism but one is of unit example. With ``private-sum``, of unit sum, a release is a
    noisy full-batch step whose noise of ``pair_u`` for each pair of all ``members`` cancels in their mean, and the
    promise is against up to ``colluders`` of them (``gossip/private_sum.py``); everybody divides by ``records``.
    With ``none`` every number is 0.
    """

    mechanism: str
    epsilon_u: int = 0
    delta_exp: int = 0
    clip_u: int = 0
    noise_u: int = 0
    releases: int = 0
    rate_ppm: int = 0
    steps: int = 0
    unit: Unit = Unit.EXAMPLE
    pair_u: int = 0
    members: int = 0
    colluders: int = 0
    records: int = 0

    KEYS: ClassVar = ("mechanism", "epsilon_u", "delta_exp", "clip_u", "noise_u", "releases")
    SAMPLED_KEYS: ClassVar = (*KEYS, "rate_ppm", "steps")
    SITE_KEYS: ClassVar = (*KEYS, "unit")
    PAIR_KEYS: ClassVar = ("pair_u", "members", "colluders", "records")
    SUM_KEYS: ClassVar = (*KEYS, *PAIR_KEYS, "unit")

    def __post_init__(self) -> None:
        one_of("privacy.mechanism", self.mechanism, (NO_PRIVACY, DP_FULL_BATCH, DP_POISSON, DP_SITE, PRIVATE_SUM))
        for unit, mechanism in ((Unit.SITE, DP_SITE), (Unit.SUM, PRIVATE_SUM)):
            if (self.unit == unit) != (self.mechanism == mechanism):
                raise CharterError(
                    f"privacy.unit is {self.unit.label} with mechanism {self.mechanism}: unit {unit.label} is the "
                    f"promise of {mechanism}, and of no other mechanism"
                )
        if not self.private:
            for key in self.SAMPLED_KEYS[1:]:
                within(f"privacy.{key} without privacy", getattr(self, key), 0, 0)
        if self.unit != Unit.SUM:
            for key in self.PAIR_KEYS:
                within(f"privacy.{key} with mechanism {self.mechanism}", getattr(self, key), 0, 0)
        if not self.private:
            return
        within("privacy.epsilon_u", self.epsilon_u, 1, 1000 * MICRO)
        within("privacy.delta_exp", self.delta_exp, 1, 15)
        within("privacy.clip_u", self.clip_u, 1, 1_000_000 * MICRO)
        within("privacy.noise_u", self.noise_u, 1, 1_000_000 * MICRO)
        within("privacy.releases", self.releases, 1, MAX_ROUNDS)
        if self.sampled:
            within("privacy.noise_u", self.noise_u, POISSON_NOISE_MIN_U, 1_000_000 * MICRO)
            within("privacy.rate_ppm", self.rate_ppm, 1, PPM - 1)
            within("privacy.steps", self.steps, 1, POISSON_STEPS_MAX)
            return
        whole = "a whole site" if self.unit == Unit.SITE else "full batches"
        for key in ("rate_ppm", "steps"):
            within(f"privacy.{key} of {whole}", getattr(self, key), 0, 0)
        if self.unit == Unit.SUM:
            within("privacy.pair_u", self.pair_u, 1, 1_000_000 * MICRO)
            within("privacy.members", self.members, 3, SUM_MEMBERS_MAX)
            within("privacy.colluders (two members must be honest)", self.colluders, 1, self.members - 2)
            within("privacy.records", self.records, 1, SUM_RECORDS_MAX)
        spent = epsilon_of(self.total_u / MICRO, self.releases, self.delta)
        if spent > self.epsilon_u / MICRO:
            raise CharterError(
                f"privacy: {self.releases} releases at noise multiplier {self.total_u / MICRO:g} cost epsilon "
                f"{spent:.4g} at delta {self.delta:g}, the charter promises {self.epsilon_u / MICRO:g}",
                hint="draft it again with federation create: it computes the noise",
            )

    @property
    def private(self) -> bool:
        """Whether there is differential privacy at all."""
        return self.mechanism != NO_PRIVACY

    @property
    def sampled(self) -> bool:
        """Whether batches are Poisson samples."""
        return self.mechanism == DP_POISSON

    @property
    def total_u(self) -> int:
        """The noise multiplier that a release has against whom the promise is made, ``noise_u`` but for unit sum."""
        if self.unit != Unit.SUM:
            return self.noise_u
        return summed_noise_u(self.noise_u, self.pair_u, self.members - self.colluders)

    @property
    def release(self) -> Release:
        """What the cost of one release depends on; meaningful with privacy only."""
        if self.sampled:
            return Release(self.noise_u, self.rate_ppm, self.steps)
        return Release(
            *(self.noise_u, PPM, 1, self.unit),
            pair_u=self.pair_u,
            members=self.members,
            colluders=self.colluders,
        )

    @property
    def step(self) -> PrivacyStep | None:
        """How one release is made, or None without privacy."""
        if not self.private:
            return None
        release = self.release
        rate = release.rate_ppm / PPM
        noise, pair = self.noise_u / MICRO, self.pair_u / MICRO
        return PrivacyStep(self.clip_u / MICRO, noise, rate, release.steps, self.unit, pair, self.records)

    @property
    def delta(self) -> float:
        """10**-delta_exp; meaningful with privacy only."""
        return 10.0**-self.delta_exp

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map."""
        numbers: dict[str, Encodable] = {key: getattr(self, key) for key in self.numbers(self.mechanism)}
        named = self.mechanism in (DP_SITE, PRIVATE_SUM)
        unit: dict[str, Encodable] = {"unit": self.unit.label} if named else {}
        return {"mechanism": self.mechanism, **numbers, **unit}

    @classmethod
    def keys(cls, mechanism: object) -> tuple[str, ...]:
        """The keys of :meth:`to_value` with that mechanism."""
        if mechanism == DP_SITE:
            return cls.SITE_KEYS
        if mechanism == PRIVATE_SUM:
            return cls.SUM_KEYS
        return cls.SAMPLED_KEYS if mechanism == DP_POISSON else cls.KEYS

    @classmethod
    def numbers(cls, mechanism: str) -> tuple[str, ...]:
        """Those of them that hold integers."""
        return tuple(key for key in cls.keys(mechanism) if key not in ("mechanism", "unit"))

    @classmethod
    def read(cls, fields: Fields) -> PrivacySpec:
        """Read :meth:`to_value` strictly."""
        mechanism = fields.text("mechanism", 32)
        unit = {DP_SITE: Unit.SITE, PRIVATE_SUM: Unit.SUM}.get(mechanism, Unit.EXAMPLE)
        if unit != Unit.EXAMPLE:
            one_of("privacy.unit", fields.text("unit", 16), (unit.label,))
        return cls(mechanism, **{key: fields.integer(key) for key in cls.numbers(mechanism)}, unit=unit)


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
