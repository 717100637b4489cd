"""One peer's daemon, put together: home, keys, charter, ledger, compute process, overlay, control API.

The start-up path is the recovery path: everything a peer knows of itself it folds out of its ledger. This process
never imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import platform
import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from quidnunc.crypto.errors import CharterError, CharterUnsigned, ConfigError, LedgerCorrupt
from quidnunc.crypto.identity import Role, SecretKey, derive_seed, tagged_hash
from quidnunc.crypto.log import Log
from quidnunc.gossip import status as node_status
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import NOTE_BYTES, open_charter, require_signed
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.jobs import Accounted, Described, DescribeJob, JobFailed, Spent
from quidnunc.gossip.journal.recording import Recording, set_paused
from quidnunc.gossip.node import Node
from quidnunc.gossip.private_sum import pair_keys
from quidnunc.gossip.rebuild import Self, Software
from quidnunc.gossip.resume import Resume, fold
from quidnunc.gossip.settings import Settings
from quidnunc.peer import api
from quidnunc.peer.accounting import account
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.charter_file import missing_charter
from quidnunc.peer.clock import Clock
from quidnunc.peer.compute import START_ATTEMPTS, ComputeProcess
from quidnunc.peer.config import MIB, Config
from quidnunc.peer.health import Health, Room
from quidnunc.peer.home import Home, read_capped
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.host import Host
from quidnunc.peer.journal import JournalFile
from quidnunc.peer.ledger.ending import entry_notice, require_open
from quidnunc.peer.ledger.mirror import MirrorStore
from quidnunc.peer.ledger.start_check import tell_missing_tokens
from quidnunc.peer.ledger.store import LOST, ORIGIN, RESTORED, Store
from quidnunc.peer.loop_lag import LoopLag
from quidnunc.peer.model_file import installed_model
from quidnunc.peer.network import overlay_api
from quidnunc.peer.network.overlay_api import Overlay
from quidnunc.peer.pipe import Setup
from quidnunc.peer.reach import card_addresses, known_addresses, without_address
from quidnunc.peer.recovery import restore
from quidnunc.peer.shared_account import spent_elsewhere
from quidnunc.peer.stop_signals import stop_signals
from quidnunc.peer.task_loader import CSV
from quidnunc.peer.waiting import wait_for_room

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger("quidnunc.peer")

KEEP_DELTAS = Settings().keep_deltas
REDIAL_MAX_S = 30.0
STOP_GRACE_S = 25.0
"""How long an orderly stop may take before everything is cancelled."""
TRANSPORT = "quidnunc.peer.network.transport"
"""Imports libp2p, which takes most of a second: done while the compute process imports torch."""
DATASET_SALT = "dataset-salt"
"""Name of the salt of the dataset commitment in the store's private table."""


class DataRefused(ConfigError):
    """The task could not be built from the local data."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The role keys a daemon works with, derived from the operational secret."""

    log: SecretKey
    witness: SecretKey
    transport: SecretKey
    log_of: Callable[[int], SecretKey] = field(repr=False)
    """The log key of any epoch: which one it is, the ledger says, and it may come back with a later one."""

    @classmethod
    def derive(cls, secret: bytes) -> Keys:
        """The role keys of epoch 0."""

        def key(role: Role, epoch: int = 0) -> SecretKey:
            return SecretKey.from_seed(derive_seed(secret, role, epoch))

        return cls(key(Role.LOG), key(Role.WITNESS), key(Role.TRANSPORT), partial(key, Role.LOG))


def load_charter(path: Path, keys: Keys) -> tuple[Charter, Member, bytes]:
    """The fully signed charter at ``path``, our place in it, and the hash of the signed text.

    Raises CharterError when it is missing, not signed by everybody, or not about ``keys``.
    """
    try:
        note = read_capped(path, NOTE_BYTES)
    except FileNotFoundError:
        raise missing_charter(path) from None
    try:
        charter = require_signed(open_charter(note))
    except CharterUnsigned:
        raise
    except CharterError as error:
        raise CharterError(f"{path}: {error.message}", hint=error.hint) from None
    for member in charter.members:
        if member.log == keys.log.public:
            if member.transport != keys.transport.public or member.witness != keys.witness.public:
                raise CharterError(f"charter lists other transport or witness keys for {member.name} than this home's")
            return charter, member, hashlib.sha256(note).digest()
    raise CharterError(
        f"charter {charter.federation_id.hex()[:16]} does not list the log key of this home",
        hint="compare with: quidnunc id",
    )


def open_store(home: Home, member: Member) -> Store:
    """The ledger of this home; raises LedgerCorrupt when it is missing, damaged or another log's."""
    if not home.ledger.exists():
        why = f"{home.ledger} is missing, and a peer that began a new one would fork its own log"
        raise LedgerCorrupt(0, why)
    store = Store.open(home.ledger)
    if store.log_id != member.log_id:
        store.close()
        raise LedgerCorrupt(0, f"belongs to log {store.log_id.hex()[:16]}, this home is {member.log_id.hex()[:16]}")
    return store


def compute_setup(charter: Charter, config: Config, home: Home) -> Setup:
    """What the compute process is told: the charter's task and plan, this site's data. The charter's options win."""
    plan = charter.plan()
    data = config.data
    return Setup(
        task=charter.task.reference,
        blobs=str(home.blobs),
        path=data.path,
        index=data.index,
        peers=data.peers,
        alpha=data.alpha,
        seed=data.seed,
        options={**data.options, **charter.task.options},
        schema=charter.task.data_schema,
        genesis_seed=plan.seed,
        codec=plan.codec,
        learning_rate=plan.training.learning_rate,
        momentum=plan.training.momentum,
        local_steps=plan.training.local_steps,
        batch_size=plan.training.batch_size,
        prox=plan.training.prox,
        merge_rule=plan.merge_rule,
        merge_options=dict(plan.merge_options),
        private=plan.private,
        rounds=plan.rounds,
        personal=plan.personal,
        dim=charter.task.dim,
        attack=config.drill.attack,
        threads=config.training.threads,
        memory_bytes=config.training.memory_mib * 1024 * 1024,
        blob_bytes_max=config.limits.blob_bytes_max,
    )


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


def dataset_commitment(store: Store, described: Described) -> bytes:
    """Salted commitment to the local data: says nothing of it, yet stays the same while the data does."""
    salt = store.get_meta(DATASET_SALT)
    if salt is None:
        salt = os.urandom(32)
        store.put_meta(DATASET_SALT, salt)
    return tagged_hash("dataset", salt, described.data_root)


def fill(resume: Resume, store: Store) -> None:
    """Add to ``resume`` what its ledger names and the store keeps beside it: proofs, and tokens of neighbors."""
    resume.heads, resume.cosigned = store.heads(), store.cosignatures()
    origin = store.get_meta(ORIGIN)
    resume.copied, resume.lost = origin == RESTORED, origin == LOST
    kept = {who: store.proof(name) for who, name in resume.frozen.items()}
    resume.proofs = {who: proof for who, proof in kept.items() if proof is not None}
    resume.own_notices = [entry_notice(store, seq) for seq in sorted(resume.key_changes)]
    notices = (store.proof(name) for name in resume.noticed.values())
    resume.notices = [notice for notice in notices if notice is not None]
    for author, tracked in resume.tracked.items():
        found = {number: store.token_by_number(author, number) for number in tracked.leaves}
        tracked.tokens = {number: token for number, token in found.items() if token is not None}
    for row in resume.inputs:
        if row.log_id is not None and row.log_id != store.log_id and row.seq is not None:
            token = store.token_by_seq(row.log_id, row.seq)
            if token is not None:
                resume.input_tokens[row.log_id, row.seq] = token


def build_node(
    charter: Charter,
    member: Member,
    note_hash: bytes,
    keys: Keys,
    config: Config,
    store: Store,
    blobs: FileBlobs,
    mirrors: MirrorStore,
    described: Described,
    accounted: Accounted | None = None,
    *,
    software: Software,
    current: bool = False,
    elsewhere: Spent = (),
    recording: Recording | None = None,
) -> tuple[Node, Clock]:
    """The node that the ledger leads to, and a clock that does not start before its newest entry.

    ``current`` says that neighbors have just been asked and know of no newer entry, ``elsewhere`` what other homes have
    spent of the same records. ``recording`` takes down what it is built from.

    Raises BlobLost when the own replica is lost and nothing says what neighbors would have to give back.
    """
    require_open(store)
    entries = list(store.entries())
    node_log = Log(member.log_id)
    for entry in entries:
        node_log.replay(entry)
    resume = fold(entries)
    newest = range(max(1, resume.number - KEEP_DELTAS + 1), resume.number + 1)
    tokens = ((number, store.token_by_number(member.log_id, number)) for number in newest)
    resume.tokens = [(number, token) for number, token in tokens if token is not None]
    fill(resume, store)
    resume.mirrors, resume.current = mirrors.held(), current
    tell_missing_tokens(resume, newest)
    restore(resume, blobs, charter, member.log_id, store.keys)
    cap = config.privacy.epsilon_cap
    own = Self(
        log_id=member.log_id,
        key=keys.log_of(store.keys.epoch),
        witness=keys.witness,
        genesis=member.genesis,
        charter_note=note_hash,
        dataset=dataset_commitment(store, described),
        described=described,
        epsilon_cap_u=int(cap * 1e6) if cap else None,
        accounted=accounted,
        elsewhere=elsewhere,
        software=software,
        log_key=keys.log_of,
    )
    clock = Clock(node_log.last_t_ms / 1000)
    entropy, settings = os.urandom, Settings()
    if recording is not None:
        own, entropy = recording.begin(own, node_log, resume, entropy, settings, rebuilt=current)
    return Node(charter, own, node_log, resume, entropy, settings), clock


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
        data["dropped_sends"] = self._host.dropped_sends
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


async def describe(computer: Any, charter: Charter, home: Home, blobs: FileBlobs) -> Described:
    """Have the compute process build the task; raises DataRefused with what the task said, or how often it died.

    A charter that begins with an earlier model names other params than the task makes: those installed in ``home``.
    """
    for _ in range(START_ATTEMPTS):
        died = computer.died
        result = await computer.run(DescribeJob())
        if isinstance(result, Described):
            return await _with_earlier_model(result, charter, home, blobs)
        if computer.died == died:
            break  # the task itself refuses: it would again
    why = result.why if isinstance(result, JobFailed) else repr(result)
    hint = "check [data] in config.toml and the task function"
    if charter.task.reference == CSV:
        hint = f"see everything that is wrong with it: {quidnunc(home)} data check"
    raise DataRefused(f"the task cannot be built: {why}", hint=hint)


async def _with_earlier_model(result: Described, charter: Charter, home: Home, blobs: FileBlobs) -> Described:
    task = charter.task
    if result.dim == task.dim and result.genesis != task.genesis:
        model = await trio.to_thread.run_sync(installed_model, home, task.genesis, task.dim)
        if model is not None:
            return replace(result, genesis=blobs.put(model, durable=True))
    return result


async def watch_signals(stop: trio.Event, *, task_status: TaskStatus[None]) -> None:
    """The first stop signal asks for an orderly stop; a second one ends the process at once, unless it is SIGHUP."""
    with trio.open_signal_receiver(*stop_signals()) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                if number == signal.SIGHUP:
                    continue
                os._exit(128 + number)
            log.info("signal=%s stopping", signal.Signals(number).name)
            stop.set()


async def watch_stdin(stop: trio.Event) -> None:
    """Ask for an orderly stop when standard input ends: whoever held its other end is gone."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for _ in stream:
            pass
    log.info("standard input ended: stopping")
    stop.set()


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
        nursery.start_soon(_end_when, stop, serving, nursery.cancel_scope)
        await _run(home, config, opener, stop, told, paused=paused)
        nursery.cancel_scope.cancel()


async def _end_when(stop: trio.Event, serving: trio.Event, scope: trio.CancelScope) -> None:
    """Bound an orderly stop, and end a start that was not finished."""
    await stop.wait()
    if serving.is_set():
        await trio.sleep(STOP_GRACE_S)
    scope.cancel()


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


def discard_unused(blobs: FileBlobs, node: Node) -> None:
    """Discard what crashes left behind: blobs that no job of ``node`` will ever ask for."""
    used = set(node.in_use())
    for name in list(blobs.names()):
        if name not in used:
            blobs.discard(name)


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
