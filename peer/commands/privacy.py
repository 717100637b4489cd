"""``quidnunc privacy audit``: attacks on the own training, as a lower bound beside the accountant's upper one.

Whatever is trained stays in a process of its own on this machine: no budget is spent and no ledger entry written.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import Any

from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPM, Unit
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.draft_numbers import check_site, epsilon
from quidnunc.peer.commands.files import read_charter, require_home
from quidnunc.peer.output import ExitCode, Outcome, UsageError

ROUNDS_DEFAULT = 50
ROUNDS_MAX = 1000
CANARIES = 300
CANARIES_MAX = 5000
SHADOWS = 16
SHADOWS_MAX = 256
BUILT_IN = ("breast-cancer", "digits")
DEMO_PEERS = 4
"""Without a home the first of so many shares of the data is trained on, as in ``quidnunc demo``."""

_CANARIES_HELP = f"default: {CANARIES}; more can show more; where sites are protected: trainings with and without it"
_DELTA_EXP = 5
_OWN_TERMS = ("epsilon", "sampling_rate", "local_steps", "privacy_unit")


def register(parser: CommandParser) -> None:
    """The second word and its arguments."""
    below = parser.verbs("action")(
        "audit", help="attack the own training; exit 0 consistent, 20 contradicted, 32 cannot see"
    )
    add = below.add_argument
    add("--task", choices=BUILT_IN, help="a built-in task instead of this home's, with the terms below")
    add("--epsilon", type=epsilon, metavar="E", help="with --task: the claim, or inf (default: 8)")
    add("--sampling-rate", type=float, metavar="Q", help="with --task: Poisson samples (default: all records)")
    add("--local-steps", type=int, metavar="N", help="with --sampling-rate: steps a round (default: 1)")
    units = [unit.label for unit in (Unit.EXAMPLE, Unit.SITE)]
    add("--privacy-unit", choices=units, help="with --task: one record (default), or all records of the site together")
    add("--rounds", type=int, metavar="N", help=f"rounds to train (default: the charter's, at most {ROUNDS_DEFAULT})")
    add("--canaries", type=int, default=CANARIES, metavar="N", help=_CANARIES_HELP)
    add("--shadows", type=int, default=SHADOWS, metavar="N", help=f"shadow models, even; 0: none (default: {SHADOWS})")
    add("--seed", type=int, default=0, metavar="S", help="draws canaries, coins and this audit's noise (default: 0)")
    below.set_defaults(command=audit)


def audit(args: argparse.Namespace, context: Context) -> Outcome:
    """Audit this home's training, or that of a built-in task."""
    # trio, by way of the pipe: only what runs a process needs it.
    from quidnunc.peer.commands.privacy_view import lines
    from quidnunc.peer.privacy_audit import run

    _check(args)
    request, few = (_built_in(args), None) if args.task else _own(args, context)
    report = {**run(request, context.out.talk), "private_sum": few}
    text = lines(report)
    if report["verdict"] == "contradicted":
        return Outcome(
            report,
            text,
            ExitCode.CHECK_FAILED,
            "the audit contradicts what is claimed of this training",
            "do not train until it is known why: the parts marked contradicted say what was measured",
        )
    if report["verdict"] == "blind":
        return Outcome(
            report,
            text,
            ExitCode.INCOMPLETE,
            "the audit cannot see: an attack finds nothing even where there is no noise",
            "ask for more --canaries or --rounds; until then nothing is shown either way",
        )
    return Outcome(report, text)


def _check(args: argparse.Namespace) -> None:
    for flag, low, high in (
        ("canaries", 8, CANARIES_MAX),
        ("rounds", 1, ROUNDS_MAX),
        ("local_steps", 1, 1000),
        ("seed", 0, 2**63 - 1),
    ):
        value = getattr(args, flag)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{flag.replace('_', '-')} is {value}, must be {low} to {high}")
    if args.shadows and (args.shadows % 2 or not 4 <= args.shadows <= SHADOWS_MAX):
        raise UsageError(f"--shadows is {args.shadows}, must be 0 or an even number from 4 to {SHADOWS_MAX}")
    for flag in _OWN_TERMS:
        if getattr(args, flag) is not None and not args.task:
            raise UsageError(f"--{flag.replace('_', '-')} stands in this home's charter", hint="or name a --task")


def _own(args: argparse.Namespace, context: Context) -> tuple[Any, dict[str, Any] | None]:
    """The request for this home: the charter's terms, and this site's data as the daemon reads them.

    The audit trains alone, where there are no pairs. So of a private sum it takes what all others together are left
    with, a member's own noise, and what that costs against everybody; the second part of the result says so.
    """
    from quidnunc.peer.config import load
    from quidnunc.peer.privacy_audit import Request
    from quidnunc.peer.task_setup import compute_setup

    home = context.home
    require_home(home)
    charter = read_charter(home.charter)[1].charter
    privacy = charter.privacy
    planned = privacy.releases if privacy.private else charter.rounds.count
    request = Request(
        # Personal tensors are audited as if they were sent: they come out of the same noised step.
        setup=replace(compute_setup(charter, load(home.config), home), attack="", personal=()),
        rounds=min(planned, ROUNDS_DEFAULT) if args.rounds is None else args.rounds,
        delta_exp=privacy.delta_exp if privacy.private else _DELTA_EXP,
        canaries=args.canaries,
        shadows=args.shadows,
        seed=args.seed,
    )
    if not privacy.private:
        return request, None
    release = privacy.release
    few = {"colluders": privacy.colluders, "members": release.members, "epsilon": privacy.epsilon_u / MICRO}
    audited = replace(
        request,
        noise_u=privacy.noise_u,
        clip_u=privacy.clip_u,
        rate_ppm=release.rate_ppm,
        steps=release.steps,
        unit=int(Unit.SITE if privacy.unit == Unit.SITE else Unit.EXAMPLE),
    )
    return audited, (few if privacy.unit == Unit.SUM else None)


def _built_in(args: argparse.Namespace) -> Any:
    """The request for a built-in task, on the terms that ``federation create`` would write down."""
    # numpy, by way of the built-in tasks.
    from quidnunc.gossip.learning.builtin import DEFAULTS
    from quidnunc.peer.pipe import Setup
    from quidnunc.peer.privacy_audit import Request

    claimed = 8.0 if args.epsilon is None else args.epsilon
    rounds = ROUNDS_DEFAULT if args.rounds is None else args.rounds
    private = not math.isinf(claimed)
    site = args.privacy_unit == Unit.SITE.label
    if site:
        check_site(claimed, args.sampling_rate)
    defaults = DEFAULTS[args.task]
    training = defaults.private if private and not site else defaults.plain
    setup = Setup(
        task=args.task,
        blobs="",
        peers=DEMO_PEERS,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        local_steps=training.local_steps if not site or args.local_steps is None else args.local_steps,
        batch_size=training.batch_size,
        private=private and not site,
        rounds=rounds,
    )
    request = Request(setup, rounds, _DELTA_EXP, args.canaries, args.shadows, args.seed)
    if not private:
        for flag in _OWN_TERMS[1:]:
            if getattr(args, flag) is not None:
                raise UsageError(f"--{flag.replace('_', '-')} without privacy", hint="give --epsilon")
        return request
    rate_ppm, steps, noise_u = _noise(args, claimed, rounds, site=site)
    unit = int(Unit.SITE if site else Unit.EXAMPLE)
    clip_u = round(defaults.clip * MICRO)
    return replace(request, noise_u=noise_u, clip_u=clip_u, rate_ppm=rate_ppm, steps=steps, unit=unit)


def _noise(args: argparse.Namespace, claimed: float, rounds: int, *, site: bool) -> tuple[int, int, int]:
    """Sampling rate (``_ppm``), steps a round, and the noise multiplier (``_u``) that keeps the claim."""
    if args.sampling_rate is None:
        if args.local_steps is not None and not site:
            raise UsageError("--local-steps without --sampling-rate: a round on all records is one step")
        return PPM, 1, math.ceil(noise_for(claimed, rounds, 10.0**-_DELTA_EXP) * MICRO)
    rate_ppm = round(args.sampling_rate * PPM) if 0 <= args.sampling_rate < 1 else 0
    if not 1 <= rate_ppm < PPM:
        raise UsageError(f"--sampling-rate is {args.sampling_rate:g}, must be from 0.000001 to below 1")
    from quidnunc.peer.commands.promise import sampled_noise

    steps = 1 if args.local_steps is None else args.local_steps
    return rate_ppm, steps, sampled_noise(round(claimed * MICRO), rate_ppm, steps, rounds, _DELTA_EXP)
