"""The process of ``quidnunc privacy audit``, ``python -m quidnunc.peer.privacy_audit``: torch and user code.

It reads one :class:`Request` from stdin, says on stdout what it is doing, and ends with an :class:`Audited` or a
:class:`SetupFailed`. Nothing else leaves it: no file is written, no ledger opened.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quidnunc.crypto.errors import ConfigError, LocalProtocolError, QuidnuncError
from quidnunc.gossip.jobs import PPM, PrivacyStep, Release, Unit
from quidnunc.gossip.learning.accountant import epsilon_of
from quidnunc.peer.pipe import Codec, Setup, SetupFailed, plain, read_frame, write_frame
from quidnunc.peer.task_loader import load_task
from quidnunc.peer.trainer import die_with_parent, guarded, limit_memory, take_pipes

MICRO = 1_000_000


class AuditFailed(QuidnuncError):
    """The process that audits came to an end without a report."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to audit: the task, site and plan of ``setup`` for ``rounds`` releases, and with which effort.

    ``noise_u``, ``clip_u``, ``rate_ppm``, ``steps`` and ``unit`` are those of a charter's privacy, all 0 without. The
    own noise of a private sum is that of single records.
    """

    setup: Setup
    rounds: int
    delta_exp: int
    canaries: int
    shadows: int
    seed: int
    noise_u: int = 0
    clip_u: int = 0
    rate_ppm: int = 0
    steps: int = 0
    unit: int = 0

    def privacy(self) -> PrivacyStep | None:
        """How a release is made."""
        if not self.noise_u:
            return None
        return PrivacyStep(
            *(self.clip_u / MICRO, self.noise_u / MICRO, self.rate_ppm / PPM, self.steps), unit=Unit(self.unit)
        )

    def epsilon(self) -> float:
        """What so many releases cost, by the accountant of their kind; infinite without privacy."""
        delta = 10.0**-self.delta_exp
        if not self.noise_u:
            return float("inf")
        if self.rate_ppm == PPM:
            return epsilon_of(self.noise_u / MICRO, self.rounds, delta)
        from quidnunc.gossip.learning.sampled import epsilon_sampled

        return epsilon_sampled(((Release(self.noise_u, self.rate_ppm, self.steps), self.rounds),), delta)


@dataclass(frozen=True, slots=True)
class Doing:
    """What the process does now."""

    what: str


@dataclass(frozen=True, slots=True)
class Audited:
    """The report: plain data, see gossip/privacy_audit/report.py."""

    report: dict[str, Any]


TO_AUDITOR = Codec(Request)
FROM_AUDITOR = Codec(Doing, Audited, SetupFailed)


def run(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """Audit in a process of its own and return the report; ``say`` hears what it does.

    Raises ConfigError for what is wrong with the task, and AuditFailed when the process dies.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "quidnunc.peer.privacy_audit"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # A process that dies at once is told by its exit code below.
        with contextlib.suppress(BrokenPipeError):
            write_frame(process.stdin.fileno(), TO_AUDITOR.encode(request))
        while (data := read_frame(process.stdout.fileno())) is not None:
            match FROM_AUDITOR.decode(data):
                case Doing(what):
                    say(what)
                case Audited(report):
                    return report
                case SetupFailed(message, hint):
                    raise ConfigError(message, hint=hint)
        code = process.wait()
        raise AuditFailed(f"the audit ended with {code} and no report", hint="what it said stands above")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def main() -> int:
    """Answer one request; the exit status."""
    reader, writer = take_pipes()
    die_with_parent()
    data = read_frame(reader)
    if data is None:
        return 0
    request = TO_AUDITOR.decode(data)
    if not isinstance(request, Request):
        raise LocalProtocolError("the first frame to an audit is its request")

    def tell(message: object) -> None:
        write_frame(writer, FROM_AUDITOR.encode(message))

    try:
        tell(Audited(guarded(lambda: audited(request, lambda what: tell(Doing(what))))))
    except QuidnuncError as error:
        tell(SetupFailed(plain(error.message), plain(error.hint)))
        return 1
    return 0


def audited(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """The report on what ``request`` asks for, computed here: torch is imported, and the task loaded."""
    setup = request.setup
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    if setup.memory_bytes:
        limit_memory(setup.memory_bytes)
    function = load_task(setup.task)
    import torch

    from quidnunc.gossip.privacy_audit.report import Effort, Terms, audit
    from quidnunc.gossip.task import Task

    torch.set_num_threads(setup.threads)
    task: object = function(setup.site())
    if not isinstance(task, Task):
        raise ConfigError(f"task function returned {type(task).__name__}, must return quidnunc.gossip.Task")
    terms = Terms(setup.plan(), request.privacy(), request.rounds, request.epsilon(), 10.0**-request.delta_exp)
    report = audit(task, terms, Effort(request.canaries, request.shadows, request.seed), say)
    return {"task": setup.task, **report}


if __name__ == "__main__":
    sys.exit(main())
