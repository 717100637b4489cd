"""One peer's daemon, put together: home, keys, charter, ledger, compute process, overlay, control API.

The start-up path is the recovery path: everything a peer knows of itself it folds out of its ledger. This process
never imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import trio

from quidnunc.crypto.errors import CharterError
from quidnunc.gossip import status as node_status
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import NOTE_BYTES
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.journal.recording import Recording, set_paused
from quidnunc.gossip.node import Node
from quidnunc.gossip.private_sum import pair_keys
from quidnunc.gossip.rebuild import Software
from quidnunc.peer import api
from quidnunc.peer.accounting import account
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.config import MIB, Config
from quidnunc.peer.files import read_capped
from quidnunc.peer.health import Health, Room
from quidnunc.peer.home import Home
from quidnunc.peer.host import Host
from quidnunc.peer.journal import JournalFile
from quidnunc.peer.ledger.mirror import MirrorStore
from quidnunc.peer.loop_lag import LoopLag
from quidnunc.peer.membership import Keys, load_charter, open_store
from quidnunc.peer.network import overlay_api
from quidnunc.peer.network.overlay_api import Overlay
from quidnunc.peer.node_builder import build_node, discard_unused
from quidnunc.peer.reach import card_addresses, known_addresses, without_address
from quidnunc.peer.shared_account import spent_elsewhere
from quidnunc.peer.stopping import end_when, watch_signals, watch_stdin
from quidnunc.peer.task_setup import compute_setup, describe
from quidnunc.peer.waiting import wait_for_room

REDIAL_MAX_S = 30.0
TRANSPORT = "quidnunc.peer.network.transport"
"""Imports libp2p, which takes most of a second: done while the compute process imports torch."""


def make_overlay(
    charter: Charter, member: Member, keys: Keys, config: Config, *, redial_max_s: float = REDIAL_MAX_S
) -> Overlay:
    """The overlay to this member's neighbors; the local address book wins over the charter's addresses.

    After ``redial_max_s`` it dials also those that should come by themselves.
    """
    from quidnunc.peer.network.overlay import Libp2pOverlay

    neighbors = [
        overlay_api.Member(neighbor.transport, known_addresses(neighbor, config))
        for neighbor in charter.neighbors(member.log_id)
    ]
    settings = overlay_api.OverlaySettings(
        body_bytes_max=min(charter.payload_bytes, config.limits.payload_bytes_max),
        ping_interval_s=config.network.ping_interval_s,
        dial_timeout_s=config.network.dial_timeout_s,
        redial_max_s=redial_max_s,
    )
    return Libp2pOverlay(
        keys.transport.seed,
        listen=config.network.listen,
        federation=charter.federation_id,
        members=neighbors,
        settings=settings,
    )


class Daemon:
    """A running peer. Implements what the control API asks."""

    def __init__(self, host: Host, home: Home, computer: Any, overlay: Overlay, health: Health) -> None:
        self.health = health
        self._host = host
        self._home = home
        self._computer = computer
        self._overlay = overlay
        self.addresses: list[str] = []
        self.lag = LoopLag()

    def status(self) -> dict[str, Any]:
        """The whole status, JSON-ready."""
        now = self._host.clock.now()
        data = node_status.status(self._host.node, now)
        stats = self._overlay.stats()
        data["bytes_sent"] = sum(s.bytes_sent for s in stats.values())
        data["bytes_received"] = sum(s.bytes_received for s in stats.values())
        data["addresses"] = self.addresses
        data["strangers"] = asdict(self._overlay.strangers())
        # What is durable, not what the node has in mind: this much can be held against the peer later.
        data["ledger_entries"], root = self._host.durable
        data["ledger_root"] = root.hex()
        data["pid"] = os.getpid()
        data["home"] = str(self._home.root)
        computer = self._computer
        data["trainer"] = {"pid": computer.pid, "restarts": computer.restarts, "last_exit": computer.last_exit}
        data["loop_lag"] = self.lag.summary()
        data["dropped_sends"] = self._host.outboxes.dropped
        data["clock_drift_s"] = round(self._host.clock.drift(), 3)
        data["reports"] = [
            {"t": round(when, 3), "kind": report.kind, "text": report.text} for when, report in self._host.reports
        ][-20:]
        return data | self.health.tell()

    def peers(self) -> list[dict[str, Any]]:
        """One row per neighbor, with its traffic."""
        self.health.look()
        rows = node_status.peers(self._host.node, self._host.clock.now())
        stats = self._overlay.stats()
        for row in rows:
            traffic = stats.get(bytes.fromhex(row["transport"]))
            row["bytes_sent"] = traffic.bytes_sent if traffic else 0
            row["bytes_received"] = traffic.bytes_received if traffic else 0
            row["conditions"] = self.health.about(row["name"])
        return rows

    async def pause(self, paused: bool) -> None:
        """Stop or resume local training."""
        await self._host.pause(paused)


async def run_daemon(
    home: Home,
    config: Config,
    opener: Callable[[], bytes],
    ready: Callable[[Daemon], None],
    *,
    paused: bool = False,
    until_eof: bool = False,
    early: Sequence[int] = (),
) -> None:
    """Be this home's peer until a signal asks for an orderly stop. Call it under the home's lock.

    ``opener`` gives the operational secret, after a second or so if it is locked. ``ready`` is called once the peer
    listens and answers. A signal that comes before that ends the start at once: nothing was begun that a kill could
    not end as well. ``early`` holds the signals that came before this function could hear them. With ``until_eof``
    the end of standard input is a signal too.
    """
    stop, serving = trio.Event(), trio.Event()

    def told(daemon: Daemon) -> None:
        serving.set()
        ready(daemon)

    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, stop)
        if early:
            stop.set()
        if until_eof:
            nursery.start_soon(watch_stdin, stop)
        nursery.start_soon(end_when, stop, serving, nursery.cancel_scope)
        await _run(home, config, opener, stop, told, paused=paused)
        nursery.cancel_scope.cancel()


async def _run(
    home: Home,
    config: Config,
    opener: Callable[[], bytes],
    stop: trio.Event,
    ready: Callable[[Daemon], None],
    *,
    paused: bool,
) -> None:
    """Start-up, which is also recovery, then service; long steps leave the loop free to hear signals."""
    keys = Keys.derive(await trio.to_thread.run_sync(opener))
    charter, member, note_hash = load_charter(home.charter, keys)
    overlay = make_overlay(charter, member, keys, config)
    pairs = pair_keys(charter, member.log_id, keys.transport)
    setup = replace(compute_setup(charter, config, home), pairs=pairs)
    elsewhere = await trio.to_thread.run_sync(spent_elsewhere, home, config)
    room = Room((home.state, home.blobs), config.limits.disk_free_mib * MIB)
    asked = await wait_for_room(home, charter, member, room)
    paused = paused if asked is None else asked
    journal_bytes = config.debug.journal_mib * MIB
    with (
        closing(await trio.to_thread.run_sync(open_store, home, member)) as store,
        closing(await trio.to_thread.run_sync(MirrorStore.open, home.mirrors)) as mirrors,
        closing(await trio.to_thread.run_sync(JournalFile.at, home.journal, journal_bytes)) as journal,
    ):
        blobs = FileBlobs(home.blobs, max_bytes=config.limits.blob_bytes_max)
        recording = recording_to(journal, home, note_hash)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, importlib.import_module, TRANSPORT)
            async with ComputeProcess(setup, stall_s=config.training.stall_s) as computer:
                described = await describe(computer, charter, home, blobs)
                accounted = await account(computer, charter, store, elsewhere)
                parts = (charter, member, note_hash, keys, config, store, blobs, mirrors, described)
                # Asked of the process that computes; the module that knows versions costs this one 1.4 MB.
                here = computer.ready
                software = Software(here.program, platform.python_version(), here.torch, "cpu")
                build = partial(build_node, software=software, elsewhere=elsewhere, recording=recording)
                node, clock = await trio.to_thread.run_sync(build, *parts, accounted)
                set_paused(node, paused, recording)
                if not node.rejoin.lost:  # what its entries name is known once they are back
                    await trio.to_thread.run_sync(discard_unused, blobs, node)

                def again() -> Node:
                    # The entries that came back hold spends, which the first table does not count.
                    anew = trio.from_thread.run(account, computer, charter, store, elsewhere)
                    return build(*parts, anew, current=True)[0]

                host = Host(node, store, blobs, overlay, computer, clock, mirrors, again, recording)
                unknown = without_address(charter, member, config)
                health = Health(host, computer, overlay, room, unknown, dialable=bool(card_addresses(member)))
                await serve(home, host, Daemon(host, home, computer, overlay, health), stop, ready)


def recording_to(journal: JournalFile, home: Home, note_hash: bytes) -> Recording | None:
    """What takes down the nodes of this peer in ``journal``; None if that takes no records."""
    if not journal.open:
        return None
    note = read_capped(home.charter, NOTE_BYTES)
    if hashlib.sha256(note).digest() != note_hash:
        raise CharterError(f"{home.charter} was changed during the start", hint="start again")
    return Recording(journal.write, note)


async def serve(home: Home, host: Host, daemon: Daemon, stop: trio.Event, ready: Callable[[Daemon], None]) -> None:
    """Run host and control API until ``stop``; then take everything down."""
    sock = api.bind(home.prepare_socket())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.lag.run)
            host.reported = daemon.health.look
            daemon.addresses = await nursery.start(host.run, stop)
            await nursery.start(api.serve, daemon, sock)
            nursery.start_soon(daemon.health.run)
            ready(daemon)
            await host.stopped.wait()
            nursery.cancel_scope.cancel()
    finally:
        home.remove_socket()
