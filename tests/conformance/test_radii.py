"""Radii and steps of every shape ART takes, and by example and class: each example stays in its own."""

from __future__ import annotations

import numpy as np
import pytest

from art_classwise import InputError

SHAPES = {
    "x.shape": (16, 3, 6, 6),
    "x.shape[1:]": (3, 6, 6),
    "x.shape[2:]": (6, 6),
    "x.shape[3:]": (6,),
    "one": (1,),
    "none": (),
    "ones": (1, 1, 1, 1),
    "per channel": (3, 1, 1),
    "per row of pixels": (1, 6, 1),
    "per example": (16, 1, 1, 1),
    "per example, flat": (16,),
}
ONE_PER_EXAMPLE = ("one", "none", "ones", "per example", "per example, flat")


def array(shape, low=0.01, high=0.1):
    return np.random.default_rng(8).uniform(low, high, shape)


def spread(eps):
    """Over the examples' shape."""
    eps = np.asarray(eps)
    return np.broadcast_to(eps.reshape(16, 1, 1, 1) if eps.shape == (16,) else eps, (16, 3, 6, 6))


@pytest.mark.parametrize("shape", SHAPES)
def test_linf_arrays_bound_each_pixel(shape, linf_way, classifier, images, own):
    eps = array(SHAPES[shape])
    delta = linf_way(classifier, eps=eps).generate(images, own) - images
    assert (np.abs(delta) <= spread(eps) + 1e-6).all()
    assert (np.abs(delta) > 0.95 * spread(eps)).mean() > 0.05  # the radii are reached, the large ones too
    assert np.abs(delta).max() > 0.9 * eps.max()


@pytest.mark.parametrize("shape", ONE_PER_EXAMPLE)
def test_one_radius_per_example_bounds_its_norm(shape, each_search, classifier, images, own):
    eps = array(SHAPES[shape], 0.1 * each_search.eps, each_search.eps)
    size = each_search.size(each_search(classifier, eps=eps).generate(images, own) - images)
    radii = spread(eps)[:, 0, 0, 0]
    assert (size <= radii * (1 + 1e-5)).all()
    assert (size > 0.9 * radii).mean() >= 0.25
    if eps.size > 1:
        assert np.argmax(size) == np.argmax(np.where(size > 0.9 * radii, radii, 0))


def test_radii_by_class_refer_to_the_true_label(search, classifier, images, own):
    by_class = {k: search.eps * (k + 1) / 4 for k in range(4)}
    attack = search(classifier, eps=by_class)
    x_adv = attack.generate(images, own)
    radii = np.array([by_class[k] for k in own])
    size = search.size(x_adv - images)
    assert (size <= radii * (1 + 1e-5)).all()
    assert (size > 0.9 * radii).any()
    assert np.array_equal(search(classifier, eps=radii).generate(images, own), x_adv)
    assert np.array_equal(attack.generate(images), x_adv)  # without labels, what the model takes x for
    shifted = (own + 1) % 4
    if search.name not in ("PGD-early", "ClassWiseAttack"):  # these return what is wrong from the start
        size = search.size(attack.generate(images, shifted) - images)
        assert (size <= np.array([by_class[k] for k in shifted]) * (1 + 1e-5)).all()


def test_a_scalar_of_any_kind_is_the_same_radius(each_search, classifier, images, own):
    expected = each_search(classifier, eps=each_search.eps).generate(images, own)
    for eps in (
        np.full(16, each_search.eps),
        np.full((1, 1, 1, 1), each_search.eps),
        [each_search.eps],
        dict.fromkeys(range(4), each_search.eps),
    ):
        np.testing.assert_allclose(each_search(classifier, eps=eps).generate(images, own), expected, atol=1e-5)
    assert np.array_equal(each_search(classifier, eps=np.float64(each_search.eps)).generate(images, own), expected)


def test_radii_follow_their_examples_through_batches_and_restarts(search, classifier, images, own):
    eps = array((16,), 0.1 * search.eps, search.eps)
    options = {"num_random_init": 2, "batch_size": 16}
    whole = search(classifier, eps=eps, **options).generate(images, own)
    assert (search.size(whole - images) <= eps * (1 + 1e-5)).all()
    parts = [
        search(classifier, eps=eps[rows], **options).generate(images[rows], own[rows], example_ids=rows)
        for rows in np.split(np.arange(16), 4)
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    small = search(classifier, eps=eps, num_random_init=2, batch_size=5).generate(images, own)
    assert (search.size(small - images) <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize("shape", ["x.shape", "x.shape[2:]", "per channel", "per example, flat"])
def test_steps_may_be_arrays_too(shape, linf_from_x, classifier, images, own):
    """One step from x itself goes as far as the step says."""
    step = array(SHAPES[shape])
    attack = linf_from_x(classifier, eps=0.2, eps_step=step, max_iter=1, num_random_init=0)
    moved = np.abs(attack.generate(images, own) - images)
    assert (moved <= spread(step) + 1e-6).all()
    assert (moved > 0.95 * spread(step)).mean() > 0.5


def test_a_radius_of_zero_holds_an_example(from_x, classifier, images, own):
    eps = np.full(16, from_x.eps)
    eps[[0, 5]] = 0
    x_adv = from_x(classifier, eps=eps).generate(images, own)
    assert np.array_equal(x_adv[[0, 5]], images[[0, 5]])
    assert not np.array_equal(x_adv, images)


def test_only_linf_has_radii_that_differ_within_an_example(ball_search, classifier, images, own):
    for shape in ("x.shape", "x.shape[1:]", "x.shape[2:]", "x.shape[3:]", "per channel"):
        with pytest.raises(InputError, match="`eps` must have one number per example"):
            ball_search(classifier, eps=array(SHAPES[shape])).generate(images, own)


def test_radii_that_dont_fit_are_named(linf_search, classifier, images, own):
    for eps, says in (
        (np.full(7, 0.1), r"`eps` of shape \(7,\) doesn't broadcast to x of shape \(16, 3, 6, 6\)"),
        (np.full((16, 3), 0.1), r"`eps` of shape \(16, 3\) doesn't broadcast"),
        (np.full((2, 16, 3, 6, 6), 0.1), "doesn't broadcast"),
        ({0: 0.1, 1: 0.1}, "`eps` has no number for class"),
        (dict.fromkeys(range(5), 0.1), "`eps` names class 4, but the classes are 0 to 3"),
    ):
        with pytest.raises(InputError, match=says):
            linf_search(classifier, eps=eps).generate(images, own)
    with pytest.raises(InputError, match="`eps_step` of shape"):
        linf_search(classifier, eps_step=np.full(7, 0.1)).generate(images, own)
    ambiguous = np.full(6, 0.1)
    with pytest.raises(InputError, match="may mean the examples or the last axis"):
        linf_search(classifier, eps=ambiguous).generate(images[:6], own[:6])


def test_a_targeted_attack_takes_no_radii_by_class(targeted_search, classifier):
    for parameter in ("eps", "eps_step"):
        with pytest.raises(InputError, match="a targeted attack isn't given"):
            targeted_search(classifier, targeted=True, **{parameter: {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.1}})


def test_targeted_attacks_take_radii_by_example(targeted_search, classifier, images, own):
    eps = array((16,), targeted_search.eps, 4 * targeted_search.eps)
    x_adv = targeted_search(classifier, targeted=True, eps=eps).generate(images, (own + 1) % 4)
    size = targeted_search.size(x_adv - images)
    assert (size <= eps * (1 + 1e-5)).all()
    assert (size > targeted_search.eps).any()


def test_autoattack_has_one_radius(classifier):
    from art_classwise.attacks import AutoAttack

    for eps in (np.full(16, 0.1), np.full((16, 1, 1, 1), 0.1), {0: 0.1}):
        with pytest.raises(InputError, match="radius must be a finite number"):
            AutoAttack(classifier, eps=eps)
