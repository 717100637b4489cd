"""Members that are no neighbors of a log witness it as well: asked and answered through peers in between."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from founders import charter, founders
from fuzzing import SEED, mutate
from node_helpers import Author, Bench, header_of, line, start_all, toy_world, witness_key

from quidnunc.crypto.checkpoint import cosign_checkpoint, open_checkpoint, origin_of, witness_verifier
from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed, Reason
from quidnunc.crypto.fork import verify_fork
from quidnunc.crypto.note import parse_note, verify_note
from quidnunc.crypto.policy import quorum_of
from quidnunc.gossip.events import Frame, Send, Witness
from quidnunc.gossip.federation.charter import WITNESSES_ALL, WITNESSES_LEAST
from quidnunc.gossip.federation.terms import RoundSpec
from quidnunc.gossip.message import VOUCHES_MAX, Hello, Vouch, Vouched, VouchRow
from quidnunc.gossip.message_codec import parse_message, write_message
from quidnunc.gossip.settings import Settings
from quidnunc.sim.network import Link
from quidnunc.sim.world import Hooks, Peer

MESH = (0, 1), (1, 2), (2, 3), (3, 4)
"""Five in a line: for the first, the other end is four links away."""


def ring(members: int) -> tuple[tuple[int, int], ...]:
    return tuple(sorted([*line(members), (0, members - 1)]))


# -- who the witnesses are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "count"), [(WITNESSES_ALL + 1, WITNESSES_ALL), (WITNESSES_ALL + 2, 5)])
def test_all_others_witness_a_log_up_to_eight_and_the_five_nearest_beyond(members: int, count: int) -> None:
    rules = charter(founders(members), edges=ring(members))
    for each in rules.members:
        found = rules.witnesses(each.log_id)
        assert len(found) == count
        distances = rules.witness_distances(each.log_id)
        assert distances.keys() == {one.log_id for one in found}
        assert max(distances.values()) == (members // 2 if count == WITNESSES_ALL else 3)
        near = rules.within(each.log_id, 1)
        assert near == {each.log_id, *(one.log_id for one in rules.neighbors(each.log_id))}
    assert count >= WITNESSES_LEAST


def test_enough_neighbors_are_witnesses_enough() -> None:
    group = founders(12)
    pairs = ((i, j) for i in range(12) for j in range(i + 1, 12))
    rules = charter(group, edges=tuple(pair for pair in pairs if min(pair[1] - pair[0], pair[0] + 12 - pair[1]) <= 3))
    for each in rules.members:
        assert rules.witnesses(each.log_id) == rules.neighbors(each.log_id)


# -- a world ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "edges"), [(3, line(3)), (5, MESH), (9, ring(9)), (12, ring(12))])
def test_in_a_sparse_graph_every_log_is_witnessed_by_a_quorum_of_its_witnesses(
    members: int, edges: tuple[tuple[int, int], ...]
) -> None:
    """Regression: where a member had too few neighbors for a quorum, its log stayed SELF-ATTESTED for ever."""
    sent: Counter[str] = Counter()

    def count(sender: Peer, target: Peer, send: Send, body: bytes) -> tuple[bytes, bytes]:
        sent[type(parse_message(send.frame.header, world.charter.federation_id)).__name__] += 1
        return send.frame.header, body

    settings = Settings(repair_retry_s=0.5, vouch_s=5.0)
    link = Link(loss=0.1, duplicate=0.1, jitter_s=0.05)
    rounds = RoundSpec(400, 0, 2, "majority")
    world, _ = toy_world(members, seed=3, watch=False, link=link, settings=settings, edges=edges, rounds=rounds)
    world.hooks = Hooks(tamper=count)
    start_all(world)
    world.run(40.0)
    for peer in world.peers:
        assert peer.node is not None
        assert not peer.node.exposure.proofs
        assert not peer.node.witnesses.ahead
        of = len(world.charter.witnesses(peer.log_id))
        k, size = peer.node.witnesses.witnessed()
        assert k >= quorum_of(of), peer.index
        assert size > 20
        for witness, (seen, note) in peer.disk.cosigned.items():
            found = open_checkpoint(note, origin_of(peer.log_id), peer.secret.public)
            member = world.charter.member(witness)
            assert member is not None
            assert found.size == seen
            assert verify_note(parse_note(note), [witness_verifier(witness, member.witness)])
    asked = members * (40 / settings.vouch_s + 1)
    assert sent["Vouch"] <= asked * 2 * len(edges)
    assert sent["Vouched"] <= asked * 2 * len(edges) * WITNESSES_ALL


def test_where_everybody_is_a_neighbor_nobody_asks() -> None:
    kinds: set[str] = set()

    def count(sender: Peer, target: Peer, send: Send, body: bytes) -> tuple[bytes, bytes]:
        kinds.add(type(parse_message(send.frame.header, world.charter.federation_id)).__name__)
        return send.frame.header, body

    world, _ = toy_world(4, seed=3, watch=False)
    world.hooks = Hooks(tamper=count)
    start_all(world)
    world.run(10.0)
    assert "Cosigned" in kinds
    assert not kinds & {"Vouch", "Vouched"}


# -- one witness --------------------------------------------------------------------------------------------------


class InLine(Bench):
    """The node stands at a ``place`` in a line of four; ``others`` are the authors at the other places, in order."""

    def __init__(self, place: int) -> None:
        group = founders(4)
        ranked = sorted(group, key=lambda each: each.member.log_id)
        super().__init__(4, me=group.index(ranked[place]), edges=line(4))
        self.others = sorted(self.authors, key=lambda each: each.member.log_id)


class Far(InLine):
    """The node is one end of a line of four; ``near`` is its neighbor, ``log`` the other end's author."""

    def __init__(self) -> None:
        super().__init__(0)
        self.near, self.next, self.log = self.others
        self.connect(self.near)

    def ask(self, author: Author, old: int, **changes: object) -> list[Reason]:
        """What ``author``'s log asks this node, starting from ``old`` entries."""
        self.now += 30.0
        log = author.log
        row = VouchRow(self.own.log_id, old, log.root_at(old), tuple(log.consistency(old)) if old else ())
        note = log.checkpoint(author.key)
        return self.receive(self.near, header_of(Vouch(self.charter.federation_id, note, (row._replace(**changes),))))

    def said(self) -> list[int]:
        """The sizes that it cosigned for the far log, in order."""
        told = [each for each in self.messages(self.near) if isinstance(each, Vouched)]
        key = witness_verifier(self.own.log_id, self.own.witness.public)
        assert all(verify_note(parse_note(each.note), [key]) for each in told)
        return [
            open_checkpoint(each.note, origin_of(self.log.member.log_id), self.log.key.public).size for each in told
        ]

    def grow(self, author: Author, count: int = 3) -> int:
        for _ in range(count):
            author.append(EntryType.EVAL, b"\x80")
        return author.log.size


def test_a_far_witness_cosigns_what_it_has_made_durable_and_what_continues_it() -> None:
    bench = Far()
    first = bench.grow(bench.log)
    assert bench.ask(bench.log, 0) == []
    assert bench.disk.heads[bench.log.member.log_id][0] == first
    assert bench.said() == [first]
    second = bench.grow(bench.log)
    assert bench.ask(bench.log, first) == []
    assert bench.said() == [first, second]
    bench.restart()
    bench.connect(bench.near)
    third = bench.grow(bench.log)
    assert bench.ask(bench.log, second) == []
    assert bench.said() == [first, second, third], "what it cosigned it knows after a restart"


def test_what_it_cosigned_last_is_said_again_where_the_log_starts_from_something_else() -> None:
    """An answer was lost, or the log came back from an older copy: else the two would never come together."""
    bench = Far()
    first = bench.grow(bench.log)
    bench.ask(bench.log, 0)
    bench.grow(bench.log)
    for old in (0, first - 1):
        assert bench.ask(bench.log, old) == []
        assert bench.said()[-1] == first
    newest = bench.grow(bench.log)
    bench.ask(bench.log, first)
    assert bench.said()[-1] == newest
    assert bench.disk.heads[bench.log.member.log_id][0] == newest


def test_durable_first_then_said() -> None:
    bench = Far()
    bench.grow(bench.log)
    seen: list[type] = []
    perform = bench._perform

    def watch(effect: object) -> None:
        if isinstance(effect, Witness) or (isinstance(effect, Send) and b"vouched" in effect.frame.header):
            seen.append(type(effect))
        perform(effect)  # type: ignore[arg-type]

    bench._perform = watch  # type: ignore[method-assign]
    bench.ask(bench.log, 0)
    assert seen == [Witness, Send]


def test_a_path_that_leads_elsewhere_is_cosigned_by_nobody_and_blames_nobody() -> None:
    bench = Far()
    first = bench.grow(bench.log)
    bench.ask(bench.log, 0)
    bench.grow(bench.log)
    for changes in ({"path": (bytes(32),)}, {"path": ()}, {"root": bytes(32)}):
        assert bench.ask(bench.log, first, **changes) == []
    assert bench.said() == [first]
    assert not bench.node.exposure.proofs
    assert not bench.neighbor(bench.near).quarantined


def test_a_far_witness_that_is_shown_another_beginning_holds_a_proof() -> None:
    bench = Far()
    twin = bench.log.twin()
    first = bench.grow(bench.log)
    bench.ask(bench.log, 0)
    twin.append(EntryType.EVAL, b"\x81\xa1x\x01")
    bench.grow(twin, 7)
    bench.ask(twin, first)
    assert bench.said() == [first]
    proof = bench.node.exposure.proofs[bench.log.member.log_id]
    assert verify_fork(proof, bench.node.keys.known()).culprit == origin_of(bench.log.member.log_id)
    bench.grow(bench.log)
    bench.ask(bench.log, first)
    assert bench.said() == [first], "a frozen log is not cosigned"


def test_checkpoints_that_their_log_did_not_sign_are_refused() -> None:
    bench = Far()
    bench.grow(bench.log)
    stranger = Author(founders(5)[4], bench.charter)
    fed = bench.charter.federation_id
    rows = (VouchRow(bench.own.log_id, 0, bytes(32), ()),)
    forged = bench.log.log.checkpoint(bench.near.key)
    assert bench.receive(bench.near, header_of(Vouch(fed, forged, rows))) == [Reason.BAD_SIGNATURE]
    assert bench.receive(bench.near, header_of(Vouched(fed, forged))) == [Reason.BAD_SIGNATURE]
    foreign = stranger.log.checkpoint(stranger.key)
    assert bench.receive(bench.near, header_of(Vouch(fed, foreign, rows))) == [Reason.STRANGER]
    assert bench.receive(bench.near, header_of(Vouched(fed, foreign))) == [Reason.STRANGER]
    plain = bench.log.log.checkpoint(bench.log.key)
    assert bench.receive(bench.near, header_of(Vouched(fed, plain))) == [Reason.BAD_SIGNATURE], "nobody cosigned it"
    owner = cosign_checkpoint(plain, bench.log.member.log_id, witness_key(bench.founders[0]), time=1)
    assert bench.receive(bench.near, header_of(Vouched(fed, owner))) == [Reason.BAD_SIGNATURE]
    assert bench.said() == []


# -- in between ---------------------------------------------------------------------------------------------------


class Between(InLine):
    """The node is the second of a line of four: ``log`` is the first, ``right`` the third, ``end`` the last."""

    def __init__(self) -> None:
        super().__init__(1)
        self.log, self.right, self.end = self.others
        self.connect(self.log, self.right)

    def question(self) -> Vouch:
        note = self.log.log.checkpoint(self.log.key)
        row = VouchRow(self.end.member.log_id, 0, self.log.log.root_at(0), ())
        return Vouch(self.charter.federation_id, note, (row,))

    def answer(self) -> Vouched:
        founder = next(each for each in self.founders if each.member == self.end.member)
        note = self.log.log.checkpoint(self.log.key)
        cosigned = cosign_checkpoint(note, self.end.member.log_id, witness_key(founder), time=1)
        return Vouched(self.charter.federation_id, cosigned)

    def passed(self, author: Author, kind: type) -> int:
        return sum(isinstance(each, kind) for each in self.messages(author))


def test_questions_and_answers_are_handed_on_once_and_not_back() -> None:
    bench = Between()
    bench.receive(bench.log, header_of(bench.question()))
    assert (bench.passed(bench.right, Vouch), bench.passed(bench.log, Vouch)) == (1, 0)
    bench.receive(bench.right, header_of(bench.question()))
    assert (bench.passed(bench.right, Vouch), bench.passed(bench.log, Vouch)) == (1, 0)
    bench.receive(bench.right, header_of(bench.answer()))
    bench.receive(bench.right, header_of(bench.answer()))
    assert (bench.passed(bench.right, Vouched), bench.passed(bench.log, Vouched)) == (0, 1)


def test_the_limits_on_what_is_handed_on_are_exact() -> None:
    """The same again after half of ``vouch_s``, more after ``witness_s``: whoever floods is handed on no faster."""
    bench = Between()
    settings = bench.settings
    for pause, grown, count in (
        (0.0, False, 1),
        (settings.vouch_s / 2 - 0.01, False, 1),
        (0.02, False, 2),
        (settings.witness_s - 0.02, True, 2),
        (0.03, True, 3),
    ):
        bench.now += pause
        if grown:
            bench.log.append(EntryType.EVAL, b"\x80")
        bench.receive(bench.log, header_of(bench.question()))
        bench.receive(bench.right, header_of(bench.answer()))
        assert bench.passed(bench.right, Vouch) == bench.passed(bench.log, Vouched) == count


def test_who_stands_no_nearer_than_the_farthest_witness_hands_nothing_on() -> None:
    bench = Far()
    bench.grow(bench.log)
    bench.ask(bench.log, 0)
    assert not [each for each in bench.messages(bench.near) if isinstance(each, Vouch)]
    group = founders(12)
    rules = charter(group, edges=ring(12))
    first = rules.members[0].log_id
    inside = rules.within(first, max(rules.witness_distances(first).values()) - 1)
    assert len(inside) == 5, "of twelve in a ring, two on each side hand on what the first asks"


def test_a_question_about_more_of_its_own_log_than_it_holds_stops_a_peer() -> None:
    bench = Between()
    founder = next(each for each in bench.founders if each.member.log_id == bench.own.log_id)
    other = Author(founder, bench.charter)
    for _ in range(5):
        other.append(EntryType.EVAL, b"\x80")
    note = other.log.checkpoint(other.key)
    row = VouchRow(bench.end.member.log_id, 0, other.log.root_at(0), ())
    bench.receive(bench.right, header_of(Vouch(bench.charter.federation_id, note, (row,))))
    assert bench.node.witnesses.ahead


def test_a_log_asks_again_only_after_a_while_and_from_where_it_was_cosigned() -> None:
    bench = Between()
    for author in (bench.log, bench.right):
        bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
    bench.turn()
    asked = [each for each in bench.messages(bench.log) if isinstance(each, Vouch)]
    assert [[row.old for row in each.rows] for each in asked] == [[0]]
    assert asked[0].rows[0].witness == bench.end.member.log_id
    founder = next(each for each in bench.founders if each.member == bench.end.member)
    note = cosign_checkpoint(asked[0].note, bench.end.member.log_id, witness_key(founder), time=1)
    assert bench.receive(bench.right, header_of(Vouched(bench.charter.federation_id, note))) == []
    size = open_checkpoint(note, origin_of(bench.own.log_id), bench.own.key.public).size
    bench.turn(bench.settings.vouch_s - 2.0)
    assert bench.passed(bench.log, Vouch) == 1
    bench.turn(3.0)
    asked = [each for each in bench.messages(bench.log) if isinstance(each, Vouch)]
    assert [[row.old for row in each.rows] for each in asked] == [[0], [size]]
    assert bench.node.witnesses.cosigned[bench.end.member.log_id][0] == size


def test_limits_of_the_message_are_exact() -> None:
    fed = bytes(32)
    row = [bytes(32), 0, bytes(32), []]
    tag = "quidnunc/v1/vouch"
    for rows, fits in (([row] * VOUCHES_MAX, True), ([row] * (VOUCHES_MAX + 1), False), ([], False)):
        data = encode([tag, fed, b"note", rows])
        if fits:
            assert isinstance(parse_message(data, fed), Vouch)
        else:
            with pytest.raises(Malformed, match="witnesses asked"):
                parse_message(data, fed)
    for bad in ([bytes(31), 0, bytes(32), []], [bytes(32), -1, bytes(32), []], [bytes(32), True, bytes(32), []], [0]):
        with pytest.raises(Malformed):
            parse_message(encode([tag, fed, b"note", [bad]]), fed)


@pytest.mark.parametrize("seed", [SEED])
def test_spoiled_questions_and_answers_raise_nothing_convict_nobody_and_are_never_cosigned(seed: int) -> None:
    rng = random.Random(f"vouch {seed}")
    bench, between = Far(), Between()
    first = bench.grow(bench.log)
    bench.ask(bench.log, 0)
    newest = bench.grow(bench.log)
    log = bench.log.log
    row = VouchRow(bench.own.log_id, first, log.root_at(first), tuple(log.consistency(first)))
    question = write_message(Vouch(bench.charter.federation_id, log.checkpoint(bench.log.key), (row,)))
    answer = write_message(between.answer())
    corpus = [question, answer]
    for number in range(1500):
        for node, near, data in ((bench, bench.near, question), (between, between.right, answer)):
            node.now += 31.0
            node.receive(near, Frame(mutate(data, corpus, rng), b""))
            assert not node.node.exposure.proofs, number
    sizes = bench.said()
    assert set(sizes) <= {first, newest}, "a checkpoint is what its log signed, whatever stands around it"
    assert bench.disk.heads[bench.log.member.log_id][1] in (log.root_at(first), log.root_at(newest))
    assert bench.ask(bench.log, first) == []
    assert bench.disk.heads[bench.log.member.log_id][0] == newest
