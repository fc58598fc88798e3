"""The members of AutoAttack that are our own: their projection beside theory, their results beside pyautoattack's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack import fab_projections, fab_pt, square
from scipy import optimize
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from art_classwise.attacks._apgd import APGD
from art_classwise.attacks._autoattack_members import FABAttack_PT, SquareAttack, to_hyperplane
from art_classwise.attacks.autoattack import AutoAttack

D = 7
PROJECTIONS = {"Linf": fab_projections.projection_linf, "L2": fab_projections.projection_l2}


def length(delta, norm):
    return np.linalg.norm(delta.reshape(len(delta), -1), np.inf if norm == "Linf" else 2, axis=1)


def by_linear_program(t, w, height):
    """The least bound on all coordinates of a move onto the hyperplane."""
    rows, cost = np.vstack([np.eye(D), -np.eye(D)]), np.eye(D + 1)[D]
    bounds = [*zip(-t, 1 - t, strict=True), (0, None)]
    normal = {"A_eq": np.append(w, 0)[None], "b_eq": [-height]}
    return optimize.linprog(cost, np.hstack([rows, -np.ones((2 * D, 1))]), np.zeros(2 * D), bounds=bounds, **normal).fun


def by_multiplier(t, w, height):
    """Length of the L2 projection: it is t - mu w, clipped, for the mu that brings it onto the hyperplane."""

    def missed(mu):
        return w @ (np.clip(t - mu * w, 0, 1) - t) + height

    mu = optimize.brentq(missed, -1e6, 1e6, xtol=1e-12)
    return np.linalg.norm(np.clip(t - mu * w, 0, 1) - t)


def cases():
    """Points, normals and heights that some move in the box makes up for, many of them degenerate."""
    generator = np.random.default_rng(0)
    for kind in ("any", "some normals 0", "at the sides", "ties", "one pixel counts", "outlying weights") * 6:
        t, w = generator.random(D), generator.normal(size=D)
        if kind == "some normals 0":
            w[:3] = 0
        elif kind == "at the sides":
            t = t.round()
        elif kind == "ties":
            t, w = (t * 2).round() / 2, w.round() + 0.5
        elif kind == "one pixel counts":
            w[1:] = 0
        elif kind == "outlying weights":
            w *= 10.0 ** np.arange(-3, D - 3)
        furthest = max(((w > 0) - t) @ w, 1e-3), min(((w < 0) - t) @ w, -1e-3)
        yield t, w, -generator.choice(furthest) * generator.choice([0.02, 0.5, 0.97])


def test_the_shortest_move_onto_a_hyperplane():
    solvable = [case for case in cases() if min(((case[1] < 0) - case[0]) @ case[1], 0) <= -case[2]]
    solvable = [case for case in solvable if ((case[1] > 0) - case[0]) @ case[1] >= -case[2]]
    assert len(solvable) > 25
    t, w, height = (np.stack(column) for column in zip(*solvable, strict=True))
    for norm, exact in (("Linf", by_linear_program), ("L2", by_multiplier)):
        arguments = [torch.from_numpy(array.astype(np.float32)) for array in (t, w, height)]
        moves = to_hyperplane(*arguments, norm, passes=D + 2).double().numpy()
        np.testing.assert_allclose((w * moves).sum(1), -height, rtol=2e-5, atol=1e-6)
        assert (t + moves).min() >= -1e-6
        assert (t + moves).max() <= 1 + 1e-6
        np.testing.assert_allclose(length(moves, norm), [exact(*case) for case in solvable], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_where_no_move_is_enough_or_none_is_needed(norm):
    generator = np.random.default_rng(1)
    t = torch.from_numpy(generator.random((4, D), dtype=np.float32))
    w = torch.from_numpy(generator.normal(size=(4, D)).astype(np.float32))
    w[:, 2], w[3] = 0, 0  # the third coordinate never counts, and in the last row none does
    for sign in (-1, 1):
        moves = to_hyperplane(t, w, torch.full((4,), 1e3 * sign), norm, passes=D + 2)
        corner = (w * -sign > 0).float()
        assert torch.allclose(moves, torch.where(w == 0, 0.0, corner - t), atol=1e-6)
    assert torch.equal(to_hyperplane(t, w, torch.zeros(4), norm).abs(), torch.zeros(4, D))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_few_passes_are_enough_on_images(norm):
    torch.manual_seed(0)
    n, pixels = 32, 3072
    images = torch.rand(2, n, pixels)
    images[:, 8:16] = (images[:, 8:16] * 2 - 0.5).clamp(0, 1)  # half of the pixels at the sides
    images[:, 16:24] = (images[:, 16:24] * 8).round() / 8
    images[:, 24:] *= 0.05
    w = torch.randn(n, pixels) * torch.rand(n, pixels) ** 4
    share = torch.linspace(0.001, 0.3 if norm == "Linf" else 0.1, n)
    for shift in (1, -1):
        room = torch.where(w * shift > 0, 1 - images, images)
        height = -shift * share * (w.abs() * room).sum(2)
        moves = to_hyperplane(images, w, height, norm)
        missed = (moves.double() * w).sum(2) + height
        assert (missed / height).abs().max() < 1e-5
        for points, offset, ours in zip(images, height, moves, strict=True):
            theirs = PROJECTIONS[norm](points, w, (w * points).sum(1) - offset)
            np.testing.assert_allclose(length(ours.numpy(), norm), length(theirs.numpy(), norm), rtol=1e-3)


def small(shape, n_classes=10):
    """A network, and images that it has right but for two."""
    torch.manual_seed(shape[1])
    c, h, w = shape
    module = nn.Sequential(nn.Conv2d(c, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * (h - 2) * (w - 2), n_classes))
    module.eval().requires_grad_(False)
    x = torch.rand(20, *shape)
    y = module(x).argmax(1)
    y[:2] = (y[:2] + 1) % n_classes
    return module, x, y


def both(ours, theirs, module, **options):
    return (kind(module, seed=3, device="cpu", **options) for kind in (ours, theirs))


SQUARES = [
    ((3, 8, 8), 0.02, 300),
    ((3, 8, 11), 0.05, 300),
    ((1, 12, 7), 0.04, 1200),
    ((3, 8, 8), 1e-6, 30),  # none leaves
    ((4, 6, 6), 0.6, 10),  # all are gone at once
]


@pytest.mark.parametrize("asks_every", [1, 16])
@pytest.mark.parametrize(("shape", "eps", "n_queries"), SQUARES)
def test_square_makes_the_points_that_pyautoattack_makes(shape, eps, n_queries, asks_every, monkeypatch):
    """Whether the host asks after each query who is left, as on a CPU, or seldom."""
    monkeypatch.setattr(SquareAttack, "_asks_every", lambda *_: asks_every)
    module, x, y = small(shape)
    options = {"norm": "Linf", "eps": eps, "n_queries": n_queries, "resc_schedule": False}
    ours, theirs = both(SquareAttack, square.SquareAttack, module, **options)
    with torch.no_grad():
        for n in (20, 1):
            assert torch.equal(ours.perturb(x[-n:], y[-n:]), theirs.perturb(x[-n:], y[-n:]))
        runs = []
        for attack in (ours, theirs):
            torch.manual_seed(5)
            runs.append(attack.attack_single_run(x, y))
    (queries, points), (expected_queries, expected_points) = runs
    assert torch.equal(points, expected_points)
    assert torch.equal(queries, expected_queries)
    if 0.01 < eps < 0.1:
        assert len(queries.unique()) > 3  # they left at different times
        assert queries.max() == n_queries + 1  # and some never did


def test_square_on_margins_of_zero():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    nn.init.zeros_(constant[1].weight), nn.init.zeros_(constant[1].bias)
    x, y = torch.rand(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64)
    for norm in ("Linf", "L2", "L1"):
        attack = SquareAttack(constant, norm=norm, eps=0.1, n_queries=10, device="cpu")
        assert torch.equal(attack.perturb(x, y), x)
        assert torch.equal(attack.attack_single_run(x, y)[0], torch.ones(5))  # no query is spent on a margin of 0


SHIFTS = [
    ((3, 8, 8), "L2", 0.3, 80),
    ((3, 8, 8), "L1", 2.0, 80),
    ((1, 10, 7), "L1", 1.0, 120),
    ((2, 15, 25), "L2", 0.5, 60),
    ((3, 8, 11), "L2", 1e-6, 10),  # none leaves
    ((3, 8, 11), "L1", 60.0, 10),  # all are gone at once
]


@pytest.mark.parametrize(("shape", "norm", "eps", "n_queries"), SHIFTS)
def test_square_makes_the_points_that_pyautoattack_makes_for_l2_and_l1(shape, norm, eps, n_queries):
    module, x, y = small(shape)
    options = {"norm": norm, "eps": eps, "n_queries": n_queries, "resc_schedule": False}
    ours, theirs = both(SquareAttack, square.SquareAttack, module, **options)
    with torch.no_grad():
        for n in (20, 1):
            assert torch.equal(ours.perturb(x[-n:], y[-n:]), theirs.perturb(x[-n:], y[-n:]))
        runs = []
        for attack in (ours, theirs):
            torch.manual_seed(5)
            runs.append(attack.attack_single_run(x, y))
    (queries, points), (expected_queries, expected_points) = runs
    assert torch.equal(points, expected_points)
    assert torch.equal(queries, expected_queries)
    if 1e-3 < eps < 10:
        assert len(queries.unique()) > 2  # they left at different times
        assert queries.max() == n_queries + 1  # and some never did


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_square_starts_from_tiles_on_images_of_any_size(norm):
    """Pixels beyond the first tile are few, and the whole radius is spent."""
    for shape in ((3, 24, 32), (1, 12, 12), (2, 3, 5), (1, 1, 30), (4, 1, 1), (1, 40, 6)):
        x = torch.full((3, *shape), 0.5)
        attack = SquareAttack(None, norm=norm, eps=0.2, n_queries=1, device="cpu")
        attack.init_hyperparam(x)
        change = attack._tiles(x)
        assert (change != 0).float().mean() > 0.6
        size = length((attack._within(x, change) - x).numpy(), norm) if norm == "L2" else None
        assert size is None or np.allclose(size, 0.2, atol=1e-5)


def test_squares_reach_the_edge_only_if_told():
    for norm in ("Linf", "L2", "L1"):
        for to_the_edge in (False, True):
            x = torch.full((2, 1, 1, 4), 0.5)
            attack = SquareAttack(None, norm=norm, eps=0.2, n_queries=60, device="cpu", to_the_edge=to_the_edge)
            places = [s[1] for s in attack._squares(1, 1, 4, x.device)]
            places += [attack._window(1, 4, 1)[2].start for _ in range(60)]
            assert {*places} == {*range(4 if to_the_edge else 3)}


def test_what_is_asked_seldom_is_left_to_pyautoattack():
    module, x, y = small((3, 8, 8))
    for options in ({"loss": "ce"}, {"targeted": True}):
        shared = {"norm": "L2", "eps": 0.3, "n_queries": 10, "resc_schedule": False, **options}
        ours, theirs = (attack.perturb(x, y) for attack in both(SquareAttack, square.SquareAttack, module, **shared))
        assert torch.equal(ours, theirs)
    for options in ({"targeted": True}, {"targeted": False}, {"targeted": True, "n_restarts": 2}):
        shared = {"norm": "L1", "eps": 2.0, "n_iter": 8, **options}
        ours, theirs = (attack.perturb(x, y) for attack in both(FABAttack_PT, fab_pt.FABAttack_PT, module, **shared))
        assert torch.equal(ours, theirs)
        assert (ours != x).flatten(1).any(1).sum() > 0


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.03), ("L2", 0.3)])
def test_fab_finds_the_points_that_pyautoattack_finds(norm, eps, targeted):
    module, x, y = small((3, 8, 11))
    options = {"norm": norm, "eps": eps, "targeted": targeted, "n_iter": 15, "n_target_classes": 4}
    ours, theirs = (attack.perturb(x, y) for attack in both(FABAttack_PT, fab_pt.FABAttack_PT, module, **options))
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    moved = (ours != x).flatten(1).any(1)
    assert torch.equal(moved, (theirs != x).flatten(1).any(1))
    assert not moved[:2].any()  # they were wrong already
    assert 4 < moved.sum() < 18
    assert (module(ours).argmax(1) != y)[moved].all()


def test_fab_on_a_published_network(published, cifar10):
    classifier = published("cifar10-cnn-a")
    module = classifier.model.eval().requires_grad_(False)
    x, y = torch.from_numpy(cifar10.x[:24]), torch.from_numpy(cifar10.y[:24])
    options = {"norm": "Linf", "eps": 1.0, "targeted": True, "n_iter": 20, "n_target_classes": 2}
    ours, theirs = (attack.perturb(x, y) for attack in both(FABAttack_PT, fab_pt.FABAttack_PT, module, **options))
    right = module(x).argmax(1) == y
    assert right.sum() > 10
    assert ((module(ours).argmax(1) != y) == (module(theirs).argmax(1) != y)).all()
    found, expected = (length((points - x)[right].numpy(), "Linf") for points in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert np.median(np.abs(found / expected - 1)) < 1e-4


def test_gradients_of_zero_and_nan_leave_images_as_they_are():
    x, y = torch.rand(4, 3, 5, 5), torch.zeros(4, dtype=torch.int64)

    def flat(x):
        return (x * 0).flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])

    def broken(x):
        return flat(x) + (x - x.detach()).sqrt().flatten(1)[:, :3]  # the gradient is infinite, the value 0

    for module in (flat, broken):
        for norm in PROJECTIONS:
            attack = FABAttack_PT(module, norm=norm, eps=0.5, targeted=True, n_iter=3, n_target_classes=2, device="cpu")
            assert torch.equal(attack.perturb(x, y), x)


class Waits(TorchDispatchMode):
    """Counts what a GPU would make the host wait for."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.n += function in waits
        return function(*args, **(kwargs or {}))


def waits(attack, x, y):
    with torch.no_grad(), Waits() as counted:
        attack.perturb(x, y)
    return counted.n


def test_the_host_seldom_waits(monkeypatch):
    """After each query, or of a GPU after every 16th."""
    module, x, y = small((3, 8, 8))
    shared = {"norm": "Linf", "eps": 1e-6, "device": "cpu"}  # none leaves, so far as Square goes
    steps = [
        waits(FABAttack_PT(module, targeted=True, n_iter=n_iter, n_target_classes=2, **shared), x, y)
        for n_iter in (2, 12)
    ]
    assert steps[0] == steps[1]
    assert [SquareAttack._asks_every(torch.device(kind)) for kind in ("cpu", "cuda")] == [1, 16]
    for asks_every, more in ((1, 32), (16, 2)):
        monkeypatch.setattr(SquareAttack, "_asks_every", lambda *_, n=asks_every: n)
        queries = [waits(SquareAttack(module, n_queries=n_queries, **shared), x, y) for n_queries in (16, 48)]
        assert queries[1] - queries[0] == more
    attack = APGD(module=module, norm="Linf", eps=1e-6)
    assert waits(attack, x, y) <= 1 + len([0, 1, 2, 4, 8, 16, 32, 64, 22, 41, 57, 70, 80, 87, 93, 99, 100]) + 3


def test_autoattack_runs_them(classifier, images, own, monkeypatch):
    for kind in (fab_pt.FABAttack_PT, square.SquareAttack):
        monkeypatch.setattr(kind, "attack_single_run", lambda *_: pytest.fail("ran pyautoattack's"))
    attack = AutoAttack(classifier, eps=0.01, attacks=("fab-t", "fab", "square"), n_iter=3, n_queries=5, verbose=False)
    attack.generate(images, own)
