"""The L1 ball: its projection beside exact ones, its random start, its steps and what the search makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize
from torch import nn

from art_classwise import PGD, ThreatModel, as_classifier, losses
from art_classwise._core.random_numbers import ExampleUniform
from art_classwise.attacks.search import search

LOW, HIGH = torch.tensor(0.0), torch.tensor(1.0)
UNBOUNDED = torch.tensor(-torch.inf), torch.tensor(torch.inf)


def exact_projection(point, x, low, high, eps):
    """One point, in float64: the threshold among the kinks of the norm, where it is linear in between.

    sum_i min(cap_i, max(|d_i| - t, 0)) falls with t and has its kinks at |d_i| and |d_i| - cap_i.
    """
    delta = point - x
    size, cap = np.abs(delta), np.where(delta >= 0, high - x, x - low)

    def shrunk(t):
        return np.minimum(cap, np.maximum(size - t, 0))

    if shrunk(0.0).sum() <= eps:
        return x + np.sign(delta) * shrunk(0.0)
    kinks = np.unique(np.concatenate([[0.0], size, np.maximum(size - cap, 0)]))
    norms = np.array([shrunk(t).sum() for t in kinks])
    after = int((norms <= eps).argmax())  # norms[after - 1] > eps >= norms[after]
    share = (norms[after - 1] - eps) / (norms[after - 1] - norms[after])
    return x + np.sign(delta) * shrunk(kinks[after - 1] + share * (kinks[after] - kinks[after - 1]))


def project(points, x, low, high, eps):
    eps = torch.as_tensor(eps, dtype=torch.float32).view(-1, 1)
    return ThreatModel("L1", 1.0).project(points, x, low, high, eps)


@settings(deadline=None, max_examples=150)
@given(
    n_features=st.integers(1, 30),
    eps=st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 20)), min_size=4, max_size=4),
    scale=st.sampled_from([0.01, 0.3, 3.0]),
    at_the_edge=st.booleans(),
    bounded=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_projection_is_the_exact_one_for_radii_of_each_example(n_features, eps, scale, at_the_edge, bounded, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, n_features, generator=generator)
    if at_the_edge:
        x = x.round()
    points = x + scale * torch.randn(x.shape, generator=generator)
    low, high = (LOW, HIGH) if bounded else UNBOUNDED
    got = project(points, x, low, high, eps)
    expected = np.stack(
        [
            exact_projection(p.double().numpy(), c.double().numpy(), low.item(), high.item(), r)
            for p, c, r in zip(points, x, eps, strict=True)
        ]
    )
    np.testing.assert_allclose(got.numpy(), expected, atol=3e-6)
    assert ((got >= low) & (got <= high)).all()
    assert ((got - x).abs().sum(1) <= torch.tensor(eps) * (1 + 1e-5) + 1e-5).all()
    assert torch.equal(got[torch.tensor(eps) == 0], x[torch.tensor(eps) == 0])
    np.testing.assert_allclose(project(got, x, low, high, eps).numpy(), got.numpy(), atol=3e-6)


@pytest.mark.parametrize("seed", range(6))
def test_projection_solves_the_quadratic_programme(seed):
    """min ||z - p||^2 over the box and ||z - x||_1 <= eps, by SLSQP with z - x = plus - minus."""
    rng = np.random.default_rng(seed)
    n, eps = 4, rng.uniform(0.2, 1.5)
    x = rng.random(n)
    point = x + rng.normal(0, 1, n)
    solved = minimize(
        lambda v: ((x + v[:n] - v[n:] - point) ** 2).sum(),
        np.zeros(2 * n),
        jac=lambda v: 2 * np.concatenate([x + v[:n] - v[n:] - point, point - x - v[:n] + v[n:]]),
        bounds=[(0, 1 - c) for c in x] + [(0, c) for c in x],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(2 * n)},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    assert solved.success
    as_tensors = (torch.from_numpy(a.astype(np.float32))[None] for a in (point, x))
    got = project(*as_tensors, LOW, HIGH, eps)[0].double().numpy()
    np.testing.assert_allclose(got, x + solved.x[:n] - solved.x[n:], atol=1e-4)
    np.testing.assert_allclose(exact_projection(point, x, 0.0, 1.0, eps), got, atol=1e-5)


def test_projection_takes_images_and_the_radius_of_the_threat_model():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 4, 5, generator=generator)
    far = x + torch.randn(x.shape, generator=generator)
    got = ThreatModel("L1", 2.5).project(far, x, LOW, HIGH)
    assert got.shape == x.shape
    flat = project(far.flatten(1), x.flatten(1), LOW, HIGH, [2.5] * 3)
    assert torch.equal(got.flatten(1), flat)
    np.testing.assert_allclose(ThreatModel("L1", 1.0).size(got - x), [2.5] * 3, rtol=1e-5)


@pytest.mark.parametrize("d", [1, 3, 30])
def test_random_start_is_uniform_in_the_ball(d):
    """P(radius <= r eps) = r^d; given the radius, the shares |delta_i| / radius are Dirichlet(1, ..., 1)."""
    threat, n = ThreatModel("L1", 2.0), 20_000
    uniform = ExampleUniform(0, 0, torch.arange(n))
    delta = (threat.random_start(torch.full((n, d), 0.5), uniform) - 0.5).double().numpy()
    radius = np.abs(delta).sum(1)
    assert stats.kstest((radius / 2) ** d, "uniform").pvalue > 1e-3
    for i in (0, d - 1):  # symmetric: each sign of each coordinate as likely, whatever its size
        assert abs((delta[:, i] > 0).mean() - 0.5) < 0.015
        if d > 1:
            assert stats.kstest(np.abs(delta[:, i]) / radius, stats.beta(1, d - 1).cdf).pvalue > 1e-3
    if d > 1:
        assert abs(np.corrcoef(radius, np.abs(delta[:, 0]) / radius)[0, 1]) < 4.5 / n**0.5
        assert abs(np.corrcoef(np.sign(delta[:, 0]), np.sign(delta[:, 1]))[0, 1]) < 4.5 / n**0.5


def test_random_start_takes_the_radius_of_each_example():
    x, eps = torch.full((5000, 3), 0.5), torch.linspace(0, 4, 5000)
    uniform = ExampleUniform(0, 0, torch.arange(5000))
    radius = (ThreatModel("L1", 1.0).random_start(x, uniform, eps.view(-1, 1)) - x).abs().sum(1)
    assert (radius <= eps * (1 + 1e-5) + 1e-6).all()
    assert stats.kstest((radius[1:] / eps[1:]).numpy() ** 3, "uniform").pvalue > 1e-3


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 10**6),
)
def test_steepest_has_unit_norm_and_steps_up_the_largest_coordinates(shape, seed):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    step = ThreatModel("L1", 1.0).steepest(gradient)
    assert torch.allclose(ThreatModel("L1", 1.0).size(step), torch.ones(len(gradient)))
    flat, g = step.flatten(1), gradient.flatten(1)
    chosen = flat != 0
    assert (chosen.sum(1) == max(1, round(0.01 * g.shape[1]))).all()
    assert (flat * g >= 0).all()  # no coordinate goes down
    left_out = g.abs().masked_fill(chosen, 0).amax(1)
    assert (g.abs().masked_fill(~chosen, torch.inf).amin(1) >= left_out).all()


def test_steepest_of_zero_sparse_and_tied_gradients():
    gradient = torch.zeros(3, 400)
    gradient[1, 7] = -1e-30
    gradient[2] = 0.5
    step = ThreatModel("L1", 1.0).steepest(gradient)
    assert torch.equal(step[0], torch.zeros(400))
    assert step[1, 7] == -1
    assert step[1].abs().sum() == 1
    assert torch.allclose(step[2], torch.full((400,), 1 / 400))


@pytest.mark.parametrize(
    ("n_features", "eps", "random_start"),
    [(12, 0.3, False), (12, 1.5, False), (192, 4.0, False), (192, 1.5, True), (192, 12.0, True)],
)
def test_search_finds_the_optimum_of_a_linear_network(n_features, eps, random_start):
    """Known: spend the budget on the coordinates of largest weight first, each as far as the box lets it."""
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.rand(8, n_features, generator=generator), torch.randn(2, n_features, generator=generator)
    module = nn.Linear(n_features, 2, bias=False)
    module.weight.data = weight
    w = (weight[1] - weight[0]).double().numpy()
    threat = ThreatModel("L1", eps)
    found = search(
        module,
        x,
        torch.zeros(8, dtype=torch.int64),
        threat,
        losses.margin,
        eps_step=eps / 8,
        max_iter=200,
        low=LOW,
        high=HIGH,
        start=threat.random_start(x, ExampleUniform(0, 0, torch.arange(8))) if random_start else None,
    ).x_adv
    for image, adversarial in zip(x.double().numpy(), found.double().numpy(), strict=True):
        gain, budget = 0.0, eps
        for i in np.argsort(-np.abs(w)):
            spent = min(budget, 1 - image[i] if w[i] > 0 else image[i])
            gain, budget = gain + spent * abs(w[i]), budget - spent
        assert w @ (adversarial - image) == pytest.approx(
            gain, rel=0.12 if n_features == 12 else 0.05
        )  # it steps around it


@pytest.mark.parametrize("eps_step", [None, 3.0])
def test_pgd_stays_in_ball_and_box_and_uses_the_ball(classifier, images, labels, eps_step):
    eps = np.linspace(0.5, 8, 16)
    attack = PGD(classifier, norm=1, eps=eps, eps_step=eps_step, max_iter=20, num_random_init=2, verbose=False)
    x_adv = attack.generate(images, labels)
    size = np.abs(x_adv - images).reshape(16, -1).sum(1)
    assert (size <= eps * (1 + 1e-5)).all()
    assert (size > 0.9 * eps).mean() > 0.9
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_pgd_is_at_least_as_strong_as_arts(network):
    """On the same budget of radius and steps, at radii where some examples stand and others fall."""
    classifier = as_classifier(network, (3, 6, 6), 4, device="cpu")
    x = np.random.default_rng(5).random((100, 3, 6, 6), dtype=np.float32)
    y = classifier.predict(x).argmax(1)
    fallen = np.zeros((2, 3))
    for at, eps in enumerate((1.0, 2.0, 4.0)):
        budget = {"norm": 1, "eps": eps, "eps_step": eps / 4, "max_iter": 20, "verbose": False}
        ours = PGD(classifier, num_random_init=0, **budget)
        art = ProjectedGradientDescentPyTorch(classifier, batch_size=100, **budget)
        fallen[:, at] = [(classifier.predict(a.generate(x, y)).argmax(1) != y).mean() for a in (ours, art)]
    assert (fallen[0] >= fallen[1] - 0.02).all()
    assert fallen[0, 0] < 1
    assert fallen[0, 2] > 0.2
