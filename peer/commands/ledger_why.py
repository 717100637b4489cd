"""``quidnunc ledger why``: what a merge made of every neighbor, and why; or what became of one update."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.explain import STEP_REASONS, merge_reasons
from quidnunc.gossip.federation.terms import MergeSpec
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.merging import rule_hash_of
from quidnunc.gossip.provenance import (
    Decision,
    EquivocationProof,
    Merge,
    MergeRow,
    MessageRefused,
    ReputationChange,
    UpdatePublished,
    UpdateReceived,
    reason_labels,
)
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import STANDINGS, STEPS, nth, record_of, who
from quidnunc.peer.commands.files import read_charter
from quidnunc.peer.commands.ledger_home import member_names, opened, readable
from quidnunc.peer.commands.ledger_log import private_data
from quidnunc.peer.output import Line, Outcome, Styled, UsageError

_PREFIX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(slots=True)
class Past:
    """What a ledger knows of its neighbors at one entry.

    ``updates`` are (number, own entry) of accepted ones by author and the author's seq, ``merged`` the entries of those
    that an earlier merge read, ``refused`` what was refused since the last merge.
    """

    standing: dict[bytes, int] = field(default_factory=dict)
    updates: dict[bytes, dict[int, tuple[int, int]]] = field(default_factory=dict)
    merged: dict[bytes, int] = field(default_factory=dict)
    refused: dict[bytes, list[tuple[int, str]]] = field(default_factory=dict)
    frozen: dict[bytes, int] = field(default_factory=dict)

    def read(self, seq: int, record: object) -> None:
        """Go on by one entry; a merge begins a new count."""
        match record:
            case ReputationChange(who=log_id, new=new):
                self.standing[log_id] = new
            case UpdateReceived(sender=sender, number=number, decision=decision, reasons=reasons):
                if decision == Decision.ACCEPT:
                    self.updates.setdefault(sender, {})[record.seq] = (number, seq)
                else:
                    self.refused.setdefault(sender, []).append((seq, ", ".join(reason_labels(reasons))))
            case MessageRefused(sender=sender, reason=reason) if sender is not None:
                self.refused.setdefault(sender, []).append((seq, reason_labels((reason,))[0]))
            case EquivocationProof(who=log_id):
                self.frozen.setdefault(log_id, seq)
            case Merge(rows=rows):
                self.refused = {}
                for row in rows:
                    if row.log_id is not None and row.seq is not None:
                        self.merged[row.log_id] = max(row.seq, self.merged.get(row.log_id, -1))


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger why``."""
    parser.add_argument(
        "ref", metavar="STATE|ROUND", help="8 or more hex digits of a state's hash, or the number of a round"
    )
    parser.add_argument("--private", action="store_true", help="also the numbers behind the standings, if held here")
    readable(parser, why)


def why(args: argparse.Namespace, context: Context) -> Outcome:
    """Every neighbor of a merge with its weight before and after, its standing and what was refused of it."""
    names = member_names(context)
    ref = args.ref.lower()
    by_round = ref.isascii() and ref.isdecimal() and len(ref) < 8
    if not by_round and not _PREFIX.fullmatch(ref):
        raise UsageError(f"{args.ref[:70]!r} is neither a round nor 8 to 64 hex digits of a state's hash")
    terms, rule_hash = _rule(context)
    past = Past()
    merges: list[tuple[dict[str, Any], list[Line]]] = []
    updates: list[dict[str, Any]] = []
    states: set[bytes] = set()
    with opened(context) as store:
        for header, entry in store.headers():
            record = record_of(header.type, entry.payload)
            if isinstance(record, Merge):
                made = record.round == int(ref) if by_round else record.result.hex().startswith(ref)
                if made:
                    states.add(record.result)
                    data, told = _explain(
                        *(header.seq, record, past, names, store.log_id),
                        terms if record.rule == rule_hash else None,
                    )
                    if args.private:
                        data["private"] = private_data(header.type, entry, names)
                        told += [f"  private: {row}" for row in _numbers(data["private"])]
                    merges.append((data, told))
            if not by_round and isinstance(record, UpdateReceived | UpdatePublished | Merge):
                updates += _mentions(header.seq, record, ref, names, states)
            past.read(header.seq, record)
    if not by_round and len(states) > 1:
        listed = ", ".join(sorted(state.hex()[:16] for state in states)[:8])
        raise UsageError(f"{len(states)} states in this ledger have a hash that begins with {ref}", hint=listed)
    if not merges and not updates:
        what = f"no merge of round {ref}" if by_round else f"no state with a hash that begins with {ref}"
        raise UsageError(f"{what} in this ledger", hint="see: quidnunc ledger log --type merge")
    lines = [line for _, told in merges for line in told]
    lines += [f"entry {each['entry']}: {each['what']}" for each in updates]
    return Outcome({"merges": [data for data, _ in merges], "mentions": updates}, lines)


def _rule(context: Context) -> tuple[MergeSpec | None, bytes]:
    """The charter's merge terms and the hash by which entries name them; none without a charter that can be read."""
    try:
        merge = read_charter(context.home.charter)[1].charter.merge
    except (CharterError, ConfigError):
        return None, b""
    return merge, rule_hash_of(merge)


def _explain(
    seq: int, merge: Merge, past: Past, names: Mapping[bytes, str], own: bytes, terms: MergeSpec | None
) -> tuple[dict[str, Any], list[Line]]:
    rows = []
    for row in merge.rows:
        if row.log_id is None or row.log_id == own:
            continue
        seq_there = -1 if row.seq is None else row.seq
        number, at = past.updates.get(row.log_id, {}).get(seq_there, (0, -1))
        rows.append(
            {
                "name": names.get(row.log_id, ""),
                "log_id": row.log_id.hex(),
                "weight": row.weight / PPB,
                "effective": row.effective / PPB,
                "clip": row.clip / PPB,
                "state": row.state.hex(),
                "update": number or None,
                "entry": None if at < 0 else at,
                "new": seq_there > past.merged.get(row.log_id, -1),
                "standing": nth(STANDINGS, past.standing.get(row.log_id, 0)),
                "reasons": _reasons(terms, row, merge.step, past),
            }
        )
    used = {row["log_id"] for row in rows}
    absent = [
        {"name": name, "log_id": log_id.hex(), "reasons": _absence(log_id, past)}
        for log_id, name in sorted(names.items(), key=lambda each: each[1])
        if log_id != own and log_id.hex() not in used
    ]
    refused = [
        {"name": names.get(log_id, ""), "log_id": log_id.hex(), "entry": at, "reason": reason}
        for log_id, each in sorted(past.refused.items())
        for at, reason in each
    ]
    data = {
        "entry": seq,
        "round": merge.round,
        "result": merge.result.hex(),
        "rule": None if terms is None else terms.rule,
        "step": nth(STEPS, merge.step),
        "step_reason": STEP_REASONS.get(merge.step),
        "approximate": merge.approximate,
        "own": merge.rows[0].effective / PPB if merge.rows else None,
        "inputs": rows,
        "absent": absent,
        "refused": refused,
    }
    return data, _lines(data)


def _numbers(private: Mapping[str, Any] | None) -> list[str]:
    """One line per standing behind a merge."""
    rows = [] if private is None else private.get("standings", [])
    return [
        f"{row['name'] or row['log_id'][:16]}: good {row['good']:.2f}, bad {row['bad']:.2f}, harm {row['harm']:.4f}"
        for row in rows
    ]


def _reasons(terms: MergeSpec | None, row: MergeRow, step: int, past: Past) -> list[str]:
    """Why a row counts as it does, from what is public."""
    found = []
    standing = past.standing.get(row.log_id or b"", 0)
    if row.log_id in past.frozen:
        found.append(f"frozen since entry {past.frozen[row.log_id]}: its key signed two histories")
    if standing:
        found.append(f"its standing is {nth(STANDINGS, standing)}")
    rule, mixes = ("", False) if terms is None else (terms.rule, terms.mixes)
    return found + merge_reasons(rule, row.weight, row.effective, row.clip, step, mixes=mixes)


def _absence(log_id: bytes, past: Past) -> list[str]:
    if log_id in past.frozen:
        return [f"frozen since entry {past.frozen[log_id]}: its key signed two histories"]
    if log_id not in past.updates:
        return ["nothing of it was accepted yet: it is no neighbor, or has not spoken"]
    if past.standing.get(log_id, 0):
        return [f"its standing is {nth(STANDINGS, past.standing[log_id])}"]
    return ["it was not connected, or had not advanced within its usual intervals"]


def _lines(data: Mapping[str, Any]) -> list[Line]:
    lines: list[Line] = [
        Styled(
            f"merge at entry {data['entry']}, round {data['round']}: {data['result'][:16]} ({data['step']})", "strong"
        ),
        f"  {'own state':<20} {data['own'] or 0:>6.1%} of the result",
    ]
    if data["step_reason"]:
        lines.append(f"      {data['step_reason']}")
    for row in data["inputs"]:
        age = f"update {row['update'] or '?'}, {'new' if row['new'] else 'as merged before'}"
        lines.append(
            f"  {row['name'] or row['log_id'][:16]:<20} {row['effective']:>6.1%}  of at most {row['weight']:.1%}, {age}"
        )
        lines += [f"      {reason}" for reason in row["reasons"]]
    lines += [f"  {each['name']:<20}   none  {'; '.join(each['reasons'])}" for each in data["absent"]]
    lines += [
        Styled(f"  refused at entry {each['entry']}: {each['name'] or each['log_id'][:16]}: {each['reason']}", "warn")
        for each in data["refused"]
    ]
    return lines


def _mentions(
    seq: int,
    record: UpdateReceived | UpdatePublished | Merge,
    prefix: str,
    names: Mapping[bytes, str],
    states: set[bytes],
) -> list[dict[str, Any]]:
    """What one entry did with the states whose hash begins with ``prefix``."""
    match record:
        case UpdateReceived(replica=state, number=number, sender=sender) if state.hex().startswith(prefix):
            verdict = "accepted"
            if record.decision != Decision.ACCEPT:
                verdict = f"refused: {', '.join(reason_labels(record.reasons))}"
            told = f"update {number} of {who(sender, names)} {verdict}"
        case UpdatePublished(replica_after=state, number=number) if state.hex().startswith(prefix):
            told = f"published as update {number}"
        case Merge(rows=rows):
            row = next((row for row in rows[1:] if row.state.hex().startswith(prefix)), None)
            if row is None:
                return []
            state = row.state
            told = f"merged in round {record.round} with {row.effective / PPB:.1%}"
        case _:
            return []
    states.add(state)
    return [{"entry": seq, "state": state.hex(), "what": told}]
