"""What an operator may know of a running node, as plain data."""

from __future__ import annotations

from typing import Any

from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.evidence import standing_class
from quidnunc.gossip.explain import STEP_REASONS, doubt_reasons, merge_reasons
from quidnunc.gossip.feasibility import NOISE_RATIO_MAX, feasibility
from quidnunc.gossip.jobs import PPB, Unit
from quidnunc.gossip.neighbor import Neighbor, is_live
from quidnunc.gossip.node import Node
from quidnunc.gossip.retirement import retired_data
from quidnunc.gossip.rounds import Phase


def state_of(node: Node, now: float) -> tuple[str, str]:
    """One word and one sentence: recovering, starting, waiting, training, finished, paused or isolated."""
    rounds = node.rounds
    if node.exposure.exposed:
        return "exposed", f"{node.exposure.exposed}; every neighbor has frozen this log, and nothing is signed any more"
    if node.witnesses.ahead:
        why = f"{node.witnesses.ahead}; nothing is signed any more: stop the other instance, or restore a newer backup"
        return "behind", why
    total = node.charter.rounds.count
    if node.frugal.active:
        return "waiting", "no room on the disk: nothing is trained, published or accepted until there is"
    if rounds.phase == Phase.RECOVERING:
        return "recovering", rounds.blocked
    if rounds.paused:
        return "paused", "paused by the operator; still answering, merging and publishing"
    if rounds.blocked:
        word = "isolated" if rounds.blocked.startswith("isolated") else "waiting"
        return word, rounds.blocked
    if rounds.phase == Phase.STARTING:
        return "starting", "starting"
    if rounds.finished:
        if rounds.trained < total and node.budget.exhausted:
            return "finished", f"privacy budget spent after {rounds.trained} of {total} rounds; merging goes on"
        if rounds.trained < total:
            return "finished", f"all {total} rounds are over, {rounds.trained} trained here; merging goes on"
        return "finished", f"all {total} rounds done; merging and publishing go on"
    live = len(rounds.live(now))
    if rounds.alone(now):
        return "isolated", "no neighbor is live: only signs of life are published, no budget is spent"
    number = rounds.following if node.charter.privacy.unit == Unit.SUM else rounds.trained + 1
    return "training", f"round {number} of {total}; {live} of {len(node.neighbors)} neighbors live"


def status(node: Node, now: float) -> dict[str, Any]:
    """Everything ``quidnunc status`` shows of the core, JSON-ready; never a holdout loss or a standing."""
    rounds, budget, charter = node.rounds, node.budget, node.charter
    word, sentence = state_of(node, now)
    me = charter.members[charter.index(node.own.log_id)]
    return {
        "name": me.name,
        "log_id": node.own.log_id.hex(),
        "federation": charter.federation_id.hex(),
        "epoch": charter.epoch,
        "state": word,
        "sentence": sentence,
        "phase": str(rounds.phase),
        "round": rounds.round,
        "trained": rounds.trained,
        "rounds": charter.rounds.count,
        "finished": rounds.finished,
        "updates_published": node.publisher.number,
        "updates_accepted": sum(n.accepted for n in node.neighbors.values()),
        "updates_refused": sum(n.refused for n in node.neighbors.values()),
        "refused_total": node.refused_total,
        "merges": rounds.merges,
        "steps_back": rounds.steps_back,
        "merges_withheld": rounds.withheld,
        "repairs_asked": node.repairs.asked,
        "repairs_served": node.publisher.served,
        "drag": round(rounds.drag, 3),
        "period_s": round(rounds.period, 4),
        "last_failure": rounds.last_failure,
        "failures": rounds.failures,
        "model": rounds.base.hex(),
        "accuracy": None if node.evaluated is None else node.evaluated.accuracy,
        "accuracy_round": None if node.evaluated is None else node.evaluated.round,
        "ledger_entries": node.recorder.size,
        "witnessed": _witnessed(node),
        "frozen": [_name(node, log_id) for log_id in sorted(node.exposure.proofs)],
        "retired": [_name(node, log_id) for log_id in sorted(node.notices.retired)],
        "suspected": [{"name": n.member.name} | found for n in node.neighbors.values() if (found := suspicion(n))],
        "privacy": {
            "mechanism": charter.privacy.mechanism,
            "unit": charter.privacy.unit.label if budget.private else None,
            "epsilon": budget.epsilon if budget.private else None,
            "epsilon_cap": budget.cap_u / 1e6 if budget.private else None,
            "delta": 10.0**-charter.privacy.delta_exp if budget.private else None,
            "colluders": charter.privacy.colluders if charter.privacy.unit == Unit.SUM else None,
            "releases": budget.made,
            "exhausted": budget.exhausted,
            "robustness": _robustness(node),
        },
        "neighbors": {
            "total": len(node.neighbors),
            "connected": sum(n.connected for n in node.neighbors.values()),
            "live": len(rounds.live(now)),
        },
    }


def _witnessed(node: Node) -> dict[str, Any]:
    """Who vouches for the own log: a quorum of the witnesses that go on at ``size``, or nobody but itself."""
    of, (k, size) = len(node.witnesses.counting), node.witnesses.witnessed()
    verdict = f"WITNESSED {k} of {of}" if k else "SELF-ATTESTED"
    return {"verdict": verdict, "cosigners": k, "witnesses": of, "quorum": node.witnesses.quorum, "size": size}


def _robustness(node: Node) -> dict[str, Any] | None:
    """Whether this peer's own noise leaves a merge rule anything to see; None where that is no question."""
    gate = feasibility(node.charter.privacy, node.charter.merge, node.charter.task.dim, node.own.described.examples)
    if gate is None:
        return None
    numbers = {"noise_ratio": round(gate.ratio, 4), "limit": NOISE_RATIO_MAX, "examples": gate.examples}
    return {"feasible": gate.robust, **numbers, "text": "" if gate.robust else gate.sentence()}


def _name(node: Node, log_id: bytes) -> str:
    member = node.charter.member(log_id)
    return log_id.hex() if member is None else member.name


def suspicion(neighbor: Neighbor) -> dict[str, Any] | None:
    """What a neighbor's log is suspected of, since when an answer is owed (ms), and the own entry that says so."""
    if neighbor.suspected is None:
        return None
    seq, kind, since_ms = neighbor.suspected
    return {"kind": kind, "label": SuspicionKind(kind).label, "since_ms": since_ms, "entry": seq}


def peers(node: Node, now: float) -> list[dict[str, Any]]:
    """One row per neighbor, JSON-ready."""
    return [_peer(node, neighbor, now) for neighbor in node.neighbors.values()]


def _peer(node: Node, neighbor: Neighbor, now: float) -> dict[str, Any]:
    last = neighbor.last_advance
    return {
        "name": neighbor.member.name,
        "log_id": neighbor.log_id.hex(),
        "transport": neighbor.member.transport.hex(),
        "connected": neighbor.connected,
        "live": is_live(neighbor, now, node.rounds.period, node.settings),
        "number": neighbor.number,
        "claimed": neighbor.claimed,
        "age_s": None if last is None else round(now - last, 3),
        "weight": neighbor.weight / PPB,
        "last_weight": neighbor.last_weight / PPB,
        "last_clip": neighbor.last_clip / PPB,
        "merge_reasons": _reasons(node, neighbor),
        "standing": _standing(neighbor),
        "suspected": neighbor.suspected is not None,
        "suspicion": suspicion(neighbor),
        "retired": None if neighbor.retired is None else retired_data(neighbor.retired),
        "accepted": neighbor.accepted,
        "refused": neighbor.refused,
        "last_reason": neighbor.last_reason,
    }


def _standing(neighbor: Neighbor) -> str:
    """What its standing is called; only of one that signed two histories it is said that it is quarantined."""
    return "quarantined" if neighbor.quarantined else str(standing_class(neighbor))


def _reasons(node: Node, neighbor: Neighbor) -> list[str]:
    """Why it counted as it did in the last merge that read it."""
    step = neighbor.last_step
    if step is None:
        return ["no merge has read it yet"]
    terms = node.charter.merge
    why = [STEP_REASONS[step]] if step in (1, 2) else []
    row = (neighbor.weight, neighbor.last_weight, neighbor.last_clip, step)
    return why + merge_reasons(terms.rule, *row, mixes=terms.mixes) + doubt_reasons(neighbor.doubts)
