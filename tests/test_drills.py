"""What a daemon can be told to act out: attackers that know their neighborhood, and deltas that are no deltas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from quidnunc.crypto.errors import ConfigError, Reason, RemoteProtocolError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning import codec, collusion
from quidnunc.gossip.learning.attack import ATTACKS, DATA_ATTACKS, EXAMPLE_ATTACKS, TIMED_ATTACKS
from quidnunc.gossip.learning.builtin import DEFAULTS, digits
from quidnunc.gossip.learning.codec import FLOAT32, INT8
from quidnunc.gossip.learning.drills import DRILLS, ELSEWHERE, check_drill, examples_of
from quidnunc.gossip.learning.insider import DEVIATIONS, INSIDER_ATTACKS, REPLAY_AGE, Insider
from quidnunc.gossip.learning.malformed import MALFORMED
from quidnunc.gossip.reputation import StandingClass
from quidnunc.gossip.rules.registry import apply
from quidnunc.gossip.status import peers
from quidnunc.sim.batched.attackers import known_attacks
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.trials import PACE
from quidnunc.sim.world import World

GENERATOR = np.random.Generator(np.random.PCG64(3))
SEEN = (2 + GENERATOR.normal(size=(4, 30))).astype(np.float32)
BASE = (2 + GENERATOR.normal(size=30)).astype(np.float32)
TRAINED = BASE + np.float32(0.1)


def stream() -> NoiseStream:
    return NoiseStream(bytes(32), b"drill")


def message(name: str, rule: str = "repute", options: dict[str, float] | None = None) -> np.ndarray:
    insider = Insider(name, rule, options or {})
    insider.see(list(SEEN))
    return insider.attack(TRAINED, BASE, stream())


def test_names_are_checked() -> None:
    for name in ("", *DRILLS):
        check_drill(name)
    with pytest.raises(ConfigError, match="attack sing_flip is unknown") as caught:
        check_drill("sing_flip")
    assert caught.value.hint == "did you mean sign_flip?"
    with pytest.raises(ConfigError, match="attack xyzzy is unknown") as caught:
        check_drill("xyzzy")
    assert all(name in caught.value.hint for name in DRILLS)
    with pytest.raises(ConfigError, match=f"attack {'x' * 64} is unknown"):
        check_drill("x" * 10_000)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_attack_that_no_daemon_acts_out_says_where_to_find_it(name: str) -> None:
    with pytest.raises(ConfigError, match=f"attack {name} is not for a daemon") as caught:
        check_drill(name)
    assert caught.value.hint == ELSEWHERE[name]


def test_the_guide_names_every_drill() -> None:
    text = (Path(__file__).parents[1] / "docs" / "robustness.md").read_text("utf-8")
    section = text[text.index("\n## Attacks") : text.index("\n## Measured")]
    assert [name for name in DRILLS if f"`{name}`" not in section] == []


def test_every_attack_of_the_simulator_is_a_drill_or_is_said_to_be_none() -> None:
    assert set(known_attacks()) <= {*DRILLS, *ELSEWHERE}
    assert len(set(DRILLS)) == len(DRILLS)
    assert {*ATTACKS, *TIMED_ATTACKS, *DATA_ATTACKS, *EXAMPLE_ATTACKS} <= set(DRILLS)


@pytest.mark.parametrize("name", INSIDER_ATTACKS)
def test_an_insider_repeats_and_can_be_published(name: str) -> None:
    found = message(name)
    assert (found.dtype, found.shape) == (np.float32, BASE.shape)
    assert np.isfinite(found).all()
    assert found.tobytes() == message(name).tobytes()


@pytest.mark.parametrize("name", [name for name, least in INSIDER_ATTACKS.items() if least])
def test_an_insider_that_has_seen_too_little_acts_honestly(name: str) -> None:
    insider = Insider(name, "repute", {})
    insider.see(list(SEEN[: INSIDER_ATTACKS[name] - 1]))
    assert (insider.attack(TRAINED, BASE, stream()) == TRAINED).all()
    insider.see([])
    assert (insider.attack(TRAINED, BASE, stream()) == TRAINED).all()
    insider.see(list(SEEN[: INSIDER_ATTACKS[name]]))
    assert (insider.attack(TRAINED, BASE, stream()) != TRAINED).any()


def test_what_insiders_say_is_made_of_what_they_saw() -> None:
    np.testing.assert_allclose(message("ipm"), -0.1 * SEEN.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(message("alie"), SEEN.mean(axis=0) - DEVIATIONS * SEEN.std(axis=0), rtol=1e-4)
    assert (message("mimic") == SEEN[0]).all()
    step = message("slow") - SEEN.mean(axis=0)
    usual = np.median(np.linalg.norm(SEEN - SEEN.mean(axis=0), axis=1))
    assert np.linalg.norm(step) == pytest.approx(usual, rel=1e-4)
    assert step @ (TRAINED - SEEN.mean(axis=0)) > 0


def test_dissensus_drives_its_victim_away_from_the_others() -> None:
    victim, others = SEEN[0], SEEN[1:]
    rows = np.stack([victim, *others, message("dissensus")])
    merged = apply("mean", rows, np.full(5, 0.2), {})
    honest = others.mean(axis=0) - victim
    assert (merged - victim) @ honest < 0


@pytest.mark.parametrize(("rule", "options"), [("krum", {"bad": 1}), ("trimmed_mean", {"bad": 1}), ("repute", {})])
def test_optimized_insiders_harm_the_charters_rule_at_least_as_much_as_a_fixed_factor(
    rule: str, options: dict[str, float]
) -> None:
    insider = Insider("optimized_alie", rule, options)
    insider.see(list(SEEN))

    def harm(sent: np.ndarray) -> float:
        return float(np.linalg.norm(insider._answer(sent) - SEEN.mean(axis=0)))

    best = harm(insider.attack(TRAINED, BASE, stream()))
    assert all(best >= harm(collusion.little_is_enough(SEEN, z)) - 1e-6 for z in (2.5, 5.0, 7.5, 10.0))


def test_replayed_states_are_some_rounds_old() -> None:
    insider = Insider("replay", "repute", {})
    sent = [insider.attack(np.full(2, at, np.float32), BASE, stream())[0] for at in range(REPLAY_AGE + 4)]
    assert sent == [0.0] * (REPLAY_AGE + 1) + [1.0, 2.0, 3.0]


def test_slow_poison_leads_to_flipped_labels() -> None:
    train = torch.zeros(3, 2), torch.tensor([0, 1, 9])
    assert examples_of("slow", train)[1].tolist() == [9, 8, 0]
    assert examples_of("alie", train) == train


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("non_finite", FLOAT32, Reason.NON_FINITE),
        ("non_finite", INT8, Reason.BAD_CODEC),
        *((name, code, Reason.BAD_SHAPE) for name in ("wrong_shape", "wrong_dtype") for code in (FLOAT32, INT8)),
    ],
)
def test_a_malformed_delta_is_refused_for_what_is_wrong_with_it(name: str, code: int, reason: Reason) -> None:
    delta = codec.encode(code, BASE, np.full(30, 0.5))
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(code, MALFORMED[name](delta, code), 30)
    assert caught.value.reason is reason


def learned(attack: str, rounds: int) -> World:
    world = build(
        Scenario(digits, DEFAULTS["digits"].plain, 4, rounds=rounds, attackers={3: attack}, settings=PACE),
    )
    for peer in world.peers:
        world.start(peer.index)
    world.run(
        4 * rounds, stop=lambda: all(peer.node is not None and peer.node.rounds.finished for peer in world.peers[:3])
    )
    return world


@pytest.mark.parametrize("attack", ["non_finite", "wrong_shape", "ipm"])
def test_a_member_that_acts_it_out_is_excluded_and_the_others_learn(attack: str) -> None:
    world = learned(attack, 8)
    attacker = world.peers[3].log_id.hex()
    for peer in world.peers[:3]:
        assert peer.node is not None
        assert peer.node.rounds.finished
        (row,) = (each for each in peers(peer.node, world.now) if each["log_id"] == attacker)
        assert (row["standing"], row["last_weight"]) == (StandingClass.EXCLUDED, 0.0)
        assert (attack == "ipm") == (row["refused"] == 0)
