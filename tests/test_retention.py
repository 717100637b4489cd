"""Which blobs may be forgotten, and when."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.gossip.retention import Retention


def test_a_blob_is_forgotten_after_the_rounds_it_is_kept() -> None:
    made = Retention(2)
    made.let_go(b"a")
    assert made.next_round([]) == ()
    assert made.next_round([]) == (b"a",)
    assert made.next_round([]) == (), "once"


def test_what_is_in_use_again_is_kept_until_it_is_let_go_again() -> None:
    made = Retention(1)
    made.let_go(b"a")
    assert made.next_round([b"a"]) == ()
    assert made.next_round([]) == ()
    made.let_go(b"a")
    assert made.next_round([]) == (b"a",)


def test_letting_go_twice_counts_from_the_last_time() -> None:
    made = Retention(2)
    made.let_go(b"a")
    made.next_round([])
    made.let_go(b"a")
    assert made.next_round([]) == ()
    assert made.next_round([]) == (b"a",)


@settings(deadline=None, max_examples=100)
@given(
    keep=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))), max_size=20),
)
def test_nothing_in_use_is_forgotten_and_nothing_else_is_kept(
    keep: int, steps: list[tuple[set[int], set[int]]]
) -> None:
    made = Retention(keep)
    for gone, used in steps:
        for name in gone - used:
            made.let_go(bytes([name]))
        forgotten = made.next_round(bytes([name]) for name in used)
        assert not set(forgotten) & {bytes([name]) for name in used}
    for _ in range(keep):
        made.next_round([])
    assert made._let_go == {}
