"""The node that a home's ledger leads to: what its entries say, and what the store keeps beside them."""

from __future__ import annotations

import logging
import os

from quidnunc.crypto.log import Log
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.jobs import Accounted, Described, Spent
from quidnunc.gossip.journal.recording import Recording
from quidnunc.gossip.node import Node
from quidnunc.gossip.rebuild import Self, Software
from quidnunc.gossip.resume import Resume, fold
from quidnunc.gossip.settings import Settings
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.clock import Clock
from quidnunc.peer.config import Config
from quidnunc.peer.data_change import DATASET_SALT, change_since, commitment, newest_release
from quidnunc.peer.ledger.ending import entry_notice, require_open
from quidnunc.peer.ledger.mirror import MirrorStore
from quidnunc.peer.ledger.start_check import tell_missing_tokens
from quidnunc.peer.ledger.store import LOST, ORIGIN, RESTORED, Store
from quidnunc.peer.membership import Keys
from quidnunc.peer.recovery import restore

KEEP_DELTAS = Settings().keep_deltas

log = logging.getLogger("quidnunc.peer")


def dataset_commitment(store: Store, described: Described) -> bytes:
    """Salted commitment to the local data: says nothing of it, yet stays the same while the data does."""
    salt = store.get_meta(DATASET_SALT)
    if salt is None:
        salt = os.urandom(32)
        store.put_meta(DATASET_SALT, salt)
    return commitment(salt, described)


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
    dataset = dataset_commitment(store, described)
    changed = change_since(newest_release(entries), dataset)
    if changed is not None:
        log.warning("data=changed: %s", changed)
    restore(resume, blobs, charter, member.log_id, store.keys)
    cap = config.privacy.epsilon_cap
    own = Self(
        log_id=member.log_id,
        key=keys.log_of(store.keys.epoch),
        witness=keys.witness,
        genesis=member.genesis,
        charter_note=note_hash,
        dataset=dataset,
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


def discard_unused(blobs: FileBlobs, node: Node) -> None:
    """Discard what crashes left behind: blobs that no job of ``node`` will ever ask for."""
    used = set(node.in_use())
    for name in list(blobs.names()):
        if name not in used:
            blobs.discard(name)
