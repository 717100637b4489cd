"""``quidnunc run``: be this home's peer, in the foreground, until a signal says stop."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import unlocking
from quidnunc.peer.commands.files import check_federation, install_charter, read_charter, require_home
from quidnunc.peer.config import Config, Log, load
from quidnunc.peer.memory import give_back_large_blocks
from quidnunc.peer.output import Outcome, UsageError
from quidnunc.peer.stop_signals import stop_signals

if TYPE_CHECKING:
    from quidnunc.peer import daemon
    from quidnunc.peer.membership import Keys


def register(parser: CommandParser) -> None:
    """The daemon's few flags; everything lasting stands in config.toml."""
    parser.add_argument("--paused", action="store_true", help="start without training; go on with: quidnunc resume")
    parser.add_argument("--until-eof", action="store_true", help="stop in order when standard input ends")
    parser.add_argument(
        "--charter", type=Path, metavar="FILE", help="first make this fully signed charter the home's, as install does"
    )
    unlocking.add_flags(parser)
    parser.add_argument(
        "--check", action="store_true", help="check configuration, keys, charter, ledger, addresses and data, then exit"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, context: Context) -> Outcome:
    """Run the daemon; returns after an orderly stop."""
    with early_signals() as early:
        return _run(args, context, early)


@contextmanager
def early_signals() -> Iterator[list[int]]:
    """Collects signals until the daemon itself can hear them: one that comes during its imports is not lost."""
    early: list[int] = []
    numbers = stop_signals()
    before = [signal.signal(number, lambda number, frame: early.append(number)) for number in numbers]
    try:
        yield early
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _run(args: argparse.Namespace, context: Context, early: list[int]) -> Outcome:
    from quidnunc.peer import daemon
    from quidnunc.peer.membership import Keys

    home = context.home
    require_home(home)
    if args.until_eof and args.passphrase_fd == 0:
        raise UsageError("--until-eof watches standard input, so that the passphrase cannot come through it")
    config = load(home.config)
    opener = keys.Opener.of(home.operational_key, "operational", unlocking.source(args, context).present)
    if args.check:
        return _check(args, context, config, Keys.derive(opener()))
    configure_logging(config.log)

    def ready(running: daemon.Daemon) -> None:
        logging.getLogger("quidnunc.peer").info("ready addresses=%s", ",".join(running.addresses))

    home.create()
    give_back_large_blocks()
    options = {"paused": args.paused, "until_eof": args.until_eof}
    serve = partial(daemon.run_daemon, home, config, opener, ready, early=early, **options)
    with home.lock():
        if args.charter is not None:
            install_charter(home, *read_charter(args.charter), args.charter)
        trio.run(serve)
    return Outcome()


def _check(args: argparse.Namespace, context: Context, config: Config, role_keys: Keys) -> Outcome:
    """Whether ``run`` with the same arguments would start; a charter that is named is not installed yet."""
    from quidnunc.peer.commands.data_changed import data_changed
    from quidnunc.peer.commands.robustness import gate_of, plain, warn
    from quidnunc.peer.commands.run_check import check_home, loose_cap
    from quidnunc.peer.membership import load_charter
    from quidnunc.peer.reach import warnings_at_home

    home = context.home
    if args.charter is not None:
        check_federation(home, read_charter(args.charter)[1].charter)
    charter, member, _ = load_charter(args.charter or home.charter, role_keys)
    entries = check_home(home, config, charter, member, context.out.warn)
    changed = data_changed(home, config, charter)
    if changed is not None:
        context.out.warn(changed)
    federation = charter.federation_id.hex()
    gate = gate_of(charter, member)
    warn(gate, member, context)
    for sentence in (*warnings_at_home(charter, member, config), *loose_cap(charter, config)):
        context.out.warn(sentence)
    data = {
        "name": member.name,
        "federation": federation,
        "entries": entries,
        "data_changed": changed is not None,
        "robustness": plain(gate, member),
    }
    return Outcome(data, [f"{member.name} is ready to run in federation {federation[:16]}"])


class JsonLines(logging.Formatter):
    """One JSON object per record, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}Z", "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def configure_logging(settings: Log) -> None:
    """Log to stderr as the configuration says; libp2p's own chatter stays silent."""
    handler = logging.StreamHandler(sys.stderr)
    plain = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    if plain:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    else:
        handler.setFormatter(JsonLines())
    logger = logging.getLogger("quidnunc")
    logger.handlers[:] = [handler]
    logger.setLevel(settings.level.upper())
    logger.propagate = False
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
