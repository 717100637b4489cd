"""The flags of ``quidnunc federation create``: what the members agree on, and what this machine needs to draft it."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from quidnunc.gossip.federation.terms import STARTS
from quidnunc.gossip.jobs import Unit
from quidnunc.peer.cli import CommandParser
from quidnunc.peer.commands import unlocking
from quidnunc.peer.commands.draft_numbers import DELTA_EXP, epsilon
from quidnunc.peer.commands.rule_words import add_rule
from quidnunc.peer.output import UsageError

CODECS = {"float32": 0, "int8": 1}


def add_flags(parser: CommandParser) -> None:
    """The arguments of ``federation create``, in the order in which its help shows them."""
    _add_task(parser)
    _add_privacy(parser)
    _add_merge(parser)
    _add_training(parser)
    _add_rest(parser)
    unlocking.add_flags(parser)


def _add_task(parser: CommandParser) -> None:
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


def _add_privacy(parser: CommandParser) -> None:
    add = parser.add_argument
    add(
        "--epsilon",
        type=epsilon,
        default=8.0,
        metavar="E",
        help="privacy of one record (see --privacy-unit), or inf (default: 8)",
    )
    add("--delta-exp", type=int, metavar="K", help=f"delta is 10^-K (default: {DELTA_EXP})")
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


def _add_merge(parser: CommandParser) -> None:
    add = parser.add_argument
    add_rule(parser)
    add(
        "--size-cap",
        type=float,
        metavar="R",
        help="weigh members by the examples on their cards, nobody more than R times the median (default: equally)",
    )
    add("--seed", type=int, default=0, help="draws the genesis params and the graph (default: 0)")


def _add_training(parser: CommandParser) -> None:
    add = parser.add_argument
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


def _add_rest(parser: CommandParser) -> None:
    add = parser.add_argument
    add("--start", choices=STARTS, default="majority", help="begin when all or most neighbors are there")
    add("--codec", choices=sorted(CODECS), default="int8", help="how deltas are sent (default: int8)")
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


def option(text: str) -> tuple[str, str | int | bool]:
    """The key and value of ``--option KEY=VALUE``; raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option {text!r} is not of the form key=value")
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, int(value)
    except ValueError:
        return key, unicodedata.normalize("NFC", value)
