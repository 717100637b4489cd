"""What a node itself can see to be wrong: its neighbors, its own rounds. A pure function of its state.

A neighbor is judged in its own usual intervals, never by age: a slow one is not stalled, one that has finished and
publishes rare signs of life is neither. One that has not come yet is not gone. The identifiers are explained in
``docs/operations.md``.
"""

from __future__ import annotations

from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.attestation import Suspected
from quidnunc.gossip.conditions import Condition, Severity
from quidnunc.gossip.explain import doubt_reasons
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.neighbor import Neighbor, is_live, usual_interval
from quidnunc.gossip.node import Node
from quidnunc.gossip.reputation import standing_weight
from quidnunc.gossip.rounds import Phase

PACE_GAPS = 3
"""Gaps between a neighbor's updates from which its pace counts as known."""
NAMED_MAX = 4


def conditions(node: Node, now: float) -> list[Condition]:
    """Everything that is wrong with ``node`` at ``now``, in seconds; empty when it is healthy."""
    ended = _ended(node)
    if ended is not None:
        return [ended]  # it hears nothing any more, so that what it knew of its neighbors is old
    found: list[Condition] = []
    for neighbor in node.neighbors.values():
        found += _neighbor(node, neighbor, now)
    return [*found, *_start(node), *_held_back(node, now), *_rounds(node, now)]


def _start(node: Node) -> list[Condition]:
    """It went on with fewer answers than a quorum: a home restored from a copy might have been told more."""
    if not node.rejoin.short:
        return []
    text = f"fewer than {node.rejoin.quorum} neighbors could say that they know nothing newer of this ledger"
    return [Condition("start-unconfirmed", Severity.NOTE, "ledger", text)]


def _ended(node: Node) -> Condition | None:
    """Why this peer signs nothing any more, and never will from this home as it is."""
    if node.exposure.exposed:
        text = f"{node.exposure.exposed}; every neighbor has frozen this log, and nothing of it is accepted any more"
        return Condition("log-exposed", Severity.STALLED, "ledger", text)
    if node.witnesses.ahead:
        text = f"{node.witnesses.ahead}; nothing is signed any more, so that no second history begins"
        return Condition("log-behind", Severity.STALLED, "ledger", text)
    return None


def _neighbor(node: Node, neighbor: Neighbor, now: float) -> list[Condition]:
    name, settings = neighbor.member.name, node.settings
    found: list[Condition] = []
    if neighbor.quarantined:
        text = "it signed two different updates under one number; nothing of it is accepted any more"
        return [Condition("neighbor-quarantined", Severity.DEGRADED, name, text)]
    if neighbor.retired is not None:
        text = f"its organization ended its log with entry {neighbor.retired.last}; nothing more is expected of it"
        return [Condition("neighbor-retired", Severity.NOTE, name, text)]
    if neighbor.suspected is not None:
        found.append(_owes(name, neighbor.suspected, now))
    if neighbor.doubts and standing_weight(neighbor.standing) <= 0:
        why = "; ".join(doubt_reasons(neighbor.doubts))
        text = f"it counts for nothing in merges until its states look honest again: {why}"
        found.append(Condition("neighbor-distrusted", Severity.DEGRADED, name, text))
    if neighbor.offended_at is not None and now - neighbor.offended_at <= settings.offence_s:
        text = f"its messages are refused: {neighbor.offence}, {neighbor.refused} refused in all"
        found.append(Condition("neighbor-refused", Severity.DEGRADED, name, text))
    gone = _disconnected(node, neighbor, now) or _stalled(node, neighbor, now)
    return [*found, gone] if gone else found


def _owes(name: str, suspected: Suspected, now: float) -> Condition:
    """Its log owes an answer, and is not merged until it gives it."""
    seq, kind, since_ms = suspected
    what = "the entries under its checkpoints" if kind == SuspicionKind.OMISSION else "an answer that shows how it grew"
    owed = f"for {max(0.0, now - since_ms / 1000):.0f} s its log has owed {what}"
    text = f"suspicion {kind} ({SuspicionKind(kind).label}): {owed}; it is not merged until then, see entry {seq}"
    return Condition("neighbor-suspected", Severity.DEGRADED, name, text)


def _disconnected(node: Node, neighbor: Neighbor, now: float) -> Condition | None:
    """Its connection is gone: a note for a moment or when both have finished, else a loss."""
    if neighbor.connected or neighbor.link_since is None:
        return None
    settings, name = node.settings, neighbor.member.name
    seconds = now - neighbor.link_since
    lasting = seconds >= settings.reconnect_s
    if not neighbor.heard:
        text = f"never connected since the start {seconds:.0f} s ago"
        return Condition("neighbor-disconnected", Severity.DEGRADED, name, text) if lasting else None
    silent = not is_live(neighbor, now, node.rounds.period, settings)
    severity = Severity.DEGRADED if lasting or silent else Severity.NOTE
    if _both_finished(node, neighbor):
        severity = Severity.NOTE
    text = f"disconnected for {seconds:.0f} s, its last update is {neighbor.number}; nobody waits for it"
    if node.charter.privacy.unit == Unit.SUM and not node.rounds.finished:
        text += ", and the noise of its pairs stays in the model"
    return Condition("neighbor-disconnected", severity, name, text)


def _both_finished(node: Node, neighbor: Neighbor) -> bool:
    """Whether nothing is lost by a neighbor's silence: signs of life that do not arrive are not sent again."""
    return node.rounds.finished and (neighbor.resting or neighbor.number >= node.charter.rounds.count)


def _stalled(node: Node, neighbor: Neighbor, now: float) -> Condition | None:
    """It is connected and has published nothing for far longer than it usually takes."""
    last, since = neighbor.last_advance, neighbor.link_since
    if not neighbor.connected or last is None or since is None:
        return None
    settings, period = node.settings, node.rounds.period
    if is_live(neighbor, now, period, settings):
        return None
    usual = usual_interval(neighbor, period)
    known = len(neighbor.gaps) >= PACE_GAPS
    if not known and not node.rounds.pace_known:
        return None
    patience = settings.silent_intervals if known else settings.strange_intervals
    # After a reconnection it gets as much time as it had before to publish something, and we to fetch it. So do we for
    # what it has proved to have published and is not here yet.
    shown = neighbor.behind_since if neighbor.behind else last
    if now - max(last, since, shown) <= max(settings.live_floor_s, patience * usual):
        return None
    pace = f"usually one in {usual:.1f} s" if known else "its pace is not known yet"
    text = f"connected, but no update for {now - last:.0f} s ({pace}); it is left out of merges, nobody waits for it"
    severity = Severity.NOTE if _both_finished(node, neighbor) else Severity.DEGRADED
    return Condition("neighbor-stalled", severity, neighbor.member.name, text)


def _held_back(node: Node, now: float) -> list[Condition]:
    """Who holds our turns back under the lead bound: one or a few are slow, most of them mean that we are fast."""
    rounds, settings = node.rounds, node.settings
    if rounds.finished or rounds.paused:
        return []
    shares = {n.log_id: rounds.waits.share(n.log_id) for n in node.neighbors.values()}
    slow = [n for n in rounds.live(now) if n.connected and shares[n.log_id] >= settings.held_share]
    late = [n for n in rounds.live(now) if n not in slow and _beyond_patience(node, n)]
    found = [_slow(node, n, shares[n.log_id], Severity.DEGRADED) for n in late]
    if not slow:
        return found
    if len(slow) > max(1, len(node.neighbors) // 2):
        names = ", ".join(n.member.name for n in slow[:NAMED_MAX]) + (" ..." if len(slow) > NAMED_MAX else "")
        longest = max(shares[n.log_id] for n in slow)
        text = f"up to {longest:.0%} of our time goes on waiting for most neighbors ({names}): we are the fast one"
        return [*found, Condition("held-back", Severity.NOTE, "rounds", text)]
    degraded = [n for n in slow if shares[n.log_id] >= settings.slow_share]
    return found + [
        _slow(node, n, shares[n.log_id], Severity.DEGRADED if n in degraded else Severity.NOTE) for n in slow
    ]


def _beyond_patience(node: Node, neighbor: Neighbor) -> bool:
    """Whether it trains so slowly that the lead bound does not wait for it to the end."""
    known = neighbor.connected and not neighbor.resting and len(neighbor.gaps) >= PACE_GAPS
    bound = node.charter.rounds.lead and node.rounds.pace_known
    return bool(known and bound and usual_interval(neighbor, 0.0) > node.rounds.patience_s)


def _slow(node: Node, neighbor: Neighbor, share: float, severity: Severity) -> Condition:
    usual = usual_interval(neighbor, 0.0)
    lead = node.charter.rounds.lead
    text = (
        f"{share:.0%} of our time goes on waiting for it: one update in {usual:.1f} s, "
        f"our own turn takes {node.rounds.turn_s:.1f} s, nobody runs more than {lead} ahead"
    )
    return Condition("neighbor-slow", severity, neighbor.member.name, text)


def _rounds(node: Node, now: float) -> list[Condition]:
    rounds, settings = node.rounds, node.settings
    found: list[Condition] = []
    if rounds.failures:
        severity = Severity.STALLED if rounds.failures >= settings.failures_stalled else Severity.DEGRADED
        again = "" if rounds.retry_at is None else f", next attempt in {max(0.0, rounds.retry_at - now):.0f} s"
        text = f"{rounds.failures} failed in a row{again}: {rounds.last_failure}"
        found.append(Condition("trainer-failing", severity, "trainer", text))
    if node.evaluation_failure:
        found.append(Condition("evaluation-failing", Severity.NOTE, "trainer", node.evaluation_failure))
    if rounds.finished or rounds.paused or rounds.phase in (Phase.STARTING, Phase.RECOVERING):
        return found  # whoever has not come since the start is told one by one, after a while
    if node.budget.private and rounds.alone(now):
        text = "no neighbor is connected and live: no budget is spent while nobody would hear of it"
        found.append(Condition("isolated", Severity.DEGRADED, "rounds", text))
    idle = 0.0 if rounds.progressed_at is None else now - rounds.progressed_at
    limit = max(settings.stalled_floor_s, settings.stalled_intervals * rounds.period)
    if rounds.pace_known and idle > limit:
        why = f"; {rounds.blocked}" if rounds.blocked else ""
        text = f"no round of training for {idle:.0f} s, usually one in {rounds.period:.1f} s{why}"
        found.append(Condition("rounds-stalled", Severity.STALLED, "rounds", text))
    return found
