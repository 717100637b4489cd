"""``config.toml``: what the operator of one peer decides, as frozen typed values.

Every key has a default, a bound and a sentence; an unknown key is refused, so that a misspelt one is never
ignored. What the members must agree on (task, merge rule, privacy) stands in the charter; here are only this
site's own choices. :func:`render` writes a file with a comment on every key, and is what ``quidnunc init``
puts on disk.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from quidnunc.crypto.errors import ConfigError
from quidnunc.peer.config_text import explain, toml_literal
from quidnunc.peer.files import read_capped
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc

CONFIG_BYTES_MAX = 1024 * 1024
VERSION = 1

MIB = 1024 * 1024

_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_Address = Annotated[str, Meta(min_length=2, max_length=256, pattern=r"^/[!-~]+$")]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Addresses = Annotated[tuple[_Address, ...], Meta(min_length=1, max_length=8)]


class Node(Struct, frozen=True, forbid_unknown_fields=True):
    """This peer."""

    name: Annotated[_Name, Meta(description="shown to other members; not trusted by them")] = "peer"


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """Who listens where. Only members of the charter get past the handshake, whatever stands here."""

    listen: Annotated[
        tuple[_Address, ...], Meta(max_length=8, description="multiaddrs to listen on; port 0: any free port")
    ] = ("/ip4/127.0.0.1/tcp/0",)
    announce: Annotated[
        tuple[_Address, ...],
        Meta(max_length=8, description="multiaddrs told to other members; empty: those bound"),
    ] = ()
    ping_interval_s: Annotated[float, Meta(ge=0.5, le=600.0, description="seconds between pings to each neighbor")] = (
        15.0
    )
    dial_timeout_s: Annotated[
        float, Meta(ge=0.5, le=120.0, description="seconds until a connection attempt is given up")
    ] = 10.0
    peers: Annotated[
        dict[_Name, _Addresses],
        Meta(max_length=64, description="address book: member name (or log id in hex) = its multiaddrs"),
    ] = {}


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """What this site hands to the charter's task function, as quidnunc.gossip.task.Site."""

    path: Annotated[str, Meta(max_length=4096, description="local data for tasks that read some; never sent")] = ""
    index: Annotated[int, Meta(ge=0, le=4095, description="which share of a built-in data set this peer holds")] = 0
    peers: Annotated[int, Meta(ge=1, le=4096, description="into how many shares a built-in data set is cut")] = 1
    alpha: Annotated[
        float, Meta(ge=0.01, le=1000.0, description="Dirichlet skew of those shares: 0.1 strong, 100 none")
    ] = 0.5
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1, description="seed of that cut; the same at every peer")] = 0
    options: Annotated[
        dict[_Name, str | _Int64 | float | bool],
        Meta(max_length=64, description="anything else the task function wants to know"),
    ] = {}


class Training(Struct, frozen=True, forbid_unknown_fields=True):
    """The compute process."""

    threads: Annotated[int, Meta(ge=1, le=1024, description="CPU threads torch and merging may use")] = 1
    stall_s: Annotated[
        float,
        Meta(ge=1.0, le=86400.0, description="seconds without progress until it is killed and restarted"),
    ] = 120.0
    memory_mib: Annotated[
        int, Meta(ge=0, le=16 * MIB, description="MiB of memory it may allocate; 0: no limit of ours")
    ] = 0


class Privacy(Struct, frozen=True, forbid_unknown_fields=True):
    """This site's own ceiling."""

    epsilon_cap: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1000.0,
            description="stop at this epsilon if the charter allows more; 0: as the charter",
        ),
    ] = 0.0
    shared_homes: Annotated[
        tuple[str, ...],
        Meta(
            max_length=16,
            description="other homes on this machine that train on the same records; their spends count here too",
        ),
    ] = ()


class Drill(Struct, frozen=True, forbid_unknown_fields=True):
    """Exercises. Leave empty in production: a drill misbehaves on purpose, and the ledger does not record it."""

    attack: Annotated[str, Meta(max_length=64, description="name of an attack to act out, for example sign_flip")] = ""


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """Log lines on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least severity shown")] = "info"
    format: Annotated[
        Literal["auto", "text", "json"], Meta(description="auto: text on a terminal, JSON lines otherwise")
    ] = "auto"


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Caps on what others can make this peer hold, and the room it leaves."""

    payload_bytes_max: Annotated[
        int, Meta(ge=1024, le=1024 * MIB, description="largest body of one message from a neighbor")
    ] = 16 * MIB
    blob_bytes_max: Annotated[
        int, Meta(ge=1024, le=4096 * MIB, description="largest params vector or delta kept on disk")
    ] = 256 * MIB
    disk_free_mib: Annotated[
        int,
        Meta(ge=0, le=16 * MIB, description="MiB kept free where the state lies; below, work waits; 0: no reserve"),
    ] = 64


class Debug(Struct, frozen=True, forbid_unknown_fields=True):
    """What helps to find a bug. Off, unless somebody looks for one.

    The journal holds all that the peer's logic was told (docs/operations.md): read by ``quidnunc replay``.
    """

    journal_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=16384,
            description="MiB of state/journal for bug reports: what neighbors sent; no training data, no keys; 0: none",
        ),
    ] = 0


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """One peer's configuration; ``Config()`` is what an empty file (with ``version = 1``) means."""

    node: Node = Node()
    network: Network = Network()
    data: Data = Data()
    training: Training = Training()
    privacy: Privacy = Privacy()
    drill: Drill = Drill()
    log: Log = Log()
    limits: Limits = Limits()
    debug: Debug = Debug()


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError naming file, line, key, value and bound."""
    try:
        data = read_capped(path, CONFIG_BYTES_MAX)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file",
            hint="take it out of a backup (tar xf FILE config.toml), or write one anew from the card: "
            f"{quidnunc(Home(path.parent))} init --config-only",
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error
    return parse(text, str(path))


def parse(text: str, source: str = "config.toml") -> Config:
    """Read configuration text; ``source`` is the file named in errors. Raises ConfigError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a plain ValueError
        raise ConfigError(f"{source}: not TOML: {str(error)[:200].lower()}") from error
    version = table.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        found = "no version" if version is None else f"version = {version!r}"
        raise ConfigError(
            f"{source}: {found}, this program reads version = {VERSION}",
            hint=f"put version = {VERSION} on the first line" if version is None else "use the program it is for",
        )
    try:
        return msgspec.convert(table, Config, strict=True)
    except msgspec.ValidationError as error:
        raise explain(error, Config, table, text, source) from None


def render(config: Config) -> str:
    """``config`` as a TOML file with a comment on every key. ``parse(render(c)) == c``."""
    lines = [
        "# Configuration of one quidnunc peer. Check it with: quidnunc run --check",
        "# What all members agreed on (task, merge rule, privacy) stands in the charter, not here.",
        f"version = {VERSION}",
    ]
    for section in msgspec.structs.fields(Config):
        values = getattr(config, section.name)
        summary = (type(values).__doc__ or "").splitlines()[0]
        lines += ["", f"# {summary}", f"[{section.name}]"]
        hints = get_type_hints(type(values), include_extras=True)
        tables: list[str] = []
        for field in msgspec.structs.fields(type(values)):
            comment = f"# {_comment(hints[field.encode_name])}"
            value = getattr(values, field.name)
            if isinstance(value, dict):
                tables += ["", comment, f"[{section.name}.{field.encode_name}]"]
                tables += [f"{toml_literal(key)} = {toml_literal(item)}" for key, item in value.items()]
            else:
                lines += [comment, f"{field.encode_name} = {toml_literal(value)}"]
        lines += tables
    return "\n".join(lines) + "\n"


def with_shared_homes(config: Config, homes: tuple[str, ...]) -> Config:
    """``config`` with ``privacy.shared_homes`` set."""
    replace = msgspec.structs.replace
    return replace(config, privacy=replace(config.privacy, shared_homes=homes))


def render_default_config(name: str, **sections: Struct) -> str:
    """A configuration file for a new peer: defaults, except its name and the ``sections`` given.

    For example ``render_default_config("ward-7", network=Network(listen=("/ip4/0.0.0.0/tcp/4901",)))``.
    Raises ConfigError when a value is out of bounds.
    """
    text = render(Config(node=Node(name=name), **sections))  # type: ignore[arg-type]
    parse(text, "the new config.toml")
    return text


def _comment(hint: Any) -> str:
    """The description of a field and its bounds, for example ``seconds between pings (0.5 to 600.0)``."""
    metas = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Meta)]
    text = " ".join(meta.description for meta in metas if meta.description)
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    for meta in metas:
        if meta.ge is not None:
            text += f" ({meta.ge} to {meta.le})"
    if get_origin(inner) is Literal:
        text += f" ({', '.join(get_args(inner))})"
    return text
