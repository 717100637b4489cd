"""``ledger trace`` and ``ledger verify --deep`` on the ledgers of a small federation that really trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import make_home, quidnunc
from node_helpers import parsed, start_all

from quidnunc.crypto.log import Log
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.events import Commit
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.learning.builtin import breast_cancer
from quidnunc.gossip.lineage import Lineage
from quidnunc.gossip.provenance import Merge, UpdatePublished
from quidnunc.gossip.task import Training
from quidnunc.peer.blobs import blob_path
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.deep_check import check_arithmetic
from quidnunc.peer.ledger.store import Store
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.world import Hooks, Peer, World

LINE = ((0, 1), (1, 2))


@dataclass
class Run:
    """A world, the tokens that its peers kept, and homes like theirs."""

    world: World
    tokens: dict[bytes, list[tuple[bytes, bytes, int, bytes]]] = field(default_factory=dict)
    homes: list[Path] = field(default_factory=list)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three peers in a line: the first and the last never met. No blob is ever forgotten."""

    def committed(peer: Peer, commit: Commit) -> None:
        found.tokens.setdefault(peer.log_id, []).extend(commit.tokens)

    scenario = Scenario(
        task=breast_cancer,
        training=Training(learning_rate=1.0, local_steps=2, batch_size=16),
        reference="breast-cancer",
        peers=3,
        rounds=6,
        edges=LINE,
    )
    found = Run(build(scenario, Hooks(on_commit=committed)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBlobs, "discard", lambda self, blob: None)
        start_all(found.world)
        found.world.run(9.0)
    root = tmp_path_factory.mktemp("trace")
    found.homes = [_home(found, peer, root / f"peer-{peer.index}") for peer in found.world.peers]
    return found


def _home(run: Run, peer: Peer, path: Path) -> Path:
    """What this peer would have on disk."""
    make_home(path, f"peer-{peer.index}")
    home = Home.at(path)
    for each in home.ledger.parent.glob(f"{home.ledger.name}*"):
        each.unlink()
    Store.create(home.ledger, peer.log_id, peer.secret.public).close()
    log = Log(peer.log_id)
    for entry in peer.disk.entries:
        log.replay(entry)
    with Store.open(home.ledger) as store:
        store.commit(peer.disk.entries, log.checkpoint(peer.secret), run.tokens[peer.log_id])
    home.charter.write_bytes(draft_note(run.world.charter))
    return path


def trace(run: Run, index: int, *words: str | Path) -> Any:
    return quidnunc("--home", run.homes[index], "--json", "ledger", "trace", *words)


def others(run: Run, index: int) -> list[str | Path]:
    return [word for i, home in enumerate(run.homes) if i != index for word in ("--ledger", home)]


def test_with_all_ledgers_the_last_of_a_line_sees_the_share_of_the_first(run: Run) -> None:
    data = trace(run, 2, *others(run, 2)).data
    assert {row["name"] for row in data["shares"]} == {"peer-0", "peer-1", "peer-2"}
    assert sum(row["share"] for row in data["shares"]) == pytest.approx(1.0)
    assert all(row["share"] > 0.02 for row in data["shares"])
    assert (data["unexplained"], data["made_by"]) == ({}, "peer-2")
    assert data["genesis"] == pytest.approx(1.0)
    shown = quidnunc("--home", run.homes[2], "ledger", "trace", *others(run, 2))
    assert shown.code == 0
    assert "peer-0" in shown.out
    assert "not causal credit" in shown.out


def test_alone_a_ledger_shows_by_claims_whom_it_never_met(run: Run) -> None:
    data = trace(run, 2).data
    whole = trace(run, 2, *others(run, 2)).data
    rows = {row["name"]: row for row in data["shares"]}
    assert rows.keys() == {"peer-0", "peer-1", "peer-2"}
    assert (rows["peer-0"]["updates"], rows["peer-0"]["claimed"]) == (0, rows["peer-0"]["mass"])
    assert rows["peer-2"]["claimed"] > 0, "what came back by way of others"
    for true in whole["shares"]:
        assert rows[true["name"]]["mass"] == pytest.approx(true["mass"], abs=1e-6)
        assert true["claimed"] == 0
    assert (data["unexplained"], set(data["claimed"]), whole["claimed"]) == ({}, {"peer-1"}, {})
    assert data["genesis"] == pytest.approx(1.0)
    shown = quidnunc("--home", run.homes[2], "ledger", "trace").out
    assert "of the model: by peer-1's word, whose ledger is not held" in shown


def test_without_claims_a_ledger_says_what_it_cannot_explain(run: Run) -> None:
    result = trace(run, 2, "--no-claims")
    assert result.code == 32
    data = result.envelope["data"]
    assert (set(data["unexplained"]), data["claimed"]) == ({"peer-1"}, {})
    assert {row["name"] for row in data["shares"]} == {"peer-1", "peer-2"}
    assert data["genesis"] + sum(data["unexplained"].values()) == pytest.approx(1.0)
    assert "--ledger" in result.envelope["error"]["hint"]


def test_everybody_with_a_path_to_a_model_is_reached(run: Run) -> None:
    assert trace(run, 2, *others(run, 2)).data["reach"] == ["peer-0", "peer-1", "peer-2"]
    assert trace(run, 2, "--no-claims").envelope["data"]["reach"] == ["peer-1", "peer-2"]
    shown = quidnunc("--home", run.homes[2], "ledger", "trace").out
    assert "reached: peer-0, peer-1, peer-2 (" in shown


def test_updates_are_weighted_by_their_length_where_both_vectors_are_held(run: Run) -> None:
    data = trace(run, 2, "--norms", *others(run, 2)).data
    assert {row["norms"] for row in data["shares"]} == {0}, "no blob lies in these homes"
    for home, peer in zip(run.homes, run.world.peers, strict=True):
        for name, body in peer.disk.blobs.data.items():
            path = blob_path(Home.at(home).blobs, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    data = trace(run, 2, "--norms", *others(run, 2)).data
    vectors = {
        name: np.frombuffer(body, "<f4")
        for peer in run.world.peers
        for name, body in peer.disk.blobs.data.items()
        if len(body) == 4 * run.world.charter.task.dim
    }
    lineage = Lineage(run.world.charter.task.genesis)
    for peer in run.world.peers:
        for seq, record in made(peer):
            lineage.add(peer.log_id, seq, record)
    (target,) = lineage.find(data["model"]).values()
    wanted: dict[bytes, float] = {}
    for place, weight in lineage.trace(target).atoms.items():
        event = lineage.event(place)
        assert isinstance(event, UpdatePublished)
        if event.steps:
            moved = float(np.sqrt(np.sum((vectors[event.replica_after].astype(float) - vectors[event.base]) ** 2)))
            wanted[place.log_id] = wanted.get(place.log_id, 0.0) + weight * moved
    assert len(wanted) == 3
    for row in data["shares"]:
        assert row["norms"] == row["updates"]
        assert row["norm_weighted"] == pytest.approx(wanted[bytes.fromhex(row["log_id"])], rel=1e-9)
    alone = {row["name"]: row["norms"] for row in trace(run, 2, "--norms").data["shares"]}
    assert (alone["peer-2"] > 0, alone["peer-0"]) == (True, 0), "what others trained from never leaves them"
    shown = quidnunc("--home", run.homes[2], "ledger", "trace", "--norms").out
    assert "length-weighted peer-0               not known, 0 of 0 updates" in shown


def test_a_ledger_file_serves_as_well_as_a_home(run: Run) -> None:
    files = [word for i in (0, 1) for word in ("--ledger", Home.at(run.homes[i]).ledger)]
    assert trace(run, 2, *files).data == trace(run, 2, *others(run, 2)).data


def test_any_model_is_named_by_the_beginning_of_its_hash(run: Run) -> None:
    first = next(r for _, r in parsed(run.world.peers[2].disk.entries) if isinstance(r, UpdatePublished))
    data = trace(run, 2, first.replica_after.hex()[:8], *others(run, 2)).data
    assert (data["model"], data["round"]) == (first.replica_after.hex(), 1)
    assert [(row["name"], row["mass"]) for row in data["shares"]] == [("peer-2", 1.0)]


@pytest.mark.parametrize(("word", "why"), [("0" * 12, "0 models"), ("abc", "8 to 64 hex"), ("zz" * 8, "8 to 64 hex")])
def test_a_model_that_is_not_there(run: Run, word: str, why: str) -> None:
    result = trace(run, 2, word)
    assert result.code == 2
    assert why in result.envelope["error"]["message"]


def test_a_strangers_ledger_is_not_believed(run: Run, tmp_path: Path) -> None:
    make_home(tmp_path / "stranger", "Stranger")
    result = trace(run, 2, "--ledger", tmp_path / "stranger")
    assert result.code == 30
    assert "is not that of a member" in result.envelope["error"]["message"]


def test_what_is_no_ledger_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert trace(run, 2, "--ledger", tmp_path / "notes.txt").code == 65
    assert trace(run, 2, "--ledger", tmp_path / "none").code == 64


def arithmetic(run: Run, records: list[tuple[int, UpdatePublished | Merge]], peer: Peer) -> Any:
    charter = run.world.charter
    return check_arithmetic(records, peer.disk.blobs.data.get, charter.task.dim, charter.codec)


def made(peer: Peer) -> list[tuple[int, UpdatePublished | Merge]]:
    records = parsed(peer.disk.entries)
    return [(header.seq, record) for header, record in records if isinstance(record, UpdatePublished | Merge)]


def test_every_update_and_merge_is_computed_again_bit_for_bit(run: Run) -> None:
    for peer in run.world.peers:
        records = made(peer)
        found = arithmetic(run, records, peer)
        assert (found.layer.checked, found.layer.failed) == (len(records), 0)
        assert (found.not_held, found.not_linear) == (0, 0)
        assert len(records) > 10


def test_a_merge_that_is_not_what_it_says_is_named(run: Run) -> None:
    peer = run.world.peers[1]
    seq, merge = [(seq, record) for seq, record in made(peer) if isinstance(record, Merge)][-1]
    own, first, *rest = merge.rows
    shifted = (own._replace(effective=own.effective - 1000), first._replace(effective=first.effective + 1000), *rest)
    assert sum(row.effective for row in shifted) == PPB
    found = arithmetic(run, [(seq, replace(merge, rows=shifted))], peer)
    assert [(p.code, p.seq) for p in found.layer.problems] == [("I12", seq)]
    assert "merging its inputs gives state" in found.layer.problems[0].why


def test_an_update_that_is_not_what_it_says_is_named(run: Run) -> None:
    peer = run.world.peers[1]
    seq, update = [(seq, record) for seq, record in made(peer) if isinstance(record, UpdatePublished)][-1]
    found = arithmetic(run, [(seq, replace(update, replica_before=update.base))], peer)
    assert [(p.code, p.seq) for p in found.layer.problems] == [("I12", seq)]


def test_what_is_not_held_any_more_is_counted_not_failed(run: Run) -> None:
    peer = run.world.peers[0]
    records = made(peer)
    charter = run.world.charter
    found = check_arithmetic(records, lambda name: None, charter.task.dim, charter.codec)
    assert (found.layer.checked, found.layer.failed, found.not_held) == (0, 0, len(records))


# log --graph.


def test_the_graph_has_a_lane_for_everybody_and_shows_what_merges_read(run: Run) -> None:
    words = ("--home", run.homes[1], "ledger", "log", "-n", "0")
    plain, drawn = quidnunc(*words).out.splitlines(), quidnunc(*words, "--graph").out.splitlines()
    assert drawn[:3] == ["peer-1", "| peer-0", "| | peer-2"]
    assert [line[7:] for line in drawn[3:]] == plain
    marks = {"M-<-<": "merge", "M-< |": "merge", "M-+-<": "merge", "M | |": "merge"}
    marks |= {"| x |": "peer-0 refused", "| | x": "peer-2 refused"}
    marks |= {"* | |": "update.published", "o | |": "update.published"}
    marks |= {"| * |": "of peer-0 accepted", "| | *": "of peer-2 accepted", ". | |": ""}
    for line in drawn[3:]:
        lanes, text = line[:5], line[7:]
        assert marks[lanes] in text, line
        if " merge " in text:
            assert [name in text for name in ("peer-0", "peer-2")] == [lanes[2:3] == "<", lanes[4:5] == "<"], line
    assert {"M-<-<", "* | |", "| * |", "| | *"} <= {line[:5] for line in drawn[3:]}


def test_an_empty_choice_has_one_lane(run: Run) -> None:
    assert quidnunc("--home", run.homes[1], "ledger", "log", "--round", "999", "--graph").out == "peer-1\n"


def test_an_entry_is_also_named_by_the_model_it_made(run: Run, tmp_path: Path) -> None:
    model = trace(run, 1).data["model"]
    words = ("--home", run.homes[1], "--json", "ledger")
    shown = quidnunc(*words, "show", model[:12]).data
    assert model in (shown["payload"].get("result"), shown["payload"].get("replica_after"))
    assert quidnunc(*words, "show", str(shown["seq"])).data["hash"] == shown["hash"]
    assert quidnunc(*words, "prove", model, "--out", tmp_path / "p").data["seq"] == shown["seq"]
