"""Results of jobs: each goes to the part that asked for it, and a failed job to the part that has to do without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quidnunc.gossip.events import Effect, Forget, Refuse, Report
from quidnunc.gossip.jobs import Adopted, Advanced, Described, Evaluated, JobFailed, Merged, Rejected, Result, Trained
from quidnunc.gossip.publisher import committed
from quidnunc.gossip.recall import RecallDesk
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.retention import Retention
from quidnunc.gossip.rounds import Rounds
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.witness import Witnesses


class Results:
    """Hands every result on.

    ``evaluated`` is the newest evaluation, ``evaluation_failure`` why the one after it failed, "" if none did.
    """

    def __init__(
        self,
        me: bytes,
        recorder: Recorder,
        settings: Settings,
        rounds: Rounds,
        replicas: Replicas,
        recalls: RecallDesk,
        witnesses: Witnesses,
        retention: Retention,
        in_use: Callable[[], Iterable[bytes]],
    ) -> None:
        """``in_use`` names the blobs that may not be forgotten."""
        self._me = me
        self._recorder = recorder
        self._settings = settings
        self._rounds = rounds
        self._replicas = replicas
        self._recalls = recalls
        self._witnesses = witnesses
        self._retention = retention
        self._in_use = in_use
        self.evaluated: Evaluated | None = None
        self.evaluation_failure = ""

    def finish(self, result: Result, now: float) -> list[Effect]:
        """What must be done about the result of a job."""
        out: list[Effect] = []
        match result:
            case Trained():
                out = [*self._rounds.on_trained(result, now), *self._witnesses.pollinate(now), *self._prune()]
            case Merged():
                out = self._rounds.on_merged(result, now)
            case Adopted():
                out = self._rounds.on_adopted(result, now)
            case Advanced() if result.author == self._me:
                out = self._recalls.settle(self._recalls.on_advanced(result.number))
            case Advanced():
                out = self._applied(self._replicas.on_advanced(result, now))
                out += self._rounds.on_advanced(self._replicas.neighbors[result.author], now)
            case Rejected() if result.author == self._me:
                out = self._recalls.on_failed()
            case Rejected():
                out = self._applied(self._replicas.on_rejected(result, now))
            case Evaluated():
                self.evaluated, self.evaluation_failure = result, ""
            case JobFailed():
                out = self._failed(result, now)
            case Described():
                pass  # was asked for before there was a node
        return out

    def _applied(self, out: list[Effect]) -> list[Effect]:
        """What follows from applying an update; the transport was answered long ago."""
        if self._recorder.pending >= self._settings.pending_entries:
            out = [*committed(self._recorder.flush()), *out]
        return [effect for effect in self._recorder.evidence_first(out) if not isinstance(effect, Refuse)]

    def _failed(self, result: JobFailed, now: float) -> list[Effect]:
        if result.author == self._me:
            return self._recalls.on_failed()
        if result.job in ("AdvanceJob", "AdoptJob"):
            return self._replicas.on_failed(result, now)
        if result.job == "EvaluateJob":
            self.evaluation_failure = f"{result.job}: {result.why}"
            return [Report("compute", self.evaluation_failure)]
        return self._rounds.on_failed(result, now)

    def _prune(self) -> list[Effect]:
        gone = self._retention.next_round(self._in_use())
        return [Forget(gone)] if gone else []
