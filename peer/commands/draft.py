"""``quidnunc federation create``: member cards and a few numbers become a charter for everybody to sign."""

from __future__ import annotations

import argparse
import hashlib
import secrets
import time
import unicodedata
from dataclasses import replace
from itertools import combinations

from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.federation.charter import NONCE_BYTES, Charter, default_quorum
from quidnunc.gossip.federation.founding import NOTE_BYTES, draft_note, open_charter, sign_charter
from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.sum_terms import LEAD as SUM_LEAD
from quidnunc.gossip.federation.terms import HASH_BYTES, MICRO, MergeSpec, RoundSpec, TaskSpec
from quidnunc.gossip.jobs import Unit
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import unlocking
from quidnunc.peer.commands.charter_view import charter_data, charter_lines
from quidnunc.peer.commands.data_schema import read_schema
from quidnunc.peer.commands.draft_flags import CODECS, add_flags, option
from quidnunc.peer.commands.draft_numbers import check_whole_numbers, millis
from quidnunc.peer.commands.draft_privacy import privacy_of, records, warn_of_weak_privacy
from quidnunc.peer.commands.draft_task import defaults, describe, training
from quidnunc.peer.commands.files import own_card, own_place, read_cards, replace_public, write_public
from quidnunc.peer.commands.robustness import warn_of_noise
from quidnunc.peer.commands.rule_words import rule_options, size_cap
from quidnunc.peer.commands.signing import agreed_to, next_steps, root_key, show_terms
from quidnunc.peer.files import expanded
from quidnunc.peer.model_file import beside, read_model
from quidnunc.peer.new_file import require_free, write_new
from quidnunc.peer.output import Outcome, Styled, UsageError
from quidnunc.peer.reach import warnings_of_cards

__all__ = ["NOTE_BYTES", "create", "register"]

_DRAG_CAP_U = 3 * MICRO // 2
_MEAN_DRAG_CAP_U = 3 * MICRO
"""Nothing in the plain mean takes a compensated replica for an outlier."""
_PRIVATE_LEAD = 2
_PLAIN_LEAD = 4
_PAYLOAD_BYTES = 16 * 1024 * 1024
_PAYLOAD_SLACK = 64 * 1024
_TIMEOUT_S = 300.0


def register(parser: CommandParser) -> None:
    """The arguments of ``federation create``."""
    add_flags(parser)
    parser.set_defaults(command=create)


def create(args: argparse.Namespace, context: Context) -> Outcome:
    """Draft a charter: build the task once to name its model, draw the graph, compute the noise."""
    # networkx and, through the built-in tasks, numpy: only this command needs them.
    from quidnunc.gossip.federation.topology import founding_edges

    members = read_cards(args.cards)
    if len(members) < 2:
        raise UsageError(f"{len(members)} card, a federation has at least 2 members", hint="name all founders' cards")
    check_whole_numbers(args)
    for path in (args.out, *(() if args.from_model is None else (beside(args.out),))):
        require_free(expanded(path))
    options = dict(option(text) for text in args.option)
    personal = tuple(sorted(set(args.personal)))
    schema = read_schema(args.schema, args.task)
    usual = defaults(args.task)
    privacy = privacy_of(args, usual, members)
    complete = privacy.unit == Unit.SUM
    # Everything else is checked before the task is built, which takes seconds.
    unbuilt = Charter(
        purpose=unicodedata.normalize("NFC", args.purpose),
        nonce=secrets.token_bytes(NONCE_BYTES),
        t_ms=time.time_ns() // 1_000_000,
        members=members,
        task=TaskSpec(args.task, bytes(HASH_BYTES), bytes(HASH_BYTES), 1, args.seed, options, schema, personal),
        training=training(args, usual),
        merge=_merge(args, privacy),
        privacy=privacy,
        rounds=RoundSpec(args.rounds, millis(args.interval), _lead(privacy), args.start),
        edges=tuple(combinations(range(len(members)), 2)) if complete else founding_edges(len(members), args.seed),
        codec=CODECS[args.codec],
        quorum=default_quorum(len(members)) if args.quorum is None else args.quorum,
        payload_bytes=_PAYLOAD_BYTES,
    )
    signer = None if args.no_sign else _signer(unbuilt, args, context)
    context.out.talk(f"building task {args.task} to name its model")
    described = describe(unbuilt, args.site_peers, args.data_path, context.timeout_s or _TIMEOUT_S)
    if args.from_model is not None:
        model = read_model(expanded(args.from_model), described.dim)
        described = replace(described, genesis=hashlib.sha256(model).digest())
        write_new(expanded(beside(args.out)).absolute(), model)
    if complete and records(args, members) is None:
        privacy = replace(privacy, records=max(1, described.examples))
    charter = replace(
        unbuilt,
        privacy=privacy,
        task=replace(unbuilt.task, schema=described.schema, genesis=described.genesis, dim=described.dim),
        payload_bytes=max(_PAYLOAD_BYTES, 4 * described.dim + _PAYLOAD_SLACK),
    )
    warn_of_weak_privacy(members, privacy, context)
    for sentence in warnings_of_cards(charter):
        context.out.warn(sentence)
    gates = warn_of_noise(charter, context)
    note = draft_note(charter)
    write_public(args.out, note)
    if signer is not None and _agreed(charter, context):
        note = sign_charter(note, signer)
        replace_public(args.out, note)
    opened = open_charter(note)
    lines = [
        *charter_lines(opened, terms=signer is None or context.yes),
        Styled(f"wrote {args.out}{', signed by this home' if opened.signed else ', signed by nobody yet'}", "strong"),
        *next_steps(args.out, opened, context.home, installed=False),
    ]
    facts = {"file": str(args.out), **charter_data(opened), "robustness": gates}
    if args.from_model is not None:
        facts["model"] = str(beside(args.out))
        lines.append(f"and passes on {beside(args.out)}, the params to begin with, for federation install")
    return Outcome(facts, lines)


def _merge(args: argparse.Namespace, privacy: PrivacySpec) -> MergeSpec:
    drag_cap_u = _MEAN_DRAG_CAP_U if args.rule == "mean" else _DRAG_CAP_U
    return MergeSpec(
        args.rule,
        MICRO if privacy.private else drag_cap_u,
        rule_options(args.rule_option),
        0 if args.size_cap is None else size_cap(args.size_cap),
    )


def _agreed(charter: Charter, context: Context) -> bool:
    if not context.yes:  # said beside the question; without one, with the result
        show_terms(charter, context)
    return agreed_to(charter, context)


def _signer(unbuilt: Charter, args: argparse.Namespace, context: Context) -> SecretKey | None:
    """This home's root key, if it is one of the members: whoever sets the terms agrees to them."""
    home = context.home
    if not home.exists() or not home.card.exists():
        return None
    mine = own_card(home)
    if unbuilt.member(mine.log_id) is None:
        return None
    own_place(home, unbuilt)
    if not home.root_key.exists():
        context.out.talk(f"{home.root_key} is not here: sign with federation sign {args.out} --key FILE")
        return None
    if not (context.yes or context.interactive):
        raise UsageError(
            "the root key signs: this asks first, and nobody can answer", hint="add --yes, or --no-sign to draft only"
        )
    return root_key(home.root_key, mine, unlocking.source(args, context).present)


def _lead(privacy: PrivacySpec) -> int:
    if privacy.unit == Unit.SUM:
        return SUM_LEAD
    return _PRIVATE_LEAD if privacy.private else _PLAIN_LEAD
