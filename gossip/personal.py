"""Personal tensors: the part of a model that a member keeps to itself (FedPer, Arivazhagan et al. 2019).

The charter names them, because members whose shared tensors differ have no common model. They are trained by the same
step as the others: under privacy they are clipped jointly with them and noised like them, for a part that is fitted
without noise would break the bound on what one record does to the shared part. They are never sent. The own ledger
names their newest state in the private part of an update.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import CharterError, ConfigError, Malformed

NAMES_MAX = 64
NAME_BYTES = 128
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
_PRIVATE_BYTES = 64
_KEY = "personal"
_HASH_BYTES = 32


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` of personal tensors or modules as a charter holds them; else CharterError.

    At most 64 of at most 128 bytes, ascending, and none inside of another.
    """
    if len(names) > NAMES_MAX:
        raise CharterError(f"task.personal has {len(names)} names, must be 0 to {NAMES_MAX}", hint="name whole modules")
    for name in names:
        if len(name) > NAME_BYTES or not _NAME.fullmatch(name):
            raise CharterError(
                f"task.personal holds {name[:NAME_BYTES]!a}, must be the name of a tensor or module",
                hint="as named_parameters() says, for example head or 0.bias",
            )
    for before, after in itertools.pairwise(names):
        if before >= after or covers(before, after):
            raise CharterError(
                f"task.personal holds {before!r} before {after!r}: names must ascend, none inside of another"
            )
    return tuple(names)


def covers(name: str, tensor: str) -> bool:
    """Whether ``tensor`` is what ``name`` names, or lies in it."""
    return tensor == name or tensor.startswith(f"{name}.")


def chosen(names: Sequence[str], tensors: Sequence[str]) -> tuple[bool, ...]:
    """For each of a model's ``tensors`` whether it is personal.

    Raises ConfigError for a name that is none of theirs, and if no tensor is left to be shared.
    """
    for name in names:
        if not any(covers(name, tensor) for tensor in tensors):
            raise ConfigError(
                f"the model has no trainable tensor {name!r} to keep personal",
                hint=f"it has {', '.join(tensors[:16])}{', ...' if len(tensors) > 16 else ''}",
            )
    flags = tuple(any(covers(name, tensor) for name in names) for tensor in tensors)
    if all(flags):
        raise ConfigError("all tensors of the model are personal: nothing is left to share", hint="name fewer")
    return flags


def write_personal(state: bytes) -> bytes:
    """Private part of an update entry: which blob holds the personal tensors."""
    return encode({_KEY: state})


def parse_personal(data: bytes) -> bytes:
    """Inverse of :func:`write_personal`; raises Malformed."""
    match decode(data, max_bytes=_PRIVATE_BYTES):
        case {"personal": bytes(state), **others} if not others and len(state) == _HASH_BYTES:
            return state
    raise Malformed("private part of an update: expected the hash of personal tensors")
