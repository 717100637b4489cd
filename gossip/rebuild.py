"""What a node is built from: facts on its own peer, and its parts as its ledger left them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from quidnunc.crypto.errors import SchemaMismatch
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.budget import Budget
from quidnunc.gossip.claims import INITIAL, NOTHING, Claim, believable, merged
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.jobs import Accounted, AccountJob, Described, Spent, against, counting
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import MergeRow, NoiseSource
from quidnunc.gossip.publisher import Publisher
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.signed_update import open_update


@dataclass(frozen=True, slots=True)
class Software:
    """What runs here, as recorded in ``node.start``."""

    version: str = ""
    python: str = ""
    torch: str = ""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Self:
    """Everything a node must be told about its own peer.

    ``genesis`` is the payload of log entry 0, ``dataset`` the salted commitment to the local data, ``charter_note``
    the hash of the signed charter text, ``epsilon_cap_u`` the own cap (at most the charter's), ``accounted``
    what further releases cost where that takes a numerical accountant (:func:`account_job`), ``elsewhere`` what other
    ledgers have spent of the same records. ``log_key`` gives the log key of any epoch: with it a ledger comes back even
    if its keys have changed since it was copied, or before it was lost; without it such a ledger signs nothing.
    """

    log_id: bytes
    key: SecretKey
    witness: SecretKey
    genesis: bytes
    charter_note: bytes
    dataset: bytes
    described: Described
    noise_source: NoiseSource = NoiseSource.CHACHA20_OS_KEY
    epsilon_cap_u: int | None = None
    accounted: Accounted | None = None
    elsewhere: Spent = ()
    software: Software = Software()
    log_key: Callable[[int], SecretKey] | None = field(default=None, repr=False)


def check_task(charter: Charter, described: Described) -> None:
    """Refuse to run a model that is not the charter's."""
    if described.schema != charter.task.schema or described.dim != charter.task.dim:
        raise SchemaMismatch(
            f"model schema {described.schema.hex()[:16]} with {described.dim} parameters, "
            f"the charter names {charter.task.schema.hex()[:16]} with {charter.task.dim}",
            hint="use the task function and options that the charter was drafted with",
        )
    if described.genesis != charter.task.genesis:
        raise SchemaMismatch(
            f"genesis params {described.genesis.hex()[:16]}, the charter names {charter.task.genesis.hex()[:16]}",
            hint="install the torch version the charter was drafted with or, if it begins with an earlier model, that "
            "model: quidnunc federation install --model FILE",
        )


def neighbors(charter: Charter, me: bytes, resume: Resume, keys: Keybook) -> dict[bytes, Neighbor]:
    """The neighbors of ``me``, by log id, as the ledger has them; none counts as heard or live yet."""
    weights = charter.weights(me)
    known: dict[bytes, Neighbor] = {}
    for member in sorted(charter.neighbors(me), key=lambda m: m.log_id):
        neighbor = Neighbor(member, weights[member.log_id], charter.task.genesis)
        tracked = resume.tracked.get(member.log_id)
        if tracked is not None:
            neighbor.number, neighbor.state, neighbor.seq = tracked.number, tracked.state, tracked.seq
            neighbor.claimed = tracked.number
            neighbor.leaves, neighbor.tokens = dict(tracked.leaves), dict(tracked.tokens)
            neighbor.missing = tracked.state in resume.missing
            neighbor.claim = _claim_in(tracked.tokens.get(tracked.number), member, keys)
            neighbor.round = _round_in(tracked.tokens.get(tracked.number), member, keys)
        standing = resume.standings.get(member.log_id)
        if standing is not None:
            neighbor.standing = standing
        neighbor.suspected = resume.suspected.get(member.log_id)
        neighbor.quarantined = member.log_id in resume.quarantined
        neighbor.accepted = resume.accepted_of[member.log_id]
        neighbor.refused = resume.refused_of[member.log_id]
        known[member.log_id] = neighbor
    return known


def budget(charter: Charter, own: Self, resume: Resume) -> Budget:
    """What is left of the privacy budget; the own cap may only be tighter than the charter's."""
    cap = charter.privacy.epsilon_u
    if own.epsilon_cap_u is not None:
        cap = min(cap, own.epsilon_cap_u)
    return Budget(
        charter,
        cap,
        own.noise_source,
        own.dataset,
        releases=resume.releases,
        history=history_of(resume, own.elsewhere),
        table=() if own.accounted is None else own.accounted.points,
        cumulative_u=resume.cumulative_u.get(charter.privacy.unit, 0),
        exhausted=charter.privacy.unit in resume.exhausted,
        others=releases_of_others(charter, resume),
    )


def releases_of_others(charter: Charter, resume: Resume) -> int:
    """How many releases of the own ledger are of another unit than the charter's."""
    return sum(count for kind, count in resume.spent.items() if kind.unit != charter.privacy.unit)


def history_of(resume: Resume, elsewhere: Spent) -> Spent:
    """All releases that count: those of the own ledger, and those of others on the same records."""
    return tuple(sorted((Counter(resume.spent) + Counter(dict(elsewhere))).items()))


def account_job(charter: Charter, resume: Resume, elsewhere: Spent = ()) -> AccountJob | None:
    """What the compute process must be asked before the first training; None where the budget knows by itself."""
    privacy = charter.privacy
    history = counting(history_of(resume, elsewhere), privacy.unit, privacy.colluders)
    if not privacy.private or not (privacy.sampled or any(kind.sampled for kind, _ in history)):
        return None
    return AccountJob(history, against(privacy.release, privacy.colluders), charter.privacy.releases, privacy.delta_exp)


def publisher(
    charter: Charter,
    own: Self,
    resume: Resume,
    keys: Keybook,
    recorder: Recorder,
    settings: Settings,
    forget: Callable[[bytes], None],
) -> Publisher:
    """The own replica and the newest own updates, ready to be served again."""
    deltas = {
        number: open_update(token, log_id=own.log_id, public=keys.of(own.log_id)).update.delta
        for number, token in resume.tokens
    }
    return Publisher(
        charter,
        own.log_id,
        recorder,
        settings,
        forget,
        replica=resume.replica or charter.task.genesis,
        number=resume.number,
        seq=resume.replica_seq,
        claim=resume.claim,
        tokens=resume.tokens,
        deltas=deltas,
    )


def base_claim(charter: Charter, me: bytes, resume: Resume, keys: Keybook) -> Claim:
    """Whose training stands in the state that the next training starts from, if no merge comes first."""
    if not resume.inputs:
        return resume.claim

    def claim(row: MergeRow) -> Claim:
        if row.seq is None:
            return INITIAL
        if row.log_id is None or row.log_id == me:
            return resume.claim
        return _claim_in(resume.input_tokens.get((row.log_id, row.seq)), charter.member(row.log_id), keys)

    return merged((row.effective, claim(row)) for row in resume.inputs)


def _round_in(token: bytes | None, member: Member, keys: Keybook) -> int:
    """The round that the update in a kept token of ``member`` names; 0 without the token."""
    if token is None:
        return 0
    return open_update(token, log_id=member.log_id, public=keys.of(member.log_id)).update.round


def _claim_in(token: bytes | None, member: Member | None, keys: Keybook) -> Claim:
    """What the update in a kept token of ``member`` claims; nothing without the token."""
    if token is None or member is None:
        return NOTHING
    signed = open_update(token, log_id=member.log_id, public=keys.of(member.log_id))
    return believable(signed.update.claims, member.log_id, signed.update.steps)
