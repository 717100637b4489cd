"""What a demo was asked for, checked before anything is made, as a plan to rehearse."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.privacy_terms import POISSON_STEPS_MAX
from quidnunc.gossip.federation.terms import MAX_ROUNDS, MICRO, MergeSpec, is_task_reference
from quidnunc.gossip.jobs import PPM, Unit
from quidnunc.peer.commands.demo_data import Survey
from quidnunc.peer.commands.dialect_flags import dialect_options
from quidnunc.peer.commands.draft_numbers import EPSILON_MAX, EPSILON_MIN, check_site, check_sum, finite_or_inf
from quidnunc.peer.commands.rule_words import rule_options
from quidnunc.peer.output import UsageError
from quidnunc.peer.rehearsal import Plan
from quidnunc.peer.task_loader import CSV

PEERS_MAX = 16
ALPHA_MIN, ALPHA_MAX = 0.01, 1000.0
SEED_MAX = 2**32 - 1
RATE_MIN = 1 / PPM

_STANDARD = {"peers": 4, "task": "digits", "alpha": 0.5, "attackers": 0, "attack": "sign_flip"}
_AGAINST_DATA = {
    "peers": "there is one peer per table",
    "task": "tables are the task csv",
    "alpha": "tables are not cut into shares",
    "attackers": "real data are not for drills",
    "attack": "real data are not for drills",
}


def apply_defaults(args: argparse.Namespace) -> None:
    """Fill in what was not said. Raises UsageError for flags that contradict --data."""
    if args.data is None and args.schema is not None:
        raise UsageError("--schema says how tables are read, and there are none", hint="name a directory with --data")
    if args.data is None and (said := dialect_options(args)):
        raise UsageError(
            f"--{next(iter(said))} says how tables are written, and there are none", hint="name a directory with --data"
        )
    if args.attack is not None and args.data is None and not args.attackers:
        raise UsageError(
            f"--attack {args.attack[:40]} and no --attackers: nobody would attack", hint="add --attackers 1"
        )
    for flag, standard in _STANDARD.items():
        given = getattr(args, flag)
        if given is None:
            setattr(args, flag, standard)
        elif args.data is not None:
            raise UsageError(f"--{flag} does not go with --data: {_AGAINST_DATA[flag]}", hint=f"leave --{flag} out")


def with_tables(plan: Plan, found: Survey) -> Plan:
    """The plan for one peer per table."""
    return replace(
        plan,
        peers=len(found.silos),
        task=CSV,
        paths=tuple(silo.path for silo in found.silos),
        names=tuple(silo.name for silo in found.silos),
        schema=found.schema,
        options=tuple(found.options.items()),
    )


def plan_of(args: argparse.Namespace) -> Plan:
    """What is to be rehearsed; raises UsageError for what cannot be, before keys are made."""
    if not 2 <= args.peers <= PEERS_MAX:
        raise UsageError(f"--peers is {args.peers}, must be 2 to {PEERS_MAX}")
    if not 0 <= args.attackers < args.peers:
        raise UsageError(
            f"--attackers is {args.attackers}, must be 0 to {args.peers - 1}: somebody must be honest",
            hint="lower it, or raise --peers",
        )
    if not 1 <= args.rounds <= MAX_ROUNDS:
        raise UsageError(f"--rounds is {args.rounds}, must be 1 to {MAX_ROUNDS}")
    if not ALPHA_MIN <= args.alpha <= ALPHA_MAX:
        raise UsageError(f"--alpha is {args.alpha:g}, must be {ALPHA_MIN:g} to {ALPHA_MAX:g}")
    epsilon = finite_or_inf(args.epsilon)
    if not (EPSILON_MIN <= epsilon <= EPSILON_MAX or epsilon == math.inf):
        raise UsageError(
            f"--epsilon is {args.epsilon[:40]!r}, must be a number above 0 (at least {EPSILON_MIN:f}) and up to "
            f"{EPSILON_MAX:g}, or inf"
        )
    if not 0 <= args.seed <= SEED_MAX:
        raise UsageError(f"--seed is {args.seed}, must be 0 to {SEED_MAX}")
    _check_names(args.task, args.attack)
    _check_rule(args)
    rhythm = ("--rounds", str(args.rounds), "--interval", "0.1")
    rule = ("--rule", args.rule, *(word for option in args.rule_option for word in ("--rule-option", option)))
    personal = (word for name in args.personal for word in ("--personal", name))
    if args.privacy_unit == Unit.SITE.label:
        check_site(epsilon, args.sampling_rate)
    unit = ("--privacy-unit", args.privacy_unit)
    if args.private_sum is not None:
        _check_sum(args, epsilon)
        unit = ("--private-sum", str(args.private_sum))
    create = (*rhythm, "--epsilon", str(args.epsilon), *unit, *rule, *_steps(args, epsilon), *personal)
    return Plan(args.peers, args.task, args.alpha, args.seed, create, args.attackers, args.attack)


def _check_sum(args: argparse.Namespace, epsilon: float) -> None:
    """Raise UsageError for what contradicts ``--private-sum``: here, before keys are made."""
    if args.data is None:
        unit, rate = args.privacy_unit, args.sampling_rate
        check_sum(args.private_sum, args.peers, epsilon=epsilon, unit=unit, rate=rate)
    if args.rule != "mean" or args.personal:
        raise UsageError(
            "--private-sum takes the plain mean and shares all tensors: noise that cancels between members hides what "
            "other rules compare, and cancels nowhere in what is not sent",
            hint="add --rule mean, and leave --personal out",
        )


def _check_rule(args: argparse.Namespace) -> None:
    """Raise UsageError for options that the rule does not have: here, before keys are made."""
    try:
        MergeSpec(args.rule, MICRO, rule_options(args.rule_option))
    except CharterError as error:
        raise UsageError(error.message, hint=error.hint) from None


def _steps(args: argparse.Namespace, epsilon: float) -> tuple[str, ...]:
    """What ``federation create`` is told of samples and steps."""
    rate = args.sampling_rate
    if rate is not None and (not RATE_MIN <= rate < 1 or epsilon == math.inf):
        raise UsageError(
            f"--sampling-rate is {rate:g} with --epsilon {epsilon:g}, must be {RATE_MIN:f} to below 1, with privacy",
            hint="leave it out to train on all records in every step",
        )
    steps = args.local_steps
    if steps is None:
        return () if rate is None else ("--sampling-rate", repr(rate))
    if rate is None and epsilon != math.inf and args.privacy_unit != Unit.SITE.label:
        raise UsageError(
            "--local-steps does not go with full batches: a private round is one step",
            hint="give --sampling-rate or --privacy-unit site as well",
        )
    if not 1 <= steps <= POISSON_STEPS_MAX:
        raise UsageError(f"--local-steps is {steps}, must be 1 to {POISSON_STEPS_MAX}")
    return (*(() if rate is None else ("--sampling-rate", repr(rate))), "--local-steps", str(steps))


def _check_names(task: str, attack: str) -> None:
    """Raise UsageError unless there may be such a task and there is such an attack."""
    # Both import numpy.
    from quidnunc.gossip.learning.builtin import BUILTIN
    from quidnunc.gossip.learning.drills import check_drill

    if not is_task_reference(task) or (":" not in task and task not in BUILTIN):
        raise UsageError(
            f"--task is {task[:80]!r}, must be {', '.join(sorted(BUILTIN))} or package.module:function",
        )
    if not attack:
        raise UsageError("--attack is empty, must be the name of an attack")
    try:
        check_drill(attack)
    except ConfigError as error:
        raise UsageError(f"--attack: {error.message}", hint=error.hint) from None
