"""``quidnunc budget history``: every release in the ledger, what it cost, and whether it left this peer."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPM, Unit
from quidnunc.gossip.provenance import NoiseSource, UpdatePublished
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_view import record_of
from quidnunc.peer.commands.ledger_home import opened, readable
from quidnunc.peer.commands.unit_words import by_label
from quidnunc.peer.ledger.ledger_reader import LedgerReader
from quidnunc.peer.ledger.spends import Spend, spends
from quidnunc.peer.output import Line, Outcome, Styled, UsageError

SHOWN = 20


def register(parser: CommandParser) -> None:
    """How many, and of which ledger."""
    parser.add_argument(
        "-n", type=int, default=SHOWN, metavar="N", help=f"the newest N releases; 0: all (default: {SHOWN})"
    )
    readable(parser, history)


def history(args: argparse.Namespace, context: Context) -> Outcome:
    """One line per release, oldest first, then one per data set."""
    if args.n < 0:
        raise UsageError(f"-n is {args.n}, must be 0 or more")
    with opened(context) as store:
        found = spends(store)
        published = _published(store)
    rows = [_row(spend, published.get(spend.seq)) for spend in found]
    datasets = _datasets(rows)
    shown = rows[-args.n :] if args.n else rows
    data = {"releases": shown, "total": len(rows), "datasets": datasets}
    if not rows:
        return Outcome(data, ["nothing has been released yet"])
    lines: list[Line] = [
        Styled(
            "entry   time                      round  release  data set          epsilon   noise      update", "strong"
        )
    ]
    lines += [_line(row) for row in shown]
    if len(shown) < len(rows):
        lines.append(f"the newest {len(shown)} of {len(rows)}; all of them with -n 0")
    lines += [
        f"data set {each['dataset'][:16]}{_of_site(each)}: {each['releases']} releases, {each['published']} published, "
        f"epsilon {each['epsilon']:.4f} at delta {each['delta']:g}"
        for each in datasets
    ]
    return Outcome(data, lines)


def _published(store: LedgerReader) -> dict[int, int]:
    """The number of the update that each spend paid for, by the spend's entry number."""
    found = {}
    for entry in store.of_type(EntryType.UPDATE_PUBLISHED):
        record = record_of(EntryType.UPDATE_PUBLISHED, entry.payload)
        if isinstance(record, UpdatePublished) and record.privacy is not None:
            found[record.privacy.spend_seq] = record.number
    return found


def _row(spend: Spend, update: int | None) -> dict[str, Any]:
    record = spend.record
    return {
        "entry": spend.seq,
        "time": when(spend.t_ms),
        "round": record.round,
        "release": record.release,
        "dataset": record.dataset.hex(),
        "epsilon_added": record.epsilon_u / MICRO,
        "epsilon": record.cumulative_u / MICRO,
        "epsilon_cap": record.cap_u / MICRO,
        "delta": 10.0**-record.delta_exp,
        "noise_multiplier": record.noise_u / MICRO,
        "clip": record.clip_u / MICRO,
        "sampling_rate": record.rate_ppm / PPM,
        "steps": record.steps,
        "unit": record.unit.label,
        **(
            {
                "pair_multiplier": record.pair_u / MICRO,
                "members": record.members,
                "colluders": record.colluders,
            }
            if record.unit == Unit.SUM
            else {}
        ),
        "test_seed": record.noise_source != NoiseSource.CHACHA20_OS_KEY,
        "update": update,
    }


def _datasets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest state of every data set, by unit; an epsilon includes what was spent on those before it."""
    newest = {_place(row): row for row in rows}
    releases = Counter(_place(row) for row in rows)
    sent = Counter(_place(row) for row in rows if row["update"] is not None)
    return [
        {
            "dataset": row["dataset"],
            "unit": row["unit"],
            "releases": releases[place],
            "published": sent[place],
            "epsilon": row["epsilon"],
            "delta": row["delta"],
            "last": row["time"],
        }
        for place, row in newest.items()
    ]


def _place(row: dict[str, Any]) -> tuple[str, str]:
    return row["dataset"], row["unit"]


def _of_site(row: dict[str, Any]) -> str:
    suffix = by_label(row["unit"])
    return f" {suffix}" if suffix else ""


def _line(row: dict[str, Any]) -> str:
    update = "spent, never published" if row["update"] is None else f"{row['update']}"
    seeded = "  TEST SEED" if row["test_seed"] else ""
    seeded += _of_site(row)
    return (
        f"{row['entry']:<7} {row['time']}  {row['round']:<6} {row['release']:<8} {row['dataset'][:16]}  "
        f"{row['epsilon']:<9.4f} {row['noise_multiplier']:<10.4g} {update}{seeded}"
    )
