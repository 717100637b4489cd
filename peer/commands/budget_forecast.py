"""``quidnunc budget forecast``: how many releases remain, until when at the present pace, and what more would cost.

It counts as the daemon does when it starts: with the charter's noise on top of every release in the ledger. The daemon
need not run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.budget import NEVER_U, Budget
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Spent, Unit
from quidnunc.gossip.provenance import NoiseSource
from quidnunc.gossip.rebuild import account_job, history_of, releases_of_others
from quidnunc.gossip.resume import Resume, fold
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.files import read_charter
from quidnunc.peer.commands.ledger_home import opened
from quidnunc.peer.commands.unit_words import SUFFIX
from quidnunc.peer.config import Config, load
from quidnunc.peer.ledger.spends import spends
from quidnunc.peer.output import Line, Outcome, Styled, UsageError
from quidnunc.peer.shared_account import spent_elsewhere

MORE_MAX = 10_000
PACE_RELEASES = 20
"""The newest releases whose usual distance is the present pace."""


def register(parser: CommandParser) -> None:
    """How far to look."""
    parser.add_argument("--more", type=int, metavar="N", help=f"what N more releases would cost, 1 to {MORE_MAX}")
    parser.set_defaults(command=forecast)


def forecast(args: argparse.Namespace, context: Context) -> Outcome:
    """Releases that remain under the cap and in the charter's plan, when they end, epsilon after N more."""
    if args.more is not None and not 1 <= args.more <= MORE_MAX:
        raise UsageError(f"--more is {args.more}, must be 1 to {MORE_MAX}")
    charter = read_charter(context.home.charter)[1].charter
    config = load(context.home.config) if context.home.config.exists() else Config()
    own = config.privacy.epsilon_cap
    with opened(context) as store:
        times = [spend.t_ms for spend in spends(store) if spend.record.unit == charter.privacy.unit]
        resume = fold(store.entries())
    if not charter.privacy.private:
        return Outcome(
            {"mechanism": charter.privacy.mechanism, "releases_left": None},
            ["the charter asks for no privacy: there is no budget to forecast"],
        )
    elsewhere = spent_elsewhere(context.home, config, looking=True)
    budget = counted(charter, int(own * MICRO) if own else None, resume, args.more or 0, elsewhere)
    data = _data(budget, args.more, times, time.time_ns() // 1_000_000)
    data["releases_elsewhere"] = sum(count for _, count in elsewhere)
    return Outcome(data, _lines(data))


def counted(charter: Charter, own_cap_u: int | None, resume: Resume, more: int, elsewhere: Spent) -> Budget:
    """The budget as a daemon that starts now has it, able to say what up to ``more`` further releases cost."""
    cap_u = charter.privacy.epsilon_u if own_cap_u is None else min(charter.privacy.epsilon_u, own_cap_u)
    table: tuple[tuple[int, int], ...] = ()
    job = account_job(charter, resume, elsewhere)
    if job is not None:
        try:
            # dp-accounting, with numpy and scipy: only where something was sampled.
            from quidnunc.gossip.learning.sampled import costs

            table, _ = costs(job.history, job.release, max(job.releases, more), job.delta_exp)
        except ImportError as error:
            raise ConfigError(
                f"sampled privacy cannot be computed: {error}", hint="pip install dp-accounting"
            ) from None
    return Budget(
        charter,
        cap_u,
        NoiseSource.CHACHA20_OS_KEY,
        bytes(32),
        releases=resume.releases,
        cumulative_u=resume.cumulative_u.get(charter.privacy.unit, 0),
        exhausted=charter.privacy.unit in resume.exhausted,
        others=releases_of_others(charter, resume),
        history=history_of(resume, elsewhere),
        table=table,
    )


def affordable(budget: Budget, limit: int) -> int:
    """How many more releases stay within the cap, at most ``limit``."""
    if budget.exhausted:
        return 0
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if budget.cost(budget.releases + middle) <= budget.cap_u:
            low = middle
        else:
            high = middle - 1
    return low


def pace_ms(times: Sequence[int]) -> float | None:
    """The usual time between two of the newest releases; None before the second."""
    newest = list(times)[-PACE_RELEASES:]
    gaps = [later - earlier for earlier, later in pairwise(newest)]
    return None if not gaps else float(median(gaps))


def _data(budget: Budget, more: int | None, times: Sequence[int], now_ms: int) -> dict[str, Any]:
    privacy = budget.charter.privacy
    planned = max(0, privacy.releases - budget.made)
    fit = affordable(budget, max(privacy.releases, more or 0))
    left, pace = min(planned, fit), pace_ms(times)
    # A daemon that is down publishes nothing: its next release is at the earliest now.
    start = None if pace is None else max(now_ms, times[-1] + pace)
    ends = None if start is None or pace is None or not left else start + pace * (left - 1)
    spent_u = max(budget.cumulative_u, budget.cost(budget.releases))
    after_u = None if more is None else max(spent_u, budget.cost(budget.releases + more))
    return {
        "mechanism": privacy.mechanism,
        "unit": privacy.unit.label,
        "releases": budget.made,
        "epsilon": None if spent_u >= NEVER_U else spent_u / MICRO,
        "epsilon_cap": budget.cap_u / MICRO,
        "delta": privacy.delta,
        "exhausted": budget.exhausted,
        "releases_left": left,
        "releases_planned": planned,
        "releases_affordable": fit,
        "pace_s": None if pace is None else pace / 1000,
        "last_release": when(times[-1]) if times else None,
        "ends": None if ends is None else when(round(ends)),
        "more": more,
        "epsilon_after_more": None if after_u is None or after_u >= NEVER_U else after_u / MICRO,
        "more_fits": None if after_u is None or more is None else more <= fit,
    }


def _lines(data: dict[str, Any]) -> list[Line]:
    so_far = "beyond any bound" if data["epsilon"] is None else f"{data['epsilon']:.4f}"
    spent = f"epsilon {so_far} of {data['epsilon_cap']:g} spent at delta {data['delta']:g}"
    whom = "all training records together" if data["unit"] == Unit.SITE.label else "one record"
    if data["unit"] == Unit.SUM.label:
        whom += SUFFIX[Unit.SUM]
    lines: list[Line] = [f"{spent} for {whom}, {data['releases']} releases"]
    if data["releases_elsewhere"]:
        lines.append(f"counted with them: {data['releases_elsewhere']} releases of other homes on the same records")
    left, fit, planned = data["releases_left"], data["releases_affordable"], data["releases_planned"]
    why = "the cap" if fit < planned else "the charter's plan"
    if data["exhausted"]:
        lines.append(Styled("exhausted: this peer goes on merging but publishes no more training", "warn"))
    elif not left:
        lines.append(Styled(f"no release is left: {why} is reached", "warn"))
    else:
        lines.append(Styled(f"{left} more releases, then {why} is reached", "strong"))
    if data["ends"] is not None:
        lines.append(f"the last of them about {data['ends']}, at one release every {data['pace_s']:.3g} s")
    elif left:
        lines.append("when is not known: fewer than two releases were made")
    if data["more"] is not None:
        cost = data["epsilon_after_more"]
        lines.append(
            f"after {data['more']} more: epsilon {'beyond any bound' if cost is None else f'{cost:.4f}'}"
            + ("" if data["more_fits"] else ", which the cap forbids: none of the excess would be trained")
        )
    return lines
