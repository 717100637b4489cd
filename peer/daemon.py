"""One peer's daemon, put together: home, keys, charter, ledger, compute process, overlay, control API.

The start-up path is the recovery path: everything a peer knows of itself it folds out of its ledger. This process
never imports torch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import trio

from quidnunc.crypto.errors import CharterError, ConfigError, QuidnuncError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed, tagged_hash
from quidnunc.gossip import status as node_status
from quidnunc.gossip.charter import Charter
from quidnunc.gossip.founding import open_charter, require_signed
from quidnunc.gossip.jobs import Described, DescribeJob, JobFailed
from quidnunc.gossip.member import Member
from quidnunc.gossip.node import Node, Self, Software
from quidnunc.gossip.resume import fold
from quidnunc.gossip.settings import Settings
from quidnunc.peer import api
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.clock import Clock
from quidnunc.peer.config import Config
from quidnunc.peer.home import Home
from quidnunc.peer.host import Host
from quidnunc.peer.overlay_api import Overlay
from quidnunc.peer.store import Store

log = logging.getLogger("quidnunc.peer")

KEEP_DELTAS = Settings().keep_deltas
DATASET_SALT = "dataset-salt"
"""Name of the salt of the dataset commitment in the store's private table."""


class DataRefused(QuidnuncError):
    """The task could not be built from the local data."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The role keys a daemon works with, derived from the operational secret."""

    log: SecretKey
    witness: SecretKey
    transport: SecretKey

    @classmethod
    def derive(cls, secret: bytes) -> Keys:
        """Role keys of epoch 0."""
        made = [SecretKey.from_seed(derive_seed(secret, role, 0)) for role in (Role.LOG, Role.WITNESS, Role.TRANSPORT)]
        return cls(*made)


def load_charter(home: Home, keys: Keys) -> tuple[Charter, Member, bytes]:
    """The fully signed charter of this home, our place in it, and the hash of the signed text.

    Raises CharterError when it is missing, unsigned by somebody, or not about the keys of this home.
    """
    try:
        note = home.charter.read_bytes()
    except FileNotFoundError:
        raise CharterError(
            f"{home.charter}: there is no charter yet",
            hint="quidnunc federation create CARD..., federation sign FILE, then federation install FILE",
        ) from None
    charter = require_signed(open_charter(note))
    for member in charter.members:
        if member.log == keys.log.public:
            if member.transport != keys.transport.public or member.witness != keys.witness.public:
                raise CharterError(f"charter lists other transport or witness keys for {member.name} than this home's")
            return charter, member, hashlib.sha256(note).digest()
    raise CharterError(
        f"charter {charter.federation_id.hex()[:16]} does not list the log key of this home",
        hint="compare with: quidnunc id",
    )


def dataset_commitment(store: Store, described: Described) -> bytes:
    """Salted commitment to the local data: says nothing of it, yet stays the same while the data does."""
    salt = store.get_meta(DATASET_SALT)
    if salt is None:
        salt = os.urandom(32)
        store.put_meta(DATASET_SALT, salt)
    return tagged_hash("dataset", salt, described.data_root)


def build_node(
    charter: Charter, member: Member, note_hash: bytes, keys: Keys, config: Config, store: Store, described: Described
) -> tuple[Node, Clock]:
    """The node that the ledger leads to, and a clock that does not start before its newest entry."""
    resume = fold(store.entries())
    resume.tokens = store.tokens(member.log_id, KEEP_DELTAS)
    cap = config.privacy.epsilon_cap
    own = Self(
        log_id=member.log_id,
        key=keys.log,
        genesis=member.genesis,
        charter_note=note_hash,
        dataset=dataset_commitment(store, described),
        described=described,
        epsilon_cap_u=None if cap is None else int(cap * 1e6),
        software=Software(version("quidnunc"), platform.python_version(), version("torch"), "cpu"),
    )
    node_log = store.replayed_log()
    clock = Clock(node_log.last_t_ms / 1000)
    return Node(charter, own, node_log, resume, os.urandom, Settings()), clock


class Daemon:
    """A running peer. Implements what the control API asks."""

    def __init__(self, host: Host, home: Home, computer: Any, overlay: Overlay) -> None:
        self._host = host
        self._home = home
        self._computer = computer
        self._overlay = overlay
        self.addresses: list[str] = []

    def status(self) -> dict[str, Any]:
        """The whole status, JSON-ready."""
        now = self._host.clock.now()
        data = node_status.status(self._host.node, now)
        stats = self._overlay.stats()
        data["bytes_sent"] = sum(s.bytes_sent for s in stats.values())
        data["bytes_received"] = sum(s.bytes_received for s in stats.values())
        data["addresses"] = self.addresses
        data["pid"] = os.getpid()
        data["home"] = str(self._home.root)
        data["trainer"] = {"pid": self._computer.pid, "restarts": self._computer.restarts}
        data["dropped_sends"] = self._host.dropped_sends
        data["clock_drift_s"] = round(self._host.clock.drift(), 3)
        data["reports"] = [
            {"t": round(when, 3), "kind": report.kind, "text": report.text} for when, report in self._host.reports
        ][-20:]
        return data

    def peers(self) -> list[dict[str, Any]]:
        """One row per neighbor, with its traffic."""
        rows = node_status.peers(self._host.node, self._host.clock.now())
        stats = self._overlay.stats()
        for row in rows:
            traffic = stats.get(bytes.fromhex(row["transport"]))
            row["bytes_sent"] = traffic.bytes_sent if traffic else 0
            row["bytes_received"] = traffic.bytes_received if traffic else 0
        return rows

    async def pause(self, paused: bool) -> None:
        """Stop or resume local training."""
        await self._host.pause(paused)


async def describe(computer: Any) -> Described:
    """Have the compute process build the task; raises DataRefused with what the task said."""
    result = await computer.run(DescribeJob())
    if isinstance(result, Described):
        return result
    why = result.why if isinstance(result, JobFailed) else repr(result)
    raise DataRefused(f"the task cannot be built: {why}", hint="check [data] in config.toml and the task function")


async def watch_signals(stop: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    """The first SIGTERM or SIGINT asks for an orderly stop, the second ends the process at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                os._exit(128 + number)
            log.info("signal=%s stopping", signal.Signals(number).name)
            stop.set()


def check_home(home: Home) -> None:
    """Refuse to run where there is no peer."""
    if not home.exists():
        raise ConfigError(f"{home.root}: no peer here", hint=f"quidnunc --home {home.root} init --name NAME")


async def serve(
    home: Home, host: Host, daemon: Daemon, stop: trio.Event, ready: Callable[[list[str]], None]
) -> None:
    """Run host and control API until ``stop``; then take everything down."""
    sock = api.bind(home.prepare_socket())
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals_task(stop))
        addresses = await nursery.start(host.run, stop)
        daemon.addresses = addresses
        await nursery.start(api.serve, daemon, sock)
        ready(addresses)
        await stop.wait()
        nursery.cancel_scope.deadline = trio.current_time() + 20
        nursery.cancel_scope.cancel()


def watch_signals_task(stop: trio.Event) -> Callable[..., Any]:
    """``watch_signals`` bound to an event, in the shape a nursery starts."""

    async def task(*, task_status: trio.TaskStatus[None]) -> None:
        await watch_signals(stop, task_status=task_status)

    return task
