"""Uniform numbers that belong to an example: to nothing around it, and unlike those of any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from art_classwise._core.random_numbers import ExampleUniform


def draw(ids, *shape, seed=0, restart=0, call=0):
    """The numbers of the given call, as (n, ...) float64."""
    uniform = ExampleUniform(seed, restart, torch.as_tensor(ids))
    for _ in range(call):
        uniform(len(ids), *shape)
    return uniform(len(ids), *shape).double().numpy()


def assert_uncorrelated(a, b, of=4.5):
    """Correlation within ``of`` standard errors of 0, of the numbers and of their distances from the middle."""
    assert a.size == b.size >= 10_000
    for f in (lambda u: u, lambda u: np.abs(u - 0.5)):
        assert abs(np.corrcoef(f(a).ravel(), f(b).ravel())[0, 1]) < of / a.size**0.5


SOURCES = {
    "examples at one position": lambda: draw(np.arange(20_000), 1),
    "positions of one example": lambda: draw([7], 20_000),
    "examples and positions": lambda: draw(np.arange(100), 2, 10, 10),
    "seeds": lambda: np.concatenate([draw([0], 1, seed=s) for s in range(2000)]),
    "restarts": lambda: np.concatenate([draw([0], 1, restart=r) for r in range(2000)]),
    "ids a power of two apart": lambda: draw(np.arange(20_000) * 2**20, 1),
    "ids above 32 bits": lambda: draw(2**40 + np.arange(20_000), 1),
}


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_are_uniform(name):
    assert stats.kstest(SOURCES[name]().ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("bit", range(1, 11))
def test_every_digit_is_even(bit):
    """Of the numbers' binary digits each is 1 half of the time: what KS, which sees the first ones, misses."""
    digit = np.floor(SOURCES["examples and positions"]() * 2**bit) % 2
    assert abs(digit.mean() - 0.5) < 4.5 * 0.5 / digit.size**0.5


def test_neighbouring_examples_and_positions_are_independent():
    u = draw(np.arange(200), 200)
    assert_uncorrelated(u[:-1], u[1:])
    assert_uncorrelated(u[:, :-1], u[:, 1:])
    assert_uncorrelated(u[:-1, 1:], u[1:, :-1])
    assert_uncorrelated(u, u.T)


def test_examples_differ_in_their_means_as_chance_has_it():
    """A key shared by the numbers of an example must not shift all of them."""
    means = draw(np.arange(2000), 300).mean(1)
    z = (means - 0.5) * (12 * 300) ** 0.5
    assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"seed": 2**32}, {"restart": 1}, {"call": 1}, {"call": 2}, {"seed": 2**63 - 1}],
    ids=str,
)
def test_seeds_restarts_and_calls_are_independent(other):
    ids = np.arange(200)
    assert_uncorrelated(draw(ids, 200), draw(ids, 200, **other))


def test_seed_restart_and_id_do_not_stand_for_each_other():
    """Neither their sum nor their swap: (0, 1), (1, 0) and the next example all differ."""
    settings_ = [(0, 0, 5), (1, 0, 4), (0, 1, 4), (0, 5, 0), (5, 0, 0), (2**32, 0, 5), (0, 0, 5 + 2**32)]
    rows = [draw([i], 10_000, seed=s, restart=r)[0] for s, r, i in settings_]
    for at, one in enumerate(rows):
        for another in rows[at + 1 :]:
            assert_uncorrelated(one, another)


def test_no_two_examples_have_the_same_numbers():
    ids = np.concatenate([np.arange(20_000), 2**32 + np.arange(20_000), 2**62 + np.arange(20_000)])
    assert len(np.unique(draw(ids, 3), axis=0)) == len(ids)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**63 - 1),
    restart=st.integers(0, 1000),
    ids=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6),
    shape=st.lists(st.integers(1, 5), max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_an_example_meets_the_same_numbers_in_any_batch_and_order(seed, restart, ids, shape, order):
    whole, again = (ExampleUniform(seed, restart, torch.tensor(ids)) for _ in range(2))
    rows = list(range(len(ids)))
    order.shuffle(rows)
    rows = rows[: max(1, len(rows) // 2)]
    part = ExampleUniform(seed, restart, torch.tensor(ids)[rows])
    for _ in range(3):
        expected = whole(len(ids), *shape)
        assert expected.dtype == torch.float32
        assert expected.shape == (len(ids), *shape)
        assert expected.min() > 0
        assert expected.max() < 1
        assert torch.equal(again(len(ids), *shape), expected)
        assert torch.equal(part(len(rows), *shape), expected[rows])


def test_numbers_are_strictly_inside_even_the_outermost():
    """Among four million numbers the outermost ones come up: 0 and 1 would have infinite quantiles."""
    u = ExampleUniform(0, 0, torch.arange(40))(40, 100_000)
    assert 0 < u.min() < 2e-6
    assert 1 - 2e-6 < u.max() < 1


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    first, state = draw([3], 5), torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(draw([3], 5), first)
