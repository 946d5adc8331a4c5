"""Equivalence of answers: what is the same, what is not, and that no expression can stall or break the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reason.errors import ReasonError
from reason.tasks import equivalence
from reason.tasks.answers import clean_answer
from reason.tasks.equivalence import Comparer, equivalent, group
from reason.tasks.normal_form import exact_key, normal_form, number

SAME = [
    ("18", "18.0"),
    ("$18", "18.00"),
    ("18 dollars", r"18 \text{ dollars}"),
    ("1,000", "1000"),
    (r"\$32,\!348", "32348"),
    ("90{,}900{,}909", "90900909"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("\u22125", "-5"),
    ("1/2", r"\frac{1}{2}"),
    ("0.5", r"\dfrac12"),
    (r"-\frac{1}{2}", r"\frac{1}{-2}"),
    ("3 1/2", "3.5"),
    (r"2\frac{1}{2}", r"\frac52"),
    (r"0.\overline{3}", r"\frac13"),
    ("1e5", "100000"),
    (r"1.5\times 10^{3}", "1500"),
    (r"50\%", "50"),
    (r"45^\circ", "45"),
    (r"\frac{270}7\text{ degrees}", "270/7"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ("sqrt(2)", r"\sqrt2"),
    ("pi/2", r"\frac\pi2"),
    ("\u03c0/2", r"\frac{\pi}{2}"),
    (r"\frac{3}{4}\pi\text{ inches}", r"3\pi/4"),
    ("2^{10}", "1024"),
    ("10!", "3628800"),
    (r"\binom{5}{2}", "10"),
    (r"\log_2 8", "3"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x^3 - 3x", "x**3-3*x"),
    ("p-q", "-q+p"),
    ("6+9i", "9i+6"),
    (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"\{1,2\}", r"\left\{ 2, 1 \right\}"),
    ("1,2", "2, 1"),
    ("1 and 2", "2,1"),
    (r"5 \text{ or } 6", "6, 5"),
    (r"\pm 2", "2,-2"),
    (r"[0,1)\cup(2,3)", r"(2,3)\cup[0,1)"),
    (r"(-\infty,3]", r"x\le 3"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 8/2 \end{pmatrix}"),
    ("x=5", "5"),
    ("y=2x+3", "2x+3"),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0"),
    (r"\text{east}", "East"),
    (r"\text{(A)}", "A"),
    (r"\emptyset", r"\varnothing"),
    ("oo", r"\infty"),
]

DIFFERENT = [
    ("18", "81"),
    ("0.5", r"50\%"),
    ("1/3", "0.33"),
    ("3.14", r"\pi"),
    ("5 million", "5"),
    ("1,234", "1,2,3,4"),
    ("x=5", "y=5"),
    ("2x", "2y"),
    ("(1,2)", "(2,1)"),
    ("[1,2]", "(1,2)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ("east", "seat"),
    ("even", "odd"),
    ("no solution", "5"),
    (r"9\text{ a.m.}", r"9\text{ p.m.}"),
    ("3 am", "3 pm"),
    (r"3:30 \text{ a.m.}", "3:30 PM"),
    ("70110", "70, 110"),
    ("1234", "1, 234"),
    ("A", "B"),
    (r"\frac{1}{0}", "1"),
    ("{", "}"),
]

# Each of these keeps sympy busy for hours, or eats memory, if it is let.
HANGS = ["9^{9^{9^{9}}}", "100000000!", "(10^{10})!!", r"\sum_{n=1}^{10^{9}} n^{n}"]


@pytest.fixture
def comparer() -> Iterator[Comparer]:
    comparer = Comparer(limit_seconds=1.0)
    comparer.equivalent("x+y", "y+x")  # start-up is not what is measured
    yield comparer
    comparer.close()


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(a: str, b: str) -> None:
    assert not equivalent(a, b)
    assert not equivalent(b, a)


def test_a_list_of_numbers_of_three_digits_is_a_list() -> None:
    assert equivalent("100, 200", "200, 100")
    assert equivalent("70,110", "70, 110")  # a number or a list: who wrote it knows
    assert not equivalent("100, 200", "200100")
    assert clean_answer("100, 200") == "100, 200"
    assert [clean_answer(one) for one in ("1,234,567", r"1,\! 234", r"1{,}234")] == ["1234567", "1234", "1234"]


numbers = st.fractions(max_denominator=1000)


def _spellings(value: Fraction) -> list[str]:
    top, bottom = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    spellings = [f"{value}", rf"{sign}\frac{{{top}}}{{{bottom}}}", rf"${sign}\dfrac{{{2 * top}}}{{{2 * bottom}}}$"]
    if value.denominator == 1:
        spellings += [f"{sign}{top:,}", f"{sign}{top}.0", rf"{sign}{top}\text{{ cm}}"]
    else:
        spellings += [rf"{sign}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}"]
    return spellings


@given(numbers, numbers)
def test_numbers_are_the_same_exactly_if_their_values_are(a: Fraction, b: Fraction) -> None:
    for one in _spellings(a):
        assert number(normal_form(one)) == a
        for other in _spellings(b):
            assert equivalent(one, other) == equivalent(other, one) == (a == b)


@given(st.text(max_size=50))
def test_reflexive_and_normal_forms_are_stable(text: str) -> None:
    assert equivalent(text, text)
    form = normal_form(text)
    assert exact_key(form) == exact_key(form)


expressions = st.recursive(
    st.sampled_from(["x", "y", "2", "3", r"\pi", r"\sqrt{2}"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}+{pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} {pair[1]}"),
    ),
    max_leaves=4,
)


@settings(max_examples=25)
@given(expressions, expressions)
def test_symmetric(a: str, b: str) -> None:
    # A comparer each way, so that the answer is worked out twice and not remembered.
    assert _first.equivalent(a, b) == _second.equivalent(b, a)


_first, _second = Comparer(), Comparer()


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    yield
    _first.close()
    _second.close()


@pytest.mark.parametrize("expression", HANGS)
def test_a_hang_ends_at_the_limit_and_the_next_call_works(comparer: Comparer, expression: str) -> None:
    start = time.monotonic()
    assert not comparer.equivalent(expression, "5")
    assert time.monotonic() - start < 3.0  # the limit is one second; the rest is a loaded machine
    assert comparer.equivalent(r"2\sqrt{3}", r"\sqrt{12}")
    assert comparer.counts.hung + comparer.counts.crashed <= 1


def test_a_hostile_answer_stalls_a_group_once_not_for_every_class(comparer: Comparer) -> None:
    answers = ["9^{9^{9^{9}}}", *(f"x+{i}" for i in range(8)), "5", "6", "7"]
    start = time.monotonic()
    assert comparer.group(answers) == [[i] for i in range(len(answers))]
    assert comparer.counts.hung == 2  # once in a pair, once to find out which of the pair it was
    assert time.monotonic() - start < 10.0


def test_memory_is_limited() -> None:
    if sys.platform != "linux":
        pytest.skip("address space limits work on Linux only")
    with_little = Comparer(limit_seconds=20.0, memory_mb=400)
    try:
        assert not with_little.equivalent("2^{2^{40}}", "x")  # half a million megabytes, were it let
        assert with_little.equivalent("(x+1)^2", "x^2+2x+1")
        assert with_little.counts.hung == 0
    finally:
        with_little.close()


def test_a_killed_worker_is_replaced(comparer: Comparer) -> None:
    before = comparer.worker_pid
    assert before is not None
    os.kill(before, signal.SIGTERM)
    comparer.equivalent("a+b", "b+a")  # may meet the dead worker: then it counts as a crash, and as different
    assert comparer.equivalent("b+c", "c+b")
    assert comparer.worker_pid not in (None, before)


def test_closing_ends_the_worker_and_comparing_starts_another(comparer: Comparer) -> None:
    before = comparer.worker_pid
    comparer.close()
    comparer.close()
    assert comparer.worker_pid is None
    assert comparer.equivalent("c+d", "d+c")
    assert comparer.worker_pid != before


def test_the_worker_does_not_outlive_its_process() -> None:
    code = (
        "from reason.tasks.equivalence import _shared, equivalent\n"
        "assert equivalent('x+1', '1+x')\n"
        "print(_shared.worker_pid)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(run.stdout), 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_worker_of_its_own() -> None:
    code = (
        "import os\n"
        "from reason.tasks import equivalence\n"
        "assert equivalence.equivalent('x+1', '1+x')\n"
        "mine = equivalence._shared.worker_pid\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert equivalence.equivalent('y+1', '1+y')\n"
        "    os._exit(equivalence._shared.worker_pid == mine)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert equivalence.equivalent('z+1', '1+z') and equivalence._shared.worker_pid == mine\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_threads_share_one_worker(comparer: Comparer) -> None:
    pairs = [(f"x+{i % 7}", f"{i % 7}+x") for i in range(60)] + [(f"x+{i % 7}", f"x-{i % 7}-1") for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda pair: comparer.equivalent(*pair), pairs))
    assert verdicts == [True] * 60 + [False] * 60
    assert comparer.counts.asked <= 1 + 14
    assert comparer.counts.quick + comparer.counts.cached + comparer.counts.asked == len(pairs) + 1


def test_works_from_a_thread_of_a_process_with_an_event_loop() -> None:
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(equivalent(r"\sqrt{8}", r"2\sqrt{2}")))
    thread.start()
    thread.join(timeout=60)
    assert results == [True]


def test_a_worker_that_cannot_start_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reason.tasks.math_process._environment", lambda: {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ReasonError, match="could not start"):
        Comparer().equivalent("x+1", "1+x")


def test_remembers_and_forgets() -> None:
    small = Comparer(cache_size=1)
    try:
        for a, b in [("x+1", "1+x"), ("1+x", "x+1"), ("x+2", "2+x"), ("x+1", "1+x")]:
            assert small.equivalent(a, b)
        assert (small.counts.asked, small.counts.cached) == (3, 1)
    finally:
        small.close()


def test_groups_in_order_of_first_appearance() -> None:
    answers = ["1/2", "x+1", "0.5", r"\frac{2}{4}", "1+x", "yes", "7", "Yes"]
    assert group(answers) == [[0, 2, 3], [1, 4], [5, 7], [6]]
    assert group([]) == []


def test_groups_by_another_comparison() -> None:
    assert group(["a1", "b1", "a2", "b1"], same=lambda a, b: a[0] == b[0]) == [[0, 2], [1, 3]]


def test_plain_numbers_and_words_need_no_worker() -> None:
    quick = Comparer()
    assert quick.group(["1", "2", "1.0", "east", "West", "7/2", r"3\frac{1}{2}"]) == [[0, 2], [1], [3], [4], [5, 6]]
    assert quick.worker_pid is None
    assert quick.counts.asked == 0


def test_the_counts_of_the_process_grow() -> None:
    before = equivalence.counts().quick
    equivalent("1", "2")
    assert equivalence.counts().quick == before + 1
