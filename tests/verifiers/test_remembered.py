"""What was found out of paths."""

from __future__ import annotations

from reason.verifiers.remembered import Remembered


def test_the_longest_known_beginning() -> None:
    known: Remembered[str] = Remembered()
    known.put((1, 2), "two")
    known.put((1, 2, 3, 4), "four")
    assert known.longest((1, 2, 3, 4, 5), range(9)) == (4, "four")
    assert known.longest((1, 2, 3, 4, 5), (1, 2, 3)) == (2, "two")
    assert known.longest((1, 2, 3, 4), (4, 2)) == (4, "four")
    assert known.longest((1, 3, 3, 4), range(5)) is None
    known.put((), "nothing")
    assert known.longest((1, 3), range(3)) is None, "an empty path is no beginning"


def test_what_was_used_last_stays() -> None:
    known: Remembered[int] = Remembered(5)
    for number in range(3):
        known.put((number, number), number)
        known.put((number, number), number)
        assert known.get((0, 0)) == 0
    assert known.get((1, 1)) is None
    assert known.get((2, 2)) == 2
    assert len(known) == 4
