"""Radii and steps beside NumPy's own broadcasting, entry by entry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from art_classwise import InputError
from art_classwise.attacks._problem import (
    budget_of_batch as of_batch,
)
from art_classwise.attacks._problem import (
    check_budget,
)
from art_classwise.attacks._problem import (
    check_budget_shape as check_shape,
)
from art_classwise.attacks._problem import (
    largest_budget as largest,
)

SHAPES = [(5, 3, 4, 2), (5, 7), (1, 3, 4, 2), (1, 4), (2, 1, 1, 1), (3, 2, 2)]


def broadcastable(shape):
    """All array shapes that broadcast to a shape, with fewer axes or sides of one."""
    for axes in range(len(shape) + 1):
        for ones in itertools.product([False, True], repeat=axes):
            yield tuple(1 if one else side for one, side in zip(ones, shape[len(shape) - axes :], strict=True))


def numbered(shape):
    return (np.arange(np.prod(shape, dtype=int)) + 1.0).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_every_shape_broadcast_as_numpys(shape):
    n = shape[0]
    y = torch.zeros(n, dtype=torch.int64)
    for budget_shape in set(broadcastable(shape)):
        budget = numbered(budget_shape)
        if budget_shape == (n,) and n > 1:
            continue  # might mean the examples: see below
        check_shape("eps", budget, "Linf", shape, 4)
        whole = np.broadcast_to(budget, shape)
        for rows in (np.arange(n), np.arange(n)[::-1], np.array([n - 1]), np.zeros(3, dtype=int), np.arange(0)):
            part = of_batch("eps", budget, rows, shape, y[torch.from_numpy(rows.copy())])
            assert part.shape[0] == len(rows)
            assert part.dtype == torch.float32
            batch = (len(rows), *shape[1:])
            np.testing.assert_array_equal(np.broadcast_to(part.numpy(), batch), whole[rows])


@pytest.mark.parametrize("shape", SHAPES)
def test_one_number_per_example_goes_with_its_example(shape):
    n = shape[0]
    radii = numbered((n,))
    for budget in (
        radii,
        radii.tolist(),
        tuple(radii),
        torch.from_numpy(radii),
        radii.reshape(n, *[1] * (len(shape) - 1)),
    ):
        for norm in ("Linf", "L2", "L1"):
            check_shape("eps", budget, norm, shape, 4)
        rows = np.array([n - 1, 0, 0])
        part = of_batch("eps", budget, rows, shape, torch.zeros(3, dtype=torch.int64))
        assert part.shape == (3, *[1] * (len(shape) - 1))
        assert part.flatten().tolist() == [n, 1, 1]


def test_a_budget_by_class_goes_with_the_label():
    budget = {0: 0.1, 2: 0.3, np.int64(1): 0.2}
    check_shape("eps", budget, "L2", (4, 3, 2, 2), 3)
    part = of_batch("eps", budget, np.arange(4), (4, 3, 2, 2), torch.tensor([2, 0, 1, 2]))
    assert part.shape == (4, 1, 1, 1)
    assert part.flatten().tolist() == pytest.approx([0.3, 0.1, 0.2, 0.3])
    part = of_batch("eps", {1: 0.2}, np.array([3]), (4, 5), torch.tensor([1]))  # classes that don't occur may be absent
    assert part.tolist() == [[pytest.approx(0.2)]]


def test_a_number_stays_a_number():
    for number in (0.1, np.float32(0.1), np.float64(0.1), 1, np.int64(1)):
        check_budget("eps", number)
        check_shape("eps", number, "L2", (4, 3), 3)
        part = of_batch("eps", number, np.arange(4), (4, 3), torch.zeros(4, dtype=torch.int64))
        assert type(part) is float
        assert part == largest(number) == float(number)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0.3, 0.3),
        (np.array([0.1, 0.4]), 0.4),
        ([0.1, 0.2], 0.2),
        ({0: 0.1, 3: 0.5, 1: 0.2}, 0.5),
        (np.array(0.7), 0.7),
        (torch.tensor([[0.25, 0.5]]), 0.5),
    ],
)
def test_the_largest_number(budget, expected):
    check_budget("eps", budget)
    assert largest(budget) == expected


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (0, "`eps` must be a finite number above 0, an array or a dict, but got 0"),
        (-0.1, "number above 0"),
        (np.nan, "finite"),
        (np.inf, "finite"),
        (True, "but got True"),
        ("8/255", "but got '8/255'"),
        (None, "but got None"),
        (1j, "number above 0"),
        (np.array([]), "`eps` must hold finite numbers"),
        (np.array([0.1, np.nan]), "`eps` must hold finite numbers"),
        (np.array([0.1, np.inf]), "`eps` must hold finite numbers"),
        (np.array(["0.1"]), "`eps` must hold finite numbers"),
        (np.array([True]), "`eps` must hold finite numbers"),
        (np.array([0.1, -0.1]), "`eps` must hold numbers of at least 0"),
        (np.array([0.0, 0.0]), "one of them above it"),
        ({}, "`eps` by class must be a dict of class numbers, but has no key"),
        ({"cat": 0.1}, r"but has \['cat'\] key"),
        ({-1: 0.1}, r"but has \[-1\] key"),
        ({1.5: 0.1}, r"but has \[1.5\] key"),
        ({True: 0.1}, r"but has \[True\] key"),
        ({0: 0.1, 1: np.nan}, "`eps` must hold finite numbers"),
        ({0: 0.1, 1: "x"}, "`eps` must hold finite numbers"),
        ({0: 0.1, 1: None}, "`eps` must hold finite numbers"),
        ({0: -0.1, 1: 0.1}, "`eps` must hold numbers of at least 0"),
        ({0: 0.0}, "one of them above it"),
    ],
)
def test_what_is_no_budget_is_named(budget, says):
    with pytest.raises(InputError, match=says):
        check_budget("eps", budget)


def test_zero_is_a_budget_for_some():
    check_budget("eps", np.array([0.0, 0.1]))
    check_budget("eps", {0: 0.0, 1: 0.1})


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 3, 4, 2), (5, 3, 4), (2, 2), (10, 1, 1, 1), (5, 1)])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_an_array_that_doesnt_broadcast_is_named(norm, shape):
    with pytest.raises(InputError) as caught:
        check_shape("eps_step", np.full(shape, 0.1), norm, (5, 3, 4, 2), 4)
    assert f"`eps_step` of shape {shape} doesn't broadcast to x of shape (5, 3, 4, 2)" in str(caught.value)
    assert "(5, 1, 1, 1)" in str(caught.value)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_one_ball_has_one_radius(norm):
    x = (5, 3, 4, 2)
    for shape in broadcastable(x):
        budget = np.full(shape, 0.1)
        if np.prod(shape[-3:], dtype=int) > 1 and shape != (5,):
            with pytest.raises(InputError, match=f"An {norm} ball has one radius, so `eps` must have one number per"):
                check_shape("eps", budget, norm, x, 4)
        else:
            check_shape("eps", budget, norm, x, 4)


def test_an_array_with_two_meanings_is_refused():
    for x in ((5, 3, 4, 5), (5, 5)):
        with pytest.raises(InputError, match=r"`eps` of shape \(5,\) may mean the examples or the last axis") as caught:
            check_shape("eps", np.full(5, 0.1), "Linf", x, 4)
        for shape in ((5, *[1] * (len(x) - 1)), (*[1] * (len(x) - 1), 5)):  # the two ways out that it names
            assert str(shape) in str(caught.value)
            check_shape("eps", np.full(shape, 0.1), "Linf", x, 4)
    check_shape("eps", np.full(1, 0.1), "Linf", (1, 1), 4)


def test_classes_that_there_arent_and_that_are_missing_are_named():
    with pytest.raises(InputError, match="`eps` names class 3, but the classes are 0 to 2"):
        check_shape("eps", {0: 0.1, 3: 0.1}, "Linf", (4, 2), 3)
    with pytest.raises(InputError, match="`eps` has no number for class 2: give one for each class"):
        of_batch("eps", {0: 0.1, 1: 0.1}, np.arange(2), (2, 2), torch.tensor([0, 2]))
    with pytest.raises(InputError, match="`eps` has no number for class 0"):
        of_batch("eps", {1: 0.1}, np.arange(2), (2, 2), torch.tensor([0, 1]))
