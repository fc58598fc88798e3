"""The class-wise attack: what it reaches and finds, beside exact answers and separate searches, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from art_classwise import PGD, ClassWiseAttack, as_classifier
from art_classwise._core.state import evaluating

QUIET = {"verbose": False}


def most_that_a_target_can_lead(module, x, target, norm, eps):
    """max_{z in ball and box} min_{k != t} logit_t - logit_k of a linear network, by a convex programme."""
    weight, bias = (p.detach().double().numpy() for p in (module[-1].weight, module[-1].bias))
    others, x = [k for k in range(len(bias)) if k != target], x.ravel().astype(float)
    slope = np.c_[weight[target] - weight[others], -np.ones(len(others))]  # of (z, s); slope @ (z, s) + offset >= 0
    offset = bias[target] - bias[others]
    bounds = [(max(0, v - eps), min(1, v + eps)) for v in x] + [(None, None)]
    if norm == np.inf:
        solved = linprog([*[0.0] * x.size, -1.0], A_ub=-slope, b_ub=offset, bounds=bounds)
    else:
        ball = {"type": "ineq", "fun": lambda v: eps**2 - ((v[:-1] - x) ** 2).sum()}
        leads = {"type": "ineq", "fun": lambda v: slope @ v + offset}
        solved = minimize(lambda v: -v[-1], [*x, -9.0], bounds=bounds, constraints=[ball, leads], method="SLSQP")
    assert solved.success
    return -solved.fun


def linear(n_features, n_classes, seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(n_features, n_classes))
    with torch.no_grad():
        module[1].weight.copy_(torch.randn(n_classes, n_features))
        module[1].bias.copy_(0.3 * torch.randn(n_classes) - module[1].weight.sum(1) / 2)
    return module


@pytest.fixture
def x():
    return np.random.default_rng(7).random((40, 3, 6, 6), dtype=np.float32)


@pytest.fixture
def y(classifier, x):
    """What the network says, but for eight examples, which it gets wrong."""
    y = classifier.predict(x).argmax(1)
    y[:8] = (y[:8] + 1) % 4
    return y


def predictions(classifier, x_adv):
    return classifier.predict(x_adv).argmax(1)


@pytest.mark.parametrize(("n_features", "norm", "eps"), [(2, np.inf, 0.2), (2, 2, 0.25), (9, np.inf, 0.1), (9, 2, 0.3)])
def test_reach_of_a_linear_network_is_the_exact_one(n_features, norm, eps):
    module = linear(n_features, 5)
    classifier = as_classifier(module, (1, 1, n_features), 5, device="cpu")
    x = np.random.default_rng(1).random((25, 1, 1, n_features), dtype=np.float32)
    y = predictions(classifier, x)
    lead = np.array([[most_that_a_target_can_lead(module, image, k, norm, eps) for k in range(5)] for image in x])
    lead[np.arange(25), y] = -1
    reached = ClassWiseAttack(classifier, norm=norm, eps=eps, eps_step=eps / 40, max_iter=120, **QUIET).reach(x, y)
    assert (reached.dtype, reached.shape) == (np.bool_, (25, 5))
    assert 0.15 < (lead > 0).mean() < 0.5
    assert not (reached & (lead < -1e-5)).any()
    # Nearer to 0 the steps pass by the few points there are; those of Linf, by signs, stand still where classes tie.
    surely = lead > (0.25 if norm == np.inf else 0.03)
    assert reached[surely].all()


def test_reach_of_a_curved_network_is_what_a_dense_grid_shows():
    torch.manual_seed(4)
    module = nn.Sequential(nn.Flatten(), nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 4))
    with torch.no_grad():
        module[1].weight *= 6
        module[1].bias -= module[1].weight.sum(1) / 2
        module[3].weight *= 4
    classifier = as_classifier(module, (1, 1, 2), 4, device="cpu")
    x = np.random.default_rng(1).random((60, 1, 1, 2), dtype=np.float32)
    y = predictions(classifier, x)
    steps = np.linspace(-0.2, 0.2, 81, dtype=np.float32)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 1, 1, 2)
    lead = np.empty((60, 4), dtype=np.float32)
    for row, image in enumerate(x):
        with torch.no_grad():
            logits = module(torch.from_numpy((image + grid).clip(0, 1)))
        for k in range(4):
            others = logits[:, [j for j in range(4) if j != k]].amax(1)
            lead[row, k] = (logits[:, k] - others).max()
    possible, surely = lead > -0.05, lead > 0.1
    surely[np.arange(60), y] = False
    reached = ClassWiseAttack(classifier, eps=0.2, eps_step=0.02, max_iter=40, num_random_init=4, **QUIET).reach(x, y)
    assert 30 < surely.sum() < 150
    assert not (reached & ~possible).any()
    assert (reached & surely).sum() >= 0.95 * surely.sum()


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.06), (2, 0.6), (1, 4.0)])
def test_reach_agrees_with_a_targeted_search_per_class(classifier, x, y, loss, norm, eps):
    """Each target's search is the PGD towards it; where one ends in a third class, that one is reached too."""
    options = {"norm": norm, "eps": eps, "max_iter": 8, "loss": loss, **QUIET}
    reached = ClassWiseAttack(classifier, **options).reach(x, y)
    by_pgd, by_chance = np.zeros_like(reached), np.zeros_like(reached)
    for target in range(4):
        attack = PGD(classifier, targeted=True, early_stop=True, **options)
        ends_in = predictions(classifier, attack.generate(x, np.full(len(x), target)))
        by_pgd[:, target] = ends_in == target
        by_chance[np.arange(len(x)), ends_in] = True
    by_pgd[np.arange(len(x)), y] = by_chance[np.arange(len(x)), y] = False
    assert 0.1 < by_pgd.mean() < 0.7
    assert not (by_pgd & ~reached).any()
    assert not (reached & ~by_pgd & ~by_chance).any()


def test_the_own_class_is_never_reached_and_a_wrong_prediction_has_reached_its_class(classifier, x, y):
    clean = predictions(classifier, x)
    for eps in (1e-4, 0.06, 0.5):
        reached = ClassWiseAttack(classifier, eps=eps, max_iter=5, **QUIET).reach(x, y)
        assert not reached[np.arange(40), y].any()
        assert reached[np.arange(8), clean[:8]].all()
        if eps < 0.001:
            assert reached.sum() == 8
    assert reached.any(1).all()


def test_every_verdict_is_witnessed_by_the_network_itself_in_float32(monkeypatch):
    """Here bfloat16 sees no difference between the classes: what they differ by is below its digits."""
    module = linear(6, 4)
    with torch.no_grad():
        module[1].weight *= 0.01
        module[1].bias *= 0.01
        module[1].weight += 3 * torch.randn(1, 6)  # of all classes alike
    classifier = as_classifier(module, (1, 2, 3), 4, device="cpu")
    x = np.random.default_rng(1).random((30, 1, 2, 3), dtype=np.float32)
    y = predictions(classifier, x)
    possible = np.array([[most_that_a_target_can_lead(module, i, k, np.inf, 0.1) > -1e-5 for k in range(4)] for i in x])
    witnesses = np.zeros((30, 4), dtype=bool)
    moved = ClassWiseAttack._moved

    def recorded(self, problem, block, examples, targets, restart, **options):
        found = moved(self, problem, block, examples, targets, restart, **options)
        rows = block.rows[examples.numpy()]
        assert np.abs(found.x_adv.numpy() - x[rows]).max() <= 0.1 + 1e-6
        with evaluating(module), torch.no_grad():
            witnesses[rows, module(found.x_adv).argmax(1).numpy()] = True
        return found

    monkeypatch.setattr(ClassWiseAttack, "_moved", recorded)
    reached = ClassWiseAttack(classifier, eps=0.1, max_iter=10, precision="bf16", **QUIET).reach(x, y)
    witnesses[np.arange(30), y] = False
    assert reached.sum() > 5
    assert np.array_equal(reached, witnesses)
    assert not (reached & ~possible).any()


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_generate_returns_a_point_of_ball_and_box_that_is_taken_for_a_target(classifier, x, y, norm):
    eps = {np.inf: 0.04, 2: 0.3, 1: 1.5}[norm]
    attack, before = ClassWiseAttack(classifier, norm=norm, eps=eps, max_iter=8, **QUIET), x.copy()
    x_adv, reached = attack.generate(x, y), attack.reach(x, y)
    assert np.array_equal(x, before)
    assert (x_adv.dtype, x_adv.shape) == (np.float32, x.shape)
    assert attack.threat.size(torch.from_numpy(x_adv - x)).max() <= eps * (1 + 1e-5)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert 0.2 < reached.any(1).mean() < 1
    assert np.array_equal(predictions(classifier, x_adv) != y, reached.any(1))
    assert np.array_equal(x_adv[:8], x[:8])  # already taken for a target
    unsolved = ~reached.any(1)
    nearer = [margins(classifier, points, y)[unsolved] for points in (x_adv, x)]
    assert (nearer[0] > nearer[1]).all()  # the nearest to a target that was found


def margins(classifier, x, y):
    """The largest other logit minus the label's."""
    logits = classifier.predict(x)
    own = logits[np.arange(len(y)), y].copy()
    logits[np.arange(len(y)), y] = -np.inf
    return logits.max(1) - own


def test_generate_is_no_weaker_than_the_untargeted_margin_search(classifier):
    x = np.random.default_rng(2).random((150, 3, 6, 6), dtype=np.float32)
    y = predictions(classifier, x)
    budget = {"max_iter": 10, "early_stop": True, "loss": "margin", **QUIET}
    for eps in (0.03, 0.06):
        untargeted = predictions(classifier, PGD(classifier, eps=eps, **budget).generate(x, y)) != y
        classwise = (
            predictions(classifier, ClassWiseAttack(classifier, eps=eps, max_iter=10, **QUIET).generate(x, y)) != y
        )
        assert 0.1 < untargeted.mean() < 1
        assert classwise.mean() >= untargeted.mean() - 0.01


def test_restarts_find_no_less(classifier, x, y):
    one, many = (ClassWiseAttack(classifier, eps=0.05, max_iter=2, num_random_init=n, **QUIET) for n in (1, 6))
    first, all_ = one.reach(x, y), many.reach(x, y)
    assert not (first & ~all_).any()
    assert all_.sum() > first.sum()
    assert (
        margins(classifier, many.generate(x, y), y) >= np.minimum(0, margins(classifier, one.generate(x, y), y))
    ).all()


def test_batch_size_changes_no_verdict(classifier, x, y):
    whole = ClassWiseAttack(classifier, eps=0.04, max_iter=4, batch_size=500, **QUIET)
    expected, reached = whole.generate(x, y), whole.reach(x, y)
    unsolved = ~reached.any(1)
    assert 0 < unsolved.sum() < 40
    for batch_size in (1, 7, 16):
        attack = ClassWiseAttack(classifier, eps=0.04, max_iter=4, batch_size=batch_size, **QUIET)
        assert np.array_equal(attack.reach(x, y), reached)
        x_adv = attack.generate(x, y)
        assert np.array_equal(predictions(classifier, x_adv) == y, unsolved)
        np.testing.assert_allclose(x_adv[unsolved], expected[unsolved], atol=1e-6)
        part = attack.reach(x[[30, 3, 11]], y[[30, 3, 11]], example_ids=np.array([30, 3, 11]))
        assert np.array_equal(part, reached[[30, 3, 11]])


def test_labels_come_as_indices_or_one_hot_or_from_the_model(classifier, x, y):
    attack = ClassWiseAttack(classifier, eps=0.06, max_iter=3, **QUIET)
    for run in (attack.generate, attack.reach):
        assert np.array_equal(run(x, np.eye(4)[y]), run(x, y))
        assert np.array_equal(run(x), run(x, predictions(classifier, x)))


def test_masked_pixels_stay(classifier, x, y):
    mask = np.zeros((1, 6, 6), dtype=np.float32)
    mask[:, 2:4] = 1
    attack = ClassWiseAttack(classifier, eps=0.3, max_iter=5, **QUIET)
    x_adv, reached = attack.generate(x, y, mask=mask), attack.reach(x, y, mask=mask)
    assert np.array_equal(x_adv[..., [0, 1, 4, 5], :], x[..., [0, 1, 4, 5], :])
    assert (x_adv != x).any()
    assert reached.sum() < attack.reach(x, y).sum()
    nothing = attack.reach(x, y, mask=np.zeros((1, 6, 6)))
    assert np.array_equal(nothing.argmax(1)[:8], predictions(classifier, x[:8]))
    assert nothing.sum() == 8


def test_a_radius_by_class_is_that_of_the_true_class(classifier, x, y):
    radii = {0: 0.02, 1: 0.05, 2: 0.1, 3: 0.2}
    by_class = ClassWiseAttack(classifier, eps=radii, max_iter=5, **QUIET)
    reached, x_adv = by_class.reach(x, y), by_class.generate(x, y)
    by_example = ClassWiseAttack(classifier, eps=np.array([radii[k] for k in y]), max_iter=5, **QUIET)
    assert np.array_equal(reached, by_example.reach(x, y))
    for k, eps in radii.items():
        rows = np.flatnonzero(y == k)
        alone = ClassWiseAttack(classifier, eps=eps, max_iter=5, **QUIET)
        assert np.array_equal(reached[rows], alone.reach(x[rows], y[rows], example_ids=rows))
        assert np.abs(x_adv[rows] - x[rows]).max() <= eps + 1e-6


@pytest.mark.parametrize("restarts", [0, 2])
def test_cost_is_linear_in_k_and_no_batch_exceeds_the_batch_size(asked, restarts):
    """1000 classes; the ball is so small that nothing is solved: k targets cost k searches of every example."""
    classifier = as_classifier(linear(6, 1000), (1, 2, 3), 1000, device="cpu")
    x = np.random.default_rng(0).random((10, 1, 2, 3), dtype=np.float32)
    for k in (1, 2, 4):
        asked.clear()
        attack = ClassWiseAttack(
            classifier, eps=1e-7, max_iter=3, targets=k, num_random_init=restarts, batch_size=4, **QUIET
        )
        assert not attack.reach(x).any()
        assert sum(asked) == 10 + max(1, restarts) * k * 10 * (3 + 1)  # the clean verdicts; steps and a verdict each
        assert max(asked) == 4


def test_solved_examples_leave(asked, network, x, y):
    classifier = as_classifier(network, (3, 6, 6), 4, device="cpu")
    y = predictions(classifier, x)
    steps, n = 20, len(x)

    def cost(run, **options):
        attack = ClassWiseAttack(classifier, eps=0.5, max_iter=steps, **options, **QUIET)
        asked.clear()
        result = getattr(attack, run)(x, y)
        rows = sum(asked)
        return rows, result

    rows, x_adv = cost("generate", num_random_init=5)
    assert (predictions(classifier, x_adv) != y).all()
    assert rows < n + n * (steps + 1) / 2  # after one target and one restart all are solved, most long before
    rows, reached = cost("reach")
    once = rows, reached.sum()
    assert rows < n + 3 * n * (steps + 1) * 0.75
    rows, reached = cost("reach", num_random_init=5)
    missing = 3 * n - once[1]
    assert rows <= once[0] + 4 * missing * (steps + 1)  # a restart is for those that are left
    wrong = (y + 1) % 4
    attack = ClassWiseAttack(classifier, eps=0.5, **QUIET)
    asked.clear()
    attack.generate(x, wrong)
    assert sum(asked) == n  # misclassified already: one verdict, no search


def test_generate_takes_any_target_on_the_way_to_another(asked):
    """With 50 classes many lie on the way to the one aimed at: generate leaves there, reach goes on."""
    classifier = as_classifier(linear(6, 50), (1, 2, 3), 50, device="cpu")
    x = np.random.default_rng(0).random((40, 1, 2, 3), dtype=np.float32)
    cost = {}
    for run in ("reach", "generate"):
        asked.clear()
        getattr(ClassWiseAttack(classifier, eps=0.3, eps_step=0.01, max_iter=20, targets=1, **QUIET), run)(x)
        cost[run] = sum(asked)
    assert cost["generate"] < cost["reach"]


def test_leaves_network_gradients_and_random_state_as_they_were(network, x, y):
    classifier = as_classifier(network, (3, 6, 6), 4, device="cpu")
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[5].weight.grad = gradient = torch.ones_like(network[5].weight)
    modes = [m.training for m in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    randomness = torch.get_rng_state(), np.random.get_state()[1].copy()
    attack = ClassWiseAttack(classifier, eps=0.1, max_iter=2, **QUIET)
    attack.reach(x, y)
    attack.generate(x, y)
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == [False, *[True] * 5]
    assert network[5].weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert np.array_equal(np.random.get_state()[1], randomness[1])
