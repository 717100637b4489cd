"""Three commands on each of two machines, as docs/two-machines.md shows them, and a cable that is pulled.

With ``QUIDNUNC_TRANSCRIPT=FILE`` what the terminals show is written there instead of compared, to bring the document
up to date.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from daemons import check_ledger, records, until
from namespaces import Machine, two_machines
from terminal import COMMAND, Terminal
from transcript import Carried, Command, Step, steps

from quidnunc.gossip.provenance import UpdateReceived
from quidnunc.peer.home import Home
from quidnunc.peer.rehearsal import Actor

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "two-machines.md"
PHRASE = "correct horse battery staple"
ANSWERS = {"(empty: leave them unlocked):": PHRASE, "again:": PHRASE, "passphrase:": PHRASE, "[y/N]": "y"}
READY = "ready addresses="
ROUNDS = 50
LEAD = 2
"""Updates that a private peer may be ahead of its slowest neighbor."""
OUTAGE_S = 30.0


@dataclass
class Site:
    """One machine of the document: a home directory of its own, and nothing shared."""

    root: Path
    machine: Machine | None = None
    daemon: Terminal | None = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def actor(self) -> Actor:
        return Actor(0, self.root.name, Home.at(self.root / ".local/share/quidnunc"), False)

    def terminal(self, words: tuple[str, ...]) -> Terminal:
        # The shell's part.
        command = [*COMMAND, *(word.replace("~/", f"{self.root}/", 1) for word in words)]
        if self.machine is not None:
            command = self.machine.inside(*command)
        env = {"HOME": str(self.root), "XDG_DATA_HOME": "", "QUIDNUNC_HOME": "", "OMP_NUM_THREADS": "1"}
        return Terminal(command, env=env, cwd=self.root)

    def play(self, step: Command) -> str:
        """Run a command to its end, or a daemon until it is ready; what the terminal showed."""
        terminal = self.terminal(step.words)
        if step.words[0] != "run":
            with terminal:
                code = terminal.ends(ANSWERS)
                assert code == 0, terminal.shown
            return terminal.shown
        self.daemon = self.stack.enter_context(terminal)
        terminal.sees("passphrase: ")
        terminal.types(PHRASE)
        terminal.until(lambda shown: READY in shown and shown.endswith("\n"), "is ready")
        return terminal.shown

    def status(self) -> dict[str, Any]:
        assert self.daemon is not None
        assert self.daemon.process.poll() is None, self.daemon.shown
        return self.actor.status() or {}


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[dict[str, Site]]:
    made = {letter: Site(tmp_path / letter.lower()) for letter in "AB"}
    with contextlib.ExitStack() as stack:
        for site in made.values():
            site.root.mkdir()
            stack.enter_context(site.stack)
        yield made


def carry(sites: dict[str, Site], step: Carried) -> None:
    """Take one file from one machine to another, the only way there is."""
    shutil.copy(
        sites[step.source].root / step.path.removeprefix("~/"), sites[step.target].root / step.name.removeprefix("~/")
    )


def follow(sites: dict[str, Site], script: list[Step], *, compared: bool = True) -> None:
    """Do what the document says, and compare what is shown."""
    for step in script:
        if isinstance(step, Carried):
            carry(sites, step)
            continue
        shown = sites[step.machine].play(step)
        if written := os.environ.get("QUIDNUNC_TRANSCRIPT"):
            with open(written, "a", encoding="utf-8") as file:
                file.write(f"{step.machine}$ quidnunc {shlex.join(step.words)}\n{shown}")
        elif compared:
            assert step.masked(shown) == step.masked(step.shown)


def split(script: list[Step], verb: str) -> tuple[list[Step], list[Step]]:
    """The steps before the first command ``verb``, and from there on."""
    at = next(i for i, step in enumerate(script) if isinstance(step, Command) and step.words[0] == verb)
    return script[:at], script[at:]


def test_the_document_has_three_commands_on_each_machine_and_three_files_by_hand() -> None:
    before, _ = split(steps(DOCUMENT), "status")
    commands = [step for step in before if isinstance(step, Command)]
    assert [step.words[0] for step in commands if step.machine == "A"] == ["init", "federation", "run"]
    assert [step.words[0] for step in commands if step.machine == "B"] == ["init", "federation", "run"]
    assert sum(isinstance(step, Carried) for step in before) == 3


def test_the_transcript_is_what_terminals_show_up_to_the_start(sites: dict[str, Site]) -> None:
    founding, _ = split(steps(DOCUMENT), "run")
    follow(sites, founding)
    assert sites["B"].actor.home.charter.exists()
    assert not sites["A"].actor.home.charter.exists()


def without_privacy(script: list[Step]) -> list[Step]:
    """The same, founded without differential privacy: then nobody waits for company."""
    return [
        replace(step, words=(*step.words, "--epsilon", "inf"))
        if isinstance(step, Command) and step.words[:2] == ("federation", "create")
        else step
        for step in script
    ]


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("private", [True, False], ids=["epsilon 8", "epsilon inf"])
def test_a_pulled_cable_costs_nothing_but_progress(sites: dict[str, Site], private: bool) -> None:
    script = steps(DOCUMENT)
    begin, end = split(script if private else without_privacy(script), "status")
    with two_machines() as machines:
        both = list(sites.values())
        for site, machine in zip(both, machines, strict=True):
            site.machine = machine
        try:
            follow(sites, begin, compared=private)
            actors = [site.actor for site in both]

            def each(key: str) -> list[Any]:
                return [site.status().get(key) for site in both]

            def connected() -> list[int]:
                return [(site.status().get("neighbors") or {"connected": -1})["connected"] for site in both]

            def progress() -> list[int]:
                """Releases that cost privacy, or updates where none does."""
                return [privacy["releases"] for privacy in each("privacy")] if private else each("updates_published")

            until(lambda: min(each("updates_accepted")) >= 5, "both learn from each other", actors)
            machines[0].link("down")
            pulled, before = time.monotonic(), progress()
            until(lambda: connected() == [0, 0], "both notice", actors)
            # The outage itself, not a wait for a state: the drill is that it lasts this long.
            time.sleep(max(0.0, pulled + OUTAGE_S - time.monotonic()))
            meanwhile = [now - then for now, then in zip(progress(), before, strict=True)]
            if private:
                # Signs of life at the most: nobody would hear of what is spent.
                assert max(meanwhile) <= LEAD + 2, meanwhile
            else:
                assert min(meanwhile) >= 10, meanwhile
            machines[0].link("up")
            until(lambda: connected() == [1, 1], "both are connected again", actors)
            until(lambda: all(each("finished")), "both finish", actors)
            assert min(each("updates_published")) >= ROUNDS
            assert [privacy["releases"] for privacy in each("privacy")] == [ROUNDS if private else 0] * 2
            assert each("refused_total") == [0, 0]
            assert each("failures") == [0, 0]
            assert [trainer["restarts"] for trainer in each("trainer")] == [0, 0]
            follow(sites, end, compared=private)
        finally:
            for site in both:
                if site.daemon is not None and site.daemon.process.poll() is None:
                    site.daemon.process.send_signal(signal.SIGINT)
            codes = [site.daemon.ends() for site in both if site.daemon is not None]
        assert codes == [0, 0]
    for site in both:
        received = [each.number for each in records(check_ledger(site.actor), UpdateReceived) if not each.reasons]
        assert max(received) >= ROUNDS
        assert received == sorted(set(received))
