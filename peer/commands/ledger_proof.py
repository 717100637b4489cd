"""``quidnunc ledger prove`` and ``verify-proof``: one entry as a file that a stranger can check offline."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of, parse_checkpoint
from quidnunc.crypto.entry import Entry, encode_header, open_entry, parse_header
from quidnunc.crypto.errors import CharterError, ConfigError, LedgerCorrupt, RemoteProtocolError
from quidnunc.crypto.merkle import node_hash
from quidnunc.crypto.note import Verifier, format_vkey
from quidnunc.crypto.policy import Policy, TimeBounds, Verdict, Witness, flat_policy, judge, time_bounds
from quidnunc.crypto.policy_file import format_policy
from quidnunc.crypto.proof_file import MAX_PROOF_BYTES, EntryProof, entry_proof, open_proof, parse_proof
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.keybook import Keybook
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_view import entry_data
from quidnunc.peer.commands.files import is_stdout, read_file, write_public
from quidnunc.peer.commands.ledger_home import electorate, find_entry, members, opened, readable
from quidnunc.peer.commands.ledger_witness import cosigned_note, counting
from quidnunc.peer.commands.trust import add_keys, known_book, latest_time, named_keys, trust
from quidnunc.peer.files import expanded
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.new_file import require_free
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError, exit_code_of

_NO_KEY = "name the log's key with --key VKEY, or a policy with --policy FILE"


def register(add: Callable[..., CommandParser]) -> None:
    """The arguments of both commands."""
    below = add("prove", help="write one entry as a proof that anybody can check offline")
    below.add_argument("ref", metavar="REF", help="sequence number, or 8 or more hex digits of its hash or model")
    below.add_argument("--out", type=Path, metavar="FILE", help="where to (default: entry-SEQ.tlog-proof; -: stdout)")
    below.add_argument(
        "--policy-out", type=Path, metavar="FILE", help="also write who must have cosigned, for verify-proof --policy"
    )
    readable(below, prove)

    below = add(
        "verify-proof", help="check such a file; exit 0 valid, 30 not, 32 below quorum or erased, 42 of a later version"
    )
    below.add_argument("file", type=Path, metavar="FILE")
    add_keys(below)
    below.add_argument("--policy", type=Path, metavar="FILE", help="who must have cosigned (c2sp.org/tlog-policy)")
    below.add_argument("--explain", action="store_true", help="show every step from the entry to the signed root")
    below.set_defaults(command=verify_proof)


def prove(args: argparse.Namespace, context: Context) -> Outcome:
    """A proof of one entry under the checkpoint that most witnesses cosigned, checked before it is written."""
    stream = is_stdout(args.out, context.out)
    if is_stdout(args.policy_out, context.out, "--policy-out"):
        raise UsageError("--policy-out - : stdout is for the proof, or for what is said of it", hint="name a file")
    known = _members(context)
    with opened(context) as store:
        entry = find_entry(store, args.ref)
        known = counting(store, known, electorate(context, store.log_id))
        seq, size, data = _proof(store, entry, known)
        key = Verifier(origin_of(store.log_id), store.keys.at(size) or store.public)
    proof = open_proof(data, [key])
    policy = trust([], None, Keybook(known), key.name, size)._replace(logs=(key,))
    verdict = judge(proof.note, policy, latest=latest_time())
    path = Path(f"entry-{seq}.tlog-proof") if stream else args.out or Path(f"entry-{seq}.tlog-proof")
    place = "stdout" if stream else str(path)
    if args.policy_out is not None:
        # Before the proof is written: half of what was asked for would only be in the way of a second try.
        require_free(expanded(args.policy_out))
    if stream:
        context.out.raw(data)
    else:
        write_public(path, data)
    vkey = format_vkey(key)
    recipe = f"quidnunc ledger verify-proof {shlex.quote(path.name)} --key {vkey}"
    if args.policy_out is not None:
        write_public(args.policy_out, format_policy(_portable(policy)))
        recipe += f" --policy {shlex.quote(args.policy_out.name)}"
    shown = {"file": place, "bytes": len(data), "seq": seq, "size": proof.checkpoint.size, "key": vkey}
    shown |= {
        "verdict": verdict.label,
        "cosigned": [{"witness": each.name, "time": _second(each.time)} for each in verdict.cosigners],
        "policy": None if args.policy_out is None else str(args.policy_out),
    }
    lines: list[Line] = [
        Styled(f"entry {seq} of {proof.checkpoint.size} is in {place} ({len(data)} bytes)", "good"),
        f"  {len(verdict.cosigners)} of {verdict.witnesses} witnesses cosigned the checkpoint in it: {verdict.label}",
        "  hand it on; it holds the entry's payload, never its private part. The recipient checks it with",
        f"  {recipe}",
        "  and must know the key from another source than you hand the file over by",
    ]
    if not stream:
        return Outcome(shown | {"command": recipe}, lines)
    for line in lines:
        context.out.talk(line.text if isinstance(line, Styled) else line)
    return Outcome()


def verify_proof(args: argparse.Namespace, context: Context) -> Outcome:
    """Included or not, who vouches for it, and when it can have been written."""
    data = read_file(args.file, MAX_PROOF_BYTES)
    named = named_keys(args)
    book = Keybook(()) if named and args.policy else known_book(context)
    known = book.members
    try:
        claimed = parse_checkpoint(parse_proof(data).note.text)
        policy = trust(named, args.policy, book, claimed.origin, claimed.size, partial(electorate, context))
        if not policy.logs:
            return Outcome(None, [], ExitCode.INCOMPLETE, f"{args.file}: no key is known to check it with", _NO_KEY)
        proof = open_proof(data, policy.logs)
        verdict = judge(proof.note, policy, latest=latest_time())
    except RemoteProtocolError as error:
        return Outcome(None, [], exit_code_of(error), f"{args.file}: {error.message}", _hint(error))
    bounds = time_bounds(proof.header.seq, proof.header.t_ms, [verdict])
    if bounds.flag:
        context.out.warn(f"the entry claims {when(proof.header.t_ms)} and is {bounds.flag}")
    names = {each.log_id: each.name for each in known}
    shown = _data(proof, verdict, policy, bounds, names)
    lines = _lines(shown, proof, policy, args.explain)
    if args.policy is not None and not verdict.met:
        why = f"{len(verdict.cosigners)} of {verdict.witnesses} witnesses cosigned, the policy needs {policy.rule}"
        return Outcome(shown, lines, ExitCode.INCOMPLETE, why, "ask for a newer proof, with their cosignatures")
    if proof.payload is None:
        return Outcome(shown, lines, ExitCode.INCOMPLETE, "the entry is included, its payload was erased", "")
    return Outcome(shown | {"verified": True}, lines)


def _portable(policy: Policy) -> Policy:
    """The same policy with names that its file format allows: words, told apart by the end of the key's name."""
    witnesses = [
        Witness(f"{re.sub('[^A-Za-z0-9._-]+', '-', each.name)}-{each.verifier.name[-8:]}", each.verifier)
        for each in policy.witnesses
    ]
    need = policy.groups[0].need if policy.groups else 0
    return flat_policy(policy.logs[0], witnesses, need)


def _members(context: Context) -> tuple[Member, ...]:
    """Who may have cosigned; nobody, with a warning, where the charter cannot be read."""
    try:
        return members(context)
    except (CharterError, ConfigError) as error:
        context.out.warn(f"cosignatures are left out: {error.message}")
        return ()


def _proof(store: Store, entry: Entry, known: Sequence[Member]) -> tuple[int, int, bytes]:
    """(seq, size, proof file) of ``entry`` under the checkpoint on disk that says most."""
    seq = parse_header(entry.header).seq
    note = cosigned_note(store, known, seq)
    if note is None:
        raise LedgerCorrupt(seq, "no checkpoint covers it")
    size = open_checkpoint(note, origin_of(store.log_id), store.keys).size
    if not entry.erased:
        open_entry(entry)
    return seq, size, entry_proof(entry, store.tree().inclusion(seq, size), note, index=seq)


def _data(
    proof: EntryProof, verdict: Verdict, policy: Policy, bounds: TimeBounds, names: Mapping[bytes, str]
) -> dict[str, Any]:
    entry = Entry(encode_header(proof.header), proof.payload or b"", b"")
    shown = entry_data(entry, names)
    if proof.payload is None:
        shown |= {"summary": "payload was erased", "payload": None, "valid": True}
    return shown | {
        "log_id": proof.header.log_id.hex(),
        "name": names.get(proof.header.log_id, ""),
        "size": proof.checkpoint.size,
        "root": proof.checkpoint.root.hex(),
        "included": True,
        "erased": proof.payload is None,
        "verdict": verdict.label,
        "cosigned": [{"witness": each.name, "time": _second(each.time)} for each in verdict.cosigners],
        "witnesses": verdict.witnesses,
        "policy": policy.rule,
        "quorum_met": verdict.met,
        "not_before": _second(bounds.not_before),
        "not_after": _second(bounds.not_after),
        "flag": bounds.flag,
        "verified": False,
    }


def _lines(shown: Mapping[str, Any], proof: EntryProof, policy: Policy, explain: bool) -> list[Line]:
    owner = f" ({shown['name']})" if shown["name"] else ""
    lines: list[Line] = [
        Styled(f"entry {shown['seq']} of {shown['size']}, type {shown['type']}  INCLUDED", "good"),
        f"  log         {shown['log_id']}{owner}",
        f"  hash        {shown['hash']}",
        f"  says        {shown['summary']}",
        f"  claimed {shown['time']} · not before {shown['not_before'] or '-'} · not after {shown['not_after'] or '-'}",
        *(f"  cosigned    {each['time']}  {each['witness']}" for each in shown["cosigned"]),
    ]
    if shown["flag"]:
        lines.append(Styled(f"  {shown['flag']}: the claim lies outside these bounds", "bad"))
    if shown["verdict"] == "SELF-ATTESTED":
        told = f"{len(shown['cosigned'])} of {shown['witnesses']} witnesses, quorum {policy.rule}"
        lines.append(Styled(f"  SELF-ATTESTED: {told}; its owner could show another history to others", "warn"))
    else:
        lines.append(Styled(f"  {shown['verdict']}, quorum {policy.rule}", "good"))
    return [*lines, *_steps(proof)] if explain else lines


def _steps(proof: EntryProof) -> list[Line]:
    """Every hash from the entry to the root, as RFC 9162, section 2.1.3.2, goes."""
    node, index, last = proof.leaf, proof.header.seq, proof.checkpoint.size - 1
    lines: list[Line] = [f"  leaf        {node.hex()}  SHA-256(00 header)"]
    for sibling in proof.path:
        left = bool(index & 1) or index == last
        node = node_hash(sibling, node) if left else node_hash(node, sibling)
        if left:
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        index, last = index >> 1, last >> 1
        order = f"SHA-256(01 {sibling.hex()[:8]} .)" if left else f"SHA-256(01 . {sibling.hex()[:8]})"
        lines.append(f"  node        {node.hex()}  {order}")
    return [*lines, f"  root        {proof.checkpoint.root.hex()}  signed by the log"]


def _second(time: int | None) -> str | None:
    return None if time is None else when(time * 1000)


def _hint(error: RemoteProtocolError) -> str:
    return {
        "stranger": _NO_KEY,
        "version": "use a newer version of this program",
        "malformed": "the file was changed, cut short, or is of another kind; ask for it again",
    }.get(error.reason.label, "the proof was changed, or the key is another one")
