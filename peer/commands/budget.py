"""``quidnunc budget``: what is promised about this peer's records, what is spent, what is not covered."""

from __future__ import annotations

import argparse
import math
from typing import Any

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPM, Spent, Unit
from quidnunc.gossip.provenance import PrivacySpend
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import budget_forecast, budget_history
from quidnunc.peer.commands.budget_accounts import ACCOUNTANT, Account, accounts
from quidnunc.peer.commands.files import read_charter
from quidnunc.peer.commands.ledger_home import opened
from quidnunc.peer.commands.stopped import unasked
from quidnunc.peer.config import load
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled
from quidnunc.peer.shared_account import KEY, spent_elsewhere

UNITS = {
    Unit.EXAMPLE: "one record, add or remove",
    Unit.SITE: "all training records of this peer together, there or absent",
    Unit.SUM: "one record, add or remove, in private sums",
}
SUM_NOT_COVERED = (
    "for a private sum: members who do not follow the protocol, of whom one is enough to spoil the model unseen; "
    "nothing is screened, and no robustness is claimed",
    "for a private sum: more curious members than are named, against whom the larger epsilon above is all that holds",
)
NOT_COVERED = (
    "holdout records, which judge neighbors' models, unless they are public",
    "when and whether this peer takes part, and how many records it has (taken as public)",
    "several records of one person in this data, or a record that stands in it twice: k of them are protected as by a "
    "k-th of the noise, which costs more than k times epsilon where epsilon is large",
    "records that stand in several members' data: k members cost k times epsilon",
    "ranges, values and medians of a data schema that were measured on these records, not taken from public sources",
    "hyper-parameters that were tuned on the same records, and metrics that were published of them",
)


def register(parser: CommandParser) -> None:
    """The second words."""
    add = parser.verbs("action")
    add("show", help="epsilon spent and left, as a full statement").set_defaults(command=show)
    budget_forecast.register(add("forecast", help="how many releases remain, until when, and what more would cost"))
    budget_history.register(add("history", help="every release, and what it cost"))


def show(args: argparse.Namespace, context: Context) -> Outcome:
    """Every data set's account, recomputed from the ledger."""
    with opened(context) as store:
        found, behind = accounts(store), unasked(store)
    if behind is not None:
        context.out.warn(f"this ledger {behind}: what they know to have been spent since is not shown here")
    elsewhere = _elsewhere(context)
    promise = _promise(context)
    summed = any(account.unit == Unit.SUM for account in found)
    not_covered = [*NOT_COVERED, *(SUM_NOT_COVERED if summed else ())]
    usual = found[0].accountant if found else ACCOUNTANT
    ceiling = _ceiling(context)
    data = {
        "promise": promise,
        "ceiling": ceiling,
        "datasets": [_account_data(account, promise, elsewhere) for account in found],
        "releases_elsewhere": sum(count for _, count in elsewhere),
        "asked": behind is None,
        "not_covered": not_covered,
        "accountant": next((account.accountant for account in found if account.sampled), usual),
    }
    if not found:
        text = "nothing has been released yet: epsilon 0 spent"
        if promise is not None and promise["mechanism"] == "none":
            text = "the charter asks for no privacy: what is sent may reveal training records (epsilon is infinite)"
        elif promise is not None:
            text += f" of {promise['epsilon']:g} at delta {promise['delta']:g}"
        return Outcome(data, [text, *_elsewhere_lines(None, elsewhere)])
    lines: list[Line] = []
    for account in found:
        lines += _account_lines(account, elsewhere)
    if len({account.dataset for account in found}) > 1:
        lines.append(
            "each data set's epsilon includes all that was spent before its newest release: the last is the total"
        )
    units = {account.unit for account in found}
    if Unit.SITE in units and len(units) > 1:
        lines.append("an epsilon for one record and one for all of them are two promises: neither stands for the other")
    if {Unit.EXAMPLE, Unit.SUM} <= units:
        lines.append("an epsilon against everybody and one against few are two promises: neither stands for the other")
    if ceiling is not None and any(account.spends and ceiling < account.spends[-1].cap_u / MICRO for account in found):
        lines.append(
            f"this site's own ceiling is epsilon {ceiling:g} now (privacy.epsilon_cap): it ends there, if it has not"
        )
    lines += ["not covered:", *(f"  - {text}" for text in not_covered)]
    wrong = [account for account in found if account.recomputed() > account.claimed_u / MICRO + 1e-3]
    if wrong:
        message = (
            f"the ledger claims epsilon {wrong[0].claimed_u / MICRO:.4f}, its releases cost {wrong[0].recomputed():.4f}"
        )
        return Outcome(data, lines, ExitCode.VERIFY_FAILED, message, "check it with: quidnunc ledger verify")
    if any(account.void for account in found):
        message = "noise came from a test seed: nothing that was released is private"
        return Outcome(data, lines, ExitCode.VERIFY_FAILED, message, "treat these records as disclosed")
    return Outcome(data, lines)


def _ceiling(context: Context) -> float | None:
    """The own cap of this site's configuration, if it has one; a claim in the ledger has that of its time."""
    if not context.home.config.exists():
        return None
    return load(context.home.config).privacy.epsilon_cap or None


def _elsewhere(context: Context) -> Spent:
    """What other homes have spent of the same records, as far as it can be counted from here."""
    if not context.home.config.exists():
        return ()
    try:
        return spent_elsewhere(context.home, load(context.home.config), looking=True)
    except ConfigError as error:
        context.out.warn(f"what other homes spent of these records is not counted here: {error.message}")
        return ()


def _promise(context: Context) -> dict[str, Any] | None:
    if not context.home.charter.exists():
        return None
    privacy = read_charter(context.home.charter)[1].charter.privacy
    if not privacy.private:
        return {"mechanism": privacy.mechanism, "unit": None, "epsilon": None, "delta": None, "releases": None}
    return {
        "mechanism": privacy.mechanism,
        "unit": privacy.unit.label,
        **({"colluders": privacy.colluders} if privacy.unit == Unit.SUM else {}),
        "epsilon": privacy.epsilon_u / MICRO,
        "delta": privacy.delta,
        "releases": privacy.releases,
    }


def _account_data(account: Account, promise: dict[str, Any] | None, elsewhere: Spent) -> dict[str, Any]:
    last = account.spends[-1] if account.spends else None
    site = account.unit == Unit.SITE
    planned = None if promise is None or promise["unit"] != account.unit.label else promise["releases"]
    return {
        "dataset": account.dataset.hex(),
        "releases": len(account.spends),
        "releases_left": None if planned is None else max(0, planned - len(account.spends)),
        "round": None if last is None else last.round,
        "epsilon": account.claimed_u / MICRO,
        "epsilon_recomputed": _finite(account.recomputed()),
        "epsilon_with_other_homes": _finite(account.together(elsewhere)) if account.spends else None,
        "epsilon_cap": None if last is None else last.cap_u / MICRO,
        "delta": None if last is None else 10.0**-last.delta_exp,
        "clip": None if last is None else last.clip_u / MICRO,
        "noise_multiplier": None if last is None else last.noise_u / MICRO,
        "sampling_rate": None if last is None else last.rate_ppm / PPM,
        "steps": None if last is None else last.steps,
        "accountant": account.accountant,
        "privacy_unit": account.unit.label,
        "unit": UNITS[account.unit],
        **({"epsilon_exchanged": _finite(account.exchanged())} if site else {}),
        **(_sum_data(account) if account.unit == Unit.SUM else {}),
        "releases_of_other_unit": {
            "before": account.others.total(),
            "since": account.since.total(),
            "counted": not site,
        },
        "adversary": _adversary(account),
        "noise_source": "test seed" if account.void else "ChaCha20 under a key of the operating system",
        "void": account.void,
        "exhausted": account.exhausted,
    }


def _finite(epsilon: float) -> float | None:
    """``epsilon``; None if it is infinite, which JSON cannot say."""
    return epsilon if math.isfinite(epsilon) else None


def _sum_data(account: Account) -> dict[str, Any]:
    last = account.spends[-1] if account.spends else None
    return {
        "colluders": account.colluders,
        "members": None if last is None else last.members,
        "pair_multiplier": None if last is None else last.pair_u / MICRO,
        "epsilon_alone": _finite(account.alone()),
    }


def _adversary(account: Account) -> str:
    """Against whom the epsilon of an account holds."""
    if account.unit != Unit.SUM:
        return "everybody but this peer"
    return f"whoever listens, and up to {account.colluders} members who are curious and follow the protocol"


def _adversary_lines(account: Account) -> list[Line]:
    if account.unit != Unit.SUM:
        text = "against everybody outside: all other members together, whoever reads the wire, whoever reads the ledger"
        return [f"  {text}"]
    last = account.spends[-1]
    return [
        f"  of a private sum of {last.members} members: against whoever reads the wire or the ledger, together with up "
        f"to {last.colluders} curious members who follow the protocol",
        Styled(
            f"  against more members than that, up to all others together: only epsilon {account.alone():.4f}", "warn"
        ),
        "  a member that is away or leaves takes nothing from this: noise of its pairs stays in the others' model",
    ]


def _unit_line(account: Account) -> str:
    dataset = f"(data set {account.dataset.hex()[:16]})"
    if account.unit == Unit.SITE:
        return (
            f"  for all training records of this peer together, there or absent {dataset}; exchanged for any others: "
            f"epsilon {account.exchanged():.4f}"
        )
    return f"  for one record of this peer's training data, add or remove {dataset}"


def _other_unit_lines(account: Account) -> list[Line]:
    """What releases of the other unit are to this account."""
    if account.unit == Unit.SITE:
        count = account.others.total() + account.since.total()
        text = "releases under a promise for single records, which bound nothing for all of them together"
        return [Styled(f"  not counted: {count} {text}", "warn")] if count else []
    lines: list[Line] = []
    for unit, count in sorted(account.others.items()):
        lines.append(f"  counted as well: {count} releases {_AS[unit]}")
    for unit, count in sorted(account.since.items()):
        if count:
            lines.append(Styled(f"  not counted: {count} releases {_OF[unit]} that came since", "warn"))
    return lines


_OF = {
    Unit.EXAMPLE: "against everybody",
    Unit.SITE: "for the whole site",
    Unit.SUM: "of private sums",
}
_AS = {
    Unit.EXAMPLE: "against everybody, as they are",
    Unit.SITE: "for the whole site, each at half of its noise",
    Unit.SUM: "of private sums, each at this peer's own noise, without that of pairs",
}


def _pairs(spend: PrivacySpend) -> str:
    return f" and {spend.pair_u / MICRO:g} for each pair" if spend.unit == Unit.SUM else ""


def _sampling(spend: PrivacySpend) -> str:
    if not spend.kind.sampled:
        return ""
    return f", {spend.steps} steps a release on Poisson samples at rate {spend.rate_ppm / PPM:g}"


def _elsewhere_lines(account: Account | None, elsewhere: Spent) -> list[Line]:
    """What other homes have spent of these records, which no claim of this ledger can know to the end."""
    count = sum(count for _, count in elsewhere)
    if not count:
        return []
    text = f"{count} releases of other homes on the same records ({KEY})"
    if account is None or not account.spends:
        return [Styled(f"there are {text}", "warn")]
    return [Styled(f"  with {text}: epsilon {account.together(elsewhere):.4f}", "warn")]


def _account_lines(account: Account, elsewhere: Spent) -> list[Line]:
    if not account.spends:
        text = f"data set {account.dataset.hex()[:16]}: budget exhausted before any release"
        return [Styled(text, "warn"), *_elsewhere_lines(account, elsewhere)]
    last = account.spends[-1]
    lines: list[Line] = [
        Styled(
            f"epsilon {account.claimed_u / MICRO:.4f} of {last.cap_u / MICRO:g} spent at delta 1e-{last.delta_exp}",
            "strong",
        ),
        _unit_line(account),
        *_adversary_lines(account),
        f"  through round {last.round}, {len(account.spends)} releases; clip {last.clip_u / MICRO:g}, noise multiplier "
        f"{last.noise_u / MICRO:g}{_pairs(last)}{_sampling(last)}",
        f"  accountant: {account.accountant}; recomputed from this ledger: {account.recomputed():.4f}",
        *_elsewhere_lines(account, elsewhere),
        *_other_unit_lines(account),
        "  noise: ChaCha20 under a key of the operating system; everything after the noise is post-processing",
    ]
    if account.void:
        lines[-1] = Styled("  noise: from a TEST SEED. These numbers are VOID: there is no privacy", "bad")
    if account.exhausted:
        lines.append(Styled("  exhausted: this peer goes on merging but publishes no more training", "warn"))
    return lines
