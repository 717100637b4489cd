"""Which anchors the page has, and what leads where: every link has one that leads back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from quidnunc.gossip.lineage import Place
from quidnunc.gossip.provenance import Merge, UpdatePublished, UpdateReceived
from quidnunc.peer.commands.entry_links import cited_entries, made_state, read_states
from quidnunc.peer.page.gather import ROUNDS_MAX, Gathered, Row


@dataclass(slots=True)
class State:
    """A state of a model that some entry on the page made or names.

    ``maker`` is where it was made as far as is known, ``made`` the main ledger's entries that made it, ``used`` those
    that name it.
    """

    number: int
    hash: bytes
    told: str = ""
    maker: Place | None = None
    leaf: bytes | None = None
    made: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return f"s{self.number}"


class Index:
    """States and citations. Entry ``seq`` of the main ledger is at ``e<seq>``, round r at ``r<r>``."""

    def __init__(self, found: Gathered) -> None:
        self._found = found
        self.states: dict[bytes, State] = {}
        self.at: dict[Place, State] = {}
        self.cited_by: dict[int, list[int]] = {}
        self.first = found.main.rows[0].seq if found.main.rows else 0
        self.rounds = _rounds(found)
        self.round_entry: dict[int, int] = {}
        for row in found.main.rows:
            self._main(row)
        for place, record in found.taken.items():
            self._taken(Place(place.log_id, place.seq), record)
        for ledger in found.ledgers[1:]:
            for row in ledger.made:
                self._other(ledger.log_id, ledger.name, row)

    def listed(self, seq: int) -> bool:
        """Whether entry ``seq`` of the main ledger has a row, and thus an anchor."""
        return self.first <= seq < self.first + len(self._found.main.rows)

    def entries(self, seqs: list[int]) -> Iterator[tuple[str, int]]:
        """(anchor, number) of those of ``seqs`` that are listed."""
        return ((f"e{seq}", seq) for seq in seqs if self.listed(seq))

    def _state(self, name: bytes) -> State:
        return self.states.setdefault(name, State(len(self.states), name))

    def _main(self, row: Row) -> None:
        main = self._found.main
        number = getattr(row.record, "round", None)
        if isinstance(number, int):
            self.round_entry.setdefault(number, row.seq)
        for seq in cited_entries(main.log_id, row.record):
            self.cited_by.setdefault(seq, []).append(row.seq)
        for name in read_states(row.record):
            self._state(name).used.append(row.seq)
        made = made_state(row.record)
        if made is not None:
            self._made(Place(main.log_id, row.seq), main.name, row, made).made.append(row.seq)

    def _taken(self, place: Place, record: UpdateReceived) -> None:
        """Say of a state that is on the page whose it is."""
        state = self.states.get(record.replica)
        if state is None or state.maker is not None:
            return
        state.maker, state.leaf = place, record.leaf
        state.told = f"{self._found.names.get(place.log_id, place.log_id.hex()[:8])}: update {record.number}"
        self.at[place] = state

    def _other(self, log_id: bytes, name: str, row: Row) -> None:
        """A state that another ledger published; its merges stay inside its owner, and off the page."""
        if isinstance(row.record, UpdatePublished) and row.record.round in self.rounds:
            self._made(Place(log_id, row.seq), name, row, row.record.replica_after)

    def _made(self, place: Place, name: str, row: Row, made: bytes) -> State:
        state = self._state(made)
        state.maker, state.leaf = place, row.leaf
        what = "merge" if isinstance(row.record, Merge) else "update"
        if isinstance(row.record, UpdatePublished):
            what += f" {row.record.number}"
        state.told = f"{name}: {what}, round {getattr(row.record, 'round', '?')}"
        self.at[place] = state
        return state


def _rounds(found: Gathered) -> frozenset[int]:
    """The newest rounds, of all ledgers at hand, that the page draws."""
    numbers = {row.record.round for each in found.ledgers for row in each.made if isinstance(row.record, Merge)}
    numbers |= {
        row.record.round for each in found.ledgers for row in each.made if isinstance(row.record, UpdatePublished)
    }
    return frozenset(sorted(numbers)[-ROUNDS_MAX:])
