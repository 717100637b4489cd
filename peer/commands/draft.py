"""``quidnunc federation create``: member cards and a few numbers become a charter for everybody to sign."""

from __future__ import annotations

import argparse
import hashlib
import math
import secrets
import tempfile
import time
import unicodedata
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.federation.charter import NONCE_BYTES, Charter, default_quorum
from quidnunc.gossip.federation.founding import NOTE_BYTES, draft_note, open_charter, sign_charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.privacy_terms import DP_FULL_BATCH, DP_POISSON, DP_SITE, NO_PRIVACY, PrivacySpec
from quidnunc.gossip.federation.sum_terms import LEAD as SUM_LEAD
from quidnunc.gossip.federation.terms import HASH_BYTES, MICRO, STARTS, MergeSpec, RoundSpec, TaskSpec, TrainingSpec
from quidnunc.gossip.jobs import PPM, Described, DescribeJob, JobFailed, Result, Unit
from quidnunc.gossip.learning.accountant import epsilon_of, noise_for
from quidnunc.gossip.private_sum import summed
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import unlocking
from quidnunc.peer.commands.charter_view import charter_data, charter_lines
from quidnunc.peer.commands.data_schema import read_schema
from quidnunc.peer.commands.draft_numbers import (
    DELTA_EXP_WEAK,
    EPSILON_WEAK,
    check_site,
    check_sum,
    check_whole_numbers,
    epsilon,
    micro,
    millis,
    usual_records,
)
from quidnunc.peer.commands.files import own_card, own_place, read_cards, replace_public, write_public
from quidnunc.peer.commands.promise import sampled_noise
from quidnunc.peer.commands.robustness import warn_of_noise
from quidnunc.peer.commands.rule_words import add_rule, rule_options, size_cap
from quidnunc.peer.commands.signing import agreed_to, next_steps, root_key, show_terms
from quidnunc.peer.home import expanded
from quidnunc.peer.model_file import beside, read_model
from quidnunc.peer.new_file import require_free, write_new
from quidnunc.peer.output import Outcome, Styled, UsageError
from quidnunc.peer.reach import warnings_of_cards

if TYPE_CHECKING:
    from quidnunc.gossip.learning.builtin import Defaults

__all__ = ["NOTE_BYTES", "create", "register"]

_CODECS = {"float32": 0, "int8": 1}
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
    add = parser.add_argument
    add("cards", nargs="+", type=Path, metavar="CARD", help="the member cards that init wrote")
    add("--task", default="digits", help="a built-in task, or package.module:function (default: digits)")
    add("--option", action="append", default=[], metavar="K=V", help="an option of the task (repeat for more)")
    add("--schema", type=Path, metavar="FILE", help="how every member reads its table, for a task that reads one")
    add(
        "--personal",
        action="append",
        default=[],
        metavar="NAME",
        help="a tensor or module that members train for themselves and never send, as bias or head (repeat for more)",
    )
    add("--purpose", default="", metavar="TEXT", help="what for, in one line")
    add("--rounds", type=int, default=50, metavar="N", help="training rounds (default: 50)")
    add(
        "--interval",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between rounds; 0: as fast as it goes",
    )
    add(
        "--epsilon",
        type=epsilon,
        default=8.0,
        metavar="E",
        help="privacy of one record (see --privacy-unit), or inf (default: 8)",
    )
    add("--delta-exp", type=int, default=5, metavar="K", help="delta is 10^-K (default: 5)")
    add(
        "--sampling-rate",
        type=float,
        metavar="Q",
        help="with privacy: every step takes each record with probability Q, not all of them; see --local-steps",
    )
    add(
        "--privacy-unit",
        choices=[unit.label for unit in (Unit.EXAMPLE, Unit.SITE)],
        default=Unit.EXAMPLE.label,
        help="whom epsilon protects: one record (example), or all records of a member together (site: plain training, "
        "its whole delta clipped and noised; far more noise)",
    )
    add(
        "--private-sum",
        type=int,
        metavar="Q",
        help="far less noise: part of it cancels between members, so that epsilon holds against listeners and up to Q "
        "curious members only; nothing is screened, with --rule mean (see docs/privacy.md)",
    )
    add(
        "--records",
        type=int,
        metavar="N",
        help="with --private-sum: what everybody divides gradient sums by (default: the mean size by the cards)",
    )
    add("--clip", type=float, metavar="C", help="bound on one example's gradient or, with unit site, a round's delta")
    add_rule(parser)
    add(
        "--size-cap",
        type=float,
        metavar="R",
        help="weigh members by the examples on their cards, nobody more than R times the median (default: equally)",
    )
    add("--seed", type=int, default=0, help="draws the genesis params and the graph (default: 0)")
    add("--lr", type=float, help="learning rate")
    add("--momentum", type=float)
    add(
        "--local-steps",
        type=int,
        metavar="N",
        help="steps per round; not for full batches of records",
    )
    add("--batch", type=int, metavar="N", help="examples per step without privacy or with unit site")
    add(
        "--prox",
        type=float,
        default=0.0,
        metavar="MU",
        help="pull every step back to the merged model by MU/2 of the squared distance (FedProx; default: 0)",
    )
    add("--start", choices=STARTS, default="majority", help="begin when all or most neighbors are there")
    add("--codec", choices=sorted(_CODECS), default="int8", help="how deltas are sent (default: int8)")
    add(
        "--quorum",
        type=int,
        metavar="N",
        help="signatures that a later charter needs (default: over two thirds)",
    )
    add(
        "--site-peers",
        type=int,
        default=1,
        metavar="N",
        help="shares a built-in data set is cut into, to describe it",
    )
    add(
        "--data-path",
        default="",
        metavar="PATH",
        help="local data for a task that reads some, as data.path in config.toml; needed to build it, never sent",
    )
    add(
        "--from-model",
        type=Path,
        metavar="FILE",
        help="begin with these params, or with those of the peer whose home this is; members get OUT.params to install",
    )
    add("--out", type=Path, default=Path("charter.note"), metavar="FILE", help="a new file (default: charter.note)")
    add("--no-sign", action="store_true", help="only draft, although this home is a member")
    unlocking.add_flags(parser)
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
    options = dict(_option(text) for text in args.option)
    personal = tuple(sorted(set(args.personal)))
    schema = read_schema(args.schema, args.task)
    defaults = _defaults(args.task)
    privacy = _privacy(args, defaults, members)
    complete = privacy.unit == Unit.SUM
    # Everything else is checked before the task is built, which takes seconds.
    unbuilt = Charter(
        purpose=unicodedata.normalize("NFC", args.purpose),
        nonce=secrets.token_bytes(NONCE_BYTES),
        t_ms=time.time_ns() // 1_000_000,
        members=members,
        task=TaskSpec(args.task, bytes(HASH_BYTES), bytes(HASH_BYTES), 1, args.seed, options, schema, personal),
        training=_training(args, defaults),
        merge=_merge(args, privacy),
        privacy=privacy,
        rounds=RoundSpec(args.rounds, millis(args.interval), _lead(privacy), args.start),
        edges=tuple(combinations(range(len(members)), 2)) if complete else founding_edges(len(members), args.seed),
        codec=_CODECS[args.codec],
        quorum=default_quorum(len(members)) if args.quorum is None else args.quorum,
        payload_bytes=_PAYLOAD_BYTES,
    )
    signer = None if args.no_sign else _signer(unbuilt, args, context)
    context.out.talk(f"building task {args.task} to name its model")
    described = _describe(unbuilt, args.site_peers, args.data_path, context.timeout_s or _TIMEOUT_S)
    if args.from_model is not None:
        model = read_model(expanded(args.from_model), described.dim)
        described = replace(described, genesis=hashlib.sha256(model).digest())
        write_new(expanded(beside(args.out)).absolute(), model)
    if complete and _records(args, members) is None:
        privacy = replace(privacy, records=max(1, described.examples))
    charter = replace(
        unbuilt,
        privacy=privacy,
        task=replace(unbuilt.task, schema=described.schema, genesis=described.genesis, dim=described.dim),
        payload_bytes=max(_PAYLOAD_BYTES, 4 * described.dim + _PAYLOAD_SLACK),
    )
    _warn_of_weak_privacy(members, privacy, context)
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


def _training(args: argparse.Namespace, defaults: Defaults) -> TrainingSpec:
    plain = math.isinf(args.epsilon) or args.privacy_unit == Unit.SITE.label
    base = defaults.plain if plain else defaults.private
    return TrainingSpec(
        learning_rate_u=micro("--lr", base.learning_rate if args.lr is None else args.lr),
        momentum_u=micro("--momentum", base.momentum if args.momentum is None else args.momentum),
        local_steps=base.local_steps if args.local_steps is None else args.local_steps,
        batch_size=base.batch_size if args.batch is None else args.batch,
        prox_u=micro("--prox", args.prox) if args.prox else 0,
    )


def _lead(privacy: PrivacySpec) -> int:
    if privacy.unit == Unit.SUM:
        return SUM_LEAD
    return _PRIVATE_LEAD if privacy.private else _PLAIN_LEAD


def _privacy(args: argparse.Namespace, defaults: Defaults, members: tuple[Member, ...]) -> PrivacySpec:
    if args.private_sum is None and args.records is not None:
        raise UsageError("--records without --private-sum", hint="it names what the members of a sum divide by")
    if args.private_sum is not None:
        unit, rate = args.privacy_unit, args.sampling_rate
        check_sum(args.private_sum, len(members), epsilon=args.epsilon, unit=unit, rate=rate)
    site = args.privacy_unit == Unit.SITE.label
    if site:
        check_site(args.epsilon, args.sampling_rate)
    if math.isinf(args.epsilon):
        if args.sampling_rate is not None:
            raise UsageError("--sampling-rate without privacy", hint="give --epsilon, or --batch for plain training")
        return PrivacySpec(NO_PRIVACY)
    if args.local_steps not in (None, 1) and args.sampling_rate is None and not site:
        raise UsageError(
            "--local-steps does not go with full batches: a private round is one step",
            hint="give --sampling-rate or --privacy-unit site as well",
        )
    epsilon_u = micro("--epsilon", args.epsilon)
    clip_u = micro("--clip", defaults.clip if args.clip is None else args.clip)
    if not clip_u:
        raise UsageError("--clip is 0, must be 0.000001 to 1000000", hint="a gradient of at most this length may count")
    if args.sampling_rate is not None:
        return _sampled(args, defaults, epsilon_u, clip_u)
    if args.private_sum is not None:
        return summed(
            *(epsilon_u, args.delta_exp, clip_u, args.rounds),
            members=len(members),
            colluders=args.private_sum,
            records=_records(args, members) or 1,  # 1 until the task was built, if that has to tell
        )
    delta = 10.0**-args.delta_exp
    noise_u = math.ceil(noise_for(epsilon_u / MICRO, args.rounds, delta) * MICRO)
    # The last bit of a division may be lost: what is written down must suffice as it stands.
    while epsilon_of(noise_u / MICRO, args.rounds, delta) > epsilon_u / MICRO:
        noise_u += 1
    return PrivacySpec(
        mechanism=DP_SITE if site else DP_FULL_BATCH,
        epsilon_u=epsilon_u,
        delta_exp=args.delta_exp,
        clip_u=clip_u,
        noise_u=noise_u,
        releases=args.rounds,
        unit=Unit.SITE if site else Unit.EXAMPLE,
    )


def _records(args: argparse.Namespace, members: tuple[Member, ...]) -> int | None:
    """What the members of a private sum divide by; None where only a share of a built-in data set can tell."""
    records = usual_records(args.records, members)
    if records is None and args.site_peers == 1:
        raise UsageError(
            "--private-sum: no card tells a number of records, and all members divide by the same one",
            hint="give --records, about the mean number of a member's training records",
        )
    return records


def _sampled(args: argparse.Namespace, defaults: Defaults, epsilon_u: int, clip_u: int) -> PrivacySpec:
    rate_ppm = round(args.sampling_rate * PPM) if 0 <= args.sampling_rate < 1 else 0
    if not 1 <= rate_ppm < PPM:
        raise UsageError(
            f"--sampling-rate is {args.sampling_rate:g}, must be from 0.000001 to below 1",
            hint="leave it out to train on all records in every step",
        )
    steps = _training(args, defaults).local_steps
    noise_u = sampled_noise(epsilon_u, rate_ppm, steps, args.rounds, args.delta_exp)
    return PrivacySpec(DP_POISSON, epsilon_u, args.delta_exp, clip_u, noise_u, args.rounds, rate_ppm, steps)


def _describe(charter: Charter, site_peers: int, path: str, timeout_s: float) -> Described:
    """What the task's model is, found out in a compute process: this one never loads torch or user code."""
    import trio

    from quidnunc.peer.compute import ComputeProcess
    from quidnunc.peer.pipe import Setup

    plan = charter.plan()

    async def describe(blobs: str) -> Result:
        setup = Setup(
            task=charter.task.reference,
            blobs=blobs,
            path=path,
            peers=site_peers,
            options=charter.task.options,
            schema=charter.task.data_schema,
            blank=True,
            genesis_seed=plan.seed,
            codec=plan.codec,
            learning_rate=plan.training.learning_rate,
            momentum=plan.training.momentum,
            local_steps=plan.training.local_steps,
            batch_size=plan.training.batch_size,
            merge_rule=plan.merge_rule,
            private=plan.private,
            personal=plan.personal,
        )
        async with ComputeProcess(setup, stall_s=timeout_s, start_s=timeout_s) as compute:
            return await compute.run(DescribeJob())

    with tempfile.TemporaryDirectory(prefix="quidnunc-") as blobs:
        result = trio.run(describe, blobs)
    if isinstance(result, Described):
        return result
    why = result.why if isinstance(result, JobFailed) else f"answered with {type(result).__name__}"
    hint = "it is built here once, to name its model"
    if not path and ":" in charter.task.reference:
        hint += "; does it read data? name some with --data-path"
    raise ConfigError(f"task {charter.task.reference!r}: {why}", hint=hint)


def _defaults(task: str) -> Defaults:
    from quidnunc.gossip.learning.builtin import DEFAULTS, Defaults
    from quidnunc.gossip.task import Training

    own = Defaults(
        plain=Training(learning_rate=0.1, momentum=0.9, local_steps=4, batch_size=32),
        private=Training(learning_rate=0.5),
        clip=1.0,
    )
    return DEFAULTS.get(task, own)


def _warn_of_weak_privacy(members: tuple[Member, ...], privacy: PrivacySpec, context: Context) -> None:
    """Say so of an epsilon or a delta that hides next to nothing, by itself or with so many records."""
    if not privacy.private:
        return
    if privacy.epsilon_u > EPSILON_WEAK * MICRO:
        context.out.warn(
            f"epsilon {privacy.epsilon_u / MICRO:g} is above {EPSILON_WEAK:g}: whoever looks may tell with near "
            "certainty whether a record was there; lower --epsilon"
        )
    if privacy.delta_exp < DELTA_EXP_WEAK:
        context.out.warn(
            f"delta {privacy.delta:g} lets one record in {10**privacy.delta_exp} be published whole; raise --delta-exp"
        )
    for member in members:
        if member.size_bucket and 10 * 2**member.size_bucket > 10**privacy.delta_exp:
            context.out.warn(
                f"{member.name} has at least {2**member.size_bucket} records: delta {privacy.delta:g} is above a tenth "
                "of one over that; raise --delta-exp"
            )


def _option(text: str) -> tuple[str, str | int | bool]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option {text!r} is not of the form key=value")
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, int(value)
    except ValueError:
        return key, unicodedata.normalize("NFC", value)
