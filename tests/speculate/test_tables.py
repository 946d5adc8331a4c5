"""Tables on the device say what the host's sources say that learnt the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from reason.speculate.draft import CONTEXT, TOP, Rows, Stream
from reason.speculate.sources.stand import Stand
from reason.speculate.sources.suffix import Suffix
from reason.speculate.sources.tabled import TabledRecycling, TabledStand, tabled
from reason.speculate.sources.token_recycling import TokenRecycling
from reason.speculate.sources.union import Union
from reason.speculate.tables import LEVELS, WIDTH, Ahead, RecyclingTable, StandTable, Table, look_ahead

CPU = torch.device("cpu")
VOCAB = 40


def random_rows(rng: np.random.Generator, count: int, vocab: int = VOCAB) -> Rows:
    contexts = rng.integers(0, vocab, (count, CONTEXT))
    starts = rng.integers(0, CONTEXT, count)  # some paths are young
    contexts[np.arange(CONTEXT) < np.where(rng.random(count) < 0.2, starts, 0)[:, None]] = -1
    tokens = np.stack([rng.permutation(vocab)[:TOP] for _ in range(count)])
    probabilities = np.sort(rng.dirichlet(np.ones(TOP + 5), count)[:, :TOP], axis=1)[:, ::-1].copy()
    probabilities[rng.random(count) < 0.3, 3:] = 0.0  # as greedy or truncated rows have
    return Rows(contexts, tokens, probabilities)


def observe(table: Table, rows: Rows, counted: Sequence[bool] | None = None) -> None:
    contexts, tokens, probabilities = map(torch.from_numpy, (rows.contexts, rows.tokens, rows.probabilities))
    table.observe(contexts, tokens, probabilities, torch.tensor(counted or [True] * len(tokens)))


def said(table: Table, context: tuple[int, ...]) -> dict[int, float]:
    padded = (-1,) * (CONTEXT - len(context)) + context
    tokens, probabilities = table.look_up(torch.tensor([padded]))
    return {t: p for t, p in zip(tokens[0].tolist(), probabilities[0].tolist(), strict=True) if t >= 0}


def expected(source: Stand | TokenRecycling, context: tuple[int, ...]) -> dict[int, float]:
    state = source.state(Stream(list(context), 0, 1.0))
    tokens, probabilities, _ = source.distribution(state)
    return dict(zip(tokens, probabilities, strict=True))


def same(got: dict[int, float], wanted: dict[int, float]) -> bool:
    """Up to float32, and to which of equally likely tokens is the tenth."""
    if len(got) != len(wanted):
        return False
    least = min(wanted.values(), default=0.0)
    return all(
        got[token] == pytest.approx(p, abs=1e-5) if token in got else p == pytest.approx(least, abs=1e-5)
        for token, p in wanted.items()
    )


@pytest.mark.parametrize("vocab", [3, 6, VOCAB])
def test_stand(vocab: int) -> None:
    """Contexts of a small vocabulary come again and again, longer ones seldom: all orders answer. Rows come one by one,
    because a key's third visit in an iteration is none."""
    rng = np.random.default_rng(vocab)
    source, table = Stand(), StandTable(CPU, (4, 3, 2), 1 << 14)
    contexts: list[tuple[int, ...]] = []
    for _ in range(240):
        rows = random_rows(rng, 1, max(vocab, TOP))
        rows.contexts[:] = np.where(rows.contexts >= 0, rows.contexts % vocab, -1)
        source.observe(rows)
        observe(table, rows)
        contexts += [tuple(token for token in row if token >= 0) for row in rows.contexts.tolist()]
    contexts += [tuple(rng.integers(0, vocab, 4).tolist()) for _ in range(50)]
    answers = [(said(table, context), expected(source, context)) for context in contexts if context]
    assert all(same(*answer) for answer in answers)
    assert sum(bool(wanted) for _, wanted in answers) > 100
    table.reset()
    assert not any(said(table, context) for context in contexts if context)


def test_an_iteration_s_first_two_visits_of_a_key_count() -> None:
    table, source = StandTable(CPU, (4, 3, 2), 1 << 10), Stand()
    rows = random_rows(np.random.default_rng(0), 9)
    rows.contexts[:] = (1, 2, 3, 4)
    observe(table, rows)
    source.observe(Rows(rows.contexts[:2], rows.tokens[:2], rows.probabilities[:2]))
    assert same(said(table, (1, 2, 3, 4)), expected(source, (1, 2, 3, 4)))


def test_what_does_not_count_is_not_learnt() -> None:
    rows = random_rows(np.random.default_rng(1), 6)
    rows.contexts[:] = np.arange(24).reshape(6, 4)
    counted = [True, False, True, False, False, True]
    for table in (StandTable(CPU, (4, 3, 2), 1 << 10), RecyclingTable(CPU, VOCAB, TokenRecycling.ranks)):
        observe(table, rows, counted)
        assert [bool(said(table, tuple(row))) for row in rows.contexts.tolist()] == counted


def test_a_full_bucket_gives_its_oldest_key_away() -> None:
    """One bucket of eight keys: the last eight stay, whatever came to those that are there."""
    table = StandTable(CPU, (4,), 8)
    rows = random_rows(np.random.default_rng(2), 1)
    for key in range(12):
        rows.contexts[:] = key
        observe(table, rows)
        observe(table, rows)
    assert [bool(said(table, (key,) * 4)) for key in range(12)] == [False] * 4 + [True] * 8


def test_token_recycling() -> None:
    rng = np.random.default_rng(3)
    source, table = TokenRecycling(), RecyclingTable(CPU, VOCAB, TokenRecycling.ranks)
    for _ in range(5):
        rows = random_rows(rng, 12)
        rows.contexts[:, -1] %= 25
        source.observe(rows)
        observe(table, rows)
    answers = [(said(table, (token,)), expected(source, (token,))) for token in range(VOCAB)]
    assert all(got == pytest.approx(wanted, abs=1e-6) for got, wanted in answers)
    assert 5 < sum(bool(wanted) for _, wanted in answers) <= 25


@pytest.mark.parametrize("kind", ["stand", "token-recycling"])
def test_looking_ahead(kind: str) -> None:
    """Wherever a source comes that walks through the answer, the answer is the table's at that place; and the places of
    a level are the likeliest ones behind those of the level before."""
    rng = np.random.default_rng(4)
    table: Table = StandTable(CPU, (4, 3, 2), 1 << 14)
    if kind == "token-recycling":
        table = RecyclingTable(CPU, 12, TokenRecycling.ranks)
    for _ in range(30):
        rows = random_rows(rng, 8, 12)
        observe(table, rows)
    ends = rng.integers(0, 12, (5, CONTEXT))
    tokens, probabilities, chosen = (part.numpy() for part in look_ahead(table, torch.from_numpy(ends)))
    assert tokens.shape[1] == 1 + (LEVELS - 1) * WIDTH
    reached = 0
    for row, end in enumerate(ends.tolist()):
        ahead = Ahead(tokens[row], probabilities[row], chosen[row])
        places = [(0, tuple(end), 1.0)]
        for _ in range(LEVELS):
            following = []
            candidates: list[float] = []
            for place, context, value in places:
                wanted = said(table, context)
                assert dict(zip(*ahead.said(place), strict=True)) == pytest.approx(wanted)
                for token, p in wanted.items():
                    candidates.append(value * p)
                    if (further := ahead.step(place, token)) is not None:
                        following.append((further, (*context[1:], token), value * p))
                assert ahead.step(place, 99) is None
            reached += len(places)
            if following:
                assert len(following) == min(WIDTH, len(candidates))
                best = sorted(candidates, reverse=True)[: len(following)]
                assert sorted((value for *_, value in following), reverse=True) == pytest.approx(best)
            places = following
    assert reached > 5 * LEVELS


def test_the_sources_that_have_tables() -> None:
    source = Union([Suffix(), Stand(), TokenRecycling()], crowd=3)
    moved = tabled(source, CPU, VOCAB)
    assert isinstance(moved, Union)
    assert [type(each) for each in moved.sources] == [Suffix, TabledStand, TabledRecycling]
    assert moved.name == source.name
    assert moved.crowd == 3
    assert [type(table) for table in moved.tables] == [StandTable, RecyclingTable]
    assert list(moved.asked_tables()) == list(moved.tables)
    moved.prepare([Stream([1], 0, 1.0)] * 4)
    assert moved.asked_tables() == [], "in a crowd the first source alone is asked"
    moved.prepare([Stream([1], 0, 1.0)])
    assert source.reads_rows
    assert not moved.reads_rows
    stream = Stream([1, 2, 3], 0, 1.0)
    assert moved.sources[1].state(stream) is None, "nothing was looked up"
    rows = random_rows(np.random.default_rng(5), 1)
    rows.contexts[:] = (7, 1, 2, 3)
    for table in moved.tables:
        observe(table, rows)
    end = torch.from_numpy(rows.contexts)
    stream.ahead = {t: Ahead(*(part[0].numpy() for part in look_ahead(t, end))) for t in moved.tables}
    likeliest = int(rows.tokens[0, 0])
    for each in moved.sources[1:]:
        assert each.distribution(each.state(stream)).tokens[0] == likeliest
        each.settle(each.state(stream), likeliest)
        each.reset()
    assert not any(said(table, (7, 1, 2, 3)) for table in moved.tables)
