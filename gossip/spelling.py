"""Names that are not known: which of the known ones may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of ``known`` that ``name`` is most like, "" where none is like it."""
    return "".join(difflib.get_close_matches(name, list(known), n=1))


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to say of a ``name`` that is none of ``known``: what may have been meant, else ``otherwise``."""
    meant = nearest(name, known)
    return f"did you mean {meant}?" if meant else otherwise
