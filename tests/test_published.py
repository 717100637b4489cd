"""docs/privacy.md says of every published field what it is made of: a field that is not listed there fails here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from quidnunc.crypto.entry import EntryType, Header
from quidnunc.gossip.federation import member
from quidnunc.gossip.message import Message
from quidnunc.gossip.provenance import RECORDS, PrivacyClaim

PAGE = Path(__file__).parents[1] / "docs" / "privacy.md"
BODIES = {"Update", "Snapshot", "Recalled"}
"""Messages with a body; ``gossip/message.py`` lets no other have one."""


def published() -> Iterator[tuple[str, list[str]]]:
    """Everything that leaves a peer, and the names of its fields."""
    for kind, record in RECORDS.items():
        yield EntryType(kind).label, list(record.FIELDS)
    yield "its dp", list(PrivacyClaim.FIELDS)
    yield "every entry's header", list(Header._fields)
    yield "a member's card", list(member._FIELDS)
    for message in get_args(Message):
        body = ["body"] if message.__name__ in BODIES else []
        yield message.__name__, [each.name for each in dataclasses.fields(message)] + body


def listed() -> dict[str, list[list[str]]]:
    """The table of the page: for each entry or message, the fields of every column."""
    page = PAGE.read_text(encoding="utf-8")
    part = page[page.index("## What a peer publishes") : page.index("## Commands")]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")][2:]
    return {row[0].replace("`", "").strip(): [re.findall(r"`(\w+)`", cell) for cell in row[1:]] for row in rows}


def test_every_published_field_is_in_one_column_of_the_table() -> None:
    found = {name: sorted(field for cell in cells for field in cell) for name, cells in listed().items()}
    assert found == {name: sorted(fields) for name, fields in published()}


def test_what_is_made_of_records_is_not_called_free_of_them() -> None:
    """The fields that would be worst to get wrong, named here once more."""
    table = listed()
    noised, judged, size, commitment, free = table["update.published"]
    assert {"mb", "pb", "pr", "md"} == set(noised)
    assert (judged, size, set(commitment)) == (["lc"], ["nb"], {"ds", "pv"})
    assert not {"in", "sb", "mo"} & set(table["merge"][4])
    assert "mt" in free


def test_no_metric_is_ever_published() -> None:
    """``mt`` has a place in the format and no writer: a metric of raw data would need the accountant first."""
    root = Path(__file__).parents[1]
    sources = [path for folder in ("gossip", "peer", "sim") for path in (root / folder).rglob("*.py")]
    assert sources
    writers = [
        path.name for path in sources if re.search(r"(?<!class )MetricRow\(|\bmetrics=", path.read_text("utf-8"))
    ]
    assert not writers
