"""Limits and pace of one node: every bound has a name, a default and a test at the limit and one past it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds a node keeps to. Time is in seconds; ``intervals`` are a neighbor's own usual times between updates.

    ``live_intervals``: a neighbor counts in full while it has advanced within this many intervals, else not at all.
    ``live_floor_s``: no neighbor is left out before this much silence, however fast it used to be.
    ``keep_deltas``: own deltas kept for repair; ``fetch_deltas``: longest gap repaired by deltas, else a snapshot.
    ``future_updates``: how far ahead of the known number an update may claim to be.
    ``buffered_updates``: updates held back per neighbor while a gap is repaired.
    ``repair_retry_s``: pause before an unanswered request or poll is repeated; ``silent_requests``: so many to one that
    says nothing at all before the pauses double.
    ``witness_s``: shortest time between two questions to one log how its checkpoints follow each other.
    ``reminder_s``: how long such a question waits for its answer before it is asked again although nothing new
    was shown.
    ``vouch_s``: shortest time between two questions of one log to the witnesses that are not its neighbors.
    ``rejoin_s``: how long a starting peer looks for a quorum of neighbors that say what they know of its log, before it
    goes on with all that are connected; and how long it watches whether its log grows before it goes on from a copy.
    ``recover_bytes``: bytes of own entries taken back from neighbors; ``mirror_entries``: how many of a neighbor's
    newest entries are asked for where none are kept yet.
    ``summary_cosignatures``: cosignatures under own checkpoints that one entry sums up.
    ``suspect_unanswered``: such questions in a row without an answer after which a log is suspected;
    ``suspect_omissions``: requests in a row for entries under its own checkpoints that brought none.
    ``repair_bytes_per_s``: slowest link reckoned with: a request for much is repeated after the time the answer takes
    at this rate, and no neighbor is served more than this in the long run.
    ``snapshot_attempts``: unanswered requests for deltas before a snapshot is asked for instead.
    ``messages_per_window``: messages of one neighbor read in ``window_s``, ``wants_per_window``: repairs served to it.
    ``refusals_per_round``: refusals of one sender recorded one by one in an own round; the rest is only counted.
    ``pending_entries``: entries that may wait for the next commit.
    ``fetch_attempts``: repair requests to one neighbor before a starting peer goes on without it.
    ``gather_s``: how long a returning or late peer waits for all neighbors to speak before it goes on with those it
    has heard.
    ``absent_rounds``: a peer that missed more own rounds than this adopts its neighbors' median on return.
    ``keep_rounds``: own rounds for which a vector that was replaced is kept, because a job may still read it.
    ``lead_patience``: under a lead bound a neighbor is waited for until it has been silent for this many own turns;
    so a stalling neighbor slows this peer down at most by this factor.
    ``reconnect_s``: how long a connection may be gone before that is more than a note.
    ``silent_intervals``: usual intervals without an update after which a connected neighbor is called stalled; more
    than its liveness window, since a few lost messages are no reason to call anybody.
    ``strange_intervals``: own intervals that a neighbor of unknown pace may take for its first update.
    ``stalled_intervals``, ``stalled_floor_s``: own intervals, and seconds, without a round of training after which this
    peer calls itself stalled.
    ``held_share``, ``slow_share``: share of the own time that a neighbor may hold us back before that is noted, and
    before it counts as slow: at .7 rounds take more than three times as long as they could.
    ``failures_stalled``: failed jobs in a row after which this peer calls itself stalled.
    ``offence_s``: how long a refused message of a neighbor is shown.
    ``evaluate_every``: merges between two measurements on the local test split.
    ``heartbeat_s``: shortest time between two updates without training; ``heartbeat_max_s``: what it grows to while
    no neighbor trains either.
    """

    live_intervals: float = 5.0
    live_floor_s: float = 3.0
    keep_deltas: int = 64
    fetch_deltas: int = 3
    future_updates: int = 1_000_000
    buffered_updates: int = 8
    repair_retry_s: float = 1.0
    silent_requests: int = 50
    witness_s: float = 1.0
    reminder_s: float = 10.0
    vouch_s: float = 30.0
    rejoin_s: float = 2.0
    recover_bytes: int = 268_435_456
    mirror_entries: int = 65_536
    summary_cosignatures: int = 64
    suspect_unanswered: int = 32
    suspect_omissions: int = 64
    repair_bytes_per_s: float = 1_048_576.0
    snapshot_attempts: int = 16
    messages_per_window: int = 4096
    wants_per_window: int = 8
    window_s: float = 10.0
    refusals_per_round: int = 16
    pending_entries: int = 256
    fetch_attempts: int = 5
    gather_s: float = 5.0
    absent_rounds: int = 3
    keep_rounds: int = 4
    lead_patience: float = 10.0
    reconnect_s: float = 15.0
    silent_intervals: float = 8.0
    strange_intervals: float = 20.0
    stalled_intervals: float = 20.0
    stalled_floor_s: float = 30.0
    held_share: float = 0.6
    slow_share: float = 0.7
    failures_stalled: int = 3
    offence_s: float = 60.0
    evaluate_every: int = 1
    heartbeat_s: float = 0.25
    heartbeat_max_s: float = 600.0
