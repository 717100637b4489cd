"""The privacy of a draft: which mechanism its flags name, and the noise that keeps the promise."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.privacy_terms import DP_FULL_BATCH, DP_POISSON, DP_SITE, NO_PRIVACY, PrivacySpec
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPM, Unit
from quidnunc.gossip.learning.accountant import epsilon_of, noise_for
from quidnunc.gossip.private_sum import summed
from quidnunc.peer.cli import Context
from quidnunc.peer.commands.draft_numbers import (
    DELTA_EXP,
    DELTA_EXP_WEAK,
    EPSILON_WEAK,
    check_site,
    check_sum,
    check_unused,
    clip_norm,
    micro,
    usual_records,
)
from quidnunc.peer.commands.draft_task import training
from quidnunc.peer.commands.promise import sampled_noise
from quidnunc.peer.output import UsageError

if TYPE_CHECKING:
    from quidnunc.gossip.learning.builtin import Defaults


def privacy_of(args: argparse.Namespace, defaults: Defaults, members: tuple[Member, ...]) -> PrivacySpec:
    """The privacy that the flags name; raises UsageError where they contradict each other."""
    if args.private_sum is None and args.records is not None:
        raise UsageError("--records without --private-sum", hint="it names what the members of a sum divide by")
    if args.private_sum is not None:
        unit, rate = args.privacy_unit, args.sampling_rate
        check_sum(args.private_sum, len(members), epsilon=args.epsilon, unit=unit, rate=rate)
    site = args.privacy_unit == Unit.SITE.label
    if site:
        check_site(args.epsilon, args.sampling_rate)
    check_unused(args)
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
    clip_u = clip_norm(defaults.clip if args.clip is None else args.clip)
    delta_exp = DELTA_EXP if args.delta_exp is None else args.delta_exp
    if args.sampling_rate is not None:
        return _sampled(args, defaults, epsilon_u, delta_exp, clip_u)
    if args.private_sum is not None:
        return summed(
            *(epsilon_u, delta_exp, clip_u, args.rounds),
            members=len(members),
            colluders=args.private_sum,
            records=records(args, members) or 1,  # 1 until the task was built, if that has to tell
        )
    delta = 10.0**-delta_exp
    noise_u = math.ceil(noise_for(epsilon_u / MICRO, args.rounds, delta) * MICRO)
    # The last bit of a division may be lost: what is written down must suffice as it stands.
    while epsilon_of(noise_u / MICRO, args.rounds, delta) > epsilon_u / MICRO:
        noise_u += 1
    return PrivacySpec(
        mechanism=DP_SITE if site else DP_FULL_BATCH,
        epsilon_u=epsilon_u,
        delta_exp=delta_exp,
        clip_u=clip_u,
        noise_u=noise_u,
        releases=args.rounds,
        unit=Unit.SITE if site else Unit.EXAMPLE,
    )


def records(args: argparse.Namespace, members: tuple[Member, ...]) -> int | None:
    """What the members of a private sum divide by; None where only a share of a built-in data set can tell."""
    records = usual_records(args.records, members)
    if records is None and args.site_peers == 1:
        raise UsageError(
            "--private-sum: no card tells a number of records, and all members divide by the same one",
            hint="give --records, about the mean number of a member's training records",
        )
    return records


def _sampled(args: argparse.Namespace, defaults: Defaults, epsilon_u: int, delta_exp: int, clip_u: int) -> PrivacySpec:
    rate_ppm = round(args.sampling_rate * PPM) if 0 <= args.sampling_rate < 1 else 0
    if not 1 <= rate_ppm < PPM:
        raise UsageError(
            f"--sampling-rate is {args.sampling_rate:g}, must be from 0.000001 to below 1",
            hint="leave it out to train on all records in every step",
        )
    steps = training(args, defaults).local_steps
    noise_u = sampled_noise(epsilon_u, rate_ppm, steps, args.rounds, delta_exp)
    return PrivacySpec(DP_POISSON, epsilon_u, delta_exp, clip_u, noise_u, args.rounds, rate_ppm, steps)


def warn_of_weak_privacy(members: tuple[Member, ...], privacy: PrivacySpec, context: Context) -> None:
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
