"""Whether the local data are still those of the newest release, and what it means for the budget if they are not."""

from __future__ import annotations

from collections.abc import Sequence

from quidnunc.crypto.entry import Entry, EntryType, parse_header
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Described
from quidnunc.gossip.provenance import PrivacySpend, parse_record

DATASET_SALT = "dataset-salt"
"""Name of the salt of the dataset commitment in the store's private table."""


def commitment(salt: bytes, described: Described) -> bytes:
    """Salted commitment to the local data: says nothing of it, yet stays the same while the data does."""
    return tagged_hash("dataset", salt, described.data_root)


def newest_release(entries: Sequence[Entry]) -> PrivacySpend | None:
    """The newest spend of privacy in a ledger, None if there is none; raises Malformed for one that does not parse."""
    for entry in reversed(entries):
        kind = parse_header(entry.header).type
        if kind == EntryType.DP_SPEND:
            record = parse_record(kind, entry.payload)
            return record if isinstance(record, PrivacySpend) else None
    return None


def change_since(newest: PrivacySpend | None, dataset: bytes) -> str | None:
    """One line about training records, committed to by ``dataset``, that are not those of the ``newest`` release.

    None if they are, and where nothing was released yet.
    """
    if newest is None or newest.dataset == dataset:
        return None
    return (
        f"the training records, or their order, changed since release {newest.release} (data set "
        f"{newest.dataset.hex()[:16]} then, {dataset.hex()[:16]} now): epsilon {newest.cumulative_u / MICRO:.4f} of "
        f"{newest.cap_u / MICRO:g} stays spent and counts for the new records too; if that was not meant, put the "
        "earlier data back; records of other people altogether belong in a home of their own (quidnunc init)"
    )
